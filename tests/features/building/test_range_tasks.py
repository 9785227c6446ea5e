"""Tasks that build rollup, sequences and outcomes, against the plain-Python reference."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.building import range_tasks
from features.building.pass_plan import OUTCOMES, SEQUENCES, Output, Pass
from features.building.range_reader import EventReader
from features.building.rollup import day_rows, pointed
from features.core.errors import DateError, StorageError
from features.kernel.aggregates import aggregate_columns
from features.kernel.sequences import SequenceSpec
from features.kernel.tiers import TierRule
from features.storage import schemas
from features.storage.failures import failure_in_words
from features.storage.file_writer import AddedFile, write_file
from features.storage.table_log import TableFile
from features.storage.user_ranges import user_ranges
from tests.data import reference
from tests.data.reference import DAY_US, D, Event

Row = dict[str, Any]

EVENTS = schemas.events({"shop": "categorical", "points": "numeric"})
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
        kind = chance.choice(reference.TYPES)
        paid = f"{chance.randrange(10_000) / 100:.2f}" if kind == "purchase" or chance.random() < 0.2 else None
        us = chance.choice([0, 1, DAY_US // 2, DAY_US - 1, chance.randrange(DAY_US)])
        e = reference.event(
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


def event_rows(events: Sequence[Event]) -> list[Row]:
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
        rows.append({c: row[c] for c in EVENTS.columns})
    return rows


def total_order(row: Row) -> tuple[str, dt.datetime, str]:
    return row["user_id"], row["event_time"], row["event_id"]


class Files:
    """Files of `events` and `user_days` as the jobs write them, and passes over them."""

    def __init__(self, spark: SparkSession, folder: Path, events: Sequence[Event], spec: SequenceSpec, parts: int = 1):
        self.spec, self.folder = spec, folder
        rows = event_rows(events)
        schema = EVENTS.arrow_schema
        self.events = []
        for date in sorted({r["event_date"] for r in rows}):
            of_date = [r for r in rows if r["event_date"] == date]
            for n in range(parts):
                part = sorted(of_date[n::parts], key=total_order)
                if part:
                    self.events.append(self.file("events", "event_date", date, pa.Table.from_pylist(part, schema)))
        frame = spark.createDataFrame([tuple(r.values()) for r in rows], EVENTS.schema)
        found = (pointed(frame, spec.aggregates) if spec.aggregates.rule.points else frame).toArrow()
        dates = found["event_time"].cast(pa.date32())
        self.days = []
        for date in sorted(set(dates.to_pylist())):
            day = day_rows(found.filter(pc.equal(dates, date)), spec.aggregates)
            day = day.append_column("day", pa.repeat(pa.scalar(date, pa.date32()), day.num_rows))
            self.days.append(self.file("user_days", "day", date, day))

    def file(self, name: str, partition: str, date: dt.date, rows: pa.Table) -> TableFile:
        added = write_file(rows, f"{self.folder}/{name}", partition, date)
        users = sorted(rows["user_id"].to_pylist())
        return TableFile(f"{self.folder}/{name}/{added.path}", date, added.rows, users[0], users[-1])

    def plan(self, *outputs: tuple[str, dt.date], in_order: bool = True) -> Pass:
        wanted = [Output(kind, f"{self.folder}/{kind}", date, f"inputs of {date}") for kind, date in outputs]
        return Pass(self.events, self.days, in_order, wanted, self.spec, HORIZON)

    def rows(self, output: Output, files: Sequence[AddedFile]) -> list[Row]:
        found = [read(f"{output.uri}/{file.path}") for file in files]
        assert [f.rows for f in files] == [t.num_rows for t in found]
        return sorted((r for t in found for r in t.to_pylist()), key=lambda r: r["user_id"])

    def built(self, *outputs: tuple[str, dt.date], ranges: int = 1, in_order: bool = True) -> list[list[Row]]:
        """The rows of each output, from a number of ranges of users, without Spark."""
        work = self.plan(*outputs, in_order=in_order)
        added = [file for users in user_ranges(ranges) for file in range_tasks.build_range(work, users)]
        return [
            self.rows(o, [f for f in added if (f.table, f.partition["as_of_date"]) == (o.uri, str(o.as_of))])
            for o in work.outputs
        ]


def read(path: str) -> pa.Table:
    return pq.ParquetFile(path).read()


def specs(rule: TierRule, known_by: str = "event_time") -> SequenceSpec:
    spec = reference.sequence_spec(rule, LENGTH)
    contract = type(spec.contract).from_dict({**spec.contract.to_dict(), "known_by": known_by})
    return SequenceSpec(contract, spec.aggregates)


def expected_row(own: list[Event], spec: SequenceSpec) -> tuple[Row, Row]:
    """Tier, gap and arrays must be equal; aggregates are compared within rounding."""
    rule, last = spec.aggregates.rule, reference.last_of(own, own[0]["user_id"], D, LENGTH)
    past = [e for e in own if e["event_time"] < reference.midnight(D)]
    measured = reference.measured_at(rule, past, D)
    rank, gap = reference.rank_of(rule, measured), reference.gap_of(rule, measured)
    row = {
        "user_id": own[0]["user_id"],
        "inputs_id": f"inputs of {D}",
        "length": len(last),
        "total_events": len(past),
        "truncated": len(past) > LENGTH,
        "contract_id": spec.contract.id,
        "current_tier": rule.names[rank],
        "current_tier_rank": rank,
        "next_tier": rule.names[rank + 1] if gap else None,
        "gap_to_next_tier": gap[0] if gap else None,
        "gap_measure": gap[1] if gap else None,
        "seq_age": [reference.age_seconds(e, D) for e in last],
        "seq_amount": [None if e["amount"] is None else np.float32(float(e["amount"])) for e in last],
        "seq_event_type": [e["event_type"] for e in last],
        "seq_shop": [e["shop"] for e in last],
    }
    return row, dict(reference.aggregates_of(spec.aggregates, past, D))


def check(found: list[Row], events: list[Event], spec: SequenceSpec) -> None:
    users = reference.users_before(events, D)
    assert [r["user_id"] for r in found] == users
    for row in found:
        own = [e for e in events if e["user_id"] == row["user_id"]]
        wanted, aggregates = expected_row(own, spec)
        assert set(row) == {*wanted, *aggregates}
        assert {k: row[k] for k in wanted} == wanted  # a Decimal equals the Fraction of its value
        reference.check_aggregates({k: row[k] for k in aggregates}, aggregates)


@pytest.mark.parametrize("rule", RULES)
def test_invariant_1_and_3_sequences_equal_the_reference_in_any_arrangement(
    spark: SparkSession, tmp_path: Path, rule: str
) -> None:
    """Half of the events lie at or after D, and none of them is in the reference's rows."""
    events, spec = some_events(1), specs(RULES[rule])
    files = Files(spark, tmp_path / "one", events, spec)
    (whole,) = files.built((SEQUENCES, D))
    check(whole, events, spec)
    assert files.built((SEQUENCES, D), ranges=16) == [whole]
    assert files.built((SEQUENCES, D), in_order=False) == [
        whole
    ]  # without the promise of an order, ids are read and sorted
    shuffled = Files(spark, tmp_path / "many", random.Random(2).sample(events, len(events)), spec, parts=3)
    assert shuffled.built((SEQUENCES, D), ranges=4) == [whole]


def test_invariant_3_dates_answered_together_equal_dates_answered_alone(spark: SparkSession, tmp_path: Path) -> None:
    for known_by in ("event_time", "ingested_at"):
        spec = specs(RULES["any of spend and purchases"], known_by)
        files = Files(spark, tmp_path / known_by, some_events(5), spec, parts=2)
        wanted = [(kind, D + dt.timedelta(days=n)) for n in (-40, 0, 1, 9) for kind in (SEQUENCES, OUTCOMES)]
        assert files.built(*wanted) == [files.built(one)[0] for one in wanted]


def test_known_by_ingested_at_sees_what_had_arrived_by_then(spark: SparkSession, tmp_path: Path) -> None:
    events, spec = some_events(3), specs(RULES["all of points and purchases"], "ingested_at")
    in_time = [e for e in events if not e["late"]]
    assert len(in_time) < len(events)
    (found,) = Files(spark, tmp_path, events, spec, parts=2).built((SEQUENCES, D), ranges=2)
    check(found, in_time, spec)


def test_the_pass_on_spark_equals_the_pass_without(spark: SparkSession, tmp_path: Path) -> None:
    events, spec = some_events(6), specs(RULES["any of spend and purchases"])
    files = Files(spark, tmp_path, events, spec, parts=2)
    wanted = [(SEQUENCES, D), (OUTCOMES, D), (SEQUENCES, D + dt.timedelta(days=7))]
    work = files.plan(*wanted)
    found = range_tasks.build(spark, work, rows_per_range=100)
    assert [files.rows(output, found[output]) for output in work.outputs] == files.built(*wanted)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("known_by", ["event_time", "ingested_at"])
def test_outcomes_equal_the_reference(spark: SparkSession, tmp_path: Path, rule: str, known_by: str) -> None:
    events, spec = some_events(4), specs(RULES[rule], known_by)
    # Members not known at D have no outcome; later arrivals count in the outcomes of the others.
    events += [
        reference.event("new", "new", 0),
        reference.event("late", "late", -1, late=True),
        reference.event("late", "l", 3),
    ]
    end = D + dt.timedelta(days=HORIZON)
    known = [e for e in events if known_by == "event_time" or not e["late"]]
    files = Files(spark, tmp_path, events, spec)
    for ranges in (1, 8):
        (rows,) = files.built((OUTCOMES, D), ranges=ranges)
        found = {r["user_id"]: r for r in rows}
        assert set(found) == set(reference.users_before(known, D))
        for user, row in found.items():
            value, rank = reference.outcome_of(spec.aggregates.rule, events, user, D, end)
            assert Fraction(row["outcome_value"]) == value
            assert (row["outcome_tier_rank"], row["outcome_tier"]) == (rank, spec.aggregates.rule.names[rank])
            assert row["horizon_end"] == end


@pytest.mark.parametrize(("offset", "value"), [(-1, 0), (0, 7), (HORIZON - 1, 7), (HORIZON, 0)])
def test_outcome_window_edges_one_day_either_side(spark: SparkSession, tmp_path: Path, offset: int, value: int) -> None:
    events = [reference.event("ann", "old", -100, "visit", None), reference.event("ann", "x", offset, amount="7")]
    files = Files(spark, tmp_path, events, specs(RULES["any of spend and purchases"]))
    (((row,),)) = files.built((OUTCOMES, D))
    assert row["outcome_value"] == value


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_bad_input_a_file_that_is_missing_or_damaged_is_named(spark: SparkSession, tmp_path: Path, damage: str) -> None:
    files = Files(spark, tmp_path, some_events(7, 40), specs(RULES["any of spend and purchases"]))
    victim = Path(files.events[0].uri)
    content = victim.read_bytes()
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(PySparkException) as caught:
        range_tasks.build(spark, files.plan((SEQUENCES, D)), 10**6)
    told = failure_in_words(caught.value)
    assert isinstance(told, StorageError)
    assert victim.name in str(told)
    assert "missing or damaged" in str(told)


def test_invariant_3_an_attribute_may_have_any_name(spark: SparkSession, tmp_path: Path) -> None:
    """Attributes may have the names of columns that the project uses itself."""
    rule = RULES["any of spend and purchases"]
    names = ["bucket", "length", "day", "spend", "truncated", "arrival_date"]
    plain = reference.contract_for(reference.aggregate_spec(rule), LENGTH)
    spec = SequenceSpec(
        type(plain).from_dict({**plain.to_dict(), "categorical": ["event_type", *names]}),
        reference.aggregate_spec(rule),
    )
    table = schemas.events({**dict.fromkeys(names, "categorical"), "shop": "categorical", "points": "numeric"})
    rows = [{**r, **dict.fromkeys(names, r["event_id"])} for r in event_rows([reference.event("ann", "1", -3)])]
    files = Files(spark, tmp_path, [reference.event("ann", "1", -3)], spec)
    written = pa.Table.from_pylist(rows, table.arrow_schema)
    files.events = [files.file("named", "event_date", rows[0]["event_date"], written)]
    (((row,),)) = files.built((SEQUENCES, D))
    assert [row[f"seq_{n}"] for n in names] == [["1"]] * len(names)


@pytest.mark.parametrize(
    ("first", "message"), [(None, "no events yet"), (0, "before all data"), (1, "before all data")]
)
def test_bad_input_as_of_before_all_data(first: int | None, message: str) -> None:
    days = [] if first is None else [TableFile("a", D + dt.timedelta(days=first), 1, None, None)]
    with pytest.raises(DateError, match=message):
        range_tasks.check_known(days, D)


def test_as_of_on_the_day_after_the_first_event_is_answered() -> None:
    range_tasks.check_known([TableFile("a", D - dt.timedelta(days=1), 1, None, None)], D)


def test_invariant_6_a_bot_costs_a_range_l_events_of_each_file(spark: SparkSession, tmp_path: Path) -> None:
    spec = specs(RULES["any of spend and purchases"])
    events = [reference.event("bot", f"e{n:05d}", -1 - n % 3, amount="1", us=n) for n in range(3000)]
    files = Files(spark, tmp_path, [*events, reference.event("ann", "a", -2)], spec)
    reader = EventReader(files.plan((SEQUENCES, D)), user_ranges(1)[0])
    assert reader.rows == 3 * LENGTH + 1
    (((_, bot),)) = files.built((SEQUENCES, D))
    assert (bot["total_events"], bot["length"], bot["truncated"]) == (3000, LENGTH, True)
    assert bot["seq_age"] == [reference.age_seconds(e, D) for e in reference.last_of(events, "bot", D, LENGTH)]


def test_every_aggregate_is_compared() -> None:
    """The reference must know every aggregate, also one that is added later."""
    spec = reference.aggregate_spec()
    past = [reference.event("ann", "1", -1, amount=str(Decimal(1)))]
    assert list(reference.aggregates_of(spec, past, D)) == list(aggregate_columns(spec))
