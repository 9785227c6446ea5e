"""What ingest depends on, and the rows that it hands to the checks: source rows with their casts, malformed lines."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql import types as t

from features.ingest.checks import DECIMAL_CAST, IDS, MONEY_CAST, Checks, cast_of
from features.ingest.pseudonyms import encrypted, pseudonyms
from features.settings.source import Events, Source
from features.spark import workers
from features.storage import schemas


@dataclasses.dataclass(frozen=True)
class IngestSpec:
    """What ingest depends on beside the data."""

    source: Source
    events: Events

    @property
    def table(self) -> schemas.Table:
        """The `events` table of these settings."""
        return schemas.events({name: a.type for name, a in self.source.attributes.items()})

    def checks(self, columns: Sequence[str], key: bytes, now: dt.datetime) -> Checks:
        """What rows with these columns are checked against, at the run's clock `now`."""
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
    """Rows of the source query with the casts that `features.ingest.checks.check` needs beside them.

    A value that cannot be cast is null. Ids become text in place.
    """
    amount = f.col("amount")
    casts = {
        cast_of("event_time"): f.col("event_time").try_cast("timestamp"),
        MONEY_CAST: amount.try_cast("double"),
        DECIMAL_CAST: amount.try_cast(schemas.MONEY.simpleString()),
    }
    for name, attribute in spec.source.attributes.items():
        if attribute.type == "numeric":
            casts[cast_of(name)] = f.col(name).try_cast("double")
        elif not isinstance(rows.schema[name].dataType, t.StringType):
            casts[cast_of(name)] = f.col(name).cast("string")
    return rows.withColumns({**{name: f.col(name).cast("string") for name in IDS}, **casts})


def refused_lines(malformed: DataFrame, key: bytes, now: dt.datetime) -> DataFrame:
    """Malformed source lines for `features.ingest.rejections.of_lines`.

    They are encrypted because it is not known where the id stands in them.
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
    return workers.mapped(encrypted(malformed.sparkSession, lines, "original", key), task, schema)
