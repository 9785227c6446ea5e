"""Scores of one as-of date: tasks that read sequences, or build them from events, and score them where they are."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

import pyarrow as pa

from features.building import range_tasks
from features.building.pass_plan import SEQUENCES, Output, Pass
from features.building.range_tasks import rows_of_range
from features.core.contract import Contract, array_column
from features.core.errors import DateError
from features.storage import delta_tables, file_reader, schemas, table_log, user_ranges
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange
from jobs.running.job import Job, Run
from jobs.steps import as_of_tables, pinned_inputs
from training.inputs.column_names import AS_OF, TIER_RANK


@dataclasses.dataclass(frozen=True)
class Members:
    """Who is to be scored, by ranges of users: rows of `sequences` that the scoring task reads or builds by itself.

    Attributes:
        as_of: the as-of date.
        ranges: what tasks take one by one.
        rows_of: the rows of a range.
        count: how many there are; None where only the build will tell.
    """

    as_of: dt.date
    ranges: Sequence[UserRange]
    rows_of: Callable[[UserRange], pa.Table]
    count: int | None = None

    @classmethod
    def stored(
        cls, files: Sequence[TableFile], as_of: dt.date, contract: Contract, rows_per_range: int, tasks_at_once: int
    ) -> Members:
        """Those of the active files of one as-of date of `sequences`."""
        columns = [*_STANDING, *(c for c in contract.input_columns if c not in _STANDING)]
        inside = [array_column(c) for c in contract.categorical]
        count = sum(f.rows for f in files)

        def rows_of(users: UserRange) -> pa.Table:
            found = [
                file_reader.read_range(f, users, columns, _WORDS, inside)
                for f in files
                if users.overlaps(f.first, f.last)
            ]
            rows = pa.concat_tables(found) if found else _no_members(contract).select(columns)
            return rows.append_column(AS_OF, pa.repeat(pa.scalar(as_of, pa.date32()), rows.num_rows))

        ranges = user_ranges.user_ranges(user_ranges.ranges_needed(count, rows_per_range, tasks_at_once))
        return cls(as_of, ranges, rows_of, count)

    @classmethod
    def built(cls, work: Pass, ranges: Sequence[UserRange]) -> Members:
        """Those of a pass with one output, sequences, which are built where they are scored and never written."""
        (as_of,) = work.dates
        return cls(as_of, ranges, lambda users: next(rows for _, rows in rows_of_range(work, users)))


def inputs_of_members(job: Job, date: dt.date) -> str:
    """Fingerprint of the sequences of a date as the events are now; where there are no events, of those that stand.

    Raises:
        DateError: there are neither events nor sequences of the date.
    """
    if delta_tables.exists(job.spark, job.uri("events")):
        return as_of_tables.inputs_of(job, pinned_inputs.pin_events(job), SEQUENCES, date)
    uri = job.existing(SEQUENCES)
    found = [i for i in table_log.inputs_at(uri, delta_tables.version(job.spark, uri), date) if i]
    if len(found) != 1:
        raise DateError(
            f"there are no sequences as of {date}, and no events to build them from: run ingest_events first"
        )
    return found[0]


def members(job: Job, date: dt.date, inputs: str, record: Run) -> tuple[Members, str]:
    """The members known at a date: their sequences where those of these inputs stand, else built for scoring.

    Their fingerprint comes with them: it is another than `inputs` where events have come in meanwhile.
    """
    settings, uri = job.settings, job.uri(SEQUENCES)
    if delta_tables.exists(job.spark, uri):
        seen = delta_tables.version(job.spark, uri)
        if table_log.inputs_at(uri, seen, date) == {inputs}:
            record.versions = {SEQUENCES: seen}
            files = [f for f in table_log.active_files(uri, seen) if f.date == date]
            at_once = job.spark.sparkContext.defaultParallelism
            return Members.stored(files, date, settings.contract, settings.scoring.rows_per_range, at_once), inputs
    pinned = pinned_inputs.update_user_days(job)  # the events may be newer than a moment ago
    as_of_tables.check(job, pinned, SEQUENCES, date)
    record.versions, inputs = dict(pinned.versions), as_of_tables.inputs_of(job, pinned, SEQUENCES, date)
    work = as_of_tables.reading(job, pinned, [Output(SEQUENCES, uri, date, inputs)])
    ranges = range_tasks.ranges_of_users(
        work, settings.sequence.rows_per_range, job.spark.sparkContext.defaultParallelism
    )
    return Members.built(work, ranges), inputs


_WORDS = ("current_tier", "next_tier", "gap_measure")
_STANDING = ("user_id", TIER_RANK, *_WORDS, "gap_to_next_tier", "length", "truncated")


def _no_members(contract: Contract) -> pa.Table:
    return schemas.sequences(contract, dict.fromkeys(contract.aggregates, "")).arrow_schema.empty_table()
