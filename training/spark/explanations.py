"""Reasons of forecasts in Spark's workers; each worker loads the network once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.arrays import Ranks
from features.spark import workers
from training.bundles.manifest import Manifest
from training.inputs.column_names import input_schema
from training.reasons import importance
from training.reasons.attributions import Averages
from training.reasons.importance import Overall
from training.reasons.reason_codes import TARGETS, Attributions, reason_rows, reasons_of
from training.settings.scoring import ExplanationSettings, ScoringSettings
from training.spark.predictors import forecast, load_once, network_of_worker

COLUMNS = (
    "user_id STRING, target STRING, rank INT, reason STRING, wording STRING, contribution DOUBLE, probability DOUBLE, "
    "average_probability DOUBLE, unexplained DOUBLE"
)
_ROWS_PER_CALL = 256
_PORTIONS_PER_SLOT = 2
"""Portions of work for each task slot, so that no slot waits long for another."""

_KINDS = ("parts", "events", "probability", "average")
_WHOLE = ""
"""In place of a reason: all inputs stay."""

_explainers: dict[tuple[str, str], Any] = {}
"""The explainer of this Python worker, by models URI, and by manifest, settings and averages."""


def sample(sequences: DataFrame, most: int) -> DataFrame:
    """Up to `most` rows of one as-of date, chosen by a hash of the member, in its order."""
    return sequences.orderBy(f.xxhash64("user_id"), "user_id").limit(most)


def explained(
    sequences: DataFrame, models_uri: str, manifest: Manifest, averages: Averages, settings: ExplanationSettings
) -> DataFrame:
    """The reasons of each row of `sequences`, `COLUMNS`.

    Args:
        sequences: `user_id` and the contract's columns of some members.
        models_uri: where bundles lie.
        manifest: of the bundle that scored them.
        averages: what members are compared with.
        settings: how reasons are found and said.
    """
    schema = pa.schema([pa.field("user_id", pa.string()), *input_schema(manifest.contract)])
    tiers = len(manifest.contract.tiers)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        explainer = _explainer_of_worker(models_uri, manifest, averages, settings)
        for batch in batches:
            rows = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            found = explainer(rows)
            yield from reason_rows(rows, found, tiers, settings.reasons, settings.words).to_batches()

    return workers.mapped(sequences.select(schema.names), task, COLUMNS)


def overall(
    spark: SparkSession,
    rows: pa.Table,
    outcome: Ranks | None,
    models_uri: str,
    manifest: Manifest,
    settings: ExplanationSettings,
    scoring: ScoringSettings,
) -> Overall:
    """What a network looks at, from a sample of members that the driver holds.

    Args:
        spark: the session.
        rows: n rows with the contract's columns.
        outcome: [n] ranks, or None where they are not known.
        models_uri: where bundles lie.
        manifest: of the bundle.
        settings: how reasons are found and said.
        scoring: sizes of the network's calls.
    """
    rows = rows.select(input_schema(manifest.contract).names).cast(input_schema(manifest.contract))
    found = _attributions(spark, rows, models_uri, manifest, settings)
    losses = {} if outcome is None else _losses(spark, rows, outcome, models_uri, manifest, settings, scoring)
    return importance.overall(rows, found, losses, manifest, settings)


def _attributions(
    spark: SparkSession, rows: pa.Table, models_uri: str, manifest: Manifest, settings: ExplanationSettings
) -> Attributions:
    averages = Averages.of(rows, manifest, settings)
    portions = spark.sparkContext.defaultParallelism * _PORTIONS_PER_SLOT

    def work(number: int) -> Iterator[dict[str, Any]]:
        explainer = _explainer_of_worker(models_uri, manifest, averages, settings)
        found = explainer(rows.take(pa.array(np.arange(number, rows.num_rows, portions))))
        yield {f"{kind}.{t}": getattr(found, kind)[t] for kind in _KINDS for t in TARGETS}

    parts = workers.found(spark, portions, work)  # in order
    place = np.argsort(np.concatenate([np.arange(k, rows.num_rows, portions) for k in range(portions)]))
    whole = {name: np.concatenate([parts[k][name] for k in range(portions)])[place] for name in parts[0]}
    return Attributions(reasons_of(manifest), *({t: whole[f"{kind}.{t}"] for t in TARGETS} for kind in _KINDS))


def _losses(
    spark: SparkSession,
    rows: pa.Table,
    outcome: Ranks,
    models_uri: str,
    manifest: Manifest,
    settings: ExplanationSettings,
    scoring: ScoringSettings,
) -> Mapping[str, list[float]]:
    """For each reason: how much the log loss rises without it, one figure for each repetition."""
    work_list = [(_WHOLE, 0), *((name, k) for name in reasons_of(manifest) for k in range(settings.repeats))]

    def predict(changed: pa.Table) -> Any:
        return forecast(changed, models_uri, manifest, scoring)

    def work(number: int) -> Iterator[float]:
        reason, draw = work_list[number]
        yield (
            importance.loss_without(rows, outcome, reason, draw, predict, manifest, settings.recent_days)
            if reason != _WHOLE
            else importance.loss(predict(rows), outcome)
        )

    most = spark.sparkContext.defaultParallelism * _PORTIONS_PER_SLOT
    whole, *without = workers.found(spark, len(work_list), work, most)  # in order
    losses: dict[str, list[float]] = {}
    for (reason, _), found in zip(work_list[1:], without, strict=True):
        losses.setdefault(reason, []).append(found - whole)
    return losses


def _explainer_of_worker(models_uri: str, manifest: Manifest, averages: Averages, settings: ExplanationSettings) -> Any:
    def load() -> Any:
        from training.reasons.attributions import Explainer

        _explainers.clear()  # each date has averages of its own
        return Explainer(network_of_worker(models_uri, manifest), manifest, averages, settings, _ROWS_PER_CALL)

    key = (models_uri, manifest.to_json() + settings.model_dump_json() + averages.id)
    return load_once(_explainers, key, load)
