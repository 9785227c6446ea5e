"""Reasons: groups of a network's inputs that people can read, and what they add to a forecast.

An aggregate is one reason over all its windows; the events of a type are two, recent and earlier ones. Pure numpy and
Arrow: `training.reasons.attributions` computes how much a reason adds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.core.arrays import Array, Ranks
from features.core.contract import AGE
from training.bundles.manifest import Manifest
from training.inputs.column_names import TIER_RANK, column
from training.inputs.encoding import FIRST_CODE
from training.inputs.tensors import Encoded

UPGRADE, DOWNGRADE = "upgrade", "downgrade"
TARGETS = (UPGRADE, DOWNGRADE)
EVENT_TYPE = "event_type"
RECENT, EARLIER = "recent", "earlier"

_OTHER = "other_event"
_DAY = 86_400
_WINDOW = re.compile(r"(_\d+d)+$")
_TOLERANCE, _LEAST_DIFFERENCE = 0.02, 0.005


@dataclasses.dataclass(frozen=True)
class Attributions:
    """What each reason, and each event, adds to the probabilities of n members.

    Attributes:
        names: codes of G reasons.
        parts: by target [n, G] what each reason adds to the probability.
        events: by target [n, W] what each of the newest events adds, oldest first; 0 where a member has fewer.
        probability: by target [n] the probability of each member.
        average: by target [n] the probability of the average member that it is compared with.
    """

    names: tuple[str, ...]
    parts: Mapping[str, Array]
    events: Mapping[str, Array]
    probability: Mapping[str, Array]
    average: Mapping[str, Array]

    def unexplained(self, target: str) -> Array:
        """[n] what the parts miss of the difference; see Sundararajan et al. 2017, proposition 1."""
        return np.asarray(self.probability[target] - self.average[target] - self.parts[target].sum(axis=1))

    def missed(self) -> Array:
        """[n] what the parts miss as a share of what is allowed, for the worse target; above 1 is too much."""
        shares = [np.abs(self.unexplained(t)) / allowed(self.probability[t] - self.average[t]) for t in TARGETS]
        return np.asarray(np.maximum(*shares))


def allowed(difference: Array) -> Array:
    """How much the parts may miss of a difference: 2 %, and of less than half a percentage point 2 % of half."""
    return np.asarray(_TOLERANCE * np.maximum(np.abs(difference), _LEAST_DIFFERENCE))


def reason_of(aggregate: str) -> str:
    """The reason that an aggregate belongs to: its name without windows."""
    return _WINDOW.sub("", aggregate)


def inputs_of(manifest: Manifest) -> list[str]:
    """The aggregate behind each of a network's A inputs: all of them, then again those whose nulls are indicated."""
    return [*manifest.contract.aggregates, *manifest.encoding.indicated]


def aggregate_reasons(manifest: Manifest) -> list[str]:
    """Reasons of aggregates, in the order of the contract."""
    return list(dict.fromkeys(map(reason_of, inputs_of(manifest))))


def event_reasons(manifest: Manifest) -> list[str]:
    """Reasons of events: of each type that training knew, and of all others together, recent ones and earlier ones."""
    kinds = [*manifest.encoding.vocabulary[EVENT_TYPE], _OTHER]
    return [f"{when}_{kind}" for kind in kinds for when in (RECENT, EARLIER)]


def reasons_of(manifest: Manifest) -> tuple[str, ...]:
    """All G reasons, those of aggregates first."""
    return (*aggregate_reasons(manifest), *event_reasons(manifest))


def events_by_reason(
    rows: pa.Table | pa.RecordBatch, encoded: Encoded, manifest: Manifest, recent_days: int
) -> npt.NDArray[np.int32]:
    """[events] place in `event_reasons` of each event, row after row.

    Args:
        rows: of `sequences`.
        encoded: the same rows.
        manifest: of the bundle.
        recent_days: events up to this old are recent.
    """
    kinds = len(manifest.encoding.vocabulary[EVENT_TYPE])
    kind = encoded.codes[:-1, list(manifest.encoding.vocabulary).index(EVENT_TYPE)] - FIRST_CODE
    kind = np.where(kind < 0, kinds, kind)  # types that training did not know share the last reason
    ages = column(rows, AGE).flatten().to_numpy(zero_copy_only=False)
    return np.asarray(2 * kind + (ages > recent_days * _DAY), np.int32)


def current_ranks(rows: pa.Table | pa.RecordBatch) -> Ranks:
    """[n] rank of the current tier of rows of `sequences`."""
    return column(rows, TIER_RANK).to_numpy(zero_copy_only=False).astype(np.int64)


def able(current: Ranks, tiers: int, target: str) -> npt.NDArray[np.bool_]:
    """[n] who can move this way: nobody moves up from the highest tier, or down from the lowest."""
    return current < tiers - 1 if target == UPGRADE else current > 0


def reason_rows(rows: pa.Table, found: Attributions, tiers: int, most: int, wording: Callable[[str], str]) -> pa.Table:
    """The reasons of each member and target, weightiest first: columns of `score_reasons` without dates and versions.

    Args:
        rows: n rows, with `user_id` and the current tier's rank.
        found: their attributions.
        tiers: number of tiers, K.
        most: most reasons of a member and target.
        wording: reason to words.
    """
    users, rank = rows["user_id"], current_ranks(rows)
    words, parts = pa.array([wording(name) for name in found.names]), []
    for target in TARGETS:
        members = np.flatnonzero(able(rank, tiers, target))
        weightiest = np.argsort(-np.abs(found.parts[target][members]), axis=1, kind="stable")[:, :most]
        member, reason = np.repeat(members, weightiest.shape[1]), weightiest.ravel()
        parts.append(
            pa.table(
                {
                    "user_id": users.take(pa.array(member)),
                    "target": pa.repeat(target, len(reason)),
                    "rank": pa.array(np.tile(np.arange(1, weightiest.shape[1] + 1), len(members)), pa.int32()),
                    "reason": pa.array(found.names).take(pa.array(reason)),
                    "wording": words.take(pa.array(reason)),
                    "contribution": pa.array(found.parts[target][member, reason]),
                    "probability": pa.array(found.probability[target][member]),
                    "average_probability": pa.array(found.average[target][member]),
                    "unexplained": pa.array(found.unexplained(target)[member]),
                }
            )
        )
    return pa.concat_tables(parts)
