"""Repeats: which of the rows with one event id is the event. A pure kernel, and the shuffle that brings them together.

Checked rows leave Spark's SQL once, as Arrow batches. They cross the shuffle as one compressed blob per shard of event
ids and task, are settled a shard at a time, and lie, again as blobs, by status and date until they are written.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import StructType

from features import table_files, tables, tasks
from features.table_files import SPREAD, AddedFile, TableFile

ACCEPTED, REJECTED, DUPLICATE, READ = "accepted", "rejected", "duplicate", "read"
CONFLICT = "conflicting_event_id"

_CUT = "shard INT, known BOOLEAN, rows LONG, dates ARRAY<DATE>, blob BINARY"
_SETTLED = "status STRING, event_type STRING, event_date DATE, rows LONG, blob BINARY"
_PIECE = ["shard", "known", "rows", "blob"]
_KNOWN = ["event_id", "content_hash"]
_NOTHING_KNOWN = pa.table({"event_id": pa.array([], pa.string()), "content_hash": pa.array([], pa.int64())})
_ROWS = 262_144  # that a task gathers before it cuts them: some hundred to a blob
_SHARDS, _SHARDS_PER_TASK = 256, 4  # a shard is what a task holds at once
_DIGITS = 4
_PLACES = pa.array([f"{n:0{_DIGITS}x}" for n in range(SPREAD)])


def settle(rows: pa.Table, known: pa.Table) -> pa.Table:
    """Rows with their `status`: the first of an id is accepted, equal ones are duplicates, others are conflicts.

    The smallest hash is the first, so that the order of the input does not matter. Rows with other reasons take no
    part: a broken repeat of a good row must not shadow it.

    Args:
        rows: all of their ids' rows of `features.ingest.check`, in any order.
        known: `event_id` and `content_hash` of events that stand in the table, each id once; it may hold other ids.
    """
    valid = pc.equal(pc.list_value_length(rows["reasons"]), 0)
    refused = rows.filter(pc.invert(valid))
    rows = rows.filter(valid).sort_by([(c, "ascending") for c in ("event_id", "content_hash", "original")])
    ids, content = rows["event_id"], rows["content_hash"].to_numpy()
    first = _starts(ids)
    place = pc.index_in(ids, known["event_id"].combine_chunks())
    stands = place.is_valid().to_numpy()
    wanted = content[np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))] if len(ids) else content
    wanted = np.where(stands, _taken(known["content_hash"].to_numpy(), place), wanted)
    conflict = content != wanted
    status = np.select([conflict, stands | ~first], [REJECTED, DUPLICATE], ACCEPTED)
    at, reasons = rows.column_names.index("reasons"), rows["reasons"]
    reasons = pc.if_else(pa.array(conflict), pa.scalar([CONFLICT], reasons.type), reasons)
    rows = rows.set_column(at, rows.schema.field(at), reasons).append_column("status", pa.array(status, pa.string()))
    return pa.concat_tables([rows, refused.append_column("status", pa.repeat(REJECTED, refused.num_rows))])


def _starts(ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether each id is another than the one before it."""
    found = np.ones(len(ids), bool)
    if len(ids) > 1:
        found[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return found


def _taken(values: npt.NDArray[np.int64], place: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if not len(values):
        return np.zeros(len(place), np.int64)
    return np.asarray(values[place.fill_null(0).to_numpy()])


def cut(checked: DataFrame) -> DataFrame:
    """The rows of `features.ingest.check` as blobs by shard of event ids, and the dates in each."""
    shards = _shards(checked.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _gathered(batches):
            yield from _blobs(rows, shards, known=False)

    return checked.mapInArrow(task, _CUT)


def dates(pieces: DataFrame) -> set[dt.date]:
    """The dates of the events in blobs."""
    return {row[0] for row in pieces.select(f.explode("dates")).distinct().collect()}


def settled(spark: SparkSession, pieces: DataFrame, known: Sequence[TableFile]) -> DataFrame:
    """Rows by status: of each task counts by type and date, and blobs of those accepted, by date, and refused.

    Args:
        spark: the session.
        pieces: of `cut`.
        known: files of `events` among whose rows repeats are looked for.
    """
    if known:
        pieces = pieces.unionByName(_known(spark, known))

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kept, rows = list[pa.Table](), 0
        for read, shard in _settled_shards(batches):
            yield _row(READ, rows=read)
            kept.append(shard)
            rows += read
            if rows >= _ROWS:
                yield from _by_status(pa.concat_tables(kept).combine_chunks())
                kept, rows = [], 0
        if kept:
            yield from _by_status(pa.concat_tables(kept).combine_chunks())

    return pieces.repartition("shard").sortWithinPartitions("shard").mapInArrow(task, _SETTLED)


def _settled_shards(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    """How many rows of each shard crossed the shuffle, and what they are; one shard at a time is in memory."""
    pieces = (piece for batch in batches for piece in zip(*(batch[c] for c in _PIECE), strict=True))
    for _, of_shard in itertools.groupby(pieces, lambda piece: piece[0]):
        rows, known, read = list[pa.Table](), [_NOTHING_KNOWN], 0
        for _, stands, count, blob in of_shard:
            (known if stands.as_py() else rows).append(_opened(blob))
            read += 0 if stands.as_py() else count.as_py()
        if rows:
            yield read, settle(pa.concat_tables(rows).combine_chunks(), pa.concat_tables(known))


def counts(rows: DataFrame) -> Mapping[tuple[str, str | None, dt.date | None], int]:
    """Rows of `settled` by status, those accepted by type and date too; `READ` are those that crossed the shuffle."""
    keys = ("status", "event_type", "event_date")
    found = rows.where("blob IS NULL").groupBy(*keys).agg(f.sum("rows").alias("rows")).collect()
    return {(row["status"], row["event_type"], row["event_date"]): row["rows"] for row in found}


def refused(rows: DataFrame, schema: StructType) -> DataFrame:
    """The refused rows of `settled`, some columns of `check`."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["blob"]:
                yield from _opened(blob).select(schema.names).to_batches()

    return rows.where(f"status = '{REJECTED}' AND blob IS NOT NULL").select("blob").mapInArrow(task, schema)


def write(rows: DataFrame, uri: str, by_date: Mapping[dt.date, int], rows_per_file: int) -> list[AddedFile]:
    """Write the accepted rows of `settled` as files of `events`, uncommitted, and say which they are.

    Args:
        rows: of `settled`.
        uri: where `events` lies.
        by_date: how many each date has.
        rows_per_file: a date with more is cut by ranges of users into several files.
    """
    portions = {day: -(-count // rows_per_file) for day, count in by_date.items()}

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for day, blob in zip(batch["event_date"].to_pylist(), batch["blob"], strict=True):
                for portion, piece in _portions(blob, portions[day]):
                    yield pa.record_batch({"event_date": [day], "portion": [portion], "blob": [piece]})

    def portion_file(key: tuple[pa.Scalar, ...], blobs: pa.Table) -> pa.Table:
        events = _nullable(pa.concat_tables([_opened(blob) for blob in blobs["blob"]])).combine_chunks()
        events = events.sort_by([(c, "ascending") for c in tables.EVENT_ORDER.split(", ")])
        file = table_files.write_file(events, uri, "event_date", key[0].as_py(), table_files.NARROW)
        return pa.table({tasks.FILE: [file.to_json()]})

    kept = rows.where(f"status = '{ACCEPTED}' AND blob IS NOT NULL").select("event_date", "blob")
    pieces = kept.mapInArrow(split, "event_date DATE, portion LONG, blob BINARY")
    return tasks.collected(pieces.groupBy("event_date", "portion").applyInArrow(portion_file, f"{tasks.FILE} STRING"))


def _nullable(rows: pa.Table) -> pa.Table:
    """Rows whose columns may be null, as Delta's are: Spark's SQL knows of some that they are not."""
    return rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema]))


def _portions(blob: pa.Scalar, count: int) -> Iterator[tuple[int, bytes]]:
    if count == 1:
        yield 0, blob.as_py()
        return
    rows = _opened(blob)
    portion = _place(rows["user_id"]) * count // SPREAD
    for number in np.unique(portion):
        yield int(number), _packed(rows.filter(pa.array(portion == number)))


def _known(spark: SparkSession, files: Sequence[TableFile]) -> DataFrame:
    shards, before = _shards(spark), itertools.accumulate(file.rows for file in files)
    portions = [
        [file for _, file in group]
        for _, group in itertools.groupby(zip(before, files, strict=True), lambda pair: pair[0] // _ROWS)
    ]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        rows = pa.concat_tables([_nullable(table_files.read_file(file, _KNOWN)) for file in portions[portion]])
        yield from _blobs(rows, shards, known=True)

    return tasks.rows(spark, len(portions), work, _CUT)


def _shards(spark: SparkSession) -> int:
    """At least some hundred, and more where the user has set more tasks for more rows."""
    return max(_SHARDS, _SHARDS_PER_TASK * int(spark.conf.get("spark.sql.shuffle.partitions") or 1))


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of many batches, some hundred thousand at a time."""
    kept, rows = list[pa.RecordBatch](), 0
    for batch in batches:
        kept.append(batch)
        rows += batch.num_rows
        if rows >= _ROWS:
            yield pa.Table.from_batches(kept).combine_chunks()
            kept, rows = [], 0
    if rows:
        yield pa.Table.from_batches(kept).combine_chunks()


def _blobs(rows: pa.Table, shards: int, known: bool) -> Iterator[pa.RecordBatch]:
    shard = _place(rows["event_id"]) * shards // SPREAD
    order = np.argsort(shard, kind="stable")
    rows, shard = rows.take(pa.array(order)), shard[order]
    for begin, end in itertools.pairwise([*np.flatnonzero(np.diff(shard, prepend=-1)), len(shard)]):
        piece = rows.slice(begin, end - begin)
        days = [] if known else pc.unique(piece["event_date"]).drop_null().to_pylist()
        columns = {
            "shard": pa.array([shard[begin]], pa.int32()),
            "known": [known],
            "rows": [end - begin],
            "dates": pa.array([days], pa.list_(pa.date32())),
            "blob": [_packed(piece)],
        }
        yield pa.record_batch(columns)


def _place(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where pseudonyms lie among all possible, below `SPREAD`; those missing lie at 0."""
    first = pc.dictionary_encode(pc.utf8_slice_codeunits(ids, 0, _DIGITS)).combine_chunks()
    if isinstance(first, pa.ChunkedArray):  # no rows
        return np.zeros(0, np.int64)
    places = pc.index_in(first.dictionary, _PLACES)
    return np.asarray(places.take(first.indices).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _by_status(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    keys = ["status", "event_type", "event_date"]
    accepted = pc.equal(rows["status"], ACCEPTED)
    for status in (REJECTED, DUPLICATE):
        of = rows.filter(pc.equal(rows["status"], status))
        if of.num_rows:
            yield _row(status, rows=of.num_rows)
            if status == REJECTED:
                yield _row(status, blob=_packed(of))
    rows = rows.filter(accepted).sort_by("event_date")
    for found in rows.group_by(keys).aggregate([([], "count_all")]).to_pylist():
        yield _row(found["status"], found["event_type"], found["event_date"], found["count_all"])
    begin = 0
    for day in pc.value_counts(rows["event_date"]):
        count = day["counts"].as_py()
        piece = rows.slice(begin, count).drop(["event_date", "status", "reasons", "original"])
        yield _row(ACCEPTED, day=day["values"].as_py(), blob=_packed(piece))
        begin += count


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


def _packed(rows: pa.Table) -> bytes:
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _opened(blob: pa.Scalar) -> pa.Table:
    with pa.ipc.open_stream(blob.as_buffer()) as reader:
        return reader.read_all()
