"""Sequences of an as-of date and a bundle in; one row of tier probabilities per user out, and the table of tiers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from collections.abc import Sequence

import pyarrow as pa

from features import delta, table_files, tables
from features.tiers import TierRule
from jobs.job import Job, Run, main, parser, reconcile
from jobs.reports import write_forecast
from jobs.scoring import inputs_of_members, members, write_scores
from training import drift
from training.bundle import Manifest, check_fits, read_manifest
from training.drift import Shift
from training.settings import ScoringSettings

ARGUMENTS = parser(
    "score_users",
    reads="the bundle named by `scoring.model_version`; sequences of the as-of date, or events where there are none.",
    writes="scores, tiers, drift, stale user_days, reports/AS_OF.html where the outcomes are not known yet, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01",
    as_of="required",
)


def run(job: Job) -> None:
    """Score each as-of date that is not scored by this bundle already."""
    write_tiers(job)
    for date in job.as_of:
        with job.run("score_users", date) as record:
            score_users(job, record, date)


def score_users(job: Job, record: Run, date: dt.date) -> None:
    """Write the scores of one as-of date in one commit."""
    settings, uri = job.settings, job.uri("scores")
    manifest = read_manifest(settings.storage.models, settings.scoring.model_version)
    check_fits(manifest, settings.contract, settings.scoring.outputs)
    record.model_version = manifest.version
    table = tables.scores(manifest.contract.tiers, settings.scoring.outputs)
    delta.ensure(job.spark, uri, table)
    seen = delta.version(job.spark, uri)
    now = inputs_of_members(job, date)
    if table_files.inputs_at(uri, seen, date) == {_inputs(now, manifest, settings.scoring)}:
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
    record.versions["scores"] = delta.commit_files(uri, table, record.id, seen, [date], files)
    scores = delta.read(job.spark, uri, record.versions["scores"]).where(delta.date_is("as_of_date", date))
    shifts = drift.shifts(manifest.profile, counted, watched) if manifest.profile and counted else ()
    _keep_drift(job, record, manifest, date, shifts)
    write_forecast(job, manifest, scores, date)


def _keep_drift(job: Job, record: Run, manifest: Manifest, date: dt.date, shifts: Sequence[Shift]) -> None:
    """A row for each feature; those that are too far become a warning of the run."""
    delta.ensure(job.spark, job.uri("drift"), tables.DRIFT)
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
        delta.append(job.uri("drift"), tables.DRIFT, rows)
    record.counts["drifted_features"] = sum(s.level in ("warning", "refusal") for s in shifts)
    record.message = "; ".join(drift.notes(shifts, job.settings.gate.drift)) or None


def _inputs(of_sequences: str, manifest: Manifest, settings: ScoringSettings) -> str:
    own = table_files.fingerprint(manifest.version, settings.precision, *settings.outputs)
    return f"{table_files.fingerprint(of_sequences)}.{own}"


def reason(job: Job, date: dt.date, of_sequences: str) -> str | None:
    """Why a date is to be scored, given the fingerprint that its sequences have or will have; None: it is scored."""
    manifest = read_manifest(job.settings.storage.models, job.settings.scoring.model_version)
    uri = job.uri("scores")
    if not delta.exists(job.spark, uri):
        return "missing"
    found = table_files.inputs_at(uri, delta.version(job.spark, uri), date)
    why = table_files.stale(found, _inputs(of_sequences, manifest, job.settings.scoring))
    return "bundle changed" if why == "settings changed" else why


def write_tiers(job: Job) -> None:
    """The dimension table that BI joins, written when the rule or the benefits change."""
    with job.run("write_tiers", None) as record:
        rows, uri = (
            tier_rows(job.settings.tiers.rule(), [x.benefits for x in job.settings.tiers.levels]),
            job.uri("tiers"),
        )
        delta.ensure(job.spark, uri, tables.TIERS)
        seen = delta.version(job.spark, uri)
        if sorted(tuple(r) for r in delta.read(job.spark, uri).collect()) == rows:
            record.status = "unchanged"
            return
        frame = job.spark.createDataFrame(rows, tables.TIERS.schema).coalesce(1)
        record.versions["tiers"] = delta.commit(frame, uri, tables.TIERS, record.id, seen, "true")


def tier_rows(rule: TierRule, benefits: Sequence[Sequence[str]]) -> list[tuple[int, str, str, str]]:
    """Rows of `tiers`, lowest first."""
    return [(k, name, rule.describe(k), "; ".join(benefits[k])) for k, name in enumerate(rule.names)]


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
