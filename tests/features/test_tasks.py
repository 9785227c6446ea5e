"""What Python workers do for every task."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pyarrow as pa
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from features import tasks


def test_a_worker_takes_one_core_and_leaves_its_libraries_out_of_collections(spark: SparkSession) -> None:
    def work(portion: int) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"portion": [portion], "cores": [pa.cpu_count()], "kept": [gc.get_freeze_count()]})

    found = tasks.rows(spark, 5, work, "portion LONG, cores LONG, kept LONG", tasks=2).collect()
    assert sorted(row["portion"] for row in found) == [0, 1, 2, 3, 4]
    assert {row["cores"] for row in found} == {1}
    assert all(row["kept"] > 10_000 for row in found)


def test_a_prompt_function_is_a_segment_of_the_loopback_interface_long_and_does_the_same() -> None:
    def work(number: int) -> int:
        return number + 1

    assert len(cloudpickle.dumps(work)) < 1000
    pickled = cloudpickle.dumps(tasks.prompt(work))
    assert len(pickled) >= 1 << 16
    assert cloudpickle.loads(pickled)(1) == 2
