"""Settings of how a model is judged: calibration, drift, gate, folds, evaluation, fairness."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, model_validator

from features.core.date_ranges import STEP
from features.core.strict import Positive, Strict

Measure = Literal["selection_rate", "upgrade_recall", "accuracy", "calibration_gap"]


class CalibrationSettings(Strict):
    """How probabilities are calibrated after training, on the validation date."""

    method: Literal["none", "temperature", "vector"] = Field(
        description="`vector`: a temperature and a shift per tier; `temperature`: no shifts; `none`: neither"
    )
    least_rows: Positive = Field(
        description="least validation rows with which a current tier gets a calibration of its own"
    )


class DriftBounds(Strict):
    """How far a feature may shift; it has shifted too far if either figure is exceeded."""

    psi: float = Field(ge=0, description="largest population stability index")
    distance: float = Field(
        ge=0, description="largest Wasserstein distance, in standard deviations of the training rows"
    )


class DriftSettings(Strict):
    """How members of a date are compared with the training rows."""

    bins: int = Field(ge=2, le=1000, description="number of bins, each with equally many training rows")
    sample_rows: Positive = Field(
        le=1_000_000, description="most rows that are counted of the training rows, and of the date"
    )
    warning: DriftBounds = Field(description="bounds beyond which judging notes a shift and scoring warns")
    refusal: DriftBounds = Field(description="bounds beyond which a model is refused")
    expected: list[str] = Field(
        [], description="features that are expected to shift and never refuse a model; `*` stands for any text"
    )

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DriftSettings:
        for name in ("psi", "distance"):
            low, high = getattr(self.warning, name), getattr(self.refusal, name)
            if high < low:
                raise ValueError(f"refusal.{name} {high:g} lies below warning.{name} {low:g}")
        return self


class GateSettings(Strict):
    """When a trained model is published, which means that `latest` names it."""

    better_than_markov: float = Field(
        description="least amount by which its log loss must be below that of the tiers' Markov chain"
    )
    worse_than_published: float = Field(
        description="largest amount by which its log loss may be above the published model's on the same rows"
    )
    calibration_error: float = Field(
        ge=0, le=1, description="largest calibration error allowed among the members of a tier"
    )
    least_members: Positive = Field(description="least members of a tier whose calibration error can refuse a model")
    drift: DriftSettings = Field(
        description="bounds of drift between the training rows and the date that the model is judged on"
    )


class FoldSettings(Strict):
    """How many times, and how far, `cross_validate` moves all dates back."""

    count: Positive = Field(description="number of folds; the first has the dates of the settings")
    every: str = Field(pattern=STEP.pattern, description="time between folds, such as 1mo, 2w or 7d")


class EvaluationSettings(Strict):
    """On which date a model is evaluated, and how."""

    as_of: dt.date = Field(description="evaluated as-of date; no outcome window of training may overlap its own")
    max_users: Positive = Field(description="most members whose forecasts are brought to the driver")
    calibration_bins: int = Field(
        ge=2, le=1000, description="number of bins of the calibration error, each with equally many members"
    )
    challengers: list[Literal["logistic", "forest", "lightgbm", "bg_nbd"]] = Field(
        description="models fitted to the aggregates that the network is compared with on the same members"
    )
    lightgbm_trials: Positive = Field(
        le=10_000, description="number of tree shapes that LightGBM tries, with two fits each"
    )
    challenger_rows: Positive = Field(
        description="most training rows, and most validation rows, that challengers are fitted to"
    )
    bootstrap_draws: int = Field(
        ge=0, le=100_000, description="number of bootstrap samples behind each interval; 0: no intervals"
    )
    folds: FoldSettings = Field(description="folds of the rolling-origin cross-validation")


class DisparityBounds(Strict):
    """How far the groups of an attribute may differ in one figure."""

    warning: float = Field(ge=0, description="largest difference without a warning")
    refusal: float | None = Field(
        ge=0, description="largest difference at which evaluation does not refuse the model; null: it never refuses"
    )

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DisparityBounds:
        if self.refusal is not None and self.refusal < self.warning:
            raise ValueError(f"refusal {self.refusal:g} lies below warning {self.warning:g}")
        return self


class FairnessSettings(Strict):
    """How a model's treatment of groups is judged, where groups are known."""

    contacted: float = Field(
        gt=0, lt=1, description="share of the members below the top tier who are counted as contacted"
    )
    smallest_group: Positive = Field(description="least members of a group that is shown and judged")
    least_members: int = Field(ge=2, description="least members behind a figure of a group")
    draws: Positive = Field(
        le=100_000, description="number of samples behind each interval, and behind the difference that chance explains"
    )
    bounds: dict[Measure, DisparityBounds] = Field(
        description="bounds of each figure; a figure without bounds is shown and not judged"
    )
