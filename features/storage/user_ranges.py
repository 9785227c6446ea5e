"""Ranges of user ids: how tables are divided so that each task holds a bounded number of rows."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SPREAD = 1 << 16
"""Number of different first four hexadecimal digits of ids, and so the most ranges."""

_WORTH_A_TASK = 20_000  # rows from which on dividing the work pays
_BUSY = 0.9  # share of busy task slots that a power of two of ranges must reach to be taken


@dataclasses.dataclass(frozen=True)
class UserRange:
    """The members with low <= id < high; None: no bound."""

    low: str | None = None
    high: str | None = None

    def overlaps(self, first: str | None, last: str | None) -> bool:
        """Whether some ids from `first` to `last` may lie in the range; None: not known."""
        above = self.high is None or first is None or first < self.high
        return above and (self.low is None or last is None or last >= self.low)

    def holds_all(self, first: str | None, last: str | None) -> bool:
        """Whether all ids from `first` to `last` lie in the range; None: not known."""
        above = self.low is None or (first is not None and first >= self.low)
        return above and (self.high is None or (last is not None and last < self.high))

    def holds(self, ids: pa.Array) -> npt.NDArray[np.bool_]:
        """[n] whether each id lies in the range."""
        found = np.ones(len(ids), bool)
        if self.low is not None:
            found &= pc.greater_equal(ids, self.low).to_numpy(zero_copy_only=False)
        if self.high is not None:
            found &= pc.less(ids, self.high).to_numpy(zero_copy_only=False)
        return found


def user_ranges(count: int) -> list[UserRange]:
    """`count` ranges, up to `SPREAD`, that hold each id once and pseudonyms in equal shares."""
    bounds = [None, *(range_start(k, count) for k in range(1, count)), None]
    return [UserRange(low, high) for low, high in itertools.pairwise(bounds)]


def range_start(place: int, count: int) -> str:
    """First id of the range at a place among `count`."""
    return f"{SPREAD * place // count:04x}"


def ranges_needed(rows: int, rows_per_range: int, tasks_at_once: int = 1) -> int:
    """Number of ranges so that each has up to `rows_per_range` rows, about, and no task slot is idle without need.

    Powers of two are preferred: row groups begin where such ranges do, so that each is read by one range only.
    """
    wanted, slots = max(-(-rows // rows_per_range), 1), 1
    if rows > _WORTH_A_TASK:
        wanted, slots = max(wanted, tasks_at_once), tasks_at_once
    aligned = 1 << (wanted - 1).bit_length()
    turns = -(-aligned // slots)
    found = aligned if aligned >= _BUSY * turns * slots else -(-wanted // slots) * slots
    return min(found, SPREAD)


def id_prefix(user: str) -> int:
    """The first four digits of a pseudonym as a number, below `SPREAD`; 0 for another id."""
    try:
        return int(user[:4], 16)
    except ValueError:
        return 0
