"""Forecast tiers and the chances to move up or down, from probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from features.core.arrays import Floats, Ranks

Counts = tuple[tuple[int, ...], ...]
"""A [K, K] table of members, first index the row."""

ROW_SUM_TOLERANCE = 1e-5
"""How far the sum of a row may be from 1: a float32 softmax stays within 1e-6."""


def predicted_ranks(probabilities: npt.ArrayLike) -> Ranks:
    """Most probable tier of each row, [n]; of equally probable tiers the lowest."""
    ranks: Ranks = np.argmax(np.asarray(probabilities), axis=1)
    return ranks


def movement_probabilities(probabilities: npt.ArrayLike, current: npt.ArrayLike) -> tuple[Floats, Floats]:
    """(p_upgrade, p_downgrade), each [n]: the sums of the tiers above and below the current one.

    Exactly 0 where a member cannot move that way. Raises ValueError when the arrays do not fit each other.
    """
    p, now = checked_forecasts(probabilities, current)
    ranks = np.arange(p.shape[1])
    return (p * (ranks > now[:, None])).sum(axis=1), (p * (ranks < now[:, None])).sum(axis=1)


def checked_forecasts(
    probabilities: npt.ArrayLike, current: npt.ArrayLike, k: int | None = None
) -> tuple[Floats, Ranks]:
    """Probabilities scaled to sum to 1, and current ranks; raises ValueError where they are not valid."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not len(p) or p.shape[1] < 2 or p.shape[1] != (k or p.shape[1]):
        raise ValueError(f"probabilities must be [members, {k or 'tiers'}] with at least one member, not {p.shape}")
    sums = p.sum(axis=1)
    unsound = ~((p >= 0).all(axis=1) & (np.abs(sums - 1) <= ROW_SUM_TOLERANCE))
    if unsound.any():
        row = int(np.argmax(unsound))
        raise ValueError(f"row {row} of the probabilities is not a distribution: {p[row].tolist()}")
    return p / sums[:, None], checked_ranks(current, "current", *p.shape)


def checked_ranks(values: npt.ArrayLike, name: str, n: int, k: int) -> Ranks:
    """The ranks as int64 [n]; raises ValueError unless each is 0..k-1."""
    given = np.asarray(values)
    if given.shape != (n,) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"{name} ranks must be {n} integers, not {given.dtype} {given.shape}")
    if given.min() < 0 or given.max() >= k:
        raise ValueError(f"{name} ranks must be 0..{k - 1}, found {given.min()}..{given.max()}")
    return given.astype(np.int64)


def tier_counts(rows: Ranks, columns: Ranks, labels: Ranks) -> Counts:
    """Counts of members: a tuple for each value of `rows`, in it one for each of `columns`."""
    return tuple(tuple(line) for line in confusion_matrix(rows, columns, labels=labels).tolist())
