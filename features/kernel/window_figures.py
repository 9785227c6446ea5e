"""Exact figures of members at an as-of date, from which all aggregates are computed. Integers only.

They are counted from all days, here, or carried on from an earlier date, in `features.kernel.carried_figures`; both
give the same numbers. A figure over a trailing window has the window in its name, such as `spend_30d`; others are over
all time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.core.arrays import Ints
from features.kernel.aggregate_spec import (
    ACTIVE,
    EARLIEST,
    GAP_DAYS,
    GAP_SQUARES,
    GAPS,
    LATEST,
    TIER_CHANGED,
    AggregateSpec,
    windowed,
)
from features.kernel.day_histories import DayHistory, UserDays
from features.kernel.run_columns import DAY_MICROS, NEVER, SQUARE_BITS, SQUARES, date_of, day_number
from features.kernel.tier_changes import changes_of_days, last_change
from features.kernel.tiers import MICROS


@dataclasses.dataclass(frozen=True)
class Totals:
    """Figures of n members at an as-of date.

    Attributes:
        users: [n] ids, ascending; everyone with an event before the date.
        as_of: the date.
        figures: [n] int64 of each of `AggregateSpec.figures`; a missing time, day or amount is `NEVER`.
    """

    users: pa.Array
    as_of: dt.date
    figures: Mapping[str, Ints]

    def over(self, column: str, window_days: int) -> Ints:
        """[n] a column's figure over a trailing window."""
        return self.figures[windowed(column, window_days)]

    def days_since(self, figure: str) -> npt.NDArray[np.float64]:
        """[n] days from a time in microseconds to the as-of instant; NaN where there is no time."""
        micros = self.figures[figure]
        known = micros != NEVER
        instant = day_number(self.as_of) * DAY_MICROS
        return np.where(known, (instant - np.where(known, micros, 0)) / DAY_MICROS, np.nan)

    @property
    def squared_amounts(self) -> npt.NDArray[np.float64]:
        """[n] sum of the squared amounts of all purchases, in units of money squared."""
        high, low = (self.figures[name] for name in SQUARES)
        return (high * 2.0**SQUARE_BITS + low) / MICROS**2

    def measures(self, spec: AggregateSpec) -> dict[str, Ints]:
        """[n] each measure of the tier rule over its trailing window, in integer steps."""
        return {m: self.over(column, spec.rule.window_days) for m, column in spec.measured.items()}


def counted(days: UserDays, spec: AggregateSpec) -> Totals:
    """The figures from complete histories."""
    figures = {**window_sums(days, spec), **extremes(days), **order_figures(days, spec)}
    return Totals(days.users, date_of(days.limit), with_carry(figures))


def with_carry(figures: dict[str, Ints]) -> dict[str, Ints]:
    """Carry from the lower halves of the squares to the higher ones, so that each sum has one form."""
    high, low = SQUARES
    figures[high] = figures[high] + (figures[low] >> SQUARE_BITS)
    figures[low] = figures[low] & (1 << SQUARE_BITS) - 1
    return figures


def window_sums(days: UserDays, spec: AggregateSpec) -> dict[str, Ints]:
    """Sums of the columns over each window, and over all days where aggregates need them."""
    found = {windowed(c, w): days.total(c, w) for w in spec.windows for c in spec.summed}
    return {**found, **{c: days.total(c) for c in spec.summed_ever}}


def extremes(days: UserDays) -> dict[str, Ints]:
    """The largest amount, and the earliest and latest times, over all days."""
    columns = days.history.columns
    found = {name: days.over(np.maximum, columns[name]) for name in LATEST}
    return {**found, EARLIEST: days.over(np.minimum, columns[EARLIEST])}


def order_figures(days: UserDays, spec: AggregateSpec) -> dict[str, Ints]:
    """Figures that depend on the order of the days: active days, gaps, tier changes. A late day may change them all."""
    gap = days.history.kept("purchase_gaps", lambda: purchase_gaps(days.history, spec.purchases))
    changes = days.history.kept("tier_changes", lambda: changes_of_days(days.history, spec))
    return {
        **{windowed(ACTIVE, w): days.last - days.since(w) for w in spec.windows},
        GAPS: days.difference(GAPS, lambda: (gap > 0).astype(np.int64)),
        GAP_DAYS: days.difference(GAP_DAYS, lambda: gap),
        GAP_SQUARES: days.difference(GAP_SQUARES, lambda: gap**2),
        TIER_CHANGED: last_change(changes, days.who, days.limit),
    }


def carried_columns(spec: AggregateSpec) -> tuple[str, ...]:
    """The rollup columns that `order_figures` needs."""
    return tuple(dict.fromkeys((spec.purchases, *spec.measured.values())))


def purchase_gaps(history: DayHistory, purchases: str) -> Ints:
    """[m] days from each purchase day back to the member's one before; 0 for the first, and for other days."""
    bought = np.flatnonzero(history.columns[purchases] > 0)
    user, day = history.user_of_day[bought], history.day[bought]
    gaps = np.zeros(len(history.day), np.int64)
    gaps[bought[1:]] = np.where(user[1:] == user[:-1], day[1:] - day[:-1], 0)
    return gaps
