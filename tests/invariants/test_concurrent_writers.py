"""Two writers of one as-of date: one commits, the other fails saying so, and the winner's rows stand."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features import delta, tables
from features.errors import ConcurrentWriteError

DATE = dt.date(2024, 3, 1)


def rows(spark: SparkSession, value: int, date: dt.date = DATE) -> DataFrame:
    found = spark.range(3).select(f.concat(f.lit("user"), "id").alias("user_id"), f.lit(value).alias("outcome_value"))
    return found.select(
        "*",
        f.lit(date).alias("horizon_end"),
        f.lit("low").alias("outcome_tier"),
        f.lit(0).alias("outcome_tier_rank"),
        f.lit(date).alias("as_of_date"),
    )


def values(spark: SparkSession, uri: str) -> set[int]:
    return {int(r[0]) for r in delta.read(spark, uri).select("outcome_value").distinct().collect()}


def write(spark: SparkSession, uri: str, value: int, seen: int, date: dt.date = DATE) -> int:
    return delta.commit_date(
        rows(spark, value, date), uri, tables.OUTCOMES, f"run{value}", seen, date, f"inputs{value}"
    )


def test_bad_input_two_writers_at_the_same_time(spark: SparkSession, tmp_path: Path) -> None:
    uri = str(tmp_path / "outcomes")
    delta.ensure(spark, uri, tables.OUTCOMES)
    seen, start = delta.version(spark, uri), threading.Barrier(2)
    ended: dict[int, int | Exception] = {}

    def writer(value: int) -> None:
        start.wait()
        try:
            ended[value] = write(spark, uri, value, seen)
        except Exception as error:
            ended[value] = error

    threads = [threading.Thread(target=writer, args=(v,)) for v in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = {v for v, end in ended.items() if isinstance(end, int)}
    losers = {v for v, end in ended.items() if isinstance(end, ConcurrentWriteError)}
    assert (len(winners), len(losers)) == (1, 1), ended
    assert values(spark, uri) == winners
    assert "run this job again" in str(ended[losers.pop()]) or "run it again" in str([*ended.values()])


def test_bad_input_a_writer_that_decided_before_another_committed(spark: SparkSession, tmp_path: Path) -> None:
    """The case that Delta drops in silence."""
    uri = str(tmp_path / "outcomes")
    delta.ensure(spark, uri, tables.OUTCOMES)
    seen = delta.version(spark, uri)
    write(spark, uri, 1, seen)
    with pytest.raises(ConcurrentWriteError, match="at the same time"):
        write(spark, uri, 2, seen)
    assert values(spark, uri) == {1}


def test_two_dates_at_once_both_commit(spark: SparkSession, tmp_path: Path) -> None:
    uri, other = str(tmp_path / "outcomes"), DATE + dt.timedelta(days=1)
    delta.ensure(spark, uri, tables.OUTCOMES)
    seen = delta.version(spark, uri)
    write(spark, uri, 1, seen)
    write(spark, uri, 2, seen, other)
    assert values(spark, uri) == {1, 2}
