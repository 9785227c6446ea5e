"""Two stacked LSTMs over the events, read at the last one, and one dense layer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from training.models import EncoderShape
from training.models.parameters import DENSE_IS, EVENTS_IS, NetworkParameters

ENCODER = EncoderShape(parameters=("embedding", "first_units", "second_units"), causal=True)


class Parameters(NetworkParameters):
    """Sizes of the network."""

    max_events: int = Field(128, ge=1, le=4096, description=EVENTS_IS)
    first_units: int = Field(128, ge=1, le=4096, description="units of the first LSTM")
    second_units: int = Field(128, ge=1, le=4096, description="units of the second LSTM")
    dense: int = Field(64, ge=1, le=8192, description=DENSE_IS)
    dropout: float = Field(
        0.2, ge=0, lt=1, description="share of units dropped after each LSTM and after the dense layer while training"
    )


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model: LSTM, Dropout, LSTM, Dropout, Dense, Dropout, softmax over tiers.

    Args:
        shapes: `training.models.layers.Shapes`.
        parameters: sizes.
    """
    import keras

    from training.models.heads import outputs
    from training.models.layers import STATES, EventEmbedding, LastEvent

    inputs = shapes.inputs()
    x = EventEmbedding(list(shapes.vocabularies), parameters.embedding)(
        inputs["channels"], codes=inputs["codes"], present=inputs["mask"]
    )
    x = keras.layers.LSTM(parameters.first_units, return_sequences=True)(x)
    x = keras.layers.Dropout(parameters.dropout)(x)
    x = keras.layers.LSTM(parameters.second_units, return_sequences=True, name=STATES)(x)
    x = keras.layers.Dropout(parameters.dropout)(LastEvent()(x, present=inputs["mask"]))
    x = keras.layers.Dense(parameters.dense, activation="relu")(x)
    x = keras.layers.Dropout(parameters.dropout)(x)
    return keras.Model(inputs, outputs(x, inputs, shapes, parameters), name="lstm")
