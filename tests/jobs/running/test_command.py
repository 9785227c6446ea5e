"""What a user who makes a mistake sees: one clear message, exit code 2, no stack trace, and Spark not even started."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from features.core.errors import SettingsError
from jobs.running.settings_files import load
from tests.data.programme import CHECKOUT, CONFIGS, run_command, run_process

Run = Callable[[list[str]], subprocess.CompletedProcess[str]]
CONFIG_ARGUMENTS = [x for c in CONFIGS for x in ("--config", c)]
JOBS = [
    "ingest_events",
    "build_sequences",
    "build_outcomes",
    "train_model",
    "evaluate_model",
    "cross_validate",
    "explain_scores",
    "score_users",
    "run_pipeline",
    "pretrain_model",
    "embed_users",
    "backfill",
    "compact",
]

MISTAKES = {
    "unknown_key": ("sequence.lenght=12", "sequence.lenght: unknown key"),
    "thresholds_not_increasing": (
        "tiers.levels=[{name: a}, {name: b, from: {spend: 9}}, {name: c, from: {spend: 9}}]",
        "thresholds must increase: spend from 9 of 'c' is not above 9 of 'b'",
    ),
    "duplicate_tier_name": (
        "tiers.levels=[{name: a}, {name: b, from: {spend: 1}}, {name: b, from: {spend: 2}}]",
        "tier name 'b' stands more than once",
    ),
    "ill_formed_tier_name": ("tiers.levels=[{name: Top Tier}, {name: b, from: {spend: 1}}]", "tiers.levels.0.name"),
    "one_tier_only": ("tiers.levels=[{name: a}]", "tiers.levels"),
    "threshold_finer_than_counted": (
        "tiers.levels=[{name: a}, {name: b, from: {purchases: 1.5}}]",
        "finer than purchases is counted",
    ),
    "points_without_expression": ("tiers.points=null", "needs `points`"),
    "late_target": ("horizon.targets=[tier_90d]", "lie not before the horizon of 60 days"),
    "target_twice": ("horizon.targets=[inactive, inactive]", r"targets ['inactive'] are named twice"),
    "unknown_target": ("horizon.targets=[churn]", "horizon.targets.0"),
    "unrecorded_target": ("model.targets=[inactive]", "model.targets ['inactive'] are not in horizon.targets"),
    "negative_horizon": ("horizon.days=-1", "horizon.days"),
    "length_of_0": ("sequence.length=0", "sequence.length"),
    "unknown_model": ("model.name=oracle", "there is no model 'oracle'; there are"),
    "unknown_model_parameter": ("model.parameters={cells: 3}", "cells"),
    "unknown_measure": ("tiers.levels=[{name: a}, {name: b, from: {karma: 1}}]", "karma"),
    "unknown_attribute_type": ("source.attributes={x: {type: picture}}", "source.attributes.x.type"),
    "shards_no_multiple_of_ranks": ("training.shards=7", "shards 7 must be a multiple of ranks 2"),
    "validation_before_training": ("training.validation_as_of=2020-01-01", "must be later than the last training date"),
    "windows_not_increasing": ("features.windows_days=[30, 7]", "windows_days must increase"),
    "csv_without_columns": ("source.tables.orders.columns=null", "a csv table needs `columns`"),
    "group_that_is_a_feature": (
        "fairness.groups={tables: {people: {format: parquet, uri: x}}, query: SELECT 1, attributes: [age, channel]}",
        "fairness.groups.attributes ['channel'] are features too",
    ),
    "drift_of_no_feature": ("gate.drift.expected=[tenure*, age]", "gate.drift.expected: ['age'] match no feature"),
    "no_budget_for_lightgbm": ("evaluation.lightgbm_trials=0", "evaluation.lightgbm_trials"),
    "no_folds": ("evaluation.folds.count=0", "evaluation.folds.count"),
    "no_override": ("sequence.length", "write it as key.path=value"),
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.values(), ids=list(MISTAKES))
def test_bad_input_settings(override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load([str(CHECKOUT / c) for c in CONFIGS], [override])
    assert message in str(caught.value)


def test_bad_input_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            [str(CHECKOUT / c) for c in CONFIGS],
            ["sequence.length=0", "horizon.days=-1", "known_by=hearsay", "training.epochs=x"],
        )
    assert len(caught.value.problems) == 4
    assert all("got" in problem for problem in caught.value.problems)


def test_bad_input_settings_files(tmp_path: Path) -> None:
    loop, broken = tmp_path / "loop.yaml", tmp_path / "broken.yaml"
    loop.write_text("extends: loop.yaml")
    broken.write_text("a: [1")
    for path, message in [(loop, "extends itself"), (broken, "is not YAML"), (tmp_path / "none.yaml", "cannot read")]:
        with pytest.raises(SettingsError, match=message):
            load([str(path)])


def line(job: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{job}", *arguments]


BAD_SETTING = line("build_sequences", *CONFIG_ARGUMENTS, "--as-of", "2024-01-01", "--set", "sequence.length=0")


@pytest.mark.parametrize("run", [run_command, run_process])
def test_bad_input_ends_with_code_2_before_spark_starts(run: Run) -> None:
    done = run(BAD_SETTING)
    assert done.returncode == 2
    assert "sequence.length" in done.stderr
    assert "Traceback" not in done.stderr
    assert "WARNING: Using incubator modules" not in done.stderr  # the first thing that a JVM of Spark says


def test_bad_input_dates_on_the_command_line() -> None:
    done = run_command(line("score_users", *CONFIG_ARGUMENTS, "--as-of", "yesterday"))
    assert done.returncode == 2
    assert "'yesterday' is not DATE" in done.stderr


def test_bad_input_no_key_ends_with_code_2(spark: SparkSession, tmp_path: Path) -> None:
    root = f"storage.root={tmp_path / 'store'}"
    ingest = line("ingest_events", *CONFIG_ARGUMENTS, "--set", root)
    done = run_command(ingest, spark, TIERCAST_PSEUDONYM_KEY="")
    assert done.returncode == 2
    assert "set the environment variable TIERCAST_PSEUDONYM_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store" / "tables" / "events").exists()


def test_bad_input_no_folds() -> None:
    for count in ("0", "-1", "some"):
        done = run_command(line("cross_validate", *CONFIG_ARGUMENTS, f"--folds={count}"))
        assert done.returncode == 2
        assert f"'{count}' is not a number of folds, 1 or more" in done.stderr


def check_help(job: str, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0
    for word in ("Reads", "Writes", f"example:\n  python -m jobs.{job} --config"):
        assert word in done.stdout


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_a_job_reads_and_writes_with_an_example(job: str) -> None:
    check_help(job, run_command(line(job, "--help")))


def test_a_job_is_a_module_that_python_runs() -> None:
    check_help("run_pipeline", run_process(line("run_pipeline", "--help")))


@pytest.mark.parametrize("job", JOBS)
def test_every_job_runs_as_the_main_module(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `python -m` does, without a process."""
    monkeypatch.setattr(sys, "argv", [job, "--help"])
    monkeypatch.delitem(sys.modules, f"jobs.{job}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"jobs.{job}", run_name="__main__")
    assert ended.value.code == 0
    assert f"python -m jobs.{job}" in capsys.readouterr().out
