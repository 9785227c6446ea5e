"""The Spark shell around the pure kernels: buckets of users in, rows of `sequences` and `outcomes` out.

Users are hashed into buckets of bounded size and each bucket is one call of a kernel, so what a task holds follows
from `sequence.events_per_bucket`, not from the data. Before the shuffle each task cuts a user's events to the last L:
a user with a million events sends no more than that.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from features import delta, tables
from features.aggregates import AggregateSpec, kernel_day_columns
from features.contract import Contract
from features.errors import DateError
from features.outcomes import horizon_end, outcome_rows
from features.sequences import SequenceSpec, build_sequences, cut_to_last
from features.tiers import MICROS

_BUCKET = "_bucket"  # no attribute can have this name


def known(rows: DataFrame, date_column: str, arrival: Column, as_of: dt.date, known_by: str) -> DataFrame:
    """Rows of the days before `as_of`, and with `known_by` ingested_at only those that had arrived by then."""
    rows = rows.where(f.col(date_column) < f.lit(as_of))
    return rows.where(f.to_date(arrival) < f.lit(as_of)) if known_by == "ingested_at" else rows


def sequences(
    events: DataFrame, days: DataFrame, as_of: dt.date, spec: SequenceSpec, events_per_bucket: int, event_count: int
) -> DataFrame:
    """Rows of `sequences` (without `inputs_id`) for every user known before `as_of`.

    Args:
        events: rows of `events`.
        days: rows of `user_days`.
        as_of: the as-of date.
        spec: contract, windows, tier rule.
        events_per_bucket: about how many events one task may hold.
        event_count: rows of `events`, from the table's statistics.
    """
    contract = spec.contract
    events = known(events, "event_date", f.col("ingested_at"), as_of, contract.known_by)
    days = known(days, "day", f.col("arrival_date"), as_of, contract.known_by)
    columns = ["user_id", "event_id", "event_time", *contract.numeric, *contract.categorical]
    narrow = events.select(*[f.col(c).cast("double") if c in contract.numeric else f.col(c) for c in columns])
    buckets = max(1, math.ceil(event_count / events_per_bucket))
    table = tables.sequences(contract, dict.fromkeys(contract.aggregates, ""))
    fields = [x for x in table.fields if x.name != "inputs_id"]
    out = to_arrow_schema(StructType(fields))

    def kernel(events_of_bucket: pa.Table, days_of_bucket: pa.Table) -> pa.Table:
        found = build_sequences(events_of_bucket, days_of_bucket, as_of, spec)
        return found.select(out.names).cast(out)

    cut = narrow.mapInArrow(_map_side_cut(contract), narrow.schema)
    left, right = _bucketed(cut, buckets), _bucketed(_kernel_days(days, spec.aggregates), buckets)
    return left.groupBy(_BUCKET).cogroup(right.groupBy(_BUCKET)).applyInArrow(_drop_bucket(kernel), StructType(fields))


def outcomes(
    days: DataFrame, as_of: dt.date, horizon_days: int, spec: AggregateSpec, known_by: str, buckets: int
) -> DataFrame:
    """Rows of `outcomes` (without `inputs_id`): the tier rule over the window that starts at `as_of`.

    Users are those known before `as_of`; one without events in the window has the lowest tier.
    """
    end = horizon_end(as_of, horizon_days)
    users = known(days, "day", f.col("arrival_date"), as_of, known_by).select("user_id").distinct()
    window = days.where(f.col("day").between(f.lit(as_of), f.lit(end - dt.timedelta(days=1))))
    fields = [x for x in tables.OUTCOMES.fields if x.name != "inputs_id"]
    out = to_arrow_schema(StructType(fields))

    def kernel(users_of_bucket: pa.Table, days_of_bucket: pa.Table) -> pa.Table:
        return (
            outcome_rows(users_of_bucket["user_id"].combine_chunks(), days_of_bucket, as_of, end, spec)
            .select(out.names)
            .cast(out)
        )

    left, right = _bucketed(users, buckets), _bucketed(_kernel_days(window, spec), buckets)
    return left.groupBy(_BUCKET).cogroup(right.groupBy(_BUCKET)).applyInArrow(_drop_bucket(kernel), StructType(fields))


def check_known(days: DataFrame, as_of: dt.date) -> None:
    """Raise DateError unless some event lies before `as_of`."""
    first = delta.scalar(days.agg(f.min("day")))
    if first is None:
        raise DateError("there are no events yet: run ingest_events first")
    if first >= as_of:
        raise DateError(f"as-of date {as_of} lies before all data: the first event is of {first}")


def _map_side_cut(contract: Contract) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    length = contract.length

    def cut(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Fold batch by batch: what is held is one batch and at most L events of each user seen so far,
        # flushed when it has grown to a few batches.
        held: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            held.append(batch)
            rows += batch.num_rows
            if rows >= _FOLD_ROWS:
                folded = cut_to_last(pa.Table.from_batches(held), length)
                if folded.num_rows > _FOLD_ROWS // 2:  # mostly distinct users: nothing more to gain by holding them
                    yield from folded.to_batches()
                    held, rows = [], 0
                else:
                    held, rows = folded.to_batches(), folded.num_rows
        if held:
            yield from cut_to_last(pa.Table.from_batches(held), length).to_batches()

    return cut


_FOLD_ROWS = 200_000  # rows of about 100 bytes: 20 MB


def _bucketed(rows: DataFrame, buckets: int) -> DataFrame:
    return rows.withColumn(_BUCKET, f.pmod(f.xxhash64("user_id"), f.lit(buckets)).cast("int"))


def _drop_bucket(kernel: Callable[[pa.Table, pa.Table], pa.Table]) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def applied(left: pa.Table, right: pa.Table) -> pa.Table:
        return kernel(left.drop_columns([_BUCKET]), right.drop_columns([_BUCKET]))

    return applied


def _kernel_days(days: DataFrame, spec: AggregateSpec) -> DataFrame:
    """Rollup rows as the kernels take them: money in micro-units, times in microseconds."""
    forms = {
        "spend": (f.col("spend") * MICROS).cast("long"),
        "points": (f.col("points") * MICROS).cast("long"),
        "largest_amount": (f.col("largest_amount") * MICROS).cast("long"),
        "squared_amount": f.col("squared_amount").cast("double"),
        "first_event_us": f.unix_micros("first_event_time"),
        "last_event_us": f.unix_micros("last_event_time"),
        "last_purchase_us": f.unix_micros("last_purchase_time"),
    }
    return days.select(*[forms.get(c, f.col(c)).alias(c) for c in kernel_day_columns(spec.event_types)])
