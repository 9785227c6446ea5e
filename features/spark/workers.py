"""Runs functions as Spark tasks, over Arrow batches or numbered portions, and sets up the Python workers."""

from __future__ import annotations

import atexit
import functools
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

Batches = Iterator[pa.RecordBatch]
T = TypeVar("T")
Work = TypeVar("Work", bound=Callable[..., Any])

_SEGMENT = 1 << 16  # bytes: the longest segment of the loopback interface


def mapped(frame: DataFrame, work: Callable[[Batches], Batches], schema: StructType | str) -> DataFrame:
    """`frame.mapInArrow` in workers that use one core and leave their libraries out of garbage collection.

    Args:
        frame: rows whose batches the tasks get.
        work: maps a task's batches to batches of the result; must be picklable.
        schema: schema of the result.
    """

    def task(batches: Batches) -> Batches:
        _settle()
        yield from work(batches)

    return frame.mapInArrow(prompt(task), schema)


@functools.cache
def _settle() -> None:
    """Set up a worker, once: at its first task it has imported what all tasks need."""
    pa.set_cpu_count(1)  # Spark gives a task one core
    keep_loaded()


def prompt(work: Work) -> Work:
    """Pad a function for Spark's Python workers to a TCP segment, so that its task begins 40 ms earlier.

    Spark sends a worker the function, then the first rows. The rows wait until the function is acknowledged (Nagle's
    algorithm), and data shorter than a segment is acknowledged late (RFC 1122, 4.2.3.2). SPARK-51667 is similar.
    """
    vars(work)["filler"] = bytes(_SEGMENT)
    return work


def keep_loaded() -> None:
    """Leave what this process has loaded out of garbage collection, which Spark's workers run after each task.

    Libraries are never freed, and scanning them takes 10 ms, with TensorFlow some 100 ms.
    """
    gc.unfreeze()  # so that objects of an earlier call that are free now are collected
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries look for leaks at exit


def rows(
    spark: SparkSession,
    portions: int,
    work: Callable[[int], Batches],
    schema: StructType | str,
    most_tasks: int | None = None,
) -> DataFrame:
    """The rows that `work` yields for each portion's number, as a frame that is computed when it is used.

    Args:
        spark: the session.
        portions: number of portions, numbered from 0.
        work: runs in Python workers; must be picklable.
        schema: schema of its rows.
        most_tasks: number of tasks, each of which takes several portions; None: a task for each portion.
    """

    def task(batches: Batches) -> Batches:
        for batch in batches:
            for portion in batch["id"].to_pylist():
                yield from work(portion)

    return mapped(spark.range(0, portions, 1, _at_once(portions, most_tasks)), task, schema)


def found(
    spark: SparkSession, portions: int, work: Callable[[int], Iterable[T]], most_tasks: int | None = None
) -> list[T]:
    """Results of `work` for each portion's number, as a list on the driver; for small results, such as names of files.

    An RDD needs no query plan, which saves some 10 ms of each job.

    Args:
        spark: the session.
        portions: number of portions, numbered from 0.
        work: runs in Python workers; it and its results must be picklable.
        most_tasks: see `rows`.
    """

    def task(numbers: Iterable[int]) -> Iterable[T]:
        _settle()
        for number in numbers:
            yield from work(number)

    numbers = spark.sparkContext.parallelize(range(portions), _at_once(portions, most_tasks))
    return numbers.mapPartitions(prompt(task)).collect()


def _at_once(portions: int, most_tasks: int | None) -> int:
    return max(1, min(portions, most_tasks or portions))
