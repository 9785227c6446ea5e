"""Figures of a forecast: metrics and curves of tier probabilities, compared with the tiers that members reached.

Everything is computed from plain arrays of one row per member: `probabilities` [n, K] float64, `current` and
`outcome` [n] ranks 0..K-1. Results are frozen dataclasses of numbers and tuples, ready for JSON; a figure that is
undefined for the rows at hand (an AUC with one class only) is None, never NaN. The order of rows changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from features.core.arrays import Flags, Floats, Ranks
from training.evaluation.curves import (
    BINS,
    GainCurve,
    ReliabilityCurve,
    gain_curve,
    mean_error,
    reliability_curve,
    reliability_curves,
)
from training.evaluation.tier_moves import (
    Counts,
    checked_forecasts,
    checked_ranks,
    movement_probabilities,
    predicted_ranks,
    tier_counts,
)

SCORE_BINS = 20
"""Equal-width bins of the score histograms: 5 percentage points each."""


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
class Scores:
    """The figures of one forecast on one set of rows that are a number each.

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


@dataclasses.dataclass(frozen=True)
class Evaluation(Scores):
    """All figures of one forecast on one set of rows: the scores, and further tables and curves.

    Attributes:
        per_tier: one entry for each tier.
        confusion: members by outcome tier (rows) and predicted tier (columns).
        flows_predicted: members by current tier (rows) and predicted tier (columns).
        flows_outcome: members by current tier (rows) and outcome tier (columns).
        reliability: one curve for each tier.
        upgrade_reliability: curve of p_upgrade among members below the top tier; None if there are none.
        upgrade_gain: gain curve of contacting by p_upgrade; None where nobody could or did move up.
    """

    per_tier: tuple[TierScore, ...]
    confusion: Counts
    flows_predicted: Counts
    flows_outcome: Counts
    reliability: tuple[ReliabilityCurve, ...]
    upgrade_reliability: ReliabilityCurve | None
    upgrade_gain: GainCurve | None


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The scores of all members, summed up; needs no outcomes.

    Attributes:
        tiers: names, lowest first.
        flows: members by current tier (rows) and most probable tier (columns).
        expected: the same, with each member spread over the columns by probability. Its column sums are the expected
            sizes of the tiers; the most probable tiers alone understate rare moves.
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
    p, now = checked_forecasts(probabilities, current, len(tiers))
    truth = checked_ranks(outcome, "outcome", *p.shape)
    predicted, labels = predicted_ranks(p), np.arange(len(tiers))
    up, down = movement_probabilities(p, now)
    can_rise, can_fall, rose, fell = now < len(tiers) - 1, now > 0, truth > now, truth < now
    curves = reliability_curves(p, truth, bins)
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
        calibration_error=mean_error(curves),
        upgrade_auc=_auc(up[can_rise], rose[can_rise]),
        downgrade_auc=_auc(down[can_fall], fell[can_fall]),
        per_tier=_tier_scores(truth, predicted, tiers, curves),
        confusion=tier_counts(truth, predicted, labels),
        flows_predicted=tier_counts(now, predicted, labels),
        flows_outcome=tier_counts(now, truth, labels),
        reliability=curves,
        upgrade_reliability=reliability_curve(up[can_rise], rose[can_rise], bins) if can_rise.any() else None,
        upgrade_gain=gain_curve(up[can_rise], rose[can_rise]),
    )


def summarise_forecast(probabilities: npt.ArrayLike, current: npt.ArrayLike, tiers: Sequence[str]) -> Forecast:
    """Flows, expected tier sizes and score histograms of one date's scores.

    Raises ValueError when there are no rows, shapes differ, a rank is not 0..K-1, or a row is not a distribution.
    """
    p, now = checked_forecasts(probabilities, current, len(tiers))
    up, down = movement_probabilities(p, now)
    members = [now == rank for rank in range(len(tiers))]
    return Forecast(
        tiers=tuple(tiers),
        flows=tier_counts(now, predicted_ranks(p), np.arange(len(tiers))),
        expected=tuple(tuple(p[rows].sum(axis=0).tolist()) for rows in members),
        upgrade_scores=tuple(_histogram(up[rows]) for rows in members),
        downgrade_scores=tuple(_histogram(down[rows]) for rows in members),
    )


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


def _histogram(scores: Floats) -> tuple[int, ...]:
    # Sums of probabilities may exceed 1 by a rounding error; such a member belongs in the last bin.
    return tuple(np.histogram(np.minimum(scores, 1), bins=SCORE_BINS, range=(0, 1))[0].tolist())
