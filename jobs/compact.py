"""The standing of every member at a date, from which later dates are carried on; and old sequences dropped."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Sequence

from features.building import range_tasks
from features.building.pass_plan import SEQUENCES, SNAPSHOTS, Output
from features.storage import commits, delta_tables, table_log
from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps import as_of_tables, dated_output, pinned_inputs
from jobs.steps.dated_output import Built, DatedOutput
from jobs.steps.pinned_inputs import Pinned

log = logging.getLogger("tiercast")

ARGUMENTS = parser(
    "compact",
    reads="events, user_days, and the snapshot that stands.",
    writes="snapshots in place of the one that stands, user_days where it is stale, runs; drops sequences older than\n"
    "`sequence.keep_days` before the date.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01",
    as_of="required",
)
ARGUMENTS.add_argument("--rebuild", action="store_true", help="from all events, whatever stands")


def run(job: Job) -> None:
    """Write the snapshot of the date asked for, of several the last, and drop old sequences."""
    date, pinned = job.as_of[-1], pinned_inputs.update_user_days(job)
    if job.settings.known_by == "ingested_at":
        log.info("with known_by: ingested_at dates are answered from all files: no snapshot is kept")
    else:
        write_snapshot(job, pinned, date)
    if job.settings.sequence.keep_days is not None:
        drop_sequences(job, date - dt.timedelta(days=job.settings.sequence.keep_days))


def write_snapshot(job: Job, pinned: Pinned, date: dt.date) -> None:
    """Write the snapshot of a date, from the one that stands where that is older; readers see the one or the other."""
    uri, settings, rebuild = pinned_inputs.snapshots_uri(job), job.settings, job.options.rebuild
    inputs, table = pinned_inputs.snapshot_inputs(pinned), range_tasks.table_of(SNAPSHOTS, settings.sequences)
    with job.run("compact", date) as record:
        range_tasks.check_known(pinned.event_files, date)
        record.versions = dict(pinned.versions)

        def build() -> Built:
            output = Output(SNAPSHOTS, uri, date, inputs)
            work = as_of_tables.reading(job, pinned, [output], rebuild)
            return Built(range_tasks.build(job.spark, work, settings.sequence.rows_per_range)[output])

        output = DatedOutput(table, uri, date, inputs, only_date=True)
        dated_output.write(job, record, output, build, rebuild)


def drop_sequences(job: Job, before: dt.date) -> None:
    """Take the sequences of as-of dates before one out of the table; VACUUM sweeps their files."""
    uri = job.uri(SEQUENCES)
    if not delta_tables.exists(job.spark, uri):
        return
    seen = delta_tables.version(job.spark, uri)
    old = {f.date for f in table_log.active_files(uri, seen) if f.date < before}
    with job.run("drop_sequences", None) as record:
        record.counts["dates"] = len(old)
        if not old:
            record.status = "unchanged"
            return
        table = range_tasks.table_of(SEQUENCES, job.settings.sequences)
        record.versions[SEQUENCES] = commits.commit_files(uri, table, record.id, seen, old, [])


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
