"""Readers of the rollup's days of a range of members: all of them, or those since a snapshot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from features.building.pass_plan import SNAPSHOTS, Pass
from features.building.snapshots import Snapshot, SnapshotReader
from features.kernel.carried_figures import Carried, leaving_days
from features.kernel.day_histories import DayHistory, UserDays, in_steps
from features.kernel.user_ids import distinct_ids
from features.kernel.window_figures import Totals, carried_columns, counted
from features.storage import schemas
from features.storage.file_reader import read_range
from features.storage.schemas import empty_rows
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange


class DayReader:
    """All rollup days of a range of members. With `known_by: ingested_at`, each date sees only what had arrived."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        self._spec, self._by_arrival = work.sequences.aggregates, work.sequences.contract.known_by == "ingested_at"
        columns = _day_columns(work, self._by_arrival)
        self._runs = _day_runs([f for f in work.days if f.date < work.last_day], users, columns, work)
        self.all = DayHistory.from_runs(self._runs)
        self._runs = self._runs if self._by_arrival else []  # free their memory

    def totals(self, as_of: dt.date) -> Totals:
        """The figures of the members known at a date."""
        return counted(self.before(as_of), self._spec)

    def members(self, as_of: dt.date) -> pa.Array:
        """The members known at a date, ascending."""
        return self.before(as_of).users

    def before(self, as_of: dt.date) -> UserDays:
        """The days before a date that were known at it."""
        if not self._by_arrival:
            return self.all.before(as_of)
        known = [run.filter(pc.less(run["arrival_date"], as_of)) for run in self._runs]
        return DayHistory.from_runs(known).before(as_of)


class CarriedDays:
    """The same answers from the figures of a snapshot, and the days that have come and gone since."""

    def __init__(self, work: Pass, snapshot: Snapshot, users: UserRange, stored: SnapshotReader) -> None:
        spec, columns = work.sequences.aggregates, _day_columns(work, False)
        added = _day_runs([f for f in snapshot.new_days if f.date < work.last_day], users, columns, work)
        last = max(work.dates, default=snapshot.as_of)
        gone = leaving_days(spec, snapshot.as_of, last)
        leaving = _day_runs([f for f in snapshot.known_days if f.date in gone], users, ["user_id", *spec.summed], work)
        early = [run.filter(pc.less(run["day"], snapshot.as_of)) for run in added]
        of_late = distinct_ids([run["user_id"] for run in early])
        everyone = any(o.kind == SNAPSHOTS for o in work.outputs)
        self.all, needed = DayHistory.from_runs(added), carried_columns(spec)
        runs = [in_steps(run, needed) for run in added]
        if not everyone:
            runs = [run.filter(pc.is_in(run["user_id"], of_late)) for run in runs]
        if everyone or len(of_late):
            runs = [stored.days(None if everyone else of_late), *runs]
        self._late = DayHistory.from_runs(runs)
        self._carried = Carried(stored.totals, self.all, DayHistory.from_runs(leaving), self._late, spec)

    def totals(self, as_of: dt.date) -> Totals:
        """The figures of the members known at a date."""
        return self._carried.at(as_of)

    def members(self, as_of: dt.date) -> pa.Array:
        """The members known at a date, ascending."""
        return self.totals(as_of).users

    def before(self, as_of: dt.date) -> UserDays:
        """All days before a date if the pass writes a snapshot; else only those of members with late days."""
        return self._late.before(as_of)


def _day_columns(work: Pass, by_arrival: bool) -> list[str]:
    """Columns to read; the day is left out, because it is the partition, which the file's path gives."""
    spec = work.sequences.aggregates
    left_out = {"day"}
    if not by_arrival:
        left_out.add("arrival_date")
    if "points" not in spec.summed:
        left_out.add("points")
    return [c for c in schemas.user_days(spec.event_types).columns if c not in left_out]


def _day_runs(files: Sequence[TableFile], users: UserRange, columns: list[str], work: Pass) -> list[pa.Table]:
    """The days of each file as a run; one run without rows where there are no files."""
    read = [f for f in files if users.overlaps(f.first, f.last)]
    runs = [_with_day(read_range(f, users, columns), f.date) for f in read]
    return runs or [empty_rows(schemas.user_days(work.sequences.aggregates.event_types)).select([*columns, "day"])]


def _with_day(rows: pa.Table, date: dt.date) -> pa.Table:
    return rows.append_column("day", pa.repeat(pa.scalar(date, pa.date32()), rows.num_rows))
