"""Attention over the events by their times, pooled and joined with aggregates and current tier."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from training.models import EncoderShape
from training.models.parameters import EVENTS_IS, JoinedParameters

ENCODER = EncoderShape(
    parameters=("embedding", "periods", "layers", "heads", "head_size", "width", "inner", "causal"), causal=False
)

_EPSILON = 1.0
"""Added to the variance when a layer normalises. With a much smaller number the first trace of an event would decide:
an average member's events are all zeros, and attributions, which follow the path from there, would not add up."""


class Parameters(JoinedParameters):
    """Sizes of the network. The defaults suit a few thousand members and CPUs; `width` 512 and 8 layers suit GPUs."""

    max_events: int = Field(96, ge=1, le=4096, description=EVENTS_IS)
    layers: int = Field(2, ge=1, le=48, description="number of attention layers")
    heads: int = Field(4, ge=1, le=64, description="number of attention heads of each layer")
    head_size: int = Field(
        8, ge=2, le=256, multiple_of=2, description="size of the queries, keys and values of each head"
    )
    width: int = Field(32, ge=1, le=8192, description="size of the state of each event between layers")
    inner: int = Field(64, ge=1, le=32_768, description="units of the dense part of each layer")
    causal: bool = Field(False, description="whether events attend to older events only")
    layer_dropout: float = Field(
        0.1, ge=0, lt=1, description="share dropped of what each half of a layer adds while training"
    )


def encode(events: Any, present: Any, parameters: Parameters) -> Any:
    """What each event means among the others, [n, W, width], of events [n, W, E] and their mask [n, W].

    Layers normalise their inputs, not their outputs (Xiong et al., arXiv 2002.04745).
    """
    import keras

    from training.models.layers import STATES
    from training.models.time_layers import TimedAttention

    def normalised(x: Any, name: str | None = None) -> Any:
        return keras.layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)

    x = keras.layers.Dense(parameters.width)(events)
    for _ in range(parameters.layers):
        attention = TimedAttention(parameters.heads, parameters.head_size, parameters.causal)
        met = attention(normalised(x), events=events, present=present)
        x = keras.layers.Add()([x, keras.layers.Dropout(parameters.layer_dropout)(met)])
        inner = keras.layers.Dense(parameters.inner, activation="gelu")(normalised(x))
        thought = keras.layers.Dense(parameters.width)(inner)
        x = keras.layers.Add()([x, keras.layers.Dropout(parameters.layer_dropout)(thought)])
    return normalised(x, STATES)


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model, see `training.models.joined_network.network`.

    Args:
        shapes: `training.models.layers.Shapes`.
        parameters: sizes.
    """
    from training.models.joined_network import network

    return network("transformer", encode, shapes, parameters)
