"""Integrated gradients: parts that add up, and that name what the network really looks at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.bundles import saved_bundle
from tests.data.training_examples import CONTRACT, SCORING, example_rows
from training.bundles import bundle_folder
from training.bundles.manifest import Manifest
from training.evaluation.tier_moves import movement_probabilities
from training.inputs.tensors import Encoded
from training.judging.calibration import Calibration
from training.reasons.attributions import Averages, Explainer
from training.reasons.reason_codes import DOWNGRADE, TARGETS, UPGRADE, able, reason_rows
from training.scoring.network_calls import Predictor
from training.settings.scoring import ExplanationSettings

pytest.importorskip("tensorflow")
SETTINGS = ExplanationSettings(
    pieces=4,
    points=3,
    most_cuts=10,
    reasons=3,
    sample_members=70,
    least_members=5,
    repeats=1,
    shown_members=3,
    recent_days=30,
    wording={"spend": "what they spend"},
)
ROWS = example_rows(70, 9)
RANK = ROWS["current_tier_rank"].to_numpy().astype(np.int64)
MENDED = Calibration((0.7, 1.0, 1.6), ((0.2, 0.0, -0.3), (0.0, 0.0, 0.0), (0.1, 0.2, 0.0)))


@pytest.fixture(scope="module", params=[("hybrid", 1), ("lstm", 1), ("cnn", 1)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, object]:
    models = str(tmp_path_factory.mktemp("models"))
    manifest = dataclasses.replace(saved_bundle(models, *request.param), calibration=MENDED)
    return manifest, bundle_folder.load_model(models, manifest)


def explainer(made: tuple[Manifest, object], settings: ExplanationSettings = SETTINGS, rows: int = 64) -> Explainer:
    return Explainer(made[1], made[0], Averages.of(ROWS, made[0], settings), settings, rows)


@pytest.mark.parametrize(
    "made", [("hybrid", 1), ("lstm", 1), ("cnn", 1), ("transformer", 1), ("cnn", 2)], indirect=True
)
def test_parts_add_up_to_the_difference_from_the_average_member(made: tuple[Manifest, object]) -> None:
    manifest, model = made
    found = explainer(made, rows=16)(ROWS)
    assert found.missed().max() <= 1
    raw = Predictor(model, manifest, SCORING)(ROWS)
    up, down = movement_probabilities(MENDED(raw, RANK), RANK)
    np.testing.assert_allclose(found.probability[UPGRADE], up, atol=1e-5)
    np.testing.assert_allclose(found.probability[DOWNGRADE], down, atol=1e-5)
    for target in TARGETS:
        assert found.parts[target].shape == (70, len(found.names))
        gap = found.probability[target] - found.average[target]
        assert np.abs(gap).max() > 0.001
        np.testing.assert_allclose(found.parts[target].sum(axis=1), gap, atol=0.02 * max(0.005, np.abs(gap).max()))
        of_events = [k for k, name in enumerate(found.names) if name.startswith(("recent_", "earlier_"))]
        np.testing.assert_allclose(found.events[target].sum(axis=1), found.parts[target][:, of_events].sum(axis=1))
        assert (found.parts[target][~able(RANK, 3, target)] == 0).all()


def test_parts_are_those_of_many_points(made: tuple[Manifest, object]) -> None:
    few, many = explainer(made)(ROWS), explainer(made, SETTINGS.model_copy(update={"pieces": 40}))(ROWS)
    for target in TARGETS:
        differences = np.abs(few.parts[target] - many.parts[target]) / np.abs(many.parts[target]).max()
        assert differences.mean() < 0.01
        assert differences.max() < 0.1


def test_average_members_are_those_of_their_tier(made: tuple[Manifest, object]) -> None:
    """Against plain sums over the members of each tier, and over their events at each place."""
    manifest = made[0]
    encoded = Encoded.of(ROWS, CONTRACT, manifest.encoding)
    found = Averages.of(ROWS, manifest, SETTINGS)
    ends = np.cumsum(encoded.lengths)
    for rank in range(3):
        members = [n for n in range(70) if RANK[n] == rank]
        np.testing.assert_allclose(found.aggregates[rank], encoded.aggregates[members].mean(axis=0), atol=1e-5)
        for place in range(24):
            events = [ends[n] - 1 - place for n in members if encoded.lengths[n] > place]
            np.testing.assert_allclose(found.channels[rank, place], encoded.channels[events].mean(axis=0), atol=1e-5)
            for q, shares in enumerate(found.codes):
                counts = np.bincount(encoded.codes[events, q], minlength=shares.shape[2])
                np.testing.assert_allclose(shares[rank, place], counts / len(events), atol=1e-6)


def test_a_place_that_no_member_reaches_has_the_average_event(made: tuple[Manifest, object]) -> None:
    short = ROWS.filter(pa.compute.less(pa.compute.list_value_length(ROWS["seq_age"]), 10))
    found = Averages.of(short, made[0], SETTINGS.model_copy(update={"least_members": 1}))
    assert np.abs(found.channels[0, 9:] - found.channels[0, 23]).max() == 0
    assert np.abs(found.channels[0, 0] - found.channels[0, 23]).max() > 0.1
    np.testing.assert_allclose(found.codes[0].sum(axis=2), 1, atol=1e-5)


def test_a_tier_of_few_members_is_compared_with_the_average_of_all(made: tuple[Manifest, object]) -> None:
    found = Averages.of(ROWS, made[0], SETTINGS.model_copy(update={"least_members": int((RANK == 2).sum()) + 1}))
    everybody = Encoded.of(ROWS, CONTRACT, made[0].encoding).aggregates.mean(axis=0)
    np.testing.assert_allclose(found.aggregates[2], everybody, atol=1e-5)
    assert np.abs(found.aggregates[0] - everybody).max() > 0.1


def test_the_average_event_is_the_mean_of_embedded_events() -> None:
    from training.models.layers import EventEmbedding

    random = np.random.default_rng(0)
    layer = EventEmbedding([3, 2], 4)
    channels = random.normal(size=(1, 50, 5)).astype(np.float32)
    codes = np.stack([random.integers(0, 5, 50), random.integers(0, 4, 50)], axis=1)[None].astype(np.int32)
    embedded = layer(channels, codes=codes, present=np.ones((1, 50), bool)).numpy()
    shares = [np.bincount(codes[0, :, q], minlength=n)[None].astype(np.float32) / 50 for q, n in enumerate((5, 4))]
    found = layer.average(channels.mean(axis=1), shares)
    np.testing.assert_allclose(found.numpy(), embedded.mean(axis=1), atol=1e-6)


def test_a_mean_of_networks_has_the_mean_of_their_reasons(tmp_path: Path) -> None:
    import keras

    manifests = [
        dataclasses.replace(saved_bundle(str(tmp_path), n), calibration=Calibration.none(3)) for n in SMALL_TWO
    ]
    networks = [bundle_folder.load_model(str(tmp_path), manifest) for manifest in manifests]
    inputs = {n: keras.Input(t.shape[1:], dtype=t.dtype, name=n) for n, t in networks[0].input.items()}
    both = keras.Model(inputs, {"tier": keras.layers.Average()([network(inputs)["tier"] for network in networks])})
    alone = [explainer((manifests[0], network))(ROWS) for network in networks]
    together = explainer((manifests[0], both))(ROWS)
    for target in TARGETS:
        mean = (alone[0].parts[target] + alone[1].parts[target]) / 2
        np.testing.assert_allclose(together.parts[target], mean, atol=0.05 * np.abs(mean).max())


SMALL_TWO = ("hybrid", "lstm")


def test_a_row_is_explained_as_among_others(made: tuple[Manifest, object]) -> None:
    explain, member = explainer(made, rows=16), int(np.flatnonzero(RANK < 2)[20])
    together, alone = explain(ROWS), explain(ROWS.slice(member, 1))
    np.testing.assert_allclose(together.parts[UPGRADE][member], alone.parts[UPGRADE][0], atol=1e-5)


def test_only_what_the_network_looks_at_is_a_reason(tmp_path: Path) -> None:
    """A network whose answer follows from one aggregate and the amounts of purchases, nothing else."""
    import keras
    from keras import ops

    from training.models.layers import EventEmbedding, Shapes

    manifest = dataclasses.replace(saved_bundle(str(tmp_path), "hybrid"), calibration=Calibration.none(3))
    shapes = Shapes.of(CONTRACT, manifest.encoding, 24)
    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), 2)(inputs["channels"], codes=inputs["codes"], present=inputs["mask"])
    looked = 0.8 * inputs["aggregates"][:, :1] + 0.05 * ops.sum(x[:, :, 6:7], axis=1)
    zero = 0 * looked
    model = keras.Model(inputs, {"tier": ops.softmax(ops.concatenate([-looked, zero, looked], axis=1))})
    found = explainer((manifest, model))(ROWS)
    known = [k for k, name in enumerate(found.names) if name == "spend" or "_purchase" in name or "_campaign" in name]
    unknown = [k for k, name in enumerate(found.names) if k not in known]
    for target in TARGETS:
        assert np.abs(found.parts[target][:, unknown]).max() < 1e-9
        assert np.abs(found.parts[target][:, known]).max() > 0.01
    assert found.missed().max() <= 1
    encoded = Encoded.of(ROWS, CONTRACT, manifest.encoding)
    spend, below = encoded.aggregates[:, 0], RANK < 2
    average = np.array([spend[rank == RANK].mean() for rank in range(3)])[RANK]
    parts = found.parts[UPGRADE][:, found.names.index("spend")]
    assert (parts[below & (spend > average)] > 0).all()
    assert (parts[below & (spend < average)] < 0).all()


def test_reasons_are_ranked_and_worded(made: tuple[Manifest, object]) -> None:
    found = explainer(made)(ROWS)
    rows = ROWS.append_column("user_id", [[f"u{n:02d}" for n in range(70)]])
    table = reason_rows(rows, found, 3, 3, SETTINGS.words).to_pandas()
    assert (table.groupby(["user_id", "target"]).size() == 3).all()
    assert table.groupby("target")["user_id"].nunique().to_dict() == {
        "downgrade": int((RANK > 0).sum()), "upgrade": int((RANK < 2).sum()),
    }  # fmt: skip
    for (user, target), of in table.groupby(["user_id", "target"]):
        assert list(of["rank"]) == [1, 2, 3]
        assert list(of["contribution"].abs()) == sorted(of["contribution"].abs(), reverse=True)
        parts = found.parts[target][int(user[1:])]
        assert of["contribution"].abs().iloc[0] == np.abs(parts).max()
    assert set(table.loc[table["reason"] == "spend", "wording"]) <= {"what they spend"}
    assert set(table.loc[table["reason"] == "recency_days", "wording"]) <= {"recency days"}
