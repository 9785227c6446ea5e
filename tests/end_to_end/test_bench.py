"""The benches at a size of seconds: what is compared gives equal rows, counts and probabilities in every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from bench.speed import run, training
from bench.speed.events import Programme
from bench.speed.page import Section, picture
from bench.speed.run import Bench

USERS = 4_000  # a shard must fill a step


@pytest.fixture(scope="module")
def bench(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "RUNS", 1)
        patch.setattr(run, "DATES", 2)
        yield Bench(spark, Path(tmp_path_factory.mktemp("bench")), Programme(40_000, USERS, 45))


def test_engines_give_equal_sequences(bench: Bench, tmp_path: Path) -> None:
    costs = bench.arrays()
    assert len(costs) == 6
    section = Section("arrays", costs, "Tiercast", "equal rows")
    assert "| DuckDB " in section.text()
    picture([section, section]).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_engines_give_equal_aggregates_and_tiers(bench: Bench) -> None:
    assert {"Tiercast", "Spark SQL", "Polars eager"} < set(bench.whole())


def test_many_dates_cost_something(bench: Bench) -> None:
    assert all(cost.cpu > 0 for cost in bench.dates().values())


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_engines_count_equal_statuses(bench: Bench, form: str) -> None:
    assert set(bench.ingests(2_000, form)) == {"Tiercast", "DuckDB", "Polars"}


def test_every_way_of_scoring_gives_equal_probabilities(bench: Bench) -> None:
    found = bench.scores(USERS)
    assert [name.split(",")[0] for name in found] == ["hybrid", "cnn"]
    assert all(len(costs) == 4 for costs in found.values())


def test_feed_and_ranks_are_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    every = training.ways
    monkeypatch.setattr(training, "ways", lambda dates: {training.ONE_RANK: every(dates)[training.ONE_RANK]})
    text = bench.trainings(USERS)
    assert f"| {training.ONE_RANK} " in text
    assert "tf.data.from_generator of rows" in text
