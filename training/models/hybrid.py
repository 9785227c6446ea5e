"""A GRU over the events, pooled and joined with aggregates and current tier; a second head forecasts the value."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from training.models import EncoderShape
from training.models.parameters import DROPOUT_IS, EVENTS_IS, HEAD_IS, JOIN_IS, Head, Join, JoinedParameters

ENCODER = EncoderShape(parameters=("embedding", "periods", "units"), causal=True)


class Parameters(JoinedParameters):
    """Sizes of the network. The defaults are what a search found on the demo's data, see docs/results/search.md."""

    max_events: int = Field(96, ge=1, le=4096, description=EVENTS_IS)
    units: int = Field(64, ge=1, le=4096, description="units of the GRU")
    head: Head = Field("corn", description=HEAD_IS)
    join: Join = Field("gate", description=JOIN_IS)
    dropout: float = Field(0.45, ge=0, lt=1, description=DROPOUT_IS)


def encode(events: Any, present: Any, parameters: Parameters) -> Any:
    """What is known at each event, [n, W, units], of events [n, W, E]; a GRU can do without their mask [n, W]."""
    from training.models.gru import Gru
    from training.models.layers import STATES

    return Gru(parameters.units, name=STATES)(events)


def build(shapes: Any, parameters: Parameters) -> Any:
    """The Keras model, see `training.models.joined_network.network`.

    Args:
        shapes: `training.models.layers.Shapes`.
        parameters: sizes.
    """
    from training.models.joined_network import network

    return network("hybrid", encode, shapes, parameters)
