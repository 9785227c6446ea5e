"""Settings of scoring and of explanations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.core.contract import TARGET, VALUE
from features.core.strict import Positive, Strict


class ExplanationSettings(Strict):
    """How the reasons of a forecast are found and worded."""

    pieces: Positive = Field(
        le=256, description="number of pieces that the path from the average member is cut into at first"
    )
    points: Positive = Field(le=64, description="number of points of each piece at which gradients are taken")
    most_cuts: int = Field(
        ge=0, le=20, description="most times that pieces are halved where reasons miss over 2 % of what they explain"
    )
    reasons: Positive = Field(description="number of reasons kept for each member and direction")
    sample_members: Positive = Field(
        le=100_000, description="most members from whom averages and the overall explanation are computed"
    )
    least_members: Positive = Field(
        description="least members of a tier in the sample; a smaller tier is compared with the average of all members"
    )
    repeats: Positive = Field(
        le=100, description="number of times that the inputs of each reason are permuted to measure its importance"
    )
    shown_members: int = Field(
        ge=0, le=9, description="number of members whose timeline the report shows, without any id"
    )
    recent_days: Positive = Field(description="age in days up to which an event is called recent")
    wording: dict[str, str] = Field({}, description="words that people read for each reason code")

    def words(self, reason: str) -> str:
        """The reason as people read it."""
        return self.wording.get(reason, reason.replace("_", " "))


class ScoringSettings(Strict):
    """Which bundle scores, and in what portions of rows."""

    model_version: str = Field(min_length=1, description="bundle that scores: `latest` or a version")
    rows_per_range: Positive = Field(
        le=1_000_000, description="members that one task holds at once; more of them leave fewer empty rows in calls"
    )
    model_rows: Positive = Field(le=65_536, description="rows of one call of the network")
    padding: float = Field(ge=0, le=0.9, description="largest share of padding in a row that the network reads")
    xla: bool = Field(
        description="whether XLA compiles the network for each padded width, which pays from about a million members"
    )
    outputs: tuple[Annotated[str, Field(pattern=f"^{VALUE}$|{TARGET}")], ...] = Field(
        (), description="further outputs that `scores` gets: `value`, or names of `model.targets`"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="number type the network computes in; weights and probabilities stay float32"
    )
