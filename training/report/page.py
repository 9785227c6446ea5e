"""The report of one as-of date: a single HTML page, first for managers, then for data scientists.

The page needs no network and no file beside it: style and pictures are inside. Where outcomes are not known yet, it
shows the forecast alone and says so. `training.report.words` gives the same figures as plain text for the console.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from training.evaluation.comparison import Comparison
from training.evaluation.fairness import MEASURES
from training.judging.verdict import REFIT, Verdict
from training.reasons.importance import Overall
from training.reasons.reason_codes import DOWNGRADE, RECENT, UPGRADE
from training.reasons.stories import Story
from training.report import plots
from training.report.contents import ReportInputs
from training.report.figure_names import (
    ACCURACY,
    LOGLOSS,
    METRICS,
    Metric,
    best_baseline,
    models_compared,
    rival_name,
    title_of,
)
from training.report.pictures import page_pictures
from training.report.words import headline_of

_DRIFT_ROWS = 12

_CAMPAIGN = 0.2
"""Share of the members contacted in the headline figures: a usual size of a campaign."""


def render(inputs: ReportInputs) -> str:
    """The page as one string of HTML; equal inputs give equal pages."""
    colours = plots.tier_colours(len(inputs.tiers))
    gate, judged_as_of = inputs.training.verdict, inputs.training.judged_as_of
    context: dict[str, Any] = {
        "inputs": inputs,
        "forecast": inputs.forecast,
        "evaluation": inputs.comparison.model if inputs.comparison else None,
        "headline": headline_of(inputs.comparison) if inputs.comparison else None,
        "period": f"{inputs.horizon_days} days from {_day(inputs.as_of)}",
        "as_of": _day(inputs.as_of),
        "gate": gate,
        "judged_as_of": _day(judged_as_of) if judged_as_of else "",
        "gate_rows": _gate_rows(gate) if gate else [],
        "refit": REFIT,
        "ends": _day(inputs.ends),
        "tiles": _tiles(inputs),
        "colours": colours,
        "outlook": _outlook(inputs),
        "metric_rows": _metric_rows(inputs.comparison) if inputs.comparison else [],
        "rival_titles": [title_of(name) for name in list(models_compared(inputs.comparison))[1:]]
        if inputs.comparison
        else [],
        "differences": _differences(inputs.comparison) if inputs.comparison else [],
        "failed": [(title_of(n), why) for n, why in inputs.comparison.failed.items()] if inputs.comparison else [],
        "rival": title_of(rival_name(inputs.comparison)) if inputs.comparison else "",
        "pictures": page_pictures(inputs, colours),
        "drift_rows": _drift_rows(inputs),
        "tier_shares": _tier_shares(inputs),
        "measures": MEASURES,
        "tone": _tone(inputs),
        "recent_reasons": _recent_reasons(inputs.reasons) if inputs.reasons else [],
        "reason_rows": _reason_rows(inputs.reasons) if inputs.reasons else [],
        "stories": [_story_words(story) for story in inputs.reasons.stories] if inputs.reasons else [],
    }
    return _template().render(context)


@cache
def _template() -> jinja2.Template:
    """The page's template; read as a package resource, so that it is found in a zip too."""
    templates = resources.files("training.report").joinpath("templates")
    loader = jinja2.FunctionLoader(lambda name: templates.joinpath(name).read_text("utf-8"))
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["share"] = lambda value: "\u2013" if value is None else f"{value:.1%}"
    environment.filters["whole"] = lambda value: "\u2013" if value is None else f"{value:,.0f}"
    return environment.get_template("report.html.j2")


def _day(date: dt.date) -> str:
    return f"{date.day} {date:%B %Y}"


def _tiles(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """The numbers on top: (figure, what it is, what to compare it with)."""
    forecast = inputs.forecast
    tiles = [
        (f"{forecast.rows:,}", "members scored", f"in {len(inputs.tiers)} tiers"),
        (f"{forecast.expected_upgrades:,.0f}", "expected to move up", _of(forecast.expected_upgrades, forecast.rows)),
        (
            f"{forecast.expected_downgrades:,.0f}",
            "expected to move down",
            _of(forecast.expected_downgrades, forecast.rows),
        ),
    ]
    if not inputs.comparison:
        return tiles
    tiles += [_metric_tile(inputs.comparison, metric) for metric in (ACCURACY, LOGLOSS)]
    gain = inputs.comparison.model.upgrade_gain
    if gain:
        found = f"{gain.found_at(_CAMPAIGN):.0%}"
        tiles.append((found, f"of upgrades in the top {_CAMPAIGN:.0%}", f"{gain.lift_at(_CAMPAIGN):.1f} times chance"))
    return tiles


def _metric_tile(comparison: Comparison, metric: Metric) -> tuple[str, str, str]:
    best = best_baseline(comparison, metric)
    against = f"best simple rule {metric.text(best[1])}" if best else ""
    return metric.text(getattr(comparison.model, metric.key)), metric.title.lower(), against


def _of(part: float, whole: int) -> str:
    return f"{part / whole:.1%} of all" if whole else ""


def _outlook(inputs: ReportInputs) -> list[dict[str, Any]]:
    """One row for each tier: members now, forecast and (once known) reached; and the moves expected out of it."""
    forecast, last = inputs.forecast, len(inputs.tiers) - 1
    reached = inputs.comparison.model.flows_outcome if inputs.comparison else None
    return [
        {
            "now": sum(forecast.flows[rank]),
            "likely": sum(row[rank] for row in forecast.flows),
            "expected": sum(row[rank] for row in forecast.expected),
            "reached": sum(row[rank] for row in reached) if reached else None,
            "up": sum(forecast.expected[rank][rank + 1 :]) if rank < last else None,
            "down": sum(forecast.expected[rank][:rank]) if rank else None,
        }
        for rank in range(last + 1)
    ]


def _metric_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row for each metric: what it is, and a cell for the model and each rival, the best marked."""
    columns = models_compared(comparison)
    return [
        {
            "metric": metric,
            "cells": [
                {"text": metric.text(getattr(evaluation, metric.key)), "best": name in metric.best(columns)}
                for name, evaluation in columns.items()
            ],
        }
        for metric in METRICS
    ]


def _gate_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """The models that the gate compared, by their names for readers, and their loglosses."""
    titles = {"model": "This model", "published": "The model published before", REFIT: "Trained anew with them"}
    return [(titles.get(name) or title_of(name), f"{loss:.3f}") for name, loss in verdict.figures.items()]


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    """One row for each rival: intervals of the model's figures minus the rival's, and which favour the model."""
    metrics = {metric.key: metric for metric in METRICS}
    rows = []
    for name, of in comparison.intervals.items():
        cells = []
        for key, (low, high) in of.items():
            better = (low > 0) if metrics[key].more_is_better else (high < 0)
            cells.append({"title": metrics[key].title, "text": f"{low:+.3f} to {high:+.3f}", "better": better})
        rows.append({"name": title_of(name), "cells": cells})
    return rows


def _drift_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """One row for each feature, its shift at the gate and now: beyond a bound first, then the furthest others."""
    verdict = inputs.training.verdict
    judged = {s.feature: s for s in (verdict.drift if verdict else ())}
    now = {s.feature: s for s in inputs.drift}
    names = sorted({*judged, *now}, key=lambda name: (-(now.get(name) or judged[name]).psi, name))
    far = [n for n in names if any(of[n].level in ("warning", "refusal") for of in (judged, now) if n in of)]
    shown = far + [n for n in names if n not in far][: max(0, _DRIFT_ROWS - len(far))]
    return [{"feature": name, "judged": judged.get(name), "now": now.get(name)} for name in shown]


def _tier_shares(inputs: ReportInputs) -> list[tuple[float, float]]:
    """By tier, the share of training rows and of members now for whom it is the most probable one."""
    before, now = inputs.training.predicted_tiers, [sum(column) for column in zip(*inputs.forecast.flows, strict=True)]
    return [(b / sum(before), n / sum(now)) for b, n in zip(before, now, strict=False)]


def _tone(inputs: ReportInputs) -> str:
    """Which colour the headline has; that of a refused model stays red, however good it looks on one date."""
    if inputs.training.verdict and not inputs.training.verdict.published:
        return "behind"
    return headline_of(inputs.comparison).level if inputs.comparison else "pending"


def _recent_reasons(reasons: Overall) -> list[tuple[str, str, str]]:
    """Recent behaviour in words, and what much and little of it add to the chance of moving up; widest apart first."""
    found = []
    for reason in reasons.reasons:
        weight = reason.targets[UPGRADE]
        if reason.reason.startswith(f"{RECENT}_") and weight.much is not None and weight.little is not None:
            found.append((-abs(weight.much - weight.little), reason.wording, weight.much, weight.little))
    return [(words, f"{100 * much:+.1f}", f"{100 * little:+.1f}") for _, words, much, little in sorted(found)]


def _reason_rows(reasons: Overall) -> list[dict[str, str]]:
    """One row for each reason that adds something."""
    return [
        {
            "words": reason.wording,
            "up": f"{100 * reason.targets[UPGRADE].mean:.1f}",
            "down": f"{100 * reason.targets[DOWNGRADE].mean:.1f}",
            "lost": "" if reason.loss is None else f"{reason.loss:+.4f}",
        }
        for reason in reasons.reasons
        if any(weight.mean for weight in reason.targets.values())
    ]


def _story_words(story: Story) -> tuple[str, str]:
    """Heading and caption of a story."""
    return (
        f"A member in {story.tier}",
        f"The chance of {plots.MOVES[story.target]} is {story.probability:.0%}; "
        f"the average {story.tier} member's is {story.average:.0%}.",
    )
