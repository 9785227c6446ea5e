"""Rows as compressed blobs, and the numbers by which ids are divided among shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROWS_GATHERED = 262_144
"""Rows that a task gathers before it divides them, so that a blob has some thousand."""

_DIGITS = 4

_VALUES = np.zeros(256, np.int64)  # values of hexadecimal digits by their letters
_VALUES[list(b"0123456789abcdef")] = np.arange(16)


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of many batches, at least `ROWS_GATHERED` at a time; the last part may have fewer."""
    kept, rows = list[pa.RecordBatch](), 0
    for batch in batches:
        kept.append(batch)
        rows += batch.num_rows
        if rows >= ROWS_GATHERED:
            yield pa.Table.from_batches(kept).combine_chunks()
            kept, rows = [], 0
    if rows:
        yield pa.Table.from_batches(kept).combine_chunks()


def places_of(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """[n] the first four digits of pseudonyms as numbers, below `SPREAD`; 0 where null."""
    return leading_number(ids, _DIGITS)


def leading_number(ids: pa.ChunkedArray, digits: int) -> npt.NDArray[np.int64]:
    """[n] the first hexadecimal digits of pseudonyms as numbers; 0 where null."""
    found = [np.zeros(0, np.int64)]
    for chunk in ids.chunks:
        texts = chunk.fill_null("0" * digits)
        offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts)]
        letters = np.frombuffer(texts.buffers()[2], np.uint8)
        numbers = np.zeros(len(texts), np.int64)
        for digit in range(digits):
            numbers = numbers << 4 | _VALUES[letters[offsets + digit]]
        found.append(numbers)
    return np.concatenate(found)


def equal_runs(values: npt.NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal values."""
    changes = np.flatnonzero(np.diff(values)) + 1
    return itertools.pairwise([0, *changes.tolist(), len(values)]) if len(values) else iter(())


def packed(rows: pa.Table) -> bytes:
    """Rows as a compressed Arrow stream."""
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def unpacked(blob: pa.Scalar) -> pa.Table:
    """The rows of a blob; the inverse of `packed`."""
    with pa.ipc.open_stream(blob.as_buffer()) as reader:
        return reader.read_all()
