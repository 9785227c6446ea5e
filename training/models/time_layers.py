"""Layers that read the age of events, and the gaps between them, from the embedded events.

They take age and gap from the embedded events, not from the inputs, so that an explanation that cuts the network behind
its embedding reaches them too. Both channels are logarithms of days, normalised.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from training.inputs.encoding import TIME_CHANNELS
from training.models.layers import PACKAGE

_AGE, _GAP = TIME_CHANNELS.index("age"), TIME_CHANNELS.index("gap")
_SLOWEST, _FASTEST = 0.25, 2.0
"""Radians per standard deviation of a channel: about one turn for ages that differ by a factor of thirty. Faster ones
would turn many times on the path from an average member, and attributions would need more points to add up."""


def _frequencies(count: int) -> Any:
    return np.geomspace(_SLOWEST, _FASTEST, count).astype(np.float32)


@keras.saving.register_keras_serializable(PACKAGE)
class TimedAttention(keras.layers.Layer):
    """Attention between events that depends on how far apart in time they are.

    Called with steps [n, W, H], embedded events [n, W, E] and present [n, W]; gives [n, W, H]. Queries and keys are
    turned by phases that follow from an event's age (rotary embedding, Su et al., arXiv 2104.09864, with the logarithm
    of the age in place of the position), so their products depend on ratios of ages. Padding is never looked at.

    Args:
        heads: how many.
        size: of each, even.
        causal: each event looks only at itself and at older ones.
    """

    def __init__(self, heads: int, size: int, causal: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.heads, self.size, self.causal = heads, size, causal

    def build(self, steps_shape: Any, events_shape: Any, present_shape: Any) -> None:
        """One projection to queries, keys and values, and one back."""
        width = steps_shape[-1]
        self.inward = keras.layers.Dense(3 * self.heads * self.size, use_bias=False, dtype=self.dtype_policy)
        self.outward = keras.layers.Dense(width, dtype=self.dtype_policy)
        self.inward.build((None, width))
        self.outward.build((None, self.heads * self.size))

    def call(self, steps: Any, events: Any, present: Any) -> Any:
        """See the class."""
        rows, width = ops.shape(steps)[0], ops.shape(steps)[1]
        query, key, value = ops.unstack(
            ops.reshape(self.inward(steps), (rows, width, 3, self.heads, self.size)), 3, axis=2
        )
        phases = ops.cast(events[:, :, _AGE], "float32")[:, :, None, None] * _frequencies(self.size // 2)
        seen = present[:, None, None, :]
        if self.causal:
            at = ops.arange(width)
            seen = ops.logical_and(seen, (at[None, :] <= at[:, None])[None, None])
        found = ops.dot_product_attention(_turned(query, phases), _turned(key, phases), value, mask=seen)
        return self.outward(ops.reshape(found, (rows, width, self.heads * self.size)))

    def compute_output_shape(self, steps_shape: Any, events_shape: Any, present_shape: Any) -> Any:
        """[n, W, H]."""
        return steps_shape

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "heads": self.heads, "size": self.size, "causal": self.causal}


def _turned(values: Any, phases: Any) -> Any:
    """Each half-pair of [n, W, heads, size] turned by [n, W, 1, size / 2]."""
    cosine, sine = (ops.cast(wave(phases), values.dtype) for wave in (ops.cos, ops.sin))
    first, second = ops.split(values, 2, axis=-1)
    return ops.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class PeriodicTime(keras.layers.Layer):
    """Sines of age and of gap, at learned frequencies and phases (Time2Vec, Kazemi et al., arXiv 1907.05321).

    Called with embedded events [n, W, E] and present [n, W]; gives [n, W, 2 * count], zero at padded steps.
    """

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(**options)
        self.count = count

    def build(self, events_shape: Any, present_shape: Any) -> None:
        """Frequencies and phases of both channels."""
        start = keras.initializers.Constant(np.stack([_frequencies(self.count)] * 2))
        self.frequencies = self.add_weight(shape=(2, self.count), initializer=start, name="frequencies")
        self.phases = self.add_weight(shape=(2, self.count), initializer="zeros", name="phases")

    def call(self, events: Any, present: Any) -> Any:
        """See the class."""
        parts = [
            ops.sin(events[:, :, place, None] * self.frequencies[k] + self.phases[k])
            for k, place in enumerate((_AGE, _GAP))
        ]
        waves = ops.concatenate(parts, axis=-1)
        return ops.where(present[:, :, None], waves, ops.zeros_like(waves))

    def compute_output_shape(self, events_shape: Any, present_shape: Any) -> Any:
        """[n, W, 2 * count]."""
        return (*events_shape[:-1], 2 * self.count)

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "count": self.count}
