"""Staging: the same shards whatever the arrangement of the tables; data that cannot train is refused by name."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import TrainingDataError
from tests.data.training_examples import CONTRACT, DATES, example_tables, settings
from training.examples import shards
from training.examples.labelled_rows import TensorMaker
from training.inputs.column_names import NO_OUTCOME
from training.settings.fitting import TrainingSettings
from training.spark import staging
from training.spark.driver_rows import aggregate_rows, tier_transitions
from training.spark.staging import Examples, data_identity, examples, examples_key, stage


@pytest.fixture(scope="module")
def tables(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    sequences, outcomes = example_tables()
    return spark.createDataFrame(sequences), spark.createDataFrame(outcomes)


@pytest.fixture(scope="module")
def chosen() -> TrainingSettings:
    return settings()


def _staged(folder: Path) -> dict[str, list[Any]]:
    return {p.name: pq.read_table(p).to_pylist() for p in sorted(folder.glob("*.parquet"))}


def test_the_arrangement_of_the_tables_changes_nothing(
    tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings, tmp_path: Path
) -> None:
    """Invariant 3: other partitions and row order, the same shards, row groups and statistics."""
    sequences, outcomes = tables
    first = stage(sequences, outcomes, CONTRACT, chosen, str(tmp_path / "a"))
    shuffled = sequences.orderBy(f.xxhash64("user_id", f.lit(9))).repartition(5)
    second = stage(shuffled, outcomes.repartition(3, "as_of_date"), CONTRACT, chosen, str(tmp_path / "b"))
    assert repr(_staged(tmp_path / "a")) == repr(_staged(tmp_path / "b"))
    assert first.encoding == second.encoding
    assert first.training.rows == second.training.rows
    assert sum(first.training.rows) == 80
    assert sum(first.validation.rows) == 40
    groups = pq.ParquetFile(first.training.uris[0]).metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert set(sizes[:-1]) <= {chosen.row_group_rows}


def test_vocabulary_and_normalisation_come_from_training_rows_alone(
    tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings, tmp_path: Path
) -> None:
    sequences, outcomes = tables
    late = f.col("as_of_date") == f.lit(DATES[2])
    changed = sequences.withColumn("spend_90d", f.when(late, f.lit(1e9)).otherwise(f.col("spend_90d")))
    first = stage(sequences, outcomes, CONTRACT, chosen, str(tmp_path / "a"))
    second = stage(changed, outcomes, CONTRACT, chosen, str(tmp_path / "b"))
    assert first.encoding == second.encoding


def test_staged_examples_are_found_again(
    tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings, tmp_path: Path
) -> None:
    staged = stage(*tables, CONTRACT, chosen, str(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert stage(*tables, CONTRACT, chosen, str(tmp_path)) == staged
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    assert Examples.from_json(staged.to_json()) == staged


def test_identity_and_key_follow_the_rows_not_the_table_version(
    tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings
) -> None:
    sequences, outcomes = tables
    identity = data_identity(sequences, outcomes, CONTRACT, chosen)
    further = sequences.union(sequences.where(f.col("as_of_date") == f.lit(DATES[0])).withColumn(
        "as_of_date", f.lit(dt.date(2025, 9, 1))))  # fmt: skip
    assert data_identity(further, outcomes, CONTRACT, chosen) == identity
    rebuilt = sequences.withColumn("inputs_id", f.lit("other"))
    assert data_identity(rebuilt, outcomes, CONTRACT, chosen) != identity
    assert examples_key(CONTRACT, chosen, identity) != examples_key(CONTRACT, settings(seed=6), identity)
    assert examples_key(CONTRACT, chosen, identity) != examples_key(CONTRACT, settings(weights="by_user"), identity)
    same = settings(epochs=9, as_of={"from": DATES[0], "to": DATES[1], "every": "1mo"})
    assert examples_key(CONTRACT, chosen, identity) == examples_key(CONTRACT, same, identity)


def test_a_date_without_rows_is_named(tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings) -> None:
    sequences, outcomes = tables
    without = f.col("as_of_date") != f.lit(DATES[1])
    with pytest.raises(TrainingDataError, match=r"table sequences has no rows as of 2025-02-01: run build_sequences"):
        data_identity(sequences.where(without), outcomes, CONTRACT, chosen)
    with pytest.raises(TrainingDataError, match=r"table outcomes has no rows as of 2025-02-01: run build_outcomes"):
        data_identity(sequences, outcomes.where(without), CONTRACT, chosen)


def test_rows_of_another_contract_are_named(tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings) -> None:
    sequences, outcomes = tables
    with pytest.raises(TrainingDataError, match=rf"another contract than the settings \({CONTRACT.id}\).*: strange"):
        data_identity(sequences.withColumn("contract_id", f.lit("strange")), outcomes, CONTRACT, chosen)


def test_one_class_only_is_refused(tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings) -> None:
    sequences, outcomes = tables
    one = outcomes.withColumn("outcome_tier_rank", f.lit(1))
    with pytest.raises(TrainingDataError, match="in tier 'silver': a model needs at least two"):
        data_identity(sequences, one, CONTRACT, chosen)


def test_bad_input_training_with_fewer_rows_than_ranks(
    tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings, tmp_path: Path
) -> None:
    sequences, outcomes = tables
    few = sequences.where(f.col("user_id") == "u001")
    with pytest.raises(TrainingDataError, match=r"2 training rows leave . of 4 shards empty: lower"):
        stage(few, outcomes, CONTRACT, chosen, str(tmp_path))


def test_transitions_are_counted(tables: tuple[DataFrame, DataFrame]) -> None:
    sequences, outcomes = example_tables()
    found = tier_transitions(*tables, DATES[:2], CONTRACT, "equal")
    expected = np.zeros((3, 3), np.int64)
    np.add.at(
        expected,
        (sequences["current_tier_rank"].to_numpy()[:80], outcomes["outcome_tier_rank"].to_numpy()[:80]),
        1,
    )
    np.testing.assert_array_equal(found, expected)


def test_the_dates_of_a_user_add_up_to_one(tables: tuple[DataFrame, DataFrame], tmp_path: Path) -> None:
    sequences, outcomes = tables
    late = (f.col("user_id") < "u010") & (f.col("as_of_date") == f.lit(DATES[0]))  # ten users come a month later
    known, chosen = [rows.where(~late) for rows in (sequences, outcomes)], settings(weights="by_user")
    weights = examples(*known, CONTRACT, chosen).select("user_id", "as_of_date", "split", "weight").toPandas()
    of_training = weights[weights["split"] == 0]
    np.testing.assert_allclose(of_training.groupby("user_id")["weight"].sum(), 1, atol=1e-9)
    assert (of_training.groupby("user_id").size() == np.repeat([1, 2], [10, 30])).all()
    assert (weights.loc[weights["split"] == 1, "weight"] == 1).all()
    assert tier_transitions(*known, DATES[:2], CONTRACT, "by_user").sum() == pytest.approx(40)
    staged = stage(*known, CONTRACT, chosen, str(tmp_path))
    assert staged.training.mean_weight == pytest.approx(40 / 70)
    assert staged.validation.mean_weight == 1
    rows = aggregate_rows(*known, DATES[:2], CONTRACT, 1000, "by_user")
    np.testing.assert_allclose(rows["weight"], of_training.sort_values(["user_id", "as_of_date"])["weight"])


def test_module_names_its_splits() -> None:
    assert shards.SPLITS == ("training", "validation")


def test_the_labelled_share_is_of_users_and_leaves_validation_whole(tables: tuple[DataFrame, DataFrame]) -> None:
    def users(share: float, seed: int = 5) -> dict[int, list[str]]:
        rows = examples(*tables, CONTRACT, settings(labelled_share=share, seed=seed)).collect()
        return {split: sorted(r["user_id"] for r in rows if r["split"] == split) for split in (0, 1)}

    few, more, every = users(0.3), users(0.6), users(1.0)
    assert len(every[0]) == 80
    assert few[1] == more[1] == every[1]
    assert len(every[1]) == 40
    for found, share in ((few, 0.3), (more, 0.6)):
        assert all(found[0].count(user) == 2 for user in found[0])  # at both training dates
        assert 0.1 < len(found[0]) / 80 - share + 0.2 < 0.4
    assert set(few[0]) < set(more[0])
    assert set(users(0.6, seed=6)[0]) != set(more[0])


def test_with_refit_the_rows_of_the_validation_date_are_in_both_splits(
    tables: tuple[DataFrame, DataFrame], tmp_path: Path
) -> None:
    once, again = settings(weights="by_user"), settings(weights="by_user", refit=True)
    alone, both = (stage(*tables, CONTRACT, s, str(tmp_path / str(s.refit))) for s in (once, again))
    assert sum(both.training.rows) == sum(alone.training.rows) + sum(alone.validation.rows) == 120
    staged = {s.refit: _staged(tmp_path / str(s.refit)) for s in (once, again)}
    for name in (n for n in staged[True] if n.startswith("validation")):
        assert repr(staged[True][name]) == repr(staged[False][name])
    rows = [row for name, part in staged[True].items() if name.startswith("training") for row in part]
    weights: dict[int, list[float]] = {}
    for row in rows:
        weights.setdefault(row["member"], []).append(row["weight"])
    assert [(len(of), round(sum(of), 9)) for of in weights.values()] == [(3, 1.0)] * 40
    keys = {staging.examples_key(CONTRACT, s, {}) for s in (once, again)}
    assert len(keys) == 2


def test_without_outcomes_every_sequence_is_staged_and_members_are_told(
    tables: tuple[DataFrame, DataFrame], tmp_path: Path
) -> None:
    chosen = settings(labelled_share=1.0)
    staged = stage(tables[0], None, CONTRACT, chosen, str(tmp_path))
    assert (sum(staged.training.rows), sum(staged.validation.rows)) == (80, 40)
    rows = [row for name, part in _staged(tmp_path).items() if name.startswith("training") for row in part]
    assert {row["outcome_tier_rank"] for row in rows} == {None}
    members = [row["member"] for row in rows]
    assert len(set(members)) == 40
    assert {members.count(m) for m in members} == {2}  # each member at both dates
    made = TensorMaker(CONTRACT, staged.encoding, 24, None).encode(pq.read_table(staged.training.uris[0]))
    assert set(made.outcome_rank.tolist()) == {NO_OUTCOME}


def test_a_pretraining_reads_sequences_alone(tables: tuple[DataFrame, DataFrame], chosen: TrainingSettings) -> None:
    assert set(data_identity(tables[0], None, CONTRACT, chosen)) == {"sequences"}
    assert set(data_identity(*tables, CONTRACT, chosen)) == {"sequences", "outcomes"}
    with pytest.raises(TrainingDataError, match="table sequences has no rows as of 2025-03-01"):
        data_identity(tables[0].where("as_of_date < '2025-03-01'"), None, CONTRACT, chosen)
