"""What an example counts, against a count day by day."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.examples.example_weights import uniqueness

START = dt.date(2025, 1, 1)


@given(days=st.lists(st.integers(0, 200), min_size=1, max_size=8, unique=True), horizon=st.integers(1, 100))
def test_a_day_of_the_outcome_windows_counts_once(days: list[int], horizon: int) -> None:
    dates = [START + dt.timedelta(days=day) for day in sorted(days)]
    windows = [{date + dt.timedelta(days=k) for k in range(horizon)} for date in dates]
    found = uniqueness(dates, horizon)
    for date, window in zip(dates, windows, strict=True):
        expected = sum(1 / sum(day in other for other in windows) for day in window) / horizon
        assert found[date] == pytest.approx(expected)
    assert sum(found.values()) * horizon == pytest.approx(len(set().union(*windows)))


def test_dates_that_are_frequent_share_what_a_lonely_one_has_alone() -> None:
    lonely, *weekly = (START, *(START + dt.timedelta(days=100 + 7 * week) for week in range(4)))
    found = uniqueness([lonely, *weekly], 30)
    assert found[lonely] == 1
    assert max(found[date] for date in weekly) < 0.6
    assert sum(found[date] for date in weekly) == pytest.approx((30 + 21) / 30)
