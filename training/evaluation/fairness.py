"""Fairness: whether a forecast serves groups of members alike. Only the evaluation knows the groups.

Four measures, each a mean over the members that it applies to: who is contacted, how many of those who move up were
contacted, how many most probable tiers came true, and by how much the forecast of moving up is above what came true.
A campaign contacts the members below the top tier with the highest chances to move up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from fairlearn.metrics import MetricFrame, mean_prediction
from scipy.stats import bootstrap

from features.core.arrays import Flags, Floats, Ranks
from training.evaluation.tier_moves import movement_probabilities, predicted_ranks
from training.settings.judging import FairnessSettings, Measure

Words = npt.NDArray[np.object_]
Level = Literal["even", "warning", "refusal"]

MEASURES: dict[Measure, str] = {
    "selection_rate": "contacted, of those who could move up",
    "upgrade_recall": "contacted, of those who did move up",
    "accuracy": "most probable tier came true",
    "calibration_gap": "forecast minus real share of those who moved up",
}
"""Measures by name, and what they mean; each is a share, the last a difference of two."""

_CONFIDENCE = 0.95
_BATCH = 20
"""Samples held at once: 160 bytes for each member."""
_QUANTILE = 0.95


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measure's value, and its 95 % interval from a bootstrap over the members."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Group:
    """A group that is large enough to be shown.

    Attributes:
        attribute: by which members are grouped.
        name: name of the group.
        members: number of members evaluated.
        figures: by measure; a measure with too few members is left out.
    """

    attribute: str
    name: str
    members: int
    figures: Mapping[str, Figure]


@dataclasses.dataclass(frozen=True)
class Disparity:
    """How far the groups of an attribute are apart in one measure.

    Attributes:
        attribute: attribute by which members are grouped.
        measure: name in `MEASURES`.
        lowest: group with the least value.
        highest: group with the greatest value.
        difference: difference between the two.
        chance: 95 of 100 random divisions of the same members into groups of these sizes have a smaller difference.
        level: bound that it is beyond; `even` where chance explains it.
    """

    attribute: str
    measure: str
    lowest: str
    highest: str
    difference: float
    chance: float
    level: Level

    def words(self) -> str:
        """The difference in a sentence."""
        return (
            f"groups by {self.attribute}: {self.measure} of {self.highest} is {self.difference:.3f} above that of "
            f"{self.lowest}, where chance explains {self.chance:.3f}"
        )


@dataclasses.dataclass(frozen=True)
class Fairness:
    """Groups compared on one date.

    Attributes:
        evaluated: number of members evaluated.
        known: number of those in the table of groups.
        groups: figures of each group that is large enough.
        disparities: one for each attribute and measure with at least two groups.
        suppressed: by attribute, the groups that are too small to show.
    """

    evaluated: int
    known: int
    groups: tuple[Group, ...]
    disparities: tuple[Disparity, ...]
    suppressed: Mapping[str, tuple[str, ...]]

    def reasons(self) -> list[str]:
        """Why the model is refused; empty where it is not."""
        return [d.words() for d in self.disparities if d.level == "refusal"]

    def warnings(self) -> list[str]:
        """Differences beyond a warning bound only."""
        return [d.words() for d in self.disparities if d.level == "warning"]

    def lines(self) -> list[str]:
        """The verdict in words."""
        if reasons := self.reasons():
            return ["fairness: refused, groups are not served alike", *(f"  - {reason}" for reason in reasons)]
        said = self.warnings()
        return [f"fairness: {'within bounds' if not said else 'with warnings'}", *(f"  ({w})" for w in said)]


def assess(
    probabilities: Floats,
    current: Ranks,
    outcome: Ranks,
    attributes: Mapping[str, Words],
    known: Flags,
    settings: FairnessSettings,
) -> Fairness:
    """Compare groups of the same members.

    Args:
        probabilities: [n, K] of all evaluated members.
        current: [n] ranks.
        outcome: [n] ranks.
        attributes: by attribute, [n] the name of each member's group; None where it is not known.
        known: [n] whether the member is in the table of groups.
        settings: sizes and bounds.
    """
    asked = _measures(probabilities, current, outcome, settings.contacted)
    groups, disparities, suppressed = list[Group](), list[Disparity](), dict[str, tuple[str, ...]]()
    for attribute, names in attributes.items():
        found, members = np.unique(names[names != None].astype(str), return_counts=True)  # noqa: E711 (elementwise)
        shown = [str(name) for name, n in zip(found, members, strict=True) if n >= settings.smallest_group]
        suppressed[attribute] = tuple(str(name) for name in found if name not in shown)
        sizes = {str(name): int(n) for name, n in zip(found, members, strict=True)}
        figures: dict[str, dict[str, Figure]] = {name: {} for name in shown}
        for measure, (values, among) in asked.items():
            compared = _compared(values, among, names, shown, settings)
            if compared is None:
                continue
            values, labels = compared
            for name, figure in _figures(values, labels, settings.draws).items():
                figures[name][measure] = figure
            if len(set(labels)) > 1:
                disparities.append(_disparity(attribute, measure, values, labels, settings))
        groups += [Group(attribute, name, sizes[name], figures[name]) for name in shown]
    return Fairness(len(current), int(known.sum()), tuple(groups), tuple(disparities), suppressed)


def _measures(p: Floats, current: Ranks, outcome: Ranks, share: float) -> dict[Measure, tuple[Floats, Flags]]:
    """By measure, [n] values whose mean it is, and [n] the members that it applies to."""
    up, _ = movement_probabilities(p, current)
    below, rose = current < p.shape[1] - 1, outcome > current
    contacted = contacted_first(up, below, share)
    right = predicted_ranks(p) == outcome
    return {
        "selection_rate": (contacted.astype(float), below),
        "upgrade_recall": (contacted.astype(float), rose),
        "accuracy": (right.astype(float), np.ones(len(p), bool)),
        "calibration_gap": (up - rose, below),
    }


def contacted_first(up: Floats, below: Flags, share: float) -> Flags:
    """[n] who is contacted: this share of those `below` the top tier, highest chances `up` first, ties included."""
    if not below.any():
        return below
    count = max(1, round(share * int(below.sum())))
    return below & (up >= np.sort(up[below])[-count])


def _compared(
    values: Floats, among: Flags, names: Words, shown: Sequence[str], settings: FairnessSettings
) -> tuple[Floats, Words] | None:
    """Values and group names of the members that a measure applies to, in groups with enough of them."""
    kept = among & np.isin(names, list(shown))
    found, members = np.unique(names[kept].astype(str), return_counts=True)
    kept &= np.isin(names, found[members >= settings.least_members].tolist())
    return (values[kept], names[kept]) if kept.any() else None


def _figures(values: Floats, labels: Words, draws: int) -> dict[str, Figure]:
    frame = MetricFrame(  # the mean is taken of y_pred alone
        metrics=mean_prediction, y_true=values, y_pred=values, sensitive_features=pd.Series(labels, name="group")
    )
    found = {}
    for name, value in frame.by_group.items():
        # MetricFrame has a bootstrap too, which takes a hundred times as long.
        low, high = bootstrap(
            (values[labels == name],),
            np.mean,
            n_resamples=draws,
            batch=_BATCH,
            method="percentile",
            confidence_level=_CONFIDENCE,
            rng=np.random.default_rng(0),
        ).confidence_interval
        found[str(name)] = Figure(float(value), float(low), float(high))
    return found


def _disparity(
    attribute: str, measure: Measure, values: Floats, labels: Words, settings: FairnessSettings
) -> Disparity:
    names, group = np.unique(labels.astype(str), return_inverse=True)
    means = _means(values, group)
    low, high = int(means.argmin()), int(means.argmax())
    difference, chance = float(means[high] - means[low]), _by_chance(values, group, settings.draws)
    bounds = settings.bounds.get(measure)
    level: Level = "even"
    if bounds is not None and difference > max(chance, bounds.warning):
        level = "refusal" if bounds.refusal is not None and difference > bounds.refusal else "warning"
    return Disparity(attribute, measure, str(names[low]), str(names[high]), difference, chance, level)


def _means(values: Floats, group: Ranks) -> Floats:
    return np.asarray(np.bincount(group, weights=values) / np.bincount(group))


def _by_chance(values: Floats, group: Ranks, draws: int) -> float:
    chance = np.random.default_rng(0)
    spreads = [np.ptp(_means(values, chance.permutation(group))) for _ in range(draws)]
    return float(np.quantile(spreads, _QUANTILE))
