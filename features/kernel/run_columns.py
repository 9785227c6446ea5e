"""Arrow columns of runs as flat numpy arrays, and the order, ranges and offsets of their members' entries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.core import arrow_numbers
from features.core.arrays import Array, Ints
from features.core.arrow_numbers import decimal_steps
from features.kernel.tiers import MICROS
from features.kernel.user_ids import factorize

Lists = Mapping[str, pa.ChunkedArray]
DAY_MICROS = 86_400_000_000
EPOCH = dt.date(1970, 1, 1)
NEVER = np.iinfo(np.int64).min
"""Stands for a missing time, day or amount."""

SQUARES, SQUARE_BITS = ("squares_high", "squares_low"), 48
"""Two columns that hold squared amounts exactly: whole units of 2**48 squared micro-units, and the rest below one."""

_RADIX = 1 << 16  # numpy sorts 16-bit integers by radix, several times faster than wider ones

_NO_FLOATS = np.empty(0, np.float32)


def midnight(as_of: dt.date) -> int:
    """The as-of instant in microseconds."""
    return day_number(as_of) * DAY_MICROS


def day_number(date: dt.date) -> int:
    """Days since 1970."""
    return (date - EPOCH).days


def date_of(number: int) -> dt.date:
    """The inverse of `day_number`."""
    return EPOCH + dt.timedelta(days=number)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers starts[i] .. starts[i] + lengths[i] - 1, for one i after the other."""
    if not len(starts):
        return np.empty(0, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)


def flat_values(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """All values of all lists, one list after the other."""
    return pa.chunked_array([chunk.flatten() for chunk in lists.chunks], lists.type.value_type)


def integers(column: pa.ChunkedArray, filler: int) -> Ints:
    """A column as int64: times in microseconds, decimals in micro-units. Null becomes `filler`, in decimals 0."""
    if pa.types.is_decimal(column.type):
        return np.concatenate([decimal_steps(c) for c in column.chunks] or [np.empty(0, np.int64)])
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    found = column.fill_null(filler) if column.null_count else column
    return np.asarray(found.to_numpy(), np.int64)


def float_channel(column: pa.ChunkedArray) -> Array:
    """A numeric channel as float32 [m], NaN where null."""
    if pa.types.is_floating(column.type):
        return np.concatenate([arrow_numbers.from_arrow(c) for c in column.cast(pa.float32()).chunks] or [_NO_FLOATS])
    if not pa.types.is_decimal(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float32)
    found = integers(column, 0) / MICROS
    if column.null_count:
        found[column.is_null().to_numpy()] = np.nan
    return found.astype(np.float32)


def id_codes(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct ids [n] of a column, ascending, and each entry's place among them [m]."""
    chunks = [c for c in column.chunks if len(c)]
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, np.int64)
    if not pa.types.is_dictionary(column.type):
        of_row, users = factorize(pa.concat_arrays(chunks))
        return users, of_row
    words = pa.concat_arrays([c.dictionary.cast(pa.string()) for c in chunks])
    of_word, users = factorize(words)
    begins = np.cumsum([0, *(len(c.dictionary) for c in chunks)])
    codes = np.concatenate(
        [of_word[begin:][c.indices.to_numpy()] for begin, c in zip(begins[:-1], chunks, strict=True)]
    )
    used = np.bincount(codes, minlength=len(users)) > 0  # a dictionary may hold words that no entry has
    if used.all():
        return users, codes
    return users.filter(pa.array(used)), (np.cumsum(used) - 1)[codes]


def stable_order(codes: Ints, count: int) -> Ints:
    """Stable argsort of codes from 0 to `count` - 1.

    Where the first half or more ascends, as the rows of a snapshot do, only the rest is sorted and put between.
    """
    falls = codes[1:] < codes[:-1]
    ascending = int(falls.argmax()) + 1 if falls.any() else len(codes)
    if 2 * ascending < len(codes):
        return _radix_order(codes, count)
    rest = ascending + _radix_order(codes[ascending:], count)
    return np.insert(np.arange(ascending), np.searchsorted(codes[:ascending], codes[rest], side="right"), rest)


def _radix_order(codes: Ints, count: int) -> Ints:
    order = np.argsort((codes % _RADIX).astype(np.uint16), kind="stable")
    if count > _RADIX:
        order = order[np.argsort((codes[order] // _RADIX).astype(np.uint16), kind="stable")]
    return order


def offsets_of(codes: Ints, count: int) -> Ints:
    """[n + 1] where each of n = `count` members' entries begin and end; `codes` [m]: each entry's member, ascending."""
    return np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=count))])


def chosen_counts(chosen: Array, offsets: Ints) -> Ints:
    """[n] how many of each member's entries are chosen."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    return before[offsets[1:]] - before[offsets[:-1]]
