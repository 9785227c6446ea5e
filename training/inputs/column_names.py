"""Names of the columns that training and scoring read beside those of the contract."""

from __future__ import annotations

import pyarrow as pa

from features.core.contract import AGE, Contract, array_column

OUTCOME_RANK, OUTCOME_VALUE, WEIGHT = "outcome_tier_rank", "outcome_value", "weight"

MEMBER = "member"
"""Column and tensor: a hash of the user, equal for the rows of one member at all dates."""
NO_OUTCOME = -1
"""Outcome rank of a row without one."""

AS_OF = "as_of_date"
TIER_RANK = "current_tier_rank"


def required_columns(contract: Contract) -> tuple[str, ...]:
    """Columns that tensors are made from, see `training.inputs.tensors.Encoded.of`."""
    return (*contract.input_columns, AS_OF)


def input_schema(contract: Contract) -> pa.Schema:
    """Arrow types of `required_columns`."""
    types = {AGE: pa.list_(pa.int64()), TIER_RANK: pa.int32(), AS_OF: pa.date32()}
    types |= {array_column(c): pa.list_(pa.float32()) for c in contract.numeric}
    types |= {array_column(c): pa.list_(pa.string()) for c in contract.categorical}
    types |= dict.fromkeys(contract.aggregates, pa.float64())
    return pa.schema([(name, types[name]) for name in required_columns(contract)])


def column(rows: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    """A column as one contiguous array."""
    found = rows.column(name)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
