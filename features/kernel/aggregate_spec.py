"""Which exact figures the aggregates are computed from: their names, windows and event types."""

from __future__ import annotations

import dataclasses

from features.kernel.run_columns import SQUARES
from features.kernel.tiers import TierRule

ACTIVE = "active_days"
GAPS, GAP_DAYS, GAP_SQUARES = "gaps", "gap_days", "gap_squares"
"""Gaps, the days between consecutive purchase days: their number, their sum, the sum of their squares."""

TIER_CHANGED = "tier_changed_day"
"""Date on which the tier last changed, in days since 1970; `NEVER` where it never left the lowest."""

LATEST = ("largest_amount", "last_event_us", "last_purchase_us")
EARLIEST = "first_event_us"


@dataclasses.dataclass(frozen=True)
class AggregateSpec:
    """What the aggregates depend on beside the data: windows, event types and the tier rule."""

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
        """Days of every trailing window that is summed over, the rule's too, ascending."""
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
        """Names of all figures, in order."""
        over_windows = [windowed(c, w) for w in self.windows for c in (ACTIVE, *self.summed)]
        gaps = (GAPS, GAP_DAYS, GAP_SQUARES)
        return (*over_windows, *self.summed_ever, EARLIEST, *LATEST, *gaps, TIER_CHANGED)


def count_column(event_type: str) -> str:
    """The rollup column that counts a day's events of a type."""
    return f"events_{event_type}"


def windowed(column: str, window_days: int) -> str:
    """Name of the figure of a column over a trailing window."""
    return f"{column}_{window_days}d"
