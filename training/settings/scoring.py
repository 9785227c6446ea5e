"""Settings of scoring and of explanations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.core.contract import TARGET, VALUE
from features.core.strict import Positive, Strict


class ExplanationSettings(Strict):
    """How the reasons of a forecast are found and said."""

    pieces: Positive = Field(le=256, description="pieces that the way from the average member is cut into at first")
    points: Positive = Field(le=64, description="points of each piece at which slopes are taken")
    most_cuts: int = Field(
        ge=0, le=20, description="times that pieces may be halved where reasons miss over 2 % of what they explain"
    )
    reasons: Positive = Field(description="reasons kept of each member and direction")
    sample_members: Positive = Field(
        le=100_000, description="members from whom averages and the overall explanation are taken"
    )
    least_members: Positive = Field(description="a tier with fewer in the sample is compared with all members' average")
    repeats: Positive = Field(le=100, description="times that each reason's inputs are exchanged to see what is lost")
    shown_members: int = Field(ge=0, le=9, description="members whose timeline the report shows, without any id")
    recent_days: Positive = Field(description="events up to this old are recent ones")
    wording: dict[str, str] = Field({}, description="reason code to the words that people read")

    def words(self, reason: str) -> str:
        """The reason as people read it."""
        return self.wording.get(reason, reason.replace("_", " "))


class ScoringSettings(Strict):
    """Which bundle scores, and in what portions."""

    model_version: str = Field(min_length=1, description="`latest`, or the version of a bundle")
    rows_per_range: Positive = Field(
        le=1_000_000, description="members that one task holds at once; the more, the fewer empty rows in calls"
    )
    model_rows: Positive = Field(le=65_536, description="rows of one call of the network")
    padding: float = Field(ge=0, le=0.9, description="largest share of padding in a row that the network sees")
    xla: bool = Field(description="compile the network for each padded width: pays from about a million users on")
    outputs: tuple[Annotated[str, Field(pattern=f"^{VALUE}$|{TARGET}")], ...] = Field(
        (), description="what else of the network enters `scores`: `value`, or names of model.targets"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="what the network computes in; the weights and the probabilities stay float32"
    )
