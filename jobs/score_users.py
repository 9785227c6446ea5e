"""Sequences of an as-of date and a bundle in; one row of tier probabilities per user out, and the table of tiers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps.scores import score_users, write_tiers

ARGUMENTS = parser(
    "score_users",
    reads="the bundle named by `scoring.model_version`; sequences of the as-of date, or events where there are none.",
    writes="scores, tiers, drift, stale user_days, reports/AS_OF.html where the outcomes are not known yet, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01",
    as_of="required",
)


def run(job: Job) -> None:
    """Score each as-of date that is not scored by this bundle already."""
    write_tiers(job)
    for date in job.as_of:
        with job.run("score_users", date) as record:
            score_users(job, record, date)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
