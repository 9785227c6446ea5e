"""Sequences of the training dates in, outcomes not needed; one bundle of a pretrained encoder out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from features.storage import delta_tables
from jobs.running.command import main, parser
from jobs.running.job import Job, Run
from jobs.steps.training import folders
from training.spark.pretrain_model import pretrain_model
from training.spark.training_run import Trained, TrainingData

ARGUMENTS = parser(
    "pretrain_model",
    reads="sequences of the dates under `training`.",
    writes="a bundle under pretrained/VERSION, which becomes the `latest` of that folder; runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --set pretraining.epochs=40",
    as_of=None,
)


def run(job: Job) -> None:
    """Pretrain with Horovod on Spark's executors, unless a bundle of exactly these inputs stands already."""
    with job.run("pretrain_model", job.settings.training.validation_as_of) as record:
        pretrained = pretrain(job, record)
    job.say([f"pretrained encoder {pretrained.version}: start from it with --set training.pretrained=latest"])


def pretrain(job: Job, record: Run) -> Trained:
    """Pretrain and keep in the record which bundle it became."""
    settings = job.settings
    record.versions = {"sequences": delta_tables.version(job.spark, job.existing("sequences"))}
    sequences = delta_tables.read(job.spark, job.uri("sequences"), record.versions["sequences"])
    provenance = {"tables": dict(record.versions), "settings": settings.model_dump(mode="json")}
    pretrained = pretrain_model(
        job.spark,
        TrainingData(sequences, None, settings.contract, provenance),
        settings.model,
        settings.training,
        settings.pretraining,
        folders(settings),
    )
    record.status = "written" if pretrained.created else "unchanged"
    record.counts, record.model_version = pretrained.counts, pretrained.version
    return pretrained


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
