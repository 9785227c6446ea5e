"""As-of dates as people write them: ranges, steps, ends of months."""

from __future__ import annotations

import argparse
import calendar
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.core.date_ranges import dates, stepped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29", ["2024-02-29"]),
        ("2024-02-28..2024-03-01", ["2024-02-28", "2024-02-29", "2024-03-01"]),
        ("2024-01-01..2024-01-20/1w", ["2024-01-01", "2024-01-08", "2024-01-15"]),
        ("2024-01-31..2024-05-31/1mo", ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"]),
        ("2023-12-30..2024-04-29/2mo", ["2023-12-30", "2024-02-29"]),
    ],
)
def test_ranges_of_a_command_line(text: str, expected: list[str]) -> None:
    assert [date.isoformat() for date in dates(text)] == expected


@pytest.mark.parametrize("text", ["", "2024-02-30", "2024-02-01..2024-01-01", "2024-01-01..2024-02-01/0d", "a..b/1mo"])
def test_bad_input_no_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not DATE"):
        dates(text)


@pytest.mark.parametrize(
    ("start", "every", "times", "expected"),
    [
        ("2024-01-31", "1mo", 1, "2024-02-29"),
        ("2023-01-31", "1mo", 1, "2023-02-28"),
        ("2024-01-31", "1mo", 3, "2024-04-30"),
        ("2024-03-31", "1mo", -1, "2024-02-29"),
        ("2024-01-31", "1mo", -2, "2023-11-30"),
        ("2024-02-29", "12mo", 1, "2025-02-28"),
        ("2024-02-29", "12mo", -4, "2020-02-29"),
        ("2024-12-31", "2mo", 1, "2025-02-28"),
        ("2024-12-31", "2w", 1, "2025-01-14"),
        ("2024-01-01", "1d", -1, "2023-12-31"),
        ("2024-01-01", "7d", 0, "2024-01-01"),
    ],
)
def test_steps_at_the_ends_of_months(start: str, every: str, times: int, expected: str) -> None:
    assert stepped(dt.date.fromisoformat(start), every, times) == dt.date.fromisoformat(expected)


@given(st.dates(dt.date(1950, 1, 1), dt.date(2100, 1, 1)), st.integers(1, 30), st.integers(-40, 40))
def test_a_month_step_keeps_the_day_or_takes_the_last_of_a_shorter_month(
    start: dt.date, months: int, times: int
) -> None:
    years, month = divmod(start.month - 1 + months * times, 12)
    last = calendar.monthrange(start.year + years, month + 1)[1]
    expected = dt.date(start.year + years, month + 1, min(start.day, last))
    assert stepped(start, f"{months}mo", times) == expected
