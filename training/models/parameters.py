"""Parameters that networks share. Nothing here imports Keras, because settings are checked without it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Head = Literal["softmax", "corn", "cumulative"]
Join = Literal["concatenate", "gate", "cross"]
EVENTS_IS = "newest events of a member that are read"
DENSE_IS = "units of the dense layer"
HEAD_IS = "how scores of tiers become probabilities"
JOIN_IS = "how the state of the events is joined with the aggregates"
DROPOUT_IS = "share of units dropped before and after the dense layer while training"


class NetworkParameters(BaseModel):
    """Parameters of every network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding: int = Field(8, ge=1, le=512, description="size of the embedding of each categorical channel")
    head: Head = Field("softmax", description=HEAD_IS)
    tier_aware: bool = Field(
        False, description="whether each current tier has a scale and a shift of its own for every score"
    )


class JoinedParameters(NetworkParameters):
    """Parameters of networks that join the events with the aggregates."""

    periods: int = Field(
        0, ge=0, le=512, description="number of learned periods of age and of gap, read beside the channels"
    )
    join: Join = Field("concatenate", description=JOIN_IS)
    cross_layers: int = Field(2, ge=1, le=16, description="number of cross layers with `join: cross`")
    cross_rank: int = Field(16, ge=1, le=4096, description="rank of the matrices of cross layers")
    dense: int = Field(64, ge=1, le=8192, description=DENSE_IS)
    dropout: float = Field(0.3, ge=0, lt=1, description=DROPOUT_IS)
