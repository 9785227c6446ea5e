"""Row counts of an ingest by status, date, type and source: accepted, refused and duplicates make up the rows read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.ingest.repeats import ACCEPTED, DUPLICATE, REJECTED
from features.ingest.sources import SourceRows

Counts = Mapping[tuple[str, str | None, dt.date | None], int]
"""Rows by status, type and date, see `counts`."""


def by_status(counts: Counts) -> dict[str, int]:
    """Rows by status: accepted, refused and duplicates, 0 where there are none."""
    found = dict.fromkeys((ACCEPTED, REJECTED, DUPLICATE), 0)
    for (status, _, _), rows in counts.items():
        if status in found:
            found[status] += rows
    return found


def by_date(counts: Counts) -> dict[dt.date, int]:
    """Accepted events by date."""
    found: dict[dt.date, int] = {}
    for (_, _, day), rows in counts.items():
        if day is not None:
            found[day] = found.get(day, 0) + rows
    return found


def by_type(counts: Counts) -> dict[str, int]:
    """Accepted events by type, named `accepted.TYPE`."""
    found: dict[str, int] = {}
    for (_, kind, _), rows in counts.items():
        if kind is not None:
            found[f"accepted.{kind}"] = found.get(f"accepted.{kind}", 0) + rows
    return found


def by_source(source: SourceRows) -> dict[str, int]:
    """Rows of each source table, named `source.TABLE`."""
    return {f"source.{name}": rows.count() for name, rows in source.tables.items()}


def counts(rows: DataFrame) -> Counts:
    """Rows of `shards.settled` by status, accepted ones by type and date too; `READ` are the rows of the shuffle."""
    keys = ("status", "event_type", "event_date")
    found = rows.where("blob IS NULL").groupBy(*keys).agg(f.sum("rows").alias("rows")).collect()
    return {(row["status"], row["event_type"], row["event_date"]): row["rows"] for row in found}
