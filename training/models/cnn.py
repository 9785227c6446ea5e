"""Two convolutions over the events, flattened, and one dense layer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

FIXED_WIDTH = True


class Parameters(BaseModel):
    """Sizes of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_events: int = Field(128, ge=4, le=4096, description="newest events that are read")
    embedding: int = Field(8, ge=1, le=512, description="size of each categorical channel's embedding")
    first_filters: int = Field(64, ge=1, le=4096)
    second_filters: int = Field(128, ge=1, le=4096)
    kernel: int = Field(3, ge=1, le=64, description="events that a convolution sees at once")
    pool: int = Field(2, ge=1, le=8)
    dense: int = Field(128, ge=1, le=8192)
    dropout: float = Field(0.0, ge=0, lt=1, description="before the softmax")


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model: Conv1D, MaxPooling, Conv1D, MaxPooling, Flatten, Dense, softmax over tiers.

    Args:
        shapes: `training.models.layers.Shapes` with a width.
        parameters: sizes.
    """
    import keras

    from training.models.layers import EventEmbedding, NewestAtTheEnd, tier_head

    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), parameters.embedding)(
        inputs["channels"], codes=inputs["codes"], present=inputs["mask"]
    )
    x = NewestAtTheEnd()(x, present=inputs["mask"])
    for filters in (parameters.first_filters, parameters.second_filters):
        x = keras.layers.Conv1D(filters, parameters.kernel, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling1D(parameters.pool)(x)
    x = keras.layers.Dense(parameters.dense, activation="relu")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(parameters.dropout)(x)
    return keras.Model(inputs, {"tier": tier_head(x, shapes.tiers)}, name="cnn")
