"""Work as Spark tasks that run pure functions over Arrow batches: what all Python workers have in common."""

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

_SEGMENT = 1 << 16  # bytes, the longest that the loopback interface sends at once


def mapped(frame: DataFrame, work: Callable[[Batches], Batches], schema: StructType | str) -> DataFrame:
    """`frame.mapInArrow`, in workers that take one core and do not look for garbage among their libraries.

    Args:
        frame: what each task's batches are of.
        work: from a task's batches to its result's; must be picklable.
        schema: of the result.
    """

    def task(batches: Batches) -> Batches:
        _settle()
        yield from work(batches)

    return frame.mapInArrow(prompt(task), schema)


@functools.cache
def _settle() -> None:
    """Once in a worker, which has imported by its first task what all need."""
    pa.set_cpu_count(1)  # Spark gives a task one core
    keep_loaded()


def prompt(work: Work) -> Work:
    """Let a task begin 40 ms earlier: a function that Spark pickles for its Python workers, made a segment long.

    Spark sends a worker the function, then the first rows. The rows wait until the function is acknowledged (Nagle's
    algorithm), and what is shorter than a segment is acknowledged late (RFC 1122, 4.2.3.2). SPARK-51667 is of the same
    kind.
    """
    vars(work)["filler"] = bytes(_SEGMENT)
    return work


def keep_loaded() -> None:
    """Take what this worker has loaded out of the collection of garbage, which Spark's workers do after each task.

    It stays in any case, and to look through it takes a hundredth of a second, with TensorFlow some tenths.
    """
    gc.unfreeze()  # what an earlier call kept and nobody holds any more
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that look for leaks at the end would call it one


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
        portions: how many there are, numbered from 0.
        work: runs in Python workers, so it must be picklable.
        schema: of its rows.
        most_tasks: so many tasks take one portion after another; None: each portion has a task of its own.
    """

    def task(batches: Batches) -> Batches:
        for batch in batches:
            for portion in batch["id"].to_pylist():
                yield from work(portion)

    return mapped(spark.range(0, portions, 1, _at_once(portions, most_tasks)), task, schema)


def found(
    spark: SparkSession, portions: int, work: Callable[[int], Iterable[T]], most_tasks: int | None = None
) -> list[T]:
    """What `work` finds for each portion's number, on the driver: little, such as the names of files it has written.

    No plan is made for it as for a frame, which would take some hundredths of a second of each job.

    Args:
        spark: the session.
        portions: how many there are, numbered from 0.
        work: runs in Python workers; it and what it finds must be picklable.
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
