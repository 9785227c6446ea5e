"""Through the real jobs: dates from a snapshot equal dates from all events, and a snapshot that fails is named."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.building import range_tasks
from features.building.pass_plan import OUTCOMES, SEQUENCES, Output
from features.building.snapshots import Snapshot
from features.core.errors import StorageError
from features.storage import commits
from features.storage.failures import failure_in_words
from jobs import compact
from jobs.running.job import Job
from jobs.steps import as_of_tables, pinned_inputs
from tests.data.event_store import AS_OF, MIDNIGHT, Store, event, some_events
from tests.data.programme import KEY

EARLY, LATER = AS_OF - dt.timedelta(days=20), AS_OF + dt.timedelta(days=5)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", KEY)


def store_at(spark: SparkSession, folder: Path) -> Store:
    """With a horizon that has passed at every date asked for."""
    return Store(spark, folder, horizon={"days": 5})


def compacting(store: Store, date: dt.date, *overrides: str, rebuild: bool = False) -> Job:
    job = store.job(date, overrides=overrides)
    return dataclasses.replace(job, options=argparse.Namespace(**{**vars(job.options), "rebuild": rebuild}))


def standing(store: Store, *overrides: str) -> Snapshot | None:
    job = store.job(overrides=overrides)
    return pinned_inputs.standing_snapshot(job, pinned_inputs.update_user_days(job))


def snapshot_files(store: Store) -> list[Path]:
    found = standing(store)
    assert found is not None
    return [Path(f.uri) for f in found.files]


def check_equal(store: Store, other: Store, *dates: dt.date) -> None:
    """Sequences and outcomes of the dates, written now."""
    for each in (store, other):
        wanted = [(kind, date) for date in dates for kind in (SEQUENCES, OUTCOMES)]
        as_of_tables.write(each.job(), pinned_inputs.update_user_days(each.job()), wanted)
    for date in dates:
        for table in (SEQUENCES, OUTCOMES):
            assert store.rows(table, date) == other.rows(table, date) != []


def test_invariant_2_days_with_snapshots_between_equal_a_rebuild(spark: SparkSession, tmp_path: Path) -> None:
    """Events come in three parts in any order, late and twice; each snapshot but the first is made from one before."""
    rows, chance = some_events(21), random.Random(21)
    rows += [event(900 + n, "member-1", MIDNIGHT - dt.timedelta(days=900 + n)) for n in range(3)]  # years late
    order = chance.sample(rows, len(rows))
    updated, rebuilt = store_at(spark, tmp_path / "updated"), store_at(spark, tmp_path / "rebuilt")
    for number, date in enumerate((EARLY, EARLY + dt.timedelta(days=7), AS_OF)):
        updated.ingest([*order[number::3], *order[:5]])
        compact.run(compacting(updated, date))
    updated.ingest([event(950, "member-2", MIDNIGHT - dt.timedelta(days=2)), event(951, "somebody new", MIDNIGHT)])
    rebuilt.ingest([*rows, event(950, "member-2", MIDNIGHT - dt.timedelta(days=2))])
    rebuilt.ingest([event(951, "somebody new", MIDNIGHT)])
    found = standing(updated)
    assert found is not None
    assert (found.as_of, len(found.late_dates)) == (AS_OF, 1)
    check_equal(updated, rebuilt, AS_OF, LATER)
    # Another number of ranges than the snapshot was written in, and a date before it, for which it is of no use.
    check_equal(updated, rebuilt, EARLY)
    updated.build(LATER + dt.timedelta(days=1), overrides=["sequence.rows_per_range=20"])
    rebuilt.build(LATER + dt.timedelta(days=1))
    last = LATER + dt.timedelta(days=1)
    assert updated.rows(SEQUENCES, last) == rebuilt.rows(SEQUENCES, last) != []


def test_invariant_7_a_second_compaction_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    store = store_at(spark, tmp_path)
    store.ingest(some_events(22))
    compact.run(compacting(store, AS_OF))
    before = snapshot_files(store)
    compact.run(compacting(store, AS_OF))
    assert snapshot_files(store) == before
    compact.run(compacting(store, AS_OF, rebuild=True))
    assert snapshot_files(store) != before
    assert [r["status"] for r in store.rows("runs") if r["job"] == "compact"].count("unchanged") == 1


def test_a_snapshot_is_not_used_where_it_does_not_hold(spark: SparkSession, tmp_path: Path) -> None:
    store, other = store_at(spark, tmp_path / "store"), store_at(spark, tmp_path / "other")
    rows = some_events(23)
    for each in (store, other):
        each.ingest(rows)
    compact.run(compacting(store, EARLY))
    assert standing(store) is not None
    for changed in ("sequence.length=6", "tiers.window_days=20", "features.windows_days=[7, 31]"):
        assert standing(store, changed) is None
    assert standing(store, "known_by=ingested_at") is None
    # An event that is taken away, as the law may ask, takes the snapshot with it.
    uri = store.settings().storage.table("events")
    gone = DeltaTable(uri).to_pyarrow_table()["event_id"][0].as_py()
    for each in (store, other):
        delta_table = DeltaTable(each.settings().storage.table("events"))
        delta_table.delete(f"event_id = '{gone}'")
    assert standing(store) is None
    check_equal(store, other, AS_OF)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_bad_input_a_damaged_snapshot_is_named_and_written_anew_when_asked(
    spark: SparkSession, tmp_path: Path, damage: str
) -> None:
    store, other = store_at(spark, tmp_path / "store"), store_at(spark, tmp_path / "other")
    for each in (store, other):
        each.ingest(some_events(24))
    compact.run(compacting(store, EARLY))
    (victim,) = snapshot_files(store)
    content = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    with pytest.raises((StorageError, PySparkException)) as caught:
        store.build(AS_OF)
    told = str(failure_in_words(caught.value))
    assert victim.name in told
    assert "compact --rebuild" in told
    compact.run(compacting(store, EARLY, rebuild=True))
    check_equal(store, other, AS_OF)


def test_a_compaction_that_is_killed_leaves_the_snapshot_that_stood(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = store_at(spark, tmp_path / "store"), store_at(spark, tmp_path / "other")
    for each in (store, other):
        each.ingest(some_events(25))
    compact.run(compacting(store, EARLY))
    before = snapshot_files(store)

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commits, "commit_files", killed)
        with pytest.raises(KeyboardInterrupt):
            compact.run(compacting(store, AS_OF))
    assert snapshot_files(store) == before
    compact.run(compacting(store, AS_OF))
    assert snapshot_files(store) != before
    check_equal(store, other, LATER)


def test_a_reader_that_began_before_a_compaction_and_a_vacuum_ends_well(spark: SparkSession, tmp_path: Path) -> None:
    store = store_at(spark, tmp_path)
    store.ingest(some_events(26))
    compact.run(compacting(store, EARLY))
    job = store.job()
    pinned = pinned_inputs.update_user_days(job)
    output = Output(SEQUENCES, job.uri(SEQUENCES), AS_OF, "x")
    work = as_of_tables.reading(job, pinned, [output])
    assert work.snapshot is not None
    compact.run(compacting(store, AS_OF))
    DeltaTable(pinned_inputs.snapshots_uri(job)).vacuum(dry_run=False)  # with the retention of a week, as is the rule
    DeltaTable(job.uri("user_days")).vacuum(dry_run=False)
    assert sum(f.rows for f in range_tasks.build(spark, work, 10**6)[output]) == 8
    DeltaTable(pinned_inputs.snapshots_uri(job)).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(PySparkException) as caught:
        range_tasks.build(spark, work, 10**6)
    assert isinstance(failure_in_words(caught.value), StorageError)


def test_old_sequences_are_dropped_and_built_again_on_demand(spark: SparkSession, tmp_path: Path) -> None:
    store = store_at(spark, tmp_path)
    store.ingest(some_events(27))
    dates = [AS_OF - dt.timedelta(days=n) for n in (11, 10, 0)]
    store.build(*dates)
    kept = store.rows(SEQUENCES, dates[0])
    compact.run(compacting(store, AS_OF, "sequence.keep_days=10"))
    assert [len(store.rows(SEQUENCES, d)) > 0 for d in dates] == [False, True, True]
    store.build(dates[0])
    assert store.rows(SEQUENCES, dates[0]) == kept != []


def test_what_came_late_is_added_beside_the_days_that_stand(spark: SparkSession, tmp_path: Path) -> None:
    """The rollup reads the new files of events alone, and a day's standing file stays."""
    store = store_at(spark, tmp_path)
    store.ingest([event(n, f"member-{n % 3}", MIDNIGHT - dt.timedelta(days=n % 2)) for n in range(10)])
    job = store.job()
    before = pinned_inputs.update_user_days(job).day_files
    store.ingest([event(99, "member-0", MIDNIGHT)])
    after = pinned_inputs.update_user_days(job).day_files
    assert set(before) < set(after)
    assert sum(f.rows for f in after) == sum(f.rows for f in before) + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the sequences, of one megabyte."""
    place = tmp_path / "store" / "tables" / SEQUENCES
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_bad_input_a_disk_that_is_full_in_a_task(spark: SparkSession, tmp_path: Path, small_disk: Path) -> None:
    store = store_at(spark, tmp_path)
    store.ingest(some_events(28))
    store.build(EARLY)
    before = store.rows(SEQUENCES, EARLY)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while file.write(bytes(4096)):
            file.flush()
    with pytest.raises((StorageError, PySparkException)) as caught:
        store.build(AS_OF)
    told = failure_in_words(caught.value)
    assert isinstance(told, StorageError)
    assert "No space left" in str(told)
    assert store.rows(SEQUENCES) == before != []
    filler.unlink()
    store.build(AS_OF)
    assert store.rows(SEQUENCES, AS_OF) != []
