"""Ranges of user ids: each id lies in one, and their number follows the rows and the tasks."""

from __future__ import annotations

import pyarrow as pa
import pytest

from features.storage.user_ranges import ranges_needed, user_ranges


def test_each_id_lies_in_one_range() -> None:
    ids = ["", "0", "00", "0fff", "1", "1000", "7fffz", "8", "ffff", "zoë", "🦊", "A"]
    for count in (1, 2, 16, 1024):
        for one in ids:
            holders = [r for r in user_ranges(count) if r.holds(pa.array([one]))[0]]
            assert len(holders) == 1
            assert holders[0].overlaps(one, one)


@pytest.mark.parametrize(
    ("rows", "at_once", "count"),
    [
        (0, 4, 1),
        (20_000, 4, 1),
        (20_001, 4, 4),
        (10**6, 3, 3),
        (10**7, 3, 12),
        (5 * 10**6, 2, 8),
        (5 * 10**7, 3, 64),
        (10**12, 2, 65_536),
    ],
)
def test_ranges_follow_the_rows(rows: int, at_once: int, count: int) -> None:
    """A power of two if hardly a task slot is idle then, else a multiple of the slots."""
    assert ranges_needed(rows, 10**6, at_once) == count
