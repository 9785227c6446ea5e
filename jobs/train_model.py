"""Sequences and outcomes of the training dates in; one model bundle out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps.training import train

ARGUMENTS = parser(
    "train_model",
    reads="sequences and outcomes of the dates under `training`.",
    writes="a bundle under models/VERSION with its verdict; it becomes `latest` unless it is refused; runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --set model.name=lstm",
    as_of=None,
)


def run(job: Job) -> None:
    """Train with Horovod on Spark's executors, unless a bundle of exactly these inputs stands already."""
    with job.run("train_model", job.settings.training.validation_as_of) as record:
        trained = train(job, record)
    if trained.manifest.verdict is not None:
        job.say(trained.manifest.verdict.lines(trained.version))


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
