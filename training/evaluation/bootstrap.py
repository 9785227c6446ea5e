"""Intervals of differences between forecasts: a paired bootstrap that draws members, with all their rows.

A draw gives each row a weight: the number of times that its member was drawn. So the figures of a forecast are
prepared once, and a draw costs sums over the rows and no sorting. `scipy.stats.bootstrap` takes 3.3 times as long
(measured: 10,000 rows, one rival), because it selects rows and sorts them anew for each draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from features.core.arrays import Flags, Floats, Ranks

FIGURES = (
    "logloss", "accuracy", "upgrade_auc", "downgrade_auc", "kappa", "macro_f1", "brier", "calibration_error",
)  # fmt: skip
"""Figures that get intervals: fields of `training.evaluation.metrics.Scores`, which says what they mean."""

Intervals = dict[str, tuple[float, float]]
"""95 % intervals by figure; a figure that is undefined in all draws is left out."""


@dataclasses.dataclass(frozen=True)
class _Ranking:
    """An AUC of weighted rows: the eligible rows, the place of each among the distinct scores, and what happened."""

    eligible: Ranks
    place: Ranks
    happened: Flags

    @classmethod
    def of(cls, score: Floats, happened: Flags, eligible: Flags) -> _Ranking:
        rows = np.flatnonzero(eligible)
        return cls(rows, np.unique(score[rows], return_inverse=True)[1], happened[rows])

    def at(self, weight: Floats) -> float:
        weight = weight[self.eligible]
        every, those = np.bincount(self.place, weight), np.bincount(self.place, weight * self.happened)
        others = every - those
        below = np.cumsum(others) - others
        return float(those @ (below + others / 2) / (those.sum() * others.sum()))


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of one forecast of n rows, prepared for any weights of the rows.

    Attributes:
        per_row: [3, n] logloss, accuracy and Brier score of each row.
        confusion: [n] place of each row in the flattened [K, K] table of outcome and predicted tiers.
        gaps: [n, K] forecast minus what came true, of each tier.
        bins: [n, K] place of each row in the flattened table of tiers and bins of its probability.
        rankings: of upgrades and downgrades.
    """

    per_row: Floats
    confusion: Ranks
    gaps: Floats
    bins: Ranks
    rankings: tuple[_Ranking, _Ranking]

    @classmethod
    def of(
        cls, probabilities: Floats, moves: tuple[Floats, Floats], current: Ranks, outcome: Ranks, bins: Ranks
    ) -> Figures:
        """From probabilities [n, K], those of moving up and down [n], ranks [n], and bins [n, K] of each tier's."""
        n, k = probabilities.shape
        ranks, truth = np.arange(k), np.eye(k)[outcome]
        predicted = probabilities.argmax(axis=1)
        least = np.finfo(np.float64).eps  # as in scikit-learn's log_loss
        losses = -np.log(np.maximum(probabilities[np.arange(n), outcome], least))
        gaps = probabilities - truth
        return cls(
            np.stack([losses, predicted == outcome, (gaps**2).sum(axis=1)]),
            outcome * k + predicted,
            gaps,
            bins + ranks * (int(bins.max(initial=0)) + 1),
            (
                _Ranking.of(moves[0], outcome > current, current < k - 1),
                _Ranking.of(moves[1], outcome < current, current > 0),
            ),
        )

    def at(self, weight: Floats) -> Floats:
        """The figures in the order of `FIGURES`, for rows of these weights [n]; NaN where undefined."""
        k = self.gaps.shape[1]
        logloss, accuracy, brier = self.per_row @ weight / weight.sum()
        table = np.asarray(np.bincount(self.confusion, weight, k * k), np.float64).reshape(k, k)
        gaps = np.bincount(self.bins.ravel(), (self.gaps * weight[:, None]).ravel())
        error = np.abs(gaps).sum() / (k * weight.sum())
        upgrade, downgrade = (ranking.at(weight) for ranking in self.rankings)
        return np.array([logloss, accuracy, upgrade, downgrade, _kappa(table), _macro_f1(table), brier, error])


def _kappa(table: Floats) -> float:
    ranks = np.arange(len(table))
    far = np.square(ranks[:, None] - ranks)
    chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(1 - (far * table).sum() / (far * chance).sum())


def _macro_f1(table: Floats) -> float:
    both = table.sum(axis=0) + table.sum(axis=1)
    return float((2 * table.diagonal()[both > 0] / both[both > 0]).mean())


def intervals(
    model: Sequence[Figures], rivals: Mapping[str, Sequence[Figures]], members: Sequence[Ranks], draws: int
) -> dict[str, Intervals]:
    """95 % intervals of the model's figures minus each rival's, all means over the dates.

    Args:
        model: the model at each date.
        rivals: each rival at each date, by name.
        members: for each date [n] numbers of the members from 0 on, the same at every date; these are drawn.
        draws: number of samples.
    """
    count, chance = 1 + max(int(of.max()) for of in members), np.random.default_rng(0)
    forecasts, found = [model, *rivals.values()], np.empty((draws, 1 + len(rivals), len(FIGURES)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for draw in range(draws):
            times = np.bincount(chance.integers(0, count, count), minlength=count).astype(np.float64)
            for place, dates in enumerate(forecasts):
                figures = [of.at(times[who]) for of, who in zip(dates, members, strict=True)]
                found[draw, place] = np.mean(figures, axis=0)
    return {name: _ends(found[:, 0] - found[:, place]) for place, name in enumerate(rivals, 1)}


def _ends(differences: Floats) -> Intervals:
    known = {name: of[~np.isnan(of)] for name, of in zip(FIGURES, differences.T, strict=True)}
    ends = {name: np.quantile(of, [0.025, 0.975]) for name, of in known.items() if len(of)}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}
