"""Floats between Arrow and numpy: null here is NaN there. Arrow's own ways ask of each value by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array = npt.NDArray[Any]


def from_arrow(column: pa.Array) -> Array:
    """[n] float32, NaN where a column of float32 is null."""
    if not column.null_count:
        return np.asarray(column)
    there, values = column.buffers()
    begin, end = column.offset, column.offset + len(column)
    absent = np.unpackbits(np.frombuffer(there, np.uint8), bitorder="little")[begin:end].astype(np.int32) - 1
    return (np.frombuffer(values, np.int32)[begin:end] | absent).view(np.float32)  # all bits set are a NaN


def as_arrow(values: Array) -> pa.Array:
    """The inverse, of float32 [n] that lie side by side."""
    absent = np.isnan(values)
    there = pa.py_buffer(np.packbits(~absent, bitorder="little")) if absent.any() else None
    return pa.Array.from_buffers(pa.float32(), len(values), [there, pa.py_buffer(values)])
