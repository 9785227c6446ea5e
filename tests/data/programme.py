"""The points programme at a size for tests: settings from YAML alone, jobs in this process or in their own."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs import build_outcomes, build_sequences, ingest_events, score_users, train_model
from jobs.running import command as command_line
from jobs.running.job import Job, log
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from tests.data import points_programme
from training.spark import training_run

CONFIGS = ["conf/points_programme.yaml", "conf/local.yaml"]
KEY = "a key for tests, and for nothing else"
MEMBERS, DAYS = 120, 150
SCORED = dt.date(2024, 5, 20)
REGIONS = ("north", "south", "west")
"""Of nine members of ten; the others are not in the table of groups."""
CHECKOUT = Path(__file__).parents[2]

Step = Callable[[Job], None]


def source(folder: Path) -> list[str]:
    """Write the source files and return the overrides that point to them."""
    points_programme.write(folder, MEMBERS, DAYS)
    regions = [f"member{k:05d},{REGIONS[k % 3]}\n" for k in range(MEMBERS) if k % 10]
    (folder / "members.csv").write_text("customer,region\n" + "".join(regions))
    return overrides_for(folder)


def overrides_for(folder: Path) -> list[str]:
    """Settings that read the source files of a folder, with shorter windows and training."""
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
        "training.epochs=3",
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


def run_to_scores(spark: SparkSession, folder: Path) -> None:
    """Write `source` into the folder and run every step to `store` beside it, with two Horovod ranks."""
    with mock.patch.dict(os.environ, {"TIERCAST_PSEUDONYM_KEY": KEY}):
        run_all(spark, settings(source(folder / "source"), folder / "store"))


def copy_of(done: Path, root: Path, without: Sequence[str] = ()) -> Settings:
    """Settings of a copy of what `run_to_scores` left, for tests that write.

    Args:
        done: the folder that it was given.
        root: of the copy.
        without: tables that are not copied.
    """

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in without and Path(folder).name == "tables"]

    shutil.copytree(done / "store", root, ignore=left_out)
    return settings(overrides_for(done / "source"), root)


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """Train in this process, without a start of Horovod: for tests of what comes before or after a training."""
    from training.fitting.loop import train

    with mock.patch.object(training_run, "run_ranks", lambda _spark, plan, _progress: train(plan)):
        yield


def command(name: str, overrides: Sequence[str], root: Path | str, dates: Sequence[dt.date] = ()) -> list[str]:
    """The command line of a job as a user types it."""
    arguments = [x for c in CONFIGS for x in ("--config", c)]
    arguments += [x for o in [*overrides, f"storage.root={root}"] for x in ("--set", o)]
    arguments += ["--as-of", f"{dates[0]}"] if len(dates) == 1 else []
    return [sys.executable, "-m", f"jobs.{name}", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a job."""
    return {**os.environ, "TIERCAST_PSEUDONYM_KEY": KEY, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}


def run_command(
    line: Sequence[str], spark: SparkSession | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run the `entry` of a job's command line in this process and capture what it says.

    Args:
        line: as `command` gives it.
        spark: the session that the job is given; None: it fails if it asks for one.
        changes: of the environment.
    """

    def given(*_: object) -> SparkSession:
        assert spark is not None, "the job has asked for a session"
        return spark

    entry, said, logged = importlib.import_module(line[2]).entry, io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**changes)),
        mock.patch.object(command_line, "open_session", given),
        contextlib.chdir(CHECKOUT),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(logged),
        fresh_logging(),
    ):
        try:
            code = entry(line[3:])
        except SystemExit as ended:  # argparse has said why
            code = ended.code
    return subprocess.CompletedProcess(line, code, said.getvalue(), logged.getvalue())


def run_process(line: Sequence[str], **changes: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, where that is the point: it starts a JVM if the job needs one."""
    return subprocess.run(line, cwd=CHECKOUT, env=environment(**changes), capture_output=True, text=True, timeout=600)


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    """Logging as a new process has it; handlers and levels are put back at the end."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], (root.level, log.level)
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        log.setLevel(levels[1])


def scores(root: Path | str) -> pa.Table:
    """All scores in a fixed order, read without Spark, but for the columns that follow from clocks and file names."""
    rows = DeltaTable(f"{root}/tables/scores").to_pyarrow_table()
    return rows.drop_columns(["scored_at", "inputs_id", "model_version"]).sort_by(
        [("as_of_date", "ascending"), ("user_id", "ascending")]
    )
