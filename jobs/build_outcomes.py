"""Rollups in; for each as-of date whose horizon has passed, what became of each known user out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from features.building.pass_plan import OUTCOMES
from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps import as_of_tables, pinned_inputs

ARGUMENTS = parser(
    "build_outcomes",
    reads="events (their files' names only), user_days.",
    writes="user_days where it is stale, outcomes, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2017-03-01..2017-07-01/1mo",
    as_of="required",
)


def run(job: Job) -> None:
    """Bring the rollup up to date, then write the outcomes of the as-of dates that are not there yet, in one pass."""
    pinned = pinned_inputs.update_user_days(job)
    as_of_tables.write(job, pinned, [(OUTCOMES, date) for date in job.as_of])


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
