"""What a report shows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

from training.evaluation.comparison import Comparison
from training.evaluation.curves import TierReliability
from training.evaluation.fairness import Fairness
from training.evaluation.metrics import Forecast
from training.judging.drift import Shift
from training.judging.verdict import Verdict
from training.reasons.importance import Overall


@dataclasses.dataclass(frozen=True)
class TierCard:
    """A tier as members know it.

    Attributes:
        name: name of the tier.
        rule: what it takes, in words: "spend of 250 or more in 90 days".
        benefits: what it gives.
    """

    name: str
    rule: str
    benefits: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """How the model was trained and judged.

    Attributes:
        history: one mapping for each epoch, in order, with any of epoch, loss, validation_loss, learning_rate and
            users_per_second; a missing or None value leaves a hole in its curve.
        verdict: what the gate said of it; None where it was not judged.
        judged_as_of: date whose members it was judged on.
        predicted_tiers: training rows by their most probable tier, lowest first.
    """

    history: Sequence[Mapping[str, float | None]] = ()
    verdict: Verdict | None = None
    judged_as_of: dt.date | None = None
    predicted_tiers: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows.

    Attributes:
        title: title of the page: the programme or data set.
        as_of: date the forecast was made for.
        horizon_days: length of the forecast period that starts at `as_of`.
        tiers: lowest first, as many as the forecast has.
        forecast: the scores as a whole.
        comparison: model and baselines against outcomes; None while outcomes are not known.
        training: how the model was trained and judged.
        versions: data and model versions, settings hash and the like, by name.
        rows: rows per table, by name.
        notes: what a reader must know to judge the figures, such as sampling.
        drift: how far the members scored are from the training rows, by feature; empty where it was not measured.
        fairness: groups compared; None where none are known, or outcomes are not.
        reasons: what the model looks at; None where nobody asked.
        by_tier: how far the forecasts can be trusted, by current tier; empty while outcomes are not known.
    """

    title: str
    as_of: dt.date
    horizon_days: int
    tiers: Sequence[TierCard]
    forecast: Forecast
    comparison: Comparison | None = None
    training: TrainingRecord = dataclasses.field(default_factory=TrainingRecord)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    drift: Sequence[Shift] = ()
    fairness: Fairness | None = None
    reasons: Overall | None = None
    by_tier: Sequence[TierReliability] = ()

    def __post_init__(self) -> None:
        """Refuse parts that speak of different tiers."""
        names = tuple(card.name for card in self.tiers)
        for part, tiers in [("forecast", self.forecast.tiers), ("evaluation", self._evaluated_tiers or names)]:
            if tiers != names:
                raise ValueError(f"the {part} has tiers {list(tiers)}, the report {list(names)}")

    @property
    def _evaluated_tiers(self) -> tuple[str, ...] | None:
        return self.comparison.model.tiers if self.comparison else None

    @property
    def ends(self) -> dt.date:
        """First date on which the outcomes can be known."""
        return self.as_of + dt.timedelta(days=self.horizon_days)
