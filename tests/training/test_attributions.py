"""Integrated gradients: parts that add up, and that name what the network really looks at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_spark_scoring import _bundle
from tests.training.training_examples import CONTRACT, SCORING, example_rows
from training import bundle
from training.attributions import DOWNGRADE, TARGETS, UPGRADE, Explainer, explain_rows
from training.bundle import Manifest
from training.calibration import Calibration
from training.metrics import movement_probabilities
from training.settings import ExplanationSettings
from training.spark_scoring import Predictor
from training.tensors import Encoded

pytest.importorskip("tensorflow")
SETTINGS = ExplanationSettings(
    points=32, most_points=1024, reasons=3, recent_days=30, wording={"spend": "what they spend"}
)
ROWS = example_rows(70, 9)
RANK = ROWS["current_tier_rank"].to_numpy().astype(np.int64)
MENDED = Calibration((0.7, 1.0, 1.6), ((0.2, 0.0, -0.3), (0.0, 0.0, 0.0), (0.1, 0.2, 0.0)))


@pytest.fixture(scope="module", params=[("hybrid", 1), ("lstm", 1), ("cnn", 1)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, object]:
    models = str(tmp_path_factory.mktemp("models"))
    manifest = dataclasses.replace(_bundle(models, *request.param), calibration=MENDED)
    return manifest, bundle.load_model(models, manifest)


@pytest.mark.parametrize(
    "made", [("hybrid", 1), ("lstm", 1), ("cnn", 1), ("transformer", 1), ("cnn", 2)], indirect=True
)
def test_parts_add_up_to_the_difference_from_the_average_member(made: tuple[Manifest, object]) -> None:
    manifest, model = made
    found = Explainer(model, manifest, SETTINGS, 16)(ROWS)
    assert not found.incomplete().any()
    raw = Predictor(model, manifest, SCORING)(ROWS)
    up, down = movement_probabilities(MENDED(raw, RANK), RANK)
    np.testing.assert_allclose(found.probability[UPGRADE], up, atol=1e-5)
    np.testing.assert_allclose(found.probability[DOWNGRADE], down, atol=1e-5)
    for target in TARGETS:
        assert found.parts[target].shape == (70, len(found.names))
        gap = found.probability[target] - found.average[target]
        assert np.abs(gap).max() > 0.001
        np.testing.assert_allclose(found.parts[target].sum(axis=1), gap, atol=0.02 * max(0.005, np.abs(gap).max()))


def test_a_row_is_explained_as_among_others(made: tuple[Manifest, object]) -> None:
    explain = Explainer(made[1], made[0], SETTINGS, 16)
    together, alone = explain(ROWS), explain(ROWS.slice(40, 1))
    np.testing.assert_allclose(together.parts[UPGRADE][40], alone.parts[UPGRADE][0], atol=1e-5)


def test_only_what_the_network_looks_at_is_a_reason(tmp_path: Path) -> None:
    """A network whose answer follows from one aggregate and the amounts of purchases, nothing else."""
    import keras
    from keras import ops

    from training.models.layers import EventEmbedding, Shapes

    manifest = dataclasses.replace(_bundle(str(tmp_path), "hybrid"), calibration=Calibration.none(3))
    shapes = Shapes.of(CONTRACT, manifest.encoding, 24)
    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), 2)(inputs["channels"], codes=inputs["codes"], present=inputs["mask"])
    looked = 0.8 * inputs["aggregates"][:, :1] + 0.05 * ops.sum(x[:, :, 6:7], axis=1)
    zero = 0 * looked
    model = keras.Model(inputs, {"tier": ops.softmax(ops.concatenate([-looked, zero, looked], axis=1))})
    found = Explainer(model, manifest, SETTINGS, 32)(ROWS)
    known = [k for k, name in enumerate(found.names) if name == "spend" or "_purchase" in name or "_campaign" in name]
    unknown = [k for k, name in enumerate(found.names) if k not in known]
    for target in TARGETS:
        assert np.abs(found.parts[target][:, unknown]).max() < 1e-9
        assert np.abs(found.parts[target][:, known]).max() > 0.01
    assert not found.incomplete().any()
    encoded = Encoded.of(ROWS, CONTRACT, manifest.encoding)
    richer = encoded.aggregates[:, 0] > 0.5
    below = RANK < 2
    assert (found.parts[UPGRADE][richer & below, found.names.index("spend")] > 0).all()


def test_reasons_are_ranked_and_worded(made: tuple[Manifest, object]) -> None:
    found = Explainer(made[1], made[0], SETTINGS, 64)(ROWS)
    rows = ROWS.append_column("user_id", [[f"u{n:02d}" for n in range(70)]])
    table = explain_rows(rows, found, 3, 3, SETTINGS.words).to_pandas()
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
