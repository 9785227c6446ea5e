"""A GRU over the events, pooled and joined with aggregates and current tier; a second head forecasts the value."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from training.models import EncoderShape

ENCODER = EncoderShape(parameters=("embedding", "units"), causal=True)


class Parameters(BaseModel):
    """Sizes of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_events: int = Field(96, ge=1, le=4096, description="newest events that are read")
    embedding: int = Field(8, ge=1, le=512, description="size of each categorical channel's embedding")
    units: int = Field(48, ge=1, le=4096, description="state of the GRU")
    dense: int = Field(64, ge=1, le=8192)
    dropout: float = Field(0.3, ge=0, lt=1, description="before and after the dense layer")


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model; its `value` output forecasts log1p of the outcome value.

    Args:
        shapes: `training.models.layers.Shapes`.
        parameters: sizes.
    """
    import keras

    from training.models.layers import STATES, EventEmbedding, EventPooling, tier_head, value_head

    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), parameters.embedding)(
        inputs["channels"], codes=inputs["codes"], present=inputs["mask"]
    )
    x = keras.layers.GRU(parameters.units, return_sequences=True, name=STATES)(x)
    x = EventPooling()(x, present=inputs["mask"])
    x = keras.layers.Concatenate()([x, inputs["aggregates"], inputs["tier"]])
    x = keras.layers.Dropout(parameters.dropout)(x)
    x = keras.layers.Dense(parameters.dense, activation="relu")(x)
    x = keras.layers.Dropout(parameters.dropout)(x)
    return keras.Model(inputs, {"tier": tier_head(x, shapes.tiers), "value": value_head(x)}, name="hybrid")
