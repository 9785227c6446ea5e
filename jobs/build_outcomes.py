"""Rollups in; for each as-of date whose horizon has passed, what became of each known user out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from features.reading import OUTCOMES
from jobs import passes
from jobs.job import Job, main, parser

ARGUMENTS = parser(
    "build_outcomes",
    reads="events (their files' names only), user_days.",
    writes="user_days where it is stale, outcomes, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2017-03-01..2017-07-01/1mo",
    as_of="required",
)


def run(job: Job) -> None:
    """Bring the rollup up to date, then write the outcomes of the as-of dates that are not there yet, in one pass."""
    pinned = passes.update_user_days(job)
    passes.write(job, pinned, [(OUTCOMES, date) for date in job.as_of])


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
