"""Calibration: corrects probabilities by current tier, as learned from rows that the network was not trained on.

A network that ranks members well may still give probabilities that are too high or too low. Each current tier gets a
scale and, with vector scaling, a shift per outcome tier (Guo et al. 2017, arXiv 1706.04599): p_k becomes proportional
to exp(scale * ln p_k + shift_k). The scale is the inverse of the temperature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from scipy.special import log_softmax, softmax

from features.core.arrays import Floats, Ranks
from training.settings.judging import CalibrationSettings

_SMALLEST = 1e-12  # a probability of 0 has no logarithm
_PENALTY = 5.0
"""Weight, in rows, of the squared distance from no change at all: so a few rows change little."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How probabilities are corrected.

    Attributes:
        scales: one for each current tier.
        shifts: for each current tier one for each outcome tier.
    """

    scales: tuple[float, ...]
    shifts: tuple[tuple[float, ...], ...]

    @classmethod
    def none(cls, tiers: int) -> Calibration:
        """The calibration that changes nothing."""
        return cls((1.0,) * tiers, ((0.0,) * tiers,) * tiers)

    def __call__(self, probabilities: Floats, current: Ranks) -> Floats:
        """Corrected probabilities [n, K] of members now in the tiers `current` [n]; rows sum to 1."""
        logs = np.log(np.maximum(probabilities, _SMALLEST))
        scores = np.array(self.scales)[current][:, None] * logs + np.array(self.shifts)[current]
        return np.asarray(softmax(scores, axis=1), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the inverse of `from_dict`."""
        stored: dict[str, Any] = TypeAdapter(Calibration).dump_python(self, mode="json")
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibration:
        """Rebuild from `to_dict`; raises ValueError on anything else."""
        return TypeAdapter(Calibration).validate_python(stored)


def fit(probabilities: Floats, current: Ranks, outcome: Ranks, settings: CalibrationSettings) -> Calibration:
    """The calibration with the least logloss on rows that the network was not trained on.

    A current tier with fewer rows than `settings.least_rows` gets the calibration of all rows together. Where an
    outcome tier never occurs, no shift is fitted: it would rule the tier out for good.

    Args:
        probabilities: [n, K].
        current: [n] ranks.
        outcome: [n] ranks.
        settings: method, and the rows that a tier needs for a calibration of its own.
    """
    tiers = probabilities.shape[1]
    if settings.method == "none" or not len(probabilities):
        return Calibration.none(tiers)
    logs, everyone = np.log(np.maximum(probabilities, _SMALLEST)), np.ones(len(current), bool)
    of_all = _fitted(logs, outcome, everyone, settings)
    found = []
    for tier in range(tiers):
        rows = current == tier
        enough = rows.sum() >= settings.least_rows
        found.append(_fitted(logs, outcome, rows, settings) if enough else of_all)
    return Calibration(tuple(scale for scale, _ in found), tuple(shift for _, shift in found))


def _fitted(
    logs: Floats, outcome: Ranks, rows: npt.NDArray[np.bool_], settings: CalibrationSettings
) -> tuple[float, tuple[float, ...]]:
    logs, outcome, tiers = logs[rows], outcome[rows], logs.shape[1]
    shifted = settings.method == "vector" and len(np.unique(outcome)) == tiers
    at, hits = np.arange(len(outcome)), np.eye(tiers)[outcome]

    def loss(x: Floats) -> tuple[float, Floats]:
        scale, shifts = np.exp(x[0]), x[1:] if shifted else np.zeros(tiers)
        scores = log_softmax(scale * logs + shifts, axis=1)
        slope = np.exp(scores) - hits
        value = -scores[at, outcome].sum() + _PENALTY * (x**2).sum()
        by_shift = slope.sum(axis=0) if shifted else np.empty(0)
        return value, np.concatenate([[scale * (slope * logs).sum()], by_shift]) + 2 * _PENALTY * x

    from scipy.optimize import minimize  # slow to import, and workers only apply what was fitted

    start = np.zeros(1 + tiers if shifted else 1)
    x = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return float(np.exp(x[0])), tuple(x[1:].tolist()) if shifted else (0.0,) * tiers


def cross_fitted(
    probabilities: Floats, current: Ranks, outcome: Ranks, half: npt.NDArray[np.bool_], settings: CalibrationSettings
) -> Floats:
    """[n, K] probabilities, each half corrected by what was fitted on the other: how a calibration does on new rows."""
    corrected = np.empty_like(probabilities)
    for side in (half, ~half):
        learned = fit(probabilities[~side], current[~side], outcome[~side], settings)
        corrected[side] = learned(probabilities[side], current[side])
    return corrected
