"""The pure kernel: events and rollup days of many users in, rows of `sequences` out. No Spark."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.aggregates import DAY_MICROS, EPOCH, AggregateSpec, UserDays, aggregate, run_codes
from features.contract import AGE, Contract, array_column
from features.tiers import MEASURES, MICROS, Ints

TOTAL_ORDER = [("user_id", "ascending"), ("event_time", "ascending"), ("event_id", "ascending")]
"""Events of one instant are ordered by their ids, so that the arrangement of the input never matters."""

GAP_TYPE = pa.decimal128(28, 6)


@dataclasses.dataclass(frozen=True)
class SequenceSpec:
    """Everything that a row of `sequences` depends on beside the data."""

    contract: Contract
    aggregates: AggregateSpec


def cut_to_last(events: pa.Table, length: int) -> pa.Table:
    """The last `length` events of each user by the total order, sorted by it.

    Cutting twice, or cutting parts and then the whole, gives the same as cutting once.
    """
    events = events.sort_by(TOTAL_ORDER)
    starts, ends = _bounds(run_codes(events["user_id"].combine_chunks()))
    kept = np.minimum(ends - starts, length)
    return events.take(pa.array(_ranges(ends - kept, kept)))


def last_events(events: pa.Table, as_of: dt.date, contract: Contract) -> pa.Table:
    """One row per user, ascending: `user_id`, `length` and the contract's arrays of the events before `as_of`.

    Args:
        events: `user_id`, `event_id`, `event_time` (timestamp in microseconds, UTC) and the contract's channels.
        as_of: events at or after this date's midnight UTC are left out.
        contract: channels and length.
    """
    instant = (as_of - EPOCH).days * DAY_MICROS
    micros = events["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    events = cut_to_last(events.filter(pc.less(micros, instant)), contract.length)
    users = events["user_id"].combine_chunks()
    starts, ends = _bounds(run_codes(users))
    offsets = pa.array(np.append(starts, len(users)).astype(np.int32))
    times = events["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    arrays = {AGE: pa.array((instant - times) // 1_000_000)}
    for channel in contract.numeric:
        arrays[array_column(channel)] = events[channel].combine_chunks().cast(pa.float64()).cast(pa.float32())
    for channel in contract.categorical:
        arrays[array_column(channel)] = events[channel].combine_chunks().cast(pa.string())
    return pa.table(
        {
            "user_id": users.take(pa.array(starts)),
            "length": pa.array((ends - starts).astype(np.int32)),
            **{name: pa.ListArray.from_arrays(offsets, values) for name, values in arrays.items()},
        }
    )


def standing(days: UserDays, spec: AggregateSpec) -> dict[str, pa.Array]:
    """Current tier, next tier and what is missing to it, [n] each."""
    rule, measures = spec.rule, days.measures(spec)
    rank = rule.rank(measures)
    gap, which = rule.gap_to_next(measures, rank)
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


def build_sequences(events: pa.Table, days: pa.Table, as_of: dt.date, spec: SequenceSpec) -> pa.Table:
    """Rows of `sequences` for every user with a rollup day before `as_of`, ascending by user id.

    Args:
        events: see `last_events`; may be cut to the last L of each user already.
        days: see `UserDays.from_table`.
        as_of: the as-of date.
        spec: contract, windows and tier rule.

    Raises:
        ValueError: the users of the events are not the users of the days.
    """
    grouped = UserDays.from_table(days, as_of)
    found = last_events(events, as_of, spec.contract)
    if not found["user_id"].combine_chunks().equals(grouped.users):
        raise ValueError(
            f"as of {as_of} the events have {found.num_rows} users and the rollup {len(grouped.users)}, or others: "
            "rebuild user_days"
        )
    total = grouped.total("events").astype(np.int64)
    n = len(grouped.users)
    columns = {
        "user_id": grouped.users,
        "as_of_date": pa.repeat(pa.scalar(as_of, pa.date32()), n),
        "length": found["length"],
        "total_events": pa.array(total),
        "truncated": pa.array(total > spec.contract.length),
        "contract_id": pa.repeat(spec.contract.id, n),
        **standing(grouped, spec.aggregates),
        **{name: found[name] for name in spec.contract.array_columns},
        **aggregate(grouped, spec.aggregates),
    }
    return pa.table(columns)


def micros_to_decimal(micros: Ints, missing: np.ndarray) -> pa.Array:
    """Micro-units as decimal(28, 6), exactly, null where `missing`."""
    words = np.stack([micros, np.where(micros < 0, -1, 0)], axis=1)  # little-endian 128-bit two's complement
    buffer = pa.py_buffer(np.ascontiguousarray(words))
    exact = pa.Array.from_buffers(GAP_TYPE, len(micros), [None, buffer])
    return pc.if_else(pa.array(~missing), exact, pa.scalar(None, GAP_TYPE))


def _bounds(codes: Ints) -> tuple[Ints, Ints]:
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return starts, np.append(starts[1:], len(codes)) if len(starts) else starts


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The concatenation of starts[i] .. starts[i] + lengths[i] - 1."""
    shifts = np.repeat(starts - np.append(0, np.cumsum(lengths)[:-1]), lengths) if len(starts) else starts
    return np.arange(len(shifts)) + shifts
