"""Small event sources for the invariants: rows as dicts, written as JSON lines, ingested by the real jobs."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs import build_sequences, ingest_events
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from tests.data.programme import CHECKOUT

AS_OF = dt.date(2024, 3, 1)
MIDNIGHT = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
LENGTH = 5

SETTINGS: dict[str, Any] = {
    "extends": [f"{CHECKOUT}/conf/base.yaml", f"{CHECKOUT}/conf/local.yaml"],
    "source": {
        "tables": {"rows": {"format": "json", "columns": "id STRING, who STRING, at STRING, kind STRING, paid STRING"}},
        "query": "SELECT id event_id, who user_id, at event_time, kind event_type, paid amount FROM rows",
    },
    "events": {"types": ["purchase", "visit"], "purchase_type": "purchase"},
    "quality": {"day_rows_against_median": None},
    "features": {"windows_days": [7, 30]},
    "sequence": {"length": LENGTH},
    "tiers": {
        "window_days": 30,
        "levels": [{"name": "low"}, {"name": "mid", "from": {"spend": 50}}, {"name": "high", "from": {"spend": 200}}],
    },
    "horizon": {"days": 30},
    "training": {"as_of": ["2024-02-01"], "validation_as_of": "2024-02-02"},
    "evaluation": {"as_of": "2024-04-01"},
}


def event(number: int, who: str, at: dt.datetime, paid: str | None = "10.00") -> dict[str, str | None]:
    """A purchase, or a visit where nothing was paid."""
    kind = "visit" if paid is None else "purchase"
    return {"id": f"e{number}", "who": who, "at": at.isoformat(), "kind": kind, "paid": paid}


def some_events(seed: int, count: int = 120) -> list[dict[str, str | None]]:
    """Random events of eight members over ten weeks around the as-of date, few days and instants, so many ties."""
    chance = random.Random(seed)
    start = MIDNIGHT - dt.timedelta(days=50)
    return [
        event(
            n,
            f"member-{chance.randrange(8)}",
            start + dt.timedelta(days=5 * chance.randrange(14), hours=6 * chance.randrange(4)),
            None if chance.random() < 0.3 else f"{chance.randrange(1, 9000) / 100:.2f}",
        )
        for n in range(count)
    ]


class Store:
    """A storage root, its settings, and the jobs run on it."""

    def __init__(self, spark: SparkSession, folder: Path, **changes: Any) -> None:
        self.spark, self.folder = spark, folder
        folder.mkdir(parents=True, exist_ok=True)
        tree = {**SETTINGS, **changes, "storage": {"root": str(folder / "store")}}
        tree["source"] = {**tree["source"], "tables": {"rows": {**tree["source"]["tables"]["rows"], "uri": "unset"}}}
        (folder / "settings.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        self.batches = 0

    def settings(self, *overrides: str) -> Settings:
        return load([str(self.folder / "settings.yaml")], overrides)

    def job(self, *dates: dt.date, overrides: Iterable[str] = ()) -> Job:
        return Job(self.settings(*overrides), self.spark, argparse.Namespace(as_of=list(dates), since=None))

    def ingest(self, rows: Iterable[Mapping[str, str | None]], now: dt.datetime | None = None, files: int = 1) -> Run:
        """Ingest rows, spread over files, at a time of the run's clock."""
        self.batches += 1
        folder = self.folder / f"batch{self.batches}"
        folder.mkdir()
        lines = [json.dumps(row) for row in rows]
        for n in range(files):
            (folder / f"{n}.json").write_text("\n".join(lines[n::files]) + "\n", encoding="utf-8")
        job = self.job(overrides=[f"source.tables.rows.uri={folder}"])
        with job.run("ingest_events", None) as record:
            if now is not None:
                record.now = now
            ingest_events.ingest_events(job, record, None, None)
        return record

    def build(self, *dates: dt.date, overrides: Iterable[str] = ()) -> None:
        build_sequences.run(self.job(*dates, overrides=overrides))

    def rows(self, table: str, date: dt.date | None = None) -> list[dict[str, Any]]:
        """Rows in a fixed order without what follows from file names and clocks."""
        found = DeltaTable(str(self.folder / "store" / "tables" / table)).to_pyarrow_table()
        if date is not None:
            found = found.filter(found["as_of_date"].to_numpy(zero_copy_only=False).astype(str) == str(date))
        hidden = [c for c in ("inputs_id", "ingested_at", "arrival_date") if c in found.column_names]
        return sorted(found.drop_columns(hidden).to_pylist(), key=str)
