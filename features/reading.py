"""What a task reads for a range of users: their events and rollup days, or a snapshot and what has come in since.

Every table is read once for all as-of dates of a pass.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import tables
from features.histories import DayHistory, UserDays, UserEvents, cut_run, in_steps, midnight
from features.sequences import SequenceSpec
from features.snapshots import Snapshot, Standing
from features.table_files import TableFile, UserRange, read_range
from features.tiers import Ints
from features.totals import Carried, Totals, carried_columns, counted, leaving_days

SEQUENCES, OUTCOMES, SNAPSHOTS = "sequences", "outcomes", "snapshots"


@dataclasses.dataclass(frozen=True)
class Output:
    """Rows of one table for one as-of date.

    Attributes:
        kind: `SEQUENCES`, `OUTCOMES` or `SNAPSHOTS`.
        uri: the Delta table's place.
        as_of: the as-of date.
        inputs_id: fingerprint that the rows carry.
    """

    kind: str
    uri: str
    as_of: dt.date
    inputs_id: str


@dataclasses.dataclass(frozen=True)
class Pass:
    """One reading of the files, for all outputs.

    Attributes:
        events: active files of `events`, by date; not read where only outcomes are wanted.
        days: active files of `user_days`, by date.
        sorted_events: whether each file of `events` is promised to be in the total order.
        outputs: what to write.
        sequences: contract, windows, tier rule.
        horizon_days: of the outcomes.
        snapshot: read in place of all files that it knows; its date lies before no output's.
    """

    events: Sequence[TableFile]
    days: Sequence[TableFile]
    sorted_events: bool
    outputs: Sequence[Output]
    sequences: SequenceSpec
    horizon_days: int
    snapshot: Snapshot | None = None
    targets: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows of the larger input the users have that the pass holds at once."""
        if self.snapshot is None:
            return max(sum(f.rows for f in files) for files in (self.events_needed, self.days))
        new = max(sum(f.rows for f in files) for files in (self.snapshot.new_events, self.snapshot.new_days))
        standing = sum(f.rows for f in self.snapshot.files) * self.sequences.contract.length
        return new + min(standing, sum(f.rows for f in self.events))

    @property
    def dates(self) -> list[dt.date]:
        """As-of dates of outputs that hold events."""
        return [o.as_of for o in self.outputs if o.kind != OUTCOMES]

    @property
    def last_day(self) -> dt.date:
        """The day after the last day that an output depends on."""
        horizon = dt.timedelta(days=self.horizon_days)
        return max((o.as_of + horizon if o.kind == OUTCOMES else o.as_of for o in self.outputs), default=dt.date.min)

    @property
    def events_needed(self) -> Sequence[TableFile]:
        """Files of events before the last date of the sequences."""
        last = max(self.dates, default=dt.date.min)
        return [f for f in self.events if f.date < last]


class RangeReader:
    """What is known of the users of a range at each as-of date of a pass."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        """Read the days, and the events where an output holds any.

        Raises:
            StorageError: a file is missing or damaged.
        """
        standing = None
        self.days: DayReader | CarriedDays
        if work.snapshot is None:
            self.days = DayReader(work, users)
        else:
            standing = Standing(work.snapshot, users, work.sequences)
            self.days = CarriedDays(work, work.snapshot, users, standing)
        self._events = EventReader(work, users, standing) if work.dates else None

    @property
    def events(self) -> EventReader:
        """Of a pass with an output that holds events."""
        assert self._events is not None
        return self._events


@dataclasses.dataclass(frozen=True)
class Run:
    """Events of one date, or of a snapshot.

    Attributes:
        rows: the events.
        ids: reads their event ids, which are rarely needed.
        date: of all of them; of a snapshot the least.
    """

    rows: pa.Table
    ids: Callable[[], pa.Array]
    date: dt.date = dt.date.min


class EventReader:
    """Events of a range of users: read once, and with `known_by` ingested_at cut anew for each date."""

    def __init__(self, work: Pass, users: UserRange, standing: Standing | None = None) -> None:
        self._work, self._users, self._contract = work, users, work.sequences.contract
        self._by_arrival = self._contract.known_by == "ingested_at"
        self.runs = self._of_files(work.events_needed) if standing is None else []
        self.rows = sum(run.rows.num_rows for run in self.runs)
        if standing is not None:
            self._merged: UserEvents | None = self._since(standing)
        else:
            self._merged = None if self._by_arrival else self._merge(self.runs)
        self.runs = self.runs if self._by_arrival else []  # their memory is of use to what comes next

    def known(self, as_of: dt.date) -> UserEvents:
        """Events that were known at a date, and perhaps later ones that a cut at the date leaves out."""
        return self._merged or self._merge([self._arrived(run, as_of) for run in self.runs])

    def _of_files(self, files: Sequence[TableFile], only: pa.Array | None = None) -> list[Run]:
        return [self._run(f, only) for f in files if self._users.overlaps(f.first, f.last)]

    def _run(self, file: TableFile, only: pa.Array | None) -> Run:
        """The events of a file, of all users of the range or `only` of some."""
        rows = self._read(file, self._columns, only)
        return Run(
            rows, lambda: self._read(file, ["user_id", "event_id"], only)["event_id"].combine_chunks(), file.date
        )

    def _read(self, file: TableFile, columns: list[str], only: pa.Array | None) -> pa.Table:
        rows = read_range(file, self._users, columns, ["user_id", *self._contract.categorical])
        rows = rows if only is None else rows.filter(_belong(rows["user_id"], only))
        # What arrived later is left out before the cut, so with ingested_at the cut must wait for the date.
        return rows if self._by_arrival or not self._work.sorted_events else cut_run(rows, self._contract.length)

    def _since(self, standing: Standing) -> UserEvents:
        """The events of a snapshot, but of the users of what has come since those of both, merged.

        Of a member with late events, the days that they lie in are read anew, all events: ids tell the order of one
        instant, and a snapshot has none.
        """
        snapshot, needed, known = self._work.snapshot, self._work.events_needed, standing.events()
        assert snapshot is not None
        new, dates = set(snapshot.new_events), snapshot.late_dates
        runs = self._of_files([f for f in needed if f in new])
        late = _distinct([run.rows["user_id"] for run in runs if run.date in dates])
        if len(late):
            runs += self._of_files([f for f in needed if f not in new and f.date in dates], late)
        touched = _distinct([run.rows["user_id"] for run in runs])
        if not len(touched):
            return known
        before = known.run_of(touched)
        left_out = _of_users_and_dates(before, late, dates) if len(late) else None
        first = Run(before, lambda: pa.nulls(before.num_rows, pa.string()))
        return known.replaced(self._merge([first, *sorted(runs, key=lambda run: run.date)], left_out))

    def _merge(self, runs: list[Run], left_out: Ints | None = None) -> UserEvents:
        attributes = [c for c in self._channels if c not in ("amount", "event_type")]
        tables_ = [run.rows for run in runs]
        tables_ = tables_ or [_empty(tables.events(dict.fromkeys(attributes, "categorical"))).select(self._columns)]
        ids = (lambda k: runs[k].ids()) if self._work.sorted_events else None
        return UserEvents.from_runs(tables_, self._contract.numeric, self._contract.categorical, ids, left_out)

    def _arrived(self, run: Run, as_of: dt.date) -> Run:
        early = pc.less(run.rows["ingested_at"], pa.scalar(midnight(as_of), pa.timestamp("us", "UTC")))

        def chosen(rows: pa.Table) -> pa.Table:
            rows = rows.filter(early)
            return cut_run(rows, self._contract.length) if self._work.sorted_events else rows

        def ids() -> pa.Array:
            return chosen(run.rows.select(["user_id"]).append_column("event_id", run.ids()))[
                "event_id"
            ].combine_chunks()

        return Run(chosen(run.rows), ids, run.date)

    @property
    def _channels(self) -> tuple[str, ...]:
        return (*self._contract.numeric, *self._contract.categorical)

    @property
    def _columns(self) -> list[str]:
        further = ["ingested_at"] if self._by_arrival else []
        further += [] if self._work.sorted_events else ["event_id"]
        return ["user_id", "event_time", *self._channels, *further]


class DayReader:
    """Rollup days of a range of users, all of them; with `known_by` ingested_at cut anew for each date."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        self._spec, self._by_arrival = work.sequences.aggregates, work.sequences.contract.known_by == "ingested_at"
        columns = _day_columns(work, self._by_arrival)
        self._runs = _day_runs([f for f in work.days if f.date < work.last_day], users, columns, work)
        self.all = DayHistory.from_runs(self._runs)
        self._runs = self._runs if self._by_arrival else []  # their memory is of use to what comes next

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
    """The same from the figures of a snapshot and the days that have come and gone since."""

    def __init__(self, work: Pass, snapshot: Snapshot, users: UserRange, standing: Standing) -> None:
        spec, columns = work.sequences.aggregates, _day_columns(work, False)
        added = _day_runs([f for f in snapshot.new_days if f.date < work.last_day], users, columns, work)
        last = max(work.dates, default=snapshot.as_of)
        gone = leaving_days(spec, snapshot.as_of, last)
        leaving = _day_runs([f for f in snapshot.known_days if f.date in gone], users, ["user_id", *spec.summed], work)
        early = [run.filter(pc.less(run["day"], snapshot.as_of)) for run in added]
        of_late = _distinct([run["user_id"] for run in early])
        everyone = any(o.kind == SNAPSHOTS for o in work.outputs)
        self.all, needed = DayHistory.from_runs(added), carried_columns(spec)
        runs = [in_steps(run, needed) for run in added]
        if not everyone:
            runs = [run.filter(pc.is_in(run["user_id"], of_late)) for run in runs]
        if everyone or len(of_late):
            runs = [standing.days(None if everyone else of_late), *runs]
        self._late = DayHistory.from_runs(runs)
        self._carried = Carried(standing.totals, self.all, DayHistory.from_runs(leaving), self._late, spec)

    def totals(self, as_of: dt.date) -> Totals:
        """The figures of the members known at a date."""
        return self._carried.at(as_of)

    def members(self, as_of: dt.date) -> pa.Array:
        """The members known at a date, ascending."""
        return self.totals(as_of).users

    def before(self, as_of: dt.date) -> UserDays:
        """All days before a date, where the pass writes a snapshot; else those of members with late ones alone."""
        return self._late.before(as_of)


def _day_columns(work: Pass, by_arrival: bool) -> list[str]:
    """Columns to read; the day itself is the partition: it stands in the file's place, and need not stand in it."""
    spec = work.sequences.aggregates
    left_out = {"day"}
    if not by_arrival:
        left_out.add("arrival_date")
    if "points" not in spec.summed:
        left_out.add("points")
    return [c for c in tables.user_days(spec.event_types).columns if c not in left_out]


def _day_runs(files: Sequence[TableFile], users: UserRange, columns: list[str], work: Pass) -> list[pa.Table]:
    """The days of files, a run each; one without rows where there are none."""
    read = [f for f in files if users.overlaps(f.first, f.last)]
    runs = [_with_day(read_range(f, users, columns), f.date) for f in read]
    return runs or [_empty(tables.user_days(work.sequences.aggregates.event_types)).select([*columns, "day"])]


def _with_day(rows: pa.Table, date: dt.date) -> pa.Table:
    return rows.append_column("day", pa.repeat(pa.scalar(date, pa.date32()), rows.num_rows))


def _empty(table: tables.Table) -> pa.Table:
    return table.arrow_schema.empty_table()


def _of_users_and_dates(events: pa.Table, users: pa.Array, dates: Collection[dt.date]) -> Ints:
    """Places of the events of some users on some dates; of few users, so that few times are looked at."""
    theirs = np.flatnonzero(_belong(events["user_id"], users).to_numpy())
    days = events["event_time"].take(pa.array(theirs)).cast(pa.date32())
    return theirs[pc.is_in(days, pa.array(sorted(dates), pa.date32())).to_numpy()]


def _distinct(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    """The ids of some columns, each once."""
    chunks = [pc.unique(chunk).cast(pa.string()) for column in columns for chunk in column.chunks]
    return pc.unique(pa.chunked_array(chunks, pa.string()))


def _belong(ids: pa.ChunkedArray, users: pa.Array) -> pa.ChunkedArray:
    """Whether each id of a dictionary-encoded column is one of the users."""
    found = [pc.is_in(c.dictionary.cast(pa.string()), users).take(c.indices) for c in ids.chunks]
    return pa.chunked_array(found, pa.bool_())
