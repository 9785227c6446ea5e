"""Invariants 1, 2, 3, 6 and 7 of the design through the real jobs; 4, 5, 8 and 9 stand with scoring and training."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from features.building.pass_plan import SEQUENCES
from features.storage import delta_tables
from jobs import build_outcomes
from jobs.steps import as_of_tables, pinned_inputs
from tests.data.event_store import AS_OF, LENGTH, MIDNIGHT, Store, event, some_events
from tests.data.programme import KEY


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERCAST_PSEUDONYM_KEY", KEY)


SECOND, MICROSECOND = dt.timedelta(seconds=1), dt.timedelta(microseconds=1)


def before(row: dict[str, str | None]) -> bool:
    return dt.datetime.fromisoformat(str(row["at"])) < MIDNIGHT


def test_invariant_1_no_event_at_or_after_the_date_changes_a_feature(spark: SparkSession, tmp_path: Path) -> None:
    rows = some_events(1)
    past = [r for r in rows if before(r)]
    future = [r for r in rows if not before(r)] + [
        event(900, "member-0", MIDNIGHT, "999.00"),
        event(901, "member-0", MIDNIGHT + MICROSECOND, "999.00"),
        event(902, "member-1", MIDNIGHT + SECOND, "999.00"),
        event(903, "a new member", MIDNIGHT, "1.00"),
    ]
    blind, seeing = Store(spark, tmp_path / "blind"), Store(spark, tmp_path / "seeing")
    blind.ingest(past)
    blind.build(AS_OF)
    seeing.ingest([*future, *past])
    seeing.build(AS_OF)
    assert seeing.rows("sequences", AS_OF) == blind.rows("sequences", AS_OF)


def test_invariant_1_the_last_microsecond_before_the_date_counts(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(spark, tmp_path)
    store.ingest(
        [
            event(1, "in time", MIDNIGHT - MICROSECOND, "50.00"),
            event(2, "a second early", MIDNIGHT - SECOND, "49.99"),
            event(3, "too late", MIDNIGHT - SECOND, None),
            event(4, "too late", MIDNIGHT, "50.00"),
        ]
    )
    store.build(AS_OF)
    found = {(r["length"], str(r["spend_7d"]), r["current_tier"]) for r in store.rows("sequences", AS_OF)}
    assert found == {(1, "50.0", "mid"), (1, "49.99", "low"), (1, "0.0", "low")}


def sums(store: Store) -> dict[tuple[str, dt.date], tuple[int, object]]:
    """Events and spend of each member's day, whatever parts it came in."""
    found: dict[tuple[str, dt.date], tuple[int, object]] = {}
    for row in store.rows("user_days"):
        events, spend = found.get((row["user_id"], row["day"]), (0, 0))
        found[row["user_id"], row["day"]] = events + row["events"], spend + row["spend"]
    return found


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_invariant_2_day_by_day_equals_at_once(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance, folder = random.Random(seed), tmp_path_factory.mktemp("days")
    rows = some_events(seed)
    # Days arrive out of order, some events late, some twice.
    batches: list[list[dict[str, str | None]]] = [[], [], []]
    for row in rows:
        batches[chance.randrange(3)].append(row)
    batches[2] += chance.sample(rows, 10)
    updated, rebuilt = Store(spark, folder / "updated"), Store(spark, folder / "rebuilt")
    for batch in batches:
        updated.ingest(batch)
        updated.build(AS_OF)
    rebuilt.ingest(rows)
    rebuilt.build(AS_OF)
    assert sums(updated) == sums(rebuilt)
    assert updated.rows("sequences", AS_OF) == rebuilt.rows("sequences", AS_OF)


def test_invariant_3_arrangement_never_changes_the_output(spark: SparkSession, tmp_path: Path) -> None:
    rows = some_events(3)
    shuffled = random.Random(3).sample(rows, len(rows))
    plain, arranged = Store(spark, tmp_path / "plain"), Store(spark, tmp_path / "arranged")
    plain.ingest(rows)
    plain.build(AS_OF)
    arranged.ingest(shuffled, files=7)
    arranged.build(AS_OF, overrides=["sequence.rows_per_range=20"])  # eight ranges in place of one
    assert arranged.rows("sequences", AS_OF) == plain.rows("sequences", AS_OF)


def test_invariant_6_a_user_with_100_000_events_in_a_day(spark: SparkSession, tmp_path: Path) -> None:
    start = MIDNIGHT - dt.timedelta(days=1)
    heavy = [event(n, "a bot", start + n * dt.timedelta(microseconds=500_000), "0.01") for n in range(100_000)]
    store = Store(spark, tmp_path)
    store.ingest([*heavy, event(-1, "somebody", start)])
    store.build(AS_OF)
    by_total = {r["total_events"]: r for r in store.rows("sequences", AS_OF)}
    assert set(by_total) == {1, 100_000}
    bot = by_total[100_000]
    assert (bot["length"], bot["truncated"], bot["current_tier"]) == (LENGTH, True, "high")
    newest = 86_400 - 0.5 * 99_999
    assert bot["seq_age"] == [int(newest + 0.5 * (LENGTH - 1 - n)) for n in range(LENGTH)]
    assert not by_total[1]["truncated"]


def test_invariant_7_a_rerun_makes_no_new_commit_and_reverted_settings_commit_again(
    spark: SparkSession, tmp_path: Path
) -> None:
    store = Store(spark, tmp_path)
    store.ingest(some_events(7))
    uri = store.settings().storage.table("sequences")

    def build(threshold: int) -> int:
        levels = f"[{{name: low}}, {{name: mid, from: {{spend: {threshold}}}}}, {{name: high, from: {{spend: 900}}}}]"
        store.build(AS_OF, overrides=[f"tiers.levels={levels}"])
        return delta_tables.version(spark, uri)

    first = build(50)
    assert build(50) == first
    assert build(60) == first + 1
    assert build(50) == first + 2


def test_known_by_ingested_at_answers_as_it_was_known_then(spark: SparkSession, tmp_path: Path) -> None:
    rows = [r for r in some_events(8) if before(r)]
    store, prompt = Store(spark, tmp_path / "late", known_by="ingested_at"), Store(spark, tmp_path / "prompt")
    store.ingest(rows[::2], now=MIDNIGHT - dt.timedelta(hours=1))
    store.ingest(rows[1::2], now=MIDNIGHT)
    store.build(AS_OF, AS_OF + dt.timedelta(days=1))
    prompt.ingest(rows[::2])
    prompt.build(AS_OF)

    def features(found: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{k: v for k, v in r.items() if k not in ("contract_id", "as_of_date")} for r in found]

    assert features(store.rows("sequences", AS_OF)) == features(prompt.rows("sequences", AS_OF))
    total = sum(r["total_events"] for r in store.rows("sequences", AS_OF + dt.timedelta(days=1)))
    assert total == len(rows)


def test_outcomes_are_the_rule_over_the_horizon(spark: SparkSession, tmp_path: Path) -> None:
    end = MIDNIGHT + dt.timedelta(days=30)
    early = MIDNIGHT - dt.timedelta(days=3)
    store = Store(spark, tmp_path)
    store.ingest(
        [
            *(event(n, who, early) for n, who in enumerate(["first instant", "last instant", "one late", "nothing"])),
            event(10, "first instant", MIDNIGHT, "200.00"),
            event(11, "last instant", end - MICROSECOND, "199.99"),
            event(12, "one late", end, "500.00"),
            event(13, "unknown at the date", MIDNIGHT, "500.00"),
        ]
    )
    build_outcomes.run(store.job(AS_OF))
    found = sorted((str(r["outcome_value"]), r["outcome_tier"]) for r in store.rows("outcomes"))
    assert found == [("0.000000", "low"), ("0.000000", "low"), ("199.990000", "mid"), ("200.000000", "high")]


def test_bad_input_an_ingest_in_the_middle_of_a_build_is_seen_by_the_next(spark: SparkSession, tmp_path: Path) -> None:
    """Rollup and events of one build are of one version: rows of a mixture would be called unchanged for ever."""
    rows = [r for r in some_events(9) if before(r)]
    store, undisturbed = Store(spark, tmp_path / "store"), Store(spark, tmp_path / "undisturbed")
    store.ingest(rows[::2])
    job = store.job(AS_OF)
    pinned = pinned_inputs.update_user_days(job)
    store.ingest(rows[1::2])
    as_of_tables.write(job, pinned, [(SEQUENCES, AS_OF)])
    assert sum(r["total_events"] for r in store.rows("sequences", AS_OF)) == len(rows[::2])
    undisturbed.ingest(rows)
    for each in (store, undisturbed):
        each.build(AS_OF)
    assert store.rows("sequences", AS_OF) == undisturbed.rows("sequences", AS_OF)
