"""Parameters that networks share. Imported where settings are checked, so nothing here knows Keras."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Head = Literal["softmax", "corn", "cumulative"]
Join = Literal["concatenate", "gate", "cross"]
HEAD_IS = "how scores become probabilities, see training.models.heads.tier_head"
JOIN_IS = "how events meet aggregates, see training.models.joined_network.joined"
DROPOUT_IS = "before and after the dense layer"


class NetworkParameters(BaseModel):
    """What every network can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding: int = Field(8, ge=1, le=512, description="size of each categorical channel's embedding")
    head: Head = Field("softmax", description=HEAD_IS)
    tier_aware: bool = Field(False, description="each current tier has a scale and a shift of its own for every score")


class JoinedParameters(NetworkParameters):
    """And those that join their events with the aggregates."""

    periods: int = Field(0, ge=0, le=512, description="learned periods of age and gap beside the channels")
    join: Join = Field("concatenate", description=JOIN_IS)
    cross_layers: int = Field(2, ge=1, le=16, description="cross layers of `join: cross`")
    cross_rank: int = Field(16, ge=1, le=4096, description="rank of their matrices")
    dense: int = Field(64, ge=1, le=8192)
    dropout: float = Field(0.3, ge=0, lt=1, description=DROPOUT_IS)
