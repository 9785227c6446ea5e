"""Importance of reasons over all members: what each reason adds, and what is lost without it.

No network is loaded here: attributions come from `training.reasons.attributions`, probabilities from a function that is
passed in. The members are a bounded sample of one as-of date; results do not say who they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.core.arrays import Array, Flags, Ranks
from features.core.contract import AGE
from training.bundles.manifest import Manifest
from training.inputs.column_names import column
from training.inputs.tensors import Encoded
from training.reasons.reason_codes import (
    TARGETS,
    Attributions,
    able,
    aggregate_reasons,
    current_ranks,
    event_reasons,
    events_by_reason,
    reason_of,
)
from training.reasons.stories import Story, stories
from training.settings.scoring import ExplanationSettings

_QUARTER = 0.25


@dataclasses.dataclass(frozen=True)
class Weight:
    """What a reason adds to the chance of moving one way, over the members who can.

    Attributes:
        mean: mean of its absolute contributions.
        much: mean contribution for the quarter of each tier's members who have most of it; None where all have equally
            much.
        little: mean contribution for the quarter who have least.
    """

    mean: float
    much: float | None
    little: float | None


@dataclasses.dataclass(frozen=True)
class ReasonWeights:
    """A reason over all members.

    Attributes:
        reason: code.
        wording: the reason as people read it.
        targets: weights by target.
        losses: rise of the logloss without it, one for each exchange; empty where outcomes are not known.
    """

    reason: str
    wording: str
    targets: Mapping[str, Weight]
    losses: tuple[float, ...] = ()

    @property
    def loss(self) -> float | None:
        """Mean rise of the logloss."""
        return float(np.mean(self.losses)) if self.losses else None


@dataclasses.dataclass(frozen=True)
class Overall:
    """What a network looks at.

    Attributes:
        members: number of members whose forecasts were explained.
        complete: share of them whose reasons add up to the difference of probabilities within 2 %.
        reasons: heaviest first.
        stories: some members as examples.
    """

    members: int
    complete: float
    reasons: tuple[ReasonWeights, ...]
    stories: tuple[Story, ...]


def amounts(rows: pa.Table, manifest: Manifest, recent_days: int) -> Array:
    """[n, G] how much of each reason a member has: the mean of its normalised aggregates, or the number of events."""
    encoded = Encoded.of(rows, manifest.contract, manifest.encoding)
    reasons = aggregate_reasons(manifest)
    of_input = np.array([reasons.index(reason_of(name)) for name in manifest.contract.aggregates])
    values = encoded.aggregates[:, : len(of_input)] @ np.eye(len(reasons))[of_input] / np.bincount(of_input)
    kinds, owner = event_reasons(manifest), np.arange(rows.num_rows).repeat(encoded.lengths)
    place = owner * len(kinds) + events_by_reason(rows, encoded, manifest, recent_days)
    counts = np.bincount(place, minlength=rows.num_rows * len(kinds)).reshape(rows.num_rows, len(kinds))
    return np.concatenate([values, counts], axis=1)


def weights(found: Attributions, amount: Array, current: Ranks, tiers: int) -> list[dict[str, Weight]]:
    """For each of G reasons its weights by target.

    Args:
        found: attributions of n members.
        amount: [n, G], see `amounts`.
        current: [n] ranks.
        tiers: K.
    """
    much, little = _quarters(amount, current, tiers)

    def weight(reason: int, target: str) -> Weight:
        parts, who = found.parts[target][:, reason], able(current, tiers, target)

        def mean(chosen: Flags) -> float | None:
            return float(parts[chosen & who].mean()) if (chosen & who).any() else None

        both = much[:, reason], little[:, reason]
        known = all((of & who).any() for of in both)
        return Weight(
            float(np.abs(parts[who]).mean()) if who.any() else 0.0, *(mean(of) if known else None for of in both)
        )

    return [{target: weight(reason, target) for target in TARGETS} for reason in range(len(found.names))]


def _quarters(amount: Array, current: Ranks, tiers: int) -> tuple[Flags, Flags]:
    """[n, G] who is in the quarter of the tier with most of a reason, and with least; ties are included."""
    much, little = np.zeros((2, *amount.shape), bool)
    for rank in range(tiers):
        tier = np.flatnonzero(current == rank)
        if not len(tier):
            continue
        low, high = np.quantile(amount[tier], [_QUARTER, 1 - _QUARTER], axis=0)
        least = amount[tier].min(axis=0)
        much[tier] = (amount[tier] >= high) & (amount[tier] > least)
        little[tier] = (amount[tier] <= low) & ~much[tier]
    return much, little


def partners(current: Ranks, chance: np.random.Generator) -> Ranks:
    """[n] for each member another one of the same tier, everybody once."""
    found = np.arange(len(current))
    for rank in np.unique(current):
        tier = np.flatnonzero(current == rank)
        found[tier] = chance.permutation(tier)
    return found


def exchanged(rows: pa.Table, reason: str, partner: Ranks, manifest: Manifest, recent_days: int) -> pa.Table:
    """The rows with the inputs of a reason taken from each member's partner; all other inputs stay.

    Events are sorted by time; if there are more than the contract's length, the newest are kept.

    Args:
        rows: n rows of `sequences`.
        reason: code.
        partner: [n] whose inputs each member gets, everybody once.
        manifest: of the bundle.
        recent_days: events up to this old are recent.
    """
    if reason in aggregate_reasons(manifest):
        for place, name in enumerate(rows.column_names):
            if name in manifest.contract.aggregates and reason_of(name) == reason:
                rows = rows.set_column(place, rows.schema.field(place), rows[name].take(pa.array(partner)))
        return rows
    encoded = Encoded.of(rows, manifest.contract, manifest.encoding)
    taken = events_by_reason(rows, encoded, manifest, recent_days) == event_reasons(manifest).index(reason)
    ages = column(rows, AGE).flatten().fill_null(0).to_numpy(zero_copy_only=False)
    owner = np.arange(rows.num_rows).repeat(encoded.lengths)
    owner = np.where(taken, np.argsort(partner)[owner], owner)
    order = np.lexsort((-ages, owner))
    counts = np.bincount(owner, minlength=rows.num_rows)
    from_the_end = np.cumsum(counts)[owner[order]] - np.arange(len(order))
    order = order[from_the_end <= manifest.contract.length]
    offsets = pa.array(np.append(0, np.minimum(counts, manifest.contract.length).cumsum()), pa.int32())
    for name in manifest.contract.array_columns:
        place = rows.column_names.index(name)
        values = column(rows, name).flatten().take(pa.array(order))
        rows = rows.set_column(place, rows.schema.field(place), pa.ListArray.from_arrays(offsets, values))
    return rows


def loss(probabilities: Array, outcome: Ranks) -> float:
    """The logloss of probabilities [n, K], given the outcomes [n]."""
    from sklearn.metrics import log_loss  # slow to import

    return float(log_loss(outcome, probabilities, labels=np.arange(probabilities.shape[1])))


def loss_without(
    rows: pa.Table,
    outcome: Ranks,
    reason: str,
    draw: int,
    predict: Callable[[pa.Table], Array],
    manifest: Manifest,
    recent_days: int,
) -> float:
    """The logloss where a reason's inputs are those of another member of the same tier (Breiman 2001, section 10).

    Args:
        rows: n rows of `sequences`.
        outcome: [n] ranks.
        reason: code.
        draw: number of the exchange; with equal numbers, all reasons exchange the same members.
        predict: from rows to probabilities [n, K].
        manifest: of the bundle.
        recent_days: events up to this old are recent.
    """
    partner = partners(current_ranks(rows), np.random.default_rng(draw))
    return loss(predict(exchanged(rows, reason, partner, manifest, recent_days)), outcome)


def overall(
    rows: pa.Table,
    found: Attributions,
    losses: Mapping[str, Sequence[float]],
    manifest: Manifest,
    settings: ExplanationSettings,
) -> Overall:
    """Combine attributions and losses into what a network looks at.

    Args:
        rows: n rows of `sequences`.
        found: their attributions.
        losses: by reason, rises of the logloss without it; empty where outcomes are not known.
        manifest: of the bundle.
        settings: wording of reasons, and how many members are shown.
    """
    ranks, tiers = current_ranks(rows), len(manifest.contract.tiers)
    of_reason = weights(found, amounts(rows, manifest, settings.recent_days), ranks, tiers)
    known = [
        ReasonWeights(name, settings.words(name), targets, tuple(losses.get(name, ())))
        for name, targets in zip(found.names, of_reason, strict=True)
    ]
    return Overall(
        members=rows.num_rows,
        complete=float((found.missed() <= 1).mean()),
        reasons=tuple(sorted(known, key=lambda r: -sum(w.mean for w in r.targets.values()))),
        stories=stories(rows, found, manifest, settings.shown_members, settings.reasons, settings.words),
    )
