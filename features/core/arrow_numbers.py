"""Floats and decimals between Arrow and numpy.

Whole buffers are converted at once: Arrow's own conversions of nulls and decimals take one value at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrays import Array, Ints

GAP_TYPE = pa.decimal128(28, 6)

_BITS: dict[pa.DataType, np.dtype[Any]] = {pa.float32(): np.dtype(np.int32), pa.float64(): np.dtype(np.int64)}
_KINDS: dict[np.dtype[Any], pa.DataType] = {np.dtype(np.float32): pa.float32(), np.dtype(np.float64): pa.float64()}


def from_arrow(column: pa.Array) -> Array:
    """[n] the floats of a column, float32 or float64 as in the column; NaN where null."""
    if not column.null_count:
        return np.asarray(column)
    there, values = column.buffers()
    begin, end, bits = column.offset, column.offset + len(column), _BITS[column.type]
    absent = np.unpackbits(np.frombuffer(there, np.uint8), bitorder="little")[begin:end].astype(bits) - bits.type(1)
    found = np.frombuffer(values, bits)[begin:end] | absent  # all bits set are a NaN
    return found.view(column.type.to_pandas_dtype())


def as_arrow(values: Array) -> pa.Array:
    """The inverse of `from_arrow`: floats [n], contiguous, as a column that is null where they are NaN."""
    absent = np.isnan(values)
    there = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
    return pa.Array.from_buffers(_KINDS[values.dtype], len(values), [there, pa.py_buffer(values)])


def decimal_steps(column: pa.Array, scale: int = 6) -> Ints:
    """[n] decimals as int64 steps of 10**-scale, 0 where null; raises OverflowError where one does not fit."""
    if column.type.scale != scale:
        column = column.cast(pa.decimal128(38, scale))
    low, high = decimal_words(column)
    valid = ~column.is_null().to_numpy(zero_copy_only=False) if column.null_count else True
    if ((high != low >> 63) & valid).any():
        raise OverflowError(f"a decimal of {column.type} does not fit 64 bits")
    return np.where(valid, low, 0) if column.null_count else low


def decimal_words(column: pa.Array) -> tuple[Ints, Ints]:
    """[n] the lower and [n] the higher 64 bits of decimals, which are little-endian two's complement of 128 bits."""
    words = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    return np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])


def micros_to_decimal(micros: Ints, missing: np.ndarray) -> pa.Array:
    """Micro-units [n] as decimal(28, 6), exact; null where `missing`."""
    words = np.stack([micros, np.where(micros < 0, -1, 0)], axis=1)  # little-endian 128-bit two's complement
    buffer = pa.py_buffer(np.ascontiguousarray(words))
    exact = pa.Array.from_buffers(GAP_TYPE, len(micros), [None, buffer])
    return pc.if_else(pa.array(~missing), exact, pa.scalar(None, GAP_TYPE))
