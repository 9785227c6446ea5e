"""User ids as Arrow strings: their order, their places among others, merging.

Pseudonyms are all of one length: they are handled as fixed bytes, which is several times as fast as strings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrays import Array, Ints

_ID_BYTES = 32
_COMPARED = 1 << 14  # ids compared at once: half a megabyte, which stays in the processor's cache
# Odd multipliers from irrational numbers. Hashes need not be even: `_factorize_ids` checks for equal ones.
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)


def ascend(ids: pa.Array) -> bool:
    """Whether ids ascend strictly."""
    return len(ids) < 2 or bool(pc.all(pc.less(ids[:-1], ids[1:])).as_py())


def places_of(ids: pa.Array, among: pa.Array) -> Ints:
    """[n] the place of each id in `among`, which ascends; -1 where it is not there."""
    sought, known = _fixed(ids), _fixed(among)
    if sought is None or known is None or sought.dtype != known.dtype:
        return np.asarray(pc.index_in(ids, among).fill_null(-1).to_numpy(), np.int64)
    at = np.searchsorted(known, sought)
    return np.where(known.take(at, mode="clip") == sought, at, -1)


def merged_ids(first: pa.Array, second: pa.Array) -> tuple[pa.Array, Ints]:
    """The union of two ascending arrays of ids, ascending, and the places of the first array's ids in it."""
    both = pa.concat_arrays([first, second.filter(pa.array(places_of(second, first) < 0))])
    if len(both) == len(first):
        return first, np.arange(len(first))
    order = pc.sort_indices(both)
    return both.take(order), np.flatnonzero(order.to_numpy() < len(first))


def factorize(words: pa.Array) -> tuple[Ints, pa.Array]:
    """[n] each word's place among the distinct words, and the distinct words, ascending."""
    codes, distinct = _factorize_ids(words) or _factorize_words(words)
    order = pc.sort_indices(distinct).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[codes], distinct.take(pa.array(order))


def _factorize_words(words: pa.Array) -> tuple[Ints, pa.Array]:
    encoded = words.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _factorize_ids(words: pa.Array) -> tuple[Ints, pa.Array] | None:
    """The same for pseudonyms, four times as fast: an id's 32 bytes are four numbers that are hashed to one.

    None where words have other lengths, or where two ids share a hash: one case in 10**8 with a million ids.
    """
    ids = _fixed(words)
    if ids is None or ids.dtype.itemsize != _ID_BYTES:
        return None
    numbers = ids.view(np.uint64).reshape(-1, 4)
    hashed = numbers @ _ODD
    codes, found = pd.factorize(hashed ^ (hashed >> np.uint64(29)))
    first = np.empty(len(found), np.int64)
    first[codes[::-1]] = np.arange(len(words))[::-1]
    distinct = numbers.take(first, axis=0)
    for begin in range(0, len(words), _COMPARED):
        part = slice(begin, begin + _COMPARED)
        if not np.array_equal(numbers[part], distinct.take(codes[part], axis=0)):
            return None
    return codes, words.take(pa.array(first))


def _fixed(ids: pa.Array) -> Array | None:
    """[n] ids as bytes of fixed length; None where their lengths differ."""
    offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1] if len(ids) else [0]
    lengths = np.diff(offsets)
    if not len(ids) or not lengths[0] or (lengths != lengths[0]).any():
        return None
    return np.frombuffer(ids.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].view(f"S{lengths[0]}")


def distinct_ids(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    """The distinct ids of some columns."""
    chunks = [pc.unique(chunk).cast(pa.string()) for column in columns for chunk in column.chunks]
    return pc.unique(pa.chunked_array(chunks, pa.string()))


def belonging(ids: pa.ChunkedArray, users: pa.Array) -> pa.ChunkedArray:
    """[m] whether each id of a dictionary-encoded column is one of `users`."""
    found = [pc.is_in(c.dictionary.cast(pa.string()), users).take(c.indices) for c in ids.chunks]
    return pa.chunked_array(found, pa.bool_())
