"""Spark's `xxhash64` of rows, over Arrow columns: it tells a repeated event from a conflicting one.

The algorithm is XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md). Spark chains it: the hash of
one column is the seed of the next, and a null passes its seed on. Written by hand with numpy, all rows of a column at
once: libraries hash one value at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrow_numbers import decimal_steps

Words = npt.NDArray[np.uint64]

_SEED = 42  # Spark's
_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(p)
    for p in (
        0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
    )
)  # fmt: skip
_AT_ONCE = 16_384  # rows hashed at once: their hashes stay in the processor's cache
_STRIPE, _WORD, _HALF = 32, 8, 4  # bytes


def xxhash64(columns: Sequence[pa.Array], rows: int) -> npt.NDArray[np.int64]:
    """[rows] the hash of each row.

    Args:
        columns: [rows] strings, booleans, doubles, timestamps in microseconds, or decimals of at most 18 digits.
        rows: number of rows.
    """
    hashes = np.full(rows, _SEED, np.uint64)
    for begin in range(0, rows, _AT_ONCE):
        part = hashes[begin : begin + _AT_ONCE]
        for column in columns:
            values = column.slice(begin, _AT_ONCE)
            part = np.where(values.is_valid().to_numpy(zero_copy_only=False), _hashed(values, part), part)
        hashes[begin : begin + _AT_ONCE] = part
    return hashes.view(np.int64)


def _hashed(column: pa.Array, seed: Words) -> Words:
    if pa.types.is_string(column.type):
        return _of_strings(column, seed)
    if pa.types.is_boolean(column.type):
        flag = column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64)
        return _mixed(_half(seed + _P5 + np.uint64(_HALF), flag))
    return _mixed(_word(seed + _P5 + np.uint64(_WORD), _as_words(column)))


def _as_words(column: pa.Array) -> Words:
    """The 64 bits of each number."""
    if pa.types.is_decimal(column.type):
        return decimal_steps(column.fill_null(0), column.type.scale).view(np.uint64)
    if pa.types.is_floating(column.type):
        return (column.fill_null(0).to_numpy() + 0.0).view(np.uint64)  # -0.0 is 0.0
    return pc.cast(column, pa.int64()).fill_null(0).to_numpy().view(np.uint64)


def _of_strings(column: pa.Array, seed: Words) -> Words:
    """Hashes of strings, those of one length at a time, as they take the same steps."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    lengths, hashes = np.diff(offsets), np.empty(len(column), np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        letters = data[offsets[rows][:, None] + np.arange(length)]
        hashes[rows] = _of_letters(letters, seed[rows])
    return hashes


def _of_letters(letters: npt.NDArray[np.uint8], seed: Words) -> Words:
    """[n] the hashes of [n, length] bytes."""
    length = letters.shape[1]
    words = np.ascontiguousarray(letters[:, : length // _WORD * _WORD]).view("<u8").T
    stripes = length // _STRIPE * (_STRIPE // _WORD)
    state = _of_stripes(words[:stripes], seed) if stripes else seed + _P5
    state = state + np.uint64(length)
    for word in words[stripes:]:
        state = _word(state, word)
    at = len(words) * _WORD
    if length - at >= _HALF:
        state = _half(state, np.ascontiguousarray(letters[:, at : at + _HALF]).view("<u4")[:, 0].astype(np.uint64))
        at += _HALF
    for letter in letters[:, at:].T:
        state = _turned(state ^ (letter.astype(np.uint64) * _P5), 11) * _P1
    return _mixed(state)


def _of_stripes(words: Words, seed: Words) -> Words:
    """State after the stripes of 32 bytes: four lanes take a word each in turn."""
    with np.errstate(over="ignore"):
        lanes = [seed + (_P1 + _P2), seed + _P2, seed, seed - _P1]
    for place, word in enumerate(words):
        lanes[place % 4] = _round(lanes[place % 4], word)
    state = sum((_turned(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)), np.uint64(0))
    for lane in lanes:
        state = (state ^ _round(np.uint64(0), lane)) * _P1 + _P4
    return np.asarray(state)


def _round(lane: Words | np.uint64, word: Words) -> Words:
    return _turned(lane + word * _P2, 31) * _P1


def _word(state: Words, word: Words) -> Words:
    return _turned(state ^ _round(np.uint64(0), word), 27) * _P1 + _P4


def _half(state: Words, half: Words) -> Words:
    return _turned(state ^ (half * _P1), 23) * _P2 + _P3


def _mixed(state: Words) -> Words:
    state = (state ^ (state >> np.uint64(33))) * _P2
    state = (state ^ (state >> np.uint64(29))) * _P3
    return state ^ (state >> np.uint64(32))


def _turned(state: Words, by: int) -> Words:
    """Bits rotated to the left."""
    return (state << np.uint64(by)) | (state >> np.uint64(64 - by))
