"""Drift: how far the members of a date are from the rows that a model was trained on, feature by feature.

The bundle keeps a small profile of the training rows: for each feature its bins, and the number and sum of the values
in each bin. Rows of any later date are counted by the same bins, in parts that can be added. Two figures are computed
from the counts: the population stability index, which sees any change of shape, and the Wasserstein distance, which
says how far the feature has moved. Features are the aggregates, the means over a member's events, and the predicted
tier; all but the last on the logarithmic scale that the network sees.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, model_serializer, model_validator
from scipy.special import chdtri

from features.core.arrays import Array, Floats
from features.core.contract import AGE, Contract
from training.inputs.column_names import AS_OF, column
from training.inputs.tensors import aggregate_values, numeric_events
from training.settings.judging import DriftBounds, DriftSettings

Level = Literal["steady", "expected", "warning", "refusal"]

PREDICTED_TIER = "predicted_tier"
EVENTS = "events"

_HALF = 0.5
"""Members added to each bin, so that an empty bin has a share; the more members there are, the less it counts."""
_QUANTILE = 0.999
"""There are dozens of features: at 95 of 100, a few would warn at every date by chance."""


def feature_names(contract: Contract) -> tuple[str, ...]:
    """The features that are watched, in order, without the predicted tier."""
    return (*contract.aggregates, EVENTS, *(f"mean_{name}" for name in ("age", "gap", *contract.numeric)))


def feature_values(rows: pa.Table, contract: Contract) -> dict[str, Floats]:
    """By feature, [n] values of n rows of `sequences`; NaN where a member has none.

    Args:
        rows: columns age, the numeric channels, the aggregates and the as-of date.
        contract: meaning of the columns.
    """
    numeric = dataclasses.replace(contract, categorical=())
    known = rows.select([*numeric.array_columns, AS_OF])
    lengths = pc.list_value_length(column(known, AGE)).fill_null(0).to_numpy().astype(np.int64)
    member = np.repeat(np.arange(rows.num_rows), lengths)
    means = {f"mean_{name}": _means(v, member, len(lengths)) for name, v in numeric_events(known, numeric).items()}
    aggregates = {name: aggregate_values(rows, name) for name in contract.aggregates}
    return {**aggregates, EVENTS: np.log1p(lengths), **means}


def _means(values: Array, member: Array, members: int) -> Floats:
    known = ~np.isnan(values)
    count = np.bincount(member[known], minlength=members)
    total = np.bincount(member[known], weights=values[known], minlength=members)
    return np.divide(total, count, out=np.full(members, np.nan), where=count > 0)


@dataclasses.dataclass(frozen=True)
class Counted:
    """Rows counted by a profile's bins; counts of parts add up to those of the whole.

    Attributes:
        rows: by feature, the number of rows in each bin; the last number is of rows without a value.
        totals: by feature, the sum of the values in each bin.
    """

    rows: Mapping[str, tuple[int, ...]]
    totals: Mapping[str, tuple[float, ...]]

    def __add__(self, other: Counted) -> Counted:
        """The rows of both; they were counted by one profile."""
        return Counted(
            {name: tuple(np.add(mine, other.rows[name]).tolist()) for name, mine in self.rows.items()},
            {name: tuple(np.add(mine, other.totals[name]).tolist()) for name, mine in self.totals.items()},
        )

    @model_serializer
    def _by_feature(self) -> dict[str, tuple[tuple[int, ...], tuple[float, ...]]]:
        """The stored form: rows and totals of each feature side by side."""
        return {name: (found, self.totals[name]) for name, found in self.rows.items()}

    @model_validator(mode="before")
    @classmethod
    def _from_features(cls, stored: Any) -> Any:
        """The inverse of `_by_feature`."""
        if isinstance(stored, Counted):
            return stored
        rows = {name: found for name, (found, _) in stored.items()}
        return {"rows": rows, "totals": {name: totals for name, (_, totals) in stored.items()}}


@dataclasses.dataclass(frozen=True)
class Profile:
    """The training rows, summed up.

    Attributes:
        edges: by feature, ascending: a bin holds the values above one edge, up to and including the next.
        deviations: by feature, the standard deviation over the training rows, 1 for a constant; the unit of the
            distance.
        training: the training rows, counted.
    """

    edges: Mapping[str, tuple[float, ...]]
    deviations: Mapping[str, float]
    training: Counted

    @classmethod
    def of(cls, values: Mapping[str, Floats], tiers: int, bins: int) -> Profile:
        """The profile of training rows.

        Args:
            values: by feature [n], see `feature_values`; `PREDICTED_TIER` holds ranks, each with a bin of its own.
            tiers: number of tiers, K.
            bins: bins of equally many rows for every other feature; fewer where there are few distinct values.
        """
        edges = {name: _edges(v, bins) for name, v in values.items()} | {
            PREDICTED_TIER: tuple(float(rank) for rank in range(tiers - 1))
        }
        empty = cls(edges, {name: _deviation(v) for name, v in values.items()}, Counted({}, {}))
        return dataclasses.replace(empty, training=empty.count(values))

    def count(self, values: Mapping[str, Floats]) -> Counted:
        """Count rows by the profile's bins; `values` has its features, [n] each."""
        rows, totals = {}, {}
        for name, edges in self.edges.items():
            known = values[name][~np.isnan(values[name])]
            bin_of, bins = np.searchsorted(edges, known, side="left"), len(edges) + 1
            missing = len(values[name]) - len(known)
            rows[name] = (*np.bincount(bin_of, minlength=bins).tolist(), missing)
            totals[name] = tuple(np.bincount(bin_of, weights=known, minlength=bins).tolist())
        return Counted(rows, totals)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the inverse of `from_dict`."""
        stored: dict[str, Any] = TypeAdapter(Profile).dump_python(self, mode="json")
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Profile:
        """Rebuild from `to_dict`; raises ValueError on anything else."""
        return TypeAdapter(Profile).validate_python(stored)


def _edges(values: Floats, bins: int) -> tuple[float, ...]:
    known = values[~np.isnan(values)]
    if not len(known):
        return ()
    # The quantiles are values that occur, so a rounding error never separates equal values.
    inner = np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf")
    return tuple(np.unique(inner).tolist())


def _deviation(values: Floats) -> float:
    known = values[~np.isnan(values)]
    found = float(known.std()) if len(known) else 0.0
    return found if found > 1e-9 else 1.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far one feature is from the training rows.

    Attributes:
        feature: name of the feature.
        psi: population stability index over bins of equally many training rows.
        distance: Wasserstein distance, in standard deviations of the training rows.
        chance: 999 of 1000 samples of as many members have a smaller index when nothing has changed.
        level: `warning` or `refusal` beyond these bounds; `expected` if it is beyond one, but the settings say that
            the feature changes by nature; else `steady`.
    """

    feature: str
    psi: float
    distance: float
    chance: float
    level: Level

    def words(self, bounds: DriftBounds) -> str:
        """Both figures beside their bounds."""
        return (
            f"{self.feature} has a population stability index of {self.psi:.3f} (bound {bounds.psi:g}) and a distance "
            f"of {self.distance:.3f} standard deviations (bound {bounds.distance:g}) from the training rows"
        )


def shifts(profile: Profile, found: Counted, settings: DriftSettings) -> tuple[Shift, ...]:
    """Every feature's shift, largest index first; empty where nothing was counted.

    The index of feature x is the sum over the bins of (q - p) ln(q / p), p and q the shares of training rows and found
    rows, members without a value being a bin. Under no change its multiple by n m / (n + m) follows a chi-square
    distribution (Yurdakul and Naranjo 2020). The distance is between the means of the bins, so it does not see moves
    within a bin.
    """
    compared = []
    for name, before in profile.training.rows.items():
        now = found.rows[name]
        if not sum(before) or not sum(now):
            continue
        psi, chance = stability_index(before, now), index_by_chance(before, now)
        distance = _distance(profile, found, name)
        compared.append(Shift(name, psi, distance, chance, _level(name, psi, distance, chance, settings)))
    return tuple(sorted(compared, key=lambda shift: (-shift.psi, shift.feature)))


def stability_index(before: Sequence[int], now: Sequence[int]) -> float:
    """Population stability index of two rows of counts by bin, half a row added to each."""
    p, q = (np.add(counts, _HALF) / (np.sum(counts) + _HALF * len(counts)) for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def index_by_chance(before: Sequence[int], now: Sequence[int]) -> float:
    """The index that 999 of 1000 pairs of samples of these sizes from one distribution stay below."""
    filled = int((np.add(before, now) > 0).sum())
    if filled < 2:
        return 0.0
    return float(chdtri(filled - 1, 1 - _QUANTILE) * (1 / np.sum(before) + 1 / np.sum(now)))


def _distance(profile: Profile, found: Counted, name: str) -> float:
    sides = []
    for counted in (profile.training, found):
        rows, totals = np.array(counted.rows[name][:-1]), np.array(counted.totals[name])
        filled = rows > 0
        sides.append((totals[filled] / rows[filled], rows[filled]))
    (before, weights), (now, of_now) = sides
    if not len(before) or not len(now):  # the index reports that one side has no values at all
        return 0.0
    from scipy.stats import wasserstein_distance  # slow to import, and workers only count

    return float(wasserstein_distance(before, now, weights, of_now)) / profile.deviations[name]


def _level(name: str, psi: float, distance: float, chance: float, settings: DriftSettings) -> Level:
    def beyond(bounds: DriftBounds) -> bool:
        return psi > max(bounds.psi, chance) or distance > bounds.distance

    if not beyond(settings.warning):
        return "steady"
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.expected):
        return "expected"
    return "refusal" if beyond(settings.refusal) else "warning"


def refusals(found: Iterable[Shift], settings: DriftSettings) -> list[str]:
    """A reason for each feature beyond the refusal bound."""
    return [shift.words(settings.refusal) for shift in found if shift.level == "refusal"]


def notes(found: Iterable[Shift], settings: DriftSettings) -> list[str]:
    """One line that names all features beyond the warning bound; no line without any."""
    far = [s for s in found if s.level in ("warning", "refusal")]
    if not far:
        return []
    named = ", ".join(f"{s.feature} ({s.psi:.3f}, {s.distance:.3f})" for s in far)
    return [
        f"drift since training beyond the warning bounds (stability index {settings.warning.psi:g}, distance "
        f"{settings.warning.distance:g}): {named}"
    ]
