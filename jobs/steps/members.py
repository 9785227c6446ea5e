"""The members known at a date: their sequences are read where they stand, else built in the tasks that score them."""

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
    """Members to score, by ranges of users; each scoring task reads or builds its rows of `sequences` itself.

    Attributes:
        as_of: the as-of date.
        ranges: of users; a task takes one at a time.
        rows_of: the rows of a range.
        count: how many members; None where only the build will tell.
    """

    as_of: dt.date
    ranges: Sequence[UserRange]
    rows_of: Callable[[UserRange], pa.Table]
    count: int | None = None

    @classmethod
    def stored(
        cls, files: Sequence[TableFile], as_of: dt.date, contract: Contract, rows_per_range: int, tasks_at_once: int
    ) -> Members:
        """Members read from the files of one as-of date of `sequences`."""
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
        """Members of a pass with one output: sequences are built where they are scored and never written."""
        (as_of,) = work.dates
        return cls(as_of, ranges, lambda users: next(rows for _, rows in rows_of_range(work, users)))


@dataclasses.dataclass(frozen=True)
class SequencesOfDate:
    """The sequences of a date before they are read.

    Attributes:
        date: the as-of date.
        inputs: their fingerprint as the events are now.
        version: of the table in which they stand; None: they are built where they are scored.
    """

    date: dt.date
    inputs: str
    version: int | None


def sequences_of(job: Job, date: dt.date) -> SequencesOfDate:
    """The sequences of a date, as the events are now; where there are no events, as they stand.

    Raises:
        DateError: there are neither events nor sequences of the date.
    """
    uri = job.uri(SEQUENCES)
    seen = delta_tables.version(job.spark, uri) if delta_tables.exists(job.spark, uri) else None
    found = set() if seen is None else table_log.inputs_at(uri, seen, date)
    if delta_tables.exists(job.spark, job.uri("events")):
        inputs = as_of_tables.inputs_of(job, pinned_inputs.pin_events(job), SEQUENCES, date)
        return SequencesOfDate(date, inputs, seen if found == {inputs} else None)
    job.existing(SEQUENCES)
    known = [one for one in found if one]
    if len(known) != 1:
        raise DateError(
            f"there are no sequences as of {date}, and no events to build them from: run ingest_events first"
        )
    return SequencesOfDate(date, known[0], seen)


def members(job: Job, sequences: SequencesOfDate, record: Run) -> tuple[Members, str]:
    """The members known at a date: their sequences where they stand, else built for scoring.

    Their fingerprint comes with them: it is another than `sequences.inputs` where events have come in meanwhile.
    """
    settings, uri, date = job.settings, job.uri(SEQUENCES), sequences.date
    at_once = job.spark.sparkContext.defaultParallelism
    if sequences.version is not None:
        record.versions = {SEQUENCES: sequences.version}
        files = [f for f in table_log.active_files(uri, sequences.version) if f.date == date]
        stored = Members.stored(files, date, settings.contract, settings.scoring.rows_per_range, at_once)
        return stored, sequences.inputs
    pinned = pinned_inputs.update_user_days(job)  # the events may be newer than a moment ago
    as_of_tables.check(job, pinned, SEQUENCES, date)
    record.versions, inputs = dict(pinned.versions), as_of_tables.inputs_of(job, pinned, SEQUENCES, date)
    work = as_of_tables.reading(job, pinned, [Output(SEQUENCES, uri, date, inputs)])
    return Members.built(work, range_tasks.ranges_of_users(work, settings.sequence.rows_per_range, at_once)), inputs


_WORDS = ("current_tier", "next_tier", "gap_measure")
_STANDING = ("user_id", TIER_RANK, *_WORDS, "gap_to_next_tier", "length", "truncated")


def _no_members(contract: Contract) -> pa.Table:
    return schemas.sequences(contract, dict.fromkeys(contract.aggregates, "")).arrow_schema.empty_table()
