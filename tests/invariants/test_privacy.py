"""Raw ids and the key leave no trace: not in any file under the storage root, not in `runs`, not in what a job prints.

The job runs in a process of its own, on a machine whose clock is not in UTC.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from features.core.errors import QualityGateError
from features.storage import delta_tables
from jobs import ingest_events
from jobs.running.job import Job
from jobs.running.settings import Settings
from tests.data.programme import CHECKOUT, KEY, environment
from tests.data.source_rows import Row, of_rows, pseudonym, row, settings, stored

USER, EVENT = "raw-member-\N{BEAR FACE}-4711", "raw-event-0815"
GOOD = [row(f"{EVENT}-{n}", who=f"{USER}-{n % 3}", at=f"2024-05-0{n + 1}T23:30:00") for n in range(8)]
REFUSED = [
    row(f"{EVENT}-bad", who=USER, paid="-1", kind="refund"),
    row(f"{EVENT}-bad", who=f" {USER} ", at="never"),
    row("", who=USER),
    row(f"{EVENT}-0", who=USER, paid="77"),  # a conflict
]
LINE = json.dumps(row(EVENT, who=USER))[:-9]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("privacy")
    lines = [*(json.dumps(r) for r in [*GOOD, GOOD[0], *REFUSED]), LINE]
    (folder / "rows.json").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return settings(folder, str(folder / "rows.json"), spark={"options": {"spark.driver.memory": "1g"}})


@pytest.fixture(scope="module")
def done(chosen: Settings) -> subprocess.CompletedProcess[str]:
    config = Path(chosen.storage.root).with_name("settings.yaml")
    return subprocess.run(
        [sys.executable, "-m", "jobs.ingest_events", "--config", str(config)],
        cwd=CHECKOUT,
        env=environment(TZ="America/St_Johns"),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def shut(
    spark: SparkSession,
    chosen: Settings,
    done: subprocess.CompletedProcess[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The message of a gate that refuses a second batch into the same tables."""
    folder = tmp_path_factory.mktemp("shut")
    batch = [row(f"{EVENT}-later", who=USER, paid="-3"), row(f"{EVENT}-fine", who=USER, at="2024-05-20")]
    second = of_rows(folder, batch, storage={"root": chosen.storage.root}, quality={"largest_rejected_share": 0.1})
    job = Job(second, spark, argparse.Namespace(as_of=[], since=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERCAST_PSEUDONYM_KEY", KEY)
        with pytest.raises(QualityGateError) as caught:
            ingest_events.run(job)
    return str(caught.value)


def contents(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file under `root`, as its bytes read and, for parquet, as its values too."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        yield path, path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".parquet":
            yield path, str(pq.ParquetFile(path).read().to_pydict())


def runs(chosen: Settings) -> list[Row]:
    return sorted(stored(chosen, "runs"), key=lambda r: r["started_at"])


def test_job_ends_well_and_says_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("ingest_events")]
    assert "ingest_events: written" in line
    assert "accepted 8, rejected 5, duplicate 1, rows_read 14" in line


def test_bad_input_raw_ids_stand_in_no_file(
    chosen: Settings, done: subprocess.CompletedProcess[str], shut: str
) -> None:
    texts = list(contents(Path(chosen.storage.root)))
    assert {p.parts[p.parts.index("tables") + 1] for p, _ in texts} == {"events", "events_rejected", "runs"}
    for secret in (USER, "raw-member", EVENT, "raw-event", KEY):
        for shown in (secret, json.dumps(secret)[1:-1], ascii(secret)[1:-1]):
            assert not [str(p) for p, text in texts if shown in text], secret
    # The search finds what is there: pseudonyms, in events and in refused rows.
    found = {p.parts[p.parts.index("tables") + 1] for p, text in texts if pseudonym(USER) in text}
    assert "events_rejected" in found
    assert [p for p, text in texts if pseudonym(f"{USER}-0") in text]


def test_bad_input_raw_ids_stand_in_nothing_that_a_job_says(done: subprocess.CompletedProcess[str], shut: str) -> None:
    for said in (done.stdout, done.stderr, shut):
        for secret in (USER, "raw-member", EVENT, "raw-event", KEY):
            assert secret not in said
    assert "refused as negative_amount: 1" in shut
    assert pseudonym(USER) in shut


def test_counts_and_versions_are_recorded(
    spark: SparkSession, chosen: Settings, done: subprocess.CompletedProcess[str], shut: str
) -> None:
    first, second = runs(chosen)
    counts = dict(first["counts"])
    assert (first["job"], first["status"], first["message"]) == ("ingest_events", "written", None)
    assert counts["accepted"] + counts["rejected"] + counts["duplicate"] == counts["rows_read"] == 14
    assert (counts["source.rows"], counts["accepted.purchase"]) == (13, 8)
    assert dict(first["versions"]) == {"events": 1, "events_rejected": 1}
    assert first["settings_hash"] == chosen.hash
    assert second["status"] == "failed"
    assert second["message"] == shut
    assert dict(second["counts"])["rows_read"] == 2
    assert delta_tables.version(spark, chosen.storage.table("events")) == 1  # nothing of the refused batch


def test_bad_input_time_zone_of_the_machine_changes_no_time(
    chosen: Settings, done: subprocess.CompletedProcess[str]
) -> None:
    """Half past eleven at night would be the next day in UTC, were a time without an offset taken as local."""
    found = sorted(r["event_time"] for r in stored(chosen, "events"))
    assert found == [dt.datetime(2024, 5, n, 23, 30, tzinfo=dt.UTC) for n in range(1, 9)]
    assert {r["event_date"] for r in stored(chosen, "events")} == {dt.date(2024, 5, n) for n in range(1, 9)}
    lately = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    assert all(lately < r["ingested_at"] < dt.datetime.now(dt.UTC) for r in stored(chosen, "events"))
