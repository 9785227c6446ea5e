"""Jobs asked for what the data or the models cannot give: each ends with one clear error of its kind."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from features.core.errors import BundleError, DateError, TableMismatchError, TrainingDataError
from features.storage import delta_tables, schemas
from jobs import build_outcomes, embed_users, evaluate_model, score_users, train_model
from jobs.running.settings import Settings
from tests.data import programme
from tests.data.event_store import AS_OF, Store, event, some_events
from training.bundles import bundle_folder


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)


@pytest.fixture(scope="module")
def store(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(spark, tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)
        made.ingest(some_events(11))
        made.build(AS_OF)
    return made


def test_bad_input_as_of_before_all_data(store: Store) -> None:
    with pytest.raises(DateError, match="lies before all data: the first event is of"):
        store.build(dt.date(2020, 1, 1))


def test_bad_input_no_events_at_all(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DateError, match="run ingest_events first"):
        Store(spark, tmp_path).build(AS_OF)


def test_bad_input_outcomes_before_the_horizon_has_passed(spark: SparkSession, store: Store) -> None:
    with pytest.raises(DateError, match="has not passed"):
        build_outcomes.run(store.job(AS_OF))
    assert delta_tables.read(spark, store.settings().storage.table("outcomes")).isEmpty()


def test_bad_input_scoring_without_sequences(store: Store) -> None:
    with pytest.raises((DateError, BundleError)):
        score_users.run(store.job(dt.date(2024, 3, 5)))


def test_bad_input_scoring_without_a_bundle(store: Store) -> None:
    with pytest.raises(BundleError, match="train_model"):
        score_users.run(store.job(AS_OF))


def test_bad_input_training_without_rows_of_a_date(store: Store) -> None:
    with pytest.raises((DateError, TrainingDataError), match=r"2024-02-01|outcomes"):
        train_model.run(store.job())


def test_bad_input_training_with_one_class_only(spark: SparkSession, tmp_path: Path) -> None:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    made = Store(spark, tmp_path)
    made.ingest([event(n, f"member-{n % 30}", start + dt.timedelta(days=n % 90), "0.10") for n in range(300)])
    dates = made.settings().training.all_dates
    made.build(*dates)
    build_outcomes.run(made.job(*dates))
    with pytest.raises(TrainingDataError, match=r"class|tier"):
        train_model.run(made.job())


def test_bad_input_a_table_of_another_schema(spark: SparkSession, tmp_path: Path) -> None:
    uri = str(tmp_path / "outcomes")
    spark.range(1).selectExpr("id", "CAST(1 AS INT) AS outcome_value").write.format("delta").save(uri)
    with pytest.raises(TableMismatchError) as caught:
        delta_tables.ensure(spark, uri, schemas.outcomes())
    for problem in (
        "column user_id is missing",
        "column id is not expected",
        "column outcome_value is int, expected decimal(28,6)",
        "partitioned by nothing, expected as_of_date",
    ):
        assert problem in str(caught.value)


@pytest.fixture(scope="module")
def trained(scored_programme: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The points programme up to a bundle and its sequences."""
    return programme.copy_of(scored_programme, tmp_path_factory.mktemp("trained") / "store", without=["scores"])


def bundle_copy(trained: Settings, folder: Path) -> tuple[Settings, Path]:
    """The trained settings with a storage root of their own, and the folder of the bundle that it publishes."""
    shutil.copytree(trained.storage.base, folder / "store")
    moved = trained.model_copy(update={"storage": type(trained.storage)(root=str(folder / "store"))})
    published = bundle_folder.published(moved.storage.models)
    assert published is not None
    return moved, Path(moved.storage.models) / published.version


def test_bad_input_a_truncated_bundle_file(spark: SparkSession, trained: Settings, tmp_path: Path) -> None:
    moved, folder = bundle_copy(trained, tmp_path)
    network = folder / "model.keras"
    network.write_bytes(network.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"model\.keras"):
        score_users.run(programme.job(spark, moved, programme.SCORED))


def test_invariant_5_a_bundle_refuses_sequences_of_another_contract(
    spark: SparkSession, trained: Settings, tmp_path: Path
) -> None:
    moved, folder = bundle_copy(trained, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["contract"]["length"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"length: 49 against 48|length: 48 against 49"):
        score_users.run(programme.job(spark, moved, programme.SCORED))


def test_invariant_5_a_bundle_refuses_other_tier_rules(spark: SparkSession, trained: Settings, tmp_path: Path) -> None:
    moved, _ = bundle_copy(trained, tmp_path)
    levels = list(moved.tiers.levels)
    levels[1] = levels[1].model_copy(update={"from_": {"points": Decimal(210), "purchases": Decimal(3)}})
    other = moved.model_copy(update={"tiers": moved.tiers.model_copy(update={"levels": levels})})
    with pytest.raises(BundleError, match="tier_rule"):
        score_users.run(programme.job(spark, other, programme.SCORED))


def test_invariant_9_no_training_window_overlaps_the_evaluated_horizon(spark: SparkSession, trained: Settings) -> None:
    with pytest.raises(DateError, match=r"overlap|outcome window|horizon"):
        evaluate_model.run(programme.job(spark, trained, trained.training.dates[-1]))


def test_bad_input_training_from_an_encoder_that_does_not_stand(spark: SparkSession, trained: Settings) -> None:
    training = trained.training.model_copy(update={"pretrained": "hybrid-2020-01-01-none"})
    asked = trained.model_copy(update={"training": training})
    with pytest.raises(BundleError, match=r"no whole bundle 'hybrid-2020-01-01-none' .*: run pretrain_model first"):
        train_model.run(programme.job(spark, asked))


def test_bad_input_an_embedding_before_any_pretraining(spark: SparkSession, trained: Settings) -> None:
    with pytest.raises(BundleError, match=r"no model is published under .*/pretrained: run pretrain_model first"):
        embed_users.run(programme.job(spark, trained, programme.SCORED))
