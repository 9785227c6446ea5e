"""Trains a bundle from the tables of a job, and says how it is judged."""

from __future__ import annotations

import dataclasses

from features.storage import delta_tables
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from training.spark.train_model import train_model
from training.spark.training_run import Trained, TrainingData, TrainingFolders
from training.spark.verdicts import Judging


def train(job: Job, record: Run, publish: bool = True) -> Trained:
    """Train and keep in the record which bundle it became, and whether it was refused; see `train_model`."""
    settings = job.settings
    record.versions = {name: delta_tables.version(job.spark, job.existing(name)) for name in ("sequences", "outcomes")}
    sequences, outcomes = (delta_tables.read(job.spark, job.uri(name), at) for name, at in record.versions.items())
    provenance = {"tables": dict(record.versions), "settings": settings.model_dump(mode="json")}
    trained = train_model(
        job.spark,
        TrainingData(sequences, outcomes, settings.contract, provenance),
        settings.model,
        settings.training,
        dataclasses.replace(judging(settings), publish=publish),
        folders(settings),
    )
    verdict = trained.manifest.verdict
    record.status = "written" if trained.created else "unchanged"
    if verdict is not None and not verdict.published:
        record.status, record.message = "refused", "; ".join(verdict.reasons)
    record.counts, record.model_version = trained.counts, trained.version
    return trained


def folders(settings: Settings) -> TrainingFolders:
    """Where the settings say that bundles and staged examples lie."""
    return TrainingFolders(settings.storage.models, settings.storage.staging, settings.storage.pretrained)


def judging(settings: Settings) -> Judging:
    """How the settings say that a bundle is judged."""
    scoring = settings.scoring.model_copy(update={"outputs": ()})
    return Judging(settings.calibration, settings.gate, scoring, settings.evaluation.max_users)
