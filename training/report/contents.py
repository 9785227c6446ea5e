"""What the report is made of."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence

from training.evaluation.comparison import Comparison
from training.evaluation.curves import Standing
from training.evaluation.fairness import Fairness
from training.evaluation.metrics import Forecast
from training.judging.drift import Shift
from training.judging.verdict import Verdict as GateVerdict
from training.reasons.importance import Overall


@dataclasses.dataclass(frozen=True)
class TierCard:
    """A tier as members know it.

    Attributes:
        name: its name.
        rule: what it takes, in words: "spend of 250 or more in 90 days".
        benefits: what it gives.
    """

    name: str
    rule: str
    benefits: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        title: of the page: the programme or data set.
        as_of: date the forecast was made for.
        horizon_days: length of the forecast period that starts at `as_of`.
        tiers: lowest first, as many as the forecast has.
        forecast: the scores as a whole.
        comparison: model and baselines against outcomes; None while outcomes are not known.
        history: one mapping an epoch, in order, with any of epoch, loss, validation_loss, learning_rate and
            users_per_second; a missing or None value leaves a hole in its curve.
        versions: data and model versions, settings hash and the like, by name.
        rows: rows per table, by name.
        notes: what a reader must know to judge the figures, such as sampling.
        gate: what was said of the model when it was trained.
        judged_as_of: the date whose members it was judged on then.
        drift: how far the members scored are from the training rows, by feature; empty where it was not measured.
        trained_tiers: training rows by their most probable tier.
        fairness: groups compared; None where none are known, or outcomes are not.
        reasons: what the model looks at; None where nobody asked.
        standings: how far the forecasts can be trusted, by current tier; empty while outcomes are not known.
    """

    title: str
    as_of: dt.date
    horizon_days: int
    tiers: Sequence[TierCard]
    forecast: Forecast
    comparison: Comparison | None = None
    history: Sequence[Mapping[str, float | None]] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    gate: GateVerdict | None = None
    judged_as_of: dt.date | None = None
    drift: Sequence[Shift] = ()
    trained_tiers: Sequence[int] = ()
    fairness: Fairness | None = None
    reasons: Overall | None = None
    standings: Sequence[Standing] = ()

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
