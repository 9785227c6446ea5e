"""A bundle, and sequences and outcomes of an as-of date it never saw, in; figures beside baselines out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps.evaluation import evaluate_model
from training.report.words import summary_lines

ARGUMENTS = parser(
    "evaluate_model",
    reads="sequences (or events) and outcomes of `evaluation.as_of`, those of the training dates, the bundle, groups.",
    writes="evaluations, fairness, reports/AS_OF.html, reports/AS_OF.json, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml",
    as_of="optional",
)


def run(job: Job) -> None:
    """Evaluate the bundle on each date asked for, or on the configured one."""
    for date in job.as_of or [job.settings.evaluation.as_of]:
        with job.run("evaluate_model", date) as record:
            comparison, fairness = evaluate_model(job, record, date)
        job.say([*summary_lines(comparison), *(fairness.lines() if fairness else [])])


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
