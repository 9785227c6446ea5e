"""Repeats: which of the rows with one event id is the event. A pure kernel, and the shuffle that brings them together.

Checked rows leave Spark's SQL once, as Arrow batches. They cross the shuffle as one compressed blob per shard of event
ids and task, are settled a shard at a time, and lie, again as blobs, by status and date until they are written.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import StructType

from features import file_tasks, rejections, table_files, tables, tasks
from features.checks import REASONS, Checks, check, is_raw
from features.delta import scalar
from features.table_files import SPREAD, AddedFile, TableFile

ACCEPTED, REJECTED, DUPLICATE, READ = "accepted", "rejected", "duplicate", "read"
CONFLICT = "conflicting_event_id"

ROWS, LINES, KNOWN = "row", "line", "known"
"""Kinds of pieces: checked rows, malformed lines, and what stands in `events`."""

_CUT = "shard INT, kind STRING, rows LONG, dates ARRAY<DATE>, ids BINARY, blob BINARY"
_SETTLED = "status STRING, event_type STRING, event_date DATE, rows LONG, blob BINARY"
_PORTION = "portion LONG, known BOOLEAN, blob BINARY"
_PIECE = ["shard", "kind", "rows", "blob"]
_KNOWN = ["event_id", "content_hash"]
_NOTHING_KNOWN = pa.table({"event_id": pa.array([], pa.string()), "content_hash": pa.array([], pa.int64())})
_IDENTITY = "rejection_id"
_NO_IDENTITY = pa.table({_IDENTITY: pa.array([], pa.string())})
_ROWS = 262_144  # that a task gathers before it cuts them: some thousand to a blob
_EPOCH = dt.date(1970, 1, 1)
_SHARDS, _SHARDS_PER_TASK = 64, 4  # a shard is what a task holds at once
_TASKS_PER_CORE = 4
_DIGITS = 4
_SOUGHT_DIGITS = 6  # by which known ids are told that no row has: a bit for each number they make, 2 MB
_SOUGHT_ROWS, _SOUGHT_SHARE = 1 << 22, 4  # of rows with more ids than that, or than a share of those known, most match
_SOUGHT_AT_ONCE = 16  # times as many known rows as a task would cut otherwise: few of them are left
_VALUES = np.zeros(256, np.int64)  # of hexadecimal digits
_VALUES[list(b"0123456789abcdef")] = np.arange(16)


def settle(rows: pa.Table, known: pa.Table) -> pa.Table:
    """Rows with their `status`: the first of an id is accepted, equal ones are duplicates, others are conflicts.

    The smallest hash is the first, so that the order of the input does not matter. Rows with other reasons take no
    part: a broken repeat of a good row must not shadow it.

    Args:
        rows: all of their ids' rows of `features.checks.check`, in any order.
        known: `event_id` and `content_hash` of events that stand in the table, each id once; it may hold other ids.
    """
    status = np.full(rows.num_rows, REJECTED, object)
    valid = np.flatnonzero(pc.equal(pc.list_value_length(rows[REASONS]), 0).to_numpy())
    keys = rows.select(_KNOWN).take(pa.array(valid))
    order = pc.sort_indices(keys, [(c, "ascending") for c in _KNOWN])
    keys, valid = keys.take(order).combine_chunks(), valid[order.to_numpy()]
    ids, content = keys["event_id"], keys["content_hash"].to_numpy()
    first = _starts(ids)
    place = pc.index_in(ids, known["event_id"].combine_chunks())
    stands = place.is_valid().to_numpy()
    wanted = content[np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))] if len(ids) else content
    wanted = np.where(stands, _taken(known["content_hash"].to_numpy(), place), wanted)
    conflict = content != wanted
    status[valid] = np.select([conflict, stands | ~first], [REJECTED, DUPLICATE], ACCEPTED)
    rows = rows.append_column("status", pa.array(status, pa.string()))
    return _with_conflicts(rows, valid[conflict])


def _with_conflicts(rows: pa.Table, places: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of which some have a conflict for their only reason."""
    if not len(places):
        return rows
    at, reasons = rows.column_names.index(REASONS), rows[REASONS]
    conflict = np.zeros(rows.num_rows, bool)
    conflict[places] = True
    reasons = pc.if_else(pa.array(conflict), pa.scalar([CONFLICT], reasons.type), reasons)
    return rows.set_column(at, rows.schema.field(at), reasons)


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


def cut(typed: DataFrame, checks: Checks) -> DataFrame:
    """The rows of `features.ingest.typed`, checked, as blobs by shard of event ids, and the dates in each."""
    shards = _shards(typed.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _gathered(batches):
            yield from _blobs(pa.Table.from_batches([check(b, checks) for b in rows.to_batches()]), shards, ROWS)

    return tasks.mapped(typed, task, _CUT)


def cut_lines(lines: DataFrame) -> DataFrame:
    """The malformed lines of `features.ingest.refused_lines` as blobs by shard of their content."""
    shards = _shards(lines.sparkSession)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _gathered(batches):
            yield from _blobs(rows, shards, LINES)

    return tasks.mapped(lines, task, _CUT)


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

    return tasks.mapped(pieces.repartition("shard").sortWithinPartitions("shard"), task, _SETTLED)


Pieces = Mapping[str, pa.Table]
"""Rows by kind, of one or more whole shards."""


def _shards_at_once(batches: Iterable[pa.RecordBatch]) -> Iterator[Pieces]:
    """Small shards are settled together, large ones one after another."""
    pieces = (piece for batch in batches for piece in zip(*(batch[c] for c in _PIECE), strict=True))
    kept, rows = defaultdict[str, list[pa.Table]](list), 0
    for _, of_shard in itertools.groupby(pieces, lambda piece: piece[0]):
        for _, kind, count, blob in of_shard:
            kept[kind.as_py()].append(_opened(blob))
            rows += count.as_py()
        if rows >= _ROWS:
            yield {kind: pa.concat_tables(of).combine_chunks() for kind, of in kept.items()}
            kept, rows = defaultdict(list), 0
    if rows:
        yield {kind: pa.concat_tables(of).combine_chunks() for kind, of in kept.items()}


def counts(rows: DataFrame) -> Mapping[tuple[str, str | None, dt.date | None], int]:
    """Rows of `settled` by status, those accepted by type and date too; `READ` are those that crossed the shuffle."""
    keys = ("status", "event_type", "event_date")
    found = rows.where("blob IS NULL").groupBy(*keys).agg(f.sum("rows").alias("rows")).collect()
    return {(row["status"], row["event_type"], row["event_date"]): row["rows"] for row in found}


def refused(rows: DataFrame, schema: StructType) -> DataFrame:
    """The refused rows of `settled`, some columns of `events_rejected`."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["blob"]:
                yield from _opened(blob).select(schema.names).to_batches()

    return tasks.mapped(_blobs_of(rows, REJECTED), task, schema)


def write_refused(rows: DataFrame, uri: str, known: Sequence[str], count: int, rows_per_file: int) -> list[AddedFile]:
    """Write the refused rows of `settled` that do not stand in `events_rejected` yet, uncommitted.

    Args:
        rows: of `settled`.
        uri: where `events_rejected` lies.
        known: its files.
        count: how many rows are refused.
        rows_per_file: about; more are cut by ranges of identities into several files.
    """
    spark, portions = rows.sparkSession, -(-count // rows_per_file)

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["blob"]:
                yield from _cut_up(_opened(blob), portions, False)

    def identities(file: int) -> Iterator[pa.RecordBatch]:
        yield from _cut_up(table_files.read_file(known[file], [_IDENTITY]), portions, True)

    def portion_file(blobs: pa.Table) -> pa.Table:
        stand = pc.equal(blobs["known"], True)
        found = [
            pa.concat_tables([_opened(blob) for blob in blobs.filter(side)["blob"]] or [_NO_IDENTITY])
            for side in (stand, pc.invert(stand))
        ]
        fresh = found[1].filter(pc.invert(pc.is_in(found[1][_IDENTITY], found[0][_IDENTITY].combine_chunks())))
        files = [table_files.write_file(fresh, uri, None, None).to_json()] if fresh.num_rows else []
        return pa.table({file_tasks.FILE: pa.array(files, pa.string())})

    pieces = tasks.mapped(_blobs_of(rows, REJECTED), split, _PORTION)
    if known:
        pieces = pieces.unionByName(tasks.rows(spark, len(known), identities, _PORTION, _tasks(spark)))
    grouped = pieces.groupBy("portion")
    return file_tasks.collected(grouped.applyInArrow(tasks.prompt(portion_file), f"{file_tasks.FILE} STRING"))


def _cut_up(rows: pa.Table, portions: int, known: bool) -> Iterator[pa.RecordBatch]:
    for portion, piece in _portions(rows, _IDENTITY, portions):
        yield pa.record_batch({"portion": [portion], "known": [known], "blob": [_packed(piece)]})


def _blobs_of(rows: DataFrame, status: str) -> DataFrame:
    return rows.where((f.col("status") == status) & f.col("blob").isNotNull()).select("event_date", "blob")


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
                if portions[day] == 1:
                    yield pa.record_batch({"event_date": [day], "portion": [0], "blob": [blob.as_py()]})
                    continue
                for portion, piece in _portions(_opened(blob), "user_id", portions[day]):
                    yield pa.record_batch({"event_date": [day], "portion": [portion], "blob": [_packed(piece)]})

    def portion_file(key: tuple[pa.Scalar, ...], blobs: pa.Table) -> pa.Table:
        events = pa.concat_tables([_opened(blob) for blob in blobs["blob"]]).combine_chunks()
        events = events.sort_by([(c, "ascending") for c in tables.EVENT_ORDER.split(", ")])
        file = table_files.write_file(events, uri, "event_date", key[0].as_py())
        return pa.table({file_tasks.FILE: [file.to_json()]})

    pieces = tasks.mapped(_blobs_of(rows, ACCEPTED), split, "event_date DATE, portion LONG, blob BINARY")
    grouped = pieces.groupBy("event_date", "portion")
    return file_tasks.collected(grouped.applyInArrow(tasks.prompt(portion_file), f"{file_tasks.FILE} STRING"))


def _portions(rows: pa.Table, ids: str, count: int) -> Iterator[tuple[int, pa.Table]]:
    portion = _place(rows[ids]) * count // SPREAD
    for number in np.unique(portion):
        yield int(number), rows.filter(pa.array(portion == number))


def _known(spark: SparkSession, files: Sequence[TableFile], sought: bytes | None) -> DataFrame:
    shards, before = _shards(spark), itertools.accumulate(file.rows for file in files)
    at_once = _ROWS if sought is None else _ROWS * _SOUGHT_AT_ONCE
    portions = [
        [file.uri for _, file in group]
        for _, group in itertools.groupby(zip(before, files, strict=True), lambda pair: pair[0] // at_once)
    ]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        found = [_among(table_files.read_file(uri, _KNOWN), sought) for uri in portions[portion]]
        # Other writers may say that a column has no nulls.
        yield from _blobs(pa.concat_tables(found, promote_options="default"), shards, KNOWN)

    return tasks.rows(spark, len(portions), work, _CUT, _tasks(spark))


def _among(rows: pa.Table, sought: bytes | None) -> pa.Table:
    """Known events that rows may repeat."""
    if sought is None:
        return rows
    bits = np.unpackbits(np.frombuffer(sought, np.uint8)).view(bool)
    return rows.filter(pa.array(bits[_leading(rows["event_id"], _SOUGHT_DIGITS)]))


def _tasks(spark: SparkSession) -> int:
    """As many as keep all cores at work to the end, and no more: each has its cost."""
    return _TASKS_PER_CORE * spark.sparkContext.defaultParallelism


def _shards(spark: SparkSession) -> int:
    """Some dozens, and more where the user has set more tasks for more rows."""
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


def _blobs(rows: pa.Table, shards: int, kind: str) -> Iterator[pa.RecordBatch]:
    shard = _place(rows["content" if kind == LINES else "event_id"]) * shards // SPREAD
    order = np.argsort(shard, kind="stable")
    rows, shard = rows.take(pa.array(order)), shard[order]
    for begin, end in _runs(shard):
        piece = rows.slice(begin, end - begin)
        days = _dates(piece) if kind == ROWS else []
        columns = {
            "shard": pa.array([shard[begin]], pa.int32()),
            "kind": [kind],
            "rows": [end - begin],
            "dates": pa.array([days], pa.list_(pa.date32())),
            "ids": [_beginnings(piece) if kind == ROWS else b""],
            "blob": [_packed(piece)],
        }
        yield pa.record_batch(columns)


def _beginnings(rows: pa.Table) -> bytes:
    return np.unique(_leading(rows["event_id"], _SOUGHT_DIGITS)).astype(np.int32).tobytes()


def _dates(rows: pa.Table) -> list[dt.date]:
    valid = pc.equal(pc.list_value_length(rows[REASONS]), 0)
    return list(pc.unique(rows["event_date"].filter(valid)).to_pylist())


def _place(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where pseudonyms lie among all possible, below `SPREAD`; those missing lie at 0."""
    return _leading(ids, _DIGITS)


def _leading(ids: pa.ChunkedArray, digits: int) -> npt.NDArray[np.int64]:
    """The number that the first hexadecimal digits of pseudonyms make, 0 where they are missing."""
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
    yield _row(REJECTED, blob=_packed(rows))


def _accepted(rows: pa.Table, places: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Counts by type and date, and a blob per date, of the rows at some places."""
    kinds = rows.select(["event_type", "event_date"]).take(pa.array(places))
    for found in kinds.group_by(kinds.column_names).aggregate([([], "count_all")]).to_pylist():
        yield _row(ACCEPTED, found["event_type"], found["event_date"], found["count_all"])
    day = kinds["event_date"].cast(pa.int32()).to_numpy()
    order = np.argsort(day, kind="stable")
    kept = [c for c in rows.column_names if c not in ("event_date", "status", REASONS) and not is_raw(c)]
    sorted_rows, day = rows.select(kept).take(pa.array(places[order])), day[order]
    for begin, end in _runs(day):
        piece = sorted_rows.slice(begin, end - begin)
        yield _row(ACCEPTED, day=_EPOCH + dt.timedelta(days=int(day[begin])), blob=_packed(piece))


def _runs(values: npt.NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Where runs of equal values begin and end."""
    changes = np.flatnonzero(np.diff(values)) + 1
    return itertools.pairwise([0, *changes.tolist(), len(values)]) if len(values) else iter(())


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
