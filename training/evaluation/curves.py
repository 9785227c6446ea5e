"""Curves of a forecast: how reliable its probabilities are, and what contacting the most promising members finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.core.arrays import Flags, Floats, Ranks
from training.evaluation.tier_moves import checked_forecasts, checked_ranks

BINS = 15
"""Bins of calibration error and reliability curves, as in Guo et al. 2017 (arXiv 1706.04599)."""

GAIN_POINTS = 101
"""Points of a gain curve: one for each per cent of the members contacted."""


@dataclasses.dataclass(frozen=True)
class ReliabilityCurve:
    """Forecast against reality in bins of about equally many rows, lowest probability first; empty bins left out.

    Attributes:
        predicted: mean forecast probability of each bin.
        observed: share of the bin's rows in which it came true.
        rows: rows in each bin.
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]

    @property
    def error(self) -> float:
        """Mean distance between forecast and reality over the bins, weighted by rows."""
        gaps = np.abs(np.subtract(self.predicted, self.observed))
        return float(np.average(gaps, weights=self.rows))

    def intervals(self) -> list[tuple[float, float]]:
        """95 % interval of each observed share, by its score test (Wilson 1927)."""
        from scipy.stats import binomtest  # slow to import

        counts = [(round(share * n), n) for share, n in zip(self.observed, self.rows, strict=True)]
        ends = [binomtest(happened, n).proportion_ci(method="wilson") for happened, n in counts]
        return [(float(low), float(high)) for low, high in ends]


@dataclasses.dataclass(frozen=True)
class TierReliability:
    """How far the forecasts for the members of one current tier can be trusted.

    Attributes:
        tier: current tier.
        members: members in it.
        calibration_error: as in `Evaluation`, over these members.
        interval: 95 % interval of the error by the basic bootstrap, which takes out what resampling adds to it; None
            without draws.
        reliability: one curve for each outcome tier.
    """

    tier: str
    members: int
    calibration_error: float
    interval: tuple[float, float] | None
    reliability: tuple[ReliabilityCurve, ...]


@dataclasses.dataclass(frozen=True)
class GainCurve:
    """What contacting the most promising members first would have found.

    Attributes:
        eligible: members below the top tier.
        upgrades: those of them who moved up.
        contacted: share of `eligible` that is contacted, 0..1 in equal steps.
        found: share of `upgrades` among the contacted; members with equal scores count as if drawn at random.
    """

    eligible: int
    upgrades: int
    contacted: tuple[float, ...]
    found: tuple[float, ...]

    def found_at(self, contacted: float) -> float:
        """Share of the upgrades found when this share of the eligible members is contacted."""
        return float(np.interp(contacted, self.contacted, self.found))

    def lift_at(self, contacted: float) -> float:
        """How many times more upgrades than contacting as many members at random; `contacted` above 0."""
        return self.found_at(contacted) / contacted


def reliability_by_tier(
    probabilities: npt.ArrayLike,
    current: npt.ArrayLike,
    outcome: npt.ArrayLike,
    tiers: Sequence[str],
    bins: int = BINS,
    draws: int = 0,
) -> tuple[TierReliability, ...]:
    """Reliability and calibration error for each current tier that has members; raises ValueError as `evaluate` does.

    Args:
        probabilities: [n, K].
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        bins: number of bins of the calibration error.
        draws: bootstrap samples behind each interval; 0: no intervals.
    """
    p, now = checked_forecasts(probabilities, current, len(tiers))
    truth, chance = checked_ranks(outcome, "outcome", *p.shape), np.random.default_rng(0)

    def of_tier(tier: str, p: Floats, truth: Ranks) -> TierReliability:
        curves = reliability_curves(p, truth, bins)
        error, interval = mean_error(curves), None
        if draws:
            drawn = (chance.integers(0, len(p), len(p)) for _ in range(draws))
            errors = [mean_error(reliability_curves(p[rows], truth[rows], bins)) for rows in drawn]
            low, high = np.maximum(2 * error - np.quantile(errors, [0.975, 0.025]), 0).tolist()
            interval = (low, high)
        return TierReliability(tier, len(p), error, interval, curves)

    members = [now == rank for rank in range(len(tiers))]
    return tuple(of_tier(tier, p[rows], truth[rows]) for tier, rows in zip(tiers, members, strict=True) if rows.any())


def reliability_curves(probabilities: Floats, outcome: Ranks, bins: int) -> tuple[ReliabilityCurve, ...]:
    """One reliability curve for each tier."""
    return tuple(reliability_curve(p, outcome == rank, bins) for rank, p in enumerate(probabilities.T))


def mean_error(curves: Sequence[ReliabilityCurve]) -> float:
    """The mean calibration error of the curves."""
    return float(np.mean([curve.error for curve in curves]))


def reliability_curve(probability: Floats, happened: Flags, bins: int = BINS) -> ReliabilityCurve:
    """Bins of equally many rows (Nguyen and O'Connor 2015, arXiv 1508.05154); equal probabilities share one bin.

    Both arrays [n] with n above 0. Keeping equal probabilities together makes the curve independent of the order of
    rows, at the price of uneven bins where a forecast has few distinct values.
    """
    place = equal_mass_bins(probability, bins)
    rows = np.bincount(place, minlength=bins)
    full = rows > 0
    predicted = np.bincount(place, weights=probability, minlength=bins)[full] / rows[full]
    observed = np.bincount(place, weights=happened, minlength=bins)[full] / rows[full]
    return ReliabilityCurve(tuple(predicted.tolist()), tuple(observed.tolist()), tuple(rows[full].tolist()))


def equal_mass_bins(probability: Floats, bins: int = BINS) -> Ranks:
    """[n] bin of each row, see `reliability_curve`."""
    edges = np.sort(probability)[np.arange(1, bins) * len(probability) // bins]
    return np.searchsorted(edges, probability, side="right")


def gain_curve(score: Floats, happened: Flags) -> GainCurve | None:
    """Cumulative gains when the highest scores are contacted first; None where nothing happened at all.

    Both arrays [n]. Rows of equal score form one straight piece of the curve.
    """
    if not happened.any():
        return None
    _, place = np.unique(-score, return_inverse=True)
    contacted = np.concatenate([[0], np.cumsum(np.bincount(place))]) / len(score)
    found = np.concatenate([[0], np.cumsum(np.bincount(place, weights=happened))]) / happened.sum()
    grid = np.linspace(0, 1, GAIN_POINTS)
    return GainCurve(
        eligible=len(score),
        upgrades=int(happened.sum()),
        contacted=tuple(grid.tolist()),
        found=tuple(np.interp(grid, contacted, found).tolist()),
    )
