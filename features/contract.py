"""The contract between the `sequences` table and every model: which arrays and aggregates, how long, which tiers.

It is computed from the settings when sequences are built, stored with each row as `contract_id`, kept whole in each
bundle, and compared whenever the two meet: what trained is what scores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

AGE = "seq_age"
"""Array column: whole seconds from each event to the as-of instant, oldest event first, so descending."""

FORMAT = 1
"""Raised when the meaning of a column changes without any of the contract's fields changing."""


def array_column(channel: str) -> str:
    """Name of the `sequences` column that holds a channel's array."""
    return f"seq_{channel}"


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a model may rely on in a row of `sequences`.

    Attributes:
        length: L, the largest number of events in an array.
        numeric: channels with `array<float>`, null where the event has no value.
        categorical: channels with `array<string>`, null where the event has no value.
        aggregates: flat `double` columns, null where undefined (no second purchase: no gap).
        tiers: tier names, lowest first; a tier's rank is its place here.
        tier_rule: canonical JSON of the rule, thresholds and window.
        horizon_days: days of the outcome window that starts at the as-of date.
        known_by: `event_time` or `ingested_at`.
        format: `FORMAT` at the time of writing.
    """

    length: int
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    aggregates: tuple[str, ...]
    tiers: tuple[str, ...]
    tier_rule: str
    horizon_days: int
    known_by: str
    format: int = FORMAT

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def array_columns(self) -> tuple[str, ...]:
        """All array columns: age, then numeric, then categorical channels."""
        return (AGE, *(array_column(c) for c in (*self.numeric, *self.categorical)))

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Every column of `sequences` that a model reads."""
        return (*self.array_columns, *self.aggregates, "current_tier_rank")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the inverse of `from_dict`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Contract:
        """Rebuild from `to_dict`; raises TypeError on unknown or missing fields."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**fields)

    def differences(self, other: Contract) -> list[str]:
        """One line for each field in which the two differ, both values named."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{field}: {mine[field]!r} against {theirs[field]!r}" for field in mine if mine[field] != theirs[field]]
