"""Rows of a date are built only where they do not stand, and are committed only where they add up."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.core.errors import ReconciliationError
from features.storage import delta_tables, file_writer, schemas
from jobs.running.job import Job, Run
from jobs.steps import dated_output
from jobs.steps.dated_output import Built, DatedOutput
from tests.data.event_store import AS_OF, Store

TABLE = schemas.EMBEDDINGS
NEXT = AS_OF + dt.timedelta(days=1)


@pytest.fixture(scope="module")
def job(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Store(spark, tmp_path_factory.mktemp("dated")).job(AS_OF)


def output(folder: Path, date: dt.date = AS_OF, inputs: str = "aaaa.bbbb", only_date: bool = False) -> DatedOutput:
    return DatedOutput(TABLE, str(folder / "embeddings"), date, inputs, only_date)


def built(of: DatedOutput, users: int, members: int | None = None) -> Built:
    """Files of so many members, as tasks leave them."""
    rows = pa.table(
        {
            "user_id": [f"{n:032x}" for n in range(users)],
            "embedding": pa.array([[0.5]] * users, pa.list_(pa.float32())),
            "version": ["v"] * users,
            "inputs_id": [of.inputs] * users,
        }
    ).select([c for c in TABLE.columns if c != "as_of_date"])
    return Built([file_writer.write_file(rows, of.uri, "as_of_date", of.date)], members)


def dates_of(of: DatedOutput) -> dict[str, int]:
    found = DeltaTable(of.uri).to_pyarrow_table()["as_of_date"].to_pylist()
    return {str(date): found.count(date) for date in sorted(set(found))}


def test_rows_are_built_once_and_again_only_for_other_inputs_or_by_wish(job: Job, tmp_path: Path) -> None:
    first, calls = output(tmp_path), []

    def build() -> Built:
        calls.append(1)
        return built(first, 3, 3)

    assert dated_output.look(job, first).reason == "missing"
    record = Run("test", AS_OF)
    assert dated_output.write(job, record, first, build) is not None
    assert (record.status, record.counts, record.versions) == ("written", {"rows": 3}, {"embeddings": 1})

    record = Run("test", AS_OF)
    assert dated_output.write(job, record, first, build) is None
    assert (record.status, record.counts, record.versions) == ("unchanged", {}, {})
    assert dated_output.write(job, Run("test", AS_OF), first, build, rebuild=True) is not None
    assert len(calls) == 2

    other = output(tmp_path, inputs="aaaa.cccc")
    assert dated_output.look(job, other).reason == "settings changed"
    assert dated_output.look(job, output(tmp_path, inputs="cccc.bbbb")).reason == "inputs changed"
    dated_output.write(job, Run("test", AS_OF), other, lambda: built(other, 2))
    assert dates_of(other) == {str(AS_OF): 2}


def test_another_date_stays_unless_the_table_holds_one_date(job: Job, tmp_path: Path) -> None:
    for date in (AS_OF, NEXT):
        of = output(tmp_path, date)
        dated_output.write(job, Run("test", date), of, lambda of=of: built(of, 2))
    assert dates_of(of) == {str(AS_OF): 2, str(NEXT): 2}
    alone = output(tmp_path, NEXT, "dddd.eeee", only_date=True)
    dated_output.write(job, Run("test", NEXT), alone, lambda: built(alone, 1))
    assert dates_of(alone) == {str(NEXT): 1}


def test_files_that_do_not_add_up_are_not_committed(job: Job, tmp_path: Path) -> None:
    of = output(tmp_path)
    with pytest.raises(ReconciliationError, match=r"embeddings as of 2024-03-01: 2 rows written, 3 expected"):
        dated_output.write(job, Run("test", AS_OF), of, lambda: built(of, 2, members=3))
    assert DeltaTable(of.uri).version() == 0


def test_a_frame_is_counted_by_member(job: Job, tmp_path: Path) -> None:
    of, record = output(tmp_path), Run("test", AS_OF)
    dated_output.write(job, Run("test", AS_OF), of, lambda: built(of, 2))
    stored = delta_tables.read(job.spark, of.uri)
    twice = stored.unionByName(stored).localCheckpoint()
    dated_output.write(job, record, of, lambda: Built(twice, members=2), rebuild=True)
    assert record.counts == {"members": 2, "rows": 4}


def test_small_rows_are_replaced_by_condition(job: Job) -> None:
    record = Run("test", None)
    rows = [(0, "low", "everybody", ""), (1, "mid", "spend from 50", "")]
    dated_output.replace_rows(job, record, schemas.TIERS, rows)
    dated_output.replace_rows(job, record, schemas.TIERS, [(1, "middle", "spend from 60", "")], "rank = 1")
    found = sorted(map(tuple, delta_tables.read(job.spark, job.uri("tiers")).collect()))
    assert found == [rows[0], (1, "middle", "spend from 60", "")]
    assert record.versions["tiers"] == delta_tables.version(job.spark, job.uri("tiers"))


def test_what_a_run_asked_once_is_not_asked_again_by_it(job: Job) -> None:
    made = []

    def body(other: Job) -> None:
        assert [other.once("key", lambda: made.append(1) or len(made)) for _ in range(3)] == [len(made)] * 3

    body(job)
    job.run_for(body, [AS_OF])
    assert len(made) == 2
