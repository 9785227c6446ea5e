"""A trained bundle's calibration and verdict, from its forecasts for the rows of the validation date."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from training import bundle, calibration, gate
from training.baselines import fit_baselines
from training.bundle import Manifest
from training.feed import OUTCOME_RANK, ShardSet, first_rows
from training.settings import CalibrationSettings, GateSettings, ScoringSettings
from training.spark_scoring import predictor_of_worker
from training.tensors import TIER_RANK, Array, column

_ROWS = "shard INT, current INT, outcome INT, probabilities ARRAY<DOUBLE>"


@dataclasses.dataclass(frozen=True)
class Judging:
    """How bundles are judged: settings, and the most validation rows that the driver takes."""

    calibration: CalibrationSettings
    gate: GateSettings
    scoring: ScoringSettings
    max_rows: int


@dataclasses.dataclass(frozen=True)
class Validated:
    """Forecasts of the validation rows, each a user: shards, ranks [n] int64, and probabilities [n, K] of a network."""

    shard: Array
    current: Array
    outcome: Array
    probabilities: Array


def judge(
    spark: SparkSession, models_uri: str, manifest: Manifest, validation: ShardSet, transitions: Array, how: Judging
) -> Manifest:
    """Calibrate a bundle, decide whether it is published, and write both to it; returns the new manifest.

    It is judged by probabilities that a calibration fitted on the other half of the users gives, and keeps the
    calibration fitted on all of them.

    Args:
        spark: the session.
        models_uri: where bundles lie.
        manifest: of the bundle.
        validation: shards of the validation date.
        transitions: [K, K] training rows by current and outcome tier.
        how: settings.
    """
    rows = validated(spark, models_uri, manifest, validation, how)
    mended = calibration.cross_fitted(
        rows.probabilities, rows.current, rows.outcome, rows.shard % 2 == 0, how.calibration
    )
    rivals = {"markov": fit_baselines(transitions)["markov"].predict(rows.current)}
    published, notes = bundle.published(models_uri), []
    if published is not None and published.version != manifest.version:
        if why := _not_comparable(published, manifest):
            notes.append(f"not compared with the published {published.version}: {why}")
        else:
            theirs = validated(spark, models_uri, published, validation, how)
            rivals["published"] = published.calibration(theirs.probabilities, theirs.current)
    verdict = gate.judge(mended, rows.current, rows.outcome, manifest.contract.tiers, rivals, how.gate, notes)
    fitted = calibration.fit(rows.probabilities, rows.current, rows.outcome, how.calibration)
    return bundle.settle(models_uri, manifest, fitted, verdict)


def calibrate(spark: SparkSession, models_uri: str, manifest: Manifest, validation: ShardSet, how: Judging) -> Manifest:
    """Calibrate a bundle that is not to be judged or published; returns the new manifest. Arguments as for `judge`."""
    rows = validated(spark, models_uri, manifest, validation, how)
    fitted = calibration.fit(rows.probabilities, rows.current, rows.outcome, how.calibration)
    return bundle.settle(models_uri, manifest, fitted, None)


def _not_comparable(published: Manifest, manifest: Manifest) -> str | None:
    if published.contract.differences(manifest.contract):
        return "it follows another contract"
    if manifest.validation_date in published.training_dates:
        return f"it was trained on {manifest.validation_date}"
    return None


def validated(
    spark: SparkSession, models_uri: str, manifest: Manifest, validation: ShardSet, how: Judging
) -> Validated:
    """A bundle's forecasts of the first rows of each shard, which lie in an order that is as good as random."""
    version, scoring = manifest.version, how.scoring
    shards = [
        (k, address) for k, (address, rows) in enumerate(zip(validation.uris, validation.rows, strict=True)) if rows
    ]
    most = max(1, how.max_rows // len(shards))

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = predictor_of_worker(models_uri, version, scoring)
        for batch in batches:
            for number in batch["id"].to_pylist():
                shard, address = shards[number]
                rows = first_rows(address, most)
                yield pa.record_batch(
                    {
                        "shard": pa.array([shard] * rows.num_rows, pa.int32()),
                        "current": column(rows, TIER_RANK).cast(pa.int32()),
                        "outcome": column(rows, OUTCOME_RANK).cast(pa.int32()),
                        "probabilities": pa.array(list(predictor(rows)), pa.list_(pa.float64())),
                    }
                )

    tasks = min(len(shards), spark.sparkContext.defaultParallelism)
    found = spark.range(0, len(shards), 1, tasks).mapInArrow(work, _ROWS).toArrow().sort_by("shard")
    shard, current, outcome = (found[name].to_numpy().astype(np.int64) for name in ("shard", "current", "outcome"))
    flat = found["probabilities"].combine_chunks().flatten().to_numpy()
    return Validated(shard, current, outcome, flat.reshape(found.num_rows, -1))
