"""Snapshots: each member's last events and exact figures at a date, from which later dates are built.

A row holds all that later dates need of the time before: the last L events with their exact times, the figures of
`features.kernel.window_figures`, and the member's days, with the columns whose order matters when a day comes late.
A later date then reads the snapshot, the days since, the days that leave a window, and what came late, in place of the
whole history.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.core.contract import array_column
from features.kernel.day_histories import UserDays
from features.kernel.event_histories import UserEvents
from features.kernel.run_columns import ranges
from features.kernel.sequences import SequenceSpec, channel_arrays, lists
from features.kernel.user_ids import ascend
from features.kernel.window_figures import Totals, carried_columns
from features.storage import file_reader, schemas, table_log
from features.storage.schemas import DAYS, EVENT_TIMES, Table, day_column
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange

FORMAT = 1
"""To be raised when a column's meaning changes and no setting does."""


def identity(spec: SequenceSpec) -> str:
    """Fingerprint of what a row depends on beside the data: contract, windows, event types, tier rule."""
    a = spec.aggregates
    return table_log.fingerprint(FORMAT, spec.contract.to_dict(), a.figures, a.purchase_type, a.rule.canonical())


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The files of a snapshot, and the files of events and rollup that came since.

    Attributes:
        as_of: the snapshot holds what lies before this date.
        files: files of its rows.
        new_events: files of `events` that it does not hold: of its date and later, and late ones of earlier dates.
        new_days: the same of `user_days`.
        known_days: files of `user_days` that it holds.
    """

    as_of: dt.date
    files: Sequence[TableFile]
    new_events: Sequence[TableFile]
    new_days: Sequence[TableFile]
    known_days: Sequence[TableFile]

    @classmethod
    def since(
        cls,
        as_of: dt.date,
        files: Sequence[TableFile],
        events: tuple[Sequence[TableFile], Sequence[TableFile]],
        days: tuple[Sequence[TableFile], Sequence[TableFile]],
    ) -> Snapshot | None:
        """Compare active files, `(then, now)` of each table: those the snapshot was made from, and the present ones.

        None if a file of an earlier date is gone: its rows may have been removed, and the snapshot would still count
        them.
        """
        new: list[list[TableFile]] = []
        for then, now in (events, days):
            known = {f for f in then if f.date < as_of}
            if not known <= set(now):
                return None
            new.append([f for f in now if f not in known])
        return cls(as_of, files, new[0], new[1], [f for f in days[0] if f.date < as_of])

    @property
    def late_dates(self) -> set[dt.date]:
        """Dates before the snapshot's for which events have come since."""
        return {f.date for f in self.new_events if f.date < self.as_of}


def snapshot_rows(events: UserEvents, totals: Totals, days: UserDays, spec: SequenceSpec) -> pa.Table:
    """Rows of a snapshot for every member of the totals, without the fingerprint.

    Args:
        events: of the contract's channels.
        totals: figures at the snapshot's date.
        days: the days before the date, at least the columns of `carried_columns`.
        spec: contract, windows and tier rule.

    Raises:
        ValueError: the members of the three differ.
    """
    cut, counts = events.last(totals.as_of, spec.contract.length), days.last - days.first
    if not (cut.users.equals(totals.users) and days.users.equals(totals.users)):
        raise ValueError(f"as of {totals.as_of} events and rollup have other users: rebuild user_days")
    at, history = ranges(days.first, counts), days.history
    of_days = {DAYS: pa.array(history.day[at].astype(np.int32))}
    of_days |= {day_column(c): pa.array(history.columns[c][at]) for c in carried_columns(spec.aggregates)}
    return pa.table(
        {
            "user_id": totals.users,
            "as_of_date": pa.repeat(pa.scalar(totals.as_of, pa.date32()), len(totals.users)),
            **{name: pa.array(totals.figures[name]) for name in spec.aggregates.figures},
            EVENT_TIMES: lists(pa.array(cut.micros), cut.lengths),
            **channel_arrays(events, cut, spec.contract),
            **{name: lists(values, counts) for name, values in of_days.items()},
        }
    )


class SnapshotReader:
    """Reads a snapshot's rows of a range of members."""

    def __init__(self, snapshot: Snapshot, users: UserRange, spec: SequenceSpec) -> None:
        """Read the figures; events and days are read when they are asked for.

        Raises:
            StorageError: a file is missing or damaged.
        """
        self._snapshot, self._range, self._spec = snapshot, users, spec
        rows = self._read(["user_id", *spec.aggregates.figures])
        ids = rows["user_id"].combine_chunks()
        rows = (
            rows if ascend(ids) else rows.take(pc.sort_indices(ids))
        )  # files may have been rewritten, in another order
        figures = {name: rows[name].to_numpy() for name in spec.aggregates.figures}
        self.totals = Totals(rows["user_id"].combine_chunks(), snapshot.as_of, figures)

    def events(self) -> UserEvents:
        """The last events of each member."""
        contract = self._spec.contract
        numbers, categories = ({c: array_column(c) for c in of} for of in (contract.numeric, contract.categorical))
        rows = self._read(["user_id", EVENT_TIMES, *numbers.values(), *categories.values()])
        return UserEvents.of_lists(
            rows["user_id"].combine_chunks(),
            rows[EVENT_TIMES],
            {c: rows[column] for c, column in numbers.items()},
            {c: rows[column] for c, column in categories.items()},
        )

    def days(self, users: pa.Array | None = None) -> pa.Table:
        """All days of some members, or of all, as a run of `carried_columns`, see `DayHistory.from_runs`."""
        columns = carried_columns(self._spec.aggregates)
        rows = self._read(["user_id", DAYS, *map(day_column, columns)])
        if users is not None:
            rows = rows.filter(pc.is_in(rows["user_id"], users))
        lengths = pc.list_value_length(rows[DAYS]).to_numpy()
        found = {c: pc.list_flatten(rows[day_column(c)]) for c in columns}
        ids = rows["user_id"].take(pa.array(np.repeat(np.arange(rows.num_rows), lengths)))
        return pa.table({"user_id": ids, "day": pc.list_flatten(rows[DAYS]).cast(pa.date32()), **found})

    def _read(self, columns: list[str]) -> pa.Table:
        inside = [array_column(c) for c in self._spec.contract.categorical if array_column(c) in columns]
        files = sorted(self._snapshot.files, key=lambda f: f.first or "")
        found = [
            file_reader.read_range(f, self._range, columns, inside=inside)
            for f in files
            if self._range.overlaps(f.first, f.last)
        ]
        if found:
            return pa.concat_tables(found)
        return table(self._spec).arrow_schema.empty_table().select(columns)


def table(spec: SequenceSpec) -> Table:
    """The schema of `snapshots`."""
    return schemas.snapshots(spec.contract, spec.aggregates.figures, carried_columns(spec.aggregates))
