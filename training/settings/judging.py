"""Settings of what is judged: calibration, drift, gate, folds, evaluation, fairness."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, model_validator

from features.core.date_ranges import STEP
from features.core.strict import Positive, Strict

Measure = Literal["selection_rate", "upgrade_recall", "accuracy", "calibration_gap"]


class CalibrationSettings(Strict):
    """How probabilities are mended after training, on the validation date."""

    method: Literal["none", "temperature", "vector"] = Field(
        description="vector: a temperature and a shift per outcome tier; temperature: the one alone"
    )
    least_rows: Positive = Field(description="a current tier with fewer validation rows is mended like all together")


class DriftBounds(Strict):
    """What a feature may shift; beyond either figure it is too far."""

    psi: float = Field(ge=0, description="population stability index")
    distance: float = Field(ge=0, description="Wasserstein distance in standard deviations of the training rows")


class DriftSettings(Strict):
    """How members of a date are compared with the training rows."""

    bins: int = Field(ge=2, le=1000, description="bins of equally many training rows")
    sample_rows: Positive = Field(le=1_000_000, description="most rows that each side is counted on")
    warning: DriftBounds = Field(description="beyond them a note, when a model is judged and when it scores")
    refusal: DriftBounds = Field(description="beyond them a model is refused; scoring warns")
    expected: list[str] = Field([], description="features that shift by nature, `*` for any text: they refuse nothing")

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DriftSettings:
        for name in ("psi", "distance"):
            low, high = getattr(self.warning, name), getattr(self.refusal, name)
            if high < low:
                raise ValueError(f"refusal.{name} {high:g} lies below warning.{name} {low:g}")
        return self


class GateSettings(Strict):
    """When a trained model is published, that is, named by `latest`."""

    better_than_markov: float = Field(
        description="by how much its logloss must be below that of the tiers' Markov chain"
    )
    worse_than_published: float = Field(
        description="by how much its logloss may be above that of the published model on the same rows"
    )
    calibration_error: float = Field(ge=0, le=1, description="largest calibration error of the members of a tier")
    least_members: Positive = Field(description="members that a tier needs before it can refuse a model")
    drift: DriftSettings = Field(description="between the training rows and the date it is judged on")


class FoldSettings(Strict):
    """How often, and by how much, `cross_validate` moves all dates back."""

    count: Positive = Field(description="folds, the first of which has the dates of the settings")
    every: str = Field(pattern=STEP.pattern, description="how far apart: 1mo, 2w, 7d")


class EvaluationSettings(Strict):
    """On which date and how a model is judged."""

    as_of: dt.date = Field(description="as-of date whose outcomes no training window overlaps")
    max_users: Positive = Field(description="most users whose forecasts are brought to the driver")
    calibration_bins: int = Field(ge=2, le=1000, description="equal-mass bins of the calibration error")
    challengers: list[Literal["logistic", "forest", "lightgbm", "bg_nbd"]] = Field(
        description="models fitted to the aggregates, to be beaten on the same members"
    )
    lightgbm_trials: Positive = Field(le=10_000, description="shapes of trees that LightGBM tries; each takes two fits")
    challenger_rows: Positive = Field(description="most training rows, and validation rows, that they are fitted on")
    bootstrap_draws: int = Field(ge=0, le=100_000, description="samples behind each interval; 0: no intervals")
    folds: FoldSettings = Field(description="rolling-origin cross-validation")


class DisparityBounds(Strict):
    """How far the groups of an attribute may be apart in one figure."""

    warning: float = Field(ge=0, description="beyond it a warning")
    refusal: float | None = Field(ge=0, description="beyond it the evaluation refuses the model; null: never")

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DisparityBounds:
        if self.refusal is not None and self.refusal < self.warning:
            raise ValueError(f"refusal {self.refusal:g} lies below warning {self.warning:g}")
        return self


class FairnessSettings(Strict):
    """How a model's treatment of groups is judged, where groups are known."""

    contacted: float = Field(gt=0, lt=1, description="share of the members below the top tier who are contacted first")
    smallest_group: Positive = Field(description="groups of fewer members are not shown, nor judged")
    least_members: int = Field(ge=2, description="members that a figure of a group must rest on")
    draws: Positive = Field(le=100_000, description="samples behind each interval, and behind what chance explains")
    bounds: dict[Measure, DisparityBounds] = Field(
        description="by figure; one that is left out is shown and not judged"
    )
