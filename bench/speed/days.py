"""One more day by the jobs: the cost until the date can be scored, and the cost of scoring it.

A history without its last days is made, rolled up and compacted once. Then each of the last days arrives and is
measured: from the snapshot of the day before, from sequences built before, and from all events.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from bench.speed import events, scoring
from bench.speed.events import ATTRIBUTES, TYPES, Programme
from bench.speed.measure import Cost, measure, median
from features.building import range_tasks, rollup
from features.building.pass_plan import SEQUENCES, Output
from features.storage import commits, delta_tables, schemas
from features.storage.schemas import Table
from jobs import build_sequences, compact, score_users
from jobs.running.job import Job
from jobs.running.settings_files import load
from jobs.steps import as_of_tables, pinned_inputs

ROLLUP, REBUILD = "the day's rollup", "rollup and sequences from all events"
READY, CARRIED = "score_users, sequences lie ready", "score_users from the snapshot"
COMPACT, BUILT = "compact, from the snapshot before", "build_sequences from the snapshot"
TURNS = 2
"""How often a date is scored each way, in turns: the speed of a machine changes within minutes."""


def settings(root: Path) -> dict[str, Any]:
    """The made-up programme as a settings file; its events are written, not ingested."""
    return {
        "extends": [f"{Path(__file__).parents[2]}/conf/base.yaml"],
        "source": {
            "tables": {"rows": {"format": "json", "uri": "unset", "columns": "x STRING"}},
            "query": "SELECT x event_id, x user_id, x event_time, x event_type, x amount FROM rows",
            "attributes": {name: {"type": kind} for name, kind in ATTRIBUTES.items()},
        },
        "events": {"types": list(TYPES), "purchase_type": "purchase"},
        "tiers": {
            "window_days": 90,
            "levels": [
                {"name": "base"},
                {"name": "silver", "from": {"spend": 100}},
                {"name": "gold", "from": {"spend": 400}},
            ],
        },
        "horizon": {"days": 90},
        "training": {"as_of": ["2024-01-01"], "validation_as_of": "2024-02-01"},
        "evaluation": {"as_of": "2024-06-01"},
        "scoring": {"model_version": "hybrid-bench"},
        "spark": {"app_name": "tiercast bench"},
        "storage": {"root": str(root)},
    }


class Days:
    """A storage root to which one day after another is added."""

    def __init__(self, spark: SparkSession, folder: Path, programme: Programme, last_days: int) -> None:
        """Make the history without its last days."""
        self.spark, self.programme, self.last_days = spark, programme, last_days
        self.root = folder / f"days-{programme.events}-{programme.users}-{programme.days}"
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        (self.root / "settings.yaml").write_text(yaml.safe_dump(settings(self.root)), encoding="utf-8")
        self.settings = load([str(self.root / "settings.yaml")], [])
        self.first = programme.days - last_days
        events.write(spark, programme, str(self.root), 0, self.first)

    def job(self, number: int) -> Job:
        """A job for the as-of date after the day with this number."""
        date = self.programme.dates[number] + dt.timedelta(days=1)
        return Job(self.settings, self.spark, argparse.Namespace(as_of=[date], since=None, rebuild=False))

    def measured(self) -> dict[str, Cost]:
        """Median costs over the last days, of scoring over `TURNS` turns of each; the rebuild is measured once."""
        found: dict[str, list[Cost]] = {}

        def timed(name: str, body: Callable[[Job], object], job: Job) -> None:
            found.setdefault(name, []).append(measure(lambda: body(job)))

        pinned_inputs.update_user_days(self.job(self.first - 1))
        timed("compact, from all events", compact.run, self.job(self.first - 1))
        self._bundle()
        score_users.run(self.job(self.first - 1))  # warm up
        for number in range(self.first, self.programme.days):
            events.write(self.spark, self.programme, str(self.root), number, number + 1)
            job = self.job(number)
            timed(ROLLUP, pinned_inputs.update_user_days, job)
            if number == self.first:
                timed(REBUILD, self._rebuilt, job)
            for _ in range(TURNS):
                timed(CARRIED, score_users.run, job)
                timed(BUILT, build_sequences.run, job)
                self._forget(job, schemas.scores(self.settings.contract.tiers))
                timed(READY, score_users.run, job)
                self._forget(job, schemas.scores(self.settings.contract.tiers))
                self._forget(job, schemas.sequences(self.settings.contract, {}))
            timed(COMPACT, compact.run, job)
        return {name: median(costs) for name, costs in found.items()}

    def _rebuilt(self, job: Job) -> None:
        """Rollup and sequences from all events; written and not committed."""
        pinned, spec = pinned_inputs.update_user_days(job), self.settings.aggregates
        rows, place = self.settings.sequence.rows_per_range, f"{self.root}/rebuilt"
        rollup.build(self.spark, pinned.event_files, job.uri("events"), f"{place}/days", spec, rows)
        output = Output(SEQUENCES, place, job.as_of[0], "bench")
        work = as_of_tables.reading(job, pinned, [output], rebuild=True)
        range_tasks.build(self.spark, work, rows)
        shutil.rmtree(place)

    def _bundle(self) -> None:
        contract = self.settings.contract
        rows = schemas.sequences(contract, dict.fromkeys(contract.aggregates, "")).arrow_schema.empty_table()
        scoring.bundle_of(self.settings.storage.models, "hybrid", contract, rows)

    def _forget(self, job: Job, table: Table) -> None:
        uri = job.uri(table.name)
        commits.commit_files(uri, table, "bench", delta_tables.version(self.spark, uri), job.as_of, [])
