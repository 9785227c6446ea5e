"""Rows of `sequences` from the events and figures of many members."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa

from features.core import arrow_numbers
from features.core.arrays import Ints
from features.core.arrow_numbers import micros_to_decimal
from features.core.contract import AGE, Contract, array_column
from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.aggregates import aggregate
from features.kernel.event_histories import Cut, UserEvents
from features.kernel.run_columns import midnight
from features.kernel.tiers import MEASURES, MICROS
from features.kernel.window_figures import Totals


@dataclasses.dataclass(frozen=True)
class SequenceSpec:
    """What a row of `sequences` depends on beside the data."""

    contract: Contract
    aggregates: AggregateSpec


def arrays(events: UserEvents, cut: Cut, as_of: dt.date, contract: Contract) -> dict[str, pa.Array]:
    """The contract's array columns of a cut before `as_of`, one list per member."""
    ages = lists(pa.array((midnight(as_of) - cut.micros) // 1_000_000), cut.lengths)
    return {AGE: ages, **channel_arrays(events, cut, contract)}


def channel_arrays(events: UserEvents, cut: Cut, contract: Contract) -> dict[str, pa.Array]:
    """The array columns of the channels, without the ages."""
    found = {}
    for channel in contract.numeric:
        found[array_column(channel)] = arrow_numbers.as_arrow(events.numbers[channel].take(cut.rows))
    for channel in contract.categorical:
        found[array_column(channel)] = events.categories[channel].take(cut.rows)
    return {name: lists(values, cut.lengths) for name, values in found.items()}


def lists(values: pa.Array, lengths: Ints) -> pa.ListArray:
    """Values [m] as lists of `lengths` [n], which add up to m."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)


def standing(totals: Totals, spec: AggregateSpec) -> dict[str, pa.Array]:
    """Current tier, next tier and what is missing to it, [n] each."""
    rule, found = spec.rule, totals.measures(spec)
    rank = rule.rank(found)
    gap, which = rule.gap_to_next(found, rank)
    # Whole purchases become decimals with the same scale as money.
    scale = np.array([MICROS // MEASURES[m] for m in rule.measures])
    names, at_top = pa.array(rule.names), rank == len(rule.names) - 1
    return {
        "current_tier": names.take(pa.array(rank)),
        "current_tier_rank": pa.array(rank.astype(np.int32)),
        "next_tier": names.take(pa.array(rank + 1, mask=at_top)),
        "gap_to_next_tier": micros_to_decimal(gap * scale[which], at_top),
        "gap_measure": pa.array(rule.measures).take(pa.array(which, mask=at_top)),
    }


def build_sequences(events: UserEvents, totals: Totals, spec: SequenceSpec) -> pa.Table:
    """Rows of `sequences` for every member with an event before the totals' as-of date, ascending by user id.

    Args:
        events: of the contract's channels, at least the last ones of each member.
        totals: the same members' figures.
        spec: contract, windows and tier rule.

    Raises:
        ValueError: the members of the events are not those of the totals.
    """
    as_of, users, n = totals.as_of, totals.users, len(totals.users)
    cut, total = events.last(as_of, spec.contract.length), totals.figures["events"]
    if not cut.users.equals(users):
        raise ValueError(
            f"as of {as_of} the events have {len(cut.users)} users and the rollup {n}, or others: rebuild user_days"
        )
    columns = {
        "user_id": users,
        "as_of_date": pa.repeat(pa.scalar(as_of, pa.date32()), n),
        "length": pa.array(cut.lengths.astype(np.int32)),
        "total_events": pa.array(total),
        "truncated": pa.array(total > spec.contract.length),
        "contract_id": pa.repeat(spec.contract.id, n),
        **standing(totals, spec.aggregates),
        **arrays(events, cut, as_of, spec.contract),
        **aggregate(totals, spec.aggregates),
    }
    return pa.table(columns)
