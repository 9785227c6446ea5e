"""One lazy Spark session for all tests of a process, and one programme for all processes; all else is in tmp_path."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from features.spark.session import open_session
from tests.data import programme

LONGEST = (
    "test_kill_and_rerun",
    "test_cluster",
    "test_train_model",
    "test_second_data_set",
    "test_bench",
    "test_pretraining",
    "test_compact",
    "test_predictors",
    "test_invariants",
)
"""Modules that start first. A process takes the next module when it has ended one, so that short ones even out the
end. Of the first four the processes get two each: the second pair needs what the first has made."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules come first, the others stay in random order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Two local task slots, so that two ranks can run at once; quick to start rather than fast."""
    warehouse = tmp_path_factory.mktemp("warehouse")
    session = open_session(
        "tiercast tests",
        "local[2]",
        {
            "spark.driver.memory": "3g",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC",
            "spark.ui.enabled": False,
            "spark.ui.showConsoleProgress": False,
            "spark.sql.shuffle.partitions": 2,
            "spark.sql.warehouse.dir": str(warehouse),
            "spark.databricks.delta.snapshotPartitions": 1,
        },
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def scored_programme(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the points programme from source to scores: read it, or write into a `programme.copy_of` it.

    The first process that needs it runs the jobs; the others wait for it.
    """
    pytest.importorskip("horovod.spark")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "scored_programme"
    folder.mkdir(exist_ok=True)
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            programme.run_to_scores(spark, folder)
            done.touch()
    return folder
