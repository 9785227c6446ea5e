"""Every window aggregate against the plain-Python reference."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.aggregates import aggregate, aggregate_columns
from features.kernel.day_histories import DayHistory
from features.kernel.tiers import TierRule
from tests.data import reference
from tests.data.reference import D, Event, event


def computed(days: pa.Table, spec: AggregateSpec) -> dict[str, dict[str, Any]]:
    totals = reference.totals_at(days, D, spec)
    columns = {name: values.to_pylist() for name, values in aggregate(totals, spec).items()}
    return {u: {name: column[i] for name, column in columns.items()} for i, u in enumerate(totals.users.to_pylist())}


def of_events(events: list[Event], spec: AggregateSpec | None = None) -> dict[str, dict[str, Any]]:
    return computed(reference.days_table(events), spec or reference.aggregate_spec())


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    order = list(range(table.num_rows))
    random.Random(seed).shuffle(order)
    return table.take(pa.array(order, pa.int64()))


@settings(deadline=None, max_examples=60)
@given(reference.members(), reference.rules(), st.integers(0, 1000))
def test_every_column_matches_the_reference(events: list[Event], rule: TierRule, seed: int) -> None:
    spec = reference.aggregate_spec(rule)
    found = computed(shuffled(reference.days_table(events), seed), spec)
    assert list(found) == reference.users_before(events, D)
    for user, columns in found.items():
        wanted = reference.aggregates_of(spec, [e for e in events if e["user_id"] == user], D)
        assert list(columns) == list(wanted) == list(aggregate_columns(spec))
        reference.check_aggregates(columns, wanted)


@settings(deadline=None, max_examples=30)
@given(reference.members(max_size=15), st.integers(0, 1000))
def test_invariant_3_order_of_rollup_rows_changes_nothing(events: list[Event], seed: int) -> None:
    days = reference.days_table(events)
    assert computed(shuffled(days, seed), reference.aggregate_spec()) == computed(days, reference.aggregate_spec())


@settings(deadline=None, max_examples=30)
@given(reference.members(max_size=15), reference.rules())
def test_invariant_1_days_at_or_after_as_of_change_nothing(events: list[Event], rule: TierRule) -> None:
    spec = reference.aggregate_spec(rule)
    past = [e for e in events if e["event_time"] < reference.midnight(D)]
    assert of_events(events, spec) == of_events(past, spec)


@pytest.mark.parametrize("offset", [0, 1, 30])
def test_invariant_1_a_huge_purchase_from_as_of_on_changes_nothing(offset: int) -> None:
    past = [event("ann", "1", -5, amount="10"), event("ann", "2", -1, "visit", None)]
    future = [event("ann", "3", offset, amount="99999"), event("new", "4", offset)]
    assert of_events(past + future) == of_events(past)


@settings(deadline=None, max_examples=30)
@given(reference.members(max_size=15))
def test_a_day_split_over_two_arrivals_equals_the_day_at_once(events: list[Event]) -> None:
    whole, split = of_events([{**e, "late": False} for e in events]), of_events(events)
    assert list(whole) == list(split)
    for user, columns in whole.items():
        reference.check_aggregates(split[user], columns)


def test_invariant_3_order_of_three_arrivals_of_one_day_changes_nothing() -> None:
    # Same member, day and time of the last event: only the squares, which are floats, differ.
    amounts = ("65.479013", "3.804734", "52.319253")
    parts = [reference.days_table([event("ann", str(i), -1, amount=a)]) for i, a in enumerate(amounts)]
    found = [computed(pa.concat_tables(order), reference.aggregate_spec()) for order in itertools.permutations(parts)]
    assert all(f == found[0] for f in found)


@pytest.mark.parametrize("window", reference.WINDOWS)
@pytest.mark.parametrize(("beyond", "inside"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("us", [0, reference.DAY_US - 1])
def test_window_edges_one_day_either_side(window: int, beyond: int, inside: bool, us: int) -> None:
    found = of_events([event("ann", "1", -(window + beyond), amount="2.5", us=us)])["ann"]
    assert found[f"spend_{window}d"] == (2.5 if inside else 0)
    assert found[f"active_days_{window}d"] == found[f"purchase_{window}d"] == int(inside)
    assert found[f"visit_{window}d"] == 0


@pytest.mark.parametrize(
    ("offset", "per_day"), [(-1, 1 / 7), (-7, 1 / 7), (-8, -1 / 23), (-30, -1 / 23), (-31, 0), (-90, 0)]
)
def test_trend_counts_a_day_in_one_of_its_two_windows(offset: int, per_day: float) -> None:
    assert of_events([event("ann", "1", offset)])["ann"]["trend_7d_30d"] == pytest.approx(per_day, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("offset", "spend", "age"), [(-29, 100, 28), (-30, 100, 29), (-31, 0, 0), (-32, 0, 1)])
def test_tier_is_held_from_the_day_after_until_the_window_has_passed(offset: int, spend: int, age: int) -> None:
    found = of_events([event("ann", "1", offset, amount="100")])["ann"]
    assert (found["tier_spend"], found["tier_age_days"]) == (spend, age)


def test_tier_age_is_null_for_a_member_who_never_left_the_lowest_tier() -> None:
    assert of_events([event("ann", "1", -200, amount="99.999999")])["ann"]["tier_age_days"] is None


def test_tier_age_ignores_a_fall_and_rise_on_one_date() -> None:
    # 100 leaves the window on the date on which another 100 enters it: the tier never changed.
    events = [event("ann", "1", -60, amount="100"), event("ann", "2", -30, amount="100")]
    assert of_events(events)["ann"]["tier_age_days"] == 59


def test_top_tier_has_no_gap() -> None:
    assert of_events([event("ann", "1", -1, amount="500")])["ann"]["tier_gap_share"] == 0
    assert of_events([event("ann", "1", -1, amount="300")])["ann"]["tier_gap_share"] == 0.4


def test_null_where_undefined() -> None:
    never_bought = of_events([event("ann", "1", -3, "visit", None), event("ann", "2", -2, "visit", None)])["ann"]
    undefined = {"purchase_recency_days", "amount_mean", "amount_max", "amount_std", "gap_mean_days", "gap_std_days"}
    assert {k for k, v in never_bought.items() if v is None} == {*undefined, "tier_age_days"}
    once = of_events([event("ann", "1", -3, amount="0"), event("ann", "2", -3, amount="0", us=5)])["ann"]
    assert {k for k, v in once.items() if v is None} == {"gap_mean_days", "gap_std_days", "tier_age_days"}
    assert (once["amount_mean"], once["amount_max"], once["amount_std"]) == (0, 0, 0)


def test_sums_of_huge_amounts_are_exact_integers() -> None:
    # A float64 cannot hold 2**53 + 1 micro-units.
    events = [event("ann", str(i), -1 - i, amount="9007199254.740993") for i in range(3)]
    rule = reference.simple_rule(thresholds={"spend": (3 * (2**53 + 1), 3 * (2**53 + 1) + 1)})
    spec = reference.aggregate_spec(rule)
    found = reference.totals_at(reference.days_table(events), D, spec).measures(spec)
    assert found["spend"].dtype == np.int64
    assert found["spend"].tolist() == [3 * (2**53 + 1)]
    assert rule.rank(found).tolist() == [1]


def test_no_days_at_all_give_no_rows() -> None:
    for events in ([], [event("ann", "1", 0)]):
        spec = reference.aggregate_spec()
        totals = reference.totals_at(reference.days_table(events), D, spec)
        assert len(totals.users) == 0
        assert all(len(column) == 0 for column in aggregate(totals, spec).values())


def test_bad_input_sums_beyond_int64_are_refused() -> None:
    # 10**12 points in a day are 10**18 micro-units: nine such days fit, ten overflow.
    for days, fits in ((9, True), (10, False)):
        table = reference.days_table([event("ann", str(n), -n) for n in range(1, days + 1)])
        points = pa.array([10**18] * days, pa.int64())
        table = table.set_column(table.column_names.index("points"), "points", points)
        if fits:
            assert DayHistory.from_runs([table]).before(D).total("points").tolist() == [days * 10**18]
        else:
            with pytest.raises(OverflowError, match=r"points of 1e\+12 in a day, over 10 days"):
                DayHistory.from_runs([table])
