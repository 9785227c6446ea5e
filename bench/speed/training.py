"""Training: the feed compared with tensors made before and with rows one by one, and two ranks with one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from bench.speed.scoring import SETTINGS
from features.core.contract import Contract
from training.examples.batches import Shuffle, training_batches
from training.examples.labelled_rows import Chosen, EncodedRows, TensorMaker
from training.fitting.forecasting import compiled_steps
from training.fitting.plan import Plan
from training.fitting.ranks import QUIET_TENSORFLOW
from training.inputs.column_names import OUTCOME_RANK, OUTCOME_VALUE
from training.inputs.tensors import Tensors
from training.models.create import build_model
from training.models.settings import ModelSettings
from training.settings.fitting import TrainingSettings
from training.settings.judging import CalibrationSettings, DriftBounds, DriftSettings, GateSettings
from training.spark import staging
from training.spark.train_model import train_model
from training.spark.training_run import TrainingData, TrainingFolders
from training.spark.verdicts import Judging

MODEL = ModelSettings(name="hybrid")
BatchKind = Literal["global", "per_rank"]
ONE_RANK = "1 rank, 256 rows a step"
ROWS_ONE_BY_ONE = 2560  # ten steps are enough, and slow


def settings(dates: list[dt.date], ranks: int, by_length: bool, batch: BatchKind = "global") -> TrainingSettings:
    """The default settings of `conf/base.yaml`, for three epochs."""
    return TrainingSettings(
        as_of=dates[:-1],
        validation_as_of=dates[-1],
        weights="equal",
        ranks=ranks,
        shards=8,
        batch=batch,
        batch_size=256,
        epochs=3,
        learning_rate=0.002,
        warmup_epochs=1,
        weight_decay=0.01,
        average_decay=0.0,
        patience=4,
        auxiliary_weight=0.1,
        ensemble=1,
        mixed_precision=False,
        vocabulary_size=1000,
        shuffle_rows=8192,
        kept_rows=100_000,
        by_length=by_length,
        row_group_rows=512,
        prefetch_batches=4,
        labelled_share=1.0,
        encoder_rate=1.0,
        frozen_epochs=0,
        teacher_weight=0.0,
        teacher_parts=5,
        teacher_rows=200_000,
        refit=False,
        seed=1,
        start_timeout_seconds=120,
        network_interfaces=["lo"],
    )


def ways(dates: list[dt.date]) -> dict[str, TrainingSettings]:
    """The settings of the trainings that are compared."""
    return {
        ONE_RANK: settings(dates, 1, False),
        "2 ranks, 256 rows a step shared": settings(dates, 2, False),
        "2 ranks, 256 rows a step each": settings(dates, 2, False, "per_rank"),
        "1 rank, 256 rows a step, by length": settings(dates, 1, True),
        "2 ranks, 256 rows a step each, by length": settings(dates, 2, True, "per_rank"),
    }


def outcomes_of(sequences: DataFrame) -> DataFrame:
    """Made-up outcomes: the speed of training does not depend on them."""
    rank = f.least(f.col("current_tier_rank") + (f.rand(1) < 0.2).cast("int"), f.lit(2))
    value = f.col("spend_90d").cast("decimal(28,6)")
    return sequences.select("user_id", "as_of_date", "inputs_id", rank.alias(OUTCOME_RANK), value.alias(OUTCOME_VALUE))


FAR = DriftBounds(psi=9, distance=9)
JUDGING = Judging(
    CalibrationSettings(method="none", least_rows=1),
    GateSettings(
        better_than_markov=-9,
        worse_than_published=9,
        calibration_error=1,
        least_members=1,
        drift=DriftSettings(bins=20, sample_rows=1000, warning=FAR, refusal=FAR),
    ),
    SETTINGS,
    max_rows=1000,
)


def ranks_speed(
    spark: SparkSession, sequences: DataFrame, contract: Contract, dates: list[dt.date], folder: str
) -> dict[str, float]:
    """Rows per second of whole trainings, by ranks and by the kind of batches."""
    outcomes, found = outcomes_of(sequences).cache(), {}
    for number, (name, chosen) in enumerate(ways(dates).items()):
        place, staging = f"{folder}/training-{number}", f"{folder}/staging"
        with on_cores(chosen.ranks):
            data, folders = TrainingData(sequences, outcomes, contract, {}), TrainingFolders(place, staging)
            trained = train_model(spark, data, MODEL, chosen, JUDGING, folders, progress=False)
        # The first epoch compiles.
        found[name] = statistics.median(e["users_per_second"] for e in trained.manifest.history[1:])
    return found


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keep this process and all its children to this many cores: one for each rank and its feed."""
    every = os.sched_getaffinity(0)
    _keep_to(set(sorted(every)[:count]))
    try:
        yield
    finally:
        _keep_to(every)


def _keep_to(cores: set[int]) -> None:
    root = psutil.Process()
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(OSError, psutil.Error):
            for thread in os.listdir(f"/proc/{process.pid}/task"):  # threads have cores of their own
                os.sched_setaffinity(int(thread), cores)


def feed_seconds(sequences: DataFrame, contract: Contract, dates: list[dt.date], folder: str) -> dict[str, float]:
    """Seconds of a training step on one core, by the source of its tensors."""
    chosen = settings(dates, 1, by_length=True)
    outcomes = outcomes_of(sequences)
    examples = staging.stage(sequences, outcomes, contract, chosen, f"{folder}/feed-examples")
    plan = Plan("feed", contract, examples.encoding, MODEL, chosen, examples.training, examples.validation, "", "", "")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_feed, plan).result()


def _measure_feed(plan: Plan) -> dict[str, float]:
    os.environ.update(QUIET_TENSORFLOW)
    os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})  # one core for feed and step, as a rank has
    from training.examples.batches import prefetch
    from training.fitting import ranks

    ranks.start(mixed_precision=False)
    ranks.seed(1)
    model = build_model(plan.model, plan.contract, plan.encoding)
    optimizer = ranks.adamw(0.001, 0.01, 0.0)
    optimizer.build(model.trainable_variables)
    step, _ = compiled_steps(model, optimizer, plan.settings.auxiliary_weight, plan.training.mean_weight)
    make = plan.tensor_maker()
    encoded = EncodedRows(make, plan.settings.kept_rows)

    def batches() -> Iterator[Tensors]:
        s = plan.settings
        shuffle = Shuffle(s.shuffle_rows, s.by_length, s.seed, 0)
        return training_batches(plan.training, encoded, 0, 1, s.global_batch, shuffle)

    ready = list(batches())
    sources: dict[str, Callable[[], Iterable[Any]]] = {
        "tensors that lie ready": lambda: ready,
        "Tiercast": lambda: prefetch(batches(), plan.settings.prefetch_batches),
        "tf.data.from_generator of rows": lambda: _by_row(plan.training.uris[0], dataclasses.replace(make, trim=None)),
    }
    times: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(4):
        for name, source in sources.items():
            began, steps = time.perf_counter(), 0
            for batch in source():
                float(step(batch))
                steps += 1
            times[name].append((time.perf_counter() - began) / steps)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _by_row(address: str, make: TensorMaker) -> Iterator[Any]:
    import tensorflow as tf

    def generate() -> Iterator[Tensors]:
        rows = pq.ParquetFile(address).read()
        for k in range(min(ROWS_ONE_BY_ONE, rows.num_rows)):
            one = make.encode(rows.slice(k, 1))
            yield {name: tensor[0] for name, tensor in make.tensors(Chosen.of(one, np.arange(1))).items()}

    first = next(generate())
    signature = {n: tf.TensorSpec(t.shape, t.dtype) for n, t in first.items()}
    data = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return iter(data.batch(256, drop_remainder=True).prefetch(4))
