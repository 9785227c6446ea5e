"""Groups of members: pseudonymised on the way, refused by name where the table cannot be what was meant."""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from features.core.errors import PseudonymKeyError, SourceError
from features.ingest.pseudonyms import digest
from features.storage import delta_tables
from jobs.running.job import Job, Run
from jobs.running.settings_files import load
from jobs.steps.fairness import assess_groups, groups_of_users
from tests.data import programme
from tests.data.training_examples import manifest_of
from training.bundles.manifest import Manifest
from training.inputs.encoding_statistics import Statistics
from training.spark.driver_rows import Forecasts

DATE = dt.date(2024, 4, 15)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return programme.source(tmp_path_factory.mktemp("source"))


def job(spark: SparkSession, source: list[str], root: Path, *overrides: str) -> Job:
    configs = [str(programme.CHECKOUT / c) for c in programme.CONFIGS]
    chosen = load(configs, [*source, *overrides, f"storage.root={root}"])
    return Job(chosen, spark, argparse.Namespace(as_of=None))


def bundle_of(made: Job) -> Manifest:
    contract = made.settings.contract
    return manifest_of(contract, Statistics.empty(contract).encoding(3))


def forecasts(spoilt: str | None = None, users: str = "member") -> Forecasts:
    """Right and sure for all members but those of one region, for whom it is wrong and sure."""
    names = [f"{users}{k:05d}" for k in range(programme.MEMBERS)]
    ids = np.array([digest(programme.KEY.encode(), name) for name in names])
    region = np.array([programme.REGIONS[k % 3] for k in range(len(ids))])
    current = np.arange(len(ids)) % 4
    outcome = np.minimum(current + 1, 3)
    said = np.where(region == spoilt, (outcome + 2) % 4, outcome)
    order = np.argsort(ids)
    p = np.full((len(ids), 4), 0.02) + 0.92 * np.eye(4)[said]
    return Forecasts(ids[order], p[order], current[order], outcome[order])


def test_even_and_uneven_groups_in_the_table_and_the_record(
    spark: SparkSession, source: list[str], tmp_path: Path
) -> None:
    made = job(spark, source, tmp_path)
    groups = groups_of_users(made)
    assert groups is not None
    assert [len(row["user_id"]) for row in groups.take(3)] == [32] * 3
    even = Run("evaluate_model", DATE)
    found = assess_groups(made, even, bundle_of(made), DATE, forecasts(), groups)
    assert (found.evaluated, found.known) == (programme.MEMBERS, programme.MEMBERS * 9 // 10)
    assert (even.status, even.message) == ("written", None)
    uneven = Run("evaluate_model", DATE)
    assess_groups(made, uneven, bundle_of(made), DATE, forecasts("south"), groups)
    assert uneven.status == "refused"
    assert uneven.message is not None
    assert uneven.message.startswith("groups by region: ")
    assert "accuracy of north is 1.000 above that of south" in uneven.message
    rows = delta_tables.read(spark, made.uri("fairness")).toPandas()
    refused = rows[rows["level"] == "refusal"]
    assert "accuracy" in set(refused["measure"])
    assert len(rows[(rows["group"] == "south") & (rows["measure"] == "accuracy")]) == 1  # the first run's are replaced


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fairness.groups.tables.people.uri=nowhere/members.csv", r"fairness table 'people' \(nowhere/members.csv\): "),
        ("fairness.groups.query=SELECT customer AS user_id FROM people", "column region is missing"),
        (
            "fairness.groups.query=SELECT customer AS user_id, region, 1 AS x FROM people",
            r"columns \['x'\] are neither",
        ),
        ("fairness.groups.query=SELECT customer AS user_id, 1.5D AS region FROM people", "column region is double"),
        ("fairness.groups.query=SELECT custmer AS user_id, region FROM people", "fairness.groups.query: .*custmer"),
    ],
)
def test_bad_input_a_table_of_groups(
    spark: SparkSession, source: list[str], tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        groups_of_users(job(spark, source, tmp_path, override))


@pytest.mark.parametrize(
    ("query", "users", "said"),
    [
        (
            "SELECT customer AS user_id, region FROM people",
            "nobody",
            "no user of fairness.groups is among the 120 members",
        ),
        (
            "SELECT customer AS user_id, region FROM people UNION ALL SELECT 'member00001', 'north'",
            "member",
            "gives 1 users more than one row",
        ),
    ],
)
def test_bad_input_groups_that_do_not_meet_the_members(
    spark: SparkSession, source: list[str], tmp_path: Path, query: str, users: str, said: str
) -> None:
    made = job(spark, source, tmp_path, f"fairness.groups.query={query}")
    groups = groups_of_users(made)
    assert groups is not None
    with pytest.raises(SourceError, match=said) as caught:
        assess_groups(made, Run("evaluate_model", DATE), bundle_of(made), DATE, forecasts(users=users), groups)
    assert "member0" not in str(caught.value)


def test_bad_input_another_key_than_that_of_the_events(
    spark: SparkSession, source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(spark, source, tmp_path)
    delta_tables.ensure(spark, made.uri("events"), made.settings.ingest.table, {"tiercast.key_check": "another"})
    with pytest.raises(PseudonymKeyError, match="not the one that"):
        groups_of_users(made)
    monkeypatch.delenv("TIERCAST_PSEUDONYM_KEY")
    with pytest.raises(PseudonymKeyError, match="no pseudonym key"):
        groups_of_users(made)
