"""Rollup days of many members as flat arrays, and their sums over windows."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.core.arrays import Array, Ints
from features.core.arrow_numbers import decimal_words
from features.kernel.run_columns import (
    NEVER,
    SQUARE_BITS,
    SQUARES,
    chosen_counts,
    day_number,
    id_codes,
    integers,
    offsets_of,
    stable_order,
)
from features.kernel.tiers import MICROS

_DAYS_APART = 1 << 25  # days that a key has room for per member: more than 90,000 years
_BIAS = 1 << 24
_REDUCED_BY = {
    "largest_amount": np.maximum,
    "first_event_us": np.minimum,
    "last_event_us": np.maximum,
    "last_purchase_us": np.maximum,
}
_TIMES = {
    "first_event_time": "first_event_us",
    "last_event_time": "last_event_us",
    "last_purchase_time": "last_purchase_us",
}

_LARGEST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class DayHistory:
    """Rollup days of a range of members, sorted by member and day, one entry for each.

    Attributes:
        users: [n] ids, ascending.
        offsets: [n + 1] where each member's days begin.
        day: [m] days since 1970.
        columns: [m] int64 per rollup column, money and points in micro-units, and `SQUARES` in place of
            `squared_amount`; a missing time is `NEVER`.
    """

    users: pa.Array
    offsets: Ints
    day: Ints
    columns: dict[str, Array]
    _sums: dict[str, Ints] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_runs(cls, runs: Sequence[pa.Table]) -> DayHistory:
        """Merge runs, tables of rows of `user_days` with all or some columns; rows of one member and day are added up.

        Raises:
            OverflowError: the sums of a member may not fit int64, 9.2e12 units of money or points.
        """
        table = pa.concat_tables(runs)
        users, codes = id_codes(table["user_id"])
        day = table["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        names = [n for n in table.column_names if n not in ("user_id", "day", "arrival_date")]
        columns = {name: values for n in names for name, values in _day_columns(n, table[n]).items()}
        order = stable_order(codes, len(users))
        codes, day = codes[order], day[order]
        same = codes[1:] == codes[:-1]
        if (same & (day[1:] <= day[:-1])).any():
            again = np.lexsort((day, codes))
            order, codes, day = order[again], codes[again], day[again]
        columns = {name: values[order] for name, values in columns.items()}
        fresh = np.ones(len(day), bool)
        fresh[1:] = (codes[1:] != codes[:-1]) | (day[1:] != day[:-1])
        if not fresh.all():
            begins = np.flatnonzero(fresh)
            columns = {n: _REDUCED_BY.get(n, np.add).reduceat(v, begins) for n, v in columns.items()}
            codes, day = codes[begins], day[begins]
        offsets = offsets_of(codes, len(users))
        _check_sums_fit(columns, int(np.diff(offsets).max(initial=0)))
        return cls(users, offsets, day, columns)

    @property
    def user_of_day(self) -> Ints:
        """[m] index of each day's member."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def before(self, as_of: dt.date) -> UserDays:
        """The days before `as_of`; members without any are left out."""
        limit = day_number(as_of)
        counts = chosen_counts(self.day < limit, self.offsets)
        who = np.flatnonzero(counts)
        first = self.offsets[:-1][who]
        return UserDays(self, who, first, first + counts[who], limit)

    def running(self, name: str, make: Callable[[], Ints]) -> Ints:
        """[m + 1] running sums of an int64 quantity [m], the first 0; cached under `name`."""
        if name not in self._sums:
            self._sums[name] = np.concatenate([[0], np.cumsum(make())])
        return self._sums[name]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Cached result of `make`: it is the same for all dates."""
        if name not in self._sums:
            self._sums[name] = make()
        return self._sums[name]


@dataclasses.dataclass(frozen=True)
class UserDays:
    """The days before an as-of date of the n members that have any.

    Attributes:
        history: all days.
        who: [n] the members' places in the history.
        first: [n] place of each member's first day in the history's columns.
        last: [n] place after the last day before the as-of date.
        limit: the as-of date in days since 1970.
    """

    history: DayHistory
    who: Ints
    first: Ints
    last: Ints
    limit: int
    _since: dict[int, Ints] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def users(self) -> pa.Array:
        """[n] ids, ascending."""
        return self.history.users.take(pa.array(self.who))

    def since(self, days: int) -> Ints:
        """[n] place of each member's first day in the last `days` days."""
        if days not in self._since:  # every column over the window needs it
            key = self.history.kept("key", lambda: self.history.user_of_day * _DAYS_APART + self.history.day + _BIAS)
            found = np.searchsorted(key, self.who * _DAYS_APART + (self.limit - days + _BIAS))
            self._since[days] = np.minimum(found, self.last)
        return self._since[days]

    def total(self, column: str, newest: int | None = None) -> Ints:
        """[n] sum of a column over the last `newest` days; None: over all days."""
        return self.difference(column, lambda: self.history.columns[column], newest)

    def difference(self, name: str, make: Callable[[], Ints], newest: int | None = None) -> Ints:
        """The same of a quantity [m] that is no column; its running sums are cached under `name`."""
        sums = self.history.running(name, make)
        return sums[self.last] - sums[self.first if newest is None else self.since(newest)]

    def over(self, function: np.ufunc, values: Array) -> Array:
        """[n] `function` reduced over each member's days of `values` [m]."""
        if not len(self.who):
            return values[:0]
        if len(self.who) == len(self.history.users) and self.last[-1] == len(values) and _adjacent(self):
            return function.reduceat(values, self.first)
        pairs = np.stack([self.first, self.last], axis=1).ravel()
        return function.reduceat(np.append(values, values[:1]), pairs)[::2]  # the extra entry lets pairs end at m


def in_steps(run: pa.Table, columns: Sequence[str]) -> pa.Table:
    """`user_id`, `day` and some columns of a run of `user_days`, money and points as int64 micro-units."""
    sums = {c: pa.array(integers(run[c], 0)) for c in columns}
    return pa.table({"user_id": run["user_id"], "day": run["day"], **sums})


def _day_columns(name: str, column: pa.ChunkedArray) -> dict[str, Ints]:
    """A column of the rollup under the names of `DayHistory.columns`: two for the squares, else one."""
    if name == "squared_amount":
        halves = [_square_halves(c) for c in column.chunks] or [(np.empty(0, np.int64),) * 2]
        return {half: np.concatenate(parts) for half, parts in zip(SQUARES, zip(*halves, strict=True), strict=True)}
    name = _TIMES.get(name, name)
    return {name: integers(column, NEVER if name in _TIMES.values() else 0)}


def _square_halves(column: pa.Array) -> tuple[Ints, Ints]:
    """Decimals of 12 places, none negative, as the two halves of `SQUARES`."""
    low, high = decimal_words(column.fill_null(0))
    if ((high < 0) | (high >> SQUARE_BITS - 1 != 0)).any():
        raise OverflowError("a day's squared amounts do not fit; lower events.largest_amount")
    below = low.view(np.uint64)
    return high << 64 - SQUARE_BITS | (below >> np.uint64(SQUARE_BITS)).view(np.int64), (
        below & np.uint64((1 << SQUARE_BITS) - 1)
    ).view(np.int64)


def _adjacent(days: UserDays) -> bool:
    """Whether no day lies between those of one member and the next."""
    return bool((days.last[:-1] == days.first[1:]).all())


def _check_sums_fit(columns: dict[str, Array], most_days: int) -> None:
    """Raise OverflowError where a sum might pass int64, which wraps in silence: as if every day were the largest."""
    for name in ("spend", "points", *SQUARES):
        values = columns.get(name, np.empty(0, np.int64))
        largest = max(abs(int(values.max())), abs(int(values.min()))) if len(values) else 0
        if largest * most_days > _LARGEST:
            size = "squared amounts" if name in SQUARES else f"{name} of {largest / MICROS:.3g}"
            raise OverflowError(
                f"{size} in a day, over {most_days} days of a member, does not fit the sums "
                f"(at most {_LARGEST / MICROS:.3g}); lower events.largest_amount or the points of an event"
            )
