"""Reasons of forecasts in Spark's workers; each worker loads the network once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from training import bundle
from training.bundle import Manifest
from training.settings import ExplanationSettings
from training.tensors import input_schema

COLUMNS = (
    "user_id STRING, target STRING, rank INT, reason STRING, wording STRING, contribution DOUBLE, probability DOUBLE, "
    "average_probability DOUBLE, unexplained DOUBLE"
)
_ROWS_PER_CALL = 256

_loaded: dict[tuple[str, str], Any] = {}
"""Explainers of this Python worker by models URI and manifest with settings."""


def explained(sequences: DataFrame, models_uri: str, manifest: Manifest, settings: ExplanationSettings) -> DataFrame:
    """The reasons of each row of `sequences`, `COLUMNS`.

    Args:
        sequences: `user_id` and the contract's columns of some members.
        models_uri: where bundles lie.
        manifest: of the bundle that scored them.
        settings: how reasons are found and said.
    """
    schema = pa.schema([pa.field("user_id", pa.string()), *input_schema(manifest.contract)])

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from training.attributions import explain_rows

        explainer = _explainer_of_worker(models_uri, manifest, settings)
        for batch in batches:
            rows = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            found = explainer(rows)
            tiers = len(manifest.contract.tiers)
            yield from explain_rows(rows, found, tiers, settings.reasons, settings.words).to_batches()

    return sequences.select(schema.names).mapInArrow(task, COLUMNS)


def _explainer_of_worker(models_uri: str, manifest: Manifest, settings: ExplanationSettings) -> Any:
    key = (models_uri, manifest.to_json() + settings.model_dump_json())
    if key not in _loaded:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        from training.attributions import Explainer
        from training.distributed import bound_threads

        bound_threads(1)
        model = bundle.load_model(models_uri, manifest)
        _loaded[key] = Explainer(model, manifest, settings, _ROWS_PER_CALL)
    return _loaded[key]
