"""Judges a bundle at a date: its forecasts beside baselines and challengers, on the same members."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrays import Array
from features.storage import delta_tables, schemas
from jobs.running.job import Job, Run
from jobs.steps.bundles import scoring_bundle
from jobs.steps.dated_output import replace_rows, rows_of_model
from jobs.steps.fairness import assess_groups, groups_of_users
from jobs.steps.members import members, sequences_of
from jobs.steps.reports import write_evaluation
from jobs.steps.scores import Scoring, score
from training.bundles.manifest import Manifest, check_no_overlap
from training.evaluation.comparison import Comparison, Judged, Rivals, compare
from training.evaluation.fairness import Fairness
from training.evaluation.metrics import Evaluation
from training.rivals.baselines import fit_baselines
from training.rivals.challengers import probabilities
from training.rivals.rows import Rows, Task, inputs_of
from training.spark.driver_rows import Forecasts, aggregate_rows, collect_forecasts, tier_transitions


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A bundle beside its rivals at a date: the figures, the forecasts behind them, and how many have an outcome.

    `rivals` are the probabilities [n, K] of baselines and challengers for the rows of `forecasts`.
    """

    manifest: Manifest
    date: dt.date
    comparison: Comparison
    rivals: dict[str, Array]
    forecasts: Forecasts
    known: int

    @property
    def judged(self) -> Judged:
        """The forecasts of all, the bundle's first."""
        found = self.forecasts
        everybody = {self.manifest.model.name: found.probabilities, **self.rivals}
        return Judged(found.users, found.current_rank, found.outcome_rank, everybody)


def evaluate_model(job: Job, record: Run, date: dt.date) -> tuple[Comparison, Fairness | None]:
    """Evaluate the configured bundle, compare groups of members, keep the figures and write the report."""
    groups = groups_of_users(job)
    found = evaluated(job, record, job.settings.scoring.model_version, date)
    keep(job, record, found)
    fairness = None if groups is None else assess_groups(job, record, found.manifest, date, found.forecasts, groups)
    write_evaluation(job, found.manifest, found.forecasts, date, found.comparison, found.known, fairness)
    return found.comparison, fairness


def evaluated(job: Job, record: Run, version: str, date: dt.date) -> Evaluated:
    """Compare a bundle's forecasts with the outcomes, the baselines and the challengers, on the same rows."""
    settings = job.settings
    manifest = scoring_bundle(job, version)
    check_no_overlap(manifest, date)
    record.model_version = manifest.version
    outcomes = delta_tables.read(job.spark, job.existing("outcomes"))
    known, _ = members(job, sequences_of(job, date), record)
    scores = score(job.spark, Scoring(known, manifest, settings.storage.models, settings.scoring))
    of_date = outcomes.where(delta_tables.date_is("as_of_date", date))
    forecasts = collect_forecasts(scores, of_date, manifest.contract, settings.evaluation.max_users)
    sequences, weights = delta_tables.read(job.spark, job.uri("sequences")), settings.training.weights
    baselines = fit_baselines(
        tier_transitions(sequences, outcomes, manifest.training_dates, manifest.contract, weights)
    )
    others, failed = _challengers(job, manifest, date, forecasts)
    comparison = compare(
        forecasts.probabilities,
        forecasts.current_rank,
        forecasts.outcome_rank,
        manifest.contract.tiers,
        Rivals(baselines, others, failed),
        settings.evaluation.calibration_bins,
        settings.evaluation.bootstrap_draws,
    )
    record.counts = {"rows": comparison.model.rows}
    rivals = {**{name: b.predict(forecasts.current_rank) for name, b in baselines.items()}, **others}
    return Evaluated(manifest, date, comparison, rivals, forecasts, of_date.count())


def _challengers(
    job: Job, manifest: Manifest, date: dt.date, forecasts: Forecasts
) -> tuple[dict[str, Array], dict[str, str]]:
    """Probabilities of each challenger for the members of the forecasts, and why others have none."""
    settings, contract = job.settings.evaluation, manifest.contract
    if not settings.challengers:
        return {}, {}
    sequences, outcomes = (delta_tables.read(job.spark, job.uri(name)) for name in ("sequences", "outcomes"))
    weights = job.settings.training.weights
    known = aggregate_rows(sequences, outcomes, [date], contract, settings.max_users)
    place = pc.index_in(pa.array(forecasts.users), known["user_id"].combine_chunks())
    if place.null_count:
        missing = f"{place.null_count} of the members have no row in sequences as of {date}: run build_sequences"
        return {}, dict.fromkeys(settings.challengers, missing)

    def rows(dates: Sequence[dt.date]) -> Rows:
        return Rows.of(
            aggregate_rows(sequences, outcomes, dates, contract, settings.challenger_rows, weights), contract
        )

    learned, validation = manifest.training_dates, manifest.validation_date
    task = Task(
        contract,
        job.settings.events.purchase_type,
        settings.lightgbm_trials,
        job.settings.training.seed,
        rows(learned) if validation in learned else None,
    )
    training = rows([date for date in learned if date != validation])
    inputs = inputs_of(known.take(place), contract)
    return probabilities(settings.challengers, training, rows([validation]), inputs, task)


def keep(job: Job, record: Run, found: Evaluated) -> None:
    """Replace the rows of the bundle and the date in `evaluations`."""
    comparison = found.comparison
    models = {found.manifest.model.name: comparison.model, **comparison.baselines, **comparison.challengers}
    rows = [_row(found, name, figures, record.now) for name, figures in models.items()]
    replace_rows(job, record, schemas.EVALUATIONS, rows, rows_of_model(found.date, found.manifest.version))


def _row(found: Evaluated, name: str, figures: Evaluation, now: dt.datetime) -> tuple[object, ...]:
    details = dataclasses.asdict(figures) | {"network_minus_this": found.comparison.intervals.get(name, {})}
    return (
        found.manifest.version, name, figures.rows, figures.accuracy, figures.macro_f1, figures.logloss, figures.kappa,
        figures.brier, figures.calibration_error, figures.upgrade_auc, figures.downgrade_auc,
        json.dumps(details, sort_keys=True), now, found.date,
    )  # fmt: skip
