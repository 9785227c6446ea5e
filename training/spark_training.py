"""Training on Spark's executors: stage the examples, run the ranks with Horovod, leave a bundle.

Horovod's driver, task and rendezvous services listen on all addresses; their messages are signed by a per-job secret.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from features import uri
from features.contract import Contract
from features.errors import BundleError, RankFailedError
from training import bundle, pretrained, spark_examples, spark_verdict
from training.bundle import Manifest
from training.calibration import Calibration
from training.distributed import QUIET_TENSORFLOW
from training.feed import ShardSet
from training.loop import Plan
from training.progress import ProgressBar
from training.settings import CalibrationSettings, ModelSettings, TrainingSettings
from training.spark_examples import Examples
from training.spark_verdict import Judging

FORMAT = 2
"""Raised when a change of code changes what a training with equal settings gives."""

_NOT_IN_KEY = {"start_timeout_seconds", "network_interfaces", "prefetch_batches", "as_of"}
_OF_TEACHER = {"teacher_weight", "teacher_parts", "teacher_rows"}
_RANK_ENVIRONMENT = {
    **QUIET_TENSORFLOW,
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_NOTE = "TIERCAST-RANK-ERROR "
"""Starts the line by which a rank tells the driver its error, as JSON."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        version: of the bundle.
        created: False if a finished bundle of the same key was there already, and nothing was done.
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


def train_model(
    spark: SparkSession,
    sequences: DataFrame,
    outcomes: DataFrame,
    contract: Contract,
    model: ModelSettings,
    settings: TrainingSettings,
    judging: Judging,
    models_uri: str,
    staging_uri: str,
    provenance: Mapping[str, Any],
    progress: bool = True,
    pretrained_uri: str = "",
    publish: bool = True,
) -> Trained:
    """Train a model, judge it and write its bundle, or find the finished bundle of the same training.

    A bundle that was judged by other bounds, or whose judgement was cut short, is judged again and not trained.
    With `training.refit` that bundle is a candidate: if it is not refused, one with the validation date among its
    training dates follows, which takes over its verdict and is published, unless its training went wrong.

    Args:
        spark: whose task slots the ranks take, all at once: no dynamic allocation, no speculation.
        sequences: the whole table; the dates of the settings are chosen here.
        outcomes: likewise.
        contract: that the sequences must follow.
        model: which network.
        settings: how to train.
        judging: how to calibrate it, and when to publish it.
        models_uri: where bundles lie.
        staging_uri: where examples and checkpoints lie; may be emptied when no training runs.
        provenance: JSON-ready, kept in the manifest: Delta versions of the inputs, all settings.
        progress: whether to show a progress bar.
        pretrained_uri: where bundles of pretrained encoders lie.
        publish: whether to judge it and let `latest` name it; if not, it is calibrated only, and judged if a later
            training asks for the same.

    Raises:
        BundleError: the pretrained encoder that the settings name is missing, damaged, or does not fit.
        TrainingDataError: the rows cannot train a model.
        RankFailedError: a rank failed; its own error is in the message.
        StorageError: a URI cannot be read or written.
    """
    start = pretrained.chosen(pretrained_uri, contract, model, settings)
    if start is not None:
        settings = settings.model_copy(update={"pretrained": start.version})
    identity = spark_examples.data_identity(sequences, outcomes, contract, settings, model.targets)
    work = _Work(
        spark, sequences, outcomes, contract, model, judging, identity, models_uri, staging_uri,
        {**provenance, "inputs": identity}, progress, pretrained_uri, start,
    )  # fmt: skip
    trained = work.done(settings, publish)
    if publish and not trained.refused:
        bundle.point_latest(models_uri, trained.version)
    return trained


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the trainings of one call share; see `train_model`."""

    spark: SparkSession
    sequences: DataFrame
    outcomes: DataFrame
    contract: Contract
    model: ModelSettings
    judging: Judging
    identity: Mapping[str, Any]
    models_uri: str
    staging_uri: str
    provenance: Mapping[str, Any]
    progress: bool
    pretrained_uri: str
    start: Manifest | None

    def key(self, settings: TrainingSettings) -> str:
        """See `training_key`."""
        return training_key(self.contract, self.model, settings, self.judging.calibration, self.identity)

    def version(self, settings: TrainingSettings) -> str:
        """Name of the bundle."""
        return f"{self.model.name}-{settings.validation_as_of}-{self.key(settings)}"

    def done(self, settings: TrainingSettings, publish: bool) -> Trained:
        """The bundle that the settings ask for; with `refit` the candidate where only that passes the gate."""
        found = self.found(settings, publish)
        if found is not None and not found.refused:
            return found
        alone = settings.model_copy(update={"refit": False})
        candidate = self.found(alone, publish) or self.candidate(alone, publish)
        if not settings.refit or (publish and candidate.refused):
            return candidate
        refit = found or self.refitted(settings, candidate.manifest, publish)
        return self.without(candidate, refit.manifest) if refit.refused else refit

    def found(self, settings: TrainingSettings, publish: bool) -> Trained | None:
        """The bundle if there is nothing left to do for it."""
        manifest = finished(self.models_uri, self.version(settings))
        if manifest is None or manifest.verdict is None:
            return None
        judged = not publish or manifest.verdict.bounds == self.judging.gate.model_dump()
        return Trained(manifest.version, False, manifest) if judged else None

    def without(self, candidate: Trained, refit: Manifest) -> Trained:
        """The candidate, published in place of its refit; its verdict says why."""
        manifest, verdict = candidate.manifest, candidate.manifest.verdict
        assert verdict is not None  # there is no refit without one
        assert refit.verdict is not None
        note = f"its refit {refit.version} was refused: {'; '.join(refit.verdict.reasons)}"
        if note in verdict.notes:
            return candidate
        noted = dataclasses.replace(verdict, notes=(*verdict.notes, note))
        settled = bundle.settle(self.models_uri, manifest, manifest.calibration, manifest.profile, noted)
        return Trained(settled.version, True, settled)

    def candidate(self, settings: TrainingSettings, publish: bool) -> Trained:
        """Trained unless it stands already, calibrated and, if it is to be published, judged."""
        examples = self.examples(settings)
        manifest, created = self.bundle(settings, examples)
        if publish:
            splits = examples.training, examples.validation
            judged = spark_verdict.judge(self.spark, self.models_uri, manifest, *splits, self.judging)
            return Trained(judged.version, True, judged)
        calibrated = spark_verdict.calibrate(self.spark, self.models_uri, manifest, examples.validation, self.judging)
        return Trained(calibrated.version, created, calibrated)

    def refitted(self, settings: TrainingSettings, candidate: Manifest, publish: bool) -> Trained:
        """The network that has learned from the validation date too, for as long as that date found best."""
        examples = self.examples(settings)
        manifest, created = self.bundle(settings, examples, candidate)
        if not publish or candidate.verdict is None:
            return Trained(manifest.version, created, manifest)
        splits = examples.training, examples.validation
        judged = spark_verdict.judge_refit(
            self.spark, self.models_uri, manifest, candidate.verdict, *splits, self.judging
        )
        return Trained(judged.version, True, judged)

    def bundle(
        self, settings: TrainingSettings, examples: Examples, candidate: Manifest | None = None
    ) -> tuple[Manifest, bool]:
        """The whole bundle, and whether it was trained just now; for a refit the candidate says for how long."""
        version = self.version(settings)
        manifest = finished(self.models_uri, version)
        if manifest is not None:
            return manifest, False
        plan = self.plan(settings, examples)
        if candidate is not None:
            plan = dataclasses.replace(plan, until=best_epochs(candidate))
        if settings.teacher_weight:
            first = self.examples(settings.model_copy(update={"refit": False}))
            plan = taught(plan, first.training, first.validation)
        return trained(self.spark, plan, version, self.models_uri, self.provenance, self.progress, candidate), True

    def examples(self, settings: TrainingSettings) -> Examples:
        """The staged rows."""
        of = self.contract, settings
        folder = spark_examples.folder_of(self.staging_uri, *of, self.identity, self.model.targets)
        return spark_examples.stage(self.sequences, self.outcomes, *of, folder, self.model.targets)

    def plan(self, settings: TrainingSettings, examples: Examples) -> Plan:
        """The plan, its encoder pretrained if the settings name one."""
        plan = plan_of(self.key(settings), self.contract, self.model, settings, examples, self.staging_uri)
        if self.start is None:
            return plan
        network = uri.join(self.pretrained_uri, self.start.version, bundle.MODEL_FILE)
        return dataclasses.replace(plan, encoding=self.start.encoding, encoder_uri=network)


def best_epochs(manifest: Manifest) -> tuple[int, ...]:
    """The epoch of least validation loss, from 1, of each network of a bundle."""
    members = sorted({entry["member"] for entry in manifest.history})
    of_members = ([entry for entry in manifest.history if entry["member"] == member] for member in members)
    return tuple(int(min(epochs, key=lambda entry: entry["validation_loss"])["epoch"]) for epochs in of_members)


def plan_of(
    key: str, contract: Contract, model: ModelSettings, settings: TrainingSettings, examples: Examples, staging_uri: str
) -> Plan:
    """The plan of a training on staged examples; its state has a folder of its own under `staging_uri`."""
    work = uri.join(staging_uri, "trainings", key)
    return Plan(
        key=key,
        contract=contract,
        encoding=examples.encoding,
        model=model,
        settings=settings,
        training=examples.training,
        validation=examples.validation,
        checkpoint_uri=uri.join(work, "checkpoint.npz"),
        model_uri=uri.join(work, bundle.MODEL_FILE),
        progress_uri=uri.join(work, "progress.json"),
    )


def taught(plan: Plan, training: ShardSet, validation: ShardSet) -> Plan:
    """The plan with a teacher, which is fitted here to its training rows and left in the folder of its state.

    The other shards say how many trees it needs.
    """
    from training.teacher import teacher_of  # scikit-learn and LightGBM are slow to import

    settings, address = plan.settings, uri.join(plan.folder, "teacher.json")
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
    whole = bundle.write_bundle(models_uri, manifest, {bundle.MODEL_FILE: uri.read_bytes(plan.model_uri)})
    uri.delete_folder(plan.folder)
    return whole


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
    return spark_examples.digest(
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


def run_ranks(spark: SparkSession, plan: Plan, progress: bool = False) -> dict[str, Any]:
    """Run `training.loop.train` in as many ranks as the plan says; the first rank's answer.

    Raises:
        RankFailedError: a rank failed, died, or found no task slot in time. No process is left behind.
    """
    import horovod.spark

    settings = plan.settings
    output = RankOutput()
    began = time.monotonic()
    try:
        with ProgressBar(plan.progress_uri, progress), _quiet_spark_thread():
            results = horovod.spark.run(
                rank_entry(import_paths(spark)),
                args=(plan.to_json(),),
                num_proc=settings.ranks,
                start_timeout=settings.start_timeout_seconds,
                use_gloo=True,
                env=dict(_RANK_ENVIRONMENT),
                stdout=output,
                stderr=output,
                verbose=0,
                nics=set(settings.network_interfaces) if settings.network_interfaces else None,
            )
    except Exception as error:  # Horovod raises bare RuntimeError, Exception and its own classes
        raise RankFailedError(output.explain(error, settings, time.monotonic() - began)) from error
    return dict(results[0])


def import_paths(spark: SparkSession) -> list[str]:
    """Where a rank may find this package: the driver's own folder, and the archives shipped by --py-files.

    Spark puts the archives on the path of its own Python workers, and ranks are processes that those start.
    """
    shipped = [name for name in getattr(spark.sparkContext, "_python_includes", [])]
    return [str(Path(__file__).resolve().parent.parent), *shipped]


def rank_entry(paths: list[str]) -> Callable[[str], dict[str, Any]]:
    """What each rank runs. It travels by value, so that it can mend the import path before this package is imported."""
    note = _NOTE

    def run(plan_json: str) -> dict[str, Any]:
        import json
        import os
        import sys
        import time
        import traceback

        try:
            work = os.environ.get("HOROVOD_SPARK_WORK_DIR", os.getcwd())
            sys.path[:0] = [p if os.path.isabs(p) else os.path.join(work, p) for p in paths]
            from training.loop import Plan, train

            return train(Plan.from_json(plan_json))
        except BaseException as error:
            own = {
                "rank": int(os.environ.get("HOROVOD_RANK", -1)),
                "time": time.time(),
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
            sys.stderr.write(f"\n{note}{json.dumps(own)}\n")
            sys.stderr.flush()
            raise

    return run


class RankOutput:
    """A text stream that takes what all ranks print, and keeps their errors and the last lines of the rest."""

    def __init__(self) -> None:
        # One thread per rank and stream writes here, and a piece of text may end within a line.
        self._pending: dict[int, str] = {}
        self._errors: list[dict[str, Any]] = []
        self._lines: collections.deque[str] = collections.deque(maxlen=50)

    def write(self, text: str) -> int:
        """Take any piece of text."""
        thread = threading.get_ident()
        *lines, self._pending[thread] = (self._pending.get(thread, "") + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered beyond the line."""

    def explain(self, error: Exception, settings: TrainingSettings, seconds: float) -> str:
        """The message of a failed run: the first rank's own error, or what is known if a rank died without a word."""
        own = [e for e in self._errors if e["type"] != "HorovodInternalError"] or self._errors
        if own:
            first = min(own, key=lambda e: float(e["time"]))
            return (
                f"rank {first['rank']} of {settings.ranks} failed: {first['type']}: {first['message']}\n"
                f"{first['traceback']}"
            )
        if "Timed out waiting" in str(error):
            return (
                f"the {settings.ranks} ranks did not start within {settings.start_timeout_seconds} s: each needs a "
                "free task slot at the same time; give Spark that many cores, or lower training.ranks"
            )
        last = "\n".join(self._lines)
        return (
            f"a rank died after {seconds:.0f} s without an error of its own (killed, or out of memory); start the job "
            f"again, it goes on from the last epoch\n{last}".rstrip()
        )

    def _take(self, line: str) -> None:
        _, mark, note = line.partition(_NOTE)
        if not mark:
            if line.strip():
                self._lines.append(line)
            return
        with contextlib.suppress(ValueError):  # cut off when the rank died
            self._errors.append(json.loads(note))


@contextlib.contextmanager
def _quiet_spark_thread() -> Iterator[None]:
    """Keep the stack trace of Horovod's own Spark thread off the terminal: the error is raised here anyway."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or "run_spark" not in args.thread.name:
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


def finished(models_uri: str, version: str, job: str = bundle.TRAIN) -> Manifest | None:
    """The manifest of a version that is there whole, or None."""
    try:
        return bundle.read_manifest(models_uri, version, job)
    except BundleError:  # none yet, or damaged: training again mends both
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
        libraries=bundle.library_versions(),
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        files={},
        calibration=Calibration.none(len(plan.contract.tiers)),
        job=bundle.TRAIN if plan.pretraining is None else bundle.PRETRAIN,
    )
