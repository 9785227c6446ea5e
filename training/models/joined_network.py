"""Networks that join their events with the aggregates and the current tier. Imported where a network is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from features.core.contract import VALUE
from training.models.heads import outputs, value_head
from training.models.layers import PACKAGE, EventEmbedding, EventPooling, Shapes
from training.models.parameters import JoinedParameters
from training.models.time_layers import PeriodicTime

Encode = Callable[[Any, Any, Any], Any]


def network(name: str, encode: Encode, shapes: Shapes, parameters: Any) -> keras.Model:
    """The Keras model whose events become states by `encode`; its `value` output forecasts log1p of the outcome value.

    Args:
        name: of the model.
        encode: from embedded events [n, W, E], their mask [n, W] and the parameters to states at each event [n, W, H].
        shapes: sizes of the inputs.
        parameters: `JoinedParameters` of the network, with what `encode` needs.
    """
    inputs = shapes.inputs()
    states = encode(embedded(inputs, shapes, parameters), inputs["mask"], parameters)
    x = joined(EventPooling()(states, present=inputs["mask"]), inputs, parameters)
    return keras.Model(inputs, heads(x, inputs, shapes, parameters), name=name)


def embedded(inputs: dict[str, Any], shapes: Shapes, parameters: JoinedParameters) -> Any:
    """The embedded events, with `periods` waves of their times beside them, [n, W, E]."""
    events = EventEmbedding(list(shapes.vocabularies), parameters.embedding)(
        inputs["channels"], codes=inputs["codes"], present=inputs["mask"]
    )
    if not parameters.periods:
        return events
    waves = PeriodicTime(parameters.periods)(events, present=inputs["mask"])
    return keras.layers.Concatenate()([events, waves])


def joined(pooled: Any, inputs: dict[str, Any], parameters: JoinedParameters) -> Any:
    """Events [n, P], aggregates and current tier as features [n, dense].

    With `concatenate` they stand side by side. With `gate` the aggregates first decide how much of each number of the
    events passes. With `cross` all are multiplied with each other, once per cross layer, before the dense one.
    """
    if parameters.join == "gate":
        standing = keras.layers.Concatenate()([inputs["aggregates"], inputs["tier"]])
        pooled = keras.layers.Multiply()([pooled, keras.layers.Dense(pooled.shape[-1], "sigmoid")(standing)])
    x = first = keras.layers.Concatenate()([pooled, inputs["aggregates"], inputs["tier"]])
    if parameters.join == "cross":
        for _ in range(parameters.cross_layers):
            x = Cross(parameters.cross_rank)(x, first=first)
    x = keras.layers.Dropout(parameters.dropout)(x)
    x = keras.layers.Dense(parameters.dense, activation="relu")(x)
    return keras.layers.Dropout(parameters.dropout)(x)


def heads(features: Any, inputs: dict[str, Any], shapes: Shapes, parameters: JoinedParameters) -> dict[str, Any]:
    """The outputs of every network, and `value` [n, 1], log1p of the outcome value."""
    return {**outputs(features, inputs, shapes, parameters), VALUE: value_head(features)}


@keras.saving.register_keras_serializable(PACKAGE)
class Cross(keras.layers.Layer):
    """x + first * (W x + b), with W of low rank: a layer of DCN-v2 (Wang et al., arXiv 2008.13535).

    Called with x [n, D] and the first layer's input [n, D]; gives [n, D].
    """

    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__(**options)
        self.rank = rank

    def build(self, x_shape: Any, first_shape: Any) -> None:
        """Both factors of W."""
        width = x_shape[-1]
        self.down = keras.layers.Dense(self.rank, use_bias=False, dtype=self.dtype_policy)
        self.up = keras.layers.Dense(width, dtype=self.dtype_policy)
        self.down.build((None, width))
        self.up.build((None, self.rank))

    def call(self, x: Any, first: Any) -> Any:
        """See the class."""
        return x + first * self.up(self.down(x))

    def compute_output_shape(self, x_shape: Any, first_shape: Any) -> Any:
        """[n, D]."""
        return x_shape

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "rank": self.rank}
