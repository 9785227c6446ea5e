"""Readers of what a task needs of a range of members: their events and rollup days, or a snapshot and what came since.

Each table is read once for all as-of dates of a pass.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.building.day_reader import CarriedDays, DayReader
from features.building.pass_plan import Pass
from features.building.snapshots import SnapshotReader
from features.core.arrays import Ints
from features.kernel.event_histories import UserEvents, cut_run
from features.kernel.run_columns import midnight
from features.kernel.user_ids import belonging, distinct_ids
from features.storage import schemas
from features.storage.file_reader import read_range
from features.storage.schemas import empty_rows
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange


class RangeReader:
    """Reads days and events of a range of members, for all as-of dates of a pass."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        """Read the days, and the events where an output holds any.

        Raises:
            StorageError: a file is missing or damaged.
        """
        stored = None
        self.days: DayReader | CarriedDays
        if work.snapshot is None:
            self.days = DayReader(work, users)
        else:
            stored = SnapshotReader(work.snapshot, users, work.sequences)
            self.days = CarriedDays(work, work.snapshot, users, stored)
        self._events = EventReader(work, users, stored) if work.dates else None

    @property
    def events(self) -> EventReader:
        """The events; only for a pass with an output that holds some."""
        assert self._events is not None
        return self._events


@dataclasses.dataclass(frozen=True)
class EventRun:
    """Events of one file, or of a snapshot.

    Attributes:
        rows: the events.
        ids: reads their event ids, which are rarely needed.
        date: UTC date of all of them; the smallest date for a snapshot, so that it comes first.
    """

    rows: pa.Table
    ids: Callable[[], pa.Array]
    date: dt.date = dt.date.min


class EventReader:
    """Events of a range of members. With `known_by: ingested_at`, each date sees only what had arrived."""

    def __init__(self, work: Pass, users: UserRange, stored: SnapshotReader | None = None) -> None:
        self._work, self._users, self._contract = work, users, work.sequences.contract
        self._by_arrival = self._contract.known_by == "ingested_at"
        self.runs = self._of_files(work.events_needed) if stored is None else []
        self.rows = sum(run.rows.num_rows for run in self.runs)
        if stored is not None:
            self._merged: UserEvents | None = self._since(stored)
        else:
            self._merged = None if self._by_arrival else self._merge(self.runs)
        self.runs = self.runs if self._by_arrival else []  # free their memory

    def known(self, as_of: dt.date) -> UserEvents:
        """Events that were known at a date; there may be later ones, which `UserEvents.last` leaves out."""
        return self._merged or self._merge([self._arrived(run, as_of) for run in self.runs])

    def _of_files(self, files: Sequence[TableFile], only: pa.Array | None = None) -> list[EventRun]:
        return [self._run(f, only) for f in files if self._users.overlaps(f.first, f.last)]

    def _run(self, file: TableFile, only: pa.Array | None) -> EventRun:
        """The events of a file, of all members of the range or of those in `only`."""
        rows = self._read(file, self._columns, only)
        return EventRun(
            rows, lambda: self._read(file, ["user_id", "event_id"], only)["event_id"].combine_chunks(), file.date
        )

    def _read(self, file: TableFile, columns: list[str], only: pa.Array | None) -> pa.Table:
        rows = read_range(file, self._users, columns, ["user_id", *self._contract.categorical])
        rows = rows if only is None else rows.filter(belonging(rows["user_id"], only))
        # With ingested_at the cut waits for the date: later arrivals must be left out first.
        return rows if self._by_arrival or not self._work.sorted_events else cut_run(rows, self._contract.length)

    def _since(self, stored: SnapshotReader) -> UserEvents:
        """The events of a snapshot, merged with those that came since.

        The days of late events are read again whole, for the members who have such: events of one instant are ordered
        by their ids, which a snapshot does not keep.
        """
        snapshot, needed, known = self._work.snapshot, self._work.events_needed, stored.events()
        assert snapshot is not None
        new, dates = set(snapshot.new_events), snapshot.late_dates
        runs = self._of_files([f for f in needed if f in new])
        late = distinct_ids([run.rows["user_id"] for run in runs if run.date in dates])
        if len(late):
            runs += self._of_files([f for f in needed if f not in new and f.date in dates], late)
        touched = distinct_ids([run.rows["user_id"] for run in runs])
        if not len(touched):
            return known
        before = known.run_of(touched)
        left_out = _of_users_and_dates(before, late, dates) if len(late) else None
        first = EventRun(before, lambda: pa.nulls(before.num_rows, pa.string()))
        return known.replaced(self._merge([first, *sorted(runs, key=lambda run: run.date)], left_out))

    def _merge(self, runs: list[EventRun], left_out: Ints | None = None) -> UserEvents:
        attributes = [c for c in self._channels if c not in ("amount", "event_type")]
        tables = [run.rows for run in runs] or [
            empty_rows(schemas.events(dict.fromkeys(attributes, "categorical"))).select(self._columns)
        ]
        ids = (lambda k: runs[k].ids()) if self._work.sorted_events else None
        return UserEvents.from_runs(tables, self._contract.numeric, self._contract.categorical, ids, left_out)

    def _arrived(self, run: EventRun, as_of: dt.date) -> EventRun:
        early = pc.less(run.rows["ingested_at"], pa.scalar(midnight(as_of), pa.timestamp("us", "UTC")))

        def chosen(rows: pa.Table) -> pa.Table:
            rows = rows.filter(early)
            return cut_run(rows, self._contract.length) if self._work.sorted_events else rows

        def ids() -> pa.Array:
            return chosen(run.rows.select(["user_id"]).append_column("event_id", run.ids()))[
                "event_id"
            ].combine_chunks()

        return EventRun(chosen(run.rows), ids, run.date)

    @property
    def _channels(self) -> tuple[str, ...]:
        return (*self._contract.numeric, *self._contract.categorical)

    @property
    def _columns(self) -> list[str]:
        further = ["ingested_at"] if self._by_arrival else []
        further += [] if self._work.sorted_events else ["event_id"]
        return ["user_id", "event_time", *self._channels, *further]


def _of_users_and_dates(events: pa.Table, users: pa.Array, dates: Collection[dt.date]) -> Ints:
    """Places of the events of some members on some dates; of few members, so that few times are looked at."""
    theirs = np.flatnonzero(belonging(events["user_id"], users).to_numpy())
    days = events["event_time"].take(pa.array(theirs)).cast(pa.date32())
    return theirs[pc.is_in(days, pa.array(sorted(dates), pa.date32())).to_numpy()]
