"""Every reason for which a row is refused, and the odd rows that are not."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from tests.data.source_rows import BASE, Ingested, Row, ingest, of_rows, pseudonym, reconciles, row, settings, write

# By event id: the values of the row that differ from `BASE`, and every reason that applies.
BAD: dict[str, tuple[Row, set[str]]] = {
    "user null": ({"who": None}, {"missing_user"}),
    "user empty": ({"who": ""}, {"missing_user"}),
    "user blank": ({"who": "   "}, {"missing_user"}),
    "user of tabs": ({"who": "\t \n"}, {"missing_user"}),
    "time null": ({"at": None}, {"missing_time"}),
    "time empty": ({"at": ""}, {"unparseable_time"}),
    "time of words": ({"at": "yesterday, about noon"}, {"unparseable_time"}),
    "time of no calendar": ({"at": "2024-02-30T10:00:00Z"}, {"unparseable_time"}),
    "time without a date": ({"at": "10:30"}, {"unparseable_time"}),
    "time tomorrow": ({"at": "2024-06-02T12:00:00Z"}, {"time_in_future"}),
    "time beyond the tolerance": ({"at": "2024-06-01T13:00:01Z"}, {"time_in_future"}),
    "time before year 1": ({"at": "-0001-06-01T00:00:00Z"}, {"unparseable_time"}),
    "time of year 12345": ({"at": "+12345-01-01T00:00:00Z"}, {"time_in_future"}),
    "time 2100": ({"at": "2100-01-01"}, {"time_in_future"}),
    "type unknown": ({"kind": "refund"}, {"unknown_event_type"}),
    "type null": ({"kind": None}, {"unknown_event_type"}),
    "type empty": ({"kind": ""}, {"unknown_event_type"}),
    "type in capitals": ({"kind": "PURCHASE"}, {"unknown_event_type"}),
    "amount null": ({"paid": None}, {"purchase_without_amount"}),
    "amount empty": ({"paid": ""}, {"unparseable_amount"}),
    "amount of words": ({"paid": "ten"}, {"unparseable_amount"}),
    "amount with a comma": ({"paid": "1,50"}, {"unparseable_amount"}),
    "amount of Java": ({"paid": "12d"}, {"unparseable_amount"}),
    "amount in hexadecimal": ({"paid": "0x1p3"}, {"unparseable_amount"}),
    "amount NaN": ({"paid": "NaN"}, {"non_finite_amount"}),
    "amount infinite": ({"paid": "Infinity"}, {"non_finite_amount"}),
    "amount infinitely negative": ({"paid": "-Infinity"}, {"non_finite_amount"}),
    "amount negative": ({"paid": "-0.01"}, {"negative_amount"}),
    "amount above": ({"paid": "100000.01"}, {"amount_beyond_bound"}),
    "amount of 1e308": ({"paid": "1e308"}, {"amount_beyond_bound"}),
    "two reasons": ({"kind": "refund", "paid": "-1"}, {"unknown_event_type", "negative_amount"}),
    "all at once": (
        {"who": " ", "at": "never", "kind": "?", "paid": "-1e300"},
        {"missing_user", "unparseable_time", "unknown_event_type", "negative_amount"},
    ),
    "a visit with a wrong amount": ({"kind": "visit", "paid": "x"}, {"unparseable_amount"}),
    "\N{FACE WITH TEARS OF JOY} bad": ({"paid": "-1"}, {"negative_amount"}),
}
WITHOUT_ID: dict[str, str | None] = {"id null": None, "id empty": "", "id blank": "  ", "id of tabs": "\t"}
LONG = "x" * 10_000
GOOD: dict[str, Row] = {
    "plain": {},
    "zero": {"paid": "0"},
    "minus zero": {"paid": "-0.0"},
    "next to nothing": {"paid": "1e-50"},
    "less than a double holds": {"paid": "1e-400"},
    "amount with blanks and a sign": {"paid": " +1.5e1 "},
    "at the bound": {"paid": "100000"},
    "a hundredth": {"paid": "0.01"},
    "1970": {"at": "1970-01-01T00:00:00Z"},
    "before 1900": {"at": "1850-01-01T00:00:00Z"},
    "date only": {"at": "2024-05-02"},
    "within the tolerance": {"at": "2024-06-01T13:00:00Z"},
    "visit": {"kind": "visit", "paid": None},
    "no attributes": {"items": None, "channel": None},
    "odd attributes": {"items": "NaN", "channel": "\N{SHOPPING TROLLEY}"},
    "\N{PARTY POPPER}\N{FAMILY}": {"who": "\N{BEAR FACE}"},
    LONG: {"who": LONG},
    "winter": {"at": "2024-03-31T01:59:59+01:00"},
    "summer": {"at": "2024-03-31T03:00:00+02:00"},
    "autumn, first": {"at": "2023-10-29T02:30:00+02:00"},
    "autumn, again": {"at": "2023-10-29T02:30:00+01:00"},
    "before midnight": {"at": "2024-04-30T23:59:59Z"},
    "midnight": {"at": "2024-05-01T00:00:00Z"},
    "after midnight": {"at": "2024-05-01T00:00:01Z"},
    "midnight by offset": {"at": "2024-05-01T01:59:59+02:00"},
}


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    rows = [row(name, **overrides) for name, (overrides, _) in BAD.items()]
    rows += [row("", who=name, id=value) for name, value in WITHOUT_ID.items()]
    rows += [row(name, **overrides) for name, overrides in GOOD.items()]
    return ingest(spark, of_rows(tmp_path_factory.mktemp("rejections"), rows))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_row_is_refused_for_every_reason(ingested: Ingested, name: str) -> None:
    assert ingested.reasons(name) == [BAD[name][1]]


@pytest.mark.parametrize("who", WITHOUT_ID)
def test_bad_input_missing_event_id(ingested: Ingested, who: str) -> None:
    assert ingested.reasons_of_user(who) == [{"missing_event_id"}]


@pytest.mark.parametrize("name", GOOD)
def test_bad_input_odd_but_good_row_is_accepted(ingested: Ingested, name: str) -> None:
    assert ingested.event(name)["user_id"] == pseudonym(GOOD[name].get("who", BASE["who"]))
    assert ingested.reasons(name) == []


def test_bad_input_counts_reconcile(ingested: Ingested) -> None:
    counts = ingested.run.counts
    assert reconciles(ingested.run)
    assert counts["rows_read"] == counts["source.rows"] == len(BAD) + len(WITHOUT_ID) + len(GOOD)
    assert counts["accepted"] == len(ingested.accepted) == len(GOOD)
    assert counts["rejected"] == len(ingested.rejected) == len(BAD) + len(WITHOUT_ID)
    assert counts["accepted.purchase"] == len(GOOD) - 1
    assert counts["accepted.visit"] == 1


def test_bad_input_amounts_are_exact(ingested: Ingested) -> None:
    amounts = {name: ingested.event(name)["amount"] for name in ("plain", "zero", "minus zero", "at the bound")}
    assert amounts == {"plain": 10, "zero": 0, "minus zero": 0, "at the bound": 100_000}
    assert str(ingested.event("minus zero")["amount"]) == "0.000000"
    assert ingested.event("amount with blanks and a sign")["amount"] == 15
    assert ingested.event("less than a double holds")["amount"] == 0
    assert ingested.event("a hundredth")["amount"] == Decimal("0.01")
    assert ingested.event("visit")["amount"] is None
    assert all(r["clipped_at"] is None for r in ingested.accepted)


def test_bad_input_attributes_that_are_no_numbers_become_null(ingested: Ingested) -> None:
    odd, none = ingested.event("odd attributes"), ingested.event("no attributes")
    assert (odd["items"], odd["channel"]) == (None, "\N{SHOPPING TROLLEY}")
    assert (none["items"], none["channel"]) == (None, None)
    assert ingested.event("plain")["items"] == 2.0


@pytest.mark.parametrize(
    ("name", "instant"),
    [
        ("1970", "1970-01-01T00:00:00"),
        ("before 1900", "1850-01-01T00:00:00"),
        ("date only", "2024-05-02T00:00:00"),
        ("winter", "2024-03-31T00:59:59"),
        ("summer", "2024-03-31T01:00:00"),
        ("autumn, first", "2023-10-29T00:30:00"),
        ("autumn, again", "2023-10-29T01:30:00"),
        ("before midnight", "2024-04-30T23:59:59"),
        ("midnight", "2024-05-01T00:00:00"),
        ("after midnight", "2024-05-01T00:00:01"),
        ("midnight by offset", "2024-04-30T23:59:59"),
    ],
)
def test_bad_input_times_land_at_the_utc_instant_and_date(ingested: Ingested, name: str, instant: str) -> None:
    wanted, found = dt.datetime.fromisoformat(instant).replace(tzinfo=dt.UTC), ingested.event(name)
    assert found["event_time"] == wanted
    assert found["event_date"] == wanted.date()


def test_bad_input_original_keeps_the_row_and_hides_its_ids(ingested: Ingested) -> None:
    secrets = [BASE["who"], *BAD, *WITHOUT_ID]
    for kept in ingested.rejected:
        assert kept["source"] == "query"
        original = json.loads(kept["original"])
        assert original.get("user_id") == kept["user_id"]
        assert original.get("event_id") == kept["event_id"]
        assert not [s for s in secrets if s in kept["original"]]
    (negative,) = [r for r in ingested.rejected if r["event_id"] == pseudonym("amount negative")]
    assert json.loads(negative["original"])["amount"] == "-0.01"


def test_bad_input_amounts_of_a_parquet_double(spark: SparkSession, tmp_path: Path) -> None:
    amounts = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "huge": 1e308, "-0": -0.0, "good": 2.5}
    uri = write(tmp_path, [row(n, paid=v) for n, v in amounts.items()], "parquet", {"paid": pa.float64()})
    found = ingest(spark, settings(tmp_path, uri))
    for name in ("nan", "inf", "-inf"):
        assert found.reasons(name) == [{"non_finite_amount"}]
    assert found.reasons("huge") == [{"amount_beyond_bound"}]
    assert found.event("-0")["amount"] == 0
    assert str(found.event("-0")["amount"]) == "0.000000"
    assert found.event("good")["amount"] == Decimal("2.5")
    assert reconciles(found.run)


def test_bad_input_numeric_attributes_given_as_text(spark: SparkSession, tmp_path: Path) -> None:
    given = {
        "plain": "2.5",
        "spaced": " 7 ",
        "java": "12d",
        "hex": "0x1p3",
        "word": "many",
        "nan": "NaN",
        "huge": "1e400",
    }
    found = ingest(spark, of_rows(tmp_path, [row(n, items=v) for n, v in given.items()]))
    values = {n: found.event(n)["items"] for n in given}
    assert values == {**dict.fromkeys(given), "plain": 2.5, "spaced": 7.0}


def test_bad_input_outliers_are_clipped_and_say_so(spark: SparkSession, tmp_path: Path) -> None:
    paid = {
        "below": "499.99",
        "at": "500",
        "above": "500.01",
        "far": "1e308",
        "java": "12d",
        "tiny": "1e-400",
        "infinite": "Infinity",
    }
    rows = [row(n, paid=p) for n, p in paid.items()]
    found = ingest(spark, of_rows(tmp_path, rows, events={"outliers": "clip", "largest_amount": 500}))
    amounts = {
        n: (found.event(n)["amount"], found.event(n)["clipped_at"]) for n in ("below", "at", "above", "far", "tiny")
    }
    assert amounts == {
        "below": (Decimal("499.99"), None),
        "at": (500, None),
        "above": (500, 500),
        "far": (500, 500),
        "tiny": (0, None),
    }
    assert found.reasons("java") == [{"unparseable_amount"}]
    assert found.reasons("infinite") == [{"non_finite_amount"}]
