"""Exact figures of users at an as-of date, from which every aggregate follows. Pure numpy, integers alone.

They are counted from all days of a user, or carried on from an earlier date by what has come and gone since; the two
are equal. A figure over a trailing window has the window in its name, `spend_30d`; any other is over all time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.histories import (
    DAY_MICROS,
    NEVER,
    SQUARE_BITS,
    SQUARES,
    DayHistory,
    UserDays,
    date_of,
    day_number,
)  # fmt: skip
from features.ids import merged_ids, places_of
from features.tiers import MICROS, Ints, TierRule

ACTIVE = "active_days"
GAPS, GAP_DAYS, GAP_SQUARES = "gaps", "gap_days", "gap_squares"
"""Days between a user's consecutive purchase days: how many, their sum, the sum of their squares."""

TIER_CHANGED = "tier_changed_day"
"""The date on which the tier last changed, in days since 1970; `NEVER` where it never left the lowest."""

LATEST = ("largest_amount", "last_event_us", "last_purchase_us")
EARLIEST = "first_event_us"


@dataclasses.dataclass(frozen=True)
class AggregateSpec:
    """What the aggregates depend on beside the days themselves."""

    windows_days: tuple[int, ...]
    event_types: tuple[str, ...]
    purchase_type: str
    rule: TierRule

    @property
    def purchases(self) -> str:
        """The rollup column that counts purchases."""
        return count_column(self.purchase_type)

    @property
    def measured(self) -> dict[str, str]:
        """The rollup column behind each measure of the tier rule."""
        columns = {"spend": "spend", "purchases": self.purchases, "points": "points"}
        return {m: columns[m] for m in self.rule.measures}

    @property
    def windows(self) -> tuple[int, ...]:
        """Every trailing window that is summed over, the rule's too, ascending."""
        return tuple(sorted({*self.windows_days, self.rule.window_days}))

    @property
    def summed(self) -> tuple[str, ...]:
        """The rollup columns that are summed over the windows."""
        return tuple(dict.fromkeys(("spend", *map(count_column, self.event_types), *self.measured.values())))

    @property
    def summed_ever(self) -> tuple[str, ...]:
        """The columns that are summed over all time."""
        return ("events", "spend", self.purchases, *SQUARES)

    @property
    def figures(self) -> tuple[str, ...]:
        """Every figure, in order."""
        over_windows = [windowed(c, w) for w in self.windows for c in (ACTIVE, *self.summed)]
        gaps = (GAPS, GAP_DAYS, GAP_SQUARES)
        return (*over_windows, *self.summed_ever, EARLIEST, *LATEST, *gaps, TIER_CHANGED)


def count_column(event_type: str) -> str:
    """The rollup column that counts a day's events of a type."""
    return f"events_{event_type}"


def windowed(column: str, window_days: int) -> str:
    """The figure of a column over a trailing window."""
    return f"{column}_{window_days}d"


@dataclasses.dataclass(frozen=True)
class Totals:
    """Figures of n users at an as-of date.

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
    """The figures of users whose every day is there."""
    figures = {**_sums(days, spec), **_extremes(days), **_shape(days, spec)}
    return Totals(days.users, date_of(days.limit), _with_carry(figures))


def _with_carry(figures: dict[str, Ints]) -> dict[str, Ints]:
    """The squares with what a sum of lower halves has above one unit in the higher one: each number in one way."""
    high, low = SQUARES
    figures[high] = figures[high] + (figures[low] >> SQUARE_BITS)
    figures[low] = figures[low] & (1 << SQUARE_BITS) - 1
    return figures


def _sums(days: UserDays, spec: AggregateSpec) -> dict[str, Ints]:
    found = {windowed(c, w): days.total(c, w) for w in spec.windows for c in spec.summed}
    return {**found, **{c: days.total(c) for c in spec.summed_ever}}


def _extremes(days: UserDays) -> dict[str, Ints]:
    columns = days.history.columns
    found = {name: days.over(np.maximum, columns[name]) for name in LATEST}
    return {**found, EARLIEST: days.over(np.minimum, columns[EARLIEST])}


def _shape(days: UserDays, spec: AggregateSpec) -> dict[str, Ints]:
    """What depends on the order of the days or on which there are, so that a late one may change more than it adds."""
    gap = days.history.kept("purchase_gaps", lambda: _purchase_gaps(days.history, spec.purchases))
    changes = days.history.kept("tier_changes", lambda: _changes_of_days(days.history, spec))
    return {
        **{windowed(ACTIVE, w): days.last - days.since(w) for w in spec.windows},
        GAPS: days.difference(GAPS, lambda: (gap > 0).astype(np.int64)),
        GAP_DAYS: days.difference(GAP_DAYS, lambda: gap),
        GAP_SQUARES: days.difference(GAP_SQUARES, lambda: gap**2),
        TIER_CHANGED: _last_change(changes, days.who, days.limit),
    }


class Carried:
    """The figures at a date, carried on to later ones by what has come and gone since."""

    def __init__(
        self, start: Totals, added: DayHistory, leaving: DayHistory, of_late: DayHistory, spec: AggregateSpec
    ) -> None:
        """Align the users of all parts.

        Args:
            start: figures at the earlier date.
            added: every row of the rollup that `start` does not know: later days, and what came late of earlier ones.
            leaving: rows that `start` knows, of the days that leave a window until the last date asked for, or more.
            of_late: all days, at least of the columns of `carried_columns`, of the users with a row of an earlier
                day in `added`.
            spec: windows, event types and tier rule.
        """
        self._start, self._added, self._leaving, self._late, self._spec = start, added, leaving, of_late, spec
        self.users, at_start = merged_ids(start.users, added.users)
        parts = {"added": added.users, "leaving": leaving.users, "late": of_late.users}
        at = places_of(pa.concat_arrays([*parts.values()]), self.users)
        ends = np.cumsum([len(ids) for ids in parts.values()])
        self._at = {"start": at_start, **dict(zip(parts, np.split(at, ends[:-1]), strict=True))}
        self._gap = _purchase_gaps(added, spec.purchases)
        self._changes: Ints | None = None

    def at(self, as_of: dt.date) -> Totals:
        """The figures at a date from the start's on."""
        figures = {name: self._spread(name) for name in self._spec.figures}
        added = self._added.before(as_of)
        self._add(figures, added)
        self._subtract(figures, as_of)
        self._add_gaps(figures, added)
        figures[TIER_CHANGED] = np.maximum(figures[TIER_CHANGED], self._last_tier_change(day_number(as_of)))
        late = self._late.before(as_of)
        for name, values in _shape(late, self._spec).items():
            figures[name][self._at["late"][late.who]] = values
        there, figures = figures["events"] > 0, _with_carry(figures)
        if there.all():
            return Totals(self.users, as_of, figures)
        return Totals(self.users.filter(pa.array(there)), as_of, {n: v[there] for n, v in figures.items()})

    def _spread(self, name: str) -> Ints:
        empty = {EARLIEST: _LAST, TIER_CHANGED: NEVER, **dict.fromkeys(LATEST, NEVER)}
        values = np.full(len(self.users), empty.get(name, 0), np.int64)
        values[self._at["start"]] = self._start.figures[name]
        return values

    def _add(self, figures: dict[str, Ints], added: UserDays) -> None:
        at = self._at["added"][added.who]
        for name, values in _sums(added, self._spec).items():
            figures[name][at] += values
        for w in self._spec.windows:
            figures[windowed(ACTIVE, w)][at] += added.last - added.since(w)
        for name, values in _extremes(added).items():
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
        """The gaps between later purchase days, and the one from the start's last purchase to the first of them."""
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
        return _last_change(self._changes, np.arange(len(self.users)), limit)

    def _changes_since(self) -> Ints:
        """Keys of the changes of tier after the start."""
        window, begin = self._spec.rule.window_days, day_number(self._start.as_of)
        moves = []
        for part, history, sign in (("added", self._added, 1), ("leaving", self._leaving, -1)):
            enters = self._at[part][history.user_of_day] * _DATES + history.day + 1 + _BIAS
            amounts = {m: sign * history.columns[c] for m, c in self._spec.measured.items()}
            moves.append((enters, amounts) if part == "added" else (enters + window, amounts))
            if part == "added":
                moves.append((enters + window, {m: -v for m, v in amounts.items()}))
        starts = {m: self._spread(windowed(c, window)) for m, c in self._spec.measured.items()}
        return _tier_changes(moves, starts, begin, self._spec.rule)


def carried_columns(spec: AggregateSpec) -> tuple[str, ...]:
    """The rollup columns that the shape of a user's days follows from."""
    return tuple(dict.fromkeys((spec.purchases, *spec.measured.values())))


def leaving_days(spec: AggregateSpec, start: dt.date, last: dt.date) -> set[dt.date]:
    """The days that leave a window between two as-of dates, in or before the day before the first."""
    passed = (last - start).days
    return {start - dt.timedelta(days=w - n) for w in spec.windows for n in range(min(passed, w))}


_DATES, _BIAS = 1 << 25, 1 << 24  # dates of one user in a key; more than 90,000 years, half of them before 1970
_LAST = np.iinfo(np.int64).max


def _last_change(changes: Ints, who: Ints, limit: int) -> Ints:
    """[n] the date of each user's last change up to `limit`, `NEVER` without one."""
    if not len(changes):
        return np.full(len(who), NEVER)
    last = np.searchsorted(changes, who * _DATES + limit + _BIAS, side="right") - 1
    user, date = np.divmod(changes[last], _DATES)
    return np.where((last >= 0) & (user == who), date - _BIAS, NEVER)


def _changes_of_days(history: DayHistory, spec: AggregateSpec) -> Ints:
    """Keys of every change of tier of users whose every day is there."""
    enters = history.user_of_day * _DATES + history.day + 1 + _BIAS
    amounts = {m: history.columns[c] for m, c in spec.measured.items()}
    leaves = {m: -v for m, v in amounts.items()}
    nothing = {m: np.zeros(len(history.users), np.int64) for m in amounts}
    moves = [(enters, amounts), (enters + spec.rule.window_days, leaves)]
    return _tier_changes(moves, nothing, None, spec.rule)


def _tier_changes(
    moves: Iterable[tuple[Ints, Mapping[str, Ints]]], starts: Mapping[str, Ints], after: int | None, rule: TierRule
) -> Ints:
    """Keys, ascending, of each user's place and the dates on which the rule's answer for it changed.

    A day's amounts enter the trailing window on the day after it and leave it `window_days` later, and the tier can
    change on those dates only: so the running sums over both kinds of dates give every tier ever held.

    Args:
        moves: keys of users and dates, and what each measure gains there.
        starts: each user's measures before all of them.
        after: moves on a date up to this one are left out; None: none are.
        rule: the tier rule.
    """
    parts = list(moves)
    key = np.concatenate([keys for keys, _ in parts])
    gained = {m: np.concatenate([amounts[m] for _, amounts in parts]) for m in starts}
    if after is not None:
        later = key % _DATES > after + _BIAS
        key, gained = key[later], {m: v[later] for m, v in gained.items()}
    order = np.argsort(key, kind="stable")  # a few ascending runs: merged
    key = key[order]
    last_of_date = np.flatnonzero(np.diff(key, append=-1) != 0)
    who = key // _DATES
    begins = np.flatnonzero(np.diff(who, prepend=-1) != 0)
    per_user = np.diff(begins, append=len(who))
    values = {}
    for measure, amounts in gained.items():
        running = np.cumsum(amounts[order])
        offset = starts[measure][who[begins]] - np.concatenate([[0], running])[begins]
        values[measure] = (running + np.repeat(offset, per_user))[last_of_date]
    key, who = key[last_of_date], who[last_of_date]
    rank = rule.rank(values)
    previous = np.concatenate([[0], rank])[: len(rank)]
    fresh = np.diff(who, prepend=-1) != 0
    previous[fresh] = rule.rank(starts)[who[fresh]]
    return key[rank != previous]


def _purchase_gaps(history: DayHistory, purchases: str) -> Ints:
    """[m] days from a user's purchase day back to the one before; 0 for the first, and for days without purchase."""
    bought = np.flatnonzero(history.columns[purchases] > 0)
    user, day = history.user_of_day[bought], history.day[bought]
    gaps = np.zeros(len(history.day), np.int64)
    gaps[bought[1:]] = np.where(user[1:] == user[:-1], day[1:] - day[:-1], 0)
    return gaps
