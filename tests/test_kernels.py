"""The pure kernels against the slow reference: tiers, aggregates, sequences, outcomes. No Spark."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.aggregates import AggregateSpec, UserDays, aggregate, aggregate_columns
from features.contract import Contract
from features.errors import DateError
from features.outcomes import check_horizon_passed, outcome_rows
from features.sequences import SequenceSpec, build_sequences, cut_to_last, last_events, micros_to_decimal
from features.tiers import TierRule, decimal_to_steps, steps_to_decimal
from tests import kernel_reference as reference

AS_OF = dt.date(2024, 3, 1)
MIDNIGHT = reference.instant(AS_OF)
LENGTH = 4
RULES = {
    "spend": TierRule(("low", "mid", "high"), 20, "all_of", {"spend": (50_000_000, 200_000_000)}),
    "all_of": TierRule(
        ("low", "mid", "high"), 20, "all_of", {"purchases": (2, 5), "points": (100_000_000, 400_000_000)}, "amount * 2"
    ),
    "any_of": TierRule(("low", "mid", "high"), 20, "any_of", {"spend": (60_000_000, 150_000_000), "purchases": (3, 6)}),
}


def spec_of(rule: str) -> AggregateSpec:
    return AggregateSpec((7, 30, 90), ("purchase", "visit"), "purchase", RULES[rule])


def sequence_spec(rule: str = "spend", length: int = LENGTH) -> SequenceSpec:
    chosen = spec_of(rule)
    contract = Contract(
        length, ("amount",), ("event_type",), tuple(aggregate_columns(chosen)), chosen.rule.names,
        chosen.rule.canonical(), 30, "event_time",
    )  # fmt: skip
    return SequenceSpec(contract, chosen)


@st.composite
def histories(draw: st.DrawFn) -> list[reference.Event]:
    """Events of a few members around the as-of date: ties, midnights, zero amounts, late arrivals."""
    moments = st.one_of(
        st.integers(-110 * 24, 10 * 24).map(lambda h: MIDNIGHT + dt.timedelta(hours=h)),
        st.sampled_from([-1, 0, 1]).map(lambda u: MIDNIGHT + dt.timedelta(microseconds=u)),
    )
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["ann", "bob", "zoë 🛒"]),
                moments,
                st.sampled_from(["purchase", "purchase", "visit"]),
                st.integers(0, 120_000_000),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=40,
        )
    )
    return [
        {
            "user": user,
            "id": f"e{n:03d}",
            "time": time,
            "type": kind,
            "amount": Fraction(paid, 1_000_000) if kind == "purchase" else None,
            "arrival": time.date() + dt.timedelta(days=late),
        }
        for n, (user, time, kind, paid, late) in enumerate(rows)
    ]


def by_user(events: list[reference.Event]) -> dict[str, list[reference.Event]]:
    """Members with an event before the date, ascending by UTF-8 as Arrow sorts."""
    members = sorted({e["user"] for e in events if e["time"] < MIDNIGHT}, key=str.encode)
    return {m: [e for e in events if e["user"] == m] for m in members}


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=60)
@given(events=histories(), seed=st.integers(0, 99))
def test_every_aggregate_equals_the_reference(rule: str, events: list[reference.Event], seed: int) -> None:
    spec = spec_of(rule)
    shuffled = random.Random(seed).sample(events, len(events))
    found = aggregate(UserDays.from_table(reference.days_table(shuffled, spec), AS_OF), spec)
    assert list(found) == list(aggregate_columns(spec))
    for row, own in enumerate(by_user(events).values()):
        for name, value in reference.aggregates(own, AS_OF, spec).items():
            got = found[name][row].as_py()
            assert got is value is None or got == pytest.approx(value, rel=1e-6, abs=1e-4), name


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=60)
@given(events=histories(), seed=st.integers(0, 99))
def test_sequences_equal_the_reference_in_any_order(rule: str, events: list[reference.Event], seed: int) -> None:
    """Invariants 1 and 3: only the past counts, and the order of the input does not."""
    spec = sequence_spec(rule)
    chosen = spec.aggregates
    shuffled = random.Random(seed).sample(events, len(events))
    table = build_sequences(
        reference.events_table(shuffled), reference.days_table(shuffled, chosen), AS_OF, spec
    ).to_pylist()
    members = by_user(events)
    assert [r["user_id"] for r in table] == list(members)
    for row, own in zip(table, members.values(), strict=True):
        past = [e for e in own if e["time"] < MIDNIGHT]
        last = reference.last_events(own, AS_OF, LENGTH)
        assert (row["length"], row["total_events"], row["truncated"]) == (len(last), len(past), len(past) > LENGTH)
        assert row["seq_age"] == [(MIDNIGHT - e["time"]) // dt.timedelta(seconds=1) for e in last]
        assert row["seq_event_type"] == [e["type"] for e in last]
        paid = [None if e["amount"] is None else np.float32(float(e["amount"])) for e in last]
        assert row["seq_amount"] == paid
        rank = reference.rank_at(own, AS_OF, chosen)
        assert (row["current_tier_rank"], row["current_tier"]) == (rank, chosen.rule.names[rank])


@settings(deadline=None, max_examples=60)
@given(events=histories())
def test_invariant_1_the_future_changes_nothing(events: list[reference.Event]) -> None:
    spec = sequence_spec()
    past = [e for e in events if e["time"] < MIDNIGHT]
    if not past:
        return
    full, blind = (
        build_sequences(reference.events_table(e), reference.days_table(e, spec.aggregates), AS_OF, spec)
        for e in (events, past)
    )
    assert full.equals(blind)


@settings(deadline=None, max_examples=60)
@given(events=histories(), at=st.integers(0, 40))
def test_invariant_6_cutting_parts_and_then_the_whole_is_cutting_once(events: list[reference.Event], at: int) -> None:
    table = reference.events_table(events)
    once = cut_to_last(table, LENGTH)
    parts = pa.concat_tables([cut_to_last(table.slice(0, at), LENGTH), cut_to_last(table.slice(at), LENGTH)])
    assert cut_to_last(parts, LENGTH).equals(once)
    assert cut_to_last(once, LENGTH).equals(once)


@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None, max_examples=40)
@given(events=histories())
def test_outcomes_equal_the_reference(rule: str, events: list[reference.Event]) -> None:
    spec, end = spec_of(rule), AS_OF + dt.timedelta(days=7)
    members = by_user(events)
    window = [e for e in events if AS_OF <= e["time"].date() < end]
    found = outcome_rows(
        pa.array(list(members)[::-1], pa.string()), reference.days_table(window, spec), AS_OF, end, spec
    )
    for row, (user, own) in zip(found.to_pylist(), members.items(), strict=True):
        measured = reference.measures(own, AS_OF, end, spec)
        assert row["user_id"] == user
        assert Fraction(row["outcome_value"]) == measured["spend"]
        assert row["outcome_tier_rank"] == reference.rank_of(measured, spec)


@pytest.mark.parametrize(("off", "rank"), [(-1, 0), (0, 1), (1, 1)])
def test_a_member_at_exactly_the_threshold_is_in_the_tier(off: int, rank: int) -> None:
    limits = {"spend": RULES["spend"], "purchases": TierRule(("a", "b"), 1, "all_of", {"purchases": (3,)})}
    for measure, rule in limits.items():
        value = np.array([rule.thresholds[measure][0] + off])
        assert rule.rank({measure: value}).tolist() == [rank]


def test_the_gap_names_the_measure_that_decides() -> None:
    values = {"spend": np.array([0]), "purchases": np.array([4]), "points": np.array([90_000_000])}
    gap, which = RULES["all_of"].gap_to_next(values, RULES["all_of"].rank(values))
    assert (gap.tolist(), [RULES["all_of"].measures[w] for w in which]) == ([10_000_000], ["points"])
    gap, which = RULES["any_of"].gap_to_next(values, RULES["any_of"].rank(values))
    assert (gap.tolist(), [RULES["any_of"].measures[w] for w in which]) == ([2], ["purchases"])
    top = {m: np.array([10**12]) for m in values}
    assert RULES["any_of"].gap_to_next(top, RULES["any_of"].rank(top))[0].tolist() == [-1]


def test_thresholds_keep_their_decimals() -> None:
    assert decimal_to_steps("spend", Decimal("249.999999")) == 249_999_999
    assert steps_to_decimal("spend", 249_999_999) == Decimal("249.999999")
    with pytest.raises(ValueError, match="finer than purchases"):
        decimal_to_steps("purchases", Decimal("1.5"))
    assert RULES["any_of"].describe(1) == "spend of 60 or more or purchases of 3 or more in 20 days"


def test_money_stays_exact_where_float_would_not() -> None:
    """A billion and a micro-unit: 2**53 micro-units lie below it."""
    event = {"user": "u", "type": "purchase", "arrival": AS_OF}
    amounts = [Fraction(9_007_199_254, 1), Fraction(740_993, 1_000_000), Fraction(1, 1_000_000)]
    rows = [
        {**event, "id": str(n), "time": MIDNIGHT - dt.timedelta(days=n + 1), "amount": a} for n, a in enumerate(amounts)
    ]
    days = UserDays.from_table(reference.days_table(rows, spec_of("spend")), AS_OF)
    assert days.measures(spec_of("spend"))["spend"].tolist() == [9_007_199_254_740_994]
    exact = micros_to_decimal(np.array([9_007_199_254_740_993, -5, 7]), np.array([False, False, True]))
    assert exact.to_pylist() == [Decimal("9007199254.740993"), Decimal("-0.000005"), None]


def test_invariant_6_a_user_with_100_000_events_in_a_day_beside_one_with_one() -> None:
    n = 100_000
    heavy = pa.table(
        {
            "user_id": ["bot"] * n + ["one"],
            "event_id": [f"{i:06d}" for i in range(n)] + ["x"],
            "event_time": pa.array([reference.micros(MIDNIGHT) - 1] * (n + 1)).cast(pa.timestamp("us", "UTC")),
            "amount": pa.array([float(i) for i in range(n)] + [1.0]),
            "event_type": ["purchase"] * (n + 1),
        }
    )
    found = last_events(heavy, AS_OF, sequence_spec().contract).to_pylist()
    assert [(r["user_id"], r["length"]) for r in found] == [("bot", LENGTH), ("one", 1)]
    assert found[0]["seq_amount"] == [n - 4, n - 3, n - 2, n - 1]  # all at one instant: the ids decide


def test_bad_input_a_rollup_of_other_users_is_refused() -> None:
    event = {"id": "1", "type": "visit", "amount": None, "arrival": AS_OF, "time": MIDNIGHT - dt.timedelta(days=1)}
    events = reference.events_table([{**event, "user": "a"}])
    days = reference.days_table([{**event, "user": "b"}], spec_of("spend"))
    with pytest.raises(ValueError, match="rebuild user_days"):
        build_sequences(events, days, AS_OF, sequence_spec())


@pytest.mark.parametrize(("newest", "passed"), [(29, False), (30, True), (31, True), (None, False)])
def test_outcomes_are_never_early(newest: int | None, passed: bool) -> None:
    day = None if newest is None else AS_OF + dt.timedelta(days=newest - 1)
    if passed:
        check_horizon_passed(day, AS_OF, 30)
    else:
        with pytest.raises(DateError, match="has not passed"):
            check_horizon_passed(day, AS_OF, 30)


def test_contract_changes_its_id_with_every_field_and_names_differences() -> None:
    contract = sequence_spec().contract
    assert Contract.from_dict(contract.to_dict()) == contract
    changes = {
        "length": 9, "numeric": ("x",), "categorical": ("x",), "aggregates": ("x",), "tiers": ("x",),
        "tier_rule": "x", "horizon_days": 9, "known_by": "x", "format": 9,
    }  # fmt: skip
    for field, value in changes.items():
        other = Contract.from_dict({**contract.to_dict(), field: value})
        assert other.id != contract.id
        (difference,) = contract.differences(other)
        assert difference.startswith(f"{field}: ")
