"""Sequences and outcomes of the training dates in; one model bundle out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from features import delta
from jobs.job import Job, Run, main, parser
from jobs.settings import Settings
from training.spark_training import Trained, train_model
from training.spark_verdict import Judging

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


def train(job: Job, record: Run, publish: bool = True) -> Trained:
    """Train and keep in the record which bundle it became, and whether it was refused; see `train_model`."""
    settings = job.settings
    record.versions = {name: delta.version(job.spark, job.existing(name)) for name in ("sequences", "outcomes")}
    trained = train_model(
        job.spark,
        delta.read(job.spark, job.uri("sequences"), record.versions["sequences"]),
        delta.read(job.spark, job.uri("outcomes"), record.versions["outcomes"]),
        settings.contract,
        settings.model,
        settings.training,
        judging(settings),
        models_uri=settings.storage.models,
        staging_uri=settings.storage.staging,
        provenance={"tables": dict(record.versions), "settings": settings.model_dump(mode="json")},
        progress=True,
        pretrained_uri=settings.storage.pretrained,
        publish=publish,
    )
    verdict = trained.manifest.verdict
    record.status = "written" if trained.created else "unchanged"
    if verdict is not None and not verdict.published:
        record.status, record.message = "refused", "; ".join(verdict.reasons)
    record.counts, record.model_version = trained.counts, trained.version
    return trained


def judging(settings: Settings) -> Judging:
    """How the settings say that a bundle is judged."""
    scoring = settings.scoring.model_copy(update={"outputs": ()})
    return Judging(settings.calibration, settings.gate, scoring, settings.evaluation.max_users)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
