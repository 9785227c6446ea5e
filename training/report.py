"""The report of one as-of date: a single HTML page, read by a manager first and a data scientist to the end.

The page needs no network and no file beside it: style and pictures are inside. Where outcomes are not known yet, it
shows the forecast alone and says so. The same figures come as plain text for the console from `summary_lines`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import jinja2

from training import plots
from training.drift import Shift
from training.fairness import MEASURES, Fairness
from training.importance import Overall, Story
from training.metrics import Comparison, Evaluation, Forecast, Standing
from training.plots import Picture
from training.reasons import DOWNGRADE, RECENT, TARGETS, UPGRADE
from training.verdict import REFIT
from training.verdict import Verdict as GateVerdict


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a figure of `Evaluation` is named, explained and written.

    Attributes:
        key: field of `Evaluation`.
        title: name in tables.
        meaning: one line for readers who do not know it.
        more_is_better: direction of improvement.
        percent: written as a percentage rather than with three decimals.
    """

    key: str
    title: str
    meaning: str
    more_is_better: bool = True
    percent: bool = False

    def text(self, value: float | None) -> str:
        """The figure as written in tables; a dash where it is undefined."""
        if value is None:
            return "\u2013"
        return f"{value:.1%}" if self.percent else f"{value:.3f}"

    def best(self, evaluations: Mapping[str, Evaluation]) -> tuple[str, ...]:
        """Names of the best of these evaluations by this metric, all equals; empty where it is undefined in all."""
        known = {name: value for name, e in evaluations.items() if (value := getattr(e, self.key)) is not None}
        top = (max if self.more_is_better else min)(known.values(), default=None)
        return tuple(name for name, value in known.items() if value == top)


METRICS = (
    Metric("logloss", "Logloss", "surprise at what happened, all probabilities judged", more_is_better=False),
    Metric("accuracy", "Accuracy", "members whose most probable tier came true", percent=True),
    Metric("upgrade_auc", "Upgrade AUC", "ranking of who moves up; 0.5 is chance, 1 perfect"),
    Metric("downgrade_auc", "Downgrade AUC", "ranking of who moves down; 0.5 is chance, 1 perfect"),
    Metric("kappa", "Weighted kappa", "agreement beyond chance, far misses count more"),
    Metric("macro_f1", "Macro F1", "precision and recall in one, each tier counting the same"),
    Metric("macro_precision", "Macro precision", "how often a named tier is right, mean over tiers"),
    Metric("macro_recall", "Macro recall", "how much of each tier is found, mean over tiers"),
    Metric("brier", "Brier score", "squared error of the probabilities, 0 to 2", more_is_better=False),
    Metric("calibration_error", "Calibration error", "gap between stated and real shares", False, percent=True),
)
"""The figures shown, most telling first."""

TITLES = {
    "majority": "Majority tier",
    "stays": "Stays in tier",
    "markov": "Markov",
    "logistic": "Logistic regression",
    "forest": "Random forest",
    "lightgbm": "LightGBM",
    "bg_nbd": "BG/NBD with Gamma-Gamma",
}
"""Names of rivals for readers; one not listed is shown by its own name."""

MODEL = "model"

_LOGLOSS, _ACCURACY, _UPGRADE = METRICS[:3]
_DRIFT_ROWS = 12
_REASONS = 8
"""Reasons in a picture."""
_CAMPAIGN = 0.2
"""Share of the members contacted in the headline figures: a usual size of a campaign."""


@dataclasses.dataclass(frozen=True)
class TierCard:
    """A tier as members know it.

    Attributes:
        name: its name.
        rule: what it takes, in words: "spend of 250 or more in 90 days".
        benefits: what it gives.
    """

    name: str
    rule: str
    benefits: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        title: of the page: the programme or data set.
        as_of: date the forecast was made for.
        horizon_days: length of the forecast period that starts at `as_of`.
        tiers: lowest first, as many as the forecast has.
        forecast: the scores as a whole.
        comparison: model and baselines against outcomes; None while outcomes are not known.
        history: one mapping an epoch, in order, with any of epoch, loss, validation_loss, learning_rate and
            users_per_second; a missing or None value leaves a hole in its curve.
        versions: data and model versions, settings hash and the like, by name.
        rows: rows per table, by name.
        notes: what a reader must know to judge the figures, such as sampling.
        gate: what was said of the model when it was trained.
        judged_as_of: the date whose members it was judged on then.
        drift: how far the members scored are from the training rows, by feature; empty where it was not measured.
        trained_tiers: training rows by their most probable tier.
        fairness: groups compared; None where none are known, or outcomes are not.
        reasons: what the model looks at; None where nobody asked.
        standings: how far the forecasts can be trusted, by current tier; empty while outcomes are not known.
    """

    title: str
    as_of: dt.date
    horizon_days: int
    tiers: Sequence[TierCard]
    forecast: Forecast
    comparison: Comparison | None = None
    history: Sequence[Mapping[str, float | None]] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    gate: GateVerdict | None = None
    judged_as_of: dt.date | None = None
    drift: Sequence[Shift] = ()
    trained_tiers: Sequence[int] = ()
    fairness: Fairness | None = None
    reasons: Overall | None = None
    standings: Sequence[Standing] = ()

    def __post_init__(self) -> None:
        """Refuse parts that speak of different tiers."""
        names = tuple(card.name for card in self.tiers)
        for part, tiers in [("forecast", self.forecast.tiers), ("evaluation", self._evaluated_tiers or names)]:
            if tiers != names:
                raise ValueError(f"the {part} has tiers {list(tiers)}, the report {list(names)}")

    @property
    def _evaluated_tiers(self) -> tuple[str, ...] | None:
        return self.comparison.model.tiers if self.comparison else None

    @property
    def ends(self) -> dt.date:
        """First date on which the outcomes can be known."""
        return self.as_of + dt.timedelta(days=self.horizon_days)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Does the model earn its place?

    Attributes:
        level: "ahead" of every baseline in logloss and upgrade AUC, "mixed", or "behind" in all that is defined.
        headline: the answer in a sentence.
        sentences: the figures behind it, in words.
    """

    level: Literal["ahead", "mixed", "behind"]
    headline: str
    sentences: tuple[str, ...]


_HEADLINES: dict[str, str] = {
    "ahead": "The model earns its place: its probabilities beat every simple rule.",
    "mixed": "The model's probabilities beat the simple rules in part only.",
    "behind": "The model's probabilities do not beat the simple rules: do not act on them.",
}


def verdict(comparison: Comparison) -> Verdict:
    """Weigh the model against the best baseline, by logloss and upgrade AUC on the same rows.

    Equal is not better. Raises ValueError without baselines: there is nothing to beat.
    """
    if not comparison.baselines:
        raise ValueError("a verdict needs at least one baseline")
    wins = [won for metric in (_LOGLOSS, _UPGRADE) if (won := _beats(comparison, metric)) is not None]
    level: Literal["ahead", "mixed", "behind"] = "ahead" if all(wins) else "mixed" if any(wins) else "behind"
    sentences = (
        _logloss_words(comparison),
        _ranking_words(comparison),
        _accuracy_words(comparison),
        _challenger_words(comparison),
    )
    return Verdict(level, _HEADLINES[level], tuple(s for s in sentences if s))


def summary_lines(comparison: Comparison) -> list[str]:
    """The metrics of model and baselines as an aligned plain-text table; a star marks the best of each line."""
    columns = _columns(comparison)
    wide, narrow = max(len(f"{m.title} (less is better)") for m in METRICS), max(9, *map(len, columns)) + 1
    lines = [" ".join([" " * wide, *(f"{name:>{narrow}}" for name in columns)])]
    for metric in METRICS:
        title = metric.title if metric.more_is_better else f"{metric.title} (less is better)"
        best = metric.best(columns)
        cells = [f"{metric.text(getattr(e, metric.key))}{'*' if name in best else ' '}" for name, e in columns.items()]
        lines.append(" ".join([f"{title:<{wide}}", *(f"{cell:>{narrow}}" for cell in cells)]).rstrip())
    lines.append(f"on the same {comparison.model.rows:,} members; * best")
    if comparison.intervals:
        lines += [
            "",
            "model minus rival, 95 % intervals of a paired bootstrap over the members",
            *_interval_lines(comparison),
        ]
    return [*lines, *(f"{name} could not be fitted: {why}" for name, why in comparison.failed.items())]


def _interval_lines(comparison: Comparison) -> list[str]:
    shown = [metric for metric in METRICS if any(metric.key in of for of in comparison.intervals.values())]
    rows = [["", *comparison.intervals]]
    for metric in shown:
        ends = (of.get(metric.key) for of in comparison.intervals.values())
        rows.append([metric.title, *("\u2013" if e is None else f"{_signed(e[0])} {_signed(e[1])}" for e in ends)])
    wide = max(len(row[0]) for row in rows)
    return [" ".join([f"{row[0]:<{wide}}", *(f"{cell:>13}" for cell in row[1:])]) for row in rows]


def _signed(value: float) -> str:
    """Three decimals with their sign, no zero before them."""
    return f"{value:+.3f}".replace("0.", ".", 1)


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
        "rival_titles": [_title(name) for name in list(_columns(inputs.comparison))[1:]] if inputs.comparison else [],
        "differences": _differences(inputs.comparison) if inputs.comparison else [],
        "failed": [(_title(n), why) for n, why in inputs.comparison.failed.items()] if inputs.comparison else [],
        "rival": _title(_rival(inputs.comparison)) if inputs.comparison else "",
        "pictures": _pictures(inputs, colours),
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
    templates = resources.files("training").joinpath("templates")
    loader = jinja2.FunctionLoader(lambda name: templates.joinpath(name).read_text("utf-8"))
    environment = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["share"] = lambda value: "\u2013" if value is None else f"{value:.1%}"
    environment.filters["whole"] = lambda value: "\u2013" if value is None else f"{value:,.0f}"
    return environment.get_template("report.html.j2")


def _columns(comparison: Comparison) -> dict[str, Evaluation]:
    """Model first, then the baselines, then the challengers."""
    return {MODEL: comparison.model, **comparison.baselines, **comparison.challengers}


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _day(date: dt.date) -> str:
    return f"{date.day} {date:%B %Y}"


def _best_baseline(comparison: Comparison, metric: Metric) -> tuple[str, float] | None:
    """Name and figure of the baseline to beat; None where the metric is undefined."""
    names = metric.best(comparison.baselines)
    return (names[-1], getattr(comparison.baselines[names[-1]], metric.key)) if names else None


def _rival(comparison: Comparison) -> str:
    """Name of the baseline with the lowest logloss, which is never undefined."""
    return _LOGLOSS.best(comparison.baselines)[-1]


def _beats(comparison: Comparison, metric: Metric) -> bool | None:
    """Whether the model is better than every baseline; None where the metric is undefined."""
    best, own = _best_baseline(comparison, metric), getattr(comparison.model, metric.key)
    if best is None or own is None:
        return None
    return bool(own > best[1] if metric.more_is_better else own < best[1])


def _logloss_words(comparison: Comparison) -> str:
    best, own = _best_baseline(comparison, _LOGLOSS), comparison.model.logloss
    if best is None:
        return ""
    change = f"{abs(own / best[1] - 1):.1%} {'below' if own < best[1] else 'above'}" if best[1] else "above"
    return (
        f"Judged by how probable it had called what then happened, its error (logloss) is {own:.3f}: {change} the "
        f"{best[1]:.3f} of the best simple rule ({_title(best[0])})."
    )


def _ranking_words(comparison: Comparison) -> str:
    best, own = _best_baseline(comparison, _UPGRADE), comparison.model.upgrade_auc
    if best is None or own is None:
        return "Whether it finds those who move up cannot be said: no member who could move up did, or all did."
    return (
        f"Of one member who moved up and one who did not, it gives the first the higher chance in {own:.0%} of the "
        f"cases; the best simple rule in {best[1]:.0%}, a coin in 50%."
    )


def _accuracy_words(comparison: Comparison) -> str:
    best, own = _best_baseline(comparison, _ACCURACY), comparison.model.accuracy
    return (
        f"It names the right tier for {own:.1%} of the members; the best simple rule for {best[1]:.1%}." if best else ""
    )


def _challenger_words(comparison: Comparison) -> str:
    """How the model stands against the best model of another kind, and whether chance explains it."""
    if not comparison.challengers:
        return ""
    name = _LOGLOSS.best(comparison.challengers)[-1]
    rival, own = comparison.challengers[name].logloss, comparison.model.logloss
    said = f"The best model of another kind on the same members, {_title(name)}, has a logloss of {rival:.3f}"
    low, high = comparison.intervals.get(name, {}).get("logloss", (0.0, 0.0))
    if low <= 0 <= high:
        return f"{said}: with so few members, chance explains the difference."
    return f"{said}: the model is {'better' if own < rival else 'worse'}, beyond what chance explains."


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
    tiles += [_metric_tile(inputs.comparison, metric) for metric in (_ACCURACY, _LOGLOSS)]
    gain = inputs.comparison.model.upgrade_gain
    if gain:
        found = f"{gain.found_at(_CAMPAIGN):.0%}"
        tiles.append((found, f"of upgrades in the top {_CAMPAIGN:.0%}", f"{gain.lift_at(_CAMPAIGN):.1f} times chance"))
    return tiles


def _metric_tile(comparison: Comparison, metric: Metric) -> tuple[str, str, str]:
    best = _best_baseline(comparison, metric)
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
    columns = _columns(comparison)
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
    return [(titles.get(name) or _title(name), f"{loss:.3f}") for name, loss in verdict.figures.items()]


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a challenger: intervals of the model's figures minus its own, and whether they leave out 0."""
    metrics = {metric.key: metric for metric in METRICS}
    rows = []
    for name, of in comparison.intervals.items():
        cells = []
        for key, (low, high) in of.items():
            better = (low > 0) if metrics[key].more_is_better else (high < 0)
            cells.append({"title": metrics[key].title, "text": f"{low:+.3f} to {high:+.3f}", "better": better})
        rows.append({"name": _title(name), "cells": cells})
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


def _reason_pictures(reasons: Overall) -> dict[str, Picture]:
    found = {f"story_{k}": plots.timeline(story) for k, story in enumerate(reasons.stories)}
    for target in TARGETS:
        heaviest = sorted(reasons.reasons, key=lambda reason: -reason.targets[target].mean)[:_REASONS]
        if shown := [reason for reason in heaviest if reason.targets[target].much is not None]:
            found[f"reasons_{target}"] = plots.reason_directions(shown, target)
    if lost := sorted((r for r in reasons.reasons if r.loss is not None), key=lambda r: -(r.loss or 0))[:_REASONS]:
        found["reason_losses"] = plots.reason_losses(lost)
    return found


def _pictures(inputs: ReportInputs, colours: Sequence[str]) -> dict[str, Picture]:
    """All pictures that the inputs allow, by their place in the page."""
    return {
        **(_reason_pictures(inputs.reasons) if inputs.reasons else {}),
        **_standing_pictures(inputs, colours),
        **_forecast_pictures(inputs.forecast, colours),
        **(_evaluation_pictures(inputs.comparison, colours) if inputs.comparison else _size_picture(inputs.forecast)),
        **_training_pictures(inputs.history),
    }


def _forecast_pictures(forecast: Forecast, colours: Sequence[str]) -> dict[str, Picture]:
    tiers = forecast.tiers
    can_rise = dict(zip(tiers[:-1], forecast.upgrade_scores, strict=False))
    can_fall = dict(zip(tiers[1:], forecast.downgrade_scores[1:], strict=True))
    return {
        "flows": plots.tier_flows(forecast.flows, tiers, "today", "most probable"),
        "upgrade_scores": plots.score_distribution(can_rise, colours[:-1], "probability of moving up"),
        "downgrade_scores": plots.score_distribution(can_fall, colours[1:], "probability of moving down"),
    }


def _size_picture(forecast: Forecast) -> dict[str, Picture]:
    """Stands beside the flows while there is no outcome to show there."""
    sizes = {
        "today": [sum(row) for row in forecast.flows],
        "expected": [sum(column) for column in zip(*forecast.expected, strict=True)],
    }
    return {"sizes": plots.tier_sizes(sizes, forecast.tiers)}


def _evaluation_pictures(comparison: Comparison, colours: Sequence[str]) -> dict[str, Picture]:
    model, rival = comparison.model, comparison.baselines[_rival(comparison)]
    tiers = dict(zip(model.tiers, model.reliability, strict=True))
    pictures = {
        "reached": plots.tier_flows(model.flows_outcome, model.tiers, "today", "reached"),
        "confusion": plots.confusion(model.confusion, model.tiers),
        "baseline_confusion": plots.confusion(rival.confusion, model.tiers),
        "reliability": plots.reliability(tiers, colours, "each tier's probability"),
    }
    if model.upgrade_reliability:
        curve = {"moving up": model.upgrade_reliability}
        pictures["upgrade_reliability"] = plots.reliability(curve, [plots.ACCENT], "the probability of moving up")
    if model.upgrade_gain:
        gains = {_title(name): e.upgrade_gain for name, e in comparison.baselines.items() if e.upgrade_gain}
        pictures["gain"] = plots.upgrade_gain(model.upgrade_gain, gains)
        pictures["lift"] = plots.upgrade_lift(model.upgrade_gain)
    return pictures


def _standing_pictures(inputs: ReportInputs, colours: Sequence[str]) -> dict[str, Picture]:
    """The reliability of each tier's probability, for the members of each current tier."""
    found = {}
    for place, standing in enumerate(inputs.standings):
        curves = dict(zip(inputs.forecast.tiers, standing.reliability, strict=True))
        what = f"the probability of each tier, members now in {standing.tier}"
        found[f"reliability_{place}"] = plots.reliability(curves, colours, what)
    return found


def _training_pictures(history: Sequence[Mapping[str, float | None]]) -> dict[str, Picture]:
    history = [record for record in history if record.get("member", 1) == 1]  # of an ensemble the first network
    epochs = [float(record.get("epoch") or i) for i, record in enumerate(history, start=1)]
    losses = _series(history, {"loss": "training loss", "validation_loss": "validation loss"})
    pace = _series(history, {"learning_rate": "learning rate", "users_per_second": "users per second"})
    return {
        **({"losses": plots.training_curves(epochs, losses)} if losses else {}),
        **({"pace": plots.training_pace(epochs, pace)} if pace else {}),
    }


def _series(history: Sequence[Mapping[str, float | None]], titles: Mapping[str, str]) -> dict[str, list[float]]:
    """The named quantities by epoch under their titles; holes are NaN, and a quantity never known is left out."""
    found = {title: [_number(record.get(key)) for record in history] for key, title in titles.items()}
    return {title: values for title, values in found.items() if any(map(math.isfinite, values))}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
