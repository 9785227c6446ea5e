"""Training on Spark's executors: stage the examples, run the ranks with Horovod, leave a bundle.

Horovod's driver, task and rendezvous services listen on all addresses; their messages are signed by a per-job secret.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession

from features.core import places
from features.core.contract import Contract
from training.bundles import bundle_folder, encoders
from training.bundles.manifest import Manifest
from training.fitting.plan import Plan
from training.models.settings import ModelSettings
from training.settings.fitting import TrainingSettings
from training.settings.judging import CalibrationSettings
from training.spark import staging, verdicts
from training.spark.staging import Examples
from training.spark.training_run import Trained, TrainingData, TrainingFolders, finished, plan_of, taught, trained
from training.spark.verdicts import Judging

FORMAT = 2
"""Raised when a change of code changes what a training with equal settings gives."""

_NOT_IN_KEY = {"start_timeout_seconds", "network_interfaces", "prefetch_batches", "as_of"}
_OF_TEACHER = {"teacher_weight", "teacher_parts", "teacher_rows"}


def train_model(
    spark: SparkSession,
    data: TrainingData,
    model: ModelSettings,
    settings: TrainingSettings,
    judging: Judging,
    folders: TrainingFolders,
    progress: bool = True,
) -> Trained:
    """Train a model, judge it and write its bundle, or find the finished bundle of the same training.

    A bundle that was judged by other bounds, or whose judgement was cut short, is judged again and not trained.
    With `training.refit` that bundle is a candidate: if it is not refused, one with the validation date among its
    training dates follows. It takes over the candidate's verdict and is published, unless its training went wrong.

    Args:
        spark: whose task slots the ranks take, all at once: no dynamic allocation, no speculation.
        data: sequences and outcomes.
        model: which network.
        settings: how to train.
        judging: how to calibrate it, and when to publish it.
        folders: where bundles, examples and checkpoints lie.
        progress: whether to show a progress bar.

    Raises:
        BundleError: the pretrained encoder that the settings name is missing, damaged, or does not fit.
        TrainingDataError: the rows cannot train a model.
        RankFailedError: a rank failed; its own error is in the message.
        StorageError: a URI cannot be read or written.
    """
    start = encoders.chosen(folders.pretrained, data.contract, model, settings)
    if start is not None:
        settings = settings.model_copy(update={"pretrained": start.version})
    identity = staging.data_identity(data.sequences, data.outcomes, data.contract, settings, model.targets)
    trained = _Work(spark, data, model, judging, folders, progress, identity, start).done(settings)
    if judging.publish and not trained.refused:
        bundle_folder.point_latest(folders.models, trained.version)
    return trained


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the trainings of one call share; see `train_model`.

    `identity` says which rows are learned from; `start` is the pretrained encoder, if there is one.
    """

    spark: SparkSession
    data: TrainingData
    model: ModelSettings
    judging: Judging
    folders: TrainingFolders
    progress: bool
    identity: Mapping[str, Any]
    start: Manifest | None

    def done(self, settings: TrainingSettings) -> Trained:
        """The bundle that the settings ask for; with `refit` the candidate where only that passes the gate."""
        found = self.found(settings)
        if found is not None and not found.refused:
            return found
        alone = settings.model_copy(update={"refit": False})
        candidate = self.found(alone) or self.candidate(alone)
        if not settings.refit or (self.judging.publish and candidate.refused):
            return candidate
        refit = found or self.refitted(settings, candidate.manifest)
        return self.without(candidate, refit.manifest) if refit.refused else refit

    def found(self, settings: TrainingSettings) -> Trained | None:
        """The bundle if there is nothing left to do for it."""
        manifest = finished(self.folders.models, self.version(settings))
        if manifest is None or manifest.verdict is None:
            return None
        judged = not self.judging.publish or manifest.verdict.bounds == self.judging.gate.model_dump()
        return Trained(manifest.version, False, manifest) if judged else None

    def candidate(self, settings: TrainingSettings) -> Trained:
        """Trained unless it stands already; calibrated and, if it is to be published, judged."""
        examples = self.examples(settings)
        manifest, created = self.bundle(settings, examples)
        place = self.spark, self.folders.models
        if self.judging.publish:
            judged = verdicts.judge(*place, manifest, examples.training, examples.validation, self.judging)
            return Trained(judged.version, True, judged)
        calibrated = verdicts.calibrate(*place, manifest, examples.validation, self.judging)
        return Trained(calibrated.version, created, calibrated)

    def refitted(self, settings: TrainingSettings, candidate: Manifest) -> Trained:
        """The network that has also learned from the validation date, for as many epochs as were best there."""
        examples = self.examples(settings)
        manifest, created = self.bundle(settings, examples, candidate)
        if not self.judging.publish or candidate.verdict is None:
            return Trained(manifest.version, created, manifest)
        place, splits = (self.spark, self.folders.models), (examples.training, examples.validation)
        judged = verdicts.judge_refit(*place, manifest, candidate.verdict, *splits, self.judging)
        return Trained(judged.version, True, judged)

    def without(self, candidate: Trained, refit: Manifest) -> Trained:
        """The candidate, published in place of its refit; its verdict says why."""
        manifest, verdict = candidate.manifest, candidate.manifest.verdict
        assert verdict is not None  # there is no refit without one
        assert refit.verdict is not None
        note = f"its refit {refit.version} was refused: {'; '.join(refit.verdict.reasons)}"
        if note in verdict.notes:
            return candidate
        noted = dataclasses.replace(verdict, notes=(*verdict.notes, note))
        settled = bundle_folder.settle(self.folders.models, manifest, manifest.calibration, manifest.profile, noted)
        return Trained(settled.version, True, settled)

    def bundle(
        self, settings: TrainingSettings, examples: Examples, candidate: Manifest | None = None
    ) -> tuple[Manifest, bool]:
        """The whole bundle, and whether it was trained just now; for a refit the candidate says for how long."""
        version = self.version(settings)
        manifest = finished(self.folders.models, version)
        if manifest is not None:
            return manifest, False
        plan = self.plan(settings, examples)
        if candidate is not None:
            plan = dataclasses.replace(plan, until=best_epochs(candidate))
        if settings.teacher_weight:
            first = self.examples(settings.model_copy(update={"refit": False}))
            plan = taught(plan, first.training, first.validation)
        provenance = {**self.data.provenance, "inputs": self.identity}
        return trained(self.spark, plan, version, self.folders.models, provenance, self.progress, candidate), True

    def examples(self, settings: TrainingSettings) -> Examples:
        """The staged rows."""
        data, targets = self.data, self.model.targets
        folder = staging.folder_of(self.folders.staging, data.contract, settings, self.identity, targets)
        return staging.stage(data.sequences, data.outcomes, data.contract, settings, folder, targets)

    def plan(self, settings: TrainingSettings, examples: Examples) -> Plan:
        """The plan, its encoder pretrained if the settings name one."""
        key = self.key(settings)
        plan = plan_of(key, self.data.contract, self.model, settings, examples, self.folders.staging)
        if self.start is None:
            return plan
        network = places.join(self.folders.pretrained, self.start.version, bundle_folder.MODEL_FILE)
        return dataclasses.replace(plan, encoding=self.start.encoding, encoder_uri=network)

    def version(self, settings: TrainingSettings) -> str:
        """Name of the bundle."""
        return f"{self.model.name}-{settings.validation_as_of}-{self.key(settings)}"

    def key(self, settings: TrainingSettings) -> str:
        """See `training_key`."""
        return training_key(self.data.contract, self.model, settings, self.judging.calibration, self.identity)


def best_epochs(manifest: Manifest) -> tuple[int, ...]:
    """The epoch of least validation loss, from 1, of each network of a bundle."""
    networks = sorted({entry["member"] for entry in manifest.history})
    of_networks = ([entry for entry in manifest.history if entry["member"] == network] for network in networks)
    return tuple(int(min(epochs, key=lambda entry: entry["validation_loss"])["epoch"]) for epochs in of_networks)


def training_key(
    contract: Contract,
    model: ModelSettings,
    settings: TrainingSettings,
    calibration: CalibrationSettings,
    identity: Mapping[str, Any],
) -> str:
    """Twelve hexadecimal digits of everything that the forecasts depend on: contract, model, settings, rows."""
    targets = {"targets": model.targets} if model.targets else {}
    unused = _NOT_IN_KEY if settings.teacher_weight else _NOT_IN_KEY | _OF_TEACHER
    unused = unused if settings.refit else unused | {"refit"}
    return staging.digest(
        {
            "format": FORMAT,
            "contract": contract.to_dict(),
            "model": {"name": model.name, "parameters": model.resolved(), **targets},
            "settings": settings.model_dump(mode="json", exclude=unused),
            "dates": settings.dates,  # however they are written
            "calibration": calibration.model_dump(),
            "data": identity,
        }
    )
