"""Figures of a snapshot's date carried on to later dates, without reading the days that stay in every window."""

from __future__ import annotations

import datetime as dt

import numpy as np
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
from features.kernel.run_columns import DAY_MICROS, NEVER, day_number
from features.kernel.tier_changes import DATE_BIAS, DATES_PER_USER, last_change, tier_changes
from features.kernel.user_ids import merged_ids, places_of
from features.kernel.window_figures import Totals, extremes, order_figures, purchase_gaps, window_sums, with_carry

_LAST = np.iinfo(np.int64).max


class Carried:
    """Figures carried on from an earlier date: days that came since are added, days that left are subtracted."""

    def __init__(
        self, start: Totals, added: DayHistory, leaving: DayHistory, of_late: DayHistory, spec: AggregateSpec
    ) -> None:
        """Find the place of each part's members among all members.

        Args:
            start: figures at the earlier date.
            added: all rows of the rollup that `start` does not know: later days, and late rows of earlier days.
            leaving: rows that `start` knows, of the days that leave a window before the last date; further rows do
                no harm.
            of_late: all days of the members with a late row, at least the columns of `carried_columns`.
            spec: windows, event types and tier rule.
        """
        self._start, self._added, self._leaving, self._late, self._spec = start, added, leaving, of_late, spec
        self.users, at_start = merged_ids(start.users, added.users)
        parts = {"added": added.users, "leaving": leaving.users, "late": of_late.users}
        at = places_of(pa.concat_arrays([*parts.values()]), self.users)
        ends = np.cumsum([len(ids) for ids in parts.values()])
        self._at = {"start": at_start, **dict(zip(parts, np.split(at, ends[:-1]), strict=True))}
        self._gap = purchase_gaps(added, spec.purchases)
        self._changes: Ints | None = None

    def at(self, as_of: dt.date) -> Totals:
        """The figures at a date, the start's or a later one."""
        figures = {name: self._spread(name) for name in self._spec.figures}
        added = self._added.before(as_of)
        self._add(figures, added)
        self._subtract(figures, as_of)
        self._add_gaps(figures, added)
        figures[TIER_CHANGED] = np.maximum(figures[TIER_CHANGED], self._last_tier_change(day_number(as_of)))
        late = self._late.before(as_of)
        for name, values in order_figures(late, self._spec).items():
            figures[name][self._at["late"][late.who]] = values
        there, figures = figures["events"] > 0, with_carry(figures)
        if there.all():
            return Totals(self.users, as_of, figures)
        return Totals(self.users.filter(pa.array(there)), as_of, {n: v[there] for n, v in figures.items()})

    def _spread(self, name: str) -> Ints:
        """[n] the start's figure of each member; of new ones the value of no day."""
        empty = {EARLIEST: _LAST, TIER_CHANGED: NEVER, **dict.fromkeys(LATEST, NEVER)}
        values = np.full(len(self.users), empty.get(name, 0), np.int64)
        values[self._at["start"]] = self._start.figures[name]
        return values

    def _add(self, figures: dict[str, Ints], added: UserDays) -> None:
        at = self._at["added"][added.who]
        for name, values in window_sums(added, self._spec).items():
            figures[name][at] += values
        for w in self._spec.windows:
            figures[windowed(ACTIVE, w)][at] += added.last - added.since(w)
        for name, values in extremes(added).items():
            pick = np.minimum if name == EARLIEST else np.maximum
            figures[name][at] = pick(figures[name][at], values)

    def _subtract(self, figures: dict[str, Ints], as_of: dt.date) -> None:
        begin, passed = self._start.as_of, (as_of - self._start.as_of).days
        for w in self._spec.windows:
            left = min(passed, w)
            gone = self._leaving.before(begin + dt.timedelta(days=left - w))
            at = self._at["leaving"][gone.who]
            for column in self._spec.summed:
                figures[windowed(column, w)][at] -= gone.total(column, left)
            figures[windowed(ACTIVE, w)][at] -= gone.last - gone.since(left)

    def _add_gaps(self, figures: dict[str, Ints], added: UserDays) -> None:
        """Add the gaps between later purchase days, and the gap from the start's last purchase to the first of them."""
        at = self._at["added"][added.who]
        inside = {
            GAPS: added.difference(GAPS, lambda: (self._gap > 0).astype(np.int64)),
            GAP_DAYS: added.difference(GAP_DAYS, lambda: self._gap),
            GAP_SQUARES: added.difference(GAP_SQUARES, lambda: self._gap**2),
        }
        bought = self._added.columns[self._spec.purchases] > 0
        first = added.over(np.minimum, np.where(bought, self._added.day, _LAST))
        last = self._spread("last_purchase_us")[at]
        bridged = (first != _LAST) & (last != NEVER)
        bridge = np.where(bridged, first - last // DAY_MICROS, 0)
        for name, values in {GAPS: bridged.astype(np.int64), GAP_DAYS: bridge, GAP_SQUARES: bridge**2}.items():
            figures[name][at] += inside[name] + values

    def _last_tier_change(self, limit: int) -> Ints:
        if self._changes is None:
            self._changes = self._changes_since()
        return last_change(self._changes, np.arange(len(self.users)), limit)

    def _changes_since(self) -> Ints:
        """Keys of the tier changes after the start, see `tier_changes`."""
        window, begin = self._spec.rule.window_days, day_number(self._start.as_of)
        moves = []
        for part, history, sign in (("added", self._added, 1), ("leaving", self._leaving, -1)):
            enters = self._at[part][history.user_of_day] * DATES_PER_USER + history.day + 1 + DATE_BIAS
            amounts = {m: sign * history.columns[c] for m, c in self._spec.measured.items()}
            moves.append((enters, amounts) if part == "added" else (enters + window, amounts))
            if part == "added":
                moves.append((enters + window, {m: -v for m, v in amounts.items()}))
        starts = {m: self._spread(windowed(c, window)) for m, c in self._spec.measured.items()}
        return tier_changes(moves, starts, begin, self._spec.rule)


def leaving_days(spec: AggregateSpec, start: dt.date, last: dt.date) -> set[dt.date]:
    """The days before `start` that leave a window between the as-of dates `start` and `last`."""
    passed = (last - start).days
    return {start - dt.timedelta(days=w - n) for w in spec.windows for n in range(min(passed, w))}
