"""The tier rule: measures over a window, their thresholds, and how they combine. In exact integers.

Money and points are held as int64 micro-units (1e-6 of a unit), so that a member at exactly the threshold is in the
tier. A new measure or combination is one function and one line in `MEASURES` or `COMBINATIONS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from decimal import Decimal

import numpy as np

from features.core.arrays import Ints

MICROS = 1_000_000
"""Micro-units per unit of money or points."""

_MOST_STEPS = 2**63 - 1

MEASURES: dict[str, int] = {"spend": MICROS, "purchases": 1, "points": MICROS}
"""Measures that a rule can use, and how many integer steps make one unit of each."""

COMBINATIONS: dict[str, Callable[[Ints], Ints]] = {
    # The argument has a row of ranks for each measure: the tiers by that measure alone.
    "all_of": lambda ranks: ranks.min(axis=0),
    "any_of": lambda ranks: ranks.max(axis=0),
}
"""How the tiers by each measure alone become one: the lowest of them, or the highest."""


@dataclasses.dataclass(frozen=True)
class TierRule:
    """Ordered tiers by one or more measures over a trailing window.

    Attributes:
        names: K tier names, lowest first.
        window_days: days of the trailing window.
        combination: key of `COMBINATIONS`.
        thresholds: per measure the K-1 thresholds of tiers 1..K-1, in integer steps of the measure, strictly
            increasing; a member whose measure equals a threshold has reached it.
        points: SQL expression over an event that gives its points, where a measure is `points`.
    """

    names: tuple[str, ...]
    window_days: int
    combination: str
    thresholds: Mapping[str, tuple[int, ...]]
    points: str | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that the rule reads, in their stated order."""
        return tuple(self.thresholds)

    def canonical(self) -> str:
        """JSON that is equal exactly when the rules are; ids of contracts are made from it, so it never changes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def rank(self, values: Mapping[str, Ints]) -> Ints:
        """Tier ranks [n] of members whose measures are `values` (int64 [n] each, in integer steps)."""
        return COMBINATIONS[self.combination](np.stack([self._rank_by(m, values[m]) for m in self.measures]))

    def _rank_by(self, measure: str, values: Ints) -> Ints:
        return np.searchsorted(np.array(self.thresholds[measure]), values, side="right").astype(np.int64)

    def gap_to_next(self, values: Mapping[str, Ints], rank: Ints) -> tuple[Ints, Ints]:
        """What is missing to the next tier.

        Returns the gap [n] in integer steps, and the index [n] into `measures` of the measure that it is counted in.
        Where all thresholds must be reached it is the measure that is furthest behind, as a share of its threshold;
        where any will do, the nearest. Both are -1 in the top tier.
        """
        top = len(self.names) - 1
        goal = np.minimum(rank, top - 1)  # index of the next tier's threshold
        wanted = np.stack([np.array(self.thresholds[m])[goal] for m in self.measures])
        missing = np.maximum(wanted - np.stack([values[m] for m in self.measures]), 0)
        share = missing / np.maximum(wanted, 1)
        which = share.argmax(axis=0) if self.combination == "all_of" else share.argmin(axis=0)
        gap = np.take_along_axis(missing, which[None, :], axis=0)[0]
        at_top = rank == top
        return np.where(at_top, -1, gap), np.where(at_top, -1, which)

    def describe(self, rank: int) -> str:
        """The tier's condition in words, for tables and reports."""
        if rank == 0:
            return "every member"
        joint = " and " if self.combination == "all_of" else " or "
        parts = [f"{m} of {steps_to_decimal(m, t[rank - 1]):f} or more" for m, t in self.thresholds.items()]
        return f"{joint.join(parts)} in {self.window_days} days"


def decimal_to_steps(measure: str, value: Decimal) -> int:
    """A threshold in integer steps of its measure; raises ValueError where it is finer or too large."""
    steps = value * MEASURES[measure]
    if steps != steps.to_integral_value():
        raise ValueError(f"{value} is finer than {measure} is counted (1/{MEASURES[measure]})")
    if abs(steps) > _MOST_STEPS:
        raise ValueError(f"{value:.3g} is more {measure} than can be counted ({_MOST_STEPS // MEASURES[measure]})")
    return int(steps)


def steps_to_decimal(measure: str, steps: int) -> Decimal:
    """The inverse of `decimal_to_steps`."""
    return (Decimal(steps) / MEASURES[measure]).normalize() + Decimal(0)
