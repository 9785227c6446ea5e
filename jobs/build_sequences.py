"""Events in; rollups and, for each as-of date, one row of `sequences` per known user out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame

from features import as_of as kernels
from features import delta, rollup, tables
from features.aggregates import aggregate_columns
from features.errors import DateError
from jobs.job import Job, Run, main, parser

ARGUMENTS = parser(
    "build_sequences",
    reads="events.",
    writes="user_days, sequences, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2017-10-01",
    as_of="required",
)


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Versions of `events` and of the `user_days` that were built from exactly these events.

    Every date of a run reads both at these versions: an ingest in between changes nothing half way.
    """

    events: int
    user_days: int


def run(job: Job) -> None:
    """Bring the rollup up to date, then build each as-of date that is not there yet."""
    pinned = update_user_days(job)
    for date in job.as_of:
        with job.run("build_sequences", date) as record:
            build_sequences(job, record, pinned, date)


def update_user_days(job: Job) -> Pinned:
    """Write the rollup's days whose events changed since it was last written."""
    with job.run("update_user_days", None) as record:
        return _update_user_days(job, record)


def _update_user_days(job: Job, record: Run) -> Pinned:
    spark, spec = job.spark, job.settings.aggregates
    events_uri, uri, table = job.uri("events"), job.uri("user_days"), tables.user_days(spec.event_types)
    if not delta.exists(spark, events_uri):
        raise DateError(f"there are no events at {events_uri}: run ingest_events first")
    delta.ensure(spark, uri, table)
    seen, at = delta.version(spark, uri), delta.version(spark, events_uri)
    notes: dict[str, int | str] = {"built_from": at, "rollup": delta.fingerprint(table.columns, spec.rule.points)}
    same_rollup = delta.last_note(spark, uri, "rollup") == notes["rollup"]
    before = delta.last_note(spark, uri, "built_from") if same_rollup else None
    update = rollup.stale_days(spark, events_uri, at, None if before is None else int(before))
    if update.needed:
        events = rollup.of_days(delta.read(spark, events_uri, at), "event_date", update)
        rows = rollup.user_days(events, spec).repartition("day")
        seen = delta.commit(rows, uri, table, record.id, seen, rollup.predicate(update), notes)
    else:
        record.status = "unchanged"
    record.versions = {"events": at, "user_days": seen}
    return Pinned(at, seen)


def build_sequences(job: Job, record: Run, pinned: Pinned, date: dt.date) -> None:
    """Write the sequences of one as-of date, unless they stand already."""
    spark, spec, contract = job.spark, job.settings.sequences, job.settings.contract
    size, events_uri = job.settings.sequence.events_per_bucket, job.uri("events")

    def rows() -> DataFrame:
        events = delta.read(spark, events_uri, pinned.events)
        days = delta.read(spark, job.uri("user_days"), pinned.user_days)
        kernels.check_known(days, date)
        return kernels.sequences(events, days, date, spec, size, events.count())

    inputs = delta.inputs_before(spark, events_uri, pinned.events, date, contract.id)
    record.versions = dataclasses.asdict(pinned)
    job.write_date(record, tables.sequences(contract, aggregate_columns(spec.aggregates)), date, inputs, rows)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
