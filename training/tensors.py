"""The one way from rows of `sequences` to padded arrays, in training and in scoring. Pure, no loop over users.

Events stand on the left, oldest first, and padding follows them. A recurrent network can therefore run without a mask
(no padding precedes an event) and leave padding out where it pools.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.contract import AGE, Contract, array_column

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

AS_OF = "as_of_date"
TIER_RANK = "current_tier_rank"
PADDING, UNKNOWN, FIRST_CODE = 0, 1, 2
TIME_CHANNELS = ("age", "gap", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
"""Channels of every event that follow from its age and the as-of date."""

_DAY = 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday being 0


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean, standard deviation (1 for a constant), least and greatest value of a channel after its logarithm.

    What lies outside the range of the training rows counts as its end: a network cannot know what a tenure means that
    none of them had, and one absurd amount must not drown a forecast.
    """

    mean: float
    deviation: float
    least: float
    greatest: float

    def apply(self, values: Array) -> Array:
        """Normalised float32 values of the same shape, 0 for missing ones (NaN)."""
        scaled = (np.clip(values, self.least, self.greatest) - self.mean) / self.deviation
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the inverse of `from_dict`."""
        return {
            "vocabulary": {channel: list(values) for channel, values in self.vocabulary.items()},
            "channels": {name: list(dataclasses.astuple(s)) for name, s in self.channels.items()},
            "aggregates": {name: list(dataclasses.astuple(s)) for name, s in self.aggregates.items()},
            "indicated": list(self.indicated),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Encoding:
        """Rebuild from `to_dict`; raises KeyError on a missing field."""
        return cls(
            vocabulary={channel: tuple(values) for channel, values in stored["vocabulary"].items()},
            channels={name: Scale(*numbers) for name, numbers in stored["channels"].items()},
            aggregates={name: Scale(*numbers) for name, numbers in stored["aggregates"].items()},
            indicated=tuple(stored["indicated"]),
        )


def required_columns(contract: Contract) -> tuple[str, ...]:
    """Columns that `to_tensors` reads."""
    return (*contract.input_columns, AS_OF)


def input_schema(contract: Contract) -> pa.Schema:
    """Arrow types of `required_columns`."""
    types = {AGE: pa.list_(pa.int64()), TIER_RANK: pa.int32(), AS_OF: pa.date32()}
    types |= {array_column(c): pa.list_(pa.float32()) for c in contract.numeric}
    types |= {array_column(c): pa.list_(pa.string()) for c in contract.categorical}
    types |= dict.fromkeys(contract.aggregates, pa.float64())
    return pa.schema([(name, types[name]) for name in required_columns(contract)])


def signed_log(values: Array) -> Array:
    """sign(x) * log(1 + |x|) in float64: tames money and counts alike, and is defined for refunds."""
    wide = np.asarray(values, np.float64)
    return np.sign(wide) * np.log1p(np.abs(wide))


def to_tensors(
    rows: pa.Table | pa.RecordBatch, contract: Contract, encoding: Encoding, width: int, trim: int | None = None
) -> Tensors:
    """Padded arrays of n rows of `sequences`.

    Args:
        rows: at least `required_columns` of the contract, with the types of `input_schema`.
        contract: what the columns mean.
        encoding: vocabulary and normalisation.
        width: W, the newest events that are kept and the padded length.
        trim: cut W to the longest row, rounded up to a multiple of this.

    Returns:
        `channels` [n, W, C] float32, `codes` [n, W, Q] int32 (0 padding, 1 unknown or null), `mask` [n, W] bool (True
        for an event), `aggregates` [n, A] float32 (values, then null indicators), `tier` [n, K] float32 (one-hot).

    Raises:
        ValueError: an array is longer than the contract's length, or arrays of a row differ in length.
    """
    encoded = Encoded.of(rows, contract, encoding)
    if trim is not None:
        longest = int(encoded.lengths.max(initial=0))
        width = min(width, trim * max(1, -(-longest // trim)))
    return encoded.padded(np.arange(rows.num_rows), width)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Rows of `sequences` as numbers, not yet padded, so that any of them can be put together at any width.

    Attributes:
        lengths: [n] events of each row.
        channels: [events, C] float32, row after row, oldest first.
        codes: [events, Q] int32.
        aggregates: [n, A] float32.
        tier: [n, K] float32.
    """

    lengths: npt.NDArray[np.int64]
    channels: Array
    codes: Array
    aggregates: Array
    tier: Array

    @classmethod
    def of(cls, rows: pa.Table | pa.RecordBatch, contract: Contract, encoding: Encoding) -> Encoded:
        """Encode rows; see `to_tensors`."""
        events = _Events.of(rows, contract)
        ranks = column(rows, TIER_RANK).to_numpy(zero_copy_only=False)
        return cls(
            events.lengths,
            _event_channels(events, contract, encoding),
            _event_codes(events, encoding),
            aggregate_inputs(rows, contract, encoding),
            np.eye(len(contract.tiers), dtype=np.float32)[ranks],
        )

    def padded(self, members: npt.NDArray[np.int64], width: int, rows: int | None = None) -> Tensors:
        """The tensors of some rows, see `to_tensors`, filled up with empty rows to `rows`."""
        kept = np.minimum(self.lengths[members], width)
        ends = np.cumsum(self.lengths)[members]
        total = np.cumsum(kept)
        newest = np.arange(total[-1] if len(total) else 0) + np.repeat(ends - total, kept)
        n = len(members) if rows is None else rows
        mask = np.zeros((n, width), bool)
        mask[: len(members)] = np.arange(width)[None, :] < kept[:, None]
        channels = np.zeros((n, width, self.channels.shape[1]), np.float32)
        channels[mask] = self.channels[newest]
        codes = np.zeros((n, width, self.codes.shape[1]), np.int32)
        codes[mask] = self.codes[newest]
        return {
            "channels": channels,
            "codes": codes,
            "mask": mask,
            "aggregates": _filled(self.aggregates[members], n),
            "tier": _filled(self.tier[members], n),
        }


def _filled(values: Array, rows: int) -> Array:
    return values if len(values) == rows else np.pad(values, [(0, rows - len(values)), (0, 0)])


def column(rows: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    """A column as one contiguous array."""
    found = rows.column(name)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def numeric_events(rows: pa.Table | pa.RecordBatch, contract: Contract) -> dict[str, Array]:
    """Age, gap and numeric channels of all events of all rows, one after the other, after their logarithm.

    Float64 [events] each, NaN where an event has no value. These are the values that `Encoding.channels` scales.
    """
    return _logged(_Events.of(rows, contract), contract)


def aggregate_inputs(rows: pa.Table | pa.RecordBatch, contract: Contract, encoding: Encoding) -> Array:
    """[n, A] float32: normalised aggregates, 0 where null, then 1.0 for each indicated aggregate that is null."""
    if not contract.aggregates:
        return np.zeros((rows.num_rows, 0), np.float32)
    raw = {name: aggregate_values(rows, name) for name in contract.aggregates}
    scaled = [encoding.aggregates[name].apply(values) for name, values in raw.items()]
    missing = [np.isnan(raw[name]).astype(np.float32) for name in encoding.indicated]
    return np.stack([*scaled, *missing], axis=1)


def aggregate_values(rows: pa.Table | pa.RecordBatch, name: str) -> Array:
    """[n] float64 signed logarithm of an aggregate, NaN where it is null or not finite."""
    values = column(rows, name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return signed_log(np.where(np.isfinite(values), values, np.nan))


@dataclasses.dataclass(frozen=True)
class _Events:
    """All events of n rows, one after the other.

    `lengths` [n]; `flat` maps array columns to Arrow arrays [events]; `day` [events] is the as-of day since 1970.
    """

    lengths: npt.NDArray[np.int64]
    flat: Mapping[str, pa.Array]
    day: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: pa.Table | pa.RecordBatch, contract: Contract) -> _Events:
        lists = {name: column(rows, name) for name in contract.array_columns}
        lengths = {name: _lengths(lists[name]) for name in lists}
        for name, found in lengths.items():
            if not np.array_equal(found, lengths[AGE]):
                at = int(np.flatnonzero(found != lengths[AGE])[0])
                raise ValueError(f"row {at}: {name} has {found[at]} events and {AGE} has {lengths[AGE][at]}")
        longest = int(lengths[AGE].max(initial=0))
        if longest > contract.length:
            raise ValueError(f"a sequence has {longest} events, more than the contract's length {contract.length}")
        days = column(rows, AS_OF).cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = {name: values.flatten() for name, values in lists.items()}
        return cls(lengths[AGE], flat, np.repeat(days, lengths[AGE]))

    def first(self) -> npt.NDArray[np.int64]:
        """Index of the first event of each row that has one."""
        return cast(npt.NDArray[np.int64], (np.cumsum(self.lengths) - self.lengths)[self.lengths > 0])


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    # A null list counts as an empty one.
    return cast(npt.NDArray[np.int64], pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64))


def _logged(events: _Events, contract: Contract) -> dict[str, Array]:
    age = _ages(events)
    gap = np.maximum(-np.diff(age, prepend=age[:1]), 0.0)
    gap[events.first()] = 0.0
    found = {"age": np.log1p(age / _DAY), "gap": np.log1p(gap / _DAY)}
    for channel in contract.numeric:
        raw = events.flat[array_column(channel)].cast(pa.float64()).to_numpy(zero_copy_only=False)
        found[channel] = signed_log(np.where(np.isfinite(raw), raw, np.nan))
    return found


def _ages(events: _Events) -> Array:
    ages = events.flat[AGE].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return np.maximum(ages, 0).astype(np.float64)


def _event_channels(events: _Events, contract: Contract, encoding: Encoding) -> Array:
    logged = {name: encoding.channels[name].apply(values) for name, values in _logged(events, contract).items()}
    # The as-of instant is midnight UTC, so age alone gives the time of day.
    instants = events.day * _DAY - _ages(events)
    week = 2 * np.pi * ((instants / _DAY + _EPOCH_WEEKDAY) % 7) / 7
    hour = 2 * np.pi * (instants % _DAY) / _DAY
    periodic = [wave(phase) for phase in (week, hour) for wave in (np.sin, np.cos)]
    ordered = [logged.pop("age"), logged.pop("gap"), *periodic, *logged.values()]
    return np.stack([values.astype(np.float32) for values in ordered], axis=1)


def _event_codes(events: _Events, encoding: Encoding) -> Array:
    coded = [
        pc.index_in(events.flat[array_column(channel)], pa.array(values, pa.string()))
        .fill_null(UNKNOWN - FIRST_CODE)
        .to_numpy(zero_copy_only=False)
        for channel, values in encoding.vocabulary.items()
    ]
    if not coded:
        return np.zeros((len(events.day), 0), np.int32)
    return np.stack(coded, axis=1).astype(np.int32) + FIRST_CODE
