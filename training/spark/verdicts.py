"""A trained bundle's calibration, profile and verdict, from its forecasts for training and validation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from pyspark.sql import SparkSession

from features.core.arrays import Array
from features.core.errors import BundleError
from features.spark import workers
from training.bundles import bundle_folder
from training.bundles.manifest import Manifest
from training.examples.shards import ShardSet
from training.inputs.column_names import OUTCOME_RANK, TIER_RANK, column
from training.judging import calibration, drift, gate
from training.judging.calibration import Calibration
from training.judging.drift import PREDICTED_TIER, Profile
from training.judging.verdict import Verdict
from training.rivals.baselines import cross_fitted_markov
from training.settings.judging import CalibrationSettings, GateSettings
from training.settings.scoring import ScoringSettings
from training.spark.predictors import predictor_of_worker


@dataclasses.dataclass(frozen=True)
class Judging:
    """How bundles are judged.

    Attributes:
        calibration: settings.
        gate: settings.
        scoring: sizes of the network's calls.
        max_rows: most validation rows that the driver takes.
        publish: whether bundles are judged and `latest` may name them; if not, they are calibrated only, and judged if
            a later training asks for the same.
    """

    calibration: CalibrationSettings
    gate: GateSettings
    scoring: ScoringSettings
    max_rows: int
    publish: bool = True


@dataclasses.dataclass(frozen=True)
class Validated:
    """Forecasts of n validation rows, one for each member: shards and ranks [n] int64, and probabilities [n, K]."""

    shard: Array
    current: Array
    outcome: Array
    probabilities: Array

    @property
    def half(self) -> Array:
        """[n] whether a member is in the first half: what is fitted on one half is tried on the other."""
        return np.asarray(self.shard % 2 == 0)


def judge(
    spark: SparkSession,
    models_uri: str,
    manifest: Manifest,
    training: ShardSet,
    validation: ShardSet,
    how: Judging,
) -> Manifest:
    """Calibrate a bundle, decide whether it is published, and write both to it; returns the new manifest.

    It is judged by probabilities from a calibration that was fitted on the other half of the members; it keeps the
    calibration that is fitted on all of them.

    Args:
        spark: the session.
        models_uri: where bundles lie.
        manifest: of the bundle.
        training: shards of the training dates.
        validation: shards of the validation date.
        how: settings.
    """
    rows = validated(spark, models_uri, manifest, validation, how)
    mended = calibration.cross_fitted(rows.probabilities, rows.current, rows.outcome, rows.half, how.calibration)
    fitted = calibration.fit(rows.probabilities, rows.current, rows.outcome, how.calibration)
    known, now = (sampled(spark, models_uri, manifest, split, fitted, how) for split in (training, validation))
    profile = Profile.of(known, len(manifest.contract.tiers), how.gate.drift.bins)
    shifts = drift.shifts(profile, profile.count(now), how.gate.drift)
    rivals, notes = rivals_of(spark, models_uri, manifest, validation, rows, how)
    verdict = gate.judge(
        {"model": mended, **rivals}, rows.current, rows.outcome, manifest.contract.tiers, how.gate, notes, shifts
    )
    return bundle_folder.settle(models_uri, manifest, fitted, profile, verdict)


def judge_refit(
    spark: SparkSession,
    models_uri: str,
    manifest: Manifest,
    candidate: Verdict,
    training: ShardSet,
    validation: ShardSet,
    how: Judging,
) -> Manifest:
    """Decide whether a bundle that was trained anew with the validation rows is published; returns the new manifest.

    Its probabilities are not calibrated: the candidate's calibration corrects how the validation date differs from
    earlier ones, and this network has learned from that date.

    Args:
        spark: the session.
        models_uri: where bundles lie.
        manifest: of the bundle.
        candidate: the verdict on the network before, see `judge`.
        training: shards of all that it has learned from.
        validation: shards of the validation date.
        how: settings.
    """
    tiers = len(manifest.contract.tiers)
    none = Calibration.none(tiers)
    rows = validated(spark, models_uri, manifest, validation, how)
    profile = Profile.of(sampled(spark, models_uri, manifest, training, none, how), tiers, how.gate.drift.bins)
    verdict = gate.of_refit(candidate, rows.probabilities, rows.outcome, how.gate)
    return bundle_folder.settle(models_uri, manifest, none, profile, verdict)


def rivals_of(
    spark: SparkSession,
    models_uri: str,
    manifest: Manifest,
    validation: ShardSet,
    rows: Validated,
    how: Judging,
) -> tuple[dict[str, Array], list[str]]:
    """Probabilities [n, K] of the rivals of a bundle, and why a rival is left out; see `judge`."""
    tiers = len(manifest.contract.tiers)
    rivals = {"markov": cross_fitted_markov(rows.current, rows.outcome, rows.half, tiers)}
    try:
        published = bundle_folder.published(models_uri)
        if published is not None and published.candidate and manifest.validation_date in published.training_dates:
            published = bundle_folder.read_manifest(
                models_uri, published.candidate
            )  # which has not learned from these rows
    except BundleError as error:  # of an earlier release, or damaged: what replaces it must not fail by it
        return rivals, [f"not compared with the published model: {error}"]
    if published is None or manifest.version in (published.version, published.candidate):
        return rivals, []
    if why := _not_comparable(published, manifest):
        return rivals, [f"not compared with the published {published.version}: {why}"]
    theirs = validated(spark, models_uri, published, validation, how)
    if published.validation_date == manifest.validation_date:  # its calibration was fitted on these very rows
        mended = calibration.cross_fitted(theirs.probabilities, rows.current, rows.outcome, rows.half, how.calibration)
    else:
        mended = published.calibration(theirs.probabilities, theirs.current)
    return {**rivals, "published": mended}, []


def calibrate(spark: SparkSession, models_uri: str, manifest: Manifest, validation: ShardSet, how: Judging) -> Manifest:
    """Calibrate a bundle that is not to be judged or published; returns the new manifest. Arguments as for `judge`."""
    rows = validated(spark, models_uri, manifest, validation, how)
    fitted = calibration.fit(rows.probabilities, rows.current, rows.outcome, how.calibration)
    return bundle_folder.settle(models_uri, manifest, fitted, None, None)


def _not_comparable(published: Manifest, manifest: Manifest) -> str | None:
    if published.contract.differences(manifest.contract):
        return "it follows another contract"
    if manifest.validation_date in published.training_dates:
        return f"it was trained on {manifest.validation_date}"
    return None


def validated(
    spark: SparkSession, models_uri: str, manifest: Manifest, validation: ShardSet, how: Judging
) -> Validated:
    """A bundle's forecasts for the first rows of each shard, whose order is as good as random."""
    found = _forecast(spark, models_uri, manifest, validation, how.scoring, how.max_rows, features=False)
    return Validated(found["shard"], found["current"], found["outcome"], found["probabilities"])


def sampled(
    spark: SparkSession, models_uri: str, manifest: Manifest, split: ShardSet, fitted: Calibration, how: Judging
) -> dict[str, Array]:
    """What drift is measured by, of the first rows of each shard: [n] of each feature, see `training.judging.drift`."""
    found = _forecast(spark, models_uri, manifest, split, how.scoring, how.gate.drift.sample_rows, features=True)
    probabilities = fitted(found["probabilities"], found["current"])
    features = dict(zip(drift.feature_names(manifest.contract), found["features"].T, strict=True))
    return {**features, PREDICTED_TIER: probabilities.argmax(axis=1).astype(np.float64)}


def _forecast(
    spark: SparkSession,
    models_uri: str,
    manifest: Manifest,
    split: ShardSet,
    scoring: ScoringSettings,
    max_rows: int,
    features: bool,
) -> dict[str, Array]:
    """`shard`, `current` and `outcome` [n] int64, `probabilities` [n, K] and, if wanted, `features` [n, F] by shard.

    These are up to about `max_rows` rows.
    """
    contract, shards = manifest.contract, split.filled()

    def work(portion: int) -> Iterator[dict[str, Array]]:
        predictor, shard = predictor_of_worker(models_uri, manifest, scoring), shards[portion]
        rows = split.sample(shard, max_rows)
        found = {
            "shard": np.full(rows.num_rows, shard),
            "current": np.asarray(column(rows, TIER_RANK)).astype(np.int64),
            "outcome": np.asarray(column(rows, OUTCOME_RANK)).astype(np.int64),
            "probabilities": predictor(rows),
        }
        if features:
            found["features"] = np.stack([*drift.feature_values(rows, contract).values()], axis=1)
        yield found

    parts = workers.found(spark, len(shards), work, spark.sparkContext.defaultParallelism)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
