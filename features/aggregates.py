"""Window aggregates of many users from their rollup days: pure functions over Arrow tables and numpy arrays.

Sums of money, points and counts are exact int64; only ratios and spreads are floating point. An event's day is always
wholly before the as-of date or not at all, because the as-of instant is midnight UTC.

A new aggregate is one class with `columns` and `values`, and one line in `AGGREGATES`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.tiers import MEASURES, MICROS, Ints, TierRule

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
DAY_MICROS = 86_400_000_000
EPOCH = dt.date(1970, 1, 1)


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


def count_column(event_type: str) -> str:
    """The rollup column that counts a day's events of a type."""
    return f"events_{event_type}"


def kernel_day_columns(event_types: tuple[str, ...]) -> dict[str, pa.DataType]:
    """Columns and types of the days that `UserDays.from_table` takes; money and points in micro-units."""
    return {
        "user_id": pa.string(),
        "day": pa.date32(),
        "events": pa.int64(),
        **{count_column(t): pa.int64() for t in event_types},
        "spend": pa.int64(),
        "points": pa.int64(),
        "largest_amount": pa.int64(),
        "squared_amount": pa.float64(),
        "first_event_us": pa.int64(),
        "last_event_us": pa.int64(),
        "last_purchase_us": pa.int64(),
    }


def _check_sums_fit(columns: Mapping[str, Array], starts: Ints, days: int) -> None:
    """Sums wrap in silence: so none may come near the limit, even were every day of a user its largest."""
    most_days = int(np.diff(starts, append=days).max(initial=0))
    for name in ("spend", "points"):
        largest = max((abs(int(f(columns[name]))) for f in (np.max, np.min)), default=0) if days else 0
        if largest * most_days > _LARGEST:
            raise OverflowError(
                f"{name} of {largest / MICROS:.3g} in a day, over {most_days} days of a member, does not fit the sums "
                f"(at most {_LARGEST / MICROS:.3g}); lower events.largest_amount or the points of an event"
            )


_LARGEST = 2**63 - 1
_NOT_SUMMED = {"largest_amount": np.maximum, "last_event_us": np.maximum, "last_purchase_us": np.maximum}
_NEVER = np.iinfo(np.int64).min


@dataclasses.dataclass(frozen=True)
class UserDays:
    """Rollup days before an as-of date, grouped by user and ascending by day within a user.

    Attributes:
        users: the n user ids, ascending.
        starts: [n] index of each user's first day.
        age: [m] days from each rollup day to the as-of date, 1 for the day before it.
        columns: [m] int64 (squared_amount: float64) per rollup column; a missing time is the smallest int64.
        as_of: the as-of date.
    """

    users: pa.Array
    starts: Ints
    age: Ints
    columns: Mapping[str, Array]
    as_of: dt.date

    @classmethod
    def from_table(cls, days: pa.Table, as_of: dt.date) -> UserDays:
        """Group `days` (columns of `kernel_day_columns`, any order) and drop those at or after `as_of`.

        Rows of one user and day that arrived on different dates are added up.

        Raises:
            OverflowError: the sums of a user may not fit int64, 9.2e12 units of money or points.
        """
        days = days.filter(pc.less(days["day"], pa.scalar(as_of, pa.date32())))
        # The squares are floating point, whose sum depends on its order: by value, whatever the input's order was.
        days = days.sort_by([("user_id", "ascending"), ("day", "ascending"), ("squared_amount", "ascending")])
        users = days["user_id"].combine_chunks()
        codes = run_codes(users)
        age = (as_of - EPOCH).days - days["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        begins = np.flatnonzero(np.diff(codes, prepend=-1) | np.diff(age, prepend=-1))
        columns = {
            name: _combine(name, days[name], begins) for name in days.column_names if name not in ("user_id", "day")
        }
        codes, age = codes[begins], age[begins]
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        _check_sums_fit(columns, starts, len(age))
        return cls(users.take(pa.array(begins[starts])), starts, age, columns, as_of)

    @property
    def user_of_day(self) -> Ints:
        """[m] index of each day's user."""
        return np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.age)))

    def total(self, column: str, newest: int | None = None, oldest: int = 0) -> Array:
        """[n] sum over the days with oldest < age <= newest (all days without `newest`)."""
        values = self.columns[column]
        if newest is not None:
            values = np.where((self.age <= newest) & (self.age > oldest), values, 0)
        return self.reduce(np.add, values)

    def reduce(self, function: np.ufunc, values: Array) -> Array:
        """[n] `function` over each user's entries of `values` [m]."""
        return function.reduceat(values, self.starts) if len(self.starts) else values[:0]

    def days_before(self, micros: Array) -> Floats:
        """[n] days from times in microseconds since 1970 to the as-of instant; NaN where there is no time."""
        instant = (self.as_of - EPOCH).days * DAY_MICROS
        known = micros != _NEVER
        return np.where(known, (instant - np.where(known, micros, 0)) / DAY_MICROS, np.nan)

    def measures(self, spec: AggregateSpec) -> dict[str, Ints]:
        """[n] every measure of a tier rule over its trailing window, in integer steps."""
        window = spec.rule.window_days
        return {m: self.total(column, window).astype(np.int64) for m, column in measure_columns(spec).items()}


def measure_columns(spec: AggregateSpec) -> dict[str, str]:
    """The rollup column behind each measure of a tier rule."""
    return {"spend": "spend", "purchases": spec.purchases, "points": "points"}


def run_codes(values: pa.Array) -> Ints:
    """[m] number of the run of equal values, from 0, that each entry of a sorted array without nulls lies in."""
    if not len(values):
        return np.empty(0, np.int64)
    changed = pc.not_equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(changed)]).astype(np.int64)


def _combine(name: str, column: pa.ChunkedArray, begins: Ints) -> Array:
    filler = _NEVER if name.endswith("_us") else 0
    values = column.fill_null(filler).to_numpy()
    if not len(begins):
        return values[:0]
    function = np.minimum if name == "first_event_us" else _NOT_SUMMED.get(name, np.add)
    return function.reduceat(values, begins)


class Aggregate(Protocol):
    """A family of aggregate columns."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """Column names and their comments, in order."""

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """One [n] array per column, in order; NaN where undefined."""


class WindowSums:
    """Spend, active days and events per type over each trailing window."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        found = {}
        for w in spec.windows_days:
            found[f"spend_{w}d"] = f"spend in the last {w} days"
            found[f"active_days_{w}d"] = f"days with any event in the last {w} days"
            for t in spec.event_types:
                found[f"{t}_{w}d"] = f"{t} events in the last {w} days"
        return found

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        found: list[Array] = []
        for w in spec.windows_days:
            found.append(days.total("spend", w) / MICROS)
            found.append(days.reduce(np.add, (days.age <= w).astype(np.int64)))
            found += [days.total(count_column(t), w) for t in spec.event_types]
        return found


class Recency:
    """Time since the last event and purchase, and since the first event."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            "recency_days": "days since the last event",
            "purchase_recency_days": "days since the last purchase, null without one",
            "tenure_days": "days since the first event",
        }

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        return [
            days.days_before(days.reduce(np.maximum, days.columns["last_event_us"])),
            days.days_before(days.reduce(np.maximum, days.columns["last_purchase_us"])),
            days.days_before(days.reduce(np.minimum, days.columns["first_event_us"])),
        ]


class PurchaseAmounts:
    """Average, largest and spread of the amounts of all purchases."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            "amount_mean": "average amount of a purchase, null without one",
            "amount_max": "largest amount of a purchase, null without one",
            "amount_std": "population standard deviation of the purchase amounts, null without one",
        }

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        count = _nan_if_zero(days.total(spec.purchases))
        mean = days.total("spend") / MICROS / count
        # The difference of two large numbers: its rounding may fall a little below 0.
        variance = np.maximum(days.total("squared_amount") / count - mean**2, 0)
        largest = np.where(np.isnan(count), np.nan, days.reduce(np.maximum, days.columns["largest_amount"]) / MICROS)
        return [mean, largest, np.sqrt(variance)]


class PurchaseGaps:
    """Average and spread of the days between consecutive purchase days."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            "gap_mean_days": "average days between purchase days, null below two purchase days",
            "gap_std_days": "population standard deviation of the days between purchase days",
        }

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        bought = days.columns[spec.purchases] > 0
        user, age = days.user_of_day[bought], days.age[bought]
        same = user[1:] == user[:-1]
        gap, owner = (age[:-1] - age[1:])[same], user[1:][same]
        n = len(days.starts)
        count = _nan_if_zero(np.bincount(owner, minlength=n))
        # Sums of whole days and of their squares are exact in float64 below 2**53.
        mean = np.bincount(owner, gap, n) / count
        return [mean, np.sqrt(np.maximum(np.bincount(owner, gap**2, n) / count - mean**2, 0))]


class SpendTrends:
    """Change of spend per day between each window and the next longer one."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            f"trend_{a}d_{b}d": f"spend per day in the last {a} days minus that in the days before, back to {b}"
            for a, b in itertools.pairwise(spec.windows_days)
        }

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        return [
            days.total("spend", a) / MICROS / a - days.total("spend", b, a) / MICROS / (b - a)
            for a, b in itertools.pairwise(spec.windows_days)
        ]


class TierStanding:
    """The measures of the tier rule, the distance to the next tier, and how long the tier has been held."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        window = spec.rule.window_days
        return {
            **{f"tier_{m}": f"{m} in the rule's window of {window} days" for m in spec.rule.measures},
            "tier_gap_share": "what is missing to the next tier as a share of its threshold, 0 in the top tier",
            "tier_age_days": "days since the tier last changed, null if it never did",
        }

    def values(self, days: UserDays, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        rule, measures = spec.rule, days.measures(spec)
        rank = rule.rank(measures)
        gap, which = rule.gap_to_next(measures, rank)
        limits = np.array([rule.thresholds[m] for m in rule.measures])
        share = np.where(which < 0, 0.0, gap / limits[which, np.minimum(rank, limits.shape[1] - 1)])
        return [*(measures[m] / MEASURES[m] for m in rule.measures), share, tier_age_days(days, spec)]


AGGREGATES: tuple[Aggregate, ...] = (
    WindowSums(),
    Recency(),
    PurchaseAmounts(),
    PurchaseGaps(),
    SpendTrends(),
    TierStanding(),
)
"""Every family of aggregates, in the order of their columns."""


def aggregate_columns(spec: AggregateSpec) -> dict[str, str]:
    """Names and comments of all aggregate columns, in order."""
    return {name: comment for family in AGGREGATES for name, comment in family.columns(spec).items()}


def aggregate(days: UserDays, spec: AggregateSpec) -> dict[str, pa.Array]:
    """All aggregate columns as float64 Arrow arrays [n], null where undefined."""
    found = {}
    for family in AGGREGATES:
        for name, values in zip(family.columns(spec), family.values(days, spec), strict=True):
            found[name] = pa.array(np.asarray(values, np.float64), from_pandas=True)
    return found


def tier_age_days(days: UserDays, spec: AggregateSpec) -> Floats:
    """[n] days since the tier rule's answer last changed, NaN if it never left the lowest tier.

    A day's amounts enter the trailing window on the day after it and leave it `window_days` later, and the tier can
    change on those dates only: so the running sums over both kinds of dates give every tier ever held.
    """
    window, user = spec.rule.window_days, days.user_of_day
    expired = days.age > window
    who = np.concatenate([user, user[expired]])
    # Days ago on which each amount enters (age - 1) or leaves (age - 1 - window).
    ago = np.concatenate([days.age - 1, days.age[expired] - 1 - window])
    order = np.lexsort((-ago, who))
    who, ago = who[order], ago[order]
    last_of_date = np.flatnonzero((np.diff(who, append=-1) != 0) | (np.diff(ago, append=-1) != 0))
    first_of_user = np.diff(who, prepend=-1) != 0
    values = {}
    for measure, column in measure_columns(spec).items():
        amounts = days.columns[column].astype(np.int64)
        running = np.cumsum(np.concatenate([amounts, -amounts[expired]])[order])
        before = np.concatenate([[0], running[:-1]])[np.flatnonzero(first_of_user)]
        values[measure] = (running - before[who])[last_of_date]
    who, ago = who[last_of_date], ago[last_of_date]
    rank = spec.rule.rank(values)
    previous = np.where(np.diff(who, prepend=-1) != 0, 0, np.concatenate([[0], rank[:-1]]))
    age = np.full(len(days.starts), np.nan)
    changed = rank != previous
    age[who[changed]] = ago[changed]  # ascending in time: the last change of a user stays
    return age


def _nan_if_zero(counts: Array) -> Floats:
    return np.where(counts > 0, counts, np.nan)
