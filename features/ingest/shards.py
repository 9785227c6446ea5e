"""The shuffle of an ingest: it brings the rows of one event id together, so that repeats are found.

Checked rows cross the shuffle as compressed blobs, one per task and shard of event ids. They are settled a shard at a
time and kept, again as blobs, by status and date until they are written.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.ingest import rejections
from features.ingest.blobs import ROWS_GATHERED, equal_runs, gathered, leading_number, packed, places_of, unpacked
from features.ingest.checks import REASONS, Checks, check, is_raw
from features.ingest.repeats import ACCEPTED, DUPLICATE, KNOWN_COLUMNS, READ, REJECTED, settle
from features.spark import workers
from features.storage import file_reader
from features.storage.delta_tables import scalar
from features.storage.table_log import TableFile
from features.storage.user_ranges import SPREAD

ROWS, LINES, KNOWN = "row", "line", "known"
"""Kinds of pieces: checked rows, malformed lines, and rows of `events`."""

_CUT = "shard INT, kind STRING, rows LONG, dates ARRAY<DATE>, ids BINARY, blob BINARY"
_SETTLED = "status STRING, event_type STRING, event_date DATE, rows LONG, blob BINARY"

_PIECE = ["shard", "kind", "rows", "blob"]

_NOTHING_KNOWN = pa.table({"event_id": pa.array([], pa.string()), "content_hash": pa.array([], pa.int64())})

_EPOCH = dt.date(1970, 1, 1)
_SHARDS, _SHARDS_PER_TASK = 64, 4  # a task holds one shard at once
_TASKS_PER_CORE = 4

# Known events are left out if no new row's id has the same first digits. With 6 digits the table of bits has 2 MB.
_SOUGHT_DIGITS = 6
_SOUGHT_ROWS, _SOUGHT_SHARE = 1 << 22, 4  # with more rows, or more than 1 of 4 known ones, most beginnings occur
_SOUGHT_AT_ONCE = 16  # times as many known rows per task, because few of them are left


def cut(typed: DataFrame, checks: Checks) -> DataFrame:
    """The rows of `typed_rows.typed`, checked, as blobs by shard of event ids, with the dates in each blob."""
    shards = _shards(typed.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in gathered(batches):
            yield from _blobs(pa.Table.from_batches([check(b, checks) for b in rows.to_batches()]), shards, ROWS)

    return workers.mapped(typed, task, _CUT)


def cut_lines(lines: DataFrame) -> DataFrame:
    """The malformed lines of `typed_rows.refused_lines` as blobs by shard of their content."""
    shards = _shards(lines.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in gathered(batches):
            yield from _blobs(rows, shards, LINES)

    return workers.mapped(lines, task, _CUT)


def dates(pieces: DataFrame) -> set[dt.date]:
    """The dates of all events in the blobs."""
    return {row[0] for row in pieces.select(f.explode("dates")).distinct().collect()}


def sought(pieces: DataFrame, known: Sequence[TableFile]) -> bytes | None:
    """Bits that say with which digits the rows' ids begin: known events with other beginnings need not be shuffled.

    None if there are too many rows, compared with the known events, for this to pay.
    """
    rows = pieces.where(f.col("kind") == ROWS)
    count, stand = int(scalar(rows.agg(f.sum("rows"))) or 0), sum(file.rows for file in known)
    if count > min(_SOUGHT_ROWS, stand // _SOUGHT_SHARE):
        return None
    bits = np.zeros(1 << 4 * _SOUGHT_DIGITS, bool)
    for (ids,) in rows.select("ids").collect():
        bits[np.frombuffer(ids, np.int32)] = True
    return np.packbits(bits).tobytes()


def settled(
    pieces: DataFrame, known: Sequence[TableFile], columns: Sequence[str], sought: bytes | None = None
) -> DataFrame:
    """Rows by status: counts by type and date from each task, and blobs of accepted rows by date and of refused rows.

    Args:
        pieces: rows of `cut` and `cut_lines`.
        known: files of `events` in which repeats are looked for.
        columns: columns of the source's query, in its order.
        sought: result of `sought`; None: all known events are shuffled.
    """
    if known:
        pieces = pieces.unionByName(_known(pieces.sparkSession, known, sought))

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for shards in _shards_at_once(batches):
            yield from _by_status(shards, columns)

    return workers.mapped(pieces.repartition("shard").sortWithinPartitions("shard"), task, _SETTLED)


Pieces = Mapping[str, pa.Table]
"""Rows by kind, of one or more whole shards."""


def _shards_at_once(batches: Iterable[pa.RecordBatch]) -> Iterator[Pieces]:
    """Pieces of whole shards: small shards together, large ones by themselves."""
    pieces = (piece for batch in batches for piece in zip(*(batch[c] for c in _PIECE), strict=True))
    kept, rows = defaultdict[str, list[pa.Table]](list), 0
    for _, of_shard in itertools.groupby(pieces, lambda piece: piece[0]):
        for _, kind, count, blob in of_shard:
            kept[kind.as_py()].append(unpacked(blob))
            rows += count.as_py()
        if rows >= ROWS_GATHERED:
            yield {kind: pa.concat_tables(of).combine_chunks() for kind, of in kept.items()}
            kept, rows = defaultdict(list), 0
    if rows:
        yield {kind: pa.concat_tables(of).combine_chunks() for kind, of in kept.items()}


def _known(spark: SparkSession, files: Sequence[TableFile], sought: bytes | None) -> DataFrame:
    shards, before = _shards(spark), itertools.accumulate(file.rows for file in files)
    at_once = ROWS_GATHERED if sought is None else ROWS_GATHERED * _SOUGHT_AT_ONCE
    portions = [
        [file.uri for _, file in group]
        for _, group in itertools.groupby(zip(before, files, strict=True), lambda pair: pair[0] // at_once)
    ]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        found = [_among(file_reader.read_file(uri, KNOWN_COLUMNS), sought) for uri in portions[portion]]
        # Files of other writers may declare a column without nulls.
        yield from _blobs(pa.concat_tables(found, promote_options="default"), shards, KNOWN)

    return workers.rows(spark, len(portions), work, _CUT, task_count(spark))


def _among(rows: pa.Table, sought: bytes | None) -> pa.Table:
    """Known events that new rows may repeat."""
    if sought is None:
        return rows
    bits = np.unpackbits(np.frombuffer(sought, np.uint8)).view(bool)
    return rows.filter(pa.array(bits[leading_number(rows["event_id"], _SOUGHT_DIGITS)]))


def task_count(spark: SparkSession) -> int:
    """Tasks of a stage: several per core, so that all cores are busy to the end; each task has its cost."""
    return _TASKS_PER_CORE * spark.sparkContext.defaultParallelism


def _shards(spark: SparkSession) -> int:
    """Number of shards: 64, or more if the settings ask for more shuffle partitions."""
    return max(_SHARDS, _SHARDS_PER_TASK * int(spark.conf.get("spark.sql.shuffle.partitions") or 1))


def _blobs(rows: pa.Table, shards: int, kind: str) -> Iterator[pa.RecordBatch]:
    shard = places_of(rows["content" if kind == LINES else "event_id"]) * shards // SPREAD
    order = np.argsort(shard, kind="stable")
    rows, shard = rows.take(pa.array(order)), shard[order]
    for begin, end in equal_runs(shard):
        piece = rows.slice(begin, end - begin)
        days = _dates(piece) if kind == ROWS else []
        columns = {
            "shard": pa.array([shard[begin]], pa.int32()),
            "kind": [kind],
            "rows": [end - begin],
            "dates": pa.array([days], pa.list_(pa.date32())),
            "ids": [_beginnings(piece) if kind == ROWS else b""],
            "blob": [packed(piece)],
        }
        yield pa.record_batch(columns)


def _beginnings(rows: pa.Table) -> bytes:
    return np.unique(leading_number(rows["event_id"], _SOUGHT_DIGITS)).astype(np.int32).tobytes()


def _dates(rows: pa.Table) -> list[dt.date]:
    valid = pc.equal(pc.list_value_length(rows[REASONS]), 0)
    return list(pc.unique(rows["event_date"].filter(valid)).to_pylist())


def _by_status(pieces: Pieces, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of `settled` for whole shards."""
    yield _row(READ, rows=sum(pieces[kind].num_rows for kind in (ROWS, LINES) if kind in pieces))
    if LINES in pieces:
        yield from _refusals(rejections.of_lines(pieces[LINES]))
    if ROWS not in pieces:
        return
    rows = settle(pieces[ROWS], pieces.get(KNOWN, _NOTHING_KNOWN))
    status = rows["status"].to_numpy()
    yield _row(DUPLICATE, rows=int((status == DUPLICATE).sum()))
    if (status == REJECTED).any():
        yield from _refusals(rejections.of_rows(rows.filter(pa.array(status == REJECTED)), columns))
    yield from _accepted(rows, np.flatnonzero(status == ACCEPTED))


def _refusals(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    yield _row(REJECTED, rows=rows.num_rows)
    yield _row(REJECTED, blob=packed(rows))


def _accepted(rows: pa.Table, places: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Counts by type and date, and a blob per date, of the rows at `places`."""
    kinds = rows.select(["event_type", "event_date"]).take(pa.array(places))
    for found in kinds.group_by(kinds.column_names).aggregate([([], "count_all")]).to_pylist():
        yield _row(ACCEPTED, found["event_type"], found["event_date"], found["count_all"])
    day = kinds["event_date"].cast(pa.int32()).to_numpy()
    order = np.argsort(day, kind="stable")
    kept = [c for c in rows.column_names if c not in ("event_date", "status", REASONS) and not is_raw(c)]
    sorted_rows, day = rows.select(kept).take(pa.array(places[order])), day[order]
    for begin, end in equal_runs(day):
        piece = sorted_rows.slice(begin, end - begin)
        yield _row(ACCEPTED, day=_EPOCH + dt.timedelta(days=int(day[begin])), blob=packed(piece))


def _row(
    status: str, kind: str | None = None, day: dt.date | None = None, rows: int = 0, blob: bytes | None = None
) -> pa.RecordBatch:
    columns = {
        "status": pa.array([status], pa.string()),
        "event_type": pa.array([kind], pa.string()),
        "event_date": pa.array([day], pa.date32()),
        "rows": pa.array([rows], pa.int64()),
        "blob": pa.array([blob], pa.binary()),
    }
    return pa.record_batch(columns)


def near(known: Sequence[TableFile], dates: Set[dt.date], days: int) -> list[TableFile]:
    """The files of `known` in which repeats are looked for: of the rows' `dates`, and of `days` before the newest date.

    An equal repeat has the same date, so it is always found.
    """
    since = max(dates, default=dt.date.max) - dt.timedelta(days=days)
    return [file for file in known if file.date in dates or file.date >= since]
