"""Rollups in; for each as-of date whose horizon has passed, what became of each known user out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame

from features import as_of as kernels
from features import delta, outcomes, tables
from jobs.build_sequences import Pinned, update_user_days
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
    pinned = update_user_days(job)
    for date in job.as_of:
        with job.run("build_outcomes", date) as record:
            build_outcomes(job, record, pinned, date)


def build_outcomes(job: Job, record: Run, pinned: Pinned, date: dt.date) -> None:
    """Write the outcomes of one as-of date, unless they stand already."""
    spark, settings = job.spark, job.settings
    horizon, spec, known_by = settings.horizon.days, settings.aggregates, settings.known_by
    end = outcomes.horizon_end(date, horizon)

    def rows() -> DataFrame:
        days = delta.read(spark, job.uri("user_days"), pinned.user_days)
        kernels.check_known(days, date)
        outcomes.check_horizon_passed(delta.scalar(days.agg({"day": "max"})), date, horizon)
        buckets = max(1, math.ceil(days.count() / settings.sequence.events_per_bucket))
        return kernels.outcomes(days, date, horizon, spec, known_by, buckets)

    of_window = (spec.rule.canonical(), horizon, known_by)
    inputs = delta.inputs_before(spark, job.uri("events"), pinned.events, end, *of_window)
    record.versions = dataclasses.asdict(pinned)
    job.write_date(record, tables.OUTCOMES, date, inputs, rows)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
