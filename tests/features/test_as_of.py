"""The Spark shell around the kernels against the plain-Python reference: rollup, sequences and outcomes of one date."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from features import as_of as shell
from features import tables
from features.aggregates import aggregate_columns
from features.errors import DateError
from features.rollup import user_days
from features.sequences import SequenceSpec, cut_to_last
from features.tiers import TierRule
from tests.kernel import reference as ref
from tests.kernel.reference import DAY_US, D, Event

Row = dict[str, Any]

EVENTS = tables.events({"shop": "categorical", "points": "numeric"})
MIDNIGHT = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
LENGTH, HORIZON = 4, 30
RULES = {
    "all of points and purchases": TierRule(
        ("basic", "silver", "gold"), 30, "all_of", {"purchases": (2, 4), "points": (150_000_000, 300_000_000)}, "points"
    ),
    "any of spend and purchases": TierRule(
        ("basic", "silver", "gold"), 90, "any_of", {"spend": (120_000_000, 400_000_000), "purchases": (5, 9)}
    ),
}


def some_events(seed: int, count: int = 400, users: int = 12) -> list[Event]:
    """Events of a few members on both sides of D, with ties, midnights, nulls, exact cents and late arrivals."""
    chance = random.Random(seed)
    found = []
    for n in range(count):
        kind = chance.choice(ref.TYPES)
        paid = f"{chance.randrange(10_000) / 100:.2f}" if kind == "purchase" or chance.random() < 0.2 else None
        us = chance.choice([0, 1, DAY_US // 2, DAY_US - 1, chance.randrange(DAY_US)])
        e = ref.event(
            f"zoë 🦊 {chance.randrange(users)}",
            f"e{chance.randrange(10**6)}-{n}",
            chance.randrange(-120, 40),
            kind,
            paid,
            points=f"{chance.randrange(10**8) / 10**6:.6f}",
            shop=chance.choice(["a", "b", "🍕", None]),
            us=us,
            late=chance.random() < 0.3,
        )
        found.append(e)
    return found


def arrival(e: Event) -> dt.datetime:
    """The last microsecond that is in time, or the first that is late."""
    return MIDNIGHT if e["late"] else MIDNIGHT - MICROSECOND


def events_frame(spark: SparkSession, events: Sequence[Event]) -> DataFrame:
    rows = []
    for e in events:
        time = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=e["event_time"])
        row = {
            **e,
            "event_time": time,
            "points": float(e["points"]),
            "clipped_at": None,
            "content_hash": 0,
            "ingested_at": arrival(e),
            "event_date": time.date(),
        }
        rows.append(tuple(row[c] for c in EVENTS.columns))
    return spark.createDataFrame(rows, EVENTS.schema).persist()


def specs(rule: TierRule, known_by: str = "event_time") -> SequenceSpec:
    spec = ref.sequence_spec(rule, LENGTH)
    contract = type(spec.contract).from_dict({**spec.contract.to_dict(), "known_by": known_by})
    return SequenceSpec(contract, spec.aggregates)


def sequences(events: DataFrame, spec: SequenceSpec, events_per_bucket: int, total: int) -> list[Row]:
    days = user_days(events, spec.aggregates)
    found = shell.sequences(events, days, D, spec, events_per_bucket, total)
    return sorted((r.asDict() for r in found.collect()), key=lambda r: r["user_id"])


def expected_row(own: list[Event], spec: SequenceSpec) -> tuple[Row, Row]:
    """Standing and arrays, compared as they are; and aggregates, compared within rounding."""
    rule, last = spec.aggregates.rule, ref.last_of(own, own[0]["user_id"], D, LENGTH)
    past = [e for e in own if e["event_time"] < ref.midnight(D)]
    measured = ref.measured_at(rule, past, D)
    rank, gap = ref.rank_of(rule, measured), ref.gap_of(rule, measured)
    row = {
        "user_id": own[0]["user_id"],
        "as_of_date": D,
        "length": len(last),
        "total_events": len(past),
        "truncated": len(past) > LENGTH,
        "contract_id": spec.contract.id,
        "current_tier": rule.names[rank],
        "current_tier_rank": rank,
        "next_tier": rule.names[rank + 1] if gap else None,
        "gap_to_next_tier": gap[0] if gap else None,
        "gap_measure": gap[1] if gap else None,
        "seq_age": [ref.age_seconds(e, D) for e in last],
        "seq_amount": [None if e["amount"] is None else np.float32(float(e["amount"])) for e in last],
        "seq_event_type": [e["event_type"] for e in last],
        "seq_shop": [e["shop"] for e in last],
    }
    return row, dict(ref.aggregates_of(spec.aggregates, past, D))


def check(found: list[Row], events: list[Event], spec: SequenceSpec) -> None:
    users = ref.users_before(events, D)
    assert [r["user_id"] for r in found] == users
    for row in found:
        own = [e for e in events if e["user_id"] == row["user_id"]]
        wanted, aggregates = expected_row(own, spec)
        assert set(row) == {*wanted, *aggregates}
        assert {k: row[k] for k in wanted} == wanted  # a Decimal equals the Fraction of its value
        ref.check_aggregates({k: row[k] for k in aggregates}, aggregates)


@pytest.mark.parametrize("rule", RULES)
def test_invariant_1_and_3_sequences_equal_the_reference_in_any_arrangement(spark: SparkSession, rule: str) -> None:
    """Half of the events lie at or after D, and none of them is in the reference's rows."""
    events, spec = some_events(1), specs(RULES[rule])
    frame = events_frame(spark, events)
    whole = sequences(frame, spec, 10**6, len(events))
    check(whole, events, spec)
    shuffled = events_frame(spark, random.Random(2).sample(events, len(events))).repartition(5)
    assert sequences(shuffled, spec, 40, len(events)) == whole  # ten buckets in place of one


def test_known_by_ingested_at_sees_what_had_arrived_by_then(spark: SparkSession) -> None:
    events, spec = some_events(3), specs(RULES["all of points and purchases"], "ingested_at")
    in_time = [e for e in events if not e["late"]]
    assert len(in_time) < len(events)
    check(sequences(events_frame(spark, events), spec, 100, len(events)), in_time, spec)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("known_by", ["event_time", "ingested_at"])
def test_outcomes_equal_the_reference(spark: SparkSession, rule: str, known_by: str) -> None:
    events, spec = some_events(4), specs(RULES[rule], known_by).aggregates
    # Whoever was not known at D has no outcome; what arrived later still counts in the outcome of those who were.
    events += [ref.event("new", "new", 0), ref.event("late", "late", -1, late=True), ref.event("late", "l", 3)]
    frame = events_frame(spark, events)
    end = D + dt.timedelta(days=HORIZON)
    known = [e for e in events if known_by == "event_time" or not e["late"]]
    days = user_days(frame, spec)
    for buckets in (1, 7):
        found = {r["user_id"]: r for r in shell.outcomes(days, D, HORIZON, spec, known_by, buckets).collect()}
        assert set(found) == set(ref.users_before(known, D))
        for user, row in found.items():
            value, rank = ref.outcome_of(spec.rule, events, user, D, end)
            assert Fraction(row["outcome_value"]) == value
            assert (row["outcome_tier_rank"], row["outcome_tier"]) == (rank, spec.rule.names[rank])
            assert (row["as_of_date"], row["horizon_end"]) == (D, end)


@pytest.mark.parametrize(("offset", "value"), [(-1, 0), (0, 7), (HORIZON - 1, 7), (HORIZON, 0)])
def test_outcome_window_edges_one_day_either_side(spark: SparkSession, offset: int, value: int) -> None:
    spec = specs(RULES["any of spend and purchases"]).aggregates
    events = [ref.event("ann", "old", -100, "visit", None), ref.event("ann", "x", offset, amount="7")]
    days = user_days(events_frame(spark, events), spec)
    (row,) = shell.outcomes(days, D, HORIZON, spec, "event_time", 1).collect()
    assert row["outcome_value"] == value


def test_invariant_3_an_attribute_may_have_any_name(spark: SparkSession) -> None:
    """Buckets, their column and the kernels' own columns stay out of the way of attributes."""
    rule = RULES["any of spend and purchases"]
    names = ["bucket", "length", "day", "spend", "truncated", "arrival_date"]
    plain = ref.contract_for(ref.aggregate_spec(rule), LENGTH)
    spec = SequenceSpec(
        type(plain).from_dict({**plain.to_dict(), "categorical": ["event_type", *names]}), ref.aggregate_spec(rule)
    )
    events = [ref.event("ann", "1", -3), ref.event("bob", "2", -2)]
    frame = events_frame(spark, events)
    for name in names:
        frame = frame.withColumn(name, frame["event_id"])
    found = sequences(frame, spec, 1, len(events))
    assert [[r[f"seq_{n}"] for n in names] for r in found] == [[["1"]] * len(names), [["2"]] * len(names)]


@pytest.mark.parametrize(
    ("first", "message"), [(None, "no events yet"), (0, "before all data"), (1, "before all data")]
)
def test_bad_input_as_of_before_all_data(spark: SparkSession, first: int | None, message: str) -> None:
    days = [] if first is None else [(D + dt.timedelta(days=first),)]
    with pytest.raises(DateError, match=message):
        shell.check_known(spark.createDataFrame(days, "day DATE"), D)


def test_as_of_on_the_day_after_the_first_event_is_answered(spark: SparkSession) -> None:
    shell.check_known(spark.createDataFrame([(D - dt.timedelta(days=1),)], "day DATE"), D)


# ---- the cut before the shuffle, without Spark ----------------------------------------------------------------------


def batches(users: Sequence[int], size: int) -> Iterator[pa.RecordBatch]:
    rows = [ref.event(f"u{u}", f"e{n}", -1, us=n % 7) for n, u in enumerate(users)]
    yield from ref.events_table(rows).to_batches(max_chunksize=size)


@settings(deadline=None, max_examples=60)
@given(users=st.lists(st.integers(0, 5), min_size=1, max_size=80), size=st.integers(1, 30), fold=st.integers(1, 40))
def test_invariant_6_cut_before_the_shuffle_loses_nothing_that_counts(users: list[int], size: int, fold: int) -> None:
    contract = specs(RULES["any of spend and purchases"]).contract
    whole = cut_to_last(pa.Table.from_batches(list(batches(users, size))), LENGTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "_FOLD_ROWS", fold)
        parts = list(shell._map_side_cut(contract)(batches(users, size)))
    assert cut_to_last(pa.Table.from_batches(parts), LENGTH).equals(whole)


def test_invariant_6_a_million_events_of_one_user_leave_a_task_as_l(monkeypatch: pytest.MonkeyPatch) -> None:
    contract = specs(RULES["any of spend and purchases"]).contract
    monkeypatch.setattr(shell, "_FOLD_ROWS", 1000)
    batch = next(batches([0] * 500, 500))
    parts = list(shell._map_side_cut(contract)(batch for _ in range(2000)))
    assert sum(p.num_rows for p in parts) == LENGTH


def test_cut_before_the_shuffle_of_no_batches_yields_none() -> None:
    contract = specs(RULES["any of spend and purchases"]).contract
    assert list(shell._map_side_cut(contract)(iter([]))) == []


def test_every_aggregate_is_compared() -> None:
    """The oracle must not pass over a column that is added later."""
    spec = ref.aggregate_spec()
    past = [ref.event("ann", "1", -1, amount=str(Decimal(1)))]
    assert list(ref.aggregates_of(spec, past, D)) == list(aggregate_columns(spec))
