"""One rank in this process: schedule, learning, early stopping, checkpoints and their resumption."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.core.errors import StorageError
from tests.data.training_examples import CONTRACT, JUDGING, TARGETS, example_rows, plan, settings, to_tensors
from training.examples.batches import Shuffle, training_batches
from training.examples.labelled_rows import EncodedRows
from training.fitting import checkpoint, ranks
from training.fitting.checkpoint import Checkpoint
from training.fitting.forecasting import compiled_steps
from training.fitting.loop import learning_rate, train
from training.fitting.plan import Plan
from training.fitting.teacher import Teacher
from training.models import REGISTRY
from training.models.create import build_model, in_precision
from training.models.ensemble import networks_of
from training.models.settings import ModelSettings
from training.spark.train_model import training_key
from training.spark.training_run import taught

pytest.importorskip("horovod.tensorflow")


class KilledError(Exception):
    """Stands in for a killed process."""


def test_learning_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    rates = [learning_rate(step, 100, 10, 0.2) for step in range(100)]
    np.testing.assert_allclose(rates[:10], 0.02 * np.arange(1, 11))
    np.testing.assert_allclose(rates[55], 0.1, rtol=1e-9)  # half way down
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
    assert learning_rate(0, 10, 0, 0.2) == 0.2


def test_a_plan_round_trips_through_json(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert Plan.from_json(made.to_json()) == made


@pytest.mark.parametrize("model", sorted(REGISTRY))
def test_training_learns_and_leaves_a_model(tmp_path: Path, model: str) -> None:
    made = plan(tmp_path, model)
    result = train(made)
    losses = [entry["loss"] for entry in result["history"]]
    assert losses[-1] < losses[0]
    assert result["largest_difference"] == 0.0
    assert result["validation_loss"] == min(e["validation_loss"] for e in result["history"])
    assert Path(made.model_uri).exists()
    progress = json.loads(Path(made.progress_uri).read_bytes())
    assert progress["step"] == progress["steps"] == 20


@pytest.mark.parametrize("model", sorted(REGISTRY))
def test_targets_are_learned_beside_the_tier(tmp_path: Path, model: str) -> None:
    import keras

    made = plan(tmp_path, model, targets=TARGETS, epochs=10, learning_rate=0.02, patience=10)
    result = train(made)
    for name, chance in zip(TARGETS, (math.log(3), math.log(2)), strict=True):
        losses = [entry[f"validation_loss_{name}"] for entry in result["history"]]
        assert min(losses) < 0.95 * chance
        assert result[f"validation_loss_{name}"] == losses[result["best_epoch"] - 1]
    loaded = keras.saving.load_model(made.model_uri, compile=False, safe_mode=True)
    rows = example_rows(64, 2, targets=TARGETS)
    found = {name: np.array(p, np.float64) for name, p in loaded(to_tensors(rows, CONTRACT, made.encoding, 24)).items()}
    assert {name: p.shape[1] for name, p in found.items() if name in TARGETS} == {"tier_30d": 3, "inactive": 1}
    of_tier = found["tier_30d"][np.arange(64), rows["outcome_tier_rank_30d"].to_numpy()]
    assert result["validation_loss_tier_30d"] == pytest.approx(-np.log(of_tier).mean(), rel=1e-4)
    inactive = np.abs(1 - rows["outcome_inactive"].to_numpy() - found["inactive"][:, 0])
    assert result["validation_loss_inactive"] == pytest.approx(-np.log(inactive).mean(), rel=1e-4)


def test_a_resumed_training_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Invariant 7, with dropout and shuffling on: seeds of both are part of the checkpoint."""
    whole = _with_dropout(plan(tmp_path / "whole", average_decay=0.9))
    disturbed = _with_dropout(plan(tmp_path / "disturbed", average_decay=0.9))
    expected = train(whole)

    with pytest.raises(KilledError):
        train(disturbed, _stopped_at(1, 2))
    resumed = train(disturbed)
    assert (expected["resumed_epochs"], resumed["resumed_epochs"]) == (0, 2)
    assert [e["validation_loss"] for e in resumed["history"]] == [e["validation_loss"] for e in expected["history"]]
    for mine, theirs in zip(_final(disturbed).model, _final(whole).model, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_ensemble_averages_networks_of_seeds_of_their_own(tmp_path: Path) -> None:
    import keras

    alone, made = plan(tmp_path / "alone", epochs=2), plan(tmp_path / "three", epochs=2, ensemble=3)
    train(alone)
    with pytest.raises(KilledError):
        train(made, _stopped_at(2, 1))
    result = train(made)
    assert result["resumed_epochs"] == 3
    assert [(e["member"], e["epoch"]) for e in result["history"]] == [(m, e) for m in (1, 2, 3) for e in (1, 2)]
    loaded = keras.saving.load_model(made.model_uri, compile=False, safe_mode=True)
    networks = networks_of(loaded)
    assert len(networks) == 3
    rows = example_rows(64, 2)
    tensors = to_tensors(rows, CONTRACT, made.encoding, 24)
    answers = [np.array(network(tensors)["tier"]) for network in networks]
    for number, network in enumerate(networks):
        kept = [v for v in _final(made.of_network(number)).best if v.dtype == np.float32]  # not the state of dropout
        for mine, best in zip(network.trainable_variables, kept, strict=True):
            np.testing.assert_array_equal(mine.numpy(), best)
    np.testing.assert_array_equal(answers[0], keras.saving.load_model(alone.model_uri)(tensors)["tier"])
    assert np.abs(answers[1] - answers[2]).max() > 0.001
    found = np.array(loaded(tensors)["tier"])
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-6)
    wanted = -np.log(found[np.arange(64), rows["outcome_tier_rank"].to_numpy()]).mean()
    assert result["validation_loss"] == pytest.approx(wanted, rel=1e-5)
    assert result["weights"] == 3 * sum(np.prod(w.shape) for w in networks[0].trainable_variables)
    progress = json.loads(Path(made.progress_uri).read_bytes())
    assert progress["step"] == progress["steps"] == 30
    half = in_precision(loaded, made.model, CONTRACT, made.encoding, "bfloat16")(tensors)["tier"]
    np.testing.assert_allclose(half, found, atol=0.03)


def _stopped_at(network: int, epoch: int) -> Callable[[Mapping[str, float]], None]:
    def stop(entry: Mapping[str, float]) -> None:
        if (entry["member"], entry["epoch"]) == (network, epoch):
            raise KilledError

    return stop


def test_a_finished_training_that_is_started_again_takes_no_step(tmp_path: Path) -> None:
    made = plan(tmp_path)
    train(made)
    before = _final(made)
    assert train(made)["resumed_epochs"] == 4
    assert _final(made).to_bytes() == before.to_bytes()


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    made = plan(tmp_path)
    train(made)
    assert train(dataclasses.replace(made, key="other"))["resumed_epochs"] == 0


def test_training_stops_when_patience_ends_and_keeps_the_best_weights(tmp_path: Path) -> None:
    made = plan(tmp_path, epochs=30, patience=2, learning_rate=0.3, warmup_epochs=0)
    result = train(made)
    losses = [entry["validation_loss"] for entry in result["history"]]
    assert len(losses) < 30
    assert result["best_epoch"] == len(losses) - 2 == int(np.argmin(losses)) + 1


def test_a_training_whose_epochs_are_known_keeps_the_weights_of_the_last(tmp_path: Path) -> None:
    """Though one before is better; the schedule is that of the whole training."""
    chosen = {"learning_rate": 0.3, "warmup_epochs": 0, "epochs": 8, "patience": 8, "ensemble": 2}
    free = train(plan(tmp_path / "free", **chosen))["history"][:8]
    losses = [entry["validation_loss"] for entry in free]
    worse = next(k for k in range(2, 8) if losses[k - 1] > min(losses[:k]))
    made = dataclasses.replace(plan(tmp_path / "known", **chosen), until=(worse, 2))
    assert Plan.from_json(made.to_json()) == made
    known = train(made)
    epochs = [(entry["member"], entry["epoch"]) for entry in known["history"]]
    assert epochs == [*((1, k) for k in range(1, worse + 1)), (2, 1), (2, 2)]
    assert known["best_epoch"] == worse
    for mine, theirs in zip(known["history"][:worse], free, strict=False):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["learning_rate"] == theirs["learning_rate"]
    judged = [(entry["member"], entry["epoch"]) for entry in known["history"] if "validation_loss" in entry]
    assert judged == [(1, worse), (2, 2)]  # before the last epoch of each there is nothing to choose
    assert known["history"][worse - 1]["validation_loss"] == pytest.approx(losses[worse - 1], rel=1e-5)


def test_the_moving_average_of_the_weights_is_what_is_validated_and_kept() -> None:
    import keras

    ranks.start(mixed_precision=False)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = ranks.adamw(0.1, 0.0, average_decay=0.75)
    optimizer.build(model.trainable_variables)
    chance, wanted = np.random.default_rng(2), [np.array(v.numpy()) for v in model.trainable_variables]
    for step in range(4):
        gradients = [chance.normal(size=v.shape).astype(np.float32) for v in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        now = [v.numpy() for v in model.trainable_variables]
        wanted = [0.75 * a + 0.25 * w if step else w for a, w in zip(wanted, now, strict=True)]
    own = [np.array(v.numpy()) for v in model.trainable_variables]
    with ranks.averaged(model, optimizer):
        for found, average in zip(model.trainable_variables, wanted, strict=True):
            np.testing.assert_allclose(found.numpy(), average, rtol=1e-5)
    for found, before in zip(model.trainable_variables, own, strict=True):
        np.testing.assert_array_equal(found.numpy(), before)


def test_rows_count_by_their_weight(tmp_path: Path) -> None:
    made = plan(tmp_path)
    ranks.start(mixed_precision=False)
    ranks.seed(1)
    model = build_model(made.model, made.contract, made.encoding)
    optimizer = ranks.adamw(0.01, 0.0, 0.0)
    optimizer.build(model.trainable_variables)
    step, _ = compiled_steps(model, optimizer, 0.0, 0.5)
    encoded = EncodedRows(made.tensor_maker(), 1000)
    batch = next(iter(training_batches(made.training, encoded, 0, 1, 32, Shuffle(24, False, 5, 0))))
    assert len(np.unique(batch["target_weight"])) == 3
    p = model({name: batch[name] for name in model.input}, training=False)["tier"].numpy()
    losses = -np.log(p[np.arange(32), batch["target_tier"]])
    assert float(step(batch)) == pytest.approx(float((batch["target_weight"] * losses).mean() / 0.5), rel=1e-5)


def taught_plan(folder: Path, weight: float, **changes: Any) -> Plan:
    made = plan(folder, rows=600, teacher_weight=weight, **changes)
    return taught(made, made.training, made.validation)


def test_a_teacher_has_its_share_of_the_loss_of_the_tier(tmp_path: Path) -> None:
    made = taught_plan(tmp_path, 0.25)
    ranks.start(mixed_precision=False)
    ranks.seed(1)
    model = build_model(made.model, made.contract, made.encoding)
    optimizer = ranks.adamw(0.01, 0.0, 0.0)
    optimizer.build(model.trainable_variables)
    step, _ = compiled_steps(model, optimizer, 0.0, 0.5, (), made.teacher_weight)
    encoded = EncodedRows(made.training_tensors(), 1000)
    batch = next(iter(training_batches(made.training, encoded, 0, 1, 32, Shuffle(24, False, 5, 0))))
    rows = pa.concat_tables([pq.read_table(u) for u in made.training.uris])
    of_member = dict(zip(rows["member"].to_pylist(), Teacher.load(str(made.teacher_uri))(rows), strict=True))
    taught_by = np.array([of_member[m] for m in batch["member"].tolist()])
    np.testing.assert_array_equal(batch["target_taught"], taught_by)
    p = model({name: batch[name] for name in model.input}, training=False)["tier"].numpy()
    true = np.eye(3)[batch["target_tier"]]
    losses = -((0.75 * true + 0.25 * taught_by) * np.log(p)).sum(axis=1)
    assert float(step(batch)) == pytest.approx(float((batch["target_weight"] * losses).mean() / 0.5), rel=1e-5)


def test_a_training_with_a_teacher_is_validated_by_what_came_true(tmp_path: Path) -> None:
    import keras

    made = taught_plan(tmp_path, 1.0, epochs=6, learning_rate=0.02, patience=6)
    assert Plan.from_json(made.to_json()) == made
    result = train(made)
    loaded = keras.saving.load_model(made.model_uri, compile=False, safe_mode=True)
    rows = pa.concat_tables([pq.read_table(u) for u in made.validation.uris])
    p = np.array(loaded(to_tensors(rows, CONTRACT, made.encoding, 24))["tier"], np.float64)
    losses = -np.log(p[np.arange(len(p)), rows["outcome_tier_rank"].to_numpy()])
    assert result["validation_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert result["validation_loss"] < 0.95 * math.log(3)  # of what came true it was told by the teacher alone


def test_a_teacher_that_is_not_asked_changes_no_key() -> None:
    def key(**changes: Any) -> str:
        return training_key(CONTRACT, ModelSettings(name="hybrid"), settings(**changes), JUDGING.calibration, {})

    assert key(teacher_parts=7) == key()
    assert len({key(), key(teacher_weight=0.5), key(teacher_weight=0.5, teacher_parts=7)}) == 3


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.fitting.loop._State._validate", lambda self: {"validation_loss": math.nan})
    with pytest.raises(RuntimeError, match=r"loss is nan after epoch 1: lower training.learning_rate"):
        train(plan(tmp_path))


def test_a_checkpoint_round_trips_and_keeps_the_order_of_variables() -> None:
    arrays = [np.full(2, i, np.float32) for i in range(12)]
    made = Checkpoint("k", 2, arrays, arrays[:3], arrays[::-1], 0.5, 1, [{"epoch": 1.0}])
    found = Checkpoint.from_bytes(made.to_bytes())
    assert (found.key, found.epochs, found.best_loss, found.history) == ("k", 2, 0.5, [{"epoch": 1.0}])
    np.testing.assert_array_equal(np.stack(found.model), np.stack(arrays))
    np.testing.assert_array_equal(np.stack(found.best), np.stack(arrays[::-1]))


@pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps({"a": 1})])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"checkpoint.npz is damaged .* delete it"):
        checkpoint.load(str(path), "k")


def test_a_checkpoint_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array([{"key": "k"}], dtype=object))
    with pytest.raises(ValueError, match="not a checkpoint"):
        Checkpoint.from_bytes(buffer.getvalue())


def _with_dropout(made: Plan) -> Plan:
    parameters = {**made.model.parameters, "dropout": 0.4}
    return dataclasses.replace(made, model=made.model.model_copy(update={"parameters": parameters}))


def _final(made: Plan) -> Checkpoint:
    found = checkpoint.load(made.checkpoint_uri, made.key)
    assert found is not None
    return found
