"""From events to `user_days`: the rollup that every window is added up from."""

from __future__ import annotations

import dataclasses
import datetime as dt

from deltalake.exceptions import DeltaError
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features import table_files, tables
from features.aggregates import AggregateSpec, count_column


@dataclasses.dataclass(frozen=True)
class Update:
    """Which days of the rollup to write anew: all of them, or those whose events changed."""

    everything: bool
    days: tuple[dt.date, ...]

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.everything or bool(self.days)


def user_days(events: DataFrame, spec: AggregateSpec) -> DataFrame:
    """Rows of `user_days` from rows of `events`; sums are exact decimals.

    Points that are null or NaN count as 0; points too large for a decimal fail the query rather than vanish.
    """
    bought = f.col("event_type") == spec.purchase_type
    amount = f.when(bought, f.col("amount"))
    points = f.expr(spec.rule.points).cast(tables.MONEY) if spec.rule.points else f.lit(0)
    zero = f.lit(0).cast(tables.TOTAL)
    # A shuffle by day serves the groups too, and leaves each day in one task, whose file is written in order of users.
    grouped = (
        events.withColumn("day", f.col("event_date"))
        .repartition("day")
        .groupBy("user_id", f.to_date("ingested_at").alias("arrival_date"), "day")
    )
    return grouped.agg(
        f.count("*").alias("events"),
        *[f.count_if(f.col("event_type") == t).alias(count_column(t)) for t in spec.event_types],
        f.coalesce(f.sum(amount), zero).alias("spend"),
        f.coalesce(f.sum(points), zero).alias("points"),
        f.max(amount).alias("largest_amount"),
        f.coalesce(f.sum(amount * amount), f.lit(0)).alias("squared_amount"),
        f.min("event_time").alias("first_event_time"),
        f.max("event_time").alias("last_event_time"),
        f.max(f.when(bought, f.col("event_time"))).alias("last_purchase_time"),
    ).sortWithinPartitions("day", "user_id", "arrival_date")


def stale_days(events_uri: str, at: int, built_from: int | None) -> Update:
    """What changed in `events` at version `at` since the version that the rollup was built from.

    The active files of the two versions are compared: no event is read.
    """
    if built_from is None:
        return Update(True, ())
    now = set(table_files.active_files(events_uri, at))
    try:
        before = set(table_files.active_files(events_uri, built_from))
    except DeltaError:  # the old version's log is gone: nothing to compare with
        return Update(True, ())
    changed = {file.date for file in now ^ before}
    return Update(False, tuple(sorted(changed)))


def of_days(rows: DataFrame, column: str, update: Update) -> DataFrame:
    """The rows whose date is to be written anew."""
    return rows if update.everything else rows.where(f.col(column).isin(list(update.days)))


def predicate(update: Update) -> str:
    """`replaceWhere` of the days that an update writes."""
    if update.everything:
        return "true"
    return "day IN ({})".format(", ".join(f"DATE'{d.isoformat()}'" for d in update.days))
