"""The encoding of a bundle: vocabularies, scales and codes that turn channels into numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from features.core.arrays import Array

PADDING, UNKNOWN, FIRST_CODE = 0, 1, 2
TIME_CHANNELS = ("age", "gap", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
"""Channels of every event that follow from its age and the as-of date."""


class Scale(NamedTuple):
    """Mean, standard deviation (1 for a constant), least and greatest value of a channel after its logarithm.

    A value outside the range of the training rows counts as the nearest end: a network cannot know what a tenure means
    that none of these rows had, and one absurd amount must not drown a forecast.
    """

    mean: float
    deviation: float
    least: float
    greatest: float

    def apply(self, values: Array) -> Array:
        """Normalised float32 values of the same shape, 0 for missing ones (NaN)."""
        scaled = np.clip(np.asarray(values, np.float32), self.least, self.greatest)
        scaled -= np.float32(self.mean)
        scaled *= np.float32(1 / self.deviation)
        # Keeps the bits of numbers and sets those of NaN to 0, without a branch, which is hard to predict here.
        return (scaled.view(np.int32) & (np.isnan(scaled).astype(np.int32) - 1)).view(np.float32)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Vocabulary and normalisation, learned from training rows alone.

    Attributes:
        vocabulary: per categorical channel its values, most frequent first; value i has code i + FIRST_CODE.
        channels: per numeric channel, and for `age` and `gap`, the scale of its signed logarithm.
        aggregates: per aggregate the scale of its signed logarithm.
        indicated: aggregates that were null in some training row; each has a further input that says so.
    """

    vocabulary: Mapping[str, tuple[str, ...]]
    channels: Mapping[str, Scale]
    aggregates: Mapping[str, Scale]
    indicated: tuple[str, ...]


def signed_log(values: Array) -> Array:
    """sign(x) * log(1 + |x|) of floats, in float32: tames money and counts alike, and is defined for refunds.

    What is not finite is NaN; what is too large for float32 counts as the largest that fits.
    """
    with np.errstate(over="ignore"):
        given = np.asarray(values).astype(np.float32, copy=False)
    infinite = np.isinf(given)
    if infinite.any():
        largest = np.where(np.isinf(values), np.float32(np.nan), np.finfo(np.float32).max)
        given = np.where(infinite, np.copysign(largest, given), given)
    # log1p would take ten times as long where values are missing, and 1 + |x| loses no digit that matters.
    logged = np.abs(given)
    logged += np.float32(1)
    np.log(logged, out=logged)
    return np.copysign(logged, given, out=logged)
