"""Events in; rollups and, for each as-of date, one row of `sequences` per known user out."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence

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


def run(job: Job) -> None:
    """Bring the rollup up to date, then build each as-of date that is not there yet."""
    with job.run("update_user_days", None) as record:
        update_user_days(job, record)
    for date in job.as_of:
        with job.run("build_sequences", date) as record:
            build_sequences(job, record, date)


def update_user_days(job: Job, record: Run) -> None:
    """Write the rollup's days whose events changed since it was last written."""
    spark, spec = job.spark, job.settings.aggregates
    events_uri, uri, table = job.uri("events"), job.uri("user_days"), tables.user_days(spec.event_types)
    if not delta.exists(spark, events_uri):
        raise DateError(f"there are no events at {events_uri}: run ingest_events first")
    delta.ensure(spark, uri, table)
    seen, record.versions = delta.version(spark, uri), {"events": delta.version(spark, events_uri)}
    notes: dict[str, int | str] = {
        "built_from": record.versions["events"],
        "rollup": delta.fingerprint(table.columns, spec.rule.points),
    }
    same_rollup = delta.last_note(spark, uri, "rollup") == notes["rollup"]
    before = delta.last_note(spark, uri, "built_from") if same_rollup else None
    update = rollup.stale_days(spark, events_uri, record.versions["events"], None if before is None else int(before))
    if not update.needed:
        record.status = "unchanged"
        return
    events = rollup.of_days(delta.read(spark, events_uri, record.versions["events"]), "event_date", update)
    rows = rollup.user_days(events, spec).repartition("day")
    record.versions["user_days"] = delta.commit(rows, uri, table, record.id, seen, rollup.predicate(update), notes)


def build_sequences(job: Job, record: Run, date: dt.date) -> None:
    """Write the sequences of one as-of date, unless they stand already."""
    spark, spec, contract = job.spark, job.settings.sequences, job.settings.contract
    uri, table = job.uri("sequences"), tables.sequences(contract, aggregate_columns(spec.aggregates))
    events, days = delta.read(spark, job.uri("events")), delta.read(spark, job.uri("user_days"))
    delta.ensure(spark, uri, table)
    seen = delta.version(spark, uri)
    inputs = delta.inputs_before(spark, job.uri("events"), date, contract.id)
    if delta.has_inputs(spark, uri, date, inputs):
        record.status = "unchanged"
        return
    kernels.check_known(days, date)
    size = job.settings.sequence.events_per_bucket
    rows = kernels.sequences(events, days, date, spec, size, events.count())
    record.versions["sequences"] = delta.commit_date(rows, uri, table, record.id, seen, date, inputs)
    record.counts["rows"] = delta.read(spark, uri).where(delta.date_is("as_of_date", date)).count()


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
