"""Scoring a table of sequences: by the job, by what users would write, and by the bare network on ready tensors."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import ArrayType, DoubleType

from bench.speed.events import TYPES
from bench.speed.sequences import emptied
from features.core import places
from features.core.contract import AGE, Contract, array_column
from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.aggregates import aggregate_columns
from features.kernel.sequences import SequenceSpec
from features.kernel.tiers import MICROS, TierRule
from features.storage.file_writer import STATES, AddedFile, write_file
from features.storage.table_log import TableFile
from jobs.steps.members import Members
from jobs.steps.scores import Scoring, score, write_scores
from training.bundles import bundle_folder
from training.bundles.bundle_folder import MODEL_FILE
from training.bundles.manifest import Manifest
from training.fitting.ranks import QUIET_TENSORFLOW, bound_threads
from training.inputs.column_names import AS_OF, WEIGHT, input_schema, required_columns
from training.inputs.encoding import FIRST_CODE, TIME_CHANNELS, UNKNOWN, signed_log
from training.inputs.encoding_statistics import Statistics
from training.inputs.tensors import Encoded
from training.judging.calibration import Calibration
from training.models.create import build_model, tensor_width
from training.models.settings import ModelSettings
from training.settings.scoring import ScoringSettings
from training.spark.predictors import predictor_of_worker

SETTINGS = ScoringSettings(model_version="latest", rows_per_range=65_536, model_rows=256, padding=0.15, xla=False)
TENSORS = ("channels", "codes", "mask", "aggregates", "tier")
WINDOWS = (7, 14, 30, 60, 90, 180, 365)


def spec(length: int) -> SequenceSpec:
    """Contract and rule of the made-up programme."""
    rule = TierRule(("base", "silver", "gold"), 90, "all_of", {"spend": (100 * MICROS, 400 * MICROS)})
    aggregates = AggregateSpec(WINDOWS, TYPES, "purchase", rule)
    columns = tuple(aggregate_columns(aggregates))
    numeric, categorical = ("amount", "items"), ("event_type", "shop", "channel")
    contract = Contract(length, numeric, categorical, columns, rule.names, rule.canonical(), 90, "event_time")
    return SequenceSpec(contract, aggregates)


def bundle_of(models: str, name: str, contract: Contract, rows: pa.Table) -> Manifest:
    """A bundle with fresh weights: how fast it scores does not depend on what it has learned.

    The encoding is that of `rows`, of weight 1 each.
    """
    import keras

    statistics = Statistics.empty(contract)
    statistics.add(rows.append_column(WEIGHT, pa.array(np.ones(len(rows)))), contract)
    manifest = Manifest(
        version=f"{name}-bench",
        contract=contract,
        encoding=statistics.encoding(1000),
        model=ModelSettings(name=name),
        training_dates=(dt.date(2024, 1, 1),),
        validation_date=dt.date(2024, 2, 1),
        metrics={},
        history=[],
        provenance={},
        libraries={},
        created_at="",
        files={},
        calibration=Calibration.none(len(contract.tiers)),
    )
    keras.utils.set_random_seed(1)
    path = f"{models}/{name}.keras"
    os.makedirs(models, exist_ok=True)
    build_model(manifest.model, contract, manifest.encoding).save(path)
    with open(path, "rb") as file:
        return bundle_folder.write_bundle(models, manifest, {MODEL_FILE: file.read()})


def sampled(files: Sequence[AddedFile], users: int, place: str, as_of: dt.date) -> list[TableFile]:
    """About this many users of the sequences, in as many files, evenly over all ids."""
    step = max(1, round(sum(f.rows for f in files) / users))
    found = []
    for file in files:
        rows = pq.ParquetFile(places.join(file.table, file.path)).read()
        rows = rows.take(np.arange(0, rows.num_rows, step))
        added = write_file(rows, place, AS_OF, as_of, STATES)
        low, high = rows["user_id"][0].as_py(), rows["user_id"][-1].as_py()
        found.append(TableFile(places.join(place, added.path), as_of, rows.num_rows, low, high))
    return found


def tiercast(spark: SparkSession, members: Members, manifest: Manifest, models: str) -> DataFrame:
    """The job's own scores, as rows."""
    return score(spark, Scoring(members, manifest, models, SETTINGS))


def written(spark: SparkSession, members: Members, manifest: Manifest, models: str, out: str) -> None:
    """The job's own scores as the job makes them: tasks write them as files of a table."""
    added = {
        "scored_at": pa.scalar(dt.datetime.now(dt.UTC), pa.timestamp("us", "UTC")),
        "inputs_id": pa.scalar("bench"),
    }
    write_scores(spark, Scoring(members, manifest, models, SETTINGS), emptied(out), added, counted_rows=10_000)


def by_user(spark: SparkSession, rows: DataFrame, manifest: Manifest, models: str) -> DataFrame:
    """A pandas UDF that pads each user's arrays with `np.pad` and calls `model.predict` per batch."""
    columns, version = required_columns(manifest.contract), manifest.version

    def predict(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        model, stored = _loaded(models, version)
        for batch in batches:
            yield pd.Series(list(model.predict(_padded(batch, stored), verbose=0)["tier"].astype(np.float64)))

    predict.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    make: Any = f.pandas_udf
    return rows.select("user_id", make(predict, "array<double>")(f.struct(*columns)).alias("p"))


_models: dict[str, tuple[Any, Manifest]] = {}


def _loaded(models: str, version: str) -> tuple[Any, Manifest]:
    if version not in _models:
        os.environ.update(QUIET_TENSORFLOW)
        bound_threads(1)
        manifest = bundle_folder.read_manifest(models, version)
        _models[version] = bundle_folder.load_model(models, manifest), manifest
    return _models[version]


def _padded(batch: pd.DataFrame, manifest: Manifest) -> dict[str, np.ndarray]:
    """The tensors of `training.inputs.tensors.Encoded.padded`, made user by user."""
    contract, encoding = manifest.contract, manifest.encoding
    width = tensor_width(manifest.model, contract)
    codes = {c: {v: i + FIRST_CODE for i, v in enumerate(words)} for c, words in encoding.vocabulary.items()}

    def pad(values: np.ndarray, filler: float = 0.0) -> np.ndarray:
        values = np.asarray(values)[-width:]
        return np.pad(values.astype(float), (0, width - len(values)), constant_values=filler)

    ages = np.stack([pad(cell) for cell in batch[AGE]])
    mask = np.arange(width)[None, :] < np.array([min(len(c), width) for c in batch[AGE]])[:, None]
    whole = [np.asarray(cell, float) for cell in batch[AGE]]
    gaps = np.stack([pad(np.concatenate([[0.0], np.maximum(c[:-1] - c[1:], 0)])[: len(c)]) for c in whole])
    days = pd.to_datetime(batch["as_of_date"]).to_numpy().astype("datetime64[D]").astype(int)
    instants = days[:, None] * 86_400 - ages
    week, hour = 2 * np.pi * ((instants / 86_400 + 3) % 7) / 7, 2 * np.pi * (instants % 86_400) / 86_400
    channels = [
        encoding.channels["age"].apply(np.log1p(ages / 86_400)),
        encoding.channels["gap"].apply(np.log1p(gaps / 86_400)),
        *(wave(phase) for phase in (week, hour) for wave in (np.sin, np.cos)),
    ]
    for c in contract.numeric:
        raw = np.stack(
            [
                pad(np.array([np.nan if v is None else v for v in cell], float), np.nan)
                for cell in batch[array_column(c)]
            ]
        )
        channels.append(encoding.channels[c].apply(signed_log(raw)))
    words = [
        np.stack([pad(np.array([codes[c].get(v, UNKNOWN) for v in cell])) for cell in batch[array_column(c)]])
        for c in contract.categorical
    ]
    raw_aggregates = {a: signed_log(batch[a].to_numpy(float)) for a in contract.aggregates}
    aggregates = [encoding.aggregates[a].apply(v) for a, v in raw_aggregates.items()]
    aggregates += [np.isnan(raw_aggregates[a]) for a in encoding.indicated]
    return {
        "channels": (np.stack(channels, axis=2) * mask[:, :, None]).astype(np.float32),
        "codes": np.stack(words, axis=2).astype(np.int32),
        "mask": mask,
        "aggregates": np.stack(aggregates, axis=1).astype(np.float32),
        "tier": np.eye(len(contract.tiers), dtype=np.float32)[batch["current_tier_rank"].to_numpy(int)],
    }


_PATIENCE = 600  # seconds; a process that died must not be waited for


class BareLoop:
    """The job's compiled function over ready tensors, a process per core: a lower bound of the cost of scoring."""

    def __init__(self, rows: pa.Table, models: str, version: str, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(cores + 1)
        self._processes = [
            context.Process(
                target=_loop,
                args=(rows.take(np.arange(k, rows.num_rows, cores)), models, version, self._barrier),
                daemon=True,
            )
            for k in range(cores)
        ]
        for process in self._processes:
            process.start()

    def __call__(self) -> None:
        """One turn over all rows."""
        self._barrier.wait(_PATIENCE)
        self._barrier.wait(_PATIENCE)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()


def _loop(rows: pa.Table, models: str, version: str, barrier: Any) -> None:
    predictor = predictor_of_worker(models, bundle_folder.read_manifest(models, version), SETTINGS)
    encoded = Encoded.of(rows.combine_chunks(), predictor.contract, predictor.encoding)
    calls = [tensors for _, tensors in predictor.calls(encoded)]
    while True:
        barrier.wait()
        for tensors in calls:
            predictor.network(tensors).numpy()
        barrier.wait()


def sample(sequences: DataFrame, contract: Contract, rows: int) -> pa.Table:
    """A few rows with the types that encodings are learned from."""
    return sequences.limit(rows).select(*required_columns(contract)).toArrow().cast(input_schema(contract))


def consumed(scores: DataFrame) -> None:
    """Compute every row and keep none of them."""
    scores.write.format("noop").mode("overwrite").save()


def padded_columns(rows: pa.Table, manifest: Manifest) -> pa.Table:
    """Rows as `predict_batch_udf` takes them: padded tensors at full width, flattened to lists; text is gone."""
    width = tensor_width(manifest.model, manifest.contract)
    tensors = Encoded.of(rows, manifest.contract, manifest.encoding).padded(np.arange(rows.num_rows), width)
    flat = {name: tensors[name].reshape(rows.num_rows, -1).astype(np.float32) for name in TENSORS}
    return pa.table({n: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]) for n, v in flat.items()})


def by_batch(spark: SparkSession, rows: DataFrame, manifest: Manifest, models: str) -> DataFrame:
    """Spark's `predict_batch_udf` over tensors that were padded beforehand."""
    contract, encoding = manifest.contract, manifest.encoding
    width = tensor_width(manifest.model, contract)
    aggregates = len(contract.aggregates) + len(encoding.indicated)
    channels = len(TIME_CHANNELS) + len(contract.numeric)
    shapes: list[list[int] | None] = [
        [width, channels],
        [width, len(contract.categorical)],
        [width],
        [aggregates],
        [len(contract.tiers)],
    ]

    def make() -> Any:
        model, _ = _loaded(models, manifest.version)

        def predict(channels: Any, codes: Any, mask: Any, aggregates: Any, tier: Any) -> np.ndarray:
            tensors = [channels, codes.astype(np.int32), mask > 0, aggregates, tier]
            found = model.predict(dict(zip(TENSORS, tensors, strict=True)), batch_size=SETTINGS.model_rows, verbose=0)
            return np.asarray(found["tier"], np.float64)

        return predict

    udf = predict_batch_udf(make, return_type=ArrayType(DoubleType()), batch_size=_BATCH, input_tensor_shapes=shapes)
    return rows.select(udf(*TENSORS).alias("p"))


_BATCH = 4096
