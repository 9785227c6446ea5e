"""Arrays, window aggregates and current tier of one as-of date, as the job writes them, by Spark SQL and by Polars.

Both start from `events`, as their users would. They leave out one column, `tier_age_days`, which needs the tier on
every day of the past.
"""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f

from bench.speed import sequences
from bench.speed.sequences import CHANNELS, ORDER, emptied
from features.core.contract import AGE, array_column
from features.kernel.aggregates import aggregate_columns
from features.kernel.sequences import SequenceSpec
from features.kernel.tiers import MICROS
from features.storage import delta_tables

LEFT_OUT = "tier_age_days"


def wanted(spec: SequenceSpec) -> list[str]:
    """The aggregate columns that all ways compute."""
    return [c for c in aggregate_columns(spec.aggregates) if c != LEFT_OUT]


def spark_sql(spark: SparkSession, place: str, out: str, as_of: dt.date, spec: SequenceSpec) -> None:
    """Days grouped first, windows summed from them, lists collected beside; joined by user, written by Delta."""
    events = delta_tables.read(spark, place).where(f.col("event_date") < f.lit(as_of))
    users = _spark_windows(_spark_days(events, spec), as_of, spec)
    rows = sequences.spark_lists(events, as_of, spec.contract.length).join(users, "user_id")
    rows.write.format("delta").save(emptied(out))


def _spark_days(events: DataFrame, spec: SequenceSpec) -> DataFrame:
    bought = f.col("event_type") == spec.aggregates.purchase_type
    amount = f.when(bought, f.col("amount"))
    days = events.groupBy("user_id", "event_date").agg(
        *[f.count_if(f.col("event_type") == t).alias(t) for t in spec.aggregates.event_types],
        f.sum(amount).alias("spend"),
        f.max(amount).alias("largest"),
        f.sum(amount.cast("double") ** 2).alias("square"),
        f.min("event_time").alias("first"),
        f.max("event_time").alias("last"),
        f.max(f.when(bought, f.col("event_time"))).alias("bought"),
    )
    bought_before = f.last(f.when(f.col(spec.aggregates.purchase_type) > 0, f.col("event_date")), ignorenulls=True)
    window = Window.partitionBy("user_id").orderBy("event_date").rowsBetween(Window.unboundedPreceding, -1)
    gap = f.when(f.col(spec.aggregates.purchase_type) > 0, f.datediff("event_date", bought_before.over(window)))
    return days.withColumn("gap", gap)


def _spark_windows(days: DataFrame, as_of: dt.date, spec: SequenceSpec) -> DataFrame:
    a = spec.aggregates
    instant = f.unix_micros(f.lit(dt.datetime.combine(as_of, dt.time(), dt.UTC)))
    age = f.datediff(f.lit(as_of), f.col("event_date"))

    def within(window: int, value: Column) -> Column:
        return f.coalesce(f.sum(f.when(age <= window, value)), f.lit(0)).cast("double")

    def since(column: Column) -> Column:
        return (instant - f.unix_micros(column)) / f.lit(86_400_000_000.0)

    count, spend = f.sum(a.purchase_type), f.sum("spend").cast("double")
    mean = spend / f.nullif(count, f.lit(0))
    columns = {}
    for w in a.windows_days:
        columns[f"spend_{w}d"] = within(w, f.col("spend"))
        columns[f"active_days_{w}d"] = within(w, f.lit(1))
        columns |= {f"{t}_{w}d": within(w, f.col(t)) for t in a.event_types}
    columns |= {
        "recency_days": since(f.max("last")),
        "purchase_recency_days": since(f.max("bought")),
        "tenure_days": since(f.min("first")),
        "amount_mean": mean,
        "amount_max": f.max("largest").cast("double"),
        "amount_std": f.when(count > 0, f.sqrt(f.greatest(f.sum("square") / count - mean**2, f.lit(0.0)))),
        "gap_mean_days": f.avg("gap"),
        "gap_std_days": f.stddev_pop("gap"),
    }
    users = days.groupBy("user_id").agg(*[c.alias(n) for n, c in columns.items()])
    for low, high in itertools.pairwise(a.windows_days):
        rest = (f.col(f"spend_{high}d") - f.col(f"spend_{low}d")) / (high - low)
        users = users.withColumn(f"trend_{low}d_{high}d", f.col(f"spend_{low}d") / low - rest)
    spent, tier, share = f.col(f"spend_{a.rule.window_days}d"), f.lit(a.rule.names[0]), f.lit(0.0)
    for name, limit in zip(a.rule.names[1:], a.rule.thresholds["spend"], strict=True):
        tier = f.when(spent >= limit / MICROS, f.lit(name)).otherwise(tier)
    for limit in reversed(a.rule.thresholds["spend"]):
        share = f.when(spent < limit / MICROS, 1 - spent / (limit / MICROS)).otherwise(share)
    return users.withColumns({"current_tier": tier, "tier_spend": spent, "tier_gap_share": share})


def polars(files: list[str], out: str, as_of: dt.date, spec: SequenceSpec) -> None:
    """The same by the eager engine of Polars, its fastest here."""
    instant = dt.datetime.combine(as_of, dt.time(), dt.UTC)
    scanned = pl.scan_parquet(files, hive_partitioning=False).select(*ORDER, *CHANNELS)
    events = scanned.filter(pl.col("event_time") < instant).collect()
    days = _polars_days(events, spec)
    users = _polars_windows(days, as_of, spec)
    length = spec.contract.length
    age = ((pl.lit(instant) - pl.col("event_time")).dt.total_microseconds() // 1_000_000).alias(AGE)
    numbers = [pl.col(c).cast(pl.Float32).tail(length).alias(array_column(c)) for c in CHANNELS[:2]]
    words = [pl.col(c).tail(length).alias(array_column(c)) for c in CHANNELS[2:]]
    count = pl.len().clip(upper_bound=length).cast(pl.Int32).alias("length")
    lists = events.lazy().sort(ORDER).group_by("user_id", maintain_order=True)
    lists.agg(count, age.tail(length), *numbers, *words).join(users.lazy(), on="user_id").collect().write_delta(
        emptied(out)
    )


def _polars_days(events: pl.DataFrame, spec: SequenceSpec) -> pl.DataFrame:
    bought = pl.col("event_type") == spec.aggregates.purchase_type
    amount = pl.when(bought).then(pl.col("amount"))
    return (
        events.lazy()
        .group_by("user_id", pl.col("event_time").dt.date().alias("day"))
        .agg(
            *[(pl.col("event_type") == t).sum().cast(pl.Int64).alias(t) for t in spec.aggregates.event_types],
            amount.sum().alias("spend"),
            amount.max().alias("largest"),
            (amount.cast(pl.Float64) ** 2).sum().alias("square"),
            pl.col("event_time").min().alias("first"),
            pl.col("event_time").max().alias("last"),
            pl.col("event_time").filter(bought).max().alias("bought"),
        )
        .sort("user_id", "day")
        .collect()
    )


def _polars_windows(days: pl.DataFrame, as_of: dt.date, spec: SequenceSpec) -> pl.DataFrame:
    a = spec.aggregates
    instant = pl.lit(dt.datetime.combine(as_of, dt.time(), dt.UTC))
    purchases, spend = pl.col(a.purchase_type), pl.col("spend").cast(pl.Float64)
    gap = pl.col("day").filter(purchases > 0).diff().dt.total_days().cast(pl.Float64)

    def since(column: pl.Expr) -> pl.Expr:
        return (instant - column).dt.total_microseconds() / 86_400_000_000.0

    columns: dict[str, pl.Expr] = {}
    for w in a.windows_days:
        inside = pl.col("day") >= as_of - dt.timedelta(days=w)
        columns[f"spend_{w}d"] = spend.filter(inside).sum()
        columns[f"active_days_{w}d"] = inside.sum().cast(pl.Float64)
        columns |= {f"{t}_{w}d": pl.col(t).filter(inside).sum().cast(pl.Float64) for t in a.event_types}
    mean = spend.sum() / purchases.sum()
    columns |= {
        "recency_days": since(pl.col("last").max()),
        "purchase_recency_days": since(pl.col("bought").max()),
        "tenure_days": since(pl.col("first").min()),
        "amount_mean": mean,
        "amount_max": pl.col("largest").max().cast(pl.Float64),
        "amount_std": (pl.col("square").sum() / purchases.sum() - mean**2).clip(lower_bound=0).sqrt(),
        "gap_mean_days": gap.mean(),
        "gap_std_days": pl.when(gap.count() > 0).then(gap.std(ddof=0)),
    }
    users = days.lazy().group_by("user_id").agg(c.alias(n) for n, c in columns.items())
    users = users.with_columns(
        (pl.col(f"spend_{low}d") / low - (pl.col(f"spend_{high}d") - pl.col(f"spend_{low}d")) / (high - low)).alias(
            f"trend_{low}d_{high}d"
        )
        for low, high in itertools.pairwise(a.windows_days)
    )
    spent, tier, share = pl.col(f"spend_{a.rule.window_days}d"), pl.lit(a.rule.names[0]), pl.lit(0.0)
    for name, limit in zip(a.rule.names[1:], a.rule.thresholds["spend"], strict=True):
        tier = pl.when(spent >= limit / MICROS).then(pl.lit(name)).otherwise(tier)
    for limit in reversed(a.rule.thresholds["spend"]):
        share = pl.when(spent < limit / MICROS).then(1 - spent / (limit / MICROS)).otherwise(share)
    named = {"current_tier": tier, "tier_spend": spent, "tier_gap_share": share}
    return users.with_columns(c.alias(n) for n, c in named.items()).collect()


def check_equal(place: str, other: str, spec: SequenceSpec) -> None:
    """Raise AssertionError unless two outputs have equal arrays and tiers, and aggregates within rounding."""
    if not sequences.rows_of(place).combine_chunks().equals(sequences.rows_of(other).combine_chunks()):
        raise AssertionError(f"{other}: other arrays")
    mine, theirs = (_flat(p, spec) for p in (place, other))
    if not mine["current_tier"].combine_chunks().equals(theirs["current_tier"].combine_chunks()):
        raise AssertionError(f"{other}: other tiers")
    for name in wanted(spec):
        a, b = (_numbers(rows[name]) for rows in (mine, theirs))
        # Deviations are differences of large sums, which each engine adds in its own order.
        if not np.allclose(a, b, rtol=1e-6, atol=1e-3 if "_std" in name else 1e-6, equal_nan=True):
            raise AssertionError(f"{other}: other values of {name}")


def _flat(place: str, spec: SequenceSpec) -> pa.Table:
    columns = ["user_id", "current_tier", *wanted(spec)]
    parts = [pq.ParquetFile(p).read(columns=columns) for p in sorted(Path(place).rglob("*.parquet"))]
    plain = [
        pa.table({n: p[n].cast(pa.string() if i < 2 else pa.float64()) for i, n in enumerate(columns)}) for p in parts
    ]
    return pa.concat_tables(plain).sort_by("user_id")


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(), np.float64)
