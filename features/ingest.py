"""From source rows to accepted events, refused rows and counts. Nothing is lost: the three add up to the rows read."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence, Set

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql import types as t

from features import tables, tasks
from features.checks import DECIMAL_CAST, IDS, MONEY_CAST, Checks, cast_of
from features.pseudonyms import encrypted, pseudonyms
from features.repeats import ACCEPTED, DUPLICATE, REJECTED
from features.settings import Events, Source
from features.source import SourceRows
from features.table_files import TableFile


@dataclasses.dataclass(frozen=True)
class IngestSpec:
    """What ingest depends on beside the data."""

    source: Source
    events: Events

    @property
    def table(self) -> tables.Table:
        """The `events` table of these settings."""
        return tables.events({name: a.type for name, a in self.source.attributes.items()})

    def checks(self, columns: Sequence[str], key: bytes, now: dt.datetime) -> Checks:
        """What rows with these columns are checked by, at the run's clock."""
        events, attributes = self.events, self.source.attributes
        return Checks(
            types=events.types,
            purchase_type=events.purchase_type,
            largest_amount=events.largest_amount,
            clip=events.outliers == "clip",
            now=now,
            latest=now + dt.timedelta(minutes=events.future_tolerance_minutes),
            attributes={name: a.type for name, a in attributes.items()},
            columns=columns,
            key=key,
        )


def typed(rows: DataFrame, spec: IngestSpec) -> DataFrame:
    """Rows of the source query with the casts that `features.checks.check` takes beside them.

    What cannot be cast is null. Ids become text in place.
    """
    amount = f.col("amount")
    casts = {
        cast_of("event_time"): f.col("event_time").try_cast("timestamp"),
        MONEY_CAST: amount.try_cast("double"),
        DECIMAL_CAST: amount.try_cast(tables.MONEY.simpleString()),
    }
    for name, attribute in spec.source.attributes.items():
        if attribute.type == "numeric":
            casts[cast_of(name)] = f.col(name).try_cast("double")
        elif not isinstance(rows.schema[name].dataType, t.StringType):
            casts[cast_of(name)] = f.col(name).cast("string")
    return rows.withColumns({**{name: f.col(name).cast("string") for name in IDS}, **casts})


def near(known: Sequence[TableFile], dates: Set[dt.date], days: int) -> list[TableFile]:
    """The files of known events among which repeats are looked for: of the rows' `dates`, and `days` before the newest.

    An equal repeat has the date of the first, so all of them are found.
    """
    since = max(dates, default=dt.date.max) - dt.timedelta(days=days)
    return [file for file in known if file.date in dates or file.date >= since]


def refused_lines(malformed: DataFrame, key: bytes, now: dt.datetime) -> DataFrame:
    """Malformed source lines as `features.rejections.of_lines` takes them.

    They are encrypted because nobody knows where the id stands.
    """
    schema = "source STRING, content STRING, original STRING, ingested_at TIMESTAMP"

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = {
                "source": batch["source"],
                "content": pseudonyms(batch["line"], key),
                "original": batch["original"],
                "ingested_at": pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows),
            }
            yield pa.record_batch(columns)

    lines = malformed.withColumn("original", f.col("line"))
    return tasks.mapped(encrypted(malformed.sparkSession, lines, "original", key), task, schema)


Counts = Mapping[tuple[str, str | None, dt.date | None], int]
"""Rows by status, type and date, see `features.repeats.counts`."""


def by_status(counts: Counts) -> dict[str, int]:
    """Rows by status, always all three."""
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
