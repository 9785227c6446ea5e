"""Two convolutions over the events, flattened, and one dense layer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from training.models.parameters import DENSE_IS, EVENTS_IS, NetworkParameters


class Parameters(NetworkParameters):
    """Sizes of the network."""

    max_events: int = Field(128, ge=4, le=4096, description=EVENTS_IS)
    first_filters: int = Field(64, ge=1, le=4096, description="filters of the first convolution")
    second_filters: int = Field(128, ge=1, le=4096, description="filters of the second convolution")
    kernel: int = Field(3, ge=1, le=64, description="events that a convolution reads at once")
    pool: int = Field(2, ge=1, le=8, description="neighbouring steps that are pooled into one")
    dense: int = Field(128, ge=1, le=8192, description=DENSE_IS)
    dropout: float = Field(0.0, ge=0, lt=1, description="share of units dropped before the tier's head while training")


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model: Conv1D, MaxPooling, Conv1D, MaxPooling, Flatten, Dense, softmax over tiers.

    Flattening fixes the length, but most rows are far shorter: the convolutions see the events and a few zeros before
    them, and what full padding would give before these is computed once for all rows.

    Args:
        shapes: `training.models.layers.Shapes`.
        parameters: sizes.
    """
    import keras

    from training.models.heads import outputs
    from training.models.layers import EventEmbedding, FullWidth, NewestAtTheEnd, NoEvents, Window

    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), parameters.embedding)(
        inputs["channels"], codes=inputs["codes"], present=inputs["mask"]
    )
    x = NewestAtTheEnd()(x, present=inputs["mask"])
    edge, margin = _reach(parameters.kernel, parameters.pool)
    none = NoEvents(shapes.width)(x)
    x = Window(shapes.width, margin, parameters.pool**2)(x)
    for filters in (parameters.first_filters, parameters.second_filters):
        convolution = keras.layers.Conv1D(filters, parameters.kernel, padding="same", activation="relu")
        pooling = keras.layers.MaxPooling1D(parameters.pool)
        x, none = pooling(convolution(x)), pooling(convolution(none))
    x = FullWidth(edge)(x, none)
    x = keras.layers.Dense(parameters.dense, activation="relu")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(parameters.dropout)(x)
    return keras.Model(inputs, outputs(x, inputs, shapes, parameters), name="cnn")


def _reach(kernel: int, pool: int) -> tuple[int, int]:
    """Pooled steps that depend on the window's edge, and steps before the first event that depend on edge or event.

    A convolution sees (kernel - 1) // 2 steps before its own and the others after it. Its zeros beyond the edge are
    what the first one would see anyway; only the second one can tell them from the first one's answer to no events.
    """
    before, after = (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
    edge = -(-before // pool)
    # The answer to no events has an edge too, at its end: pools that see it must not be taken.
    seen = after + after * pool + -(-after // pool) * pool**2
    return edge, max(edge * pool**2 + seen, pool**2)
