"""Rows of `sequences` against the plain-Python reference."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.core.contract import AGE
from features.kernel.event_histories import UserEvents, cut_run
from features.kernel.sequences import SequenceSpec, arrays
from features.kernel.tiers import TierRule
from tests.data import reference
from tests.data.reference import DAY_US, D, Event, event

LENGTHS = st.integers(1, 6)


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    order = list(range(table.num_rows))
    random.Random(seed).shuffle(order)
    return table.take(pa.array(order, pa.int64()))


def built(events: list[Event], spec: SequenceSpec | None = None) -> pa.Table:
    return reference.sequence_rows(*reference.kernel_inputs(events), D, spec or reference.sequence_spec())


def only_row(events: list[Event], spec: SequenceSpec | None = None) -> dict[str, Any]:
    (row,) = built(events, spec).to_pylist()
    return row


def float32(amount: Decimal | None) -> float | None:
    return None if amount is None else float(np.float32(float(amount)))


def check_arrays(row: dict[str, Any], wanted: list[Event]) -> None:
    assert row["length"] == len(wanted)
    assert row[AGE] == [reference.age_seconds(e, D) for e in wanted]
    assert row["seq_amount"] == [float32(e["amount"]) for e in wanted]
    assert row["seq_event_type"] == [e["event_type"] for e in wanted]
    assert row["seq_shop"] == [e["shop"] for e in wanted]


@settings(deadline=None, max_examples=60)
@given(reference.members(), reference.rules(), LENGTHS, st.integers(0, 1000))
def test_build_sequences_matches_the_reference(events: list[Event], rule: TierRule, length: int, seed: int) -> None:
    spec = reference.sequence_spec(rule, length)
    inputs = (shuffled(table, seed) for table in reference.kernel_inputs(events))
    rows = reference.sequence_rows(*inputs, D, spec).to_pylist()
    assert [row["user_id"] for row in rows] == reference.users_before(events, D)
    for row in rows:
        own = [e for e in events if e["user_id"] == row["user_id"]]
        past = [e for e in own if e["event_time"] < reference.midnight(D)]
        check_arrays(row, reference.last_of(events, row["user_id"], D, length))
        assert row["as_of_date"] == D
        assert row["contract_id"] == spec.contract.id
        assert (row["total_events"], row["truncated"]) == (len(past), len(past) > length)
        measured = reference.measured_at(rule, past, D)
        rank = reference.rank_of(rule, measured)
        assert (row["current_tier"], row["current_tier_rank"]) == (rule.names[rank], rank)
        gap = reference.gap_of(rule, measured)
        if gap is None:
            assert row["next_tier"] is row["gap_to_next_tier"] is row["gap_measure"] is None
        else:
            assert row["next_tier"] == rule.names[rank + 1]
            assert (Fraction(row["gap_to_next_tier"]), row["gap_measure"]) == gap[:2]
        reference.check_aggregates(row, reference.aggregates_of(spec.aggregates, own, D))


CHANNELS = (("amount",), ("event_type", "shop"))


@settings(deadline=None, max_examples=60)
@given(reference.members(), LENGTHS, st.integers(0, 1000), st.booleans())
def test_invariant_3_merged_runs_equal_the_reference_at_any_date(
    events: list[Event], length: int, seed: int, ordered: bool
) -> None:
    """Runs with late events; if each run is in order, ids are read only for ties between runs."""
    contract, chance = reference.sequence_spec(length=length).contract, random.Random(seed)
    parts: list[list[Event]] = [[] for _ in range(4)]
    for e in events:
        parts[chance.randrange(4)].append(e)
    runs = [reference.events_table(sorted(p, key=total_order) if ordered else p) for p in parts]
    ids = (lambda k: runs[k]["event_id"]) if ordered else None
    merged = UserEvents.from_runs(runs, *CHANNELS, ids)
    for as_of in (D - dt.timedelta(days=3), D):
        cut = merged.last(as_of, length)
        assert cut.users.to_pylist() == reference.users_before(events, as_of)
        found = {name: column.to_pylist() for name, column in arrays(merged, cut, as_of, contract).items()}
        for i, user in enumerate(cut.users.to_pylist()):
            wanted = reference.last_of(events, user, as_of, length)
            assert found[AGE][i] == [reference.age_seconds(e, as_of) for e in wanted]
            assert found["seq_shop"][i] == [e["shop"] for e in wanted]


def total_order(e: Event) -> tuple[str, int, str]:
    return e["user_id"], e["event_time"], e["event_id"]


@pytest.mark.parametrize("users", [65_535, 65_536, 65_537, 140_000])
def test_users_beyond_16_bits_are_sorted_too(users: int) -> None:
    ids = [f"{n:06d}" for n in range(users)]
    random.Random(1).shuffle(ids)
    table = pa.table(
        {
            "user_id": ids,
            "event_id": ids,
            "event_time": pa.array([0] * users, pa.timestamp("us", "UTC")),
            "amount": pa.array([float(u) for u in ids]),
            "event_type": ["visit"] * users,
            "shop": ids,
        }
    )
    merged = UserEvents.from_runs([table], *CHANNELS)
    cut = merged.last(D, 1)
    assert cut.users.to_pylist() == sorted(ids)
    assert merged.categories["shop"].take(cut.rows).to_pylist() == sorted(ids)


@settings(deadline=None, max_examples=30)
@given(reference.members(), reference.rules())
def test_invariant_1_events_at_or_after_as_of_change_nothing(events: list[Event], rule: TierRule) -> None:
    past = [e for e in events if e["event_time"] < reference.midnight(D)]
    spec = reference.sequence_spec(rule)
    assert built(events, spec).equals(built(past, spec))


@pytest.mark.parametrize(("us", "known"), [(-1, True), (0, False), (1, False)])
def test_invariant_1_one_microsecond_either_side_of_the_as_of_instant(us: int, known: bool) -> None:
    row = only_row([event("ann", "1", -2), event("ann", "2", 0, us=us)])
    assert row["total_events"] == row["length"] == (2 if known else 1)
    assert row[AGE] == ([172_800, 0] if known else [172_800])
    assert row["spend_7d"] == (2 if known else 1)


@settings(deadline=None, max_examples=40)
@given(reference.members(), LENGTHS, st.integers(0, 1000))
def test_invariant_3_order_of_the_input_changes_nothing(events: list[Event], length: int, seed: int) -> None:
    spec = reference.sequence_spec(length=length)
    found, days = reference.kernel_inputs(events)
    again = reference.sequence_rows(shuffled(found, seed), shuffled(days, seed + 1), D, spec)
    assert again.equals(reference.sequence_rows(found, days, D, spec))


def test_invariant_3_chunks_of_the_input_change_nothing() -> None:
    events = [event("ann", f"{i}", -i, amount=f"{i}.5") for i in range(1, 8)]
    whole = built(events)
    parts = [reference.kernel_inputs(events[i : i + 2]) for i in range(0, len(events), 2)]
    chunked = (pa.concat_tables(tables) for tables in zip(*parts, strict=True))
    assert reference.sequence_rows(*chunked, D, reference.sequence_spec()).equals(whole)


def test_invariant_3_ties_in_time_are_broken_by_event_id() -> None:
    events = [event("ann", i, -1, "visit", None, shop=i) for i in ("c", "a", "e", "b", "d")]
    assert only_row(events, reference.sequence_spec(length=3))["seq_shop"] == ["c", "d", "e"]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_length_edges(extra: int) -> None:
    length = 5
    events = [event("ann", f"{i}", -9 + i, amount=f"{i}") for i in range(length + extra)]
    row = only_row(events, reference.sequence_spec(length=length))
    assert (row["length"], row["total_events"]) == (min(length + extra, length), length + extra)
    assert row["truncated"] == (extra > 0)
    assert row["seq_amount"] == [float(i) for i in range(length + extra)][-length:]


def encoded(run: pa.Table) -> pa.Table:
    """A run as it is read, with dictionary-encoded users."""
    return run.set_column(0, "user_id", run["user_id"].dictionary_encode())


@settings(deadline=None, max_examples=60)
@given(reference.members(), LENGTHS, st.integers(0, 3))
def test_invariant_6_runs_cut_before_merging_give_the_same(events: list[Event], length: int, parts: int) -> None:
    spec = reference.sequence_spec(length=length)
    past = sorted((e for e in events if e["event_time"] < reference.midnight(D)), key=total_order)
    runs = [encoded(reference.events_table(past[n :: parts + 1])) for n in range(parts + 1)]
    cut = [cut_run(run, length) for run in runs]
    for whole, short in zip(runs, cut, strict=True):
        users = whole["user_id"].to_pylist()
        wanted = {u: min(users.count(u), length) for u in users}
        assert {u: short["user_id"].to_pylist().count(u) for u in users} == wanted
    days = reference.days_table(past)
    once = reference.sequence_rows(reference.events_table(past), days, D, spec)
    assert reference.sequence_rows(pa.concat_tables(cut), days, D, spec).equals(once)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_invariant_6_a_run_is_cut_the_same_however_it_is_chunked(chunk: int) -> None:
    """Ids of ties are read later, without the other columns, and must belong to the same rows."""
    users = ["ann"] * 3 + ["bob"] * 4 + ["cy"]
    run = encoded(reference.events_table([event(u, f"{n}", -9, us=n) for n, u in enumerate(users)]))
    parts = [encoded(run.slice(k, chunk).cast(reference.EVENT_SCHEMA)) for k in range(0, len(users), chunk)]
    assert cut_run(pa.concat_tables(parts), 3)["event_id"].to_pylist() == ["0", "1", "2", "4", "5", "6", "7"]


def test_invariant_6_a_user_of_100000_events_in_one_day_beside_a_small_one() -> None:
    n, start = 100_000, reference.midnight(D) - DAY_US
    times = [start + i * 800_000 for i in range(n)]
    heavy = pa.table(
        [
            ["heavy"] * n,
            [f"h{i:06d}" for i in range(n)],
            pa.array(times, pa.timestamp("us", "UTC")),
            pa.array([Decimal(1)] * n, pa.decimal128(18, 6)),
            ["purchase"] * n,
            [None] * n,
        ],
        schema=reference.EVENT_SCHEMA,
    )
    one = reference.days_table([event("heavy", "1", -1)]).to_pylist()[0]
    one |= {"events": n, "events_purchase": n, "spend": n * 10**6, "squared_amount": Decimal(n)}
    one |= {"first_event_us": times[0], "last_event_us": times[-1], "last_purchase_us": times[-1]}
    small, small_days = reference.kernel_inputs([event("small", "s", -3)])
    days = pa.concat_tables([small_days, pa.Table.from_pylist([one], small_days.schema)])
    spec = reference.sequence_spec(length=64)
    big, little = reference.sequence_rows(pa.concat_tables([heavy, small]), days, D, spec).to_pylist()
    assert (big["user_id"], big["length"], big["total_events"], big["truncated"]) == ("heavy", 64, n, True)
    assert big[AGE] == [(reference.midnight(D) - t) // 1_000_000 for t in times[-64:]]
    assert (big["spend_7d"], big["active_days_7d"], big["purchase_7d"]) == (n, 1, n)
    assert (little["user_id"], little["length"], little["total_events"], little["truncated"]) == ("small", 1, 1, False)
    assert little[AGE] == [3 * 86_400]


def test_a_user_with_one_event() -> None:
    row = only_row([event("ann", "1", -1, amount="2.5", us=1)])
    assert (row["length"], row["total_events"], row["truncated"]) == (1, 1, False)
    assert row[AGE] == [86_399]
    assert row["seq_amount"] == [2.5]
    assert (row["current_tier"], row["next_tier"], row["gap_measure"]) == ("basic", "silver", "spend")
    assert row["gap_to_next_tier"] == Decimal("97.5")


def test_no_events_at_all() -> None:
    for events in ([], [event("ann", "1", 0)]):
        table = built(events)
        assert table.num_rows == 0
        assert table.schema.names == built([event("ann", "1", -1)]).schema.names


def test_null_amounts_and_categories_stay_null() -> None:
    row = only_row([event("ann", "1", -2, "visit", None, shop=None), event("ann", "2", -1, "visit", "0", shop="")])
    assert row["seq_amount"] == [None, 0.0]
    assert row["seq_shop"] == [None, ""]


def test_nothing_but_nulls_keeps_the_types() -> None:
    table = built([event("ann", "1", -2, "visit", None, shop=None)])
    assert table.schema.field("seq_amount").type.value_type == pa.float32()
    assert table.schema.field("seq_shop").type.value_type == pa.dictionary(pa.int32(), pa.string())


def test_emoji_ids_and_attributes() -> None:
    events = [event("🦊", "🅰️", -1, shop="🍕"), event("é", "x", -1, shop="日本"), event("z", "y", -1)]
    rows = built(events).to_pylist()
    assert [row["user_id"] for row in rows] == ["z", "é", "🦊"]
    assert [row["seq_shop"] for row in rows] == [["a"], ["日本"], ["🍕"]]


@pytest.mark.parametrize("us", [0, 1, DAY_US, -1, -DAY_US])
def test_events_of_1970(us: int) -> None:
    first = event("ann", "1", 0)
    row = only_row([{**first, "event_time": us}, event("ann", "2", -1)])
    assert row[AGE] == [(reference.midnight(D) - us) // 1_000_000, 86_400]
    assert row["tenure_days"] == pytest.approx((reference.midnight(D) - us) / DAY_US, rel=1e-15)
    assert (row["spend_90d"], row["total_events"]) == (1, 2)


def test_as_of_1970() -> None:
    as_of = dt.date(1970, 1, 1)
    events = [{**event("ann", str(i), 0), "event_time": us} for i, us in enumerate((-DAY_US, -1, 0))]
    (row,) = reference.sequence_rows(*reference.kernel_inputs(events), as_of, reference.sequence_spec()).to_pylist()
    assert row[AGE] == [86_400, 0]
    assert row["total_events"] == 2


@pytest.mark.parametrize("side", ["events", "days"])
@pytest.mark.parametrize("others", [["ann"], ["ann", "eve"], ["bob"], []])
def test_bad_input_users_of_events_and_days_differ(side: str, others: list[str]) -> None:
    both = [event("ann", "1", -2), event("bob", "2", -2)]
    other = [event(user, str(i), -2) for i, user in enumerate(others)]
    events, days = (both, other) if side == "days" else (other, both)
    with pytest.raises(ValueError, match=f"as of {D} the events have .* rebuild user_days"):
        reference.sequence_rows(
            reference.events_table(events), reference.days_table(days), D, reference.sequence_spec()
        )


def test_bad_input_a_user_known_only_after_as_of_on_one_side_is_no_difference() -> None:
    events = [event("ann", "1", -2)]
    found = reference.sequence_rows(
        reference.events_table([*events, event("bob", "2", 0)]),
        reference.days_table(events),
        D,
        reference.sequence_spec(),
    )
    assert found.equals(built(events))


def test_gap_in_purchases_has_the_scale_of_money() -> None:
    rule = reference.simple_rule(thresholds={"purchases": (3, 5)})
    row = only_row([event("ann", "1", -1)], reference.sequence_spec(rule))
    assert (row["gap_to_next_tier"], row["gap_measure"]) == (Decimal(2), "purchases")


def test_gap_is_exact_to_the_micro_unit() -> None:
    rule = reference.simple_rule(thresholds={"spend": (2**53 + 2, 2**53 + 4)})
    row = only_row([event("ann", "1", -1, amount="9007199254.740993")], reference.sequence_spec(rule))
    assert row["gap_to_next_tier"] == Decimal("0.000001")


def test_columns_and_their_types() -> None:
    spec = reference.sequence_spec()
    schema = built([event("ann", "1", -1)]).schema
    assert set(spec.contract.input_columns) <= set(schema.names)
    assert schema.field("length").type == pa.int32()
    assert schema.field("total_events").type == pa.int64()
    assert schema.field(AGE).type == pa.list_(pa.int64())
    assert schema.field("gap_to_next_tier").type == pa.decimal128(28, 6)
    assert {schema.field(a).type for a in spec.contract.aggregates} == {pa.float64()}
