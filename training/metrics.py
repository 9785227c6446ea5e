"""How good a forecast is: metrics and curves of tier probabilities against the tiers that members reached.

Everything is computed from plain arrays of one row per member: `probabilities` [n, K] float64, `current` and
`outcome` [n] ranks 0..K-1. Results are frozen dataclasses of numbers and tuples, ready for JSON; a figure that is
undefined for the rows at hand (an AUC with one class only) is None, never NaN. The order of rows changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from training import bootstrap
from training.baselines import Baseline

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Counts = tuple[tuple[int, ...], ...]
"""A [K, K] table of members, first index the row."""

BINS = 15
"""Bins of calibration error and reliability curves, as in Guo et al. 2017 (arXiv 1706.04599)."""

SCORE_BINS = 20
"""Equal-width bins of the score histograms: 5 percentage points each."""

GAIN_POINTS = 101
"""Points of a gain curve: one for each per cent of the members contacted."""

_Z = 1.959964
"""Half the width of a 95 % interval, in standard deviations of a normal distribution."""

ROW_SUM_TOLERANCE = 1e-5
"""How far a row of probabilities may be from 1: float32 softmax stays within 1e-6."""


@dataclasses.dataclass(frozen=True)
class TierScore:
    """One tier against all others.

    Attributes:
        tier: its name.
        members: rows whose outcome is this tier.
        predicted: rows whose most probable tier it is.
        precision: share of `predicted` that is right; None where the tier is never predicted.
        recall: share of `members` that was found; None where the tier never occurs.
        f1: harmonic mean of both; None where the tier neither occurs nor is predicted.
        calibration_error: this tier's part of the calibration error, 0..1.
    """

    tier: str
    members: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    calibration_error: float


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
        n, share = np.asarray(self.rows, np.float64), np.asarray(self.observed)
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        return list(zip((middle - half).tolist(), (middle + half).tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far the forecasts for the members of one current tier can be trusted.

    Attributes:
        tier: current tier.
        members: in it.
        calibration_error: as in `Evaluation`, over these members.
        interval: 95 % of the error, by the basic bootstrap, which takes out what resampling adds to it; None without
            draws.
        reliability: one curve an outcome tier.
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
        contacted: share of `eligible` contacted, 0..1 in equal steps.
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


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All figures of one forecast on one set of rows.

    Attributes:
        tiers: names, lowest first.
        rows: members evaluated.
        accuracy: share of rows whose most probable tier came true.
        macro_precision: mean over the tiers that occur or are predicted; a tier never predicted counts 0.
        macro_recall: the same; a tier that never occurs counts 0.
        macro_f1: mean of the F1 of these tiers.
        logloss: mean of -ln p(outcome) in nats, over all K classes whether or not they occur; a probability below
            2.2e-16 counts as 2.2e-16, so no row costs more than 36.05.
        kappa: Cohen's kappa with quadratic weights (Cohen 1968), -1..1; None where outcome and forecast are one tier.
        brier: mean over rows of the squared distances summed over the classes (Brier 1950), 0..2.
        calibration_error: class-wise over equal-mass bins: for each tier the mean gap between forecast and observed
            share, weighted by rows, then the mean over tiers (Nixon et al. 2019, arXiv 1904.01685; class-wise because
            every tier's probability is published, not the top one alone).
        upgrade_auc: ROC AUC of p_upgrade among members below the top tier; None unless some moved up and some did not.
        downgrade_auc: ROC AUC of p_downgrade among members above the lowest tier.
        per_tier: one entry a tier.
        confusion: members by outcome tier (rows) and predicted tier (columns).
        flows_predicted: members by current tier (rows) and predicted tier (columns).
        flows_outcome: members by current tier (rows) and outcome tier (columns).
        reliability: one curve a tier.
        upgrade_reliability: of p_upgrade among members below the top tier; None if there are none.
        upgrade_gain: None where nobody could or did move up.
    """

    tiers: tuple[str, ...]
    rows: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    logloss: float
    kappa: float | None
    brier: float
    calibration_error: float
    upgrade_auc: float | None
    downgrade_auc: float | None
    per_tier: tuple[TierScore, ...]
    confusion: Counts
    flows_predicted: Counts
    flows_outcome: Counts
    reliability: tuple[ReliabilityCurve, ...]
    upgrade_reliability: ReliabilityCurve | None
    upgrade_gain: GainCurve | None

    def scalars(self) -> dict[str, float | None]:
        """The figures that are one number, by name: what a table or a Delta row shows."""
        return {name: getattr(self, name) for name in SCALARS}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of everything."""
        return dataclasses.asdict(self)


SCALARS = (
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "logloss",
    "kappa",
    "brier",
    "calibration_error",
    "upgrade_auc",
    "downgrade_auc",
)
"""Names of the fields of an `Evaluation` that are one number."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The model and its rivals, evaluated on the same rows.

    Attributes:
        model: what is judged.
        baselines: rules by current tier alone.
        challengers: models fitted to the aggregates.
        intervals: of each baseline and challenger 95 % intervals of the model's figures minus its own, by figure; from
            a paired bootstrap over the members.
        failed: challengers that could not be fitted, and why.
    """

    model: Evaluation
    baselines: dict[str, Evaluation]
    challengers: dict[str, Evaluation] = dataclasses.field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of everything."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a set of scores says as a whole; needs no outcomes.

    Attributes:
        tiers: names, lowest first.
        flows: members by current tier (rows) and most probable tier (columns).
        expected: the same with each member spread over the columns by probability: its column sums are the expected
            sizes of the tiers, which the most probable tiers alone understate for rare moves.
        upgrade_scores: members by current tier (rows) and equal-width bin of p_upgrade (columns, from 0 to 1).
        downgrade_scores: the same for p_downgrade.
    """

    tiers: tuple[str, ...]
    flows: Counts
    expected: tuple[tuple[float, ...], ...]
    upgrade_scores: Counts
    downgrade_scores: Counts

    @property
    def rows(self) -> int:
        """Members scored."""
        return sum(map(sum, self.flows))

    @property
    def expected_upgrades(self) -> float:
        """Members expected to move up: the sum of p_upgrade."""
        return float(np.triu(self.expected, 1).sum())

    @property
    def expected_downgrades(self) -> float:
        """Members expected to move down: the sum of p_downgrade."""
        return float(np.tril(self.expected, -1).sum())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of everything."""
        return dataclasses.asdict(self)


def predicted_ranks(probabilities: npt.ArrayLike) -> Ranks:
    """Most probable tier of each row, [n]; of equally probable tiers the lowest."""
    ranks: Ranks = np.argmax(np.asarray(probabilities), axis=1)
    return ranks


def movement_probabilities(probabilities: npt.ArrayLike, current: npt.ArrayLike) -> tuple[Floats, Floats]:
    """(p_upgrade, p_downgrade), each [n]: the sums of the tiers above and below the current one.

    Exactly 0 where a member cannot move that way. Raises ValueError when the arrays do not fit each other.
    """
    p, now = _checked(probabilities, current)
    ranks = np.arange(p.shape[1])
    return (p * (ranks > now[:, None])).sum(axis=1), (p * (ranks < now[:, None])).sum(axis=1)


def evaluate(
    probabilities: npt.ArrayLike,
    current: npt.ArrayLike,
    outcome: npt.ArrayLike,
    tiers: Sequence[str],
    bins: int = BINS,
) -> Evaluation:
    """Every figure of one forecast; rows of probabilities are scaled to sum to exactly 1 first.

    Raises ValueError when there are no rows, shapes differ, a rank is not 0..K-1, or a row is not a distribution.
    """
    p, now = _checked(probabilities, current, len(tiers))
    truth = _checked_ranks(outcome, "outcome", *p.shape)
    predicted, labels = predicted_ranks(p), np.arange(len(tiers))
    up, down = movement_probabilities(p, now)
    can_rise, can_fall, rose, fell = now < len(tiers) - 1, now > 0, truth > now, truth < now
    curves = _curves(p, truth, bins)
    macro = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0.0)
    return Evaluation(
        tiers=tuple(tiers),
        rows=len(p),
        accuracy=float(accuracy_score(truth, predicted)),
        macro_precision=float(macro[0]),
        macro_recall=float(macro[1]),
        macro_f1=float(macro[2]),
        logloss=float(log_loss(truth, p, labels=labels)),
        kappa=_kappa(truth, predicted, labels),
        brier=float(brier_score_loss(truth, p, labels=labels, scale_by_half=False)),
        calibration_error=_error(curves),
        upgrade_auc=_auc(up[can_rise], rose[can_rise]),
        downgrade_auc=_auc(down[can_fall], fell[can_fall]),
        per_tier=_tier_scores(truth, predicted, tiers, curves),
        confusion=_counts(truth, predicted, labels),
        flows_predicted=_counts(now, predicted, labels),
        flows_outcome=_counts(now, truth, labels),
        reliability=curves,
        upgrade_reliability=reliability_curve(up[can_rise], rose[can_rise], bins) if can_rise.any() else None,
        upgrade_gain=gain_curve(up[can_rise], rose[can_rise]),
    )


def compare(
    probabilities: npt.ArrayLike,
    current: npt.ArrayLike,
    outcome: npt.ArrayLike,
    tiers: Sequence[str],
    baselines: Mapping[str, Baseline],
    bins: int = BINS,
    challengers: Mapping[str, npt.ArrayLike] | None = None,
    failed: Mapping[str, str] | None = None,
    draws: int = 0,
) -> Comparison:
    """The model beside its rivals on the same rows, each a member; raises ValueError as `evaluate` does.

    Args:
        probabilities: [n, K] of the model.
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        baselines: rules by current tier.
        bins: of the calibration error.
        challengers: [n, K] probabilities of others for the same rows, by name.
        failed: why others have none.
        draws: bootstrap samples behind each interval; 0: no intervals.
    """
    ranks, others = np.asarray(current), dict(challengers or {})
    rules = {name: b.predict(ranks) for name, b in baselines.items()}
    judged = Judged(np.arange(len(ranks)), ranks, np.asarray(outcome), {"": probabilities, **rules, **others})
    return Comparison(
        model=evaluate(probabilities, ranks, outcome, tiers, bins),
        baselines={name: evaluate(p, ranks, outcome, tiers, bins) for name, p in rules.items()},
        challengers={name: evaluate(p, ranks, outcome, tiers, bins) for name, p in others.items()},
        intervals=differences([judged], bins, draws),
        failed=dict(failed or {}),
    )


@dataclasses.dataclass(frozen=True)
class Judged:
    """Forecasts of one date: members [n], any ids; ranks [n]; probabilities [n, K] by name, the model's first."""

    members: npt.NDArray[Any]
    current: Ranks
    outcome: Ranks
    probabilities: Mapping[str, npt.ArrayLike]

    def figures(self, name: str, bins: int) -> bootstrap.Figures:
        """One of the forecasts, made ready for the bootstrap."""
        p, now = _checked(self.probabilities[name], self.current)
        places = np.stack([equal_mass_bins(p[:, rank], bins) for rank in range(p.shape[1])], axis=1)
        truth = _checked_ranks(self.outcome, "outcome", *p.shape)
        return bootstrap.Figures.of(p, movement_probabilities(p, now), now, truth, places)


def standings(
    probabilities: npt.ArrayLike,
    current: npt.ArrayLike,
    outcome: npt.ArrayLike,
    tiers: Sequence[str],
    bins: int = BINS,
    draws: int = 0,
) -> tuple[Standing, ...]:
    """The calibration of each current tier that has members; raises ValueError as `evaluate` does.

    Args:
        probabilities: [n, K].
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        bins: of the calibration error.
        draws: bootstrap samples behind each interval; 0: no intervals.
    """
    p, now = _checked(probabilities, current, len(tiers))
    truth, chance = _checked_ranks(outcome, "outcome", *p.shape), np.random.default_rng(0)

    def standing(tier: str, p: Floats, truth: Ranks) -> Standing:
        curves = _curves(p, truth, bins)
        error, interval = _error(curves), None
        if draws:
            drawn = (chance.integers(0, len(p), len(p)) for _ in range(draws))
            errors = [_error(_curves(p[rows], truth[rows], bins)) for rows in drawn]
            low, high = np.maximum(2 * error - np.quantile(errors, [0.975, 0.025]), 0).tolist()
            interval = (low, high)
        return Standing(tier, len(p), error, interval, curves)

    members = [now == rank for rank in range(len(tiers))]
    return tuple(standing(tier, p[rows], truth[rows]) for tier, rows in zip(tiers, members, strict=True) if rows.any())


def _curves(probabilities: Floats, outcome: Ranks, bins: int) -> tuple[ReliabilityCurve, ...]:
    return tuple(reliability_curve(p, outcome == rank, bins) for rank, p in enumerate(probabilities.T))


def _error(curves: Sequence[ReliabilityCurve]) -> float:
    return float(np.mean([curve.error for curve in curves]))


def differences(dates: Sequence[Judged], bins: int, draws: int) -> dict[str, bootstrap.Intervals]:
    """95 % intervals of the model's figures minus each rival's, means over the dates; {} without draws.

    Rivals that are not there at every date are left out.
    """
    if not draws:
        return {}
    model, *rivals = (name for name in dates[0].probabilities if all(name in d.probabilities for d in dates))
    ready = {name: [date.figures(name, bins) for date in dates] for name in (model, *rivals)}
    _, number = np.unique(np.concatenate([date.members for date in dates]), return_inverse=True)
    ends = np.cumsum([len(date.members) for date in dates])
    return bootstrap.intervals(ready.pop(model), ready, np.split(number, ends[:-1]), draws)


def summarise_forecast(probabilities: npt.ArrayLike, current: npt.ArrayLike, tiers: Sequence[str]) -> Forecast:
    """Flows, expected tier sizes and score histograms of one date's scores.

    Raises ValueError when there are no rows, shapes differ, a rank is not 0..K-1, or a row is not a distribution.
    """
    p, now = _checked(probabilities, current, len(tiers))
    up, down = movement_probabilities(p, now)
    members = [now == rank for rank in range(len(tiers))]
    return Forecast(
        tiers=tuple(tiers),
        flows=_counts(now, predicted_ranks(p), np.arange(len(tiers))),
        expected=tuple(tuple(p[rows].sum(axis=0).tolist()) for rows in members),
        upgrade_scores=tuple(_histogram(up[rows]) for rows in members),
        downgrade_scores=tuple(_histogram(down[rows]) for rows in members),
    )


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


def _checked(probabilities: npt.ArrayLike, current: npt.ArrayLike, k: int | None = None) -> tuple[Floats, Ranks]:
    """Probabilities scaled to sum to 1, and current ranks, both known to be sound."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(p) or p.shape[1] < 2 or p.shape[1] != (k or p.shape[1]):
        raise ValueError(f"probabilities must be [members, {k or 'tiers'}] with at least one member, not {p.shape}")
    sums = p.sum(axis=1)
    unsound = ~((p >= 0).all(axis=1) & (np.abs(sums - 1) <= ROW_SUM_TOLERANCE))
    if unsound.any():
        row = int(np.argmax(unsound))
        raise ValueError(f"row {row} of the probabilities is not a distribution: {p[row].tolist()}")
    return p / sums[:, None], _checked_ranks(current, "current", *p.shape)


def _checked_ranks(values: npt.ArrayLike, name: str, n: int, k: int) -> Ranks:
    """The ranks as int64 [n], each known to be 0..k-1."""
    given = np.asarray(values)
    if given.shape != (n,) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{name} ranks must be {n} integers, not {given.dtype} {given.shape}")
    if given.min() < 0 or given.max() >= k:
        raise ValueError(f"{name} ranks must be 0..{k - 1}, found {given.min()}..{given.max()}")
    return given.astype(np.int64)


def _auc(score: Floats, happened: Flags) -> float | None:
    """ROC AUC, or None when all rows are of one class."""
    return float(roc_auc_score(happened, score)) if happened.any() and not happened.all() else None


def _kappa(truth: Ranks, predicted: Ranks, labels: Ranks) -> float | None:
    """Quadratic weighted kappa, or None when both are one and the same tier throughout."""
    if np.unique(np.concatenate([truth, predicted])).size == 1:
        return None
    return float(cohen_kappa_score(truth, predicted, labels=labels, weights="quadratic"))


def _tier_scores(
    truth: Ranks, predicted: Ranks, tiers: Sequence[str], curves: Sequence[ReliabilityCurve]
) -> tuple[TierScore, ...]:
    labels = np.arange(len(tiers))
    precision, recall, f1, members = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    return tuple(
        TierScore(
            tier=tier,
            members=int(members[rank]),
            predicted=int((predicted == rank).sum()),
            precision=_defined(precision[rank]),
            recall=_defined(recall[rank]),
            f1=_defined(f1[rank]),
            calibration_error=curves[rank].error,
        )
        for rank, tier in enumerate(tiers)
    )


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _counts(rows: Ranks, columns: Ranks, labels: Ranks) -> Counts:
    return tuple(tuple(line) for line in confusion_matrix(rows, columns, labels=labels).tolist())


def _histogram(scores: Floats) -> tuple[int, ...]:
    # Sums of probabilities may exceed 1 by a rounding error; such a member belongs in the last bin.
    return tuple(np.histogram(np.minimum(scores, 1), bins=SCORE_BINS, range=(0, 1))[0].tolist())
