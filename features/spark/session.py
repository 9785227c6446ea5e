"""Opens the Spark session: UTC days, ANSI SQL, Delta, errors only in the log."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

_ALWAYS = {
    # Days are UTC days whatever the machine's clock says.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # The default, INT96, has no statistics, and other readers must convert it.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Malformed lines are found only if all columns of a line are parsed.
    "spark.sql.csv.parser.columnPruning.enabled": "false",
}

_WORKERS = {
    # Tasks make and drop large arrays all the time. A process that keeps the memory, in place of giving it back to the
    # system each time, takes a sixth less time and no more memory.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # Spark sets this for workers of data frames only; set for all, tasks of both kinds share their workers.
    "SPARK_SIMPLIFIED_TRACEBACK": "1",
}
"""Environment of the Python workers; options of the settings win."""

_KEPT = {-3: 2**31 - 1, -1: 2**31 - 1, -2: 1 << 28}
"""The same for this process, by numbers of `mallopt` in glibc's malloc.h: -3 is the threshold of mmap, -1 that of trim,
-2 the padding of the top. Values are C ints."""

CLASS_ARCHIVE = Path(sys.prefix) / "spark.jsa"
"""Archive of Spark's loaded classes, made by `setup/class_archive.sh`: the JVM starts faster with it."""


def open_session(app_name: str, master: str | None, options: Mapping[str, str | int | bool]) -> SparkSession:
    """Open the session of a job.

    Args:
        app_name: shown in Spark's UI.
        master: Spark's master URL; None under spark-submit, which has its own.
        options: further Spark options; they cannot change time zone, ANSI mode or Delta.
    """
    keep_freed_memory()
    builder = SparkSession.builder.appName(app_name)
    workers = {f"spark.executorEnv.{name}": value for name, value in _WORKERS.items()}
    options = {**workers, **options, "spark.driver.extraJavaOptions": _java_options(options)}
    if master is not None:
        builder = builder.master(master)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers run the interpreter of this process
    for key, value in {**options, **_ALWAYS}.items():
        builder = builder.config(key, str(value).lower() if isinstance(value, bool) else value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def keep_freed_memory() -> None:
    """Let this process keep the memory of arrays that it drops, for the next ones; nothing happens without glibc."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in _KEPT.items():
            set_option(option, value)


@contextmanager
def scratch(spark: SparkSession) -> Iterator[None]:
    """Clear Spark's cache after the block, however it ends."""
    try:
        yield
    finally:
        spark.catalog.clearCache()


def _java_options(options: Mapping[str, str | int | bool]) -> str:
    """The driver's Java options: those given, the class archive, and a log configuration that shows errors only."""
    given, quiet = str(options.get("spark.driver.extraJavaOptions", "")), Path(__file__).with_name("log4j2.properties")
    found = [given]
    if CLASS_ARCHIVE.is_file() and "SharedArchiveFile" not in given:
        found.append(f'"-XX:SharedArchiveFile={CLASS_ARCHIVE}"')
    if quiet.is_file() and "log4j2.configurationFile" not in given:  # inside a zip there is no such file
        found.append(f"-Dlog4j2.configurationFile={quiet.as_uri()}")
    return " ".join(found).strip()
