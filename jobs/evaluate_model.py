"""A bundle, and sequences and outcomes of an as-of date it never saw, in; figures beside baselines out."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import delta, tables
from jobs.groups import assess_groups, groups_of_users
from jobs.job import Job, Run, main, parser
from jobs.reports import write_evaluation
from jobs.scoring import inputs_of_members, members, score
from training.baselines import fit_baselines
from training.bundle import Manifest, check_fits, check_no_overlap, read_manifest
from training.challengers import Rows, inputs_of, probabilities
from training.fairness import Fairness
from training.feed import OUTCOME_RANK
from training.metrics import Comparison, Evaluation, compare
from training.report import summary_lines
from training.spark_examples import aggregate_rows, tier_transitions
from training.spark_scoring import Forecasts, collect_forecasts
from training.tensors import Array

ARGUMENTS = parser(
    "evaluate_model",
    reads="sequences (or events) and outcomes of `evaluation.as_of`, those of the training dates, the bundle, groups.",
    writes="evaluations, fairness, reports/AS_OF.html, reports/AS_OF.json, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml",
    as_of="optional",
)


def run(job: Job) -> None:
    """Evaluate the bundle on each date asked for, or on the configured one."""
    for date in job.as_of or [job.settings.evaluation.as_of]:
        with job.run("evaluate_model", date) as record:
            comparison, fairness = evaluate_model(job, record, date)
        job.say([*summary_lines(comparison), *(fairness.lines() if fairness else [])])


def evaluate_model(job: Job, record: Run, date: dt.date) -> tuple[Comparison, Fairness | None]:
    """Compare the bundle's forecasts with the outcomes and the baselines, and groups with each other."""
    settings, groups = job.settings, groups_of_users(job)
    manifest = read_manifest(settings.storage.models, settings.scoring.model_version)
    check_fits(manifest, settings.contract)
    check_no_overlap(manifest, date)
    record.model_version = manifest.version
    outcomes = delta.read(job.spark, job.existing("outcomes"))
    known, _ = members(job, date, inputs_of_members(job, date), record)
    scores = score(job.spark, known, manifest, settings.storage.models, settings.scoring)
    of_date = outcomes.where(delta.date_is("as_of_date", date))
    forecasts = collect_forecasts(scores, of_date, manifest.contract, settings.evaluation.max_users)
    transitions = tier_transitions(
        delta.read(job.spark, job.uri("sequences")), outcomes, manifest.training_dates, manifest.contract
    )
    others, failed = _challengers(job, manifest, date, forecasts)
    comparison = compare(
        forecasts.probabilities,
        forecasts.current_rank,
        forecasts.outcome_rank,
        manifest.contract.tiers,
        fit_baselines(transitions),
        settings.evaluation.calibration_bins,
        others,
        failed,
        settings.evaluation.bootstrap_draws,
    )
    record.counts = {"rows": comparison.model.rows}
    record.versions["evaluations"] = _keep(job, record, manifest, date, comparison)
    fairness = None if groups is None else assess_groups(job, record, manifest, date, forecasts, groups)
    write_evaluation(job, manifest, forecasts, date, comparison, of_date.count(), fairness)
    return comparison, fairness


def _challengers(
    job: Job, manifest: Manifest, date: dt.date, forecasts: Forecasts
) -> tuple[dict[str, Array], dict[str, str]]:
    """Probabilities of each challenger for the members of the forecasts, and why others have none."""
    settings, contract = job.settings.evaluation, manifest.contract
    if not settings.challengers:
        return {}, {}
    sequences, outcomes = (delta.read(job.spark, job.uri(name)) for name in ("sequences", "outcomes"))

    def rows(dates: Sequence[dt.date], most: int) -> pa.Table:
        return aggregate_rows(sequences, outcomes, dates, contract, most)

    evaluated = rows([date], settings.max_users)
    place = pc.index_in(pa.array(forecasts.users), evaluated["user_id"].combine_chunks())
    if place.null_count:
        missing = f"{place.null_count} of the members have no row in sequences as of {date}: run build_sequences"
        return {}, dict.fromkeys(settings.challengers, missing)
    learned = [rows(dates, settings.challenger_rows) for dates in (manifest.training_dates, [manifest.validation_date])]
    training, validation = (
        Rows(inputs_of(part, contract), part[OUTCOME_RANK].to_numpy().astype(np.int64)) for part in learned
    )
    inputs = inputs_of(evaluated.take(place), contract)
    return probabilities(
        settings.challengers, training, validation, inputs, len(contract.tiers), job.settings.training.seed
    )


def _keep(job: Job, record: Run, manifest: Manifest, date: dt.date, comparison: Comparison) -> int:
    uri = job.uri("evaluations")
    delta.ensure(job.spark, uri, tables.EVALUATIONS)
    seen = delta.version(job.spark, uri)
    models = {manifest.model.name: comparison.model, **comparison.baselines, **comparison.challengers}
    rows = [_row(manifest.version, name, figures, record.now, date) for name, figures in models.items()]
    predicate = f"{delta.date_is('as_of_date', date)} AND model_version = '{manifest.version}'"
    frame = job.spark.createDataFrame(rows, tables.EVALUATIONS.schema).coalesce(1)
    return delta.commit(frame, uri, tables.EVALUATIONS, record.id, seen, predicate)


def _row(version: str, name: str, figures: Evaluation, now: dt.datetime, date: dt.date) -> tuple[object, ...]:
    return (
        version, name, figures.rows, figures.accuracy, figures.macro_f1, figures.logloss, figures.kappa, figures.brier,
        figures.calibration_error, figures.upgrade_auc, figures.downgrade_auc,
        json.dumps(figures.to_dict(), sort_keys=True), now, date,
    )  # fmt: skip


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
