"""Delta tables: created as described, committed once, by one writer, and left whole by a write that fails."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import ConcurrentWriteError
from features.kernel.aggregates import aggregate_columns
from features.storage import commits, delta_tables, failures, schemas
from features.storage.table_log import active_files, fingerprint, inputs_at, inputs_before
from tests.data.reference import aggregate_spec, contract_for

DATE, NEXT = dt.date(2024, 3, 1), dt.date(2024, 3, 2)
SPEC = aggregate_spec()
ALL_TABLES = [
    schemas.events({"items": "numeric", "channel": "categorical"}),
    schemas.EVENTS_REJECTED,
    schemas.user_days(SPEC.event_types),
    schemas.sequences(contract_for(SPEC), aggregate_columns(SPEC)),
    schemas.outcomes(),
    schemas.scores(SPEC.rule.names),
    schemas.TIERS,
    schemas.EVALUATIONS,
    schemas.RUNS,
]


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


def test_optional_columns_come_and_stay(spark: SparkSession, uri: str) -> None:
    write(outcomes(spark, 1), uri, "a", 0)
    with_targets = schemas.outcomes(["tier_30d", "inactive"])
    delta_tables.ensure(spark, uri, with_targets)
    delta_tables.ensure(spark, uri, with_targets)
    found = {c.name: c for c in delta_tables.read(spark, uri).schema}
    assert list(found)[-2:] == ["outcome_tier_rank_30d", "outcome_inactive"]
    assert found["outcome_inactive"].metadata["comment"] == "whether the outcome window has no event"
    assert DeltaTable(uri).to_pyarrow_table()["outcome_inactive"].null_count == 3
    rows = outcomes(spark, 2, NEXT).withColumns(
        {"outcome_tier_rank_30d": f.lit(1), "outcome_inactive": f.lit(True), "inputs_id": f.lit("x")}
    )
    seen = delta_tables.version(spark, uri)
    commits.commit(rows, uri, with_targets, "b", seen, delta_tables.date_is("as_of_date", NEXT))
    delta_tables.ensure(spark, uri, schemas.outcomes())
    kept = DeltaTable(uri).to_pyarrow_table().sort_by("as_of_date")["outcome_tier_rank_30d"].to_pylist()
    assert kept == [None] * 3 + [1] * 3


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: t.name)
def test_every_column_has_its_comment_and_every_reader_can_read(
    spark: SparkSession, tmp_path: Path, table: schemas.Table
) -> None:
    uri = str(tmp_path / table.name)
    delta_tables.ensure(spark, uri, table)
    found = DeltaTable(uri)
    assert {c.name: c.metadata.get("comment") for c in found.schema().fields} == {
        c.name: c.metadata["comment"] for c in table.fields
    }
    assert all(c.metadata["comment"] for c in table.fields)
    assert (found.protocol().min_reader_version, found.protocol().min_writer_version) == (1, 2)
    assert not found.protocol().reader_features
    assert tuple(found.metadata().partition_columns) == table.partitioned_by
    assert found.to_pyarrow_table().num_rows == 0
    delta_tables.ensure(spark, uri, table)  # there already: no commit
    assert DeltaTable(uri).version() == 0


def test_properties_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    uri = str(tmp_path / "tiers")
    delta_tables.ensure(spark, uri, schemas.TIERS, {"tiercast.key_check": "abc"})
    assert delta_tables.table_property(spark, uri, "tiercast.key_check") == "abc"
    assert delta_tables.table_property(spark, uri, "tiercast.other") is None


def test_commit_replaces_its_date_alone(spark: SparkSession, uri: str) -> None:
    assert write(outcomes(spark, 1), uri, "a", 0) == 1
    assert write(outcomes(spark, 2, NEXT), uri, "b", 1, NEXT) == 2
    assert write(outcomes(spark, 3, users=1), uri, "c", 2) == 3
    assert stored(uri) == {(DATE, 3), (NEXT, 2)}
    assert DeltaTable(uri).to_pyarrow_table().num_rows == delta_tables.row_count(uri) == 1 + 3
    old = delta_tables.read(spark, uri, 1).select("outcome_value").distinct().collect()
    assert [r[0] for r in old] == [1]  # a version is read as it was


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
    for seen, inputs in enumerate(["one", "two", "one"]):  # there and back again commits each time
        write(outcomes(spark, seen), uri, f"run{seen}", seen, inputs=inputs)
        assert inputs_at(uri, seen + 1, DATE) == {inputs}
        assert inputs_at(uri, seen + 1, NEXT) == set()
    assert delta_tables.version(spark, uri) == 3
    assert stored(uri) == {(DATE, 2)}


def at_once(*writers: Callable[[], int]) -> list[int | Exception]:
    """What each writer ends with when all are let go at the same moment."""
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
    """Ingests of one batch: were both to append, each event would stand twice."""

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


def test_inputs_follow_the_files_before_a_date_and_nothing_later(spark: SparkSession, uri: str) -> None:
    def inputs(*parts: object, at: int | None = None) -> str:
        files = active_files(uri, delta_tables.version(spark, uri) if at is None else at)
        return inputs_before(files, NEXT, *parts)

    empty = inputs("a")
    write(outcomes(spark, 1), uri, "a", 0)
    first = inputs("a")
    assert first != empty
    assert inputs("a") == first
    assert inputs("b") != first
    write(outcomes(spark, 1, NEXT), uri, "b", 1, NEXT)
    assert inputs("a") == first  # a file of the date itself does not count
    write(outcomes(spark, 2), uri, "c", 2)
    assert inputs("a") != first
    assert inputs("a", at=2) == first  # an old version has the inputs that it had
    assert {f.date for f in active_files(uri, 3)} == {DATE, NEXT}
    assert {(f.date, f.rows, f.first) for f in active_files(uri, 1)} == {(DATE, 1, "user0"), (DATE, 2, "user1")}


def test_fingerprint_is_the_same_in_every_process() -> None:
    canonical = b'["2024-03-01", ["a"], {"x": null, "y": 1}]'
    assert fingerprint(DATE, ["a"], {"y": 1, "x": None}) == hashlib.sha256(canonical).hexdigest()[:16]
    assert fingerprint("a", "b") != fingerprint(["a", "b"])
    assert fingerprint(["ab"]) != fingerprint(["a", "b"])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("first\n  IOException: Mkdirs failed to create x  \nat y", "IOException: Mkdirs failed to create x"),
        ("Permission denied " + "x" * 400, "Permission denied " + "x" * 282),
        ("something else", None),
    ],
)  # fmt: skip
def test_storage_failures_are_told_from_others(text: str, cause: str | None) -> None:
    assert failures.storage_cause(text) == cause
