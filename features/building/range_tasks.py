"""Spark tasks that build sequences, outcomes and snapshots of many as-of dates.

A task takes a range of members, reads their rows from the active files of `events` and `user_days`, and writes one file
per output. There is no shuffle and no row becomes a JVM object. A task's memory depends on `sequence.rows_per_range`,
not on the size of the data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import SparkSession

from features.building import snapshots
from features.building.pass_plan import OUTCOMES, SNAPSHOTS, Output, Pass
from features.building.range_reader import RangeReader
from features.core.errors import DateError
from features.kernel.aggregates import aggregate_columns
from features.kernel.outcomes import outcome_rows
from features.kernel.sequences import SequenceSpec, build_sequences
from features.spark import workers
from features.storage import file_writer, schemas, user_ranges
from features.storage.file_writer import AddedFile
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange

_PARTITION = "as_of_date"


def build(spark: SparkSession, work: Pass, rows_per_range: int) -> dict[Output, list[AddedFile]]:
    """Write the files of every output and return them, uncommitted.

    Raises:
        pyspark.errors.PythonException: a file is missing or damaged, or the rollup does not fit the events.
    """
    ranges = ranges_of_users(work, rows_per_range, spark.sparkContext.defaultParallelism)
    found: dict[Output, list[AddedFile]] = {output: [] for output in work.outputs}
    outputs = {(o.uri, str(o.as_of)): o for o in work.outputs}
    for file in workers.found(spark, len(ranges), lambda k: build_range(work, ranges[k])):
        found[outputs[file.table, file.partition[_PARTITION]]].append(file)
    return found


def ranges_of_users(work: Pass, rows_per_range: int, tasks_at_once: int) -> list[UserRange]:
    """The ranges of members, one for each task."""
    return user_ranges.user_ranges(user_ranges.ranges_needed(work.rows, rows_per_range, tasks_at_once))


def build_range(work: Pass, users: UserRange) -> Iterator[AddedFile]:
    """Write one file per output for the members of a range."""
    for output, rows in rows_of_range(work, users):
        if rows.num_rows:
            rows = rows.append_column("inputs_id", pa.repeat(output.inputs_id, rows.num_rows))
            columns = table_of(output.kind, work.sequences, work.targets).columns
            rows = rows.select(columns)
            layout = file_writer.MEMBERS if output.kind == OUTCOMES else file_writer.STATES
            yield file_writer.write_file(rows, output.uri, _PARTITION, output.as_of, layout)


def rows_of_range(work: Pass, users: UserRange) -> Iterator[tuple[Output, pa.Table]]:
    """The rows of each output for the members of a range, without `inputs_id`."""
    reader, spec = RangeReader(work, users), work.sequences
    for output in work.outputs:
        as_of, days = output.as_of, reader.days
        if output.kind == OUTCOMES:
            yield (
                output,
                outcome_rows(days.members(as_of), days.all, as_of, work.horizon_days, spec.aggregates, work.targets),
            )
            continue
        events, totals = reader.events.known(as_of), days.totals(as_of)
        if output.kind == SNAPSHOTS:
            yield output, snapshots.snapshot_rows(events, totals, days.before(as_of), spec)
        else:
            yield output, build_sequences(events, totals, spec)


def table_of(kind: str, spec: SequenceSpec, targets: Sequence[str] = ()) -> schemas.Table:
    """The schema of an output; `targets` are those of outcomes."""
    if kind == OUTCOMES:
        return schemas.outcomes(targets)
    if kind == SNAPSHOTS:
        return snapshots.table(spec)
    return schemas.sequences(spec.contract, aggregate_columns(spec.aggregates))


def check_known(days: Sequence[TableFile], as_of: dt.date) -> None:
    """Raise DateError unless an event lies before `as_of`."""
    first = min((f.date for f in days if f.rows), default=None)
    if first is None:
        raise DateError("there are no events yet: run ingest_events first")
    if first >= as_of:
        raise DateError(f"as-of date {as_of} lies before all data: the first event is of {first}")
