"""Labelled aggregates in the form that the challengers take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.core.arrays import Floats, Ranks
from features.core.contract import Contract
from training.inputs.column_names import OUTCOME_RANK, TIER_RANK, WEIGHT, column
from training.inputs.tensors import aggregate_values

Fitted = Callable[[Floats], Floats]
"""From inputs [n, A + K] to probabilities [n, K]."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Members at some dates: inputs [n, A + K]; outcome ranks, weights (1 on average) and user ids, [n] each."""

    inputs: Floats
    outcome: Ranks
    weight: Floats
    user: npt.NDArray[Any]

    @classmethod
    def of(cls, rows: pa.Table, contract: Contract) -> Rows:
        """From `training.spark.driver_rows.aggregate_rows`."""
        weight = rows[WEIGHT].to_numpy()
        return cls(
            inputs_of(rows, contract),
            rows[OUTCOME_RANK].to_numpy().astype(np.int64),
            weight / weight.mean() if len(weight) else weight,
            rows["user_id"].to_numpy(),
        )

    def at(self, rows: npt.NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(*(values[rows] for values in vars(self).values()))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is forecast, and how much time may be spent on it.

    Attributes:
        contract: what the inputs are, and the tiers.
        purchase_type: the event type whose amounts are spend.
        trials: shapes of LightGBM's trees that are tried.
        seed: seed of all random numbers.
        learned: rows of the last fit, after the validation rows have chosen the size; None: the training rows.
    """

    contract: Contract
    purchase_type: str
    trials: int
    seed: int
    learned: Rows | None = None

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.contract.tiers)

    def aggregates(self, inputs: Floats) -> dict[str, Floats]:
        """The aggregates of `sequences`, to six digits, by name: [n] each, NaN where null."""
        values = np.copysign(np.expm1(np.abs(inputs)), inputs)
        return {name: values[:, place] for place, name in enumerate(self.contract.aggregates)}


def inputs_of(rows: pa.Table, contract: Contract) -> Floats:
    """[n, A + K]: the signed logarithm of each aggregate, NaN where it is null, and the current tier one-hot."""
    aggregates = [aggregate_values(rows, name) for name in contract.aggregates]
    tier = np.eye(len(contract.tiers))[column(rows, TIER_RANK).to_numpy(zero_copy_only=False)]
    return np.concatenate([np.stack(aggregates, axis=1), tier], axis=1)
