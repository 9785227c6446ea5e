"""Portions of work as Spark tasks that read and write files themselves: no row becomes a JVM object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.types import StructType

from features.table_files import AddedFile

FILE = "file"


def rows(
    spark: SparkSession,
    portions: int,
    work: Callable[[int], Iterator[pa.RecordBatch]],
    schema: StructType | str,
    tasks: int | None = None,
) -> DataFrame:
    """The rows that `work` yields for each portion's number, as a frame that is computed when it is used.

    Args:
        spark: the session.
        portions: how many there are, numbered from 0.
        work: runs in Python workers, so it must be picklable.
        schema: of its rows.
        tasks: as many portions are worked on by one task after another; None: each has a task of its own.
    """

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pa.set_cpu_count(1)  # Spark gives a task one core
        for batch in batches:
            for portion in batch["id"].to_pylist():
                yield from work(portion)

    return spark.range(0, portions, 1, max(1, min(portions, tasks or portions))).mapInArrow(task, schema)


def files(
    spark: SparkSession, portions: int, work: Callable[[int], Iterator[AddedFile]], tasks: int | None = None
) -> list[AddedFile]:
    """The files that `work` has written for each portion, not yet committed; see `rows`."""

    def written(portion: int) -> Iterator[pa.RecordBatch]:
        for file in work(portion):
            yield pa.record_batch({FILE: [file.to_json()]})

    return collected(rows(spark, portions, written, f"{FILE} string", tasks))


def collected(written: DataFrame) -> list[AddedFile]:
    """The files that the rows of a frame of `FILE` name, one each, as JSON."""
    return added(written.collect())


def added(written: Sequence[Row]) -> list[AddedFile]:
    """The files that collected rows name in `FILE`, one each, as JSON."""
    return [AddedFile.from_json(row[FILE]) for row in written]
