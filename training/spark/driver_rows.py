"""Rows that the driver holds: a bounded number of forecasts, outcomes and aggregates."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core.arrays import Array
from features.core.contract import Contract
from features.core.errors import TrainingDataError
from training.inputs.column_names import AS_OF, OUTCOME_RANK, TIER_RANK, WEIGHT
from training.settings.types import Weights
from training.spark.staging import EXACT_SUM, KEY_COLUMNS, weighted

_IDS = 1 << 32
"""Number of different values of the first eight hexadecimal digits of a pseudonym."""


def tier_transitions(
    sequences: DataFrame,
    outcomes: DataFrame,
    dates: Sequence[dt.date],
    contract: Contract,
    weights: Weights,
) -> Array:
    """[K, K] float64: weight of the members who went from each current tier (row) to each outcome tier at `dates`."""
    known = sequences.where(f.col(AS_OF).isin(list(dates))).select(*KEY_COLUMNS, TIER_RANK)
    outcome = weighted(outcomes, dates, contract, weights).select(*KEY_COLUMNS, OUTCOME_RANK, WEIGHT)
    moves = known.join(outcome, on=KEY_COLUMNS, how="inner").groupBy(TIER_RANK, OUTCOME_RANK)
    found = np.zeros((len(contract.tiers), len(contract.tiers)))
    for row in moves.agg(f.sum(f.col(WEIGHT).cast(EXACT_SUM)).alias(WEIGHT)).collect():
        found[row[TIER_RANK], row[OUTCOME_RANK]] = row[WEIGHT]
    return found


def aggregate_rows(
    sequences: DataFrame,
    outcomes: DataFrame,
    dates: Sequence[dt.date],
    contract: Contract,
    max_rows: int,
    weights: Weights = "equal",
) -> pa.Table:
    """Aggregates, tier, outcome and weight of up to `max_rows` members and dates, chosen by a hash and sorted."""
    known = sequences.where(f.col(AS_OF).isin(list(dates))).select(*KEY_COLUMNS, TIER_RANK, *contract.aggregates)
    outcome = weighted(outcomes, dates, contract, weights).select(*KEY_COLUMNS, OUTCOME_RANK, WEIGHT)
    rows = (
        known.join(outcome, on=KEY_COLUMNS, how="inner").orderBy(f.xxhash64(*KEY_COLUMNS), *KEY_COLUMNS).limit(max_rows)
    )
    return rows.toArrow().sort_by([(key, "ascending") for key in KEY_COLUMNS])


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Forecasts and outcomes, ordered by member: users [n] str, probabilities [n, K], ranks [n] int64."""

    users: Array
    probabilities: Array
    current_rank: Array
    outcome_rank: Array


def collect_forecasts(scores: DataFrame, outcomes: DataFrame, contract: Contract, max_users: int) -> Forecasts:
    """Forecasts and outcomes of up to `max_users` members, chosen by a hash.

    Raises:
        TrainingDataError: no member of the scores has an outcome.
    """
    keys = ["user_id", AS_OF]
    known = scores.join(outcomes.select(*keys, OUTCOME_RANK), on=keys, how="inner")
    rows = _by_user(known.orderBy(f.xxhash64("user_id"), "user_id").limit(max_users), OUTCOME_RANK)
    if not rows.num_rows:
        raise TrainingDataError("no scored member has an outcome at this date: run build_outcomes for it first")
    probabilities, current = _by_rank(rows, contract)
    return Forecasts(
        users=rows["user_id"].to_numpy(),
        probabilities=probabilities,
        current_rank=current,
        outcome_rank=rows[OUTCOME_RANK].to_numpy().astype(np.int64),
    )


def collect_scores(scores: DataFrame, contract: Contract, members: int, max_users: int) -> tuple[Array, Array]:
    """Probabilities [n, K] and current ranks [n] of about `max_users` of the scored `members`, all if they are fewer.

    They have the lowest ids: pseudonyms are as good as random, and files of other members are not read.
    """
    if members > max_users:
        scores = scores.where(f.col("user_id") < f"{max_users * _IDS // members:08x}")
    return _by_rank(_by_user(scores), contract)


def _by_user(scores: DataFrame, *further: str) -> pa.Table:
    shown = [c for c in scores.columns if c.startswith("p_")]
    return scores.select("user_id", "current_tier", *shown, *further).toArrow().sort_by("user_id")


def _by_rank(rows: pa.Table, contract: Contract) -> tuple[Array, Array]:
    current = pa.compute.index_in(rows["current_tier"], pa.array(contract.tiers))
    probabilities = np.stack([rows[f"p_{tier}"].to_numpy() for tier in contract.tiers], axis=1)
    return probabilities, current.to_numpy().astype(np.int64)
