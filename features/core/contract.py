"""The contract between the `sequences` table and every model: which arrays and aggregates, how long, which tiers.

It follows from the settings. Each row of `sequences` carries its id and each bundle holds all of it, so that a model
never reads rows of another shape than it was trained on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

AGE = "seq_age"
"""Array column of ages: whole seconds from each event to the as-of instant. The oldest event comes first."""

FORMAT = 1
"""To be raised when a column's meaning changes and no field of the contract does."""

TARGET = r"^(inactive|tier_[1-9][0-9]{0,4}d)$"
"""Names of further outcomes: `tier_30d` is the tier after 30 days, `inactive` whether the horizon has no event."""

INACTIVE = "inactive"

VALUE = "value"
"""Name of a further output of a network: the logarithm of the outcome value."""


def tier_days(target: str) -> int | None:
    """Days after the as-of date of a target that is a tier; None for another target."""
    return None if target == INACTIVE else int(re.sub(r"\D", "", target))


def outcome_column(target: str) -> str:
    """Name of the `outcomes` column of a target."""
    days = tier_days(target)
    return f"outcome_{target}" if days is None else f"outcome_tier_rank_{days}d"


def score_columns(output: str, tiers: Sequence[str]) -> dict[str, str]:
    """Columns of `scores`, with their comments, for a further output of a network: `value`, or a target."""
    if output == VALUE:
        return {"expected_value": "forecast of the spend in the outcome window, from that of its logarithm"}
    days = tier_days(output)
    if days is None:
        return {f"p_{output}": "probability that nothing happens in the outcome window, not calibrated"}
    after = "days after the as-of date"
    return {
        f"p_{tier}_{days}d": f"probability that the tier is {tier} {days} {after}, not calibrated" for tier in tiers
    }


def array_column(channel: str) -> str:
    """Name of the `sequences` column that holds a channel's array."""
    return f"seq_{channel}"


@dataclasses.dataclass(frozen=True)
class Contract:
    """Shape and meaning of a row of `sequences`.

    Attributes:
        length: L, the largest number of events in an array.
        numeric: channels stored as `array<float>`, null where the event has no value.
        categorical: channels stored as `array<string>`, null where the event has no value.
        aggregates: flat `double` columns, null where undefined, such as the gap before a second purchase.
        tiers: tier names, lowest first; a tier's rank is its place here.
        tier_rule: canonical JSON of the rule, thresholds and window.
        horizon_days: days of the outcome window that starts at the as-of date.
        known_by: `event_time` or `ingested_at`: which of an event's times tells whether it was known at a date.
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
        """Form for JSON, the inverse of `from_dict`.

        Written by hand, as workers load this module: pydantic would cost each of them 80 ms.
        """
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
