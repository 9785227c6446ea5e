"""Vocabulary and normalisation from training rows, as sums that are added up in a fixed order.

Each shard of the staged examples gives one `Statistics`; adding those up in the order of the shards gives the same
floating-point numbers whatever the arrangement of the input or the number of tasks. Memory does not grow with the
number of members.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrays import Array
from features.core.contract import Contract, array_column
from training.inputs.column_names import WEIGHT, column
from training.inputs.encoding import Encoding, Scale
from training.inputs.tensors import aggregate_values, numeric_events

MOST_COUNTED = 200_000
"""Most distinct values of a channel that are counted; beyond it the rarer half is forgotten."""


@dataclasses.dataclass
class Moments:
    """Count, sum, sum of squares and range (None without any) of the finite values, and the number of missing ones."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    missing: int = 0
    least: float | None = None
    greatest: float | None = None

    def add(self, values: Array) -> None:
        """Add values of any shape; NaN counts as missing."""
        known = np.asarray(values[~np.isnan(values)], np.float64)
        self.count += len(known)
        self.total += float(known.sum())
        self.squares += float(np.square(known).sum())
        self.missing += values.size - len(known)
        if len(known):
            self._stretch(float(known.min()), float(known.max()))

    def merge(self, other: Moments) -> None:
        """Add another's sums."""
        self.count, self.missing = self.count + other.count, self.missing + other.missing
        self.total, self.squares = self.total + other.total, self.squares + other.squares
        if other.least is not None and other.greatest is not None:
            self._stretch(other.least, other.greatest)

    def scale(self) -> Scale:
        """Mean, deviation and range; a deviation lost in rounding is that of a constant."""
        if self.least is None or self.greatest is None:
            return Scale(0.0, 1.0, 0.0, 0.0)
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        constant = variance <= 1e-12 * max(1.0, mean**2)
        return Scale(mean, 1.0 if constant else math.sqrt(variance), self.least, self.greatest)

    def _stretch(self, least: float, greatest: float) -> None:
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)


@dataclasses.dataclass
class Statistics:
    """Sums over some training rows: per channel, per aggregate, per categorical value, and of the rows' weights."""

    channels: dict[str, Moments]
    aggregates: dict[str, Moments]
    values: dict[str, Counter[str]]
    weight: float = 0.0

    @classmethod
    def empty(cls, contract: Contract) -> Statistics:
        """Sums over no rows."""
        return cls(
            {name: Moments() for name in ("age", "gap", *contract.numeric)},
            {name: Moments() for name in contract.aggregates},
            {name: Counter() for name in contract.categorical},
        )

    def add(self, rows: pa.Table, contract: Contract) -> None:
        """Add rows with the columns of `training.inputs.column_names.required_columns` and their weight."""
        self.weight += float(column(rows, WEIGHT).to_numpy(zero_copy_only=False).sum())
        for name, values in numeric_events(rows, contract).items():
            self.channels[name].add(values)
        for name in contract.aggregates:
            self.aggregates[name].add(aggregate_values(rows, name))
        for channel in contract.categorical:
            counts = pc.value_counts(column(rows, array_column(channel)).flatten().drop_null())
            pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
            self.values[channel].update(dict(pairs))
            _forget_rare(self.values[channel])

    def merge(self, other: Statistics) -> None:
        """Add another's sums; call it in the order of the shards."""
        self.weight += other.weight
        for mine, theirs in ((self.channels, other.channels), (self.aggregates, other.aggregates)):
            for name, moments in theirs.items():
                mine[name].merge(moments)
        for channel, counts in other.values.items():
            self.values[channel].update(counts)
            _forget_rare(self.values[channel])

    def encoding(self, vocabulary_size: int) -> Encoding:
        """Scales and vocabularies; values of equal frequency are ordered by their text."""
        return Encoding(
            vocabulary={name: _ranked(counts, vocabulary_size) for name, counts in self.values.items()},
            channels={name: m.scale() for name, m in self.channels.items()},
            aggregates={name: m.scale() for name, m in self.aggregates.items()},
            indicated=tuple(name for name, m in self.aggregates.items() if m.missing),
        )


def _ranked(counts: Counter[str], size: int) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda value: (-counts[value], value))[:size])


def _forget_rare(counts: Counter[str]) -> None:
    if len(counts) > MOST_COUNTED:
        kept = _ranked(counts, MOST_COUNTED // 2)
        left = {value: counts[value] for value in kept}
        counts.clear()
        counts.update(left)
