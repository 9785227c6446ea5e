"""Trains a bundle from the tables of a job, and says how it is judged."""

from __future__ import annotations

from features.storage import delta_tables
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from training.spark.train_model import train_model
from training.spark.training_run import Trained
from training.spark.verdicts import Judging


def train(job: Job, record: Run, publish: bool = True) -> Trained:
    """Train and keep in the record which bundle it became, and whether it was refused; see `train_model`."""
    settings = job.settings
    record.versions = {name: delta_tables.version(job.spark, job.existing(name)) for name in ("sequences", "outcomes")}
    trained = train_model(
        job.spark,
        delta_tables.read(job.spark, job.uri("sequences"), record.versions["sequences"]),
        delta_tables.read(job.spark, job.uri("outcomes"), record.versions["outcomes"]),
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
