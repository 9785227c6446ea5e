"""Pages under reports/: one per as-of date, with or without outcomes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core import places
from features.storage import delta_tables
from jobs.steps.reasons import reasons_with_losses
from training.bundles.manifest import Manifest
from training.evaluation import curves
from training.evaluation.comparison import Comparison
from training.evaluation.fairness import Fairness
from training.evaluation.metrics import Forecast, summarise_forecast
from training.judging.drift import PREDICTED_TIER, Shift
from training.reasons.importance import Overall
from training.report.contents import ReportInputs, TierCard, TrainingRecord
from training.report.page import render
from training.spark.driver_rows import Forecasts, collect_scores

if TYPE_CHECKING:
    from jobs.running.job import Job


def is_evaluated(job: Job, date: dt.date) -> bool:
    """Whether the page of a date shows how good its forecast was."""
    return places.exists(address(job, date, "json"))


def write_forecast(
    job: Job, manifest: Manifest, scores: DataFrame, date: dt.date, reasons: Overall | None = None
) -> None:
    """The page of a date whose outcomes nobody knows yet."""
    known = scores.count()
    probabilities, current = collect_scores(scores, manifest.contract, known, job.settings.evaluation.max_users)
    forecast = summarise_forecast(probabilities, current, manifest.contract.tiers)
    _write(job, dataclasses.replace(_inputs(job, manifest, date, forecast, known), reasons=reasons))


def write_evaluation(
    job: Job,
    manifest: Manifest,
    forecasts: Forecasts,
    date: dt.date,
    comparison: Comparison,
    known: int,
    fairness: Fairness | None,
) -> None:
    """The page and the JSON of an evaluated date; `known` is how many members have an outcome."""
    tiers, evaluation = manifest.contract.tiers, job.settings.evaluation
    ranks = forecasts.current_rank
    forecast = summarise_forecast(forecasts.probabilities, ranks, tiers)
    by_tier = curves.reliability_by_tier(
        forecasts.probabilities, ranks, forecasts.outcome_rank, tiers,
        evaluation.calibration_bins, evaluation.bootstrap_draws,
    )  # fmt: skip
    reasons = reasons_with_losses(job, manifest, date)
    inputs = _inputs(job, manifest, date, forecast, known)
    notes = inputs.notes if reasons else [*inputs.notes, *_without_reasons(date)]
    inputs = dataclasses.replace(
        inputs, comparison=comparison, reasons=reasons, by_tier=by_tier, fairness=fairness, notes=notes
    )
    _write(job, inputs)
    further = {
        "by_current_tier": [dataclasses.asdict(tier) for tier in by_tier],
        "reasons": [dataclasses.asdict(reason) for reason in reasons.reasons] if reasons else [],
        "fairness": dataclasses.asdict(fairness) if fairness else None,
    }
    content = {"as_of": str(date), "model_version": manifest.version, **dataclasses.asdict(comparison), **further}
    places.write_bytes(address(job, date, "json"), json.dumps(content, indent=1).encode())


def address(job: Job, date: dt.date, ending: str = "html") -> str:
    """Where a date's report lies."""
    return places.join(job.settings.storage.reports, f"{date}.{ending}")


def _inputs(job: Job, manifest: Manifest, date: dt.date, forecast: Forecast, known: int) -> ReportInputs:
    """What every page shows; `known` is how many members the date has."""
    settings = job.settings
    rule = settings.tiers.rule()
    return ReportInputs(
        title="Tier forecast",
        as_of=date,
        horizon_days=settings.horizon.days,
        tiers=[TierCard(x.name, rule.describe(k), tuple(x.benefits)) for k, x in enumerate(settings.tiers.levels)],
        forecast=forecast,
        versions={
            "model": manifest.version,
            "trained on": ", ".join(str(d) for d in manifest.training_dates),
            "settings": settings.hash,
            **{f"table {n}": str(v) for n, v in manifest.provenance.get("tables", {}).items()},
        },
        rows=job.rows_per_table(),
        notes=_notes(forecast, known),
        training=TrainingRecord(
            history=manifest.history,
            verdict=manifest.verdict,
            judged_as_of=manifest.validation_date,
            predicted_tiers=manifest.profile.training.rows[PREDICTED_TIER][:-1] if manifest.profile else (),
        ),
        drift=_drift(job, manifest, date),
    )


def _write(job: Job, inputs: ReportInputs) -> None:
    places.write_bytes(address(job, inputs.as_of), render(inputs).encode())


def _drift(job: Job, manifest: Manifest, date: dt.date) -> list[Shift]:
    """What the newest scoring of the date by this bundle found; empty where it did not score."""
    if not delta_tables.exists(job.spark, job.uri("drift")):
        return []
    of_date = delta_tables.read(job.spark, job.uri("drift")).where(delta_tables.date_is("as_of_date", date))
    rows = of_date.where(f.col("model_version") == manifest.version).toPandas()  # a row for each feature and run
    newest = rows[rows["measured_at"] == rows["measured_at"].max()].sort_values(
        ["psi", "feature"], ascending=[False, True]
    )
    return [Shift(**row) for row in newest[[x.name for x in dataclasses.fields(Shift)]].to_dict("records")]


def _notes(forecast: Forecast, known: int) -> list[str]:
    if forecast.rows == known:
        return []
    return [f"Figures and plots stand on a sample of {forecast.rows:,} of {known:,} members."]


def _without_reasons(date: dt.date) -> list[str]:
    return [
        f"Why members move is left out: the sequences as of {date} are missing or stale. Run build_sequences for it."
    ]
