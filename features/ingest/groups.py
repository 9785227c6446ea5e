"""Reads the groups of members for the evaluation of fairness, and pseudonymises their ids on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import SourceError
from features.ingest.pseudonyms import of_ids
from features.ingest.sources import ID_TYPES, MALFORMED, WORD_TYPES, column_problems, open_table
from features.settings.source import Groups
from features.spark import workers
from features.storage.failures import source_errors


def read_groups(spark: SparkSession, groups: Groups, key: bytes) -> DataFrame:
    """One row per member: the pseudonym as `user_id`, and each attribute as text, null where it is not known.

    Raises:
        SourceError: a table cannot be read, or the query or its columns are wrong.
    """
    for name, table in groups.tables.items():
        with source_errors(f"fairness table {name!r} ({table.uri})"):
            rows = open_table(spark, table)
            if MALFORMED in rows.columns:
                # Parse all columns once: which lines are malformed depends on the columns that are parsed.
                rows = rows.persist(StorageLevel.DISK_ONLY).where(f.col(MALFORMED).isNull()).drop(MALFORMED)
            rows.createOrReplaceTempView(name)
    with source_errors("fairness.groups.query"):
        found = spark.sql(groups.query)
    accepted = {"user_id": ID_TYPES, **dict.fromkeys(groups.attributes, WORD_TYPES)}
    problems = column_problems(found, accepted, "neither user_id nor under fairness.groups.attributes")
    if problems:
        raise SourceError("\n".join(["fairness.groups.query does not yield groups:", *(f"  - {p}" for p in problems)]))
    # Raw ids stay within this plan: only pseudonyms leave it.
    words = found.select(*[f.col(name).cast("string").alias(name) for name in ("user_id", *groups.attributes)])

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.set_column(batch.schema.get_field_index("user_id"), "user_id", of_ids(batch["user_id"], key))

    return workers.mapped(words, task, words.schema)
