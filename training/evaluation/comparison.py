"""A model beside its rivals on the same members, with intervals of the differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.core.arrays import Ranks
from training.evaluation import bootstrap
from training.evaluation.curves import BINS, equal_mass_bins
from training.evaluation.metrics import Evaluation, evaluate
from training.evaluation.tier_moves import checked_forecasts, checked_ranks, movement_probabilities
from training.rivals.baselines import Baseline


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The model and its rivals, evaluated on the same rows.

    Attributes:
        model: figures of the model that is judged.
        baselines: rules by current tier alone.
        challengers: models fitted to the aggregates.
        intervals: by rival and figure, the 95 % interval of the model's figure minus the rival's; from a paired
            bootstrap over the members.
        failed: challengers that could not be fitted, and why.
    """

    model: Evaluation
    baselines: dict[str, Evaluation]
    challengers: dict[str, Evaluation] = dataclasses.field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rivals:
    """What a model is compared with.

    Attributes:
        baselines: rules by current tier.
        challengers: [n, K] probabilities of models of other kinds, for the rows of the model.
        failed: challengers that have none, and why.
    """

    baselines: Mapping[str, Baseline]
    challengers: Mapping[str, npt.ArrayLike] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def compare(
    probabilities: npt.ArrayLike,
    current: npt.ArrayLike,
    outcome: npt.ArrayLike,
    tiers: Sequence[str],
    rivals: Rivals,
    bins: int = BINS,
    draws: int = 0,
) -> Comparison:
    """Evaluate the model and its rivals on the same rows, one for each member; raises ValueError as `evaluate` does.

    Args:
        probabilities: [n, K] of the model.
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        rivals: what the model is compared with.
        bins: number of bins of the calibration error.
        draws: bootstrap samples behind each interval; 0: no intervals.
    """
    ranks, others = np.asarray(current), dict(rivals.challengers)
    rules = {name: b.predict(ranks) for name, b in rivals.baselines.items()}
    judged = Judged(np.arange(len(ranks)), ranks, np.asarray(outcome), {"": probabilities, **rules, **others})
    return Comparison(
        model=evaluate(probabilities, ranks, outcome, tiers, bins),
        baselines={name: evaluate(p, ranks, outcome, tiers, bins) for name, p in rules.items()},
        challengers={name: evaluate(p, ranks, outcome, tiers, bins) for name, p in others.items()},
        intervals=differences([judged], bins, draws),
        failed=dict(rivals.failed),
    )


@dataclasses.dataclass(frozen=True)
class Judged:
    """Forecasts of one date: ids of members [n], ranks [n], probabilities [n, K] by name, the model's first."""

    members: npt.NDArray[Any]
    current: Ranks
    outcome: Ranks
    probabilities: Mapping[str, npt.ArrayLike]

    def figures(self, name: str, bins: int) -> bootstrap.Figures:
        """One of the forecasts, prepared for the bootstrap."""
        p, now = checked_forecasts(self.probabilities[name], self.current)
        places = np.stack([equal_mass_bins(p[:, rank], bins) for rank in range(p.shape[1])], axis=1)
        truth = checked_ranks(self.outcome, "outcome", *p.shape)
        return bootstrap.Figures.of(p, movement_probabilities(p, now), now, truth, places)


def differences(dates: Sequence[Judged], bins: int, draws: int) -> dict[str, bootstrap.Intervals]:
    """95 % intervals of the model's figures minus each rival's, means over the dates; {} without draws.

    Rivals that do not exist at every date are left out.
    """
    if not draws:
        return {}
    model, *rivals = (name for name in dates[0].probabilities if all(name in d.probabilities for d in dates))
    ready = {name: [date.figures(name, bins) for date in dates] for name in (model, *rivals)}
    _, number = np.unique(np.concatenate([date.members for date in dates]), return_inverse=True)
    ends = np.cumsum([len(date.members) for date in dates])
    return bootstrap.intervals(ready.pop(model), ready, np.split(number, ends[:-1]), draws)
