"""What the jobs put under reports/: one page per as-of date, with or without outcomes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features import delta, uri
from training.bundle import Manifest
from training.drift import PREDICTED_TIER, Shift
from training.fairness import Fairness
from training.metrics import Comparison, Forecast, summarise_forecast
from training.report import ReportInputs, TierCard, render
from training.spark_scoring import Forecasts, collect_scores

if TYPE_CHECKING:
    from jobs.job import Job


def write_forecast(job: Job, manifest: Manifest, scores: DataFrame, date: dt.date) -> None:
    """The page of a date whose outcomes nobody knows yet."""
    probabilities, current = collect_scores(scores, manifest.contract, job.settings.evaluation.max_users)
    forecast = summarise_forecast(probabilities, current, manifest.contract.tiers)
    _write(job, manifest, date, forecast, None, scores.count())


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
    forecast = summarise_forecast(forecasts.probabilities, forecasts.current_rank, manifest.contract.tiers)
    _write(job, manifest, date, forecast, comparison, known, fairness)
    groups = {"fairness": fairness.to_dict()} if fairness else {}
    content = {"as_of": str(date), "model_version": manifest.version, **comparison.to_dict(), **groups}
    uri.write_bytes(address(job, date, "json"), json.dumps(content, indent=1).encode())


def address(job: Job, date: dt.date, ending: str = "html") -> str:
    """Where a date's report lies."""
    return uri.join(job.settings.storage.reports, f"{date}.{ending}")


def _write(
    job: Job,
    manifest: Manifest,
    date: dt.date,
    forecast: Forecast,
    comparison: Comparison | None,
    known: int,
    fairness: Fairness | None = None,
) -> None:
    settings = job.settings
    rule = settings.tiers.rule()
    inputs = ReportInputs(
        title="Tier forecast",
        as_of=date,
        horizon_days=settings.horizon.days,
        tiers=[TierCard(x.name, rule.describe(k), tuple(x.benefits)) for k, x in enumerate(settings.tiers.levels)],
        forecast=forecast,
        comparison=comparison,
        history=manifest.history,
        versions={
            "model": manifest.version,
            "trained on": ", ".join(str(d) for d in manifest.training_dates),
            "settings": settings.hash,
            **{f"table {n}": str(v) for n, v in manifest.provenance.get("tables", {}).items()},
        },
        rows={n: delta.read(job.spark, job.uri(n)).count() for n in job.tables_there()},
        notes=_notes(forecast, known),
        gate=manifest.verdict,
        judged_as_of=manifest.validation_date,
        fairness=fairness,
        drift=_drift(job, manifest, date),
        trained_tiers=manifest.profile.training.rows[PREDICTED_TIER][:-1] if manifest.profile else (),
    )
    uri.write_bytes(address(job, date), render(inputs).encode())


def _drift(job: Job, manifest: Manifest, date: dt.date) -> list[Shift]:
    """What the newest scoring of the date by this bundle found; empty where it did not score."""
    if not delta.exists(job.spark, job.uri("drift")):
        return []
    of_date = delta.read(job.spark, job.uri("drift")).where(delta.date_is("as_of_date", date))
    rows = of_date.where(f.col("model_version") == manifest.version).toPandas()  # a row for each feature and run
    newest = rows[rows["measured_at"] == rows["measured_at"].max()].sort_values(
        ["psi", "feature"], ascending=[False, True]
    )
    return [Shift(**row) for row in newest[[x.name for x in dataclasses.fields(Shift)]].to_dict("records")]


def _notes(forecast: Forecast, known: int) -> list[str]:
    if forecast.rows == known:
        return []
    return [f"Figures and plots stand on a sample of {forecast.rows:,} of {known:,} members."]
