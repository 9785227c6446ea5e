"""The Spark shell around the pure kernels: one pass over the files of a range of users answers many as-of dates.

A task takes a range of users, reads their rows from the active files of `events` and `user_days`, and writes one file
per output and date. Nothing crosses a shuffle, no row becomes a JVM object, and what a task holds follows from
`sequence.rows_per_range`, not from the data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from features import table_files, tables, tasks
from features.aggregates import aggregate_columns
from features.errors import DateError
from features.histories import DayHistory, UserEvents, cut_run, midnight
from features.outcomes import outcome_rows
from features.sequences import SequenceSpec, build_sequences
from features.table_files import AddedFile, TableFile, UserRange, read_range

SEQUENCES, OUTCOMES = "sequences", "outcomes"
_PARTITION = "as_of_date"


@dataclasses.dataclass(frozen=True)
class Output:
    """Rows of one table for one as-of date.

    Attributes:
        kind: `SEQUENCES` or `OUTCOMES`.
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
    """

    events: Sequence[TableFile]
    days: Sequence[TableFile]
    sorted_events: bool
    outputs: Sequence[Output]
    sequences: SequenceSpec
    horizon_days: int

    @property
    def rows(self) -> int:
        """How many rows of the larger input the pass reads."""
        return max(sum(f.rows for f in files) for files in (self.events_needed, self.days))

    @property
    def dates(self) -> list[dt.date]:
        """As-of dates of the sequences."""
        return [o.as_of for o in self.outputs if o.kind == SEQUENCES]

    @property
    def events_needed(self) -> Sequence[TableFile]:
        """Files of events before the last date of the sequences."""
        last = max(self.dates, default=dt.date.min)
        return [f for f in self.events if f.date < last]


def build(spark: SparkSession, work: Pass, rows_per_range: int) -> dict[Output, list[AddedFile]]:
    """Write the files of every output, uncommitted, and say which they are.

    Raises:
        pyspark.errors.PythonException: a file is missing or damaged, or the rollup is not of the events.
    """
    ranges = user_ranges(work, rows_per_range, spark.sparkContext.defaultParallelism)
    found: dict[Output, list[AddedFile]] = {output: [] for output in work.outputs}
    outputs = {(o.uri, str(o.as_of)): o for o in work.outputs}
    for file in tasks.files(spark, len(ranges), lambda k: build_range(work, ranges[k])):
        found[outputs[file.table, file.partition[_PARTITION]]].append(file)
    return found


def user_ranges(work: Pass, rows_per_range: int, tasks_at_once: int) -> list[UserRange]:
    """The ranges of users that tasks take one by one."""
    return table_files.user_ranges(table_files.ranges_needed(work.rows, rows_per_range, tasks_at_once))


def build_range(work: Pass, users: UserRange) -> Iterator[AddedFile]:
    """Write one file per output for the users of a range."""
    for output, rows in rows_of_range(work, users):
        if rows.num_rows:
            rows = rows.append_column("inputs_id", pa.repeat(output.inputs_id, rows.num_rows))
            columns = table_of(output.kind, work.sequences).columns
            yield table_files.write_file(rows.select(columns), output.uri, _PARTITION, output.as_of)


def rows_of_range(work: Pass, users: UserRange) -> Iterator[tuple[Output, pa.Table]]:
    """The rows of each output, but for `inputs_id`, of the users of a range."""
    days, spec = DayReader(work, users), work.sequences
    events = EventReader(work, users) if work.dates else None
    for output in work.outputs:
        known = days.known(output.as_of)
        if output.kind == SEQUENCES:
            assert events is not None
            yield output, build_sequences(events.known(output.as_of), known, output.as_of, spec)
        else:
            members = known.before(output.as_of).users
            yield output, outcome_rows(members, days.all, output.as_of, work.horizon_days, spec.aggregates)


def table_of(kind: str, spec: SequenceSpec) -> tables.Table:
    """The schema of an output."""
    if kind == OUTCOMES:
        return tables.OUTCOMES
    return tables.sequences(spec.contract, aggregate_columns(spec.aggregates))


def check_known(days: Sequence[TableFile], as_of: dt.date) -> None:
    """Raise DateError unless some event lies before `as_of`."""
    first = min((f.date for f in days if f.rows), default=None)
    if first is None:
        raise DateError("there are no events yet: run ingest_events first")
    if first >= as_of:
        raise DateError(f"as-of date {as_of} lies before all data: the first event is of {first}")


class EventReader:
    """Events of a range of users: read once, and with `known_by` ingested_at cut anew for each date."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        self._work, self._users, self._contract = work, users, work.sequences.contract
        self._by_arrival = self._contract.known_by == "ingested_at"
        self._files = [f for f in work.events_needed if users.overlaps(f.first, f.last)]
        self.runs = [self._run(f, self._columns) for f in self._files]
        self._merged = None if self._by_arrival else self._merge(self.runs, None)

    def known(self, as_of: dt.date) -> UserEvents:
        """Events that were known at a date, and perhaps later ones that a cut at the date leaves out."""
        return self._merged or self._merge([self._arrived(run, as_of) for run in self.runs], as_of)

    def _merge(self, runs: list[pa.Table], as_of: dt.date | None) -> UserEvents:
        ids = (lambda k: self._ids(k, as_of)) if self._work.sorted_events else None
        attributes = [c for c in self._channels if c not in ("amount", "event_type")]
        runs = runs or [_empty(tables.events(dict.fromkeys(attributes, "categorical"))).select(self._columns)]
        return UserEvents.from_runs(runs, self._contract.numeric, self._contract.categorical, ids)

    def _ids(self, k: int, as_of: dt.date | None) -> pa.Array:
        """Event ids of a run; read only where events of one instant lie in several files."""
        run = self._run(self._files[k], ["user_id", "event_id", *(["ingested_at"] if self._by_arrival else [])])
        return (run if as_of is None else self._arrived(run, as_of))["event_id"].combine_chunks()

    def _run(self, file: TableFile, columns: list[str]) -> pa.Table:
        run = read_range(file, self._users, columns, ["user_id", *self._contract.categorical])
        # What arrived later is left out before the cut, so with ingested_at the cut must wait for the date.
        return run if self._by_arrival or not self._work.sorted_events else cut_run(run, self._contract.length)

    def _arrived(self, run: pa.Table, as_of: dt.date) -> pa.Table:
        run = run.filter(pc.less(run["ingested_at"], pa.scalar(midnight(as_of), pa.timestamp("us", "UTC"))))
        return cut_run(run, self._contract.length) if self._work.sorted_events else run

    @property
    def _channels(self) -> tuple[str, ...]:
        return (*self._contract.numeric, *self._contract.categorical)

    @property
    def _columns(self) -> list[str]:
        further = ["ingested_at"] if self._by_arrival else []
        further += [] if self._work.sorted_events else ["event_id"]
        return ["user_id", "event_time", *self._channels, *further]


class DayReader:
    """Rollup days of a range of users: read once, and with `known_by` ingested_at cut anew for each date."""

    def __init__(self, work: Pass, users: UserRange) -> None:
        self._by_arrival = work.sequences.contract.known_by == "ingested_at"
        table = tables.user_days(work.sequences.aggregates.event_types)
        # The day is the partition: it stands in the file's place, and need not stand in the file.
        columns = [c for c in table.columns if c != "day" and (c != "arrival_date" or self._by_arrival)]
        files = [f for f in work.days if users.overlaps(f.first, f.last)]
        runs = [_with_day(read_range(f, users, columns), f.date) for f in files]
        self._runs = runs or [_empty(table).select([*columns, "day"])]
        self.all = DayHistory.from_runs(self._runs)

    def known(self, as_of: dt.date) -> DayHistory:
        """Days that were known at a date, and perhaps later ones that a cut at the date leaves out."""
        if not self._by_arrival:
            return self.all
        return DayHistory.from_runs([run.filter(pc.less(run["arrival_date"], as_of)) for run in self._runs])


def _with_day(rows: pa.Table, date: dt.date) -> pa.Table:
    return rows.append_column("day", pa.repeat(pa.scalar(date, pa.date32()), rows.num_rows))


def _empty(table: tables.Table) -> pa.Table:
    return table.arrow_schema.empty_table()
