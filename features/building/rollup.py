"""The rollup `user_days`, which all windows are summed from: what it lacks, its rows, and the tasks that write it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence, Set

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.kernel.aggregate_spec import AggregateSpec, count_column
from features.spark import workers
from features.storage import delta_tables, file_reader, file_writer, schemas, table_log, user_ranges
from features.storage.file_writer import AddedFile
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange

POINTS = "points"
_READ = ["user_id", "event_time", "event_type", "amount", "ingested_at"]
_KEYS = ["user_id", "arrival_date"]
_DAY = "day"


@dataclasses.dataclass(frozen=True)
class Update:
    """What the rollup lacks.

    Attributes:
        files: files of `events` to roll up.
        replaced: days to rebuild whole; None: all of them.
    """

    files: Sequence[TableFile]
    replaced: Set[dt.date] | None


def pending(events_uri: str, now: Sequence[TableFile], built_from: int | None) -> Update:
    """What the rollup lacks of `events`, whose active files are `now`; `built_from` is the version it was built from.

    Only the active files of the two versions are compared. Rows of a new file are added to its day; a day that has lost
    a file is rebuilt whole.
    """
    if built_from is None:
        return Update(now, None)
    try:
        before = set(table_log.active_files(events_uri, built_from))
    except DeltaError:  # the old version's log is gone: nothing to compare with
        return Update(now, None)
    replaced = {f.date for f in before - set(now)}
    return Update([f for f in now if f.date in replaced or f not in before], replaced)


def day_rows(events: pa.Table, spec: AggregateSpec) -> pa.Table:
    """Rows of `user_days` from the events of one day, without the column `day`; sums are exact decimals.

    Args:
        events: `user_id`, `event_time`, `event_type`, `amount`, `ingested_at`, and `points` (decimals, null counts as
            0) if the rule has them; in any order.
        spec: event types, and which of them is a purchase.

    Raises:
        pyarrow.ArrowInvalid: a sum does not fit its column.
    """
    kind = events["event_type"]
    bought = pc.equal(kind, spec.purchase_type)
    amount = pc.if_else(bought, events["amount"], None)
    counts = {count_column(t): pc.equal(kind, t).cast(pa.int64()) for t in spec.event_types}
    points = {POINTS: events[POINTS]} if POINTS in events.column_names else {}
    made = pa.table(
        {
            "user_id": events["user_id"],
            "arrival_date": events["ingested_at"].cast(pa.date32()),
            **counts,
            **points,
            "amount": amount,
            "square": pc.multiply(amount, amount),
            "time": events["event_time"],
            "bought_at": pc.if_else(bought, events["event_time"], None),
        }
    )
    wanted = [("user_id", "count"), *((n, "sum") for n in counts), *((n, "sum") for n in points)]
    wanted += [("amount", "sum"), ("amount", "max"), ("square", "sum")]
    wanted += [("time", "min"), ("time", "max"), ("bought_at", "max")]
    found = made.group_by(_KEYS, use_threads=False).aggregate(wanted)
    return _as_table(found.sort_by([(key, "ascending") for key in _KEYS]), spec)


def _as_table(sums: pa.Table, spec: AggregateSpec) -> pa.Table:
    table = schemas.user_days(spec.event_types)
    columns = {
        **{key: sums[key] for key in _KEYS},
        "events": sums["user_id_count"],
        **{count_column(t): sums[f"{count_column(t)}_sum"] for t in spec.event_types},
        "spend": sums["amount_sum"],
        "points": sums[f"{POINTS}_sum"] if f"{POINTS}_sum" in sums.column_names else pa.nulls(sums.num_rows),
        "largest_amount": sums["amount_max"],
        "squared_amount": sums["square_sum"],
        "first_event_time": sums["time_min"],
        "last_event_time": sums["time_max"],
        "last_purchase_time": sums["bought_at_max"],
    }
    rows = pa.table(columns).cast(table.arrow_schema.remove(table.columns.index(_DAY)))
    for name in ("spend", "points", "squared_amount"):
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.field(at), rows[name].fill_null(pa.scalar(0).cast(rows[name].type)))
    return rows


def build(
    spark: SparkSession, files: Sequence[TableFile], events_uri: str, uri: str, spec: AggregateSpec, rows_per_range: int
) -> list[AddedFile]:
    """Write the rollup of `files` of events and return its files, uncommitted.

    Args:
        spark: the session.
        files: of `events`.
        events_uri: where `events` lies.
        uri: where `user_days` lies.
        spec: event types and rule.
        rows_per_range: events that a task holds at once, about.

    Raises:
        pyspark.errors.PySparkException: a file is missing or damaged, or the points' expression fails on a value.
    """
    days: dict[dt.date, list[TableFile]] = {}
    for file in files:
        days.setdefault(file.date, []).append(file)
    counts = {day: user_ranges.ranges_needed(sum(f.rows for f in of), rows_per_range) for day, of in days.items()}
    if spec.rule.points and files:
        # Points are an SQL expression over any column, which only Spark can evaluate.
        reader = spark.read.schema(delta_tables.read(spark, events_uri).schema).option("basePath", events_uri)
        return file_writer.collected(_with_points(reader.parquet(*(f.uri for f in files)), counts, uri, spec))
    portions = [(day, users) for day, count in counts.items() for users in user_ranges.user_ranges(count)]

    def work(portion: int) -> Iterator[AddedFile]:
        day, users = portions[portion]
        rows = day_rows(_read(days[day], users), spec)
        if rows.num_rows:
            yield _write(rows, uri, day)

    return workers.found(spark, len(portions), work, _TASKS_PER_CORE * spark.sparkContext.defaultParallelism)


_TASKS_PER_CORE = 4  # several, so that a slow task does not hold up the job


def _read(files: Sequence[TableFile], users: UserRange) -> pa.Table:
    runs = [file_reader.read_range(f, users, _READ) for f in files if users.overlaps(f.first, f.last)]
    runs = runs or [schemas.events({}).arrow_schema.empty_table().select(_READ)]
    return pa.concat_tables(runs)


def pointed(events: DataFrame, spec: AggregateSpec) -> DataFrame:
    """The events for `day_rows`, with each event's points: an SQL expression, which only Spark can evaluate.

    Points that are NaN become null; points too large for a decimal fail the query.
    """
    points = f.expr(str(spec.rule.points)).cast(schemas.MONEY)
    return events.select(*_READ, points.alias(POINTS), f.col("event_date").alias(_DAY))


def _with_points(events: DataFrame, counts: dict[dt.date, int], uri: str, spec: AggregateSpec) -> DataFrame:
    place = f.conv(f.substring("user_id", 1, 4), 16, 10).cast("long")
    portion = f.floor(place * max(counts.values(), default=1) / user_ranges.SPREAD)
    rows = pointed(events, spec)

    def portion_rows(key: tuple[pa.Scalar, ...], rows: pa.Table) -> pa.Table:
        day = key[0].as_py()
        return pa.table({file_writer.FILE: [_write(day_rows(rows, spec), uri, day).to_json()]})

    return rows.groupBy(_DAY, portion).applyInArrow(workers.prompt(portion_rows), f"{file_writer.FILE} string")


def _write(rows: pa.Table, uri: str, day: dt.date) -> AddedFile:
    return file_writer.write_file(rows, uri, _DAY, day)
