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
from jobs.running.job import Job, Run
from jobs.steps import dated_output
from jobs.steps.bundles import scoring_bundle
from jobs.steps.dated_output import Built, DatedOutput
from jobs.steps.members import Members, members, sequences_of
from jobs.steps.reports import write_forecast
from training.bundles.manifest import Manifest
from training.inputs.column_names import AS_OF
from training.judging import drift
from training.judging.drift import PREDICTED_TIER, Counted, Shift
from training.models import TIER
from training.scoring.score_rows import forecast_rows
from training.settings.scoring import ScoringSettings
from training.spark.predictors import forecasts

_COUNTING = 64
"""Ranges that are counted for drift: what the driver receives does not grow with the members."""

_ADDED = ("scored_at", "inputs_id")


@dataclasses.dataclass(frozen=True)
class Scored(Built):
    """Files of `scores`, and what drift is measured by; None where the bundle has no profile to compare with."""

    counted: Counted | None = None


def score_users(job: Job, record: Run, date: dt.date) -> None:
    """Write the scores of one as-of date in one commit, watch for drift and write the report."""
    settings, uri, manifest = job.settings, job.uri("scores"), scoring_bundle(job)
    record.model_version = manifest.version
    sequences = sequences_of(job, date)

    def build() -> Scored:
        known, of_sequences = members(job, sequences, record)
        inputs = _inputs(of_sequences, manifest, settings.scoring)
        stamp = {"scored_at": pa.scalar(record.now, pa.timestamp("us", "UTC")), "inputs_id": pa.scalar(inputs)}
        scoring = Scoring(known, manifest, settings.storage.models, settings.scoring)
        files, counted = write_scores(job.spark, scoring, uri, stamp, settings.gate.drift.sample_rows)
        return Scored(files, known.count, counted)

    table = schemas.scores(manifest.contract.tiers, settings.scoring.outputs)
    output = DatedOutput(table, uri, date, _inputs(sequences.inputs, manifest, settings.scoring))
    built = dated_output.write(job, record, output, build)
    if built is None:
        return
    counted, profile = built.counted, manifest.profile
    shifts = drift.shifts(profile, counted, settings.gate.drift) if profile and counted else ()
    _keep_drift(job, record, manifest, date, shifts)
    scores = delta_tables.read(job.spark, uri, record.versions["scores"])
    write_forecast(job, manifest, scores.where(delta_tables.date_is("as_of_date", date)), date)


def _keep_drift(job: Job, record: Run, manifest: Manifest, date: dt.date, shifts: Sequence[Shift]) -> None:
    """Append a row for each feature; features beyond their bounds become a warning of the run."""
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
    manifest, scoring = scoring_bundle(job), job.settings.scoring
    table = schemas.scores(manifest.contract.tiers, scoring.outputs)
    output = DatedOutput(table, job.uri("scores"), date, _inputs(of_sequences, manifest, scoring))
    why = dated_output.look(job, output).reason
    return "bundle changed" if why == "settings changed" else why


def write_tiers(job: Job) -> None:
    """The dimension table that BI joins, written when the rule or the benefits change."""
    tiers, uri = job.settings.tiers, job.uri("tiers")
    with job.run("write_tiers", None) as record:
        rows = tier_rows(tiers.rule(), [level.benefits for level in tiers.levels])
        delta_tables.ensure(job.spark, uri, schemas.TIERS)
        if sorted(tuple(r) for r in delta_tables.read(job.spark, uri).collect()) == rows:
            record.status = "unchanged"
        else:
            dated_output.replace_rows(job, record, schemas.TIERS, rows)


def tier_rows(rule: TierRule, benefits: Sequence[Sequence[str]]) -> list[tuple[int, str, str, str]]:
    """Rows of `tiers`, lowest first."""
    return [(k, name, rule.describe(k), "; ".join(benefits[k])) for k, name in enumerate(rule.names)]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What tasks score: members whose rows follow the contract of the bundle, see `manifest.check_fits`.

    Each Python worker reads the bundle from `models_uri`; `settings` give the sizes of the network's calls.
    """

    members: Members
    manifest: Manifest
    models_uri: str
    settings: ScoringSettings

    def rows_of(self, portion: int) -> pa.Table:
        """The members of a range."""
        return self.members.rows_of(self.members.ranges[portion])

    def forecasts(self, rows: pa.Table) -> dict[str, Array]:
        """What the bundle forecasts for some members, by output."""
        return forecasts(rows, self.models_uri, self.manifest, self.settings)

    @property
    def table(self) -> schemas.Table:
        """The `scores` table of the bundle."""
        return schemas.scores(self.manifest.contract.tiers, self.settings.outputs)


def score(spark: SparkSession, scoring: Scoring) -> DataFrame:
    """One row per member: the columns of `schemas.scores` but for `scored_at` and `inputs_id`."""
    fields = [f for f in scoring.table.fields if f.name not in _ADDED]

    def work(portion: int) -> Iterator[pa.RecordBatch]:
        rows = scoring.rows_of(portion)
        scored = forecast_rows(rows, scoring.forecasts(rows), scoring.manifest)
        yield from scored.select([f.name for f in fields]).to_batches()

    return workers.rows(spark, len(scoring.members.ranges), work, StructType(fields))


def write_scores(
    spark: SparkSession, scoring: Scoring, uri: str, added: Mapping[str, pa.Scalar], counted_rows: int
) -> tuple[list[AddedFile], Counted | None]:
    """Write what `score` gives as files of `scores`, uncommitted; `added` are `scored_at` and `inputs_id`.

    With them comes what drift is measured by: about `counted_rows` members, counted by the profile of the bundle; None
    where it has no profile. They are the first members of the first ranges, and pseudonyms are as good as random.
    """
    members, manifest = scoring.members, scoring.manifest
    columns, profile = scoring.table.columns, manifest.profile
    counting = min(len(members.ranges), _COUNTING)
    most = -(-counted_rows // counting)

    def work(portion: int) -> Iterator[tuple[AddedFile, Counted | None]]:
        rows, counted = scoring.rows_of(portion), None
        if not rows.num_rows:
            return
        found = scoring.forecasts(rows)
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
