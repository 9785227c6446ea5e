"""Scores of a date: whether they stand, and how they are written, watched and recorded."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from features.core.arrays import Array
from features.core.contract import Contract
from features.kernel.tiers import TierRule
from features.spark import workers
from features.storage import commits, delta_tables, file_writer, schemas, table_log
from features.storage.file_writer import AddedFile
from jobs.running.job import Job, Run, reconcile
from jobs.steps.members import Members, inputs_of_members, members
from jobs.steps.reports import write_forecast
from training.bundles.bundle_folder import read_manifest
from training.bundles.manifest import Manifest, check_fits
from training.inputs.column_names import AS_OF
from training.judging import drift
from training.judging.drift import PREDICTED_TIER, Counted, Shift
from training.models import TIER
from training.scoring.score_rows import forecast_rows
from training.settings.scoring import ScoringSettings
from training.spark.predictors import forecasts

_COUNTING = 64
"""Ranges in which members are counted: what the driver gets of them does not grow with the members."""

_ADDED = ("scored_at", "inputs_id")


def score_users(job: Job, record: Run, date: dt.date) -> None:
    """Write the scores of one as-of date in one commit."""
    settings, uri = job.settings, job.uri("scores")
    manifest = read_manifest(settings.storage.models, settings.scoring.model_version)
    check_fits(manifest, settings.contract, settings.scoring.outputs)
    record.model_version = manifest.version
    table = schemas.scores(manifest.contract.tiers, settings.scoring.outputs)
    delta_tables.ensure(job.spark, uri, table)
    seen = delta_tables.version(job.spark, uri)
    now = inputs_of_members(job, date)
    if table_log.inputs_at(uri, seen, date) == {_inputs(now, manifest, settings.scoring)}:
        record.status = "unchanged"
        return
    known, of_sequences = members(job, date, now, record)
    inputs = _inputs(of_sequences, manifest, settings.scoring)
    stamp = {"scored_at": pa.scalar(record.now, pa.timestamp("us", "UTC")), "inputs_id": pa.scalar(inputs)}
    watched = settings.gate.drift
    files, counted = write_scores(
        job.spark, known, manifest, settings.storage.models, settings.scoring, uri, stamp, watched.sample_rows
    )
    record.counts["rows"] = sum(f.rows for f in files)
    if known.count is not None:
        reconcile(f"scores as of {date}", known.count, record.counts["rows"])
    record.versions["scores"] = commits.commit_files(uri, table, record.id, seen, [date], files)
    scores = delta_tables.read(job.spark, uri, record.versions["scores"]).where(
        delta_tables.date_is("as_of_date", date)
    )
    shifts = drift.shifts(manifest.profile, counted, watched) if manifest.profile and counted else ()
    _keep_drift(job, record, manifest, date, shifts)
    write_forecast(job, manifest, scores, date)


def _keep_drift(job: Job, record: Run, manifest: Manifest, date: dt.date, shifts: Sequence[Shift]) -> None:
    """A row for each feature; those that are too far become a warning of the run."""
    delta_tables.ensure(job.spark, job.uri("drift"), schemas.DRIFT)
    rows = [
        {
            **dataclasses.asdict(shift),
            "model_version": manifest.version,
            "run_id": record.id,
            "measured_at": record.now,
            "as_of_date": date,
        }
        for shift in shifts
    ]
    if rows:
        commits.append(job.uri("drift"), schemas.DRIFT, rows)
    record.counts["drifted_features"] = sum(s.level in ("warning", "refusal") for s in shifts)
    record.message = "; ".join(drift.notes(shifts, job.settings.gate.drift)) or None


def _inputs(of_sequences: str, manifest: Manifest, settings: ScoringSettings) -> str:
    own = table_log.fingerprint(manifest.version, settings.precision, *settings.outputs)
    return f"{table_log.fingerprint(of_sequences)}.{own}"


def reason(job: Job, date: dt.date, of_sequences: str) -> str | None:
    """Why a date is to be scored, given the fingerprint that its sequences have or will have; None: it is scored."""
    manifest = read_manifest(job.settings.storage.models, job.settings.scoring.model_version)
    uri = job.uri("scores")
    if not delta_tables.exists(job.spark, uri):
        return "missing"
    found = table_log.inputs_at(uri, delta_tables.version(job.spark, uri), date)
    why = table_log.stale(found, _inputs(of_sequences, manifest, job.settings.scoring))
    return "bundle changed" if why == "settings changed" else why


def write_tiers(job: Job) -> None:
    """The dimension table that BI joins, written when the rule or the benefits change."""
    with job.run("write_tiers", None) as record:
        rows, uri = (
            tier_rows(job.settings.tiers.rule(), [x.benefits for x in job.settings.tiers.levels]),
            job.uri("tiers"),
        )
        delta_tables.ensure(job.spark, uri, schemas.TIERS)
        seen = delta_tables.version(job.spark, uri)
        if sorted(tuple(r) for r in delta_tables.read(job.spark, uri).collect()) == rows:
            record.status = "unchanged"
            return
        frame = job.spark.createDataFrame(rows, schemas.TIERS.schema).coalesce(1)
        record.versions["tiers"] = commits.commit(frame, uri, schemas.TIERS, record.id, seen, "true")


def tier_rows(rule: TierRule, benefits: Sequence[Sequence[str]]) -> list[tuple[int, str, str, str]]:
    """Rows of `tiers`, lowest first."""
    return [(k, name, rule.describe(k), "; ".join(benefits[k])) for k, name in enumerate(rule.names)]


def score(
    spark: SparkSession, members: Members, manifest: Manifest, models_uri: str, settings: ScoringSettings
) -> DataFrame:
    """One row per member: the columns of `tables.scores` but for `scored_at` and `inputs_id`.

    Args:
        spark: the session.
        members: rows that follow the manifest's contract, see `training.bundles.manifest.check_fits`.
        manifest: of the bundle.
        models_uri: where the bundle lies; each Python worker reads it from there.
        settings: sizes of the network's calls.
    """
    fields = [f for f in schemas.scores(manifest.contract.tiers, settings.outputs).fields if f.name not in _ADDED]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        rows = _scored(members, portion, manifest, models_uri, settings)
        yield from rows.select([f.name for f in fields]).to_batches()

    return workers.rows(spark, len(members.ranges), work, StructType(fields))


def write_scores(
    spark: SparkSession,
    members: Members,
    manifest: Manifest,
    models_uri: str,
    settings: ScoringSettings,
    uri: str,
    added: Mapping[str, pa.Scalar],
    counted_rows: int,
) -> tuple[list[AddedFile], Counted | None]:
    """Write what `score` gives as files of `scores`, uncommitted; `added` are `scored_at` and `inputs_id`.

    With them comes what drift is measured by: about `counted_rows` members, counted by the profile of the bundle; None
    where it has no profile. They are the first members of the first ranges, and pseudonyms are as good as random.
    """
    columns, profile = schemas.scores(manifest.contract.tiers, settings.outputs).columns, manifest.profile
    counting = min(len(members.ranges), _COUNTING)
    most = -(-counted_rows // counting)

    def work(portion: int) -> Iterator[tuple[AddedFile, Counted | None]]:
        rows = members.rows_of(members.ranges[portion])
        if not rows.num_rows:
            return
        found = forecasts(rows, models_uri, manifest, settings)
        counted = None
        if profile is not None and portion < counting:
            counted = profile.count(_watched(rows.slice(0, most), found[TIER][:most], manifest.contract))
        scored = forecast_rows(rows, found, manifest)
        for name, value in added.items():
            scored = scored.append_column(name, pa.repeat(value, scored.num_rows))
        scored = scored.select(columns)
        yield file_writer.write_file(scored, uri, AS_OF, members.as_of, file_writer.MEMBERS), counted

    written = workers.found(spark, len(members.ranges), work)
    parts = [counted for _, counted in written if counted is not None]
    return [file for file, _ in written], functools.reduce(operator.add, parts) if parts else None


def _watched(rows: pa.Table, probabilities: Array, contract: Contract) -> dict[str, Array]:
    values: dict[str, Array] = {**drift.feature_values(rows, contract)}
    return values | {PREDICTED_TIER: probabilities.argmax(axis=1).astype(float)}


def _scored(members: Members, portion: int, manifest: Manifest, models_uri: str, settings: ScoringSettings) -> pa.Table:
    rows = members.rows_of(members.ranges[portion])
    return forecast_rows(rows, forecasts(rows, models_uri, manifest, settings), manifest)
