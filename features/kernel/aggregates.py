"""The aggregate columns of many members, computed from their exact figures.

Sums of money, points and counts are exact int64; only ratios and spreads are floating point. The as-of instant is
midnight UTC, so a day lies before it as a whole or not at all.

To add an aggregate, write one class with `columns` and `values`, and one line in `AGGREGATES`. If it needs a figure
that `features.kernel.window_figures` does not have, add the figure there.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.core import arrow_numbers
from features.core.arrays import Array, Floats
from features.kernel.aggregate_spec import (
    ACTIVE,
    GAP_DAYS,
    GAP_SQUARES,
    GAPS,
    TIER_CHANGED,
    AggregateSpec,
    count_column,
)
from features.kernel.run_columns import NEVER, day_number
from features.kernel.tiers import MEASURES, MICROS
from features.kernel.window_figures import Totals


class Aggregate(Protocol):
    """A family of aggregate columns."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """Column names and their comments, in order."""

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
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

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        found: list[Array] = []
        for w in spec.windows_days:
            found.append(totals.over("spend", w) / MICROS)
            found.append(totals.over(ACTIVE, w))
            found += [totals.over(count_column(t), w) for t in spec.event_types]
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

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        return [totals.days_since(f) for f in ("last_event_us", "last_purchase_us", "first_event_us")]


class PurchaseAmounts:
    """Average, largest and spread of the amounts of all purchases."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            "amount_mean": "average amount of a purchase, null without one",
            "amount_max": "largest amount of a purchase, null without one",
            "amount_std": "population standard deviation of the purchase amounts, null without one",
        }

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        count = _nan_if_zero(totals.figures[spec.purchases])
        mean = totals.figures["spend"] / MICROS / count
        # A difference of two large numbers: rounding may leave it a little below 0.
        variance = np.maximum(totals.squared_amounts / count - mean**2, 0)
        largest = totals.figures["largest_amount"] / MICROS
        return [mean, np.where(np.isnan(count), np.nan, largest), np.sqrt(variance)]


class PurchaseGaps:
    """Average and spread of the days between consecutive purchase days."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            "gap_mean_days": "average days between purchase days, null below two purchase days",
            "gap_std_days": "population standard deviation of the days between purchase days",
        }

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        count = _nan_if_zero(totals.figures[GAPS])
        mean, squares = totals.figures[GAP_DAYS] / count, totals.figures[GAP_SQUARES] / count
        return [mean, np.sqrt(np.maximum(squares - mean**2, 0))]


class SpendTrends:
    """Change of spend per day between each window and the next longer one."""

    def columns(self, spec: AggregateSpec) -> dict[str, str]:
        """See `Aggregate`."""
        return {
            f"trend_{a}d_{b}d": f"spend per day in the last {a} days minus that in the days before, back to {b}"
            for a, b in itertools.pairwise(spec.windows_days)
        }

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        spend = {w: totals.over("spend", w) for w in spec.windows_days}
        return [
            spend[a] / MICROS / a - (spend[b] - spend[a]) / MICROS / (b - a)
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

    def values(self, totals: Totals, spec: AggregateSpec) -> list[Array]:
        """See `Aggregate`."""
        rule, found = spec.rule, totals.measures(spec)
        rank = rule.rank(found)
        gap, which = rule.gap_to_next(found, rank)
        limits = np.array([rule.thresholds[m] for m in rule.measures])
        share = np.where(which < 0, 0.0, gap / limits[which, np.minimum(rank, limits.shape[1] - 1)])
        changed = totals.figures[TIER_CHANGED]
        age = np.where(changed == NEVER, np.nan, day_number(totals.as_of) - changed)
        return [*(found[m] / MEASURES[m] for m in rule.measures), share, age]


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


def aggregate(totals: Totals, spec: AggregateSpec) -> dict[str, pa.Array]:
    """All aggregate columns as float64 Arrow arrays [n], null where undefined."""
    found = {}
    for family in AGGREGATES:
        for name, values in zip(family.columns(spec), family.values(totals, spec), strict=True):
            found[name] = arrow_numbers.as_arrow(np.ascontiguousarray(values, np.float64))
    return found


def _nan_if_zero(counts: Array) -> Floats:
    return np.where(counts > 0, counts, np.nan)
