"""Members whose forecasts are explained in full, as examples of what the network looks at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from features.core.arrays import Array
from features.core.contract import AGE, array_column
from training.bundles.manifest import Manifest
from training.inputs.column_names import column
from training.inputs.tensors import Encoded
from training.reasons.reason_codes import DOWNGRADE, EVENT_TYPE, UPGRADE, Attributions, able, current_ranks

_DAY = 86_400

_UNKNOWN = "unknown"
_TYPICAL = 0.05
"""Share of members with the highest chances; one at its edge is shown as likely to move."""


@dataclasses.dataclass(frozen=True)
class Story:
    """One member's forecast, without saying whose it is.

    Attributes:
        tier: current tier.
        target: `upgrade` or `downgrade`.
        probability: chance of the target.
        average: chance of the average member that it is compared with.
        days: of each event the days before the as-of date, oldest first.
        kinds: types of the events.
        contributions: what each event adds.
        reasons: the weightiest reasons, in words, and what each adds.
    """

    tier: str
    target: str
    probability: float
    average: float
    days: tuple[float, ...]
    kinds: tuple[str, ...]
    contributions: tuple[float, ...]
    reasons: tuple[tuple[str, float], ...]


def stories(
    rows: pa.Table, found: Attributions, manifest: Manifest, count: int, most: int, wording: Callable[[str], str]
) -> tuple[Story, ...]:
    """Up to `count` members whose forecasts differ: likely to move up, likely to move down, undecided, and so on.

    Args:
        rows: n rows of `sequences`.
        found: their attributions.
        manifest: of the bundle.
        count: number of stories.
        most: number of reasons of each.
        wording: reason to words.
    """
    encoded = Encoded.of(rows, manifest.contract, manifest.encoding)
    source = _Source(rows, encoded.lengths, found, manifest.contract.tiers, most, wording)
    ranks, told = current_ranks(rows), dict[int, Story]()
    enough = encoded.lengths >= np.median(encoded.lengths)  # a few events tell little
    for number in range(count):
        target, wanted = _WANTED[number % len(_WANTED)]
        eligible = able(ranks, len(manifest.contract.tiers), target) & enough
        eligible[list(told)] = False
        if eligible.any():
            chances = found.probability[target]
            distance = np.where(eligible, np.abs(chances - wanted(chances[eligible])), np.inf)
            member = int(np.argmin(distance))
            told[member] = source.story(member, target)
    return tuple(told.values())


def _typical(chances: Array) -> float:
    return float(np.quantile(chances, 1 - _TYPICAL))


_WANTED: tuple[tuple[str, Callable[[Array], float]], ...] = (
    (UPGRADE, _typical),
    (DOWNGRADE, _typical),
    (UPGRADE, lambda _: 0.5),
)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What stories are taken from, all of n members.

    Attributes:
        rows: rows of `sequences`.
        lengths: [n] events of each.
        found: their attributions.
        tiers: names, lowest first.
        most: reasons of a story.
        wording: reason to words.
    """

    rows: pa.Table
    lengths: Array
    found: Attributions
    tiers: Sequence[str]
    most: int
    wording: Callable[[str], str]

    def story(self, member: int, target: str) -> Story:
        """The story of one member, by number."""
        found, own = self.found, self.rows.slice(member, 1)
        parts, length = found.parts[target][member], int(self.lengths[member])
        seen = min(length, found.events[target].shape[1])
        last = slice(length - seen, None)
        ages = column(own, AGE).flatten().fill_null(0).to_numpy(zero_copy_only=False)[last]
        kinds = column(own, array_column(EVENT_TYPE)).flatten().fill_null(_UNKNOWN).to_pylist()[last]
        weightiest = np.argsort(-np.abs(parts), kind="stable")[: self.most]
        return Story(
            tier=self.tiers[current_ranks(own)[0]],
            target=target,
            probability=float(found.probability[target][member]),
            average=float(found.average[target][member]),
            days=tuple((ages / _DAY).tolist()),
            kinds=tuple(kinds),
            contributions=tuple(found.events[target][member, :seen].tolist()),
            reasons=tuple((self.wording(found.names[k]), float(parts[k])) for k in weightiest),
        )
