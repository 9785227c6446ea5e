"""Baselines: simple forecasts by current tier alone, which a model must beat.

Each is fitted to one small table: the members of the training rows, counted by current tier (rows) and outcome tier
(columns). So Spark counts, and this module only divides. A baseline is a [K, K] matrix; its row r is the forecast for
members now in tier r.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from features.core.errors import TrainingDataError

Matrix = npt.NDArray[np.float64]

SMOOTHING = 1.0
"""Added to each count (Laplace): a move never seen in training stays possible, so no logloss is infinite."""

LEAST_STAY = 0.51
"""Floor of the probability to stay, so that "stays" forecasts the current tier even where most members move."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A forecast by current tier.

    Attributes:
        name: name in the registry.
        matrix: row r holds the probabilities of the K outcome tiers for members now in tier r; rows sum to 1.
    """

    name: str
    matrix: tuple[tuple[float, ...], ...]

    def predict(self, current: npt.ArrayLike) -> Matrix:
        """Probabilities [n, K] for members in the given tiers ([n] ranks); raises ValueError on a rank not 0..K-1."""
        ranks = np.asarray(current, dtype=np.int64)
        if ranks.size and not 0 <= ranks.min() <= ranks.max() < len(self.matrix):
            raise ValueError(f"current ranks must be 0..{len(self.matrix) - 1}, found {ranks.min()}..{ranks.max()}")
        return np.array(self.matrix, dtype=np.float64)[ranks]


def majority(counts: Matrix) -> Matrix:
    """The shares of the outcome tiers for every current tier: always predicts the most frequent tier."""
    return np.tile(_shares(counts.sum(axis=0)), (len(counts), 1))


def stays(counts: Matrix) -> Matrix:
    """Each member keeps the current tier with the share of those who did; the rest is spread evenly."""
    k = len(counts)
    stayed = float(np.trace(counts))
    p = max(LEAST_STAY, float(_shares(np.array([stayed, counts.sum() - stayed]))[0]))
    return np.where(np.eye(k, dtype=bool), p, (1 - p) / (k - 1))


def markov(counts: Matrix) -> Matrix:
    """The shares of the outcome tiers among members of the same current tier: a first-order Markov chain."""
    return _shares(counts)


REGISTRY: dict[str, Callable[[Matrix], Matrix]] = {"majority": majority, "stays": stays, "markov": markov}
"""Baselines by name: functions from [K, K] counts to [K, K] forecasts. To add one, add a function and a line here."""


def fit_baselines(transitions: npt.ArrayLike) -> dict[str, Baseline]:
    """All baselines of the registry, fitted on counts [K, K] of training rows by current and outcome tier.

    Raises ValueError when the counts are not a square table of numbers of at least 0, and TrainingDataError when they
    are all zero.
    """
    counts = np.asarray(transitions, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2 or not (counts >= 0).all():
        raise ValueError(f"transitions must be a square table of counts for 2 or more tiers, not {counts.tolist()}")
    if not counts.sum():
        raise TrainingDataError("no training rows to fit baselines on: build outcomes for the training as-of dates")
    return {name: Baseline(name, tuple(map(tuple, fit(counts).tolist()))) for name, fit in REGISTRY.items()}


def transition_counts(current: npt.ArrayLike, outcome: npt.ArrayLike, k: int) -> npt.NDArray[np.int64]:
    """Members [k, k] by current and outcome rank: what Spark's `groupBy(current, outcome).count()` says, for arrays.

    Raises ValueError when the arrays differ in length or a rank is not 0..k-1.
    """
    pairs = np.ravel_multi_index((np.asarray(current), np.asarray(outcome)), (k, k))
    return np.bincount(pairs, minlength=k * k).reshape(k, k)


def cross_fitted_markov(
    current: npt.NDArray[np.int64], outcome: npt.NDArray[np.int64], half: npt.NDArray[np.bool_], k: int
) -> Matrix:
    """[n, k] forecasts of a Markov chain for members by rank, each fitted on the other half of them.

    Like a calibration that is fitted in halves, it learns from these members only, not from the training rows.
    """
    found = np.empty((len(current), k))
    for side in (half, ~half):
        counts = transition_counts(current[~side], outcome[~side], k).astype(np.float64)
        found[side] = markov(counts)[current[side]]
    return found


def _shares(counts: Matrix) -> Matrix:
    """Counts along the last axis as probabilities, smoothed."""
    smoothed = counts + SMOOTHING
    shares: Matrix = smoothed / smoothed.sum(axis=-1, keepdims=True)
    return shares
