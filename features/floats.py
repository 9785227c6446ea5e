"""Floats between Arrow and numpy: null here is NaN there. Arrow's own ways ask of each value by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[Any]

_BITS: dict[pa.DataType, np.dtype[Any]] = {pa.float32(): np.dtype(np.int32), pa.float64(): np.dtype(np.int64)}
_KINDS: dict[np.dtype[Any], pa.DataType] = {np.dtype(np.float32): pa.float32(), np.dtype(np.float64): pa.float64()}


def from_arrow(column: pa.Array) -> Array:
    """[n] floats of a column's own width, NaN where it is null."""
    if not column.null_count:
        return np.asarray(column)
    there, values = column.buffers()
    begin, end, bits = column.offset, column.offset + len(column), _BITS[column.type]
    absent = np.unpackbits(np.frombuffer(there, np.uint8), bitorder="little")[begin:end].astype(bits) - bits.type(1)
    found = np.frombuffer(values, bits)[begin:end] | absent  # all bits set are a NaN
    return found.view(column.type.to_pandas_dtype())


def as_arrow(values: Array) -> pa.Array:
    """The inverse, of values [n] that lie side by side."""
    absent = np.isnan(values)
    there = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
    return pa.Array.from_buffers(_KINDS[values.dtype], len(values), [there, pa.py_buffer(values)])
