"""The GRU whose gradient is written out is Keras's own, in states, gradients, precision, weights and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models.gru import Gru

SIZES = st.integers(1, 6)


def twins(channels: int, units: int, seed: int) -> tuple[Any, Any]:
    """Keras's layer and ours with equal weights, none of them zero."""
    random = np.random.default_rng(seed)
    theirs, ours = keras.layers.GRU(units, return_sequences=True), Gru(units)
    for layer in (theirs, ours):
        layer.build((None, None, channels))
    theirs.set_weights([random.normal(0, 0.7, w.shape) for w in theirs.weights])
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def with_gradients(layer: Any, events: Any, weights_of_states: Any, compiled: bool) -> list[Any]:
    """States, and the gradients of events and weights of a sum of them with weights."""

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            states = layer(x)
            loss = tf.reduce_sum(states * weights_of_states)
        return states, *tape.gradient(loss, [x, *(w.value for w in layer.trainable_weights)])

    found = tf.function(run, autograph=False)(events) if compiled else run(events)
    return [np.asarray(value) for value in found]


@given(
    rows=SIZES, steps=st.integers(1, 20), channels=SIZES, units=SIZES, seed=st.integers(0, 99), compiled=st.booleans()
)
@settings(max_examples=25, deadline=None)
def test_states_and_gradients_are_keras_own(
    rows: int, steps: int, channels: int, units: int, seed: int, compiled: bool
) -> None:
    theirs, ours = twins(channels, units, seed)
    random = np.random.default_rng(seed)
    events = tf.constant(random.normal(0, 2, (rows, steps, channels)), tf.float32)
    of_states = tf.constant(random.normal(0, 1, (rows, steps, units)), tf.float32)
    expected = with_gradients(theirs, events, of_states, compiled)
    for mine, own in zip(with_gradients(ours, events, of_states, compiled), expected, strict=True):
        np.testing.assert_allclose(mine, own, rtol=2e-4, atol=2e-5)


def test_gradients_are_the_slopes_of_the_states() -> None:
    """Against differences, which no derivative of anybody's is behind."""
    _, layer = twins(2, 3, 1)
    events = np.random.default_rng(2).normal(0, 1, (2, 5, 2)).astype(np.float32)
    of_events = with_gradients(layer, tf.constant(events), 1.0, True)[1]
    for place in np.ndindex(*events.shape):
        step = np.zeros_like(events)
        step[place] = 1e-2
        ends = [float(tf.reduce_sum(layer(events + sign * step))) for sign in (1, -1)]
        assert of_events[place] == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-3)


def test_gradients_of_loss_of_the_last_state_alone() -> None:
    theirs, ours = twins(3, 4, 3)
    events = tf.random.stateless_normal([5, 7, 3], [1, 2])
    last = tf.concat([tf.zeros([5, 6, 4]), tf.ones([5, 1, 4])], axis=1)
    for mine, own in zip(
        with_gradients(ours, events, last, True), with_gradients(theirs, events, last, True), strict=True
    ):
        np.testing.assert_allclose(mine, own, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(precision: str) -> None:
    theirs, ours = twins(3, 4, 4)
    half = Gru(4, dtype=precision)
    half.build((None, None, 3))
    half.set_weights(ours.get_weights())
    events = tf.random.stateless_normal([5, 7, 3], [1, 2])
    found = with_gradients(half, events, tf.ones([5, 7, 4], half.compute_dtype), True)
    assert found[0].dtype == tf.as_dtype(half.compute_dtype)
    for mine, own in zip(found, with_gradients(theirs, events, tf.ones([5, 7, 4]), True), strict=True):
        np.testing.assert_allclose(mine.astype(np.float32), own, rtol=0.1, atol=0.1)


def test_xla_gives_the_same() -> None:
    theirs, ours = twins(3, 4, 5)
    events = tf.random.stateless_normal([5, 16, 3], [1, 2])
    compiled = tf.function(lambda x: ours(x), jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(events), theirs(events), rtol=2e-5, atol=2e-6)


def test_saved_and_loaded(tmp_path: Path) -> None:
    events = keras.Input((None, 3))
    model = keras.Model(events, Gru(4, name="states")(events))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    x = tf.random.stateless_normal([2, 6, 3], [1, 2])
    assert isinstance(again.get_layer("states"), Gru)
    np.testing.assert_array_equal(again(x), model(x))


def test_what_only_keras_layer_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out dropout, go_backwards"):
        Gru(4, dropout=0.5, go_backwards=True)
