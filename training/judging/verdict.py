"""What the gate says of a model, as it is kept in the manifest. Every worker that loads a bundle imports this."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from training.judging.drift import Shift

REFIT = "refit"
"""Name of the logloss of a network on rows that it has learned from."""


@dataclasses.dataclass(frozen=True)
class TierCalibration:
    """How far the forecasts for members of one current tier are from what came true.

    Attributes:
        tier: current tier.
        rows: number of members.
        error: class-wise calibration error over equal-mass bins.
        chance: the error that a perfect forecast stays below in 95 of 100 samples of so many members (consistency
            resampling, Broecker and Smith 2007).
    """

    tier: str
    rows: int
    error: float
    chance: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a model is published.

    Attributes:
        reasons: why not; empty where it is.
        figures: loglosses that were compared, by name.
        calibration: calibration by current tier.
        bounds: settings that it was judged by.
        notes: what could not be compared, and what is near its bound.
        drift: how far the members that it was judged on are from the training rows.
    """

    reasons: tuple[str, ...]
    figures: Mapping[str, float]
    calibration: tuple[TierCalibration, ...]
    bounds: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    drift: tuple[Shift, ...] = ()

    @property
    def published(self) -> bool:
        """Whether `latest` may name the model."""
        return not self.reasons

    def lines(self, version: str) -> list[str]:
        """The verdict in words."""
        said = f"model {version}: " + ("published" if self.published else "refused, it stays out of `latest`")
        return [said, *(f"  - {reason}" for reason in self.reasons), *(f"  ({note})" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the inverse of `from_dict`."""
        stored: dict[str, Any] = TypeAdapter(Verdict).dump_python(self, mode="json")
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Verdict:
        """Rebuild from `to_dict`; raises ValueError on anything else."""
        return TypeAdapter(Verdict).validate_python(stored)
