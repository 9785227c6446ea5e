"""The one way to write rows of a date: do they stand? Else build, commit, count, reconcile, record.

Rows carry the fingerprint of all that they follow from, `inputs_id`. They stand where every row of the date carries the
fingerprint that is asked for. A commit replaces the rows of its date and of no other, so a job may be killed at any
point and started again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.storage import commits, delta_tables, table_log
from features.storage.file_writer import AddedFile
from features.storage.schemas import Table
from jobs.running.job import Job, Run, reconcile

_DATE = "as_of_date"


@dataclasses.dataclass(frozen=True)
class DatedOutput:
    """Rows of one as-of date in one table.

    Attributes:
        table: its schema; the record names counts and versions by it.
        uri: where it lies.
        date: the as-of date.
        inputs: fingerprint of all that the rows follow from.
        only_date: the table holds one date: the rows of all others go in the same commit.
    """

    table: Table
    uri: str
    date: dt.date
    inputs: str
    only_date: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """What a look at the table told: its version, and why the rows are to be written; None: they stand."""

    version: int
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Built:
    """Rows that are not committed yet: files that tasks wrote, or a frame with several rows for each member.

    `members` is how many members they must cover; None where only the build could tell.
    """

    rows: Sequence[AddedFile] | DataFrame
    members: int | None = None


B = TypeVar("B", bound=Built)


def look(job: Job, output: DatedOutput) -> Found:
    """Whether the rows stand; writes nothing."""
    if not delta_tables.exists(job.spark, output.uri):
        return Found(0, "missing")
    seen = delta_tables.version(job.spark, output.uri)
    return Found(seen, table_log.stale(table_log.inputs_at(output.uri, seen, output.date), output.inputs))


def write(job: Job, record: Run, output: DatedOutput, build: Callable[[], B], rebuild: bool = False) -> B | None:
    """Build and commit the rows unless they stand; returns what was built, None where they stood.

    Args:
        job: the open job.
        record: of the run; gets the status, the counts and the version of the table.
        output: what is asked for.
        build: writes the files, or makes the frame.
        rebuild: build even where the rows stand.
    """
    delta_tables.ensure(job.spark, output.uri, output.table)
    found = look(job, output)
    if found.reason is None and not rebuild:
        record.status = "unchanged"
        return None
    built = build()
    commit(job, record, output, found.version, built)
    return built


def commit(job: Job, record: Run, output: DatedOutput, seen: int, built: Built) -> None:
    """Commit what was built in place of the date's rows, and keep counts and version in the record.

    Files are counted before they are committed, a frame is counted in the table.

    Raises:
        ReconciliationError: the rows are not those of as many members as expected.
        ConcurrentWriteError: another writer committed the date since the version `seen`.
    """
    name, what = output.table.name, f"{output.table.name} as of {output.date}"
    if isinstance(built.rows, DataFrame):
        of_date = delta_tables.date_is(_DATE, output.date)
        at = commits.commit(built.rows, output.uri, output.table, record.id, seen, of_date)
        written = delta_tables.read(job.spark, output.uri, at).where(of_date)
        members, rows = written.agg(f.countDistinct("user_id"), f.count("*")).collect()[0]
        record.counts |= {"members": members, "rows": rows}
        reconcile(what, members if built.members is None else built.members, members)
    else:
        rows = record.counts["rows"] = sum(file.rows for file in built.rows)
        reconcile(what, rows if built.members is None else built.members, rows)
        replaced = {output.date}
        if output.only_date:
            replaced |= {file.date for file in table_log.active_files(output.uri, seen)}
        at = commits.commit_files(output.uri, output.table, record.id, seen, replaced, built.rows)
    record.versions[name] = at


def replace_rows(job: Job, record: Run, table: Table, rows: Sequence[tuple[object, ...]], where: str = "true") -> None:
    """Replace the rows of a small table that meet a condition, in one commit.

    Args:
        job: the open job.
        record: gets the version of the table.
        table: its schema; it lies where the settings say.
        rows: held by the driver: a few for each model and date.
        where: SQL condition of the rows that these replace; all of `rows` must meet it.
    """
    uri = job.uri(table.name)
    delta_tables.ensure(job.spark, uri, table)
    seen = delta_tables.version(job.spark, uri)
    frame = job.spark.createDataFrame(list(rows), table.schema).coalesce(1)
    record.versions[table.name] = commits.commit(frame, uri, table, record.id, seen, where)


def rows_of_model(date: dt.date, model_version: str) -> str:
    """The condition of the rows of a date and a model, for `replace_rows`."""
    return f"{delta_tables.date_is(_DATE, date)} AND model_version = '{model_version}'"
