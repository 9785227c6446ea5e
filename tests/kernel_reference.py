"""The kernels in slow, obvious Python: one member at a time, dicts and fractions. The oracle of the kernel tests."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pyarrow as pa

from features.aggregates import AggregateSpec, kernel_day_columns

Event = dict[str, Any]
"""user, id, time (aware), type, amount (Fraction or None), arrival (date)."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICRO = Fraction(1, 1_000_000)


def micros(time: dt.datetime) -> int:
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def instant(date: dt.date) -> dt.datetime:
    return dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC)


def events_table(events: Sequence[Event]) -> pa.Table:
    """What the kernel takes: events of many users in the given order."""
    return pa.table(
        {
            "user_id": pa.array([e["user"] for e in events], pa.string()),
            "event_id": pa.array([e["id"] for e in events], pa.string()),
            "event_time": pa.array([micros(e["time"]) for e in events], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "amount": pa.array([None if e["amount"] is None else float(e["amount"]) for e in events], pa.float64()),
            "event_type": pa.array([e["type"] for e in events], pa.string()),
        }
    )


def days_table(events: Sequence[Event], spec: AggregateSpec) -> pa.Table:
    """The rollup of the events, one row per user, day and arrival date, added up in Python."""
    groups: dict[tuple[str, dt.date, dt.date], list[Event]] = {}
    for e in events:
        groups.setdefault((e["user"], e["time"].date(), e["arrival"]), []).append(e)
    rows = []
    for (user, day, _), members in groups.items():
        bought = [e for e in members if e["type"] == spec.purchase_type]
        paid = [e["amount"] for e in bought]
        rows.append(
            {
                "user_id": user,
                "day": day,
                "events": len(members),
                **{f"events_{t}": sum(e["type"] == t for e in members) for t in spec.event_types},
                "spend": int(sum(paid, Fraction(0)) / MICRO),
                "points": int(2 * sum(paid, Fraction(0)) / MICRO),
                "largest_amount": int(max(paid) / MICRO) if paid else None,
                "squared_amount": float(sum((p * p for p in paid), Fraction(0))),
                "first_event_us": min(micros(e["time"]) for e in members),
                "last_event_us": max(micros(e["time"]) for e in members),
                "last_purchase_us": max((micros(e["time"]) for e in bought), default=None),
            }
        )
    return pa.Table.from_pylist(rows, pa.schema(list(kernel_day_columns(spec.event_types).items())))


def measures(events: Sequence[Event], start: dt.date, end: dt.date, spec: AggregateSpec) -> dict[str, Fraction]:
    """Spend, purchases and points (twice the spend here) in [start, end)."""
    bought = [e for e in events if e["type"] == spec.purchase_type and start <= e["time"].date() < end]
    spend = sum((e["amount"] for e in bought), Fraction(0))
    return {"spend": spend, "purchases": Fraction(len(bought)), "points": 2 * spend}


def steps(spec: AggregateSpec, measure: str, rank: int) -> Fraction:
    """The threshold of a rank in units of its measure."""
    raw = spec.rule.thresholds[measure][rank - 1]
    return Fraction(raw) if measure == "purchases" else raw * MICRO


def rank_of(found: dict[str, Fraction], spec: AggregateSpec) -> int:
    """The highest tier whose condition holds; tiers below need not be asked, thresholds increase."""
    rank = 0
    for k in range(1, len(spec.rule.names)):
        reached = [found[m] >= steps(spec, m, k) for m in spec.rule.thresholds]
        if all(reached) if spec.rule.combination == "all_of" else any(reached):
            rank = k
    return rank


def rank_at(events: Sequence[Event], date: dt.date, spec: AggregateSpec) -> int:
    """Tier by the trailing window that ends at `date`."""
    return rank_of(measures(events, date - dt.timedelta(days=spec.rule.window_days), date, spec), spec)


def aggregates(events: Sequence[Event], as_of: dt.date, spec: AggregateSpec) -> dict[str, float | None]:
    """Every aggregate of one member."""
    past = [e for e in events if e["time"] < instant(as_of)]
    bought = [e for e in past if e["type"] == spec.purchase_type]
    found: dict[str, float | None] = {}

    def within(members: Sequence[Event], newest: int, oldest: int = 0) -> list[Event]:
        return [e for e in members if oldest < (as_of - e["time"].date()).days <= newest]

    for w in spec.windows_days:
        found[f"spend_{w}d"] = float(sum((e["amount"] for e in within(bought, w)), Fraction(0)))
        found[f"active_days_{w}d"] = len({e["time"].date() for e in within(past, w)})
        for t in spec.event_types:
            found[f"{t}_{w}d"] = sum(e["type"] == t for e in within(past, w))

    def ago(time: dt.datetime | None) -> float | None:
        return None if time is None else (instant(as_of) - time) / dt.timedelta(days=1)

    found["recency_days"] = ago(max(e["time"] for e in past))
    found["purchase_recency_days"] = ago(max((e["time"] for e in bought), default=None))
    found["tenure_days"] = ago(min(e["time"] for e in past))
    paid = [e["amount"] for e in bought]
    mean = sum(paid, Fraction(0)) / len(paid) if paid else None
    found["amount_mean"] = None if mean is None else float(mean)
    found["amount_max"] = float(max(paid)) if paid else None
    found["amount_std"] = None if mean is None else math.sqrt(sum((p - mean) ** 2 for p in paid) / len(paid))
    days = sorted({e["time"].date() for e in bought})
    gaps = [(b - a).days for a, b in itertools.pairwise(days)]
    average = Fraction(sum(gaps), len(gaps)) if gaps else None
    found["gap_mean_days"] = None if average is None else float(average)
    found["gap_std_days"] = None if average is None else math.sqrt(sum((g - average) ** 2 for g in gaps) / len(gaps))
    for a, b in itertools.pairwise(spec.windows_days):
        newer = sum((e["amount"] for e in within(bought, a)), Fraction(0)) / a
        older = sum((e["amount"] for e in within(bought, b, a)), Fraction(0)) / (b - a)
        found[f"trend_{a}d_{b}d"] = float(newer - older)
    now = measures(past, as_of - dt.timedelta(days=spec.rule.window_days), as_of, spec)
    rank = rank_of(now, spec)
    for m in spec.rule.thresholds:
        found[f"tier_{m}"] = float(now[m])
    shares = [
        max(steps(spec, m, rank + 1) - now[m], Fraction(0)) / steps(spec, m, rank + 1)
        for m in spec.rule.thresholds
        if rank + 1 < len(spec.rule.names)
    ]
    found["tier_gap_share"] = float((max if spec.rule.combination == "all_of" else min)(shares)) if shares else 0.0
    found["tier_age_days"] = tier_age(past, as_of, spec)
    return found


def tier_age(past: Sequence[Event], as_of: dt.date, spec: AggregateSpec) -> float | None:
    """Day by day from the first event: when did the tier last differ from the day before?"""
    date, before, changed = min(e["time"].date() for e in past), 0, None
    while date <= as_of:
        rank = rank_at(past, date, spec)
        if rank != before:
            before, changed = rank, date
        date += dt.timedelta(days=1)
    return None if changed is None else float((as_of - changed).days)


def last_events(events: Sequence[Event], as_of: dt.date, length: int) -> list[Event]:
    """The last events of one member before the date, oldest first, ties by id."""
    past = sorted((e for e in events if e["time"] < instant(as_of)), key=lambda e: (e["time"], e["id"]))
    return past[-length:]
