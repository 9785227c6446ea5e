"""The report of one as-of date: a single HTML page, read by a manager first and a data scientist to the end.

The page needs no network and no file beside it: style and pictures are inside. Where outcomes are not known yet, it
shows the forecast alone and says so. The same figures come as plain text for the console from `summary_lines`.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from training.evaluation.comparison import Comparison
from training.evaluation.fairness import MEASURES
from training.judging.verdict import REFIT
from training.judging.verdict import Verdict as GateVerdict
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
from training.report.words import verdict

_DRIFT_ROWS = 12

_CAMPAIGN = 0.2
"""Share of the members contacted in the headline figures: a usual size of a campaign."""


def render(inputs: ReportInputs) -> str:
    """The page as one string of HTML; equal inputs give equal pages."""
    colours = plots.tier_colours(len(inputs.tiers))
    context: dict[str, Any] = {
        "inputs": inputs,
        "forecast": inputs.forecast,
        "evaluation": inputs.comparison.model if inputs.comparison else None,
        "verdict": verdict(inputs.comparison) if inputs.comparison else None,
        "period": f"{inputs.horizon_days} days from {_day(inputs.as_of)}",
        "as_of": _day(inputs.as_of),
        "judged_as_of": _day(inputs.judged_as_of) if inputs.judged_as_of else "",
        "gate_rows": _gate_rows(inputs.gate) if inputs.gate else [],
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
    """Headline numbers: (figure, what it is, what to hold it against)."""
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
    """One row a tier: members now, forecast and (once known) reached; and the moves expected out of it."""
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
    """One row a metric: what it is, and a cell for the model and each baseline with the best marked."""
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


def _gate_rows(verdict: GateVerdict) -> list[tuple[str, str]]:
    """What the gate compared, in words, and the figures."""
    titles = {"model": "This model", "published": "The model published before", REFIT: "Trained anew with them"}
    return [(titles.get(name) or title_of(name), f"{loss:.3f}") for name, loss in verdict.figures.items()]


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a challenger: intervals of the model's figures minus its own, and whether they leave out 0."""
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
    """One row a feature, its shift at the gate and now: those too far, then the furthest others while there is room."""
    judged = {s.feature: s for s in (inputs.gate.drift if inputs.gate else ())}
    now = {s.feature: s for s in inputs.drift}
    names = sorted({*judged, *now}, key=lambda name: (-(now.get(name) or judged[name]).psi, name))
    far = [n for n in names if any(of[n].level in ("warning", "refusal") for of in (judged, now) if n in of)]
    shown = far + [n for n in names if n not in far][: max(0, _DRIFT_ROWS - len(far))]
    return [{"feature": name, "judged": judged.get(name), "now": now.get(name)} for name in shown]


def _tier_shares(inputs: ReportInputs) -> list[tuple[float, float]]:
    """Of each tier the shares of the training rows and of the members scored for whom it is the most probable one."""
    before, now = inputs.trained_tiers, [sum(column) for column in zip(*inputs.forecast.flows, strict=True)]
    return [(b / sum(before), n / sum(now)) for b, n in zip(before, now, strict=False)]


def _tone(inputs: ReportInputs) -> str:
    """What the colour of the verdict says: a refused model is bad news however good it looks on one date."""
    if inputs.gate and not inputs.gate.published:
        return "behind"
    return verdict(inputs.comparison).level if inputs.comparison else "pending"


def _recent_reasons(reasons: Overall) -> list[tuple[str, str, str]]:
    """Recent behaviour in words: what much and little of it add to the chance of moving up, widest apart first."""
    found = []
    for reason in reasons.reasons:
        weight = reason.targets[UPGRADE]
        if reason.reason.startswith(f"{RECENT}_") and weight.much is not None and weight.little is not None:
            found.append((-abs(weight.much - weight.little), reason.wording, weight.much, weight.little))
    return [(words, f"{100 * much:+.1f}", f"{100 * little:+.1f}") for _, words, much, little in sorted(found)]


def _reason_rows(reasons: Overall) -> list[dict[str, str]]:
    """One row a reason, those with a part in something."""
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
