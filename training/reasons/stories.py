"""Members whose forecast is explained in full, chosen to show what the network looks at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

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
"""Members shown are typical of this share of those with the highest chance."""


@dataclasses.dataclass(frozen=True)
class Story:
    """One member's forecast, told without saying whose it is.

    Attributes:
        tier: current tier.
        target: `upgrade` or `downgrade`.
        probability: of it.
        average: that of the average member it is compared with.
        days: before the as-of date, of each event, oldest first.
        kinds: types of the events.
        contributions: of the events.
        reasons: the weightiest, in words, and their contributions.
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
    """Up to `count` members whose forecasts differ: likely to move up, likely to move down, hard to call, and so on.

    Args:
        rows: n rows of `sequences`.
        found: their attributions.
        manifest: of the bundle.
        count: stories.
        most: reasons of each.
        wording: reason to words.
    """
    encoded = Encoded.of(rows, manifest.contract, manifest.encoding)
    ranks, told = current_ranks(rows), dict[int, Story]()
    enough = encoded.lengths >= np.median(encoded.lengths)  # of few events there is little to tell
    for number in range(count):
        target, wanted = _WANTED[number % len(_WANTED)]
        eligible = able(ranks, len(manifest.contract.tiers), target) & enough
        eligible[list(told)] = False
        if eligible.any():
            chances = found.probability[target]
            distance = np.where(eligible, np.abs(chances - wanted(chances[eligible])), np.inf)
            member = int(np.argmin(distance))
            told[member] = _story(rows, encoded, member, found, target, manifest, most, wording)
    return tuple(told.values())


def _typical(chances: Array) -> float:
    return float(np.quantile(chances, 1 - _TYPICAL))


_WANTED: tuple[tuple[str, Callable[[Array], float]], ...] = (
    (UPGRADE, _typical),
    (DOWNGRADE, _typical),
    (UPGRADE, lambda _: 0.5),
)


def _story(
    rows: pa.Table,
    encoded: Encoded,
    member: int,
    found: Attributions,
    target: str,
    manifest: Manifest,
    most: int,
    wording: Callable[[str], str],
) -> Story:
    own, parts = rows.slice(member, 1), found.parts[target][member]
    seen = min(int(encoded.lengths[member]), found.events[target].shape[1])
    last = slice(int(encoded.lengths[member]) - seen, None)
    ages = column(own, AGE).flatten().fill_null(0).to_numpy(zero_copy_only=False)[last]
    kinds = column(own, array_column(EVENT_TYPE)).flatten().fill_null(_UNKNOWN).to_pylist()[last]
    weightiest = np.argsort(-np.abs(parts), kind="stable")[:most]
    return Story(
        tier=manifest.contract.tiers[current_ranks(own)[0]],
        target=target,
        probability=float(found.probability[target][member]),
        average=float(found.average[target][member]),
        days=tuple((ages / _DAY).tolist()),
        kinds=tuple(kinds),
        contributions=tuple(found.events[target][member, :seen].tolist()),
        reasons=tuple((wording(found.names[k]), float(parts[k])) for k in weightiest),
    )
