"""Tasks in Python workers: their setup, their results, their errors."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.core.errors import StorageError
from features.spark import workers
from features.storage.failures import failure_in_words


def test_a_worker_takes_one_core_and_leaves_its_libraries_out_of_collections(spark: SparkSession) -> None:
    def work(portion: int) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"portion": [portion], "cores": [pa.cpu_count()], "kept": [gc.get_freeze_count()]})

    found = workers.rows(spark, 5, work, "portion LONG, cores LONG, kept LONG", most_tasks=2).collect()
    assert sorted(row["portion"] for row in found) == [0, 1, 2, 3, 4]
    assert {row["cores"] for row in found} == {1}
    assert all(row["kept"] > 10_000 for row in found)


def test_what_tasks_find_comes_in_order_from_the_workers_that_make_frames(spark: SparkSession) -> None:
    def work(portion: int) -> Iterator[tuple[int, int, int]]:
        for turn in range(portion):
            yield portion, turn, os.getpid()

    def frame(portion: int) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"portion": [portion], "process": [os.getpid()]})

    found = workers.found(spark, 7, work, most_tasks=3)
    assert [row[:2] for row in found] == [(k, turn) for k in range(7) for turn in range(k)]
    of_frames = {row["process"] for row in workers.rows(spark, 7, frame, "portion LONG, process LONG").collect()}
    assert {process for *_, process in found} <= of_frames


def test_what_a_task_cannot_read_is_named_where_the_job_ends(spark: SparkSession) -> None:
    def work(portion: int) -> Iterator[int]:
        raise StorageError(f"cannot read file-{portion}.parquet: it is missing or damaged")

    with pytest.raises(PySparkException) as caught:
        workers.found(spark, 1, work)
    known = failure_in_words(caught.value)
    assert isinstance(known, StorageError)
    assert "cannot read file-0.parquet" in str(known)


def test_a_prompt_function_is_a_segment_of_the_loopback_interface_long_and_does_the_same() -> None:
    def work(number: int) -> int:
        return number + 1

    assert len(cloudpickle.dumps(work)) < 1000
    pickled = cloudpickle.dumps(workers.prompt(work))
    assert len(pickled) >= 1 << 16
    assert cloudpickle.loads(pickled)(1) == 2
