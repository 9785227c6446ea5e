"""Pretraining in this process: slices of one member each, losses against slow references, weights that are taken up."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from features.core.errors import BundleError, SettingsError
from tests.data.training_examples import (
    CONTRACT,
    JUDGING,
    PRETRAINING,
    SCORING,
    SMALL,
    encoding_of,
    example_rows,
    manifest_of,
    plan,
    pretraining,
    settings,
    to_tensors,
)
from training.bundles import bundle_folder
from training.bundles.bundle_folder import MODEL_FILE
from training.bundles.encoders import check_can_pretrain, check_sequences, chosen
from training.bundles.manifest import PRETRAIN, Manifest
from training.fitting import checkpoint
from training.fitting.loop import encoder_rate, train
from training.fitting.plan import Plan
from training.fitting.pretraining import contrastive_loss, next_event_loss
from training.fitting.slices import cut, drawn_slices, sliced
from training.inputs.column_names import MEMBER
from training.inputs.tensors import Tensors
from training.models import encoder_shape, with_encoders
from training.models.create import build_model
from training.models.settings import ModelSettings
from training.spark.embeddings import encoder_of_worker
from training.spark.train_model import training_key

pytest.importorskip("horovod.tensorflow")
keras = pytest.importorskip("keras")

HYBRID = ModelSettings(name="hybrid", parameters=SMALL["hybrid"])


def test_slices_lie_within_their_row_and_within_their_lengths() -> None:
    lengths = np.repeat([0, 2, 3, 7, 40], 400)
    first, taken = drawn_slices(lengths, 3, 3, 10, np.random.default_rng(1))
    assert first.shape == taken.shape == (2000, 3)
    assert (taken[lengths < 3] == 0).all()
    assert (first >= 0).all()
    assert (first + taken <= lengths[:, None]).all()
    for length in (3, 7, 40):
        found = taken[lengths == length]
        assert set(found.ravel()) == set(range(3, min(length, 10) + 1))
    of_three = (first + taken)[lengths == 40]
    assert of_three.min() == 3  # the very first events
    assert of_three.max() == 40  # and the newest one


def _marked(lengths: list[int], members: list[int]) -> Tensors:
    """Rows whose events say whose they are and which: channel 0 the member, channel 1 the place, code the place + 1."""
    width = max(lengths)
    place = np.arange(width)
    mask = place < np.array(lengths)[:, None]
    channels = np.stack(np.broadcast_arrays(np.array(members)[:, None], place), axis=-1).astype(np.float32)
    codes = np.broadcast_to(place[:, None] + 1, (len(lengths), width, 1)).astype(np.int32)
    return {
        "channels": channels * mask[..., None],
        "codes": codes * mask[..., None],
        "mask": mask,
        MEMBER: np.array(members, np.int64),
    }


def test_cutting_takes_consecutive_events_and_pads_with_zeros() -> None:
    rows = _marked([5, 0, 9], [10, 11, 12])
    first, taken = np.array([[1, 0], [0, 0], [5, 2]]), np.array([[3, 5], [0, 0], [4, 6]])
    found = cut(rows, first, taken, 8)
    assert found["channels"].dtype == np.float32
    assert found["codes"].dtype == np.int32
    for k, (row, s) in enumerate(itertools.product(range(3), range(2))):
        n, start = taken[row, s], first[row, s]
        assert found["mask"][k].tolist() == [True] * n + [False] * (8 - n)
        np.testing.assert_array_equal(found["channels"][k, :n], rows["channels"][row, start : start + n])
        np.testing.assert_array_equal(found["codes"][k, :n], rows["codes"][row, start : start + n])
        assert not found["channels"][k, n:].any()
        assert not found["codes"][k, n:].any()


def test_slices_never_mix_members() -> None:
    members = [7, 8, 7, 9, 8, 8, 5, 6]  # some at several dates; two shards of four rows
    batch = sliced(
        _marked([30, 12, 25, 3, 40, 1, 8, 20], members), [np.random.default_rng(k) for k in (1, 2)], PRETRAINING
    )
    assert batch[MEMBER].shape == (2, 4 * PRETRAINING.slices)
    number = batch[MEMBER].ravel()
    owner = np.repeat(members, PRETRAINING.slices)
    for k in range(len(number)):
        events = batch["channels"][k][batch["mask"][k]]
        assert set(events[:, 0]) == ({owner[k]} if number[k] >= 0 else set())
        np.testing.assert_array_equal(np.diff(events[:, 1]), np.ones(max(0, len(events) - 1)))
    for i, j in itertools.product(range(len(number)), repeat=2):
        if min(number[i], number[j]) >= 0:
            assert (number[i] == number[j]) == (owner[i] == owner[j])
    assert (number == -1).sum() == 2 * PRETRAINING.slices  # the rows of 3 events and of 1


def test_slices_of_a_shard_do_not_depend_on_the_other_shards_of_a_rank() -> None:
    """What makes a step's loss equal for any number of ranks."""
    rows = _marked([30, 12, 25, 13], [1, 2, 3, 4])
    both = sliced(rows, [np.random.default_rng(k) for k in (1, 2)], PRETRAINING)
    second = sliced({name: t[2:] for name, t in rows.items()}, [np.random.default_rng(2)], PRETRAINING)
    width = second["mask"].shape[1]
    np.testing.assert_array_equal(both["channels"][-len(second["mask"]) :, :width], second["channels"])


def _contrast(embeddings: np.ndarray, member: np.ndarray, margin: float, negatives: int) -> float:
    """The loss pair by pair."""
    losses = []
    for vectors, owner in zip(embeddings, member, strict=True):
        near, far = [], []
        for i in range(len(owner)):
            if owner[i] < 0:
                continue
            others = []
            for j in range(len(owner)):
                distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(vectors[i], vectors[j], strict=True)))
                if j != i and owner[j] == owner[i]:
                    near.append(distance**2)
                elif owner[j] >= 0 and owner[j] != owner[i]:
                    others.append(distance)
            far += [max(0.0, margin - d) ** 2 for d in sorted(others)[:negatives]]
        losses.append(sum(part) / len(part) if part else 0.0 for part in (near, far))
    return float(np.mean([sum(pair) for pair in losses]))


@pytest.mark.parametrize("negatives", [1, 3, 50])
def test_contrastive_loss_is_that_of_the_pairs_one_by_one(negatives: int) -> None:
    random = np.random.default_rng(4)
    vectors = random.normal(size=(4, 9, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[0, 1] = vectors[0, 0]  # a distance of 0
    member = np.array([[0, 0, 1, 1, 2, 2, -1, 3, 3], [0] * 9, [0, 1, 2, 3, 4, 5, 6, 7, 8], [-1] * 9], np.int32)
    found = float(contrastive_loss(vectors, member, 1.2, negatives))
    assert found == pytest.approx(_contrast(vectors, member, 1.2, negatives), abs=1e-5)
    assert found > 0


def test_contrastive_loss_has_finite_slopes_where_slices_coincide() -> None:
    import tensorflow as tf

    vectors = tf.Variable(np.tile([[[1.0, 0.0]]], (1, 4, 1)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = contrastive_loss(vectors, np.array([[0, 0, 1, 1]], np.int32), 0.5, 2)
    assert np.isfinite(tape.gradient(loss, vectors).numpy()).all()


def _forecast(outputs: dict[str, np.ndarray], batch: Tensors, numbers: list[int]) -> tuple[float, float]:
    """Loss and share that is right, event by event."""
    losses, shares = [], []
    for i in range(len(batch["mask"])):
        missed, right = [], []
        for t in range(batch["mask"].shape[1] - 1):
            if not batch["mask"][i, t + 1]:
                continue
            loss = 0.0
            for n, channel in enumerate(numbers):
                error = abs(batch["channels"][i, t + 1, channel] - outputs["next_numbers"][i, t, n])
                loss += (error**2 / 2 if error <= 1 else error - 0.5) / len(numbers)
            hits = []
            for q in range(2):
                logits, code = outputs[f"next_code_{q}"][i, t], batch["codes"][i, t + 1, q]
                loss += (math.log(np.exp(logits).sum()) - logits[code]) / 2
                hits.append(float(logits.argmax() == code))
            missed.append(loss)
            right.append(np.mean(hits))
        losses.append(np.mean(missed) if missed else 0.0)
        shares.append(np.mean(right) if right else 0.0)
    return float(np.mean(losses)), float(np.mean(shares))


def test_next_event_loss_is_that_of_the_events_one_by_one() -> None:
    random = np.random.default_rng(6)
    lengths = np.array([0, 1, 2, 6])
    mask = np.arange(6) < lengths[:, None]
    batch: Tensors = {
        "channels": random.normal(size=(4, 6, 3)).astype(np.float32) * 2,
        "codes": np.stack([random.integers(1, 4, (4, 6)), random.integers(1, 5, (4, 6))], -1).astype(np.int32),
        "mask": mask,
    }
    outputs = {
        "next_numbers": random.normal(size=(4, 6, 2)).astype(np.float32),
        "next_code_0": random.normal(size=(4, 6, 4)).astype(np.float32),
        "next_code_1": random.normal(size=(4, 6, 5)).astype(np.float32),
    }
    loss, right = next_event_loss(outputs, batch, [0, 2], 2)
    expected = _forecast(outputs, batch, [0, 2])
    assert (float(loss), float(right)) == pytest.approx(expected, rel=1e-5)
    dirty = {name: np.where(mask[..., None], batch[name], 3) for name in ("channels", "codes")}
    again, _ = next_event_loss(outputs, {**dirty, "mask": mask}, [0, 2], 2)
    assert float(again) == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("name", [n for n in with_encoders() if getattr(encoder_shape(n), "causal", False)])
def test_a_causal_encoder_sees_no_later_event(name: str) -> None:
    """Else the forecast of the next event would be no forecast."""
    from training.models.layers import encoder_of

    rows = example_rows(12, 5)
    encoding = encoding_of(rows)
    keras.utils.set_random_seed(1)
    encoder = encoder_of(build_model(ModelSettings(name=name, parameters=SMALL[name]), CONTRACT, encoding))
    tensors = {n: to_tensors(rows, CONTRACT, encoding, 24)[n] for n in encoder.input}
    tensors["mask"] = np.ones_like(tensors["mask"])
    changed = {**tensors, "channels": tensors["channels"].copy(), "codes": tensors["codes"].copy()}
    changed["channels"][:, 10:] += 1
    changed["codes"][:, 10:] = 1
    before, after = (np.asarray(encoder(t, training=False)) for t in (tensors, changed))
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert np.abs(before[:, 10:] - after[:, 10:]).max() > 0


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Any]]:
    """A pretraining in this process, and what it returned."""
    made = dataclasses.replace(plan(tmp_path_factory.mktemp("pretrained")), pretraining=PRETRAINING)
    return made, train(made)


def test_pretraining_learns_without_outcomes(pretrained: tuple[Plan, dict[str, Any]]) -> None:
    made, result = pretrained
    losses = [entry["validation_loss"] for entry in result["history"]]
    assert losses[-1] < losses[0]
    assert result["largest_difference"] == 0.0
    assert Plan.from_json(made.to_json()) == made


def _encoder_weights(address: str) -> list[np.ndarray]:
    from training.models.layers import encoder_of

    return list(encoder_of(keras.saving.load_model(address, compile=False)).get_weights())


def _fine_tuned(folder: Path, pretrained: tuple[Plan, dict[str, Any]], **changes: Any) -> list[float]:
    """Largest change of each weight of the encoder in a training that starts from the pretrained one."""
    begun = pretrained[0]
    made = plan(folder, **{"weight_decay": 0.0, "average_decay": 0.9, "epochs": 2, **changes})
    made = dataclasses.replace(made, encoding=begun.encoding, encoder_uri=begun.model_uri)
    train(made)
    pairs = zip(_encoder_weights(begun.model_uri), _encoder_weights(made.model_uri), strict=True)
    return [float(np.abs(after - before).max()) for before, after in pairs]


def test_fine_tuning_starts_from_the_pretrained_encoder(tmp_path: Path, pretrained: Any) -> None:
    """At a tiny rate the weights are still those that were pretrained; a larger one moves them."""
    assert max(_fine_tuned(tmp_path / "still", pretrained, learning_rate=1e-7)) < 1e-5
    moved, slowed = (
        _fine_tuned(tmp_path / name, pretrained, encoder_rate=rate) for name, rate in (("moved", 1.0), ("slowed", 0.05))
    )
    assert min(moved) > 0
    assert max(slowed) < 0.2 * max(moved)


def test_a_frozen_encoder_stays_as_it_was_pretrained(tmp_path: Path, pretrained: Any) -> None:
    """Weight decay would shrink it, and the moving average must not either."""
    changes = _fine_tuned(tmp_path, pretrained, frozen_epochs=2, weight_decay=0.5)
    assert max(changes) < 1e-6
    assert [encoder_rate(settings(frozen_epochs=2, encoder_rate=0.3), epoch) for epoch in range(4)] == [0, 0, 0.3, 0.3]


def test_another_encoder_is_refused_by_the_rank_too(tmp_path: Path, pretrained: Any) -> None:
    made = plan(tmp_path)
    other = ModelSettings(name="hybrid", parameters={**SMALL["hybrid"], "units": 7})
    with pytest.raises(ValueError, match="has weights"):
        train(dataclasses.replace(made, model=other, encoder_uri=pretrained[0].model_uri))


def test_a_resumed_pretraining_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, pretrained: Any) -> None:
    made = dataclasses.replace(plan(tmp_path), pretraining=PRETRAINING)

    def stop(entry: Any) -> None:
        if entry["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, stop)
    assert train(made)["resumed_epochs"] == 2
    both = [checkpoint.load(p.checkpoint_uri, p.key) for p in (made, pretrained[0])]
    assert both[0] is not None
    assert both[1] is not None
    for mine, theirs in zip(both[0].model, both[1].model, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory, pretrained: tuple[Plan, dict[str, Any]]) -> tuple[str, Manifest]:
    """The pretrained encoder as a bundle, `latest` of its folder."""
    made, place = pretrained[0], str(tmp_path_factory.mktemp("bundles"))
    manifest = dataclasses.replace(
        manifest_of(made.contract, made.encoding, version="hybrid-pretrained", job=PRETRAIN),
        model=made.model,
        training_dates=made.settings.dates,
        validation_date=made.settings.validation_as_of,
    )
    manifest = bundle_folder.write_bundle(place, manifest, {MODEL_FILE: Path(made.model_uri).read_bytes()})
    bundle_folder.point_latest(place, manifest.version)
    return place, manifest


def test_embeddings_have_length_one_and_depend_on_their_row_alone(bundled: tuple[str, Manifest]) -> None:
    place, manifest = bundled
    rows = example_rows(60, 8)
    embed = encoder_of_worker(place, manifest, SCORING)
    found = embed(rows)
    assert found.shape == (60, 3 * 6)
    lengths = np.array([len(a) for a in rows["seq_age"].to_pylist()])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), lengths > 0, atol=1e-6)
    np.testing.assert_array_equal(found[::7], np.concatenate([embed(rows.slice(i, 1)) for i in range(0, 60, 7)]))
    assert encoder_of_worker(place, manifest, SCORING) is embed


def test_the_pretrained_encoder_that_settings_name_is_found(bundled: tuple[str, Manifest]) -> None:
    place, manifest = bundled
    assert chosen(place, CONTRACT, HYBRID, settings()) is None
    for name in ("latest", manifest.version):
        assert chosen(place, CONTRACT, HYBRID, settings(pretrained=name)) == manifest
    other_tiers = dataclasses.replace(CONTRACT, tiers=("a", "b"), tier_rule="{}", horizon_days=30)
    assert chosen(place, other_tiers, HYBRID, settings(pretrained="latest")) == manifest


def test_the_identity_of_a_training_follows_from_the_encoder_that_it_starts_from() -> None:
    ways = [{}, {"pretrained": "a"}, {"pretrained": "b"}, {"encoder_rate": 0.5}, {"frozen_epochs": 1}]
    ways += [{"labelled_share": 0.5}]
    keys = {training_key(CONTRACT, HYBRID, settings(**way), JUDGING.calibration, {}) for way in ways}
    assert len(keys) == len(ways)


@pytest.mark.parametrize(
    ("contract", "model", "changes", "said"),
    [
        ({}, HYBRID, {"pretrained": "hybrid-none"}, "no whole bundle 'hybrid-none' .*: run pretrain_model first"),
        ({"length": 41}, HYBRID, {}, "length: 40 against 41"),
        ({"numeric": ("amount",)}, HYBRID, {}, r"numeric: \['amount', 'items'\] against \['amount'\]"),
        ({}, ModelSettings(name="hybrid", parameters={**SMALL["hybrid"], "units": 7}), {}, "units: 6 against 7"),
        ({}, ModelSettings(name="lstm", parameters=SMALL["lstm"]), {}, "model.name: 'hybrid' against 'lstm'"),
        ({}, ModelSettings(name="cnn", parameters=SMALL["cnn"]), {}, "model.name: 'hybrid' against 'cnn'"),
        ({}, HYBRID, {"validation_as_of": "2025-02-15"}, "seen sequences as of 2025-03-01, after training.validation"),
    ],
)  # fmt: skip
def test_bad_input_a_pretrained_encoder_that_does_not_fit(
    bundled: tuple[str, Manifest], contract: dict[str, Any], model: ModelSettings, changes: dict[str, Any], said: str
) -> None:
    asked = settings(**{"pretrained": "latest", **changes})
    with pytest.raises(BundleError, match=said):
        chosen(bundled[0], dataclasses.replace(CONTRACT, **contract), model, asked)


def test_bad_input_no_encoder_was_ever_pretrained(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no model is published under .*: run pretrain_model first$"):
        chosen(str(tmp_path), CONTRACT, HYBRID, settings(pretrained="latest"))


def test_bad_input_a_pretrained_encoder_that_is_damaged(bundled: tuple[str, Manifest], tmp_path: Path) -> None:
    place, manifest = bundled
    content = bundle_folder.read_file(place, manifest, MODEL_FILE)
    bundle_folder.write_bundle(str(tmp_path), manifest, {MODEL_FILE: content})
    (tmp_path / manifest.version / MODEL_FILE).write_bytes(content[:-1])
    with pytest.raises(
        BundleError, match=r"model.keras is damaged.*run pretrain_model again, or choose another training"
    ):
        chosen(str(tmp_path), CONTRACT, HYBRID, settings(pretrained=manifest.version))
    with pytest.raises(BundleError, match="aggregates: "):
        check_sequences(manifest, dataclasses.replace(CONTRACT, aggregates=("spend_30d",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contrastive_weight": 0.0, "next_event_weight": 0.0}, "are both 0, which learns nothing"),
        ({"most_events": 3}, "most_events 3 must not be below least_events 4"),
        ({"slices": 1}, "greater than or equal to 2"),
        ({"margin": 2.5}, "less than or equal to 2"),
        ({"negative": 3}, "Extra inputs"),
    ],
)
def test_bad_input_pretraining_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        pretraining(**changes)


def test_bad_input_a_batch_that_shards_cannot_share() -> None:
    with pytest.raises(ValidationError, match="the rows of a step, 30, must be a multiple of shards 4"):
        pretraining(batch_size=30).of(settings())


def test_bad_input_a_network_without_encoder() -> None:
    with pytest.raises(SettingsError, match=r"'cnn' has no encoder to pretrain; these have: \["):
        check_can_pretrain(ModelSettings(name="cnn"), PRETRAINING)
    check_can_pretrain(HYBRID, PRETRAINING)
