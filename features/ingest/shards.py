"""Repeats: which of the rows with one event id is the event. A pure kernel, and the shuffle that brings them together.

Checked rows leave Spark's SQL once, as Arrow batches. They cross the shuffle as one compressed blob per shard of event
ids and task, are settled a shard at a time, and lie, again as blobs, by status and date until they are written.
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
"""Kinds of pieces: checked rows, malformed lines, and what stands in `events`."""

_CUT = "shard INT, kind STRING, rows LONG, dates ARRAY<DATE>, ids BINARY, blob BINARY"
_SETTLED = "status STRING, event_type STRING, event_date DATE, rows LONG, blob BINARY"

_PIECE = ["shard", "kind", "rows", "blob"]

_NOTHING_KNOWN = pa.table({"event_id": pa.array([], pa.string()), "content_hash": pa.array([], pa.int64())})

_EPOCH = dt.date(1970, 1, 1)
_SHARDS, _SHARDS_PER_TASK = 64, 4  # a shard is what a task holds at once
_TASKS_PER_CORE = 4

_SOUGHT_DIGITS = 6  # by which known ids are told that no row has: a bit for each number they make, 2 MB
_SOUGHT_ROWS, _SOUGHT_SHARE = 1 << 22, 4  # of rows with more ids than that, or than a share of those known, most match
_SOUGHT_AT_ONCE = 16  # times as many known rows as a task would cut otherwise: few of them are left


def cut(typed: DataFrame, checks: Checks) -> DataFrame:
    """The rows of `typed_rows.typed`, checked, as blobs by shard of event ids, and the dates in each."""
    shards = _shards(typed.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in gathered(batches):
            yield from _blobs(pa.Table.from_batches([check(b, checks) for b in rows.to_batches()]), shards, ROWS)

    return workers.mapped(typed, task, _CUT)


def cut_lines(lines: DataFrame) -> DataFrame:
    """The malformed lines of `features.ingest.typed_rows.refused_lines` as blobs by shard of their content."""
    shards = _shards(lines.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in gathered(batches):
            yield from _blobs(rows, shards, LINES)

    return workers.mapped(lines, task, _CUT)


def dates(pieces: DataFrame) -> set[dt.date]:
    """The dates of the events in blobs."""
    return {row[0] for row in pieces.select(f.explode("dates")).distinct().collect()}


def sought(pieces: DataFrame, known: Sequence[TableFile]) -> bytes | None:
    """Bits of the beginnings of ids that the rows in blobs have, so that few known events cross the shuffle in vain.

    None where the rows are so many, against what is known, that it would not pay.
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
    """Rows by status: of each task counts by type and date, and blobs of those accepted, by date, and refused.

    Args:
        pieces: of `cut` and `cut_lines`.
        known: files of `events` among whose rows repeats are looked for.
        columns: what the source yields, in its order.
        sought: of `sought`; None takes all that is known along.
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
    """Small shards are settled together, large ones one after another."""
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
        # Other writers may say that a column has no nulls.
        yield from _blobs(pa.concat_tables(found, promote_options="default"), shards, KNOWN)

    return workers.rows(spark, len(portions), work, _CUT, task_count(spark))


def _among(rows: pa.Table, sought: bytes | None) -> pa.Table:
    """Known events that rows may repeat."""
    if sought is None:
        return rows
    bits = np.unpackbits(np.frombuffer(sought, np.uint8)).view(bool)
    return rows.filter(pa.array(bits[leading_number(rows["event_id"], _SOUGHT_DIGITS)]))


def task_count(spark: SparkSession) -> int:
    """As many as keep all cores at work to the end, and no more: each has its cost."""
    return _TASKS_PER_CORE * spark.sparkContext.defaultParallelism


def _shards(spark: SparkSession) -> int:
    """Some dozens, and more where the user has set more tasks for more rows."""
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
    """What `settled` gives of whole shards."""
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
    """Counts by type and date, and a blob per date, of the rows at some places."""
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
    """The files of known events among which repeats are looked for: of the rows' `dates`, and `days` before the newest.

    An equal repeat has the date of the first, so all of them are found.
    """
    since = max(dates, default=dt.date.max) - dt.timedelta(days=days)
    return [file for file in known if file.date in dates or file.date >= since]
