"""The gate: decides whether a trained model is published, on a date whose rows its network was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import log_loss

from features.core.arrays import Floats, Ranks
from training.evaluation.curves import BINS, equal_mass_bins, reliability_curve
from training.evaluation.tier_moves import predicted_ranks
from training.judging import drift
from training.judging.drift import Shift
from training.judging.verdict import REFIT, TierCalibration, Verdict
from training.settings.judging import GateSettings

_SIMULATIONS = 200
_QUANTILE = 0.95


def judge(
    forecasts: Mapping[str, Floats],
    current: Ranks,
    outcome: Ranks,
    tiers: Sequence[str],
    settings: GateSettings,
    notes: Sequence[str] = (),
    shifts: Sequence[Shift] = (),
) -> Verdict:
    """Compare a model with its rivals and with its own probabilities.

    Args:
        forecasts: [n, K] probabilities for the same rows of the `model` as it would be published, of `markov`, and of
            the `published` model where there is one.
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        settings: margins and bounds.
        notes: what could not be compared.
        shifts: how far the rows are from the training rows, by feature.
    """
    ranks, probabilities = np.arange(len(tiers)), forecasts["model"]
    losses = {name: float(log_loss(outcome, p, labels=ranks)) for name, p in forecasts.items()}
    by_tier = tuple(calibration_by_tier(probabilities, current, outcome, tiers))
    reasons = (
        *_worse_than_rivals(losses, settings),
        *_miscalibrated(by_tier, settings),
        *_never_forecast(predicted_ranks(probabilities), outcome, tiers, settings.least_members),
        *drift.refusals(shifts, settings.drift),
    )
    said = (*notes, *drift.notes([s for s in shifts if s.level == "warning"], settings.drift))
    return Verdict(reasons, losses, by_tier, settings.model_dump(), said, tuple(shifts))


def _worse_than_rivals(losses: Mapping[str, float], settings: GateSettings) -> list[str]:
    margins = {"markov": -settings.better_than_markov, "published": settings.worse_than_published}
    own = losses["model"]
    return [
        f"its logloss of {own:.4f} is not below the {losses[name]:.4f} of {name}"
        + (f" by {-margin:g} or more" if margin < 0 else f" + {margin:g}" if margin > 0 else "")
        for name, margin in margins.items()
        if name in losses and own > losses[name] + margin
    ]


def _miscalibrated(by_tier: Sequence[TierCalibration], settings: GateSettings) -> list[str]:
    return [
        f"members now in {c.tier}: the calibration error of {c.error:.3f} is above the bound of "
        f"{settings.calibration_error:g}, and above the {c.chance:.3f} that chance explains with {c.rows} members"
        for c in by_tier
        if c.rows >= settings.least_members and c.error > max(settings.calibration_error, c.chance)
    ]


def _never_forecast(predicted: Ranks, outcome: Ranks, tiers: Sequence[str], least_members: int) -> list[str]:
    forecast, reached = (np.bincount(of, minlength=len(tiers)) for of in (predicted, outcome))
    return [
        f"no member is forecast in {tier}, which {reached[k]} members reached"
        for k, tier in enumerate(tiers)
        if not forecast[k] and reached[k] >= least_members
    ]


def of_refit(candidate: Verdict, probabilities: Floats, outcome: Ranks, settings: GateSettings) -> Verdict:
    """The verdict on a network that was trained anew, with the rows that the candidate was judged on among its own.

    Its forecasts of these rows do not show how good it is, so the candidate's verdict holds. But they must be about as
    good as the candidate's, or the training went wrong.

    Args:
        candidate: the verdict on the network before, judged on the same rows.
        probabilities: [n, K] of the network.
        outcome: [n] ranks.
        settings: the margin to the published model is used for the candidate, too.
    """
    before = candidate.figures["model"]
    own = float(log_loss(outcome, probabilities, labels=np.arange(probabilities.shape[1])))
    margin = settings.worse_than_published
    wrong = (
        f"trained anew with these members, its logloss of {own:.4f} is not below the {before:.4f} before + {margin:g}"
    )
    reasons = (*candidate.reasons, *([wrong] if own > before + margin else []))
    return dataclasses.replace(candidate, reasons=reasons, figures={**candidate.figures, REFIT: own})


def calibration_by_tier(
    probabilities: Floats, current: Ranks, outcome: Ranks, tiers: Sequence[str]
) -> list[TierCalibration]:
    """Calibration of the members of each current tier that has any; arguments as for `judge`."""
    found = []
    for rank, tier in enumerate(tiers):
        p, came = probabilities[current == rank], outcome[current == rank]
        if len(p):
            found.append(TierCalibration(tier, len(p), calibration_error(p, came), error_by_chance(p)))
    return found


def calibration_error(probabilities: Floats, outcome: Ranks, bins: int = BINS) -> float:
    """Mean over the tiers of the gap between forecast and observed shares in equal-mass bins; see `metrics`."""
    return float(
        np.mean([reliability_curve(p, outcome == k, bins).error for k, p in enumerate(probabilities.T)], dtype=float)
    )


def error_by_chance(probabilities: Floats, bins: int = BINS, quantile: float = _QUANTILE) -> float:
    """A quantile of the calibration error if each member's outcome is drawn from its own forecast."""
    chance = np.random.default_rng(0)
    edges = probabilities.cumsum(axis=1)
    # The bins and the sums of forecasts in them are the same for all draws; a bin's gap counts by its rows.
    places = [equal_mass_bins(p, bins) for p in probabilities.T]
    forecast = [np.bincount(place, p, bins) for place, p in zip(places, probabilities.T, strict=True)]
    errors = []
    for _ in range(_SIMULATIONS):
        drawn = (chance.random(len(edges))[:, None] > edges).sum(axis=1).clip(max=edges.shape[1] - 1)
        happened = [np.bincount(place[drawn == k], minlength=bins) for k, place in enumerate(places)]
        errors.append(np.abs(np.subtract(forecast, happened)).sum() / probabilities.size)
    return float(np.quantile(errors, quantile))
