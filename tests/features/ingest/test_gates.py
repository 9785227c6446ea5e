"""Quality gates: their messages, what passes, and what stays in the tables when one fails."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from features.core.errors import QualityGateError
from features.ingest.gates import check_gates
from features.settings.source import Quality
from tests.data.source_rows import BASE, NOW, ingest, of_rows, row, stored

TODAY = NOW.date()


@pytest.fixture(scope="module")
def refused(spark: SparkSession) -> DataFrame:
    rows = [(["negative_amount"], "{}")]
    return spark.createDataFrame(rows, "reasons ARRAY<STRING>, original STRING").persist()


def day(back: int) -> dt.date:
    return TODAY - dt.timedelta(days=back)


def gates(
    refused: DataFrame,
    accepted: int = 10,
    rejected: int = 0,
    duplicate: int = 0,
    days: dict[dt.date, int] | None = None,
    new: set[dt.date] | None = None,
    **settings: Any,
) -> str:
    """Message of the gates that failed; empty if all passed."""
    counts = {"accepted": accepted, "rejected": rejected, "duplicate": duplicate}
    days = {TODAY: accepted} if days is None else days
    added = {d: n for d, n in days.items() if new is None or d in new}
    stands = {d: n for d, n in days.items() if d not in added}
    try:
        check_gates(counts, refused, stands, added, Quality(median_days=7, **settings), NOW)
    except QualityGateError as error:
        return str(error)
    return ""


def test_bad_input_gate_of_the_rejected_share(refused: DataFrame) -> None:
    assert not gates(refused, 95, 5, largest_rejected_share=0.05)
    assert not gates(refused, 0, 5, 95, days={}, largest_rejected_share=0.05)
    assert not gates(refused, 1, 99)
    said = gates(refused, 94, 6, largest_rejected_share=0.05)
    assert "6 of 100 rows were refused: 6.0%, allowed are 5.0%" in said
    assert gates(refused, 99, 1, largest_rejected_share=0.0)


def test_bad_input_gate_of_a_batch_with_nothing_left(refused: DataFrame) -> None:
    assert "all 7 rows were refused" in gates(refused, 0, 7, days={})
    assert not gates(refused, 0, 7, 1, days={})
    assert not gates(refused, 1, 7)
    assert not gates(refused, 0, 0, 5, days={})


def test_bad_input_gate_of_day_rows(refused: DataFrame) -> None:
    def said(today: int, **changes: Any) -> str:
        days = {day(n): 100 for n in range(1, 9)} | {TODAY: today}
        return gates(refused, days=days, **{"new": {TODAY}, "day_rows_against_median": (0.1, 10), **changes})

    assert not said(10)
    assert not said(1000)
    assert f"{TODAY} has 9 events, the median of the 7 days before it is 100" in said(9)
    assert "has 1001 events" in said(1001)
    assert not said(1001, new={day(1)})  # the odd day gets no rows from this batch
    assert not said(1001, day_rows_against_median=None)
    # Too few days before for a median.
    assert not gates(refused, days={day(1): 100, TODAY: 1}, day_rows_against_median=(0.1, 10))


def test_bad_input_gate_of_freshness(refused: DataFrame) -> None:
    assert not gates(refused, days={day(40): 1, day(2): 1}, freshest_event_days=2)
    said = gates(refused, days={day(40): 1, day(3): 1}, freshest_event_days=2)
    assert f"the newest event is of {day(3)}, 3 days old: allowed are 2" in said
    assert not gates(refused, days={day(40): 1})


def test_bad_input_all_gates_shut_at_once(spark: SparkSession, tmp_path: Path) -> None:
    bad = [row(f"bad-{n}", paid=f"-{n}.5") for n in range(1, 7)] + [row("worse", kind="refund", paid="-9")]
    start = dt.date(2024, 3, 1)
    good = [row(f"good-{d}", at=f"{start + dt.timedelta(days=d)}") for d in range(7)]
    good += [row(f"odd-{n}", at=f"2024-03-08T10:00:0{n}Z") for n in range(9)]
    quality = {
        "largest_rejected_share": 0.1,
        "day_rows_against_median": [0.5, 2],
        "median_days": 7,
        "freshest_event_days": 3,
    }
    chosen = of_rows(tmp_path, [*bad, *good], quality=quality)
    with pytest.raises(QualityGateError) as caught:
        ingest(spark, chosen)
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert "no event was written" in said
    assert "7 of 23 rows were refused: 30.4%, allowed are 10.0%" in said
    assert "2024-03-08 has 9 events" in said
    assert "the newest event is of 2024-03-08, 85 days old" in said
    assert "refused as negative_amount: 7" in said
    assert "refused as unknown_event_type: 1" in said
    assert len(re.findall(r"^ {6}\{", said, re.MULTILINE)) == 3 + 1
    assert BASE["who"] not in said
    assert "bad-" not in said
    assert "worse" not in said
    assert stored(chosen, "events") == []
    assert len(stored(chosen, "events_rejected")) == len(bad)


def test_bad_input_all_rows_rejected(spark: SparkSession, tmp_path: Path) -> None:
    chosen = of_rows(tmp_path, [row(f"bad-{n}", paid="-1") for n in range(4)])
    with pytest.raises(QualityGateError, match="all 4 rows were refused") as caught:
        ingest(spark, chosen)
    assert "refused as negative_amount: 4" in str(caught.value)
    assert stored(chosen, "events") == []
    assert len(stored(chosen, "events_rejected")) == 4
