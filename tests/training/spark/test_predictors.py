"""Scores: probabilities that add up, the same for a row whatever stands beside it, and by SQL as by the function."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from features.core import places
from features.core.errors import BundleError, TrainingDataError
from features.storage import schemas
from features.storage.file_writer import write_file
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange, user_ranges
from jobs.steps.members import Members
from jobs.steps.scores import Scoring, score, write_scores
from tests.data.bundles import ROWS, saved_bundle
from tests.data.training_examples import CONTRACT, SCORING, SMALL, TARGETS, encoding_of, manifest_of, to_tensors
from training.bundles import bundle_folder
from training.bundles.bundle_folder import MODEL_FILE
from training.bundles.manifest import Manifest
from training.inputs.column_names import input_schema
from training.inputs.tensors import Encoded
from training.judging import drift
from training.judging.calibration import Calibration
from training.judging.drift import PREDICTED_TIER, Profile
from training.models import REGISTRY
from training.models.create import build_model
from training.scoring.network_calls import Predictor, width_ladder
from training.spark.driver_rows import collect_forecasts, collect_scores
from training.spark.predictors import arrow_rows, predictor_of_worker, register_scoring_udf

DATE, MOMENT = dt.date(2025, 3, 1), dt.datetime(2025, 3, 2, tzinfo=dt.UTC)
TIERS = CONTRACT.tiers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def manifest(models: str) -> Manifest:
    return saved_bundle(models, "hybrid")


def _sequences() -> pa.Table:
    n, ranks = ROWS.num_rows, ROWS["current_tier_rank"].to_numpy()
    names = np.array([*TIERS, None], object)
    columns = {
        "user_id": pa.array([f"{97 * i % n * 500:04x}{i:028x}" for i in range(n)]),
        "current_tier": pa.array(names[ranks]),
        "next_tier": pa.array(names[ranks + 1]),
        "gap_to_next_tier": pa.array([decimal.Decimal("1.5")] * n, pa.decimal128(28, 6)),
        "gap_measure": pa.array(["spend"] * n),
        "length": pc.list_value_length(ROWS["seq_age"]),
        "truncated": pa.array([False] * n),
    }
    return pa.table({**{name: ROWS[name] for name in ROWS.column_names}, **columns}).sort_by("user_id")


SEQUENCES = _sequences()


def _members(rows: pa.Table, ranges: int) -> Members:
    def rows_of(users: UserRange) -> pa.Table:
        return rows.filter(pa.array(users.holds(rows["user_id"].combine_chunks())))

    return Members(DATE, user_ranges(ranges), rows_of)


@pytest.fixture(scope="module")
def scores(spark: SparkSession, models: str, manifest: Manifest) -> DataFrame:
    return score(spark, Scoring(_members(SEQUENCES, 2), manifest, models, SCORING)).cache()


def test_half_precision_changes_probabilities_little(models: str, manifest: Manifest) -> None:
    half = SCORING.model_copy(update={"precision": "bfloat16"})
    exact, found = (predictor_of_worker(models, manifest, s)(SEQUENCES) for s in (SCORING, half))
    assert 0 < np.abs(found - exact).max() < 0.03
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_forecast_does_not_depend_on_how_many_rows_a_call_has(tmp_path: Path, name: str) -> None:
    own = saved_bundle(str(tmp_path), name)
    predictor = predictor_of_worker(str(tmp_path), own, SCORING.model_copy(update={"model_rows": 250}))
    many = pa.concat_tables([SEQUENCES] * 2)
    whole = predictor(many)
    for few in (1, 7, 64, 130):
        np.testing.assert_array_equal(predictor(many.slice(11, few)), whole[11 : 11 + few])


def test_each_row_is_in_one_call_of_its_own_width(models: str, manifest: Manifest) -> None:
    many = pa.concat_tables([SEQUENCES] * 12)
    encoded = Encoded.of(many, CONTRACT, manifest.encoding)
    for rows, together in ((16, 16), (64, 64), (100, 64)):
        predictor = predictor_of_worker(models, manifest, SCORING.model_copy(update={"model_rows": rows}))
        calls = list(predictor.calls(encoded))
        assert sorted(np.concatenate([members for members, _ in calls])) == list(range(len(many)))
        sizes = [len(tensors["mask"]) for _, tensors in calls]
        assert max(sizes) == -(-rows // together) * together
        assert {size % together for size in sizes} == {0}
        for members, tensors in calls:
            mask = tensors["mask"]
            assert mask.shape[1] == 1 or mask[: len(members)].mean(axis=1).min() >= 1 - SCORING.padding
            np.testing.assert_array_equal(mask.sum(axis=1)[: len(members)], encoded.lengths[members].clip(max=24))
            assert not mask[len(members) :].any()


def test_scores_are_calibrated_by_the_bundle(spark: SparkSession, models: str, manifest: Manifest) -> None:
    mended = dataclasses.replace(manifest, calibration=Calibration((0.5, 1.0, 2.0), ((0.3, 0.0, -0.1),) * 3))
    raw = predictor_of_worker(models, manifest, SCORING)(SEQUENCES)
    current = SEQUENCES["current_tier_rank"].to_numpy().astype(np.int64)
    rows = score(spark, Scoring(_members(SEQUENCES, 3), mended, models, SCORING)).toArrow().sort_by("user_id")
    found = np.stack([rows[f"p_{tier}"].to_numpy() for tier in TIERS], axis=1)
    order = np.argsort(SEQUENCES["user_id"].to_pylist())
    np.testing.assert_allclose(found, mended.calibration(raw, current)[order], atol=1e-6)
    assert np.abs(found - raw[order]).max() > 0.05


def test_further_outputs_enter_the_scores(spark: SparkSession, models: str, tmp_path: Path) -> None:
    import keras

    own = manifest_of(CONTRACT, encoding_of(ROWS), "hybrid", SMALL["hybrid"], targets=TARGETS, version="further")
    network = build_model(own.model, CONTRACT, own.encoding)
    network.save(tmp_path / "made.keras")
    own = bundle_folder.write_bundle(models, own, {MODEL_FILE: (tmp_path / "made.keras").read_bytes()})
    asked = SCORING.model_copy(update={"outputs": ("inactive", "value", "tier_30d")})
    rows = score(spark, Scoring(_members(SEQUENCES, 2), own, models, asked)).toArrow().sort_by("user_id")
    plain = score(spark, Scoring(_members(SEQUENCES, 2), own, models, SCORING)).toArrow().sort_by("user_id")
    assert rows.select(plain.column_names).equals(plain)
    wanted = keras.saving.load_model(tmp_path / "made.keras")(to_tensors(SEQUENCES, CONTRACT, own.encoding, 24))
    np.testing.assert_allclose(rows["p_inactive"], np.array(wanted["inactive"])[:, 0], atol=1e-6)
    np.testing.assert_allclose(rows["expected_value"], np.maximum(np.expm1(wanted["value"][:, 0]), 0), atol=1e-5)
    found = np.stack([rows[f"p_{tier}_30d"].to_numpy() for tier in TIERS], axis=1)
    np.testing.assert_allclose(found, wanted["tier_30d"], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_columns(scores: DataFrame) -> None:
    assert [c.name for c in schemas.scores(TIERS).fields if c.name not in ("scored_at", "inputs_id")] == scores.columns


def test_probabilities_add_up(scores: DataFrame) -> None:
    """Invariant 4: in [0, 1], sum to 1; upgrade, downgrade and staying are everything; the top cannot upgrade."""
    rows = scores.toPandas().set_index("user_id").sort_index()
    p = rows[[f"p_{tier}" for tier in TIERS]].to_numpy()
    assert len(rows) == ROWS.num_rows
    assert p.min() >= 0
    assert p.max() <= 1
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    rank = rows["current_tier"].map(TIERS.index).to_numpy()
    current = p[np.arange(len(p)), rank]
    np.testing.assert_allclose(rows["p_upgrade"] + rows["p_downgrade"] + current, 1, atol=1e-9)
    top = rank == len(TIERS) - 1
    assert top.any()
    assert (rows["p_upgrade"][top] == 0).all()
    assert (rows["p_downgrade"][rank == 0] == 0).all()
    assert rows["next_tier_margin"][top].isna().all()
    following = p[np.arange(len(p)), np.minimum(rank + 1, len(TIERS) - 1)]
    np.testing.assert_allclose(rows["next_tier_margin"][~top], (following - current)[~top])
    assert (rows["predicted_tier"] == np.array(TIERS)[p.argmax(axis=1)]).all()


def test_the_arrangement_changes_no_score(
    spark: SparkSession, scores: DataFrame, models: str, manifest: Manifest
) -> None:
    """Invariant 3, bit for bit: other ranges, other neighbours, other places in a call."""
    first = scores.toArrow().sort_by("user_id")
    shuffled = SEQUENCES.take(np.random.default_rng(1).permutation(SEQUENCES.num_rows))
    for ranges in (1, 8):
        again = score(spark, Scoring(_members(shuffled, ranges), manifest, models, SCORING))
        assert again.toArrow().sort_by("user_id").equals(first)


def _ranks(tiers: pd.Series) -> np.ndarray:
    return tiers.map(TIERS.index).to_numpy(float)


def test_stored_rows_score_as_they_did_before_they_were_written(
    spark: SparkSession, scores: DataFrame, models: str, manifest: Manifest, tmp_path: Path
) -> None:
    files = []
    for part in (SEQUENCES.slice(0, 50), SEQUENCES.slice(50)):
        added = write_file(part, f"{tmp_path}/sequences", "as_of_date", DATE)
        ids = part["user_id"]
        place = f"{tmp_path}/sequences/{added.path}"
        files.append(TableFile(place, DATE, part.num_rows, ids[0].as_py(), ids[-1].as_py()))
    members = Members.stored(files, DATE, CONTRACT, 40, 1)
    assert (members.count, len(members.ranges)) == (130, 4)
    found = score(spark, Scoring(members, manifest, models, SCORING))
    columns = [c for c in found.columns if c != "as_of_date"]
    assert found.select(columns).toArrow().sort_by("user_id").equals(
        scores.select(columns).toArrow().sort_by("user_id")
    )  # fmt: skip
    stamp = {"scored_at": pa.scalar(MOMENT, pa.timestamp("us", "UTC")), "inputs_id": pa.scalar("i")}
    values = {
        **drift.feature_values(SEQUENCES, CONTRACT),
        PREDICTED_TIER: _ranks(scores.toPandas()["predicted_tier"]),
    }
    profile = Profile.of(values, len(TIERS), 7)
    watched = dataclasses.replace(manifest, profile=profile)
    written, counted = write_scores(
        spark, Scoring(members, watched, models, SCORING), f"{tmp_path}/scores", stamp, 1000
    )
    assert sum(f.rows for f in written) == 130
    assert counted is not None
    assert counted.rows == profile.training.rows
    for name, totals in profile.training.totals.items():
        np.testing.assert_allclose(counted.totals[name], totals)
    assert write_scores(spark, Scoring(members, manifest, models, SCORING), f"{tmp_path}/other", stamp, 1000)[1] is None
    rows = pa.concat_tables([pq.ParquetFile(f"{f.table}/{f.path}").read() for f in written]).sort_by("user_id")
    assert (
        rows.select(columns)
        .cast(found.select(columns).toArrow().schema)
        .equals(scores.select(columns).toArrow().sort_by("user_id"))
    )
    assert set(rows["inputs_id"].to_pylist()) == {"i"}


@pytest.mark.parametrize("name", ["hybrid", "cnn", "lstm"])
def test_a_row_alone_scores_as_among_others(tmp_path: Path, name: str) -> None:
    manifest = saved_bundle(str(tmp_path), name)
    predict = Predictor(bundle_folder.load_model(str(tmp_path), manifest), manifest, SCORING)
    rows = ROWS.select(input_schema(CONTRACT).names)
    together = predict(rows)
    alone = np.concatenate([predict(rows.slice(i, 1)) for i in range(0, rows.num_rows, 9)])
    np.testing.assert_array_equal(together[::9], alone)
    assert predict(rows.slice(0, 0)).shape == (0, 3)


def test_sql_gives_the_probabilities_of_the_scores(
    spark: SparkSession, scores: DataFrame, models: str, manifest: Manifest, tmp_path: Path
) -> None:
    """The example of the guide: register the function, read `sequences`, select probabilities."""
    bundle_folder.point_latest(models, manifest.version)
    spark.createDataFrame(SEQUENCES).write.format("delta").save(f"{tmp_path}/tables/sequences")
    register_scoring_udf(spark, "tier_probabilities", models, SCORING)
    spark.read.format("delta").load(f"{tmp_path}/tables/sequences").createOrReplaceTempView("sequences")
    found = spark.sql(
        f"""
        SELECT user_id, p[0] AS p_base, p[1] AS p_silver, p[2] AS p_gold
        FROM (SELECT user_id, tier_probabilities(struct(*)) AS p FROM sequences WHERE as_of_date = DATE'{DATE}')
        ORDER BY p_gold DESC
        """
    )
    columns = ["user_id", *(f"p_{tier}" for tier in TIERS)]
    wanted = scores.select(columns).toArrow().sort_by("user_id")
    assert found.columns == columns
    assert wanted.num_rows == ROWS.num_rows
    assert found.toArrow().sort_by("user_id").equals(wanted)


def test_sql_does_not_forecast_with_a_damaged_bundle(
    spark: SparkSession, manifest: Manifest, models: str, tmp_path: Path
) -> None:
    content = bundle_folder.read_file(models, manifest, MODEL_FILE)
    bundle_folder.write_bundle(str(tmp_path), manifest, {MODEL_FILE: content})
    (tmp_path / manifest.version / MODEL_FILE).write_bytes(content[:-1])
    named = SCORING.model_copy(update={"model_version": manifest.version})
    with pytest.raises(BundleError, match=r"model.keras is damaged"):
        register_scoring_udf(spark, "tier_probabilities", str(tmp_path), named)


def test_pandas_batches_become_the_arrow_rows_they_were(spark: SparkSession) -> None:
    """Null elements, null cells and empty lists survive the way through pandas."""
    columns = input_schema(CONTRACT).names
    rows = ROWS.select(columns).to_pylist()
    rows[0] = rows[0] | {name: None for name in CONTRACT.array_columns} | {"gap_mean": None}
    spark_rows = spark.createDataFrame(pa.Table.from_pylist(rows, schema=input_schema(CONTRACT)))
    found = arrow_rows(spark_rows.toPandas(), CONTRACT).to_pylist()
    rows[0] |= {name: [] for name in CONTRACT.array_columns}
    assert found == rows


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"lack the columns \['seq_shelf'\]"):
        arrow_rows(ROWS.to_pandas().drop(columns="seq_shelf"), CONTRACT)


def test_forecasts_meet_their_outcomes(spark: SparkSession, scores: DataFrame) -> None:
    first, second = SEQUENCES["user_id"].to_pylist()[:2]
    outcomes = spark.createDataFrame([(first, DATE, 2), (second, DATE, 0), ("none", DATE, 1)],
                                     "user_id string, as_of_date date, outcome_tier_rank int")  # fmt: skip
    found = collect_forecasts(scores, outcomes, CONTRACT, 10)
    assert found.users.tolist() == [first, second]
    assert found.outcome_rank.tolist() == [2, 0]
    assert found.current_rank.tolist() == SEQUENCES["current_tier_rank"].to_pylist()[:2]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert len(collect_forecasts(scores, outcomes, CONTRACT, 1).users) == 1
    with pytest.raises(TrainingDataError, match="no scored member has an outcome"):
        collect_forecasts(scores, outcomes.where("false"), CONTRACT, 10)


def test_a_worker_reads_and_loads_a_network_once(
    models: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_folder.write_bundle(str(tmp_path), manifest, {MODEL_FILE: places.read_bytes(f"{models}/made.keras")})
    read = []
    real = places.read_bytes

    def reading(address: str) -> bytes:
        read.append(address)
        return real(address)

    monkeypatch.setattr(places, "read_bytes", reading)
    first = predictor_of_worker(str(tmp_path), manifest, SCORING)
    assert predictor_of_worker(str(tmp_path), manifest, SCORING) is first
    assert predictor_of_worker(str(tmp_path), manifest, SCORING.model_copy(update={"model_rows": 32})) is not first
    assert read == [f"{tmp_path}/{manifest.version}/{MODEL_FILE}"]


def test_a_worker_does_not_load_a_damaged_network(models: str, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / manifest.version).mkdir()
    (tmp_path / manifest.version / MODEL_FILE).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model.keras is damaged"):
        predictor_of_worker(str(tmp_path), manifest, SCORING)


@pytest.mark.parametrize("padding", [0, 0.15, 0.5])
@pytest.mark.parametrize("width", [1, 2, 96, 128])
def test_ladder_of_widths_bounds_the_padding(padding: float, width: int) -> None:
    ladder = width_ladder(width, padding)
    assert ladder[-1] == width
    lengths = np.arange(1, width + 1)
    padded = ladder[np.searchsorted(ladder, lengths)]
    assert (padded >= lengths).all()
    assert ((padded - lengths) / padded <= padding + 1e-9).all()
    assert len(ladder) <= (width if padding < 0.15 else 40)


def test_scores_of_a_share_of_the_members_are_collected(spark: SparkSession) -> None:
    random = np.random.default_rng(1)
    ids = sorted(random.bytes(16).hex() for _ in range(4000))
    rows = pa.table(
        {
            "user_id": ids,
            "current_tier": [TIERS[k % len(TIERS)] for k in range(4000)],
            **{f"p_{tier}": random.random(4000) for tier in TIERS},
        }
    )
    scores = spark.createDataFrame(rows.take(random.permutation(4000)).to_pandas()).repartition(3)
    some, current = collect_scores(scores, CONTRACT, 4000, 1000)
    assert 900 < len(some) < 1100
    assert current.tolist() == [k % len(TIERS) for k in range(len(some))]
    np.testing.assert_array_equal(some[:, 0], rows[f"p_{TIERS[0]}"].to_numpy()[: len(some)])
    for most in (4000, 10**6):
        every, _ = collect_scores(scores, CONTRACT, 4000, most)
        assert len(every) == 4000


def test_a_worker_imports_nothing_that_only_fitting_and_judging_need() -> None:
    """Each worker that scores pays for it, and each rank: seconds of every job."""
    line = """
import sys
from training.fitting import loop
from training.judging import drift
from training.spark import predictors
from training.fitting.ranks import load_keras
load_keras()
print(sorted({"sklearn", "scipy.stats", "scipy.optimize", "lightgbm", "matplotlib"} & set(sys.modules)))
import sklearn, matplotlib
"""
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
