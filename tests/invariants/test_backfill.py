"""A backfill plans first, reads once for many dates, goes on where it stopped, and one bad date stops no other."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.core.errors import BackfillError, SettingsError
from features.storage import commits
from jobs import backfill
from jobs.running.job import Job
from jobs.steps import as_of_tables, pinned_inputs
from tests.data.event_store import AS_OF, Store, event, some_events
from tests.data.programme import KEY

ONLY = ["sequences", "outcomes"]
FIRST, LAST = AS_OF - dt.timedelta(days=28), AS_OF - dt.timedelta(days=14)
DATES = [FIRST, FIRST + dt.timedelta(days=7), LAST]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", KEY)


def asked(store: Store, *overrides: str, **changes: Any) -> Job:
    options = {
        "first": str(FIRST),
        "last": str(LAST),
        "every": "1w",
        "only": ONLY,
        "max_parallel": None,
        "dry_run": False,
        "as_of": [],
        "since": None,
        **changes,
    }
    return dataclasses.replace(store.job(overrides=overrides), options=argparse.Namespace(**options))


def said(job: Job, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    backfill.run(job)
    return capsys.readouterr().out


def version(store: Store, table: str) -> int:
    return int(DeltaTable(str(store.folder / "store" / "tables" / table)).version())


def passes_made(store: Store) -> list[int]:
    runs = sorted((r for r in store.rows("runs") if r["job"] == "read_events"), key=lambda r: r["started_at"])
    return [dict(r["counts"])["dates"] for r in runs]


def test_a_backfill_equals_the_dates_built_alone(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together, alone = Store(spark, tmp_path / "together"), Store(spark, tmp_path / "alone")
    for store in (together, alone):
        store.ingest(some_events(11))
    dry = said(asked(together, dry_run=True), capsys)
    assert "sequences  missing               3 dates  2024-" in dry
    assert "1 passes over 120 events" in dry
    assert {p.name for p in (together.folder / "store" / "tables").iterdir()} == {"events", "events_rejected", "runs"}
    assert "6 written, 0 stood already, 0 failed" in said(asked(together), capsys)
    assert passes_made(together) == [6]
    for date in DATES:
        alone.build(date)
        as_of_tables.write(alone.job(), pinned_inputs.update_user_days(alone.job()), [("outcomes", date)])
        for table in ONLY:
            assert together.rows(table, date) == alone.rows(table, date) != []
    versions = [version(together, table) for table in ONLY]
    assert "0 written, 6 stood already, 0 failed" in said(asked(together), capsys)
    assert [version(together, table) for table in ONLY] == versions

    # An event of the second week makes the dates after it stale, and another rule the outcomes of all.
    together.ingest([event(800, "member-1", dt.datetime.combine(DATES[0], dt.time(12), dt.UTC))])
    again = said(asked(together, only=["sequences"], dry_run=True), capsys)
    assert f"sequences  stand already         1 dates  {FIRST}" in again
    assert f"sequences  inputs changed        2 dates  {DATES[1]} .. {LAST}" in again
    other = said(asked(together, "tiers.window_days=20", only=["sequences"], dry_run=True), capsys)
    assert f"sequences  settings changed      1 dates  {FIRST}" in other


def test_bad_input_a_date_that_fails_stops_no_other(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(spark, tmp_path)
    store.ingest(some_events(12))
    newest = max(dt.datetime.fromisoformat(str(e["at"])).date() for e in some_events(12))
    job = asked(store, first=str(FIRST), last=str(newest), every="3w")
    with pytest.raises(BackfillError) as caught:
        backfill.run(job)
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert "has not passed" in text
    assert f"outcomes as of {FIRST}" not in text
    out = capsys.readouterr().out
    failed = text.count("outcomes as of")
    assert f"{failed} failed" in out
    assert len({r["as_of_date"] for r in store.rows("sequences")}) > len(
        {r["as_of_date"] for r in store.rows("outcomes")}
    )
    assert {r["status"] for r in store.rows("runs") if r["job"] == "build_outcomes"} == {"written", "failed"}


def test_a_backfill_stopped_between_two_commits_goes_on_where_it_was(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, whole = Store(spark, tmp_path / "stopped"), Store(spark, tmp_path / "whole")
    for each in (store, whole):
        each.ingest(some_events(13))
    commit, done = commits.commit_files, []

    def interrupted(*arguments: Any) -> int:
        if len(done) == 3:  # the rollup and two dates
            raise KeyboardInterrupt
        done.append(arguments[4])
        return commit(*arguments)

    monkeypatch.setattr(commits, "commit_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backfill.run(asked(store))
    monkeypatch.setattr(commits, "commit_files", commit)
    assert "4 written, 2 stood already" in said(asked(store, max_parallel=1), capsys)
    assert passes_made(store)[-4:] == [1, 1, 1, 1]
    backfill.run(asked(whole))
    for table in ONLY:
        for date in DATES:
            assert store.rows(table, date) == whole.rows(table, date) != []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"every": "soon"}, "--every"),
        ({"last": "2000-01-01"}, "lies before"),
        ({"first": "yesterday"}, "--from"),
        ({"only": ["sequences", "scored"]}, "--only: ['scored'] are none of"),
        ({"max_parallel": 0}, "--max-parallel: 0"),
    ],
)
def test_bad_input_options_of_a_backfill(
    spark: SparkSession, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match="mistakes") as caught:
        backfill.run(asked(Store(spark, tmp_path), **changes))
    assert words in str(caught.value)
