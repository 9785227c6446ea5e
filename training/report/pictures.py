"""The pictures of the report, as many as its inputs allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from training.evaluation.comparison import Comparison
from training.evaluation.metrics import Forecast
from training.reasons.importance import Overall
from training.reasons.reason_codes import TARGETS
from training.report import plots
from training.report.contents import ReportInputs
from training.report.figure_names import rival_name, title_of
from training.report.plots import Picture

_REASONS = 8
"""Most reasons in a picture."""


def _reason_pictures(reasons: Overall) -> dict[str, Picture]:
    found = {f"story_{k}": plots.timeline(story) for k, story in enumerate(reasons.stories)}
    for target in TARGETS:
        heaviest = sorted(reasons.reasons, key=lambda reason: -reason.targets[target].mean)[:_REASONS]
        if shown := [reason for reason in heaviest if reason.targets[target].much is not None]:
            found[f"reasons_{target}"] = plots.reason_directions(shown, target)
    if lost := sorted((r for r in reasons.reasons if r.loss is not None), key=lambda r: -(r.loss or 0))[:_REASONS]:
        found["reason_losses"] = plots.reason_losses(lost)
    return found


def page_pictures(inputs: ReportInputs, colours: Sequence[str]) -> dict[str, Picture]:
    """All pictures that the inputs allow, by their place in the page."""
    return {
        **(_reason_pictures(inputs.reasons) if inputs.reasons else {}),
        **_tier_pictures(inputs, colours),
        **_forecast_pictures(inputs.forecast, colours),
        **(_evaluation_pictures(inputs.comparison, colours) if inputs.comparison else _size_picture(inputs.forecast)),
        **_training_pictures(inputs.training.history),
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
    """Shown beside the flows while outcomes are not known."""
    sizes = {
        "today": [sum(row) for row in forecast.flows],
        "expected": [sum(column) for column in zip(*forecast.expected, strict=True)],
    }
    return {"sizes": plots.tier_sizes(sizes, forecast.tiers)}


def _evaluation_pictures(comparison: Comparison, colours: Sequence[str]) -> dict[str, Picture]:
    model, rival = comparison.model, comparison.baselines[rival_name(comparison)]
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
        gains = {title_of(name): e.upgrade_gain for name, e in comparison.baselines.items() if e.upgrade_gain}
        pictures["gain"] = plots.upgrade_gain(model.upgrade_gain, gains)
        pictures["lift"] = plots.upgrade_lift(model.upgrade_gain)
    return pictures


def _tier_pictures(inputs: ReportInputs, colours: Sequence[str]) -> dict[str, Picture]:
    """The reliability of each tier's probability, for the members of each current tier."""
    found = {}
    for place, tier in enumerate(inputs.by_tier):
        curves = dict(zip(inputs.forecast.tiers, tier.reliability, strict=True))
        what = f"the probability of each tier, members now in {tier.tier}"
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
