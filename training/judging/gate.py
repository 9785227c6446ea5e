"""The gate: whether a trained model earns its place, decided on a date whose rows taught its network nothing."""

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
    probabilities: Floats,
    current: Ranks,
    outcome: Ranks,
    tiers: Sequence[str],
    rivals: Mapping[str, Floats],
    settings: GateSettings,
    notes: Sequence[str] = (),
    shifts: Sequence[Shift] = (),
) -> Verdict:
    """Compare a model with its rivals and with its own probabilities.

    Args:
        probabilities: [n, K] of the model, as it would be published.
        current: [n] ranks.
        outcome: [n] ranks.
        tiers: names, lowest first.
        rivals: [n, K] probabilities for the same rows of `markov`, and of the `published` model where there is one.
        settings: margins and bounds.
        notes: what could not be compared.
        shifts: how far the rows are from the training rows.
    """
    ranks = np.arange(len(tiers))
    losses = {name: float(log_loss(outcome, p, labels=ranks)) for name, p in rivals.items()}
    own = float(log_loss(outcome, probabilities, labels=ranks))
    by_tier = tuple(calibration_by_tier(probabilities, current, outcome, tiers))
    reasons = [
        f"its logloss of {own:.4f} is not below the {losses[name]:.4f} of {name}"
        + (f" by {-margin:g} or more" if margin < 0 else f" + {margin:g}" if margin > 0 else "")
        for name, margin in (("markov", -settings.better_than_markov), ("published", settings.worse_than_published))
        if name in losses and own > losses[name] + margin
    ]
    reasons += [
        f"members now in {c.tier}: the calibration error of {c.error:.3f} is above the bound of "
        f"{settings.calibration_error:g}, and above the {c.chance:.3f} that chance explains with {c.rows} members"
        for c in by_tier
        if c.rows >= settings.least_members and c.error > max(settings.calibration_error, c.chance)
    ]
    predicted = np.bincount(predicted_ranks(probabilities), minlength=len(tiers))
    reached = np.bincount(outcome, minlength=len(tiers))
    reasons += [
        f"no member is forecast in {tier}, which {reached[k]} members reached"
        for k, tier in enumerate(tiers)
        if not predicted[k] and reached[k] >= settings.least_members
    ]
    reasons += drift.refusals(shifts, settings.drift)
    said = (*notes, *drift.notes([s for s in shifts if s.level == "warning"], settings.drift))
    return Verdict(tuple(reasons), {"model": own, **losses}, by_tier, settings.model_dump(), said, tuple(shifts))


def of_refit(candidate: Verdict, probabilities: Floats, outcome: Ranks, settings: GateSettings) -> Verdict:
    """The verdict on a network that was trained anew with the rows that the candidate was judged on.

    Nothing that it says of these rows shows how good it is, so the candidate's verdict stands; but it must know them
    about as well as the candidate foretold them, or its training went wrong.

    Args:
        candidate: the verdict on the network before, judged on the same rows.
        probabilities: [n, K] of the network.
        outcome: [n] ranks.
        settings: whose margin to the published model is that to the candidate, too.
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
    # Whatever is drawn, the bins and what was foretold in them stay; a bin's gap counts by its rows.
    places = [equal_mass_bins(p, bins) for p in probabilities.T]
    foretold = [np.bincount(place, p, bins) for place, p in zip(places, probabilities.T, strict=True)]
    errors = []
    for _ in range(_SIMULATIONS):
        drawn = (chance.random(len(edges))[:, None] > edges).sum(axis=1).clip(max=edges.shape[1] - 1)
        happened = [np.bincount(place[drawn == k], minlength=bins) for k, place in enumerate(places)]
        errors.append(np.abs(np.subtract(foretold, happened)).sum() / probabilities.size)
    return float(np.quantile(errors, quantile))
