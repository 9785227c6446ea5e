"""One training on the cluster, from staged examples to the files of a bundle."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from features.core import places
from features.core.contract import Contract
from features.core.errors import BundleError
from training.bundles import bundle_folder, manifest
from training.bundles.manifest import Manifest
from training.examples.shards import ShardSet
from training.fitting.plan import Plan
from training.judging.calibration import Calibration
from training.models.settings import ModelSettings
from training.settings.fitting import TrainingSettings
from training.spark.rank_processes import run_ranks
from training.spark.staging import Examples


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a training learns from.

    Attributes:
        sequences: the whole table; a training chooses the dates of its settings.
        outcomes: likewise; None for a pretraining, which needs none.
        contract: that the sequences must follow.
        provenance: JSON-ready, kept in the manifest: Delta versions of the inputs, all settings.
    """

    sequences: DataFrame
    outcomes: DataFrame | None
    contract: Contract
    provenance: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainingFolders:
    """Where a training finds and leaves what it makes.

    Attributes:
        models: URI under which bundles lie.
        staging: URI under which examples and checkpoints lie; may be emptied when no training runs.
        pretrained: URI under which bundles of pretrained encoders lie; empty: there are none.
    """

    models: str
    staging: str
    pretrained: str = ""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        version: of the bundle.
        created: False if a finished bundle of the same key was there already and nothing was done.
        manifest: of the bundle.
        counts: `training_rows` and `validation_rows`.
    """

    version: str
    created: bool
    manifest: Manifest

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the two splits."""
        return {name: int(self.manifest.metrics[name]) for name in ("training_rows", "validation_rows")}

    @property
    def refused(self) -> bool:
        """Whether it was judged, and must not be published."""
        return self.manifest.verdict is not None and not self.manifest.verdict.published


def plan_of(
    key: str, contract: Contract, model: ModelSettings, settings: TrainingSettings, examples: Examples, staging_uri: str
) -> Plan:
    """The plan of a training on staged examples; its state has a folder of its own under `staging_uri`."""
    work = places.join(staging_uri, "trainings", key)
    return Plan(
        key=key,
        contract=contract,
        encoding=examples.encoding,
        model=model,
        settings=settings,
        training=examples.training,
        validation=examples.validation,
        checkpoint_uri=places.join(work, "checkpoint.npz"),
        model_uri=places.join(work, bundle_folder.MODEL_FILE),
        progress_uri=places.join(work, "progress.json"),
    )


def taught(plan: Plan, training: ShardSet, validation: ShardSet) -> Plan:
    """The plan with a teacher, which is fitted here to its training rows and left in the folder of its state.

    The other shards say how many trees it needs.
    """
    from training.fitting.teacher import teacher_of  # scikit-learn and LightGBM are slow to import

    settings, address = plan.settings, places.join(plan.folder, "teacher.json")
    teacher = teacher_of(
        training, validation, plan.training, plan.contract,
        settings.teacher_parts, settings.teacher_rows, settings.seed,
    )  # fmt: skip
    teacher.save(address)
    return dataclasses.replace(plan, teacher_uri=address)


def trained(
    spark: SparkSession,
    plan: Plan,
    version: str,
    models_uri: str,
    provenance: Mapping[str, Any],
    progress: bool,
    candidate: Manifest | None = None,
) -> Manifest:
    """Run the ranks, write the bundle that is not judged yet, and empty the folder of the plan's state.

    The candidate is the bundle that chose how long to train, if it is a refit.
    """
    result = run_ranks(spark, plan, progress)
    manifest = _manifest(version, plan, result, provenance)
    if candidate is not None:
        own = {name: manifest.metrics[name] for name in ("largest_difference", "training_rows")}
        metrics = {**candidate.metrics, **own}
        manifest = dataclasses.replace(
            manifest, candidate=candidate.version, metrics=metrics, history=candidate.history
        )
    whole = bundle_folder.write_bundle(
        models_uri, manifest, {bundle_folder.MODEL_FILE: places.read_bytes(plan.model_uri)}
    )
    places.delete_folder(plan.folder)
    return whole


def finished(models_uri: str, version: str, job: str = manifest.TRAIN) -> Manifest | None:
    """The manifest of a version that is there whole, or None."""
    try:
        return bundle_folder.read_manifest(models_uri, version, job)
    except BundleError:  # there is none, or it is damaged: both need a training
        return None


def _manifest(version: str, plan: Plan, result: Mapping[str, Any], provenance: Mapping[str, Any]) -> Manifest:
    losses = (f"validation_loss_{name}" for name in plan.tensor_maker().targets)
    numbers = ("best_epoch", "validation_loss", "validation_accuracy", *losses, "largest_difference", "weights")
    rows = {"training_rows": sum(plan.training.rows), "validation_rows": sum(plan.validation.rows)}
    return Manifest(
        version=version,
        contract=plan.contract,
        encoding=plan.encoding,
        model=plan.model.model_copy(update={"parameters": plan.model.resolved()}),
        training_dates=plan.settings.learned_dates,
        validation_date=plan.settings.validation_as_of,
        metrics={**{name: result[name] for name in numbers}, **rows},
        history=result["history"],
        provenance=provenance,
        libraries=bundle_folder.library_versions(),
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        files={},
        calibration=Calibration.none(len(plan.contract.tiers)),
        job=manifest.TRAIN if plan.pretraining is None else manifest.PRETRAIN,
    )
