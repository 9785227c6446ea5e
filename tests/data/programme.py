"""The points programme at a size for tests: settings from YAML alone, jobs in this process or in their own."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs import build_outcomes, build_sequences, ingest_events, score_users, train_model
from jobs.running.job import Job
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from tests.data import points_programme

CONFIGS = ["conf/points_programme.yaml", "conf/local.yaml"]
KEY = "a key for tests, and for nothing else"
MEMBERS, DAYS = 120, 150
SCORED = dt.date(2024, 5, 20)
REGIONS = ("north", "south", "west")
"""Of nine members of ten; the others are not in the table of groups."""
CHECKOUT = Path(__file__).parents[2]

Step = Callable[[Job], None]


def source(folder: Path) -> list[str]:
    """Write the source files and return the overrides that point to them, with shorter windows and training."""
    points_programme.write(folder, MEMBERS, DAYS)
    regions = [f"member{k:05d},{REGIONS[k % 3]}\n" for k in range(MEMBERS) if k % 10]
    (folder / "members.csv").write_text("customer,region\n" + "".join(regions))
    return [
        f"fairness.groups.tables.people={{format: csv, uri: {folder}/members.csv, columns: 'customer STRING, "
        "region STRING', options: {header: 'true'}}",
        "fairness.groups.query=SELECT customer AS user_id, region FROM people",
        "fairness.groups.attributes=[region]",
        "fairness.smallest_group=10",
        "fairness.least_members=5",
        "fairness.draws=50",
        f"source.tables.orders.uri={folder}/orders.csv",
        f"source.tables.visits.uri={folder}/visits.csv",
        "tiers.window_days=30",
        "horizon.days=30",
        "horizon.targets=[tier_10d, inactive]",
        "model.targets=[tier_10d, inactive]",
        "scoring.outputs=[value, tier_10d, inactive]",
        "training.as_of=[2024-02-15, 2024-03-01]",
        "training.validation_as_of=2024-03-15",
        "evaluation.as_of=2024-04-15",
        "training.epochs=2",
        "training.refit=true",
        "training.warmup_epochs=0",
        "training.batch_size=64",
        "training.vocabulary_size=20",
        "evaluation.lightgbm_trials=2",
        "evaluation.bootstrap_draws=50",
        "evaluation.folds={count: 2, every: 1w}",
        "gate.better_than_markov=-9",  # a network of two epochs earns no place
        "gate.worse_than_published=9",
        "gate.calibration_error=1",
        "gate.least_members=1000",
        "gate.drift={expected: [], refusal: {psi: 99, distance: 99}}",  # members begin in January: all windows fill up
    ]


def settings(overrides: Sequence[str], root: Path | str) -> Settings:
    """The settings with a storage root of their own."""
    return load([str(CHECKOUT / c) for c in CONFIGS], [*overrides, f"storage.root={root}"])


def job(spark: SparkSession, chosen: Settings, *dates: dt.date) -> Job:
    """An open job in the tests' session."""
    return Job(chosen, spark, argparse.Namespace(as_of=list(dates), since=None))


def steps(chosen: Settings) -> list[tuple[str, Step, list[dt.date]]]:
    """Every step to the scores, with its dates."""
    learned = [*chosen.training.all_dates, chosen.evaluation.as_of]
    return [
        ("ingest_events", ingest_events.run, []),
        ("build_sequences", build_sequences.run, [*learned, SCORED]),
        ("build_outcomes", build_outcomes.run, learned),
        ("train_model", train_model.run, []),
        ("score_users", score_users.run, [chosen.evaluation.as_of, SCORED]),
    ]


def run_all(spark: SparkSession, chosen: Settings) -> None:
    """Run every step in the tests' session."""
    for _, body, dates in steps(chosen):
        body(job(spark, chosen, *dates))


def command(name: str, overrides: Sequence[str], root: Path | str, dates: Sequence[dt.date] = ()) -> list[str]:
    """The command line of a job as a user types it."""
    arguments = [x for c in CONFIGS for x in ("--config", c)]
    arguments += [x for o in [*overrides, f"storage.root={root}"] for x in ("--set", o)]
    arguments += ["--as-of", f"{dates[0]}"] if len(dates) == 1 else []
    return [sys.executable, "-m", f"jobs.{name}", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a job's own process."""
    return {**os.environ, "TIERCAST_PSEUDONYM_KEY": KEY, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}


def run_command(line: Sequence[str], **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a job in a process of its own and capture what it says."""
    return subprocess.run(line, cwd=CHECKOUT, env=environment(**changes), capture_output=True, text=True, timeout=600)


def scores(root: Path | str) -> pa.Table:
    """All scores in a fixed order, read without Spark, but for the columns that follow from clocks and file names."""
    rows = DeltaTable(f"{root}/tables/scores").to_pyarrow_table()
    return rows.drop_columns(["scored_at", "inputs_id", "model_version"]).sort_by(
        [("as_of_date", "ascending"), ("user_id", "ascending")]
    )
