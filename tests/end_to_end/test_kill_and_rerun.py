"""Each job is killed in the middle of its writing and run again: the end is that of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from tests.data import programme

SECONDS_TO_START_WRITING = 240
SECONDS_TO_DIE = 60


def file_in(*parts: str) -> Callable[[Path], bool]:
    """Whether a file of this pattern lies under the root: the first sign that a job has begun to write."""
    return lambda root: any(root.glob("/".join(parts)))


BEGUN: dict[str, Callable[[Path], bool]] = {
    "ingest_events": file_in("tables/events/event_date=*", "*.parquet*"),
    "build_sequences": file_in("tables/sequences/as_of_date=*", "*.parquet*"),
    "build_outcomes": file_in("tables/outcomes/as_of_date=*", "*.parquet*"),
    "train_model": file_in("staging/**", "*checkpoint*"),
    "score_users": file_in("tables/scores/as_of_date=*", "*.parquet*"),
}


@pytest.fixture(scope="module")
def overrides(scored_programme: Path) -> list[str]:
    return programme.overrides_for(scored_programme / "source")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)


def kill_in_the_middle(name: str, line: Sequence[str], root: Path, begun: Callable[[Path], bool]) -> None:
    """Start the job in a process group of its own and kill the driver and its JVM once it has begun to write."""
    with subprocess.Popen(
        line,
        cwd=programme.CHECKOUT,
        env=programme.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + SECONDS_TO_START_WRITING
        while not begun(root):
            assert process.poll() is None, f"{name} ended before it wrote anything"
            assert time.monotonic() < deadline, f"{name} did not begin to write"
            time.sleep(0.005)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=SECONDS_TO_DIE)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], "the killed job left processes behind"


def test_every_job_killed_and_run_again_ends_as_undisturbed(
    spark: SparkSession, scored_programme: Path, overrides: list[str], tmp_path: Path, key: None
) -> None:
    undisturbed, killed = scored_programme / "store", tmp_path / "killed"
    chosen = programme.settings(overrides, killed)
    for name, body, dates in programme.steps(chosen):
        kill_in_the_middle(name, programme.command(name, overrides, killed, dates[:1]), killed, BEGUN[name])
        for table in (killed / "tables").iterdir():
            if (table / "_delta_log").exists():
                DeltaTable(table).to_pyarrow_table()  # the last good table is whole and readable
        body(programme.job(spark, chosen, *dates))

    for table in ("events", "user_days", "sequences", "outcomes"):
        counts = [DeltaTable(f"{root}/tables/{table}").to_pyarrow_table().num_rows for root in (undisturbed, killed)]
        assert counts[0] == counts[1] > 0, table
    assert programme.scores(killed).equals(programme.scores(undisturbed))


def outputs(root: Path) -> int:
    """Files of sequences and outcomes that were written, committed or not."""
    return len([*root.glob("tables/sequences/as_of_date=*/*.parquet"), *root.glob("tables/outcomes/as_of_date=*/*")])


def whole_table(root: Path, name: str) -> pa.Table:
    rows = DeltaTable(f"{root}/tables/{name}").to_pyarrow_table().drop_columns(["inputs_id"])
    return rows.sort_by([("as_of_date", "ascending"), ("user_id", "ascending")])


def test_a_backfill_killed_five_times_at_random_ends_as_undisturbed(
    spark: SparkSession, scored_programme: Path, overrides: list[str], tmp_path: Path
) -> None:
    span = ["--from", "2024-02-01", "--to", "2024-04-15", "--every", "5d", "--only", "sequences,outcomes"]
    roots = undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    lines = {root: [*programme.command("backfill", overrides, root), *span, "--max-parallel", "4"] for root in roots}
    for root in roots:
        shutil.copytree(scored_programme / "store" / "tables" / "events", root / "tables" / "events")
    chance = random.Random(5)
    for _ in range(5):
        enough = outputs(killed) + chance.randrange(1, 9)
        kill_in_the_middle("backfill", lines[killed], killed, lambda root, enough=enough: outputs(root) >= enough)  # type: ignore[misc]
    ended = {root: programme.run_command(lines[root], spark) for root in roots}
    assert [done.returncode for done in ended.values()] == [0, 0], ended
    assert " 0 stood already" not in ended[killed].stdout  # the kills left something to go on from
    for name in ("sequences", "outcomes"):
        found, expected = whole_table(killed, name), whole_table(undisturbed, name)
        assert found.num_rows > 0
        assert found.to_pylist() == expected.to_pylist()
