"""Rows of the rollup: exact sums, and points from an SQL expression that is checked before data is read."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.building.rollup import day_rows, pointed
from features.core.errors import SourceError
from features.ingest.sources import check_expression
from features.kernel.tiers import TierRule
from features.storage import schemas
from features.storage.failures import failure_in_words
from tests.data.reference import aggregate_spec

EVENTS = schemas.events({"items": "numeric", "channel": "categorical"})
MIDNIGHT = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
BASE: dict[str, Any] = {
    **dict.fromkeys(EVENTS.columns),
    "event_id": "e",
    "user_id": "u",
    "event_time": MIDNIGHT,
    "event_type": "purchase",
    "amount": Decimal(10),
    "items": 2.0,
    "channel": "shop",
    "ingested_at": MIDNIGHT,
    "event_date": MIDNIGHT.date(),
}


def check(spark: SparkSession, expression: str) -> None:
    check_expression(spark, expression, EVENTS.schema, "tiers.points")


def rolled_up(spark: SparkSession, points: str | None, *overrides: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [tuple({**BASE, "event_id": f"e{n}", **o}.values()) for n, o in enumerate(overrides)]
    spec = aggregate_spec(TierRule(("low", "high"), 30, "all_of", {"points": (1,)}, points))
    frame = spark.createDataFrame(rows, EVENTS.schema)
    return day_rows((pointed(frame, spec) if points else frame).toArrow(), spec).to_pylist()


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("amount *", "syntax error"),
        ("amount; DROP TABLE x", "syntax error"),
        ("price * 2", "price"),
        ("no_such(amount)", "no_such"),
        ("channel", "channel is string; it must be a number"),
        ("event_time", "is timestamp; it must be a number"),
        ("amount > 5", "is boolean; it must be a number"),
        ("array(1)", "is array<int>; it must be a number"),
        ("NULL", "is void; it must be a number"),
        ("sum(amount)", "aggregate function"),
        ("row_number() OVER (ORDER BY amount)", "window function"),
        ("sum(amount) OVER (PARTITION BY user_id)", "window function"),
        ("explode(array(1, 2))", "generator"),
        ("rand()", "non-deterministic"),
    ],
)
def test_bad_input_points_are_no_number_of_one_event(spark: SparkSession, expression: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        check(spark, expression)
    said = str(caught.value)
    assert said.startswith("tiers.points: ")
    assert words in said.lower()
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(
    "expression",
    ["1", "amount", "items * 2", "floor(amount / 5)", "IF(channel = 'app', 2 * amount, amount)", "coalesce(items, 0)"],
)
def test_points_are_any_number_of_one_event(spark: SparkSession, expression: str) -> None:
    check(spark, expression)
    rolled_up(spark, expression, {})


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("amount / (items - 2)", "amount / (items - 2) fails on a value of the data: divide by zero"),
        (
            "CAST(channel AS INT)",
            "CAST(channel AS INT) fails on a value of the data: cast invalid input (STRING to INT)",
        ),
        ("amount * 1e12", "numeric value out of range"),  # too large for a decimal: fails, and does not become 0
    ],
)
def test_bad_input_points_that_fail_on_a_value_are_told_in_words(
    spark: SparkSession, expression: str, words: str
) -> None:
    check(spark, expression)
    with pytest.raises(PySparkException) as caught:
        rolled_up(spark, expression, {})
    told = failure_in_words(caught.value)
    assert isinstance(told, SourceError)
    assert words in str(told)
    assert "'shop'" not in str(told)  # the value may be a raw id
    assert "\n" not in str(told)


def test_sums_of_a_day_are_exact_decimals(spark: SparkSession) -> None:
    # In floating point ten times .1 is not 1, and 2**53 + 1 micro-units cannot be held.
    tenth, large = {"amount": Decimal("0.1")}, {"amount": Decimal("9007199254.740993")}
    (day,) = rolled_up(spark, "amount * 3", *[tenth] * 10)
    assert (day["spend"], day["points"], day["squared_amount"]) == (1, 3, Decimal("0.1"))
    (day,) = rolled_up(spark, "amount", large, large)
    assert day["spend"] == day["points"] == 2 * large["amount"]
    assert day["largest_amount"] == large["amount"]
    assert Fraction(day["squared_amount"]) == 2 * Fraction(large["amount"]) ** 2


def test_points_of_events_without_an_amount_are_0_and_other_types_are_no_spend(spark: SparkSession) -> None:
    visit = {"event_type": "visit", "amount": None}
    (day,) = rolled_up(spark, "amount", visit, {"event_type": "visit", "amount": Decimal(7)}, {})
    assert (day["points"], day["spend"], day["events"], day["events_visit"]) == (17, 10, 3, 2)
    (day,) = rolled_up(spark, "amount", visit)
    assert (day["points"], day["spend"], day["largest_amount"], day["last_purchase_time"]) == (0, 0, None, None)


def test_rule_without_points_has_0_points(spark: SparkSession) -> None:
    (day,) = rolled_up(spark, None, {})
    assert day["points"] == 0


def test_a_day_is_split_by_the_date_of_arrival_in_utc(spark: SparkSession) -> None:
    moments = [MIDNIGHT - dt.timedelta(microseconds=1), MIDNIGHT, MIDNIGHT + dt.timedelta(hours=23, minutes=59)]
    rows = rolled_up(spark, None, *[{"ingested_at": m} for m in moments])
    assert {(r["arrival_date"], r["events"]) for r in rows} == {(dt.date(2024, 2, 29), 1), (dt.date(2024, 3, 1), 2)}
