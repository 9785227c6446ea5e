"""Quality gates of an ingest: a batch that does not pass them is not written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping

import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as f

from features.core.errors import QualityGateError
from features.ingest.repeats import ACCEPTED, DUPLICATE, REJECTED
from features.settings.source import Quality

_SAMPLES = 3  # rows shown for each reason


def check_gates(
    counts: Mapping[str, int],
    rejected: DataFrame,
    known_days: Mapping[dt.date, int],
    new_days: Mapping[dt.date, int],
    gates: Quality,
    now: dt.datetime,
) -> None:
    """Check a batch against the quality gates.

    Args:
        counts: rows by status, see `features.ingest.row_counts.by_status`.
        rejected: rows of `events_rejected` of this batch.
        known_days: events in the table by UTC date.
        new_days: accepted events of this batch by UTC date.
        gates: settings; a gate without a value is not checked.
        now: the run's clock, aware.

    Raises:
        QualityGateError: with the gates that failed, and for each reason the number of refused rows and samples.
    """
    day_counts = {d: known_days.get(d, 0) + new_days.get(d, 0) for d in {*known_days, *new_days}}
    problems = [
        *_nothing_left(counts),
        *_share_problems(counts, gates),
        *_day_problems(day_counts, new_days, gates),
        *_freshness_problems(day_counts, gates, now),
    ]
    if problems:
        lines = [*(f"  - {p}" for p in problems), *_reason_lines(rejected)]
        raise QualityGateError("\n".join(["the batch did not pass the quality gates; no event was written:", *lines]))


def _nothing_left(counts: Mapping[str, int]) -> list[str]:
    if counts[ACCEPTED] or counts[DUPLICATE] or not counts[REJECTED]:
        return []
    return [f"all {counts[REJECTED]} rows were refused: nothing is left to write"]


def _share_problems(counts: Mapping[str, int], gates: Quality) -> list[str]:
    read = counts[ACCEPTED] + counts[REJECTED] + counts[DUPLICATE]
    if gates.largest_rejected_share is None or not read:
        return []
    share = counts[REJECTED] / read
    if share <= gates.largest_rejected_share:
        return []
    return [
        f"{counts[REJECTED]} of {read} rows were refused: {share:.1%}, allowed are {gates.largest_rejected_share:.1%}"
    ]


def _day_problems(day_counts: Mapping[dt.date, int], new_days: Collection[dt.date], gates: Quality) -> list[str]:
    if gates.day_rows_against_median is None or not day_counts:
        return []
    low, high = gates.day_rows_against_median
    days = pd.Series(dict(day_counts)).sort_index()
    days.index = pd.to_datetime(days.index)
    days = days.asfreq("D", fill_value=0)
    # Undefined until enough days lie before.
    median = days.rolling(gates.median_days).median().shift(1).replace(0, float("nan"))
    odd = days[(days < low * median) | (days > high * median)]
    return [
        f"{day.date()} has {rows} events, the median of the {gates.median_days} days before it is "
        f"{median[day]:.0f}: allowed are {low:g} to {high:g} times the median"
        for day, rows in zip(pd.DatetimeIndex(odd.index), odd, strict=True)
        if day.date() in new_days
    ]


def _freshness_problems(day_counts: Mapping[dt.date, int], gates: Quality, now: dt.datetime) -> list[str]:
    if gates.freshest_event_days is None or not day_counts:
        return []
    newest = max(day_counts)
    age = (now.date() - newest).days
    if age <= gates.freshest_event_days:
        return []
    return [f"the newest event is of {newest}, {age} days old: allowed are {gates.freshest_event_days}"]


def _reason_lines(rejected: DataFrame) -> list[str]:
    """Lines with the number of refused rows and samples of each reason; Spark returns a row per reason."""
    by_reason = rejected.select(f.explode("reasons").alias("reason"), f.substring("original", 1, 200).alias("sample"))
    group = Window.partitionBy("reason")
    ranked = by_reason.select(
        "reason",
        "sample",
        f.row_number().over(group.orderBy("sample")).alias("nth"),
        f.count("*").over(group).alias("n"),
    )
    found = (
        ranked.where(f.col("nth") <= _SAMPLES)
        .groupBy("reason", "n")
        .agg(f.sort_array(f.collect_list("sample")).alias("samples"))
    )
    lines = []
    for row in found.orderBy(f.desc("n"), "reason").collect():
        lines.append(f"  refused as {row['reason']}: {row['n']}")
        lines += [f"      {sample}" for sample in row["samples"]]
    return lines
