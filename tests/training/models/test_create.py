"""Every network of the registry: padding, empty sequences, shapes, saving and loading in safe mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.data.training_examples import CONTRACT, SMALL, example_rows, to_tensors
from training.inputs.encoding_statistics import Statistics
from training.inputs.tensors import Tensors
from training.models import REGISTRY
from training.models.create import build_model
from training.models.settings import ModelSettings

keras = pytest.importorskip("keras")

ROWS = example_rows(24, 4)


def _encoding() -> Any:
    statistics = Statistics.empty(CONTRACT)
    statistics.add(ROWS, CONTRACT)
    return statistics.encoding(3)


ENCODING = _encoding()

OPTIONS: dict[str, dict[str, Any]] = {
    "hybrid": {"head": "corn", "tier_aware": True, "join": "cross", "cross_rank": 2, "periods": 3},
    "transformer": {"head": "cumulative", "tier_aware": True, "join": "gate", "causal": False},
    "cnn": {"head": "cumulative"},
    "lstm": {"head": "corn"},
}
"""What networks can be told beside their sizes."""
NETWORKS = {
    **{name: ModelSettings(name=name, parameters=SMALL[name]) for name in REGISTRY},
    **{f"{name}, options": ModelSettings(name=name, parameters=SMALL[name] | OPTIONS[name]) for name in REGISTRY},
}


@pytest.fixture(params=sorted(NETWORKS))
def chosen(request: pytest.FixtureRequest) -> ModelSettings:
    return NETWORKS[request.param]


@pytest.fixture
def model(chosen: ModelSettings) -> Any:
    keras.utils.set_random_seed(7)
    return _disturbed(build_model(chosen, CONTRACT, ENCODING))


def _disturbed(model: Any) -> Any:
    """With weights that are not at a start of zeros, at which scales and biases would say nothing."""
    chance = np.random.default_rng(5)
    model.set_weights([w + chance.normal(scale=0.1, size=w.shape) for w in model.get_weights()])
    return model


def _tensors(rows: Any = ROWS, width: int = 24) -> Tensors:
    return to_tensors(rows, CONTRACT, ENCODING, width)


def test_outputs_are_probabilities_of_the_tiers(model: Any, chosen: ModelSettings) -> None:
    found = model(_tensors(), training=False)
    assert np.min(found["tier"]) >= 0
    np.testing.assert_allclose(np.sum(found["tier"], axis=1), np.ones(24), atol=1e-6)
    assert found["tier"].shape == (24, 3)
    assert ("value" in found) == (chosen.name in ("hybrid", "transformer"))


def test_garbage_in_padded_positions_changes_nothing(model: Any) -> None:
    clean = _tensors()
    dirty = {key: tensor.copy() for key, tensor in clean.items()}
    dirty["channels"][~clean["mask"]] = 1e3
    dirty["codes"][~clean["mask"]] = 2
    for key, values in model(clean, training=False).items():
        np.testing.assert_array_equal(values, model(dirty, training=False)[key])


def test_the_length_of_the_padding_changes_nothing(model: Any) -> None:
    rows = ROWS.filter(np.array([len(a) <= 12 for a in ROWS["seq_age"].to_pylist()]))
    short, long = (model(_tensors(rows, width), training=False) for width in (12, 24))
    for key in short:
        np.testing.assert_allclose(short[key], long[key], atol=1e-6)


@pytest.mark.parametrize("width", [17, 24])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 6])
def test_convolutions_over_a_window_equal_those_over_the_full_width(kernel: int, pool: int, width: int) -> None:
    """With weights and biases that are not 0: a bias makes the answer to no events something."""
    settings = ModelSettings(
        name="cnn", parameters={**SMALL["cnn"], "max_events": width, "kernel": kernel, "pool": pool}
    )
    model = build_model(settings, CONTRACT, ENCODING)
    chance = np.random.default_rng(kernel)
    model.set_weights([chance.normal(scale=0.2, size=w.shape) for w in model.get_weights()])
    for length in range(width + 1):
        short, long = (model(_tensors(_newest(length), w), training=False)["tier"] for w in (length, width))
        np.testing.assert_allclose(short, long, atol=1e-5)


def _newest(length: int) -> pa.Table:
    """All rows, cut to their newest events."""
    cut = [r | {n: r[n][-length:] if length else [] for n in CONTRACT.array_columns} for r in ROWS.to_pylist()]
    return pa.Table.from_pylist(cut, schema=ROWS.schema)


@pytest.mark.parametrize("name", ["transformer", "transformer, options"])
def test_every_length_has_the_answer_of_the_full_width(name: str) -> None:
    model = _disturbed(build_model(NETWORKS[name], CONTRACT, ENCODING))
    for length in range(1, 25):
        short, long = (model(_tensors(_newest(length), w), training=False)["tier"] for w in (length, 24))
        np.testing.assert_allclose(short, long, atol=1e-6)


def test_a_row_without_events_has_a_finite_answer(model: Any) -> None:
    row = ROWS.slice(0, 1).to_pylist()[0] | {name: [] for name in CONTRACT.array_columns}
    rows = pa.Table.from_pylist([row], schema=ROWS.schema)
    assert np.isfinite(model(_tensors(rows), training=False)["tier"]).all()


def test_loads_in_safe_mode_and_answers_the_same(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    for key, values in model(_tensors(), training=False).items():
        np.testing.assert_array_equal(values, loaded(_tensors(), training=False)[key])


def test_mixed_precision_keeps_weights_and_answers_in_float32(chosen: ModelSettings) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built = build_model(chosen, CONTRACT, ENCODING)
    finally:
        keras.config.set_dtype_policy("float32")
    found = built(_tensors(), training=False)
    assert {str(tensor.dtype.name) for tensor in found.values()} == {"float32"}
    assert {weight.dtype for weight in built.trainable_weights} == {"float32"}


def test_default_sizes_are_those_of_the_description() -> None:
    """cnn: 64 and 128 filters of 3, dense 128; lstm: 128, 128, dense 64; both end in a softmax over the tiers."""
    shapes = {}
    for chosen in ("cnn", "lstm"):
        built = build_model(ModelSettings(name=chosen), CONTRACT, ENCODING)
        shapes[chosen] = [
            (type(layer).__name__, tuple(layer.kernel.shape)[-1] if hasattr(layer, "kernel") else layer.units)
            for layer in built.layers
            if isinstance(layer, keras.layers.Dense | keras.layers.Conv1D | keras.layers.LSTM)
        ]
    assert shapes["cnn"] == [("Conv1D", 64), ("Conv1D", 128), ("Dense", 128), ("Dense", 3)]
    assert shapes["lstm"] == [("LSTM", 128), ("LSTM", 128), ("Dense", 64), ("Dense", 3)]


def test_the_newest_event_moves_to_the_end() -> None:
    from training.models.layers import NewestAtTheEnd

    steps = np.array([[[1.0], [2.0], [0.0]], [[3.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]], [[1.0], [2.0], [3.0]]])
    found = NewestAtTheEnd()(steps, present=steps[:, :, 0] > 0)
    assert np.squeeze(found, -1).tolist() == [[0, 1, 2], [0, 0, 3], [0, 0, 0], [1, 2, 3]]


def test_newest_events_are_those_that_count(model: Any) -> None:
    """Of more than max_events events the oldest are left out: the answer is that of the row cut to the newest."""
    rows = ROWS.to_pylist()
    cut = [row | {name: row[name][-24:] for name in CONTRACT.array_columns} for row in rows]
    whole = _tensors()
    shorter = _tensors(pa.Table.from_pylist(cut, schema=ROWS.schema))
    # The gap of the first kept event reaches back to an event that the cut row does not have.
    gap_known = np.ones(whole["channels"].shape, bool)
    gap_known[:, 0, 1] = False
    np.testing.assert_array_equal(whole["channels"][gap_known], shorter["channels"][gap_known])
    np.testing.assert_array_equal(whole["codes"], shorter["codes"])
