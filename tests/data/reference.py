"""The kernel once more, slow and obvious: one user at a time, lists of event dicts, exact fractions.

An event is a dict of `user_id`, `event_id`, `event_time` (microseconds since 1970), `event_type`, `amount` (Decimal or
None), `points` (Decimal), `shop` (text or None) and `late` (whether it arrived on a later date than the others).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from features.core.contract import Contract
from features.kernel.aggregate_spec import AggregateSpec, count_column
from features.kernel.aggregates import aggregate_columns
from features.kernel.day_histories import DayHistory
from features.kernel.event_histories import UserEvents
from features.kernel.sequences import SequenceSpec, build_sequences
from features.kernel.tiers import TierRule
from features.kernel.window_figures import Totals, counted

Event = dict[str, Any]
Exact = Mapping[str, Fraction]

D = dt.date(2024, 3, 1)
DAY_US = 86_400_000_000
TYPES = ("purchase", "visit", "click")
USERS = ("ann", "bob", "zoë 🦊")
WINDOWS = (7, 30, 90)


def midnight(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * DAY_US


def event(
    user: str,
    event_id: str,
    offset: int,
    kind: str = "purchase",
    amount: str | None = "1",
    *,
    points: str = "0",
    shop: str | None = "a",
    us: int = 0,
    late: bool = False,
) -> Event:
    """An event `offset` days and `us` microseconds after the as-of instant D."""
    return {
        "user_id": user,
        "event_id": event_id,
        "event_time": midnight(D) + offset * DAY_US + us,
        "event_type": kind,
        "amount": None if amount is None else Decimal(amount),
        "points": Decimal(points),
        "shop": shop,
        "late": late,
    }


def day_of(e: Event) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=e["event_time"] // DAY_US)


# ---- specs ----------------------------------------------------------------------------------------------------------


def micros(value: int | str) -> int:
    return int(Fraction(value) * 1_000_000)


def simple_rule(**changes: Any) -> TierRule:
    base = TierRule(("basic", "silver", "gold"), 30, "all_of", {"spend": (micros(100), micros(500))}, None)
    return dataclasses.replace(base, **changes)


def aggregate_spec(rule: TierRule | None = None, windows: tuple[int, ...] = WINDOWS) -> AggregateSpec:
    return AggregateSpec(windows, TYPES, "purchase", rule or simple_rule())


def contract_for(spec: AggregateSpec, length: int = 4) -> Contract:
    return Contract(
        length=length,
        numeric=("amount",),
        categorical=("event_type", "shop"),
        aggregates=tuple(aggregate_columns(spec)),
        tiers=spec.rule.names,
        tier_rule=spec.rule.canonical(),
        horizon_days=90,
        known_by="event_time",
    )


def sequence_spec(rule: TierRule | None = None, length: int = 4) -> SequenceSpec:
    spec = aggregate_spec(rule)
    return SequenceSpec(contract_for(spec, length), spec)


# ---- kernel inputs --------------------------------------------------------------------------------------------------

EVENT_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "event_id": pa.string(),
        "event_time": pa.timestamp("us", "UTC"),
        "amount": pa.decimal128(18, 6),
        "event_type": pa.string(),
        "shop": pa.string(),
    }
)


def events_table(events: Iterable[Event]) -> pa.Table:
    rows = [{name: e[name] for name in EVENT_SCHEMA.names} for e in events]
    return pa.Table.from_pylist(rows, EVENT_SCHEMA)


DAY_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "day": pa.date32(),
        "events": pa.int64(),
        **{count_column(t): pa.int64() for t in TYPES},
        "spend": pa.int64(),
        "points": pa.int64(),
        "largest_amount": pa.int64(),
        "squared_amount": pa.decimal128(38, 12),
        "first_event_us": pa.int64(),
        "last_event_us": pa.int64(),
        "last_purchase_us": pa.int64(),
    }
)


def exactly(value: Fraction) -> Decimal:
    """A fraction of whole 10**-12 as a decimal."""
    with localcontext() as context:
        context.prec = 60
        return Decimal(int(value * 10**12)).scaleb(-12)


def days_table(events: Iterable[Event]) -> pa.Table:
    """Rollup rows; the late events of a user's day have a row of their own."""
    groups: dict[tuple[str, dt.date, bool], list[Event]] = {}
    for e in events:
        groups.setdefault((e["user_id"], day_of(e), e["late"]), []).append(e)
    rows = []
    for (user, day, _), members in groups.items():
        bought = [e for e in members if e["event_type"] == "purchase"]
        amounts = [Fraction(e["amount"]) for e in bought]
        rows.append(
            {
                "user_id": user,
                "day": day,
                "events": len(members),
                **{count_column(t): sum(e["event_type"] == t for e in members) for t in TYPES},
                "spend": int(sum(amounts) * 1_000_000),
                "points": int(sum(Fraction(e["points"]) for e in members) * 1_000_000),
                "largest_amount": int(max(amounts) * 1_000_000) if amounts else None,
                "squared_amount": exactly(sum((a * a for a in amounts), Fraction(0))),
                "first_event_us": min(e["event_time"] for e in members),
                "last_event_us": max(e["event_time"] for e in members),
                "last_purchase_us": max((e["event_time"] for e in bought), default=None),
            }
        )
    return pa.Table.from_pylist(rows, DAY_SCHEMA)


def kernel_inputs(events: Sequence[Event]) -> tuple[pa.Table, pa.Table]:
    return events_table(events), days_table(events)


def totals_at(days: pa.Table, as_of: dt.date, spec: AggregateSpec) -> Totals:
    return counted(DayHistory.from_runs([days]).before(as_of), spec)


def sequence_rows(events: pa.Table, days: pa.Table, as_of: dt.date, spec: SequenceSpec) -> pa.Table:
    """The kernel over one run of events and one of days."""
    contract = spec.contract
    merged = UserEvents.from_runs([events], contract.numeric, contract.categorical)
    return build_sequences(merged, totals_at(days, as_of, spec.aggregates), spec)


# ---- tiers ----------------------------------------------------------------------------------------------------------


def limits_of(rule: TierRule) -> dict[str, list[Fraction]]:
    """Thresholds in units of money, points or purchases."""
    unit = {"spend": 1_000_000, "points": 1_000_000, "purchases": 1}
    return {m: [Fraction(t, unit[m]) for t in steps] for m, steps in rule.thresholds.items()}


def rank_of(rule: TierRule, measured: Exact) -> int:
    ranks = []
    for measure, limits in limits_of(rule).items():
        ranks.append(sum(1 for limit in limits if measured[measure] >= limit))
    return min(ranks) if rule.combination == "all_of" else max(ranks)


def gap_of(rule: TierRule, measured: Exact) -> tuple[Fraction, str, Fraction] | None:
    """What is missing to the next tier, in which measure, and as a share of its threshold; None in the top tier."""
    rank = rank_of(rule, measured)
    if rank == len(rule.names) - 1:
        return None
    best: tuple[Fraction, str, Fraction] | None = None
    for measure, limits in limits_of(rule).items():
        missing = max(limits[rank] - measured[measure], Fraction(0))
        share = missing / limits[rank]
        if best is None or (share > best[2] if rule.combination == "all_of" else share < best[2]):
            best = (missing, measure, share)
    return best


def measured_between(events: Iterable[Event], start: dt.date, end: dt.date) -> dict[str, Fraction]:
    """Spend, purchases and points of one user's events on days start <= day < end."""
    inside = [e for e in events if start <= day_of(e) < end]
    bought = [e for e in inside if e["event_type"] == "purchase"]
    return {
        "spend": sum((Fraction(e["amount"]) for e in bought), Fraction(0)),
        "purchases": Fraction(len(bought)),
        "points": sum((Fraction(e["points"]) for e in inside), Fraction(0)),
    }


def measured_at(rule: TierRule, events: Iterable[Event], as_of: dt.date) -> dict[str, Fraction]:
    return measured_between(events, as_of - dt.timedelta(days=rule.window_days), as_of)


def tier_age(rule: TierRule, events: Sequence[Event], as_of: dt.date) -> int | None:
    """Days since the rule's answer last changed: the rule is asked anew for every as-of date."""
    day = min(day_of(e) for e in events)
    previous, age = 0, None
    while day <= as_of:
        known = [e for e in events if day_of(e) < day]
        rank = rank_of(rule, measured_at(rule, known, day))
        if rank != previous:
            previous, age = rank, (as_of - day).days
        day += dt.timedelta(days=1)
    return age


# ---- aggregates -----------------------------------------------------------------------------------------------------


def spread(values: Sequence[Fraction]) -> float:
    mean = sum(values, Fraction(0)) / len(values)
    return math.sqrt(sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values))


def aggregates_of(spec: AggregateSpec, events: Sequence[Event], as_of: dt.date) -> dict[str, Fraction | float | None]:
    """Every aggregate column of one user with at least one event before `as_of`."""
    events = [e for e in events if e["event_time"] < midnight(as_of)]
    bought = [e for e in events if e["event_type"] == "purchase"]
    amounts = [Fraction(e["amount"]) for e in bought]
    found: dict[str, Fraction | float | None] = {}

    def since(days: int) -> dt.date:
        return as_of - dt.timedelta(days=days)

    for w in spec.windows_days:
        recent = [e for e in events if day_of(e) >= since(w)]
        found[f"spend_{w}d"] = measured_between(events, since(w), as_of)["spend"]
        found[f"active_days_{w}d"] = Fraction(len({day_of(e) for e in recent}))
        for t in spec.event_types:
            found[f"{t}_{w}d"] = Fraction(len([e for e in recent if e["event_type"] == t]))

    def days_ago(instant: int) -> Fraction:
        return Fraction(midnight(as_of) - instant, DAY_US)

    found["recency_days"] = min(days_ago(e["event_time"]) for e in events)
    found["purchase_recency_days"] = min((days_ago(e["event_time"]) for e in bought), default=None)
    found["tenure_days"] = max(days_ago(e["event_time"]) for e in events)

    found["amount_mean"] = sum(amounts, Fraction(0)) / len(amounts) if amounts else None
    found["amount_max"] = max(amounts, default=None)
    found["amount_std"] = spread(amounts) if amounts else None

    gaps = [Fraction((b - a).days) for a, b in itertools.pairwise(sorted({day_of(e) for e in bought}))]
    found["gap_mean_days"] = sum(gaps, Fraction(0)) / len(gaps) if gaps else None
    found["gap_std_days"] = spread(gaps) if gaps else None

    for a, b in itertools.pairwise(spec.windows_days):
        newer = measured_between(events, since(a), as_of)["spend"] / a
        older = measured_between(events, since(b), since(a))["spend"] / (b - a)
        found[f"trend_{a}d_{b}d"] = newer - older

    measured = measured_at(spec.rule, events, as_of)
    for m in spec.rule.thresholds:
        found[f"tier_{m}"] = measured[m]
    gap = gap_of(spec.rule, measured)
    found["tier_gap_share"] = gap[2] if gap else Fraction(0)
    age = tier_age(spec.rule, events, as_of)
    found["tier_age_days"] = None if age is None else Fraction(age)
    return found


def check_aggregates(found: Mapping[str, Any], wanted: Mapping[str, Fraction | float | None]) -> None:
    """Spreads and trends are differences of floats: their error is measured against what was subtracted."""
    largest = float(max((v for k, v in wanted.items() if k.startswith(("amount_m", "spend_")) and v), default=1))
    for name, value in wanted.items():
        got = found[name]
        if value is None:
            assert got is None, (name, got)
            continue
        loose = {"amount_std": 1e-6 * max(largest, 1), "gap_std_days": 1e-4}.get(name, 0.0)
        if name.startswith("trend_"):
            loose = 1e-12 * max(largest, 1)
        assert got is not None, name
        assert math.isclose(got, float(value), rel_tol=1e-12, abs_tol=loose), (name, got, float(value))


# ---- sequences and outcomes -----------------------------------------------------------------------------------------


def users_before(events: Iterable[Event], as_of: dt.date) -> list[str]:
    return sorted({e["user_id"] for e in events if e["event_time"] < midnight(as_of)})


def last_of(events: Iterable[Event], user: str, as_of: dt.date, length: int) -> list[Event]:
    own = [e for e in events if e["user_id"] == user and e["event_time"] < midnight(as_of)]
    own.sort(key=lambda e: (e["event_time"], e["event_id"]))
    return own[-length:]


def age_seconds(e: Event, as_of: dt.date) -> int:
    return (midnight(as_of) - e["event_time"]) // 1_000_000


def outcome_of(
    rule: TierRule, events: Iterable[Event], user: str, start: dt.date, end: dt.date
) -> tuple[Fraction, int]:
    measured = measured_between([e for e in events if e["user_id"] == user], start, end)
    return measured["spend"], rank_of(rule, measured)


# ---- hypothesis -----------------------------------------------------------------------------------------------------

EDGES = (-400, -91, -90, -89, -31, -30, -29, -8, -7, -6, -2, -1, 0, 1, 30)


def decimals(top: int = 200) -> st.SearchStrategy[Decimal]:
    """Amounts of up to 6 decimals; 0, whole and round ones are frequent."""
    exact = st.one_of(
        st.just(0),
        st.integers(0, top).map(lambda n: n * 1_000_000),
        st.integers(0, top * 100).map(lambda n: n * 10_000),
        st.integers(0, top * 1_000_000),
    )
    return exact.map(lambda n: Decimal(n).scaleb(-6))


@st.composite
def one_event(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(TYPES))
    offset = draw(st.one_of(st.sampled_from(EDGES), st.integers(-400, 30)))
    us = draw(st.one_of(st.sampled_from((0, 1, DAY_US - 1)), st.integers(0, DAY_US - 1)))
    made = event(draw(st.sampled_from(USERS)), "", offset, kind, us=us, late=draw(st.booleans()))
    amount = decimals() if kind == "purchase" else st.one_of(st.none(), decimals())
    return {
        **made,
        "amount": draw(amount),
        "points": draw(decimals()),
        "shop": draw(st.one_of(st.none(), st.sampled_from(("a", "b", "🍕")))),
    }


@st.composite
def members(draw: st.DrawFn, min_size: int = 1, max_size: int = 30) -> list[Event]:
    """Events of up to three users in random order, ids unique and not in the order of time."""
    found = draw(st.lists(one_event(), min_size=min_size, max_size=max_size))
    numbers = draw(st.permutations(range(len(found))))
    return [{**e, "event_id": f"e{n:03d}"} for e, n in zip(found, numbers, strict=True)]


@st.composite
def rules(draw: st.DrawFn) -> TierRule:
    measures = draw(st.lists(st.sampled_from(("spend", "purchases", "points")), min_size=1, max_size=3, unique=True))
    tiers = draw(st.integers(2, 4))
    thresholds = {}
    for m in measures:
        steps = st.integers(1, 8) if m == "purchases" else st.integers(1, 400_000_000)
        thresholds[m] = tuple(sorted(draw(st.lists(steps, min_size=tiers - 1, max_size=tiers - 1, unique=True))))
    window = draw(st.one_of(st.sampled_from((1, 7, 30, 90)), st.integers(1, 400)))
    combination = draw(st.sampled_from(("all_of", "any_of")))
    return TierRule(("basic", "silver", "gold", "ruby")[:tiers], window, combination, thresholds, "points")
