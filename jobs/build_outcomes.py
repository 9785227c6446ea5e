"""Rollups in; for each as-of date whose horizon has passed, what became of each known user out."""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Sequence

from features import as_of as kernels
from features import delta, outcomes, tables
from jobs.build_sequences import update_user_days
from jobs.job import Job, Run, main, parser

ARGUMENTS = parser(
    "build_outcomes",
    reads="events (their files' names only), user_days.",
    writes="user_days where it is stale, outcomes, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2017-03-01..2017-07-01/1mo",
    as_of="required",
)


def run(job: Job) -> None:
    """Bring the rollup up to date, then write the outcomes of each as-of date."""
    with job.run("update_user_days", None) as record:
        update_user_days(job, record)
    for date in job.as_of:
        with job.run("build_outcomes", date) as record:
            build_outcomes(job, record, date)


def build_outcomes(job: Job, record: Run, date: dt.date) -> None:
    """Write the outcomes of one as-of date, unless they stand already."""
    spark, settings = job.spark, job.settings
    uri, days, horizon = job.uri("outcomes"), delta.read(job.spark, job.uri("user_days")), settings.horizon.days
    delta.ensure(spark, uri, tables.OUTCOMES)
    seen, end = delta.version(spark, uri), outcomes.horizon_end(date, horizon)
    inputs = delta.inputs_before(
        spark, job.uri("events"), end, settings.aggregates.rule.canonical(), horizon, settings.known_by
    )
    if delta.has_inputs(spark, uri, date, inputs):
        record.status = "unchanged"
        return
    kernels.check_known(days, date)
    outcomes.check_horizon_passed(delta.scalar(days.agg({"day": "max"})), date, horizon)
    buckets = max(1, math.ceil(days.count() / settings.sequence.events_per_bucket))
    rows = kernels.outcomes(days, date, horizon, settings.aggregates, settings.known_by, buckets)
    record.versions["outcomes"] = delta.commit_date(rows, uri, tables.OUTCOMES, record.id, seen, date, inputs)
    record.counts["rows"] = delta.read(spark, uri).where(delta.date_is("as_of_date", date)).count()


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
