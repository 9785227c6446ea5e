"""Window aggregates of many users from their rollup days: pure functions over Arrow tables and numpy arrays.

Sums of money, points and counts are exact int64; only ratios and spreads are floating point. An event's day is always
wholly before the as-of date or not at all, because the as-of instant is midnight UTC.

A new aggregate is one class with `columns` and `values`, and one line in `AGGREGATES`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.histories import Array, DayHistory, UserDays
from features.tiers import MEASURES, MICROS, Ints, TierRule

Floats = npt.NDArray[np.float64]


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


def measure_columns(spec: AggregateSpec) -> dict[str, str]:
    """The rollup column behind each measure of a tier rule."""
    return {"spend": "spend", "purchases": spec.purchases, "points": "points"}


def measures(days: UserDays, spec: AggregateSpec) -> dict[str, Ints]:
    """[n] every measure of the tier rule over its trailing window, in integer steps."""
    window = spec.rule.window_days
    return {m: days.total(column, window) for m, column in measure_columns(spec).items()}


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
            found.append(days.last - days.since(w))
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
            days.days_before(days.history.columns["last_event_us"][days.last - 1]),
            days.days_before(days.over(np.maximum, days.history.columns["last_purchase_us"])),
            days.days_before(days.history.columns["first_event_us"][days.first]),
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
        largest = days.over(np.maximum, days.history.columns["largest_amount"]) / MICROS
        return [mean, np.where(np.isnan(count), np.nan, largest), np.sqrt(variance)]


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
        gap = days.history.kept("purchase_gaps", lambda: _purchase_gaps(days.history, spec.purchases))
        count = _nan_if_zero(days.difference("gaps", lambda: (gap > 0).astype(np.int64)))
        mean = days.difference("gap_days", lambda: gap) / count
        squares = days.difference("gap_squares", lambda: gap**2) / count
        return [mean, np.sqrt(np.maximum(squares - mean**2, 0))]


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
        rule, found = spec.rule, measures(days, spec)
        rank = rule.rank(found)
        gap, which = rule.gap_to_next(found, rank)
        limits = np.array([rule.thresholds[m] for m in rule.measures])
        share = np.where(which < 0, 0.0, gap / limits[which, np.minimum(rank, limits.shape[1] - 1)])
        return [*(found[m] / MEASURES[m] for m in rule.measures), share, tier_age_days(days, spec)]


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
    """[n] days since the tier rule's answer last changed, NaN if it never left the lowest tier."""
    changes = days.history.kept("tier_changes", lambda: _tier_changes(days.history, spec))
    last = np.searchsorted(changes, days.who * _DATES + days.limit + _BIAS, side="right") - 1
    who, date = np.divmod(changes[last] if len(changes) else np.full(len(last), -1), _DATES)
    return np.where((last >= 0) & (who == days.who), days.limit + _BIAS - date, np.nan)


_DATES, _BIAS = 1 << 25, 1 << 24  # dates of one user in a key; more than 90,000 years, half of them before 1970


def _tier_changes(history: DayHistory, spec: AggregateSpec) -> Ints:
    """Keys, ascending, of each user's place and the dates on which the rule's answer for it changed.

    A day's amounts enter the trailing window on the day after it and leave it `window_days` later, and the tier can
    change on those dates only: so the running sums over both kinds of dates give every tier ever held.
    """
    window, user = spec.rule.window_days, history.user_of_day
    enters = user * _DATES + history.day + 1 + _BIAS
    key = np.concatenate([enters, enters + window])
    order = np.argsort(key, kind="stable")  # two ascending runs: merged in one pass
    key = key[order]
    last_of_date = np.flatnonzero(np.diff(key, append=-1) != 0)
    who = key // _DATES
    first_of_user = np.diff(who, prepend=-1) != 0
    values = {}
    for measure, column in measure_columns(spec).items():
        amounts = history.columns[column]
        running = np.cumsum(np.concatenate([amounts, -amounts])[order])
        before = np.concatenate([[0], running])[np.flatnonzero(first_of_user)]
        values[measure] = (running - np.repeat(before, np.diff(np.flatnonzero(first_of_user), append=len(who))))[
            last_of_date
        ]
    key, who = key[last_of_date], who[last_of_date]
    rank = spec.rule.rank(values)
    previous = np.where(np.diff(who, prepend=-1) != 0, 0, np.concatenate([[0], rank])[: len(rank)])
    return key[rank != previous]


def _purchase_gaps(history: DayHistory, purchases: str) -> Ints:
    """[m] days from a user's purchase day back to the one before; 0 for the first, and for days without purchase."""
    bought = np.flatnonzero(history.columns[purchases] > 0)
    user, day = history.user_of_day[bought], history.day[bought]
    gaps = np.zeros(len(history.day), np.int64)
    gaps[bought[1:]] = np.where(user[1:] == user[:-1], day[1:] - day[:-1], 0)
    return gaps


def _nan_if_zero(counts: Array) -> Floats:
    return np.where(counts > 0, counts, np.nan)
