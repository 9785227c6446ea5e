"""Writes parquet files of Delta tables, uncommitted, from tasks: no row becomes a JVM object.

A file's row groups begin where ranges of members do, see `features.storage.user_ranges`, so that a range reads few of
them.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
import itertools
import json
import math
import operator
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from features.core import places
from features.storage.table_log import USER
from features.storage.user_ranges import SPREAD, id_prefix, range_start

_LONGEST_BOUND = 64  # characters; longer text is no bound worth keeping in the log
_STATISTICS = 32  # Delta keeps statistics of a table's first columns

_text = operator.methodcaller("as_py")

FILE = "file"
"""Column of a frame of written files: each row is an `AddedFile` as JSON."""


def collected(written: DataFrame) -> list[AddedFile]:
    """The written files of a frame with the column `FILE`."""
    return [AddedFile.from_json(row[FILE]) for row in written.collect()]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rows of a table lie in its files.

    Attributes:
        group_rows: most rows of a row group, on average over a file.
        quick: compress by LZ4 in place of Zstandard, with integers as differences and other numbers as dictionaries.
            For tables that are read often: files are a tenth larger and read in two thirds of the time.
    """

    group_rows: int
    quick: bool = False


MANY_ROWS = Layout(8_192)
"""For many rows per member, in many files: a range of members reads some row groups of each."""
MEMBERS = Layout(32_768)
"""For one row per member and date, in few files: larger row groups, as each column of a group has its cost."""
STATES = Layout(32_768, quick=True)
"""The same for tables that scoring, training and later dates read again."""


@dataclasses.dataclass(frozen=True)
class AddedFile:
    """A file that was written and not yet committed; `path` is relative to the URI `table`.

    Its JSON is written by hand, as workers load this module: pydantic would cost each of them 80 ms.
    """

    table: str
    path: str
    size: int
    rows: int
    partition: Mapping[str, str]
    statistics: str

    def to_json(self) -> str:
        """One line of text, the inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AddedFile:
        """Rebuild from `to_json`."""
        return cls(**json.loads(text))


def write_file(
    rows: pa.Table, uri: str, partition: str | None, date: dt.date | None, layout: Layout = MANY_ROWS
) -> AddedFile:
    """Write rows of one date as a file of the table at `uri`.

    Nobody sees the file until it is committed; if it never is, VACUUM removes it.

    Args:
        rows: sorted by member if the table has partitions.
        uri: where the table lies.
        partition: the table's date column, which only the path holds; None for a table without partitions.
        date: the date; None without partitions.
        layout: row groups and encodings.
    """
    rows = rows.select([c for c in rows.column_names if c != partition])
    name, values = f"part-{uuid.uuid4().hex}.parquet", {partition: str(date)} if partition else {}
    path = f"{partition}={date}/{name}" if partition else name
    with places.created(places.join(uri, path)) as sink:
        with pq.ParquetWriter(
            sink,
            rows.schema,
            **_encodings(rows.schema, layout),
            write_statistics=[USER],
            store_schema=False,
        ) as writer:
            for part in _aligned(rows, layout.group_rows) if partition else [rows]:
                writer.write_table(part, row_group_size=2 * layout.group_rows)
        size = sink.tell()
    return AddedFile(uri, path, size, rows.num_rows, values, _statistics(rows))


def _aligned(rows: pa.Table, group_rows: int) -> Iterator[pa.Table]:
    """Parts of a file's rows, none empty, of up to `group_rows` on average, that end where ranges of members do.

    The parts are as many as a power of two: any smaller power of two of ranges, see `user_ranges`, is made of whole
    parts. Ids that are no pseudonyms lie in one part.
    """
    places = [0]
    if USER in rows.column_names and rows.num_rows > group_rows:
        ids = rows[USER].combine_chunks()
        first, last = (id_prefix(ids[place].as_py()) for place in (0, -1))
        of_all = rows.num_rows * SPREAD / max(last - first + 1, 1)  # rows if all ids were as dense as these
        count = min(1 << math.ceil(math.log2(of_all / group_rows)), SPREAD)
        for k in range(first * count // SPREAD + 1, last * count // SPREAD + 1):
            places.append(bisect.bisect_left(ids, range_start(k, count), places[-1], key=_text))
    for begin, end in itertools.pairwise([*places, rows.num_rows]):
        if end > begin:
            yield rows.slice(begin, end - begin)


def _encodings(schema: pa.Schema, layout: Layout) -> dict[str, Any]:
    """How each leaf column is written, as arguments of pyarrow's writer; ids are distinct and stay plain."""
    leaves = {_leaf(f): f.type.value_type if pa.types.is_list(f.type) else f.type for f in schema if f.name != USER}
    words = [leaf for leaf, kind in leaves.items() if pa.types.is_string(kind) or pa.types.is_dictionary(kind)]
    if not layout.quick:
        return {"compression": "zstd", "use_dictionary": words}
    amounts = [leaf for leaf, kind in leaves.items() if pa.types.is_floating(kind) or pa.types.is_decimal(kind)]
    whole = [leaf for leaf, kind in leaves.items() if pa.types.is_integer(kind) or pa.types.is_timestamp(kind)]
    differences = dict.fromkeys(whole, "DELTA_BINARY_PACKED")
    return {"compression": "lz4", "use_dictionary": words + amounts, "column_encoding": differences}


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def _statistics(rows: pa.Table) -> str:
    """Delta's statistics of the first flat columns as JSON."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for field in list(rows.schema)[:_STATISTICS]:
        column = rows[field.name]
        if pa.types.is_nested(field.type):
            continue
        nulls[field.name] = column.null_count
        if not _bounded(field.type) or column.null_count == len(column):
            continue
        bounds = pc.min_max(column.cast(pa.string()) if pa.types.is_dictionary(field.type) else column)
        least, most = (_plain(bounds[side].as_py()) for side in ("min", "max"))
        if not isinstance(least, str) or max(len(least), len(most)) <= _LONGEST_BOUND:
            low[field.name], high[field.name] = least, most
    return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _bounded(kind: pa.DataType) -> bool:
    """Whether JSON holds a type's bounds exactly; rounded bounds would let data skipping lose rows."""
    return not (pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value
