"""Pretraining and embeddings by their jobs: ranks with equal weights, every user embedded, reruns that do nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.core.errors import BundleError
from features.storage import delta_tables
from jobs import build_sequences, embed_users, ingest_events, pretrain_model
from jobs.running.settings import Settings
from tests.data import programme
from training.bundles.bundle_folder import LATEST, MODEL_FILE, read_file, read_manifest
from training.bundles.manifest import PRETRAIN
from training.fitting.loop import train
from training.spark.staging import Examples
from training.spark.training_run import plan_of

pytest.importorskip("horovod.spark")

DATE = dt.date(2024, 3, 20)


@pytest.fixture(scope="module")
def done(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Sequences of the training dates, and an encoder pretrained on them; there are no outcomes at all."""
    folder = tmp_path_factory.mktemp("pretraining")
    overrides = [*programme.source(folder / "source"), "pretraining.epochs=2", "pretraining.batch_size=64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERCAST_PSEUDONYM_KEY", programme.KEY)
        chosen = programme.settings([*overrides, "pretraining.most_events=24"], folder / "store")
        ingest_events.run(programme.job(spark, chosen))
        build_sequences.run(programme.job(spark, chosen, *chosen.training.all_dates))
        pretrain_model.run(programme.job(spark, chosen))
    return chosen


def _embeddings(done: Settings) -> pa.Table:
    return DeltaTable(done.storage.table("embeddings")).to_pyarrow_table().sort_by("user_id")


def test_invariant_8_two_ranks_pretrain_what_one_does(done: Settings, tmp_path: Path) -> None:
    """The slices, and which of them are compared, do not depend on the ranks."""
    keras = pytest.importorskip("keras")
    manifest = read_manifest(done.storage.pretrained, LATEST, PRETRAIN)
    assert manifest.metrics["largest_difference"] == 0.0
    settings = done.pretraining.of(done.training).model_copy(update={"ranks": 1})
    (staged,) = Path(done.storage.staging, "examples").glob("*/examples.json")
    examples = Examples.from_json(staged.read_bytes())
    plan = plan_of("alone", manifest.contract, manifest.model, settings, examples, str(tmp_path))
    train(dataclasses.replace(plan, pretraining=done.pretraining))
    (tmp_path / "two.keras").write_bytes(read_file(done.storage.pretrained, manifest, MODEL_FILE))
    one, two = (keras.saving.load_model(p, compile=False) for p in (plan.model_uri, str(tmp_path / "two.keras")))
    for mine, theirs in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_a_finished_pretraining_is_found_again(spark: SparkSession, done: Settings) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(done.storage.pretrained).rglob("*")}
    pretrain_model.run(programme.job(spark, done))
    assert {p: p.stat().st_mtime_ns for p in Path(done.storage.pretrained).rglob("*")} == before
    runs = DeltaTable(done.storage.table("runs")).to_pyarrow_table().to_pylist()
    found = sorted(r["status"] for r in runs if r["job"] == "pretrain_model")
    assert found[-2:] == ["unchanged", "written"]


def test_every_user_known_before_the_date_is_embedded(spark: SparkSession, done: Settings) -> None:
    embed_users.run(programme.job(spark, done, DATE))
    found = _embeddings(done)
    events = DeltaTable(done.storage.table("events")).to_pyarrow_table(columns=["user_id", "event_date"])
    known = events.filter(pa.compute.field("event_date") < DATE)["user_id"].unique()
    assert found["user_id"].to_pylist() == sorted(known.to_pylist())
    vectors = np.array(found["embedding"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.std(axis=0).max() > 0
    assert set(found["version"].to_pylist()) == {read_manifest(done.storage.pretrained, LATEST, PRETRAIN).version}
    at = delta_tables.version(spark, done.storage.table("embeddings"))
    embed_users.run(programme.job(spark, done, DATE))
    assert delta_tables.version(spark, done.storage.table("embeddings")) == at


def test_invariant_1_events_from_the_as_of_date_on_change_no_embedding(spark: SparkSession, done: Settings) -> None:
    """The sequences are built in the task from events, of which those at the date and after it are taken away."""
    embed_users.run(programme.job(spark, done, DATE))
    before = _embeddings(done)
    events = DeltaTable(done.storage.table("events"))
    whole = events.version()
    events.delete(f"event_date >= '{DATE}'")
    DeltaTable(done.storage.table("embeddings")).delete()
    embed_users.run(programme.job(spark, done, DATE))
    DeltaTable(done.storage.table("events")).restore(whole)
    assert _embeddings(done).equals(before)


def test_bad_input_embedding_by_an_encoder_of_other_sequences(spark: SparkSession, done: Settings) -> None:
    sequence = done.sequence.model_copy(update={"length": 47})
    with pytest.raises(BundleError, match="length: 48 against 47"):
        embed_users.run(programme.job(spark, done.model_copy(update={"sequence": sequence}), DATE))
