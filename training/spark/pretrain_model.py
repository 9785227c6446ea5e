"""Pretraining on Spark's executors: stage all sequences, run the ranks with Horovod, leave a bundle of the encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession

from features.core.contract import Contract
from training.bundles import bundle_folder, manifest
from training.bundles.encoders import check_can_pretrain
from training.models.settings import ModelSettings
from training.settings.fitting import PretrainingSettings, TrainingSettings
from training.spark import staging
from training.spark.training_run import Trained, TrainingData, TrainingFolders, finished, plan_of, trained

FORMAT = 1
"""Raised when a change of code changes what a pretraining with equal settings gives."""

_IN_KEY = {
    "as_of", "validation_as_of", "ranks", "shards", "batch", "batch_size", "epochs", "learning_rate", "warmup_epochs",
    "weight_decay", "average_decay", "patience", "mixed_precision", "vocabulary_size", "shuffle_rows", "by_length",
    "row_group_rows", "seed",
}  # fmt: skip


def pretrain_model(
    spark: SparkSession,
    data: TrainingData,
    model: ModelSettings,
    training: TrainingSettings,
    pretraining: PretrainingSettings,
    folders: TrainingFolders,
    progress: bool = True,
) -> Trained:
    """Pretrain the encoder of a network and write its bundle, or find the finished bundle of the same pretraining.

    Args:
        spark: whose task slots the ranks take, all at once.
        data: sequences; those of the training dates are learned from, those of the validation date choose the epoch.
        model: the network whose encoder it is.
        training: dates, ranks and the rest of what `pretraining` does not say.
        pretraining: losses, slices and lengths.
        folders: where bundles, examples and checkpoints lie.
        progress: whether to show a progress bar.

    Raises:
        SettingsError: the network has no encoder, or one that cannot learn this.
        TrainingDataError: the rows cannot train.
        RankFailedError: a rank failed; its own error is in the message.
        StorageError: a URI cannot be read or written.
    """
    check_can_pretrain(model, pretraining)
    settings, contract = pretraining.of(training), data.contract
    identity = staging.data_identity(data.sequences, None, contract, settings)
    key = pretraining_key(contract, model, settings, pretraining, identity)
    version = f"{model.name}-{settings.validation_as_of}-{key}"
    found = finished(folders.pretrained, version, manifest.PRETRAIN)
    created = found is None
    if found is None:
        folder = staging.folder_of(folders.staging, contract, settings, identity)
        examples = staging.stage(data.sequences, None, contract, settings, folder)
        plan = plan_of(key, contract, model, settings, examples, folders.staging)
        plan = dataclasses.replace(plan, pretraining=pretraining)
        found = trained(spark, plan, version, folders.pretrained, {**data.provenance, "inputs": identity}, progress)
    bundle_folder.point_latest(folders.pretrained, version)
    return Trained(version, created, found)


def pretraining_key(
    contract: Contract,
    model: ModelSettings,
    settings: TrainingSettings,
    pretraining: PretrainingSettings,
    identity: Mapping[str, Any],
) -> str:
    """Twelve hexadecimal digits of everything that the encoder's weights depend on."""
    return staging.digest(
        {
            "format": FORMAT,
            "contract": contract.to_dict(),
            "model": {"name": model.name, "parameters": model.resolved()},
            "settings": settings.model_dump(mode="json", include=_IN_KEY),
            "pretraining": pretraining.model_dump(exclude={"version"}),
            "data": identity,
        }
    )
