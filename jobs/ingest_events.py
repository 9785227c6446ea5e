"""Source rows in, accepted events out; refused rows are kept with their reasons."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence

from pyspark import StorageLevel

from features.core.errors import ReconciliationError, SourceError
from features.ingest import batch_files, gates, repeats, row_counts, shards, typed_rows
from features.ingest.pseudonyms import check_key, key_check, key_from_environment
from features.ingest.sources import check_expression, read_source
from features.spark.session import scratch
from features.storage import commits, delta_tables, schemas, table_log
from features.storage.failures import source_errors
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
    events_uri, rejected_uri = job.uri("events"), job.uri("events_rejected")
    key = key_from_environment(job.settings.pseudonyms.key_variable)
    source = read_source(spark, spec.source, since, until)
    points = job.settings.tiers.rule().points
    if points:
        check_expression(spark, points, spec.table.schema, "tiers.points")
    delta_tables.ensure(spark, events_uri, spec.table, {"tiercast.key_check": key_check(key)})
    delta_tables.ensure(spark, rejected_uri, schemas.EVENTS_REJECTED)
    check_key(key, delta_tables.table_property(spark, events_uri, "tiercast.key_check"), events_uri)
    seen, seen_rejected = delta_tables.version(spark, events_uri), delta_tables.version(spark, rejected_uri)

    known, within = table_log.active_files(events_uri, seen), spec.events.repeats_within_days
    columns = source.events.columns
    pieces = shards.cut(typed_rows.typed(source.events, spec), spec.checks(columns, key, record.now))
    if source.malformed is not None:
        pieces = pieces.unionByName(shards.cut_lines(typed_rows.refused_lines(source.malformed, key, record.now)))
    with source_errors("the source"):  # the first time that its rows are read
        sought = None
        if known:
            pieces = pieces.persist(StorageLevel.DISK_ONLY)
            known = known if within is None else shards.near(known, shards.dates(pieces), within)
            sought = shards.sought(pieces, known)
        settled = shards.settled(pieces, known, columns, sought).persist(StorageLevel.DISK_ONLY)
        counts = row_counts.counts(settled)
    by_status, new_days = row_counts.by_status(counts), row_counts.by_date(counts)
    read = counts.get((repeats.READ, None, None), 0)
    record.counts = {**by_status, "rows_read": read, **row_counts.by_type(counts), **row_counts.by_source(source)}
    if not read:
        raise SourceError("the source has no rows" + (f" from {since} to {until}" if since or until else ""))
    if sum(by_status.values()) != read:
        raise ReconciliationError(f"accepted + rejected + duplicates are not the rows read: {record.counts}")

    rows_per_file, refused = job.settings.sequence.rows_per_range, by_status[repeats.REJECTED]
    if refused:
        standing = table_log.file_uris(rejected_uri, seen_rejected)
        files = batch_files.write_refused(settled, rejected_uri, standing, refused, rows_per_file)
        if files:
            record.versions["events_rejected"] = commits.commit_files(
                rejected_uri, schemas.EVENTS_REJECTED, record.id, seen_rejected, [], files
            )
    rejected = batch_files.refused(settled, schemas.EVENTS_REJECTED.part(["reasons", "original"]))
    known_days = table_log.rows_by_date(table_log.active_files(events_uri, seen))
    gates.check_gates(by_status, rejected, known_days, new_days, job.settings.quality, record.now)
    record.versions["events"] = seen
    if not new_days:
        record.status = "unchanged"
        return
    files = batch_files.write(settled, events_uri, new_days, rows_per_file)
    record.versions["events"] = commits.append_files(events_uri, spec.table, record.id, seen, files)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
