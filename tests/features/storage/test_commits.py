"""Commits: made once, by one writer; a write that fails leaves the table as it was."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import ConcurrentWriteError
from features.storage import commits, delta_tables, file_writer, schemas
from features.storage.table_log import inputs_at

DATE, NEXT = dt.date(2024, 3, 1), dt.date(2024, 3, 2)


def outcomes(spark: SparkSession, value: int | str, date: dt.date = DATE, users: int = 3) -> DataFrame:
    """Rows of `outcomes`; `value` may be an SQL expression over `id`."""
    return spark.range(users).select(
        f.concat(f.lit("user"), "id").alias("user_id"),
        f.expr(str(value)).alias("outcome_value"),
        f.lit(date).alias("horizon_end"),
        f.lit("low").alias("outcome_tier"),
        f.lit(0).alias("outcome_tier_rank"),
        f.lit(date).alias("as_of_date"),
    )


@pytest.fixture
def uri(spark: SparkSession, tmp_path: Path) -> str:
    place = str(tmp_path / "outcomes")
    delta_tables.ensure(spark, place, schemas.outcomes())
    return place


def write(rows: DataFrame, uri: str, run_id: str, seen: int, date: dt.date = DATE, inputs: str = "inputs") -> int:
    stamped = rows.withColumn("inputs_id", f.lit(inputs))
    return commits.commit(stamped, uri, schemas.outcomes(), run_id, seen, delta_tables.date_is("as_of_date", date))


def stored(uri: str) -> set[tuple[dt.date, int]]:
    rows = DeltaTable(uri).to_pyarrow_table().to_pylist()
    return {(r["as_of_date"], int(r["outcome_value"])) for r in rows}


def test_commit_replaces_its_date_alone(spark: SparkSession, uri: str) -> None:
    assert write(outcomes(spark, 1), uri, "a", 0) == 1
    assert write(outcomes(spark, 2, NEXT), uri, "b", 1, NEXT) == 2
    assert write(outcomes(spark, 3, users=1), uri, "c", 2) == 3
    assert stored(uri) == {(DATE, 3), (NEXT, 2)}
    assert DeltaTable(uri).to_pyarrow_table().num_rows == delta_tables.row_count(uri) == 1 + 3
    old = delta_tables.read(spark, uri, 1).select("outcome_value").distinct().collect()
    assert [r[0] for r in old] == [1]  # an old version still has its rows


def test_rows_of_another_date_are_refused_whole(spark: SparkSession, uri: str) -> None:
    write(outcomes(spark, 1), uri, "a", 0)
    with pytest.raises(Exception, match="REPLACE_WHERE"):
        write(outcomes(spark, 2, NEXT), uri, "b", 1, DATE)
    assert stored(uri) == {(DATE, 1)}
    assert delta_tables.version(spark, uri) == 1


def test_invariant_7_a_commit_tried_again_by_its_own_run_is_made_once(spark: SparkSession, uri: str) -> None:
    first = write(outcomes(spark, 1), uri, "a", 0)
    assert write(outcomes(spark, 1), uri, "a", 0) == first == delta_tables.version(spark, uri)
    assert DeltaTable(uri).to_pyarrow_table().num_rows == 3


def test_invariant_7_an_append_tried_again_by_its_own_run_is_made_once(spark: SparkSession, uri: str) -> None:
    rows = outcomes(spark, 1).withColumn("inputs_id", f.lit("i"))
    for _ in range(2):
        assert commits.commit(rows, uri, schemas.outcomes(), "a", 0) == 1
    assert DeltaTable(uri).to_pyarrow_table().num_rows == 3
    assert commits.commit(rows, uri, schemas.outcomes(), "b", 1) == 2
    assert DeltaTable(uri).to_pyarrow_table().num_rows == 6


def test_invariant_7_a_write_that_fails_leaves_the_table_and_the_rerun_finishes_it(
    spark: SparkSession, uri: str
) -> None:
    write(outcomes(spark, 1), uri, "a", 0)
    with pytest.raises(Exception, match="DIVIDE_BY_ZERO"):
        write(outcomes(spark, "1 / (id - 2)"), uri, "b", 1)
    assert stored(uri) == {(DATE, 1)}
    assert delta_tables.version(spark, uri) == 1
    assert write(outcomes(spark, 2), uri, "b", 1) == 2
    assert stored(uri) == {(DATE, 2)}


def test_invariant_7_inputs_tell_a_finished_date(spark: SparkSession, uri: str) -> None:
    for seen, inputs in enumerate(["one", "two", "one"]):  # going back to old inputs commits again
        write(outcomes(spark, seen), uri, f"run{seen}", seen, inputs=inputs)
        assert inputs_at(uri, seen + 1, DATE) == {inputs}
        assert inputs_at(uri, seen + 1, NEXT) == set()
    assert delta_tables.version(spark, uri) == 3
    assert stored(uri) == {(DATE, 2)}


def at_once(*writers: Callable[[], int]) -> list[int | Exception]:
    """The version or error of each writer when all start at the same moment."""
    barrier, ended = threading.Barrier(len(writers)), dict[int, int | Exception]()

    def run(n: int) -> None:
        barrier.wait()
        try:
            ended[n] = writers[n]()
        except Exception as error:
            ended[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [ended[n] for n in range(len(writers))]


def test_different_dates_at_the_same_moment_all_commit(spark: SparkSession, uri: str) -> None:
    dates = [DATE + dt.timedelta(days=n) for n in range(3)]
    ended = at_once(*[lambda n=n, d=d: write(outcomes(spark, n, d), uri, f"r{n}", 0, d) for n, d in enumerate(dates)])
    assert sorted(e for e in ended if isinstance(e, int)) == [1, 2, 3], ended
    assert stored(uri) == {(d, n) for n, d in enumerate(dates)}


def test_bad_input_two_appends_at_the_same_moment_one_commits_and_one_says_so(spark: SparkSession, uri: str) -> None:
    """Two ingests of one batch: if both appended, each event would be there twice."""

    def writer(n: int) -> Callable[[], int]:
        rows = outcomes(spark, n).withColumn("inputs_id", f.lit("i"))
        return lambda: commits.commit(rows, uri, schemas.outcomes(), f"run{n}", 0)

    ended = at_once(writer(0), writer(1))
    winner = next(n for n, end in enumerate(ended) if isinstance(end, int))
    loser = ended[1 - winner]
    assert isinstance(loser, ConcurrentWriteError), ended
    assert "at the same time" in str(loser)
    assert loser.exit_code == 1
    assert stored(uri) == {(DATE, winner)}


def test_notes_are_those_of_the_newest_commit_that_has_one(spark: SparkSession, uri: str) -> None:
    assert "built_from" not in commits.last_notes(uri)
    rows = outcomes(spark, 1).withColumn("inputs_id", f.lit("i"))
    commits.commit(rows, uri, schemas.outcomes(), "a", 0, notes={"built_from": 7})
    commits.commit(rows, uri, schemas.outcomes(), "b", 1, notes={"built_from": 8, "colour": "red"})
    commits.commit(rows, uri, schemas.outcomes(), "c", 2)
    found = commits.last_notes(uri)
    assert (found["built_from"], found["colour"]) == (8, "red")


def test_files_that_depend_on_the_whole_table_conflict_with_any_other_commit(spark: SparkSession, uri: str) -> None:
    table = schemas.outcomes()

    def file(user: str, date: dt.date) -> file_writer.AddedFile:
        row = {"user_id": user, "outcome_value": Decimal(1), "as_of_date": date}
        return file_writer.write_file(pa.Table.from_pylist([row], table.arrow_schema), uri, "as_of_date", date)

    assert commits.append_files(uri, table, "a", 0, [file("u", DATE)]) == 1
    assert commits.append_files(uri, table, "b", 1, [file("v", DATE)]) == 2
    with pytest.raises(ConcurrentWriteError, match="at the same time"):
        commits.append_files(uri, table, "c", 1, [file("w", NEXT)])
    assert commits.commit_files(uri, table, "d", 1, [], [file("w", NEXT)]) == 3
    assert commits.commit_files(uri, table, "e", 3, [DATE], [file("x", DATE)]) == 4
    assert DeltaTable(uri).to_pyarrow_table().sort_by("user_id")["user_id"].to_pylist() == ["w", "x"]
