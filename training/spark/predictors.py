"""Forecasts in Spark's Python workers: a predictor that each worker loads once, and a UDF of it for SQL.

The driver never loads the network. The padded width of a row follows from its own length, and calls have a multiple of
some number of rows, so the forecast of a row does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as f

from features.core.arrays import Array
from features.core.contract import Contract
from features.spark import workers
from training.bundles import bundle_folder
from training.bundles.bundle_folder import MODEL_FILE
from training.bundles.manifest import Manifest
from training.fitting.ranks import bound_threads, load_keras, quiet_tensorflow
from training.inputs.column_names import TIER_RANK, column, input_schema
from training.models import TIER
from training.scoring.network_calls import Predictor
from training.settings.scoring import ScoringSettings

K = TypeVar("K")
V = TypeVar("V")

_EMPTY = np.empty(0, object)
_THREADS_PER_WORKER = 1  # a Python worker is one Spark task, and Spark counts one core for it

_NetworkKey = tuple[str, str, str]

_networks: dict[_NetworkKey, Any] = {}
"""Networks of this Python worker, see `network_key`. A module outlives the tasks of a worker, closures do not."""
_predictors: dict[tuple[_NetworkKey, str], Predictor] = {}
"""Predictors of this Python worker by network and settings."""


def register_scoring_udf(spark: SparkSession, name: str, models_uri: str, settings: ScoringSettings) -> None:
    """Let SQL forecast: `SELECT user_id, NAME(struct(*)) FROM sequences` gives what `scoring_udf` says.

    Args:
        spark: the session.
        name: of the function in SQL.
        models_uri: where bundles lie.
        settings: which bundle, `latest` as it is now, and sizes of the network's calls.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
    """
    manifest = bundle_folder.read_manifest(models_uri, settings.model_version)
    spark.udf.register(name, scoring_udf(manifest, models_uri, settings))


def scoring_udf(manifest: Manifest, models_uri: str, settings: ScoringSettings) -> Callable[[Column], Column]:
    """A pandas UDF from a struct of (at least) the contract's columns to an array<double> of probabilities.

    They are those of table `scores`: calibrated, by tier rank, the lowest tier first.
    """

    def probabilities(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        for batch in batches:
            yield pd.Series(list(forecast(arrow_rows(batch, manifest.contract), models_uri, manifest, settings)))

    probabilities.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    make: Any = f.pandas_udf  # its overloads know only function types given by number
    return cast("Callable[[Column], Column]", make(workers.prompt(probabilities), "array<double>"))


def forecast(rows: pa.Table | pa.RecordBatch, models_uri: str, manifest: Manifest, settings: ScoringSettings) -> Array:
    """[n, K] calibrated probabilities of the tiers of n rows, by the network that this worker keeps."""
    return forecasts(rows, models_uri, manifest, settings)[TIER]


def forecasts(
    rows: pa.Table | pa.RecordBatch, models_uri: str, manifest: Manifest, settings: ScoringSettings
) -> dict[str, Array]:
    """What `forecast` gives, as `tier`, and the further outputs that the settings ask for, which are not calibrated."""
    found = predictor_of_worker(models_uri, manifest, settings).outputs(rows)
    current = column(rows, TIER_RANK).to_numpy(zero_copy_only=False).astype(np.int64)
    return {**found, TIER: manifest.calibration(found[TIER], current)}


def predictor_of_worker(models_uri: str, manifest: Manifest, settings: ScoringSettings) -> Predictor:
    """The predictor of a bundle, loaded by the first call in a process; raises BundleError if it is damaged."""

    def load() -> Predictor:
        from training.models.create import in_precision

        model = network_of_worker(models_uri, manifest)
        model = in_precision(model, manifest.model, manifest.contract, manifest.encoding, settings.precision)
        return Predictor(model, manifest, settings)

    return load_once(_predictors, (network_key(models_uri, manifest), settings.model_dump_json()), load)


def network_key(models_uri: str, manifest: Manifest) -> _NetworkKey:
    """What tells networks apart: where bundles lie, the version, and the checksum of the network."""
    return models_uri, manifest.version, manifest.files[MODEL_FILE]


def network_of_worker(models_uri: str, manifest: Manifest) -> Any:
    """The Keras model of a bundle, read, checked and loaded once in this worker; to be called within `load_once`.

    Raises:
        BundleError: it is damaged, or cannot be loaded.
    """
    key = network_key(models_uri, manifest)
    if key not in _networks:
        _networks[key] = bundle_folder.load_model(models_uri, manifest)
    return _networks[key]


def load_once(loaded: dict[K, V], key: K, load: Callable[[], V]) -> V:
    """What `load` gives, called once for each key in this worker. TensorFlow stays quiet and takes one thread."""
    if key not in loaded:
        quiet_tensorflow()
        load_keras()
        bound_threads(_THREADS_PER_WORKER)
        loaded[key] = load()
        workers.keep_loaded()
    return loaded[key]


def arrow_rows(batch: pd.DataFrame, contract: Contract) -> pa.Table:
    """The contract's columns of a pandas batch as Spark makes it, with the types of the table."""
    schema = input_schema(contract)
    absent = [name for name in schema.names if name not in batch.columns]
    if absent:
        raise ValueError(f"the rows to score lack the columns {absent}; pass struct(*) of `sequences`")
    return pa.table({field.name: _arrow(batch[field.name], field.type) for field in schema}, schema=schema)


def _arrow(values: pd.Series, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind, from_pandas=True)
    cells = [_EMPTY if cell is None else cell for cell in values]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int32)
    flat = np.concatenate(cells) if cells else _EMPTY
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, from_pandas=True).cast(kind.value_type), kind)
