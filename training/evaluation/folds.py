"""Rolling-origin cross-validation: all dates of the settings moved back step by step, and figures over the folds.

Every fold trains, validates and is evaluated as the settings say, only earlier. The outcome windows of its training and
validation dates end before its evaluated date. Folds that are closer together than the horizon overlap: their spread is
then smaller than that of independent dates. `overlap` says by how many days.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Sequence

import numpy as np

from features.core.date_ranges import stepped
from features.core.errors import DateError
from training.evaluation.bootstrap import FIGURES, Intervals
from training.evaluation.comparison import Comparison, Judged, differences
from training.evaluation.metrics import Evaluation
from training.settings.fitting import TrainingSettings
from training.settings.judging import FoldSettings

MODEL = "network"


@dataclasses.dataclass(frozen=True)
class Fold:
    """One origin of the cross-validation: its dates. Fold 1 has the dates of the settings, fold 2 earlier ones."""

    number: int
    training: tuple[dt.date, ...]
    validation: dt.date
    evaluated: dt.date

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """All as-of dates whose sequences and outcomes are needed."""
        return (*self.training, self.validation, self.evaluated)


def rolling(training: TrainingSettings, evaluated: dt.date, horizon_days: int, settings: FoldSettings) -> list[Fold]:
    """The folds, newest first: all dates of the settings, moved back by a step for each further fold.

    Training dates before the first one of the settings are left out: too little is known then.

    Raises:
        DateError: a fold has no training date left, or would learn from outcomes after its evaluated date.
    """
    folds = [_fold(training, evaluated, settings.every, number) for number in range(settings.count)]
    bare = [fold.number for fold in folds if not fold.training]
    if bare:
        raise DateError(
            f"{settings.count} folds, {settings.every} apart, are more than the training dates allow: fold {bare[0]} "
            f"would have none from {training.dates[0]} on; ask for {bare[0] - 1} or fewer, put them closer together "
            "(evaluation.folds.every), or let training.as_of begin earlier"
        )
    for fold in folds:
        known = max((*fold.training, fold.validation)) + dt.timedelta(days=horizon_days)
        if known > fold.evaluated:
            raise DateError(
                f"fold {fold.number} would look into the future: it learns from outcomes until {known}, after its "
                f"evaluated date {fold.evaluated}; training.as_of and training.validation_as_of must lie "
                f"{horizon_days} days or more before evaluation.as_of"
            )
    return folds


def _fold(training: TrainingSettings, evaluated: dt.date, every: str, back: int) -> Fold:
    learned = (stepped(date, every, -back) for date in training.dates)
    return Fold(
        back + 1,
        tuple(dict.fromkeys(date for date in learned if date >= training.dates[0])),
        stepped(training.validation_as_of, every, -back),
        stepped(evaluated, every, -back),
    )


def overlap(folds: Sequence[Fold], horizon_days: int) -> int:
    """Days that the outcome windows of the two nearest folds share; 0 where none overlap."""
    dates = sorted(fold.evaluated for fold in folds)
    gaps = [(later - earlier).days for earlier, later in itertools.pairwise(dates)]
    return max(0, horizon_days - min(gaps, default=horizon_days))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The result of a fold: its dates, its bundle, the figures, and the forecasts behind them."""

    fold: Fold
    version: str
    comparison: Comparison
    judged: Judged

    def evaluations(self) -> dict[str, Evaluation]:
        """All models of the fold, the network first."""
        found = self.comparison
        return {MODEL: found.model, **found.baselines, **found.challengers}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure of a model over the folds that have it.

    Attributes:
        folds: number of folds that have the figure.
        mean: mean over the folds.
        deviation: sample standard deviation; None with one fold.
        least: least value.
        greatest: greatest value.
    """

    folds: int
    mean: float
    deviation: float | None
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From the values of the folds, at least one."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(len(values), float(np.mean(values)), deviation, min(values), max(values))


def spreads(found: Sequence[Judgement]) -> dict[str, dict[str, Spread]]:
    """By model and figure, the network first; a figure that no fold defines is left out."""
    folds = [judgement.evaluations() for judgement in found]
    names = dict.fromkeys(name for models in folds for name in models)
    return {name: _spreads([models[name] for models in folds if name in models]) for name in names}


def _spreads(evaluations: Sequence[Evaluation]) -> dict[str, Spread]:
    values = {figure: [v for e in evaluations if (v := getattr(e, figure)) is not None] for figure in FIGURES}
    return {figure: Spread.of(known) for figure, known in values.items() if known}


def over_folds(found: Sequence[Judgement], bins: int, draws: int) -> dict[str, Intervals]:
    """By rival, 95 % intervals of the network's mean figures minus the rival's; see `training.evaluation.bootstrap`."""
    return differences([judgement.judged for judgement in found], bins, draws)
