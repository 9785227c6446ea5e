"""Repeats and conflicts over whole ingests, reruns, and ingests of single days."""

from __future__ import annotations

import datetime as dt
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from features.ingest.row_counts import by_status, counts
from features.ingest.shards import cut, settled, sought
from features.ingest.typed_rows import typed
from features.storage import delta_tables
from features.storage.table_log import active_files
from jobs.running.settings import Settings
from tests.data.programme import KEY
from tests.data.source_rows import NOW, Row, ingest, names, of_rows, pseudonym, reconciles, row

CONFLICT = [{"conflicting_event_id"}]


def versions(spark: SparkSession, chosen: Settings) -> dict[str, int]:
    return {t: delta_tables.version(spark, chosen.storage.table(t)) for t in ("events", "events_rejected")}


BATCH = [
    *[row("once"), row("twice"), row("twice"), row("thrice"), row("thrice"), row("thrice")],
    *[row("conflict", paid="1"), row("conflict", paid="2")],
    # A repeat in other words is the same event; a broken repeat does not shadow the good row.
    *[row("in other words"), row("in other words", paid="10", at="2024-05-01T12:00:00+02:00", items="2.0")],
    *[row("broken repeat", paid="x"), row("broken repeat")],
    *[row("equal bad rows", paid="x"), row("equal bad rows", paid="x")],
]


def test_bad_input_repeats_conflicts_and_a_rerun(spark: SparkSession, tmp_path: Path) -> None:
    chosen = of_rows(tmp_path, BATCH)
    found = ingest(spark, chosen)
    assert reconciles(found.run)
    good = {"once", "twice", "thrice", "conflict", "in other words", "broken repeat"}
    assert names(found.accepted) == {pseudonym(n) for n in good}
    assert len(found.accepted) == len(good)
    assert found.run.counts["duplicate"] == 4
    assert found.reasons("conflict") == CONFLICT
    assert found.reasons("broken repeat") == [{"unparseable_amount"}]
    assert found.reasons("equal bad rows") == [{"unparseable_amount"}] * 2
    assert len({r["rejection_id"] for r in found.rejected}) == len(found.rejected) == 4

    before, events, rejected = versions(spark, chosen), found.accepted, found.rejected
    again = ingest(spark, chosen, now=dt.datetime(2024, 7, 1, tzinfo=dt.UTC))
    assert again.run.status == "unchanged"
    assert again.run.counts["accepted"] == 0
    assert reconciles(again.run)
    assert versions(spark, chosen) == before
    assert sorted(again.accepted, key=str) == sorted(events, key=str)
    assert sorted(again.rejected, key=str) == sorted(rejected, key=str)


def test_bad_input_conflicts_do_not_depend_on_the_order_of_rows(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row("a", paid=str(n)) for n in range(5)] + [row("b", who=f"m{n}") for n in range(5)]
    kept = []
    for name, ordered in (("forward", rows), ("backward", rows[::-1])):
        found = ingest(spark, of_rows(tmp_path / name, ordered))
        kept.append(({(r["event_id"], r["user_id"], r["amount"]) for r in found.accepted}, names(found.rejected)))
        assert (len(found.accepted), len(found.rejected)) == (2, 8)
    assert kept[0] == kept[1]


def test_bad_input_conflict_with_the_table(spark: SparkSession, tmp_path: Path) -> None:
    ingest(spark, of_rows(tmp_path, [row("old", paid="5"), row("kept")]))
    # The event in the table stays, whatever its hash; two equal conflicts are both refused.
    later = [row("old", paid=str(n)) for n in range(8) if n != 5] + [row("old", paid="0"), row("old", paid="5")]
    found = ingest(spark, of_rows(tmp_path, [*later, row("new")]))
    assert found.event("old")["amount"] == 5
    assert found.reasons("old") == CONFLICT * 8
    assert found.run.counts["duplicate"] == 1
    assert names(found.accepted) == {pseudonym(n) for n in ("old", "kept", "new")}
    assert reconciles(found.run)


def test_bad_input_few_rows_against_many_known_events(spark: SparkSession, tmp_path: Path) -> None:
    """Known events that no row can repeat are left out of the shuffle, others are not."""
    known = [row(f"e{n}", paid=str(n), at=f"2024-04-{1 + n % 30:02d}") for n in range(60)]
    ingest(spark, of_rows(tmp_path, known))
    few = [*known[7:19], row("e30", paid="0.5"), row("new"), row("new")]
    chosen = of_rows(tmp_path, few)
    found = ingest(spark, chosen)
    assert (found.run.counts["duplicate"], found.run.counts["accepted"]) == (13, 1)
    assert found.reasons("e30") == CONFLICT
    assert reconciles(found.run)

    spec, rows = chosen.ingest, spark.read.json(chosen.ingest.source.tables["rows"].uri)
    query = rows.selectExpr(
        "id event_id", "who user_id", "at event_time", "kind event_type", "paid amount", "items", "channel"
    )
    pieces = cut(typed(query, spec), spec.checks(query.columns, KEY.encode(), NOW))
    uri = chosen.storage.table("events")
    files = active_files(uri, delta_tables.version(spark, uri))
    bits = sought(pieces, files)
    assert bits is not None
    assert np.unpackbits(np.frombuffer(bits, np.uint8)).sum() == 14
    assert sought(pieces, files[:20]) is None


@pytest.mark.parametrize(("within", "found_as"), [(None, "rejected"), (9, "accepted"), (10, "rejected")])
def test_repeats_are_looked_for_among_the_rows_own_dates_and_some_days_back(
    spark: SparkSession, tmp_path: Path, within: int | None, found_as: str
) -> None:
    """An equal repeat is found however old it is; a conflict on another date only within the days of the setting."""
    events = {"repeats_within_days": within}
    old, moved = row("equal", at="2020-01-01T10:00:00Z"), row("moved", at="2024-04-21T23:59:59Z")
    ingest(spark, of_rows(tmp_path, [old, moved], events=events))
    found = ingest(spark, of_rows(tmp_path, [old, row("moved", at="2024-05-01T00:00:00Z")], events=events))
    assert found.run.counts["duplicate"] == 1
    assert found.run.counts[found_as] == 1
    assert reconciles(found.run)


def test_bad_input_conflict_of_nulls_in_other_places(spark: SparkSession, tmp_path: Path) -> None:
    attributes = {"one": {"type": "categorical"}, "two": {"type": "categorical"}}
    spec = of_rows(tmp_path, [row("x")], source={"attributes": attributes}).ingest
    rows = spark.sql(
        "SELECT 'e' event_id, 'm' user_id, '2024-05-01' event_time, 'visit' event_type, NULL amount, '2' items, "
        "'shop' channel, one, two FROM VALUES ('a', NULL), (NULL, 'a') AS t(one, two)"
    )
    pieces = cut(typed(rows, spec), spec.checks(rows.columns, KEY.encode(), NOW))
    found = by_status(counts(settled(pieces, [], rows.columns)))
    assert found == {"accepted": 1, "rejected": 1, "duplicate": 0}


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_bad_input_one_day_alone(spark: SparkSession, tmp_path: Path, form: str) -> None:
    times = {
        "before": "2024-05-01T23:59:59Z",
        "first": "2024-05-02T00:00:00Z",
        "last": "2024-05-02T23:59:59Z",
        "after": "2024-05-03T00:00:00Z",
    }
    table: Row = {"date_column": "at"}
    rows = [row(n, at=at) for n, at in times.items()]
    if form == "json":
        columns = "id STRING, who STRING, at TIMESTAMP, kind STRING, paid STRING, items STRING, channel STRING"
        table["columns"] = columns
        chosen = of_rows(tmp_path, rows, form, source={"tables": {"rows": table}})
    else:
        typed = [{**r, "at": dt.datetime.fromisoformat(r["at"])} for r in rows]
        schema = {"at": pa.timestamp("us", "UTC")}
        chosen = of_rows(tmp_path, typed, form, schema, source={"tables": {"rows": table}})
    day = dt.date(2024, 5, 2)
    found = ingest(spark, chosen, since=day, until=day + dt.timedelta(days=1))
    assert names(found.accepted) == {pseudonym("first"), pseudonym("last")}
    assert {r["event_date"] for r in found.accepted} == {day}
    assert found.run.counts["source.rows"] == found.run.counts["rows_read"] == 2
    if form == "json":
        return
    rest = ingest(spark, chosen)
    assert rest.run.counts["duplicate"] == 2
    assert names(rest.accepted) == {pseudonym(n) for n in times}


def test_a_large_date_is_written_as_files_of_ranges_of_users(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(f"e{n}", who=f"m{n % 40}", at=f"2024-05-0{1 + n % 2}T10:00:{n % 60:02d}Z") for n in range(300)]
    chosen = of_rows(tmp_path, [*rows, *rows[::7], row("e1", paid="7")], sequence={"rows_per_range": 60})
    found = ingest(spark, chosen)
    assert (len(found.accepted), found.run.counts["duplicate"]) == (300, 43)
    assert found.reasons("e1") in ([], CONFLICT)  # of two contents the one with the smaller hash is the event
    assert reconciles(found.run)
    files = active_files(chosen.storage.table("events"), delta_tables.version(spark, chosen.storage.table("events")))
    assert [sum(f.date == day for f in files) for day in (dt.date(2024, 5, 1), dt.date(2024, 5, 2))] == [3, 3]
    assert all(b.first > a.last for a, b in itertools.pairwise(sorted(files[:3], key=lambda f: f.first or "")))
    assert sum(f.rows for f in files) == 300
