"""A GRU whose gradient is written out: on CPUs a step takes two thirds of the time. Imported where one is built.

TensorFlow's own gradient of a loop keeps each value of each step and turns every slice into a tensor of zeros with the
slice in it. Here the loop keeps the gates alone, and what needs no loop (products with the kernels, sums over the
steps) is done at once for all steps, as in Appleyard et al., arXiv 1604.01946. With a GPU it is Keras's layer, cuDNN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from training.models.layers import PACKAGE

_ONLY_KERAS = ("dropout", "recurrent_dropout", "go_backwards", "stateful", "return_state")


@keras.saving.register_keras_serializable(PACKAGE)
class Gru(keras.layers.GRU):
    """`keras.layers.GRU` as Keras makes it by default, with all its states [n, W, H] returned; equal weights."""

    def __init__(self, units: int, **options: Any) -> None:
        """Takes a name and a precision, beside the units; raises ValueError for what only Keras's layer can do."""
        super().__init__(units, **{**options, "return_sequences": True})
        if other := [name for name in _ONLY_KERAS if options.get(name)]:
            raise ValueError(f"a Gru is as Keras makes it by default: leave out {', '.join(other)}")

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        """The last state, all states, and the last again, as Keras asks for; no mask, and a start from zeros."""
        if tf.config.get_visible_devices("GPU"):
            return super().inner_loop(sequences, initial_state, mask, training)
        found = states(sequences, self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)
        return found[:, -1], found, [found[:, -1]]


def states(events: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """The state [n, W, H] at each event of a GRU (Cho et al., arXiv 1406.1078) with the reset after the product.

    With z, r the sigmoids of `x K + b + h U + b'` of update and reset gate, and c the tanh of `x K + b + r (h U + b')`
    of the candidate, the next state is `z h + (1 - z) c`.

    Args:
        events: x [n, W, E].
        kernel: K [E, 3 H] of update gate, reset gate and candidate.
        recurrent: U [H, 3 H], likewise.
        bias: b and b' [2, 3 H].
    """
    return _states(events, *(tf.convert_to_tensor(weights) for weights in (kernel, recurrent, bias)))


@tf.custom_gradient
def _states(x: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    of_steps = tf.transpose(x, [1, 0, 2])
    kept = _forward(of_steps, kernel, recurrent, bias)

    def gradient(of_states: Any) -> tuple[Any, ...]:
        of_events, *of_weights = _backward(tf.transpose(of_states, [1, 0, 2]), of_steps, kernel, recurrent, kept)
        return tf.transpose(of_events, [1, 0, 2]), *of_weights

    return tf.transpose(kept.states, [1, 0, 2]), gradient


class _Kept(NamedTuple):
    """What the forward pass keeps for the gradient: h, update and reset gates, c, and h U + b' of the candidate.

    Each [W, n, H], but for the gates [W, n, 2 H]. The product is that before the reset.
    """

    states: Any
    gates: Any
    candidates: Any
    products: Any


def _forward(x: Any, kernel: Any, recurrent: Any, bias: Any) -> _Kept:
    """The states, and what the gradient needs, from events [W, n, E]."""
    units, steps, rows = recurrent.shape[0], tf.shape(x)[0], tf.shape(x)[1]
    (k_gates, k_candidate), (u_gates, u_candidate) = _parted(kernel), _parted(recurrent)
    (b_gates, b_candidate), (c_gates, c_candidate) = _parted(bias[0]), _parted(bias[1])
    x_gates = _of_steps(tf.matmul(_flat(x), k_gates) + (b_gates + c_gates), steps)
    x_candidate = _of_steps(tf.matmul(_flat(x), k_candidate) + b_candidate, steps)

    def step(t: Any, h: Any, *kept: Any) -> tuple[Any, ...]:
        gates = tf.sigmoid(x_gates[t] + tf.matmul(h, u_gates))
        update, reset = tf.split(gates, 2, axis=1)
        product = tf.matmul(h, u_candidate) + c_candidate
        candidate = tf.tanh(x_candidate[t] + reset * product)
        h = candidate + update * (h - candidate)
        values = (h, gates, candidate, product)
        return t + 1, h, *(of.write(t, value) for of, value in zip(kept, values, strict=True))

    kept = _arrays(x.dtype, steps, units, (1, 2, 1, 1))
    start = tf.zeros([rows, units], x.dtype)
    _, _, *kept = tf.while_loop(lambda t, *_: t < steps, step, (0, start, *kept))
    return _Kept(*(of.stack() for of in kept))


def _backward(of_states: Any, x: Any, kernel: Any, recurrent: Any, forward: _Kept) -> tuple[Any, ...]:
    """Gradients of events [W, n, E], kernel, recurrent kernel and biases, from that of the states [W, n, H]."""
    units, steps = recurrent.shape[0], tf.shape(x)[0]
    h, gates, candidates, products = forward
    before = tf.concat([tf.zeros_like(h[:1]), h[:-1]], axis=0)
    u_gates, u_candidate = (tf.transpose(part) for part in _parted(recurrent))

    def step(t: Any, of_next: Any, *kept: Any) -> tuple[Any, ...]:
        update, reset = tf.split(gates[t], 2, axis=1)
        candidate, of_state = candidates[t], of_states[t] + of_next
        passed = of_state * update
        of_candidate = tf.raw_ops.TanhGrad(y=candidate, dy=of_state - passed)
        of_product = of_candidate * reset
        of_update = tf.raw_ops.SigmoidGrad(y=update, dy=of_state * (before[t] - candidate))
        of_reset = tf.raw_ops.SigmoidGrad(y=reset, dy=of_candidate * products[t])
        of_gates = tf.concat([of_update, of_reset], axis=1)
        of_before = passed + tf.matmul(of_gates, u_gates) + tf.matmul(of_product, u_candidate)
        values = (of_gates, of_candidate, of_product)
        return t - 1, of_before, *(of.write(t, value) for of, value in zip(kept, values, strict=True))

    kept = _arrays(x.dtype, steps, units, (2, 1, 1))
    _, _, *kept = tf.while_loop(lambda t, *_: t >= 0, step, (steps - 1, tf.zeros_like(of_states[0]), *kept))
    of_gates, of_candidate, of_product = (_flat(of.stack()) for of in kept)
    k_gates, k_candidate = _parted(kernel)
    of_events = tf.matmul(of_gates, k_gates, transpose_b=True) + tf.matmul(of_candidate, k_candidate, transpose_b=True)

    def of_weights(inputs: Any, of_products: Any) -> Any:
        parts = [tf.matmul(inputs, of, transpose_a=True) for of in (of_gates, of_products)]
        return tf.concat(parts, axis=1)

    ones = tf.ones_like(of_gates[:, :1])
    return (
        _of_steps(of_events, steps),
        of_weights(_flat(x), of_candidate),
        of_weights(_flat(before), of_product),
        tf.concat([of_weights(ones, of) for of in (of_candidate, of_product)], axis=0),
    )


def _parted(weights: Any) -> tuple[Any, Any]:
    """The columns of both gates, and those of the candidate."""
    units = weights.shape[-1] // 3
    return tuple(tf.split(weights, [2 * units, units], axis=-1))


def _arrays(dtype: Any, steps: Any, units: int, multiples: tuple[int, ...]) -> list[Any]:
    """Places for a value [n, multiple * H] of each step."""
    return [tf.TensorArray(dtype, steps, element_shape=[None, multiple * units]) for multiple in multiples]


def _flat(values: Any) -> Any:
    """[W, n, X] as [W * n, X]."""
    return tf.reshape(values, [-1, values.shape[-1]])


def _of_steps(values: Any, steps: Any) -> Any:
    """[W * n, X] as [W, n, X]."""
    return tf.reshape(values, [steps, -1, values.shape[-1]])
