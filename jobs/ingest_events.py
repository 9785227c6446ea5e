"""Source rows in, accepted events out; refused rows are kept with their reasons."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence

from features.ingest import row_counts
from features.ingest.batches import Batch, settled_batch
from features.ingest.gates import check_gates
from features.ingest.pseudonyms import check_key, key_check, key_from_environment
from features.ingest.sources import check_expression, read_source
from features.spark.session import scratch
from features.storage import commits, delta_tables, schemas, table_log
from jobs.running.command import main, parser
from jobs.running.job import Job, Run

ARGUMENTS = parser(
    "ingest_events",
    reads="the source tables of the settings, bounded by --since and --as-of where a table has a date_column.",
    writes="events, events_rejected, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --since 2017-09-30 --as-of 2017-10-01",
    as_of="optional",
)
ARGUMENTS.add_argument("--since", type=dt.date.fromisoformat, metavar="DATE", help="only source rows from this date on")


def run(job: Job) -> None:
    """Ingest everything, or what lies before the last as-of date."""
    until = max(job.as_of, default=None)
    with job.run("ingest_events", until) as record:
        ingest_events(job, record, job.options.since, until)


def ingest_events(job: Job, record: Run, since: dt.date | None, until: dt.date | None) -> None:
    """Classify the source's rows, keep the refused ones, stop at a shut gate, append the accepted ones."""
    with scratch(job.spark):
        _ingest(job, record, since, until)


def _ingest(job: Job, record: Run, since: dt.date | None, until: dt.date | None) -> None:
    spark, spec = job.spark, job.settings.ingest
    key = key_from_environment(job.settings.pseudonyms.key_variable)
    source = read_source(spark, spec.source, since, until)
    points = job.settings.tiers.rule().points
    if points:
        check_expression(spark, points, spec.table.schema, "tiers.points")
    uri, seen, seen_rejected = _open_tables(job, key)
    standing = table_log.active_files(uri, seen)
    batch = settled_batch(source, spec, key, record.now, standing)
    record.counts = {
        **batch.by_status,
        "rows_read": batch.read,
        **row_counts.by_type(batch.counts),
        **row_counts.by_source(source),
    }
    batch.check(since, until)
    _keep_rejected(job, record, batch, seen_rejected)
    known_days = table_log.rows_by_date(standing)
    check_gates(batch.by_status, batch.rejected, known_days, batch.new_days, job.settings.quality, record.now)
    record.versions["events"] = seen
    if not batch.new_days:
        record.status = "unchanged"
        return
    files = batch.write_events(uri, job.settings.sequence.rows_per_range)
    record.versions["events"] = commits.append_files(uri, spec.table, record.id, seen, files)


def _open_tables(job: Job, key: bytes) -> tuple[str, int, int]:
    """Where `events` lies, its version and that of `events_rejected`; PseudonymKeyError if the key is another."""
    spark, uri, rejected = job.spark, job.uri("events"), job.uri("events_rejected")
    delta_tables.ensure(spark, uri, job.settings.ingest.table, {"tiercast.key_check": key_check(key)})
    delta_tables.ensure(spark, rejected, schemas.EVENTS_REJECTED)
    check_key(key, delta_tables.table_property(spark, uri, "tiercast.key_check"), uri)
    return uri, delta_tables.version(spark, uri), delta_tables.version(spark, rejected)


def _keep_rejected(job: Job, record: Run, batch: Batch, seen: int) -> None:
    """Append the refused rows that do not stand already, whatever the gates will say."""
    uri, table = job.uri("events_rejected"), schemas.EVENTS_REJECTED
    files = batch.write_rejected(uri, table_log.file_uris(uri, seen), job.settings.sequence.rows_per_range)
    if files:
        record.versions["events_rejected"] = commits.commit_files(uri, table, record.id, seen, [], files)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
