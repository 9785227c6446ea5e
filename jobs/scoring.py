"""Scores of one as-of date: tasks that read sequences, or build them from events, and score them where they are."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from features import as_of, delta, table_files, tables, tasks
from features.as_of import rows_of_range
from features.contract import Contract, array_column
from features.errors import DateError
from features.reading import SEQUENCES, Output, Pass
from features.table_files import AddedFile, TableFile, UserRange
from jobs import passes
from jobs.job import Job, Run
from training import drift
from training.bundle import Manifest
from training.drift import PREDICTED_TIER, Counted
from training.settings import ScoringSettings
from training.spark_scoring import TIER, forecast_rows, forecasts
from training.tensors import AS_OF, TIER_RANK, Array


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
                table_files.read_range(f, users, columns, _WORDS, inside)
                for f in files
                if users.overlaps(f.first, f.last)
            ]
            rows = pa.concat_tables(found) if found else _no_members(contract).select(columns)
            return rows.append_column(AS_OF, pa.repeat(pa.scalar(as_of, pa.date32()), rows.num_rows))

        ranges = table_files.user_ranges(table_files.ranges_needed(count, rows_per_range, tasks_at_once))
        return cls(as_of, ranges, rows_of, count)

    @classmethod
    def built(cls, work: Pass, ranges: Sequence[UserRange]) -> Members:
        """Those of a pass with one output, sequences, which are built where they are scored and never written."""
        (as_of,) = work.dates
        return cls(as_of, ranges, lambda users: next(rows for _, rows in rows_of_range(work, users)))


def score(
    spark: SparkSession, members: Members, manifest: Manifest, models_uri: str, settings: ScoringSettings
) -> DataFrame:
    """One row per member: the columns of `tables.scores` but for `scored_at` and `inputs_id`.

    Args:
        spark: the session.
        members: rows that follow the manifest's contract, see `training.bundle.check_fits`.
        manifest: of the bundle.
        models_uri: where the bundle lies; each Python worker reads it from there.
        settings: sizes of the network's calls.
    """
    fields = [f for f in tables.scores(manifest.contract.tiers, settings.outputs).fields if f.name not in _ADDED]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        rows = _scored(members, portion, manifest, models_uri, settings)
        yield from rows.select([f.name for f in fields]).to_batches()

    return tasks.rows(spark, len(members.ranges), work, StructType(fields))


def write_scores(
    spark: SparkSession,
    members: Members,
    manifest: Manifest,
    models_uri: str,
    settings: ScoringSettings,
    uri: str,
    added: Mapping[str, pa.Scalar],
    counted_rows: int,
) -> tuple[list[AddedFile], Counted | None]:
    """Write what `score` gives as files of `scores`, uncommitted; `added` are `scored_at` and `inputs_id`.

    With them comes what drift is measured by: about `counted_rows` members, counted by the profile of the bundle; None
    where it has no profile. They are the first members of the first ranges, and pseudonyms are as good as random.
    """
    columns, profile = tables.scores(manifest.contract.tiers, settings.outputs).columns, manifest.profile
    counting = min(len(members.ranges), _COUNTING)
    most = -(-counted_rows // counting)

    def work(portion: int) -> Iterator[tuple[AddedFile, Counted | None]]:
        rows = members.rows_of(members.ranges[portion])
        if not rows.num_rows:
            return
        found = forecasts(rows, models_uri, manifest, settings)
        counted = None
        if profile is not None and portion < counting:
            counted = profile.count(_watched(rows.slice(0, most), found[TIER][:most], manifest.contract))
        scored = forecast_rows(rows, found, manifest)
        for name, value in added.items():
            scored = scored.append_column(name, pa.repeat(value, scored.num_rows))
        scored = scored.select(columns)
        yield table_files.write_file(scored, uri, AS_OF, members.as_of, table_files.MEMBERS), counted

    written = tasks.found(spark, len(members.ranges), work)
    parts = [counted for _, counted in written if counted is not None]
    return [file for file, _ in written], functools.reduce(operator.add, parts) if parts else None


def _watched(rows: pa.Table, probabilities: Array, contract: Contract) -> dict[str, Array]:
    values: dict[str, Array] = {**drift.feature_values(rows, contract)}
    return values | {PREDICTED_TIER: probabilities.argmax(axis=1).astype(float)}


def _scored(members: Members, portion: int, manifest: Manifest, models_uri: str, settings: ScoringSettings) -> pa.Table:
    rows = members.rows_of(members.ranges[portion])
    return forecast_rows(rows, forecasts(rows, models_uri, manifest, settings), manifest)


def inputs_of_members(job: Job, date: dt.date) -> str:
    """Fingerprint of the sequences of a date as the events are now; where there are no events, of those that stand.

    Raises:
        DateError: there are neither events nor sequences of the date.
    """
    if delta.exists(job.spark, job.uri("events")):
        return passes.inputs_of(job, passes.pin_events(job), SEQUENCES, date)
    uri = job.existing(SEQUENCES)
    found = [i for i in table_files.inputs_at(uri, delta.version(job.spark, uri), date) if i]
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
    if delta.exists(job.spark, uri):
        seen = delta.version(job.spark, uri)
        if table_files.inputs_at(uri, seen, date) == {inputs}:
            record.versions = {SEQUENCES: seen}
            files = [f for f in table_files.active_files(uri, seen) if f.date == date]
            at_once = job.spark.sparkContext.defaultParallelism
            return Members.stored(files, date, settings.contract, settings.scoring.rows_per_range, at_once), inputs
    pinned = passes.update_user_days(job)  # the events may be newer than a moment ago
    passes.check(job, pinned, SEQUENCES, date)
    record.versions, inputs = dict(pinned.versions), passes.inputs_of(job, pinned, SEQUENCES, date)
    work = passes.reading(job, pinned, [Output(SEQUENCES, uri, date, inputs)])
    ranges = as_of.user_ranges(work, settings.sequence.rows_per_range, job.spark.sparkContext.defaultParallelism)
    return Members.built(work, ranges), inputs


_COUNTING = 64
"""Ranges in which members are counted: what the driver gets of them does not grow with the members."""
_WORDS = ("current_tier", "next_tier", "gap_measure")
_STANDING = ("user_id", TIER_RANK, *_WORDS, "gap_to_next_tier", "length", "truncated")
_ADDED = ("scored_at", "inputs_id")


def _no_members(contract: Contract) -> pa.Table:
    return tables.sequences(contract, dict.fromkeys(contract.aggregates, "")).arrow_schema.empty_table()
