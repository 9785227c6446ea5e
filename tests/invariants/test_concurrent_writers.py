"""Two writers of one as-of date: one commits, the other fails saying so, and the winner's rows stand."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import ConcurrentWriteError
from features.storage import commits, delta_tables, file_writer, schemas, table_log

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
    return {int(r[0]) for r in delta_tables.read(spark, uri).select("outcome_value").distinct().collect()}


Write = Callable[[SparkSession, str, int, int, dt.date], int]


def by_spark(spark: SparkSession, uri: str, value: int, seen: int, date: dt.date = DATE) -> int:
    made = rows(spark, value, date).withColumn("inputs_id", f.lit(f"inputs{value}"))
    return commits.commit(made, uri, schemas.outcomes(), f"run{value}", seen, delta_tables.date_is("as_of_date", date))


def by_tasks(spark: SparkSession, uri: str, value: int, seen: int, date: dt.date = DATE) -> int:
    made = rows(spark, value, date).withColumn("inputs_id", f.lit(f"inputs{value}"))
    typed = made.select([made[c.name].cast(c.dataType) for c in schemas.outcomes().fields]).toArrow()
    file = file_writer.write_file(typed, uri, "as_of_date", date)
    return commits.commit_files(uri, schemas.outcomes(), f"run{value}", seen, [date], [file])


@pytest.fixture(params=[by_spark, by_tasks])
def write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def uri(spark: SparkSession, tmp_path: Path) -> str:
    place = str(tmp_path / "outcomes")
    delta_tables.ensure(spark, place, schemas.outcomes())
    return place


@pytest.mark.parametrize("standing", [False, True])
def test_bad_input_two_writers_at_the_same_time(spark: SparkSession, uri: str, write: Write, standing: bool) -> None:
    if standing:  # rows that both want to replace
        write(spark, uri, 9, 0, DATE)
    seen, start = delta_tables.version(spark, uri), threading.Barrier(2)
    ended: dict[int, int | Exception] = {}

    def writer(value: int) -> None:
        start.wait()
        try:
            ended[value] = write(spark, uri, value, seen, DATE)
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


def test_bad_input_a_writer_that_decided_before_another_committed(spark: SparkSession, uri: str, write: Write) -> None:
    """The case that Delta drops in silence."""
    seen = delta_tables.version(spark, uri)
    write(spark, uri, 1, seen, DATE)
    with pytest.raises(ConcurrentWriteError, match="at the same time"):
        write(spark, uri, 2, seen, DATE)
    assert values(spark, uri) == {1}


def test_bad_input_tasks_files_and_sparks_rows_exclude_each_other(spark: SparkSession, uri: str) -> None:
    for first, second in ((by_spark, by_tasks), (by_tasks, by_spark)):
        seen = delta_tables.version(spark, uri)
        first(spark, uri, seen + 1, seen)
        with pytest.raises(ConcurrentWriteError):
            second(spark, uri, -1, seen)
        assert values(spark, uri) == {seen + 1}


def test_forty_dates_planned_on_one_version_all_commit(spark: SparkSession, uri: str) -> None:
    """More than delta-rs tries again by default, and than Delta keeps between two checkpoints."""
    seen, dates = delta_tables.version(spark, uri), [DATE + dt.timedelta(days=n) for n in range(40)]
    row = {"user_id": ["u"], "horizon_end": [DATE], "outcome_value": [1], "outcome_tier": ["low"]}
    for n, date in enumerate(dates):
        columns = {**row, "outcome_tier_rank": [0], "inputs_id": [f"{n}"], "as_of_date": [date]}
        typed = pa.table(columns).cast(schemas.outcomes().arrow_schema)
        file = file_writer.write_file(typed, uri, "as_of_date", date)
        assert commits.commit_files(uri, schemas.outcomes(), f"run{n}", seen, [date], [file]) == seen + n + 1
    assert delta_tables.read(spark, uri).count() == 40
    newest = delta_tables.version(spark, uri)
    assert [table_log.inputs_at(uri, newest, d) for d in dates] == [{f"{n}"} for n in range(40)]


def test_two_dates_at_once_both_commit(spark: SparkSession, uri: str, write: Write) -> None:
    seen = delta_tables.version(spark, uri)
    write(spark, uri, 1, seen, DATE)
    write(spark, uri, 2, seen, DATE + dt.timedelta(days=1))
    assert values(spark, uri) == {1, 2}
