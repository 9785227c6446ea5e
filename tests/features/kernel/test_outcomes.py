"""Outcomes of members: value and tier over the outcome window, and further targets."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.core.contract import outcome_column
from features.core.errors import DateError, UserError
from features.kernel.day_histories import DayHistory
from features.kernel.outcomes import check_horizon_passed, horizon_end, outcome_rows
from features.kernel.tiers import TierRule
from tests.data import reference
from tests.data.reference import D, Event, event

END = D + dt.timedelta(days=20)


def outcomes(events: list[Event], users: list[str], rule: TierRule | None = None, seed: int = 0) -> pa.Table:
    """The days from D on are the caller's part of the window, the days before END the kernel's."""
    days = reference.days_table(events)
    days = days.filter(pc.greater_equal(days["day"], pa.scalar(D)))
    order = list(range(days.num_rows))
    random.Random(seed).shuffle(order)
    spec = reference.aggregate_spec(rule)
    history = DayHistory.from_runs([days.take(pa.array(order, pa.int64()))])
    return outcome_rows(pa.array(sorted(users), pa.string()), history, D, (END - D).days, spec)


def only_row(events: list[Event], rule: TierRule | None = None) -> dict[str, Any]:
    (row,) = outcomes(events, ["ann"], rule).to_pylist()
    return row


@settings(deadline=None, max_examples=60)
@given(reference.members(), reference.rules(), st.permutations([*reference.USERS, "absent"]), st.integers(0, 1000))
def test_outcome_rows_match_the_reference(events: list[Event], rule: TierRule, users: list[str], seed: int) -> None:
    # Most random days lie before D: a part of them is moved into the window and around its end.
    moved = [
        {**e, "event_time": e["event_time"] + 100 * reference.DAY_US} if i % 2 else e for i, e in enumerate(events)
    ]
    rows = outcomes(moved, users, rule, seed).to_pylist()
    assert [row["user_id"] for row in rows] == sorted(users)
    for row in rows:
        value, rank = reference.outcome_of(rule, moved, row["user_id"], D, END)
        assert Fraction(row["outcome_value"]) == value
        assert (row["outcome_tier"], row["outcome_tier_rank"]) == (rule.names[rank], rank)
        assert (row["as_of_date"], row["horizon_end"]) == (D, END)


@settings(deadline=None, max_examples=30)
@given(reference.members(), st.permutations(reference.USERS), st.integers(0, 1000))
def test_invariant_3_order_of_users_and_days_changes_nothing(events: list[Event], users: list[str], seed: int) -> None:
    assert outcomes(events, users, seed=seed).equals(outcomes(events, list(reference.USERS)))


@pytest.mark.parametrize("others", [[], [event("bob", "1", 3, amount="999")]])
def test_a_user_without_events_gets_the_lowest_tier_and_0(others: list[Event]) -> None:
    row = only_row(others)
    assert (row["outcome_value"], row["outcome_tier"], row["outcome_tier_rank"]) == (Decimal(0), "basic", 0)


def test_days_of_users_not_asked_for_are_left_out() -> None:
    events = [event("aaa", "1", 1, amount="7"), event("ann", "2", 1, amount="100"), event("zzz", "3", 1, amount="9")]
    row = only_row(events)
    assert (row["outcome_value"], row["outcome_tier"]) == (Decimal(100), "silver")


def test_no_users() -> None:
    assert outcomes([event("ann", "1", 1)], []).num_rows == 0


@pytest.mark.parametrize(("offset", "inside"), [(-1, False), (0, True), (19, True), (20, False), (21, False)])
@pytest.mark.parametrize("us", [0, reference.DAY_US - 1])
def test_window_includes_the_as_of_day_and_excludes_the_end(offset: int, inside: bool, us: int) -> None:
    assert only_row([event("ann", "1", offset, amount="3", us=us)])["outcome_value"] == (3 if inside else 0)


def test_the_rule_is_summed_over_the_outcome_window_not_its_own() -> None:
    # The rule's trailing window is one day: both purchases count all the same.
    events = [event("ann", "1", 0, amount="60"), event("ann", "2", 19, amount="40")]
    assert only_row(events, reference.simple_rule(window_days=1))["outcome_tier"] == "silver"


@settings(deadline=None, max_examples=60)
@given(reference.members(), reference.rules(), st.integers(1, 19), st.permutations([*reference.USERS, "absent"]))
def test_targets_match_the_reference(events: list[Event], rule: TierRule, after: int, users: list[str]) -> None:
    moved = [
        {**e, "event_time": e["event_time"] + 100 * reference.DAY_US} if i % 2 else e for i, e in enumerate(events)
    ]
    names, spec = ["inactive", f"tier_{after}d"], reference.aggregate_spec(rule)
    history = DayHistory.from_runs([reference.days_table(moved)])
    found = outcome_rows(pa.array(sorted(users), pa.string()), history, D, (END - D).days, spec, names)
    assert found.drop_columns([outcome_column(n) for n in names]).equals(outcomes(moved, users, rule))
    then = D + dt.timedelta(days=after)
    for row in found.to_pylist():
        _, rank = reference.outcome_of(rule, moved, row["user_id"], then - dt.timedelta(days=rule.window_days), then)
        assert row[f"outcome_tier_rank_{after}d"] == rank
        inside = [e for e in moved if e["user_id"] == row["user_id"] and D <= reference.day_of(e) < END]
        assert row["outcome_inactive"] == (not inside)


@pytest.mark.parametrize(("offset", "gold"), [(-26, False), (-25, True), (4, True), (5, False)])
def test_a_tier_after_some_days_sees_the_rules_own_window_that_ends_there(offset: int, gold: bool) -> None:
    history = DayHistory.from_runs([reference.days_table([event("ann", "1", offset, amount="600")])])
    spec = reference.aggregate_spec(reference.simple_rule(window_days=30))
    (row,) = outcome_rows(pa.array(["ann"]), history, D, 20, spec, ["tier_5d"]).to_pylist()
    assert row["outcome_tier_rank_5d"] == (2 if gold else 0)


@pytest.mark.parametrize(("amount", "tier"), [("99.999999", "basic"), ("100", "silver"), ("500", "gold")])
def test_exact_thresholds(amount: str, tier: str) -> None:
    row = only_row([event("ann", "1", 5, amount=amount)])
    assert (row["outcome_value"], row["outcome_tier"]) == (Decimal(amount), tier)


def test_huge_values_are_exact() -> None:
    events = [event("ann", str(i), i, amount="9007199254.740993") for i in range(3)]
    assert only_row(events)["outcome_value"] == 3 * Decimal("9007199254.740993")


def test_horizon_end_is_the_day_after_the_last() -> None:
    assert horizon_end(dt.date(2024, 2, 28), 2) == dt.date(2024, 3, 1)


@pytest.mark.parametrize("newest", [19, 20, 400])
def test_horizon_has_passed_when_events_reach_its_last_day(newest: int) -> None:
    check_horizon_passed(D + dt.timedelta(days=newest), D, 20)


@pytest.mark.parametrize("newest", [None, -1, 0, 18])
def test_bad_input_outcomes_before_the_horizon_has_passed(newest: int | None) -> None:
    day = None if newest is None else D + dt.timedelta(days=newest)
    with pytest.raises(DateError, match=f"the horizon of {D} has not passed.*before {END}.*of {day};") as caught:
        check_horizon_passed(day, D, 20)
    assert isinstance(caught.value, UserError)
