"""Java options of a session, and the memory that a process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from features.spark import session

JAVA_OPTIONS = "spark.driver.extraJavaOptions"


@pytest.mark.skipif(not session.CLASS_ARCHIVE.is_file(), reason="setup says that this JVM leaves no class archive")
def test_the_jvm_takes_sparks_classes_from_the_archive_that_setup_left(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    mapped = Path(f"/proc/{jvm.java.lang.ProcessHandle.current().pid()}/maps").read_text(encoding="utf-8")
    assert str(session.CLASS_ARCHIVE) in mapped


def test_java_options_that_are_given_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "spark.jsa"
    monkeypatch.setattr(session, "CLASS_ARCHIVE", archive)
    assert "SharedArchiveFile" not in session._java_options({})  # setup has not made it
    archive.touch()
    own = "-Xss8m -XX:SharedArchiveFile=mine.jsa -Dlog4j2.configurationFile=mine.properties"
    assert session._java_options({JAVA_OPTIONS: own}) == own
    given, archived, logs = session._java_options({JAVA_OPTIONS: "-Xss8m"}).split()
    assert (given, archived) == ("-Xss8m", f'"-XX:SharedArchiveFile={archive}"')
    assert logs.startswith("-Dlog4j2.configurationFile=file:")


_FAULTS = """
import resource
import numpy as np
from features.spark.session import keep_freed_memory
keep_freed_memory()
for turn in range(11):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (100_000, 1_000_000, 8_000_000):
        np.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings, and keeps its own")
def test_arrays_that_are_made_again_find_the_memory_of_those_before() -> None:
    found = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100  # thousands otherwise, even with huge pages
