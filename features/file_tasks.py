"""Portions of work as Spark tasks that write files themselves: no row becomes a JVM object, files come back as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession

from features import tasks
from features.table_files import AddedFile

FILE = "file"


def files(
    spark: SparkSession, portions: int, work: Callable[[int], Iterator[AddedFile]], most_tasks: int | None = None
) -> list[AddedFile]:
    """The files that `work` has written for each portion, not yet committed; see `features.tasks.rows`."""

    def written(portion: int) -> tasks.Batches:
        for file in work(portion):
            yield pa.record_batch({FILE: [file.to_json()]})

    return collected(tasks.rows(spark, portions, written, f"{FILE} string", most_tasks))


def collected(written: DataFrame) -> list[AddedFile]:
    """The files that the rows of a frame of `FILE` name, one each, as JSON."""
    return added(written.collect())


def added(written: Sequence[Row]) -> list[AddedFile]:
    """The files that collected rows name in `FILE`, one each, as JSON."""
    return [AddedFile.from_json(row[FILE]) for row in written]
