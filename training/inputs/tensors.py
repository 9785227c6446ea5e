"""The one way from rows of `sequences` to padded arrays, in training and in scoring: `Encoded.of`, then `padded`.

It is pure and has no loop over members. Events stand on the left, oldest first, and padding follows them. So a
recurrent network needs no mask while it runs (no padding precedes an event), and leaves out padding where it pools.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.core import arrow_numbers
from features.core.arrays import Array
from features.core.contract import AGE, Contract, array_column
from training.inputs.column_names import AS_OF, TIER_RANK, column
from training.inputs.encoding import FIRST_CODE, PADDING, TIME_CHANNELS, UNKNOWN, Encoding, signed_log

Tensors = dict[str, Array]

_DAY, _WEEK = 86_400, 604_800  # seconds
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday being 0


def trimmed(width: int, lengths: npt.NDArray[np.int64], trim: int | None) -> int:
    """The width for rows of these lengths: the longest, rounded up to a multiple of `trim`; `width` without `trim`."""
    if trim is None:
        return width
    return min(width, trim * max(1, -(-int(lengths.max(initial=0)) // trim)))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Rows of `sequences` as numbers that are not padded yet: any of them can share a batch of any width.

    Attributes:
        lengths: [n] events of each row.
        channels: [events + 1, C] float32, row after row, oldest first; then zeros, which padding is taken from.
        codes: [events + 1, Q] int32.
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
        """Encode n rows of `sequences`.

        Args:
            rows: at least `required_columns` of the contract, with the types of `input_schema`. Categories may be
                dictionaries, which are looked up once per word.
            contract: what the columns mean.
            encoding: vocabulary and normalisation.

        Raises:
            ValueError: an array is longer than the contract's length, or arrays of a row differ in length.
        """
        batches = [rows] if isinstance(rows, pa.RecordBatch) else _whole_batches(rows, contract)
        events = [_Events.of(batch, contract) for batch in batches]
        count = sum(len(e.day) for e in events)
        channels = np.empty((count + 1, len(TIME_CHANNELS) + len(contract.numeric)), np.float32)
        codes = np.empty((count + 1, len(encoding.vocabulary)), np.int32)
        channels[count], codes[count] = 0, PADDING
        begin = 0
        for part in events:
            end = begin + len(part.day)
            _fill_channels(channels[begin:end], part, contract, encoding)
            _fill_codes(codes[begin:end], part, encoding)
            begin = end
        tiers = np.eye(len(contract.tiers), dtype=np.float32)
        return cls(
            np.concatenate([e.lengths for e in events]),
            channels,
            codes,
            np.concatenate([aggregate_inputs(batch, contract, encoding) for batch in batches]),
            np.concatenate([tiers[column(batch, TIER_RANK).to_numpy(zero_copy_only=False)] for batch in batches]),
        )

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """The rows of all parts, one after the other."""
        *others, last = parts
        if not others:
            return last
        return cls(
            np.concatenate([p.lengths for p in parts]),
            np.concatenate([*(p.channels[:-1] for p in others), last.channels]),
            np.concatenate([*(p.codes[:-1] for p in others), last.codes]),
            np.concatenate([p.aggregates for p in parts]),
            np.concatenate([p.tier for p in parts]),
        )

    @functools.cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """[n] index after the last event of each row."""
        return np.cumsum(self.lengths)

    def padded(self, members: npt.NDArray[np.int64], width: int, rows: int | None = None) -> Tensors:
        """Padded arrays of some rows.

        Args:
            members: places of the m rows.
            width: W, the newest events that are kept and the padded length.
            rows: n, the rows of the arrays, of which the last n - m are empty; None: m.

        Returns:
            `channels` [n, W, C] float32, `codes` [n, W, Q] int32 (0 padding, 1 unknown or null), `mask` [n, W] bool
            (True for an event), `aggregates` [n, A] float32 (values, then null indicators), `tier` [n, K] float32
            (one-hot).
        """
        n = len(members) if rows is None else rows
        kept, first = np.zeros((2, n, 1), np.int64)
        kept[: len(members), 0] = np.minimum(self.lengths[members], width)
        first[: len(members), 0] = self._ends[members]
        first -= kept
        step = np.arange(width)[None, :]
        mask = step < kept
        place = np.where(mask, first + step, len(self.channels) - 1)
        return {
            "channels": self.channels.take(place, axis=0),
            "codes": self.codes.take(place, axis=0),
            "mask": mask,
            "aggregates": _filled(self.aggregates[members], n),
            "tier": _filled(self.tier[members], n),
        }


def _whole_batches(rows: pa.Table, contract: Contract) -> list[pa.RecordBatch]:
    """The rows in as few batches as possible: batches with dictionaries inside arrays cannot be joined."""
    kinds = [rows.schema.field(array_column(channel)).type.value_type for channel in contract.categorical]
    whole = rows if any(pa.types.is_dictionary(kind) for kind in kinds) else rows.combine_chunks()
    return whole.to_batches() or [pa.RecordBatch.from_pylist([], schema=rows.schema)]


def _filled(values: Array, rows: int) -> Array:
    return values if len(values) == rows else np.pad(values, [(0, rows - len(values)), (0, 0)])


def numeric_events(rows: pa.Table | pa.RecordBatch, contract: Contract) -> dict[str, Array]:
    """Age, gap and numeric channels of all events of all rows, one after the other, after their logarithm.

    Float32 [events] each, NaN where an event has no value. These are the values that `Encoding.channels` scales.
    """
    return _logged(_Events.of(rows, contract), contract)


def aggregate_inputs(rows: pa.Table | pa.RecordBatch, contract: Contract, encoding: Encoding) -> Array:
    """[n, A] float32: normalised aggregates, 0 where null, then 1.0 for each indicated aggregate that is null."""
    if not contract.aggregates:
        return np.zeros((rows.num_rows, 0), np.float32)
    raw = {name: aggregate_values(rows, name) for name in contract.aggregates}
    scaled = [encoding.aggregates[name].apply(values) for name, values in raw.items()]
    missing = [np.isnan(raw[name]).astype(np.float32) for name in encoding.indicated]
    return np.ascontiguousarray(np.array([*scaled, *missing]).T)  # a fifth of the time of np.stack(axis=1)


def aggregate_values(rows: pa.Table | pa.RecordBatch, name: str) -> Array:
    """[n] float32 signed logarithm of an aggregate, NaN where it is null or not finite."""
    return signed_log(arrow_numbers.from_arrow(column(rows, name).cast(pa.float64())))


@dataclasses.dataclass(frozen=True)
class _Events:
    """All events of n rows, one after the other.

    `lengths` [n]; `flat` maps array columns to Arrow arrays [events]; `age` [events] seconds before the as-of instant;
    `day` [events] the as-of day since 1970.
    """

    lengths: npt.NDArray[np.int64]
    flat: Mapping[str, pa.Array]
    age: npt.NDArray[np.int64]
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
        ages = flat[AGE].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return cls(lengths[AGE], flat, np.maximum(ages, 0), np.repeat(days, lengths[AGE]))

    def first(self) -> npt.NDArray[np.int64]:
        """Index of the first event of each row that has one."""
        return cast(npt.NDArray[np.int64], (np.cumsum(self.lengths) - self.lengths)[self.lengths > 0])


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    # A null list counts as an empty one.
    return cast(npt.NDArray[np.int64], pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64))


def _logged(events: _Events, contract: Contract) -> dict[str, Array]:
    gap = np.zeros_like(events.age)
    np.subtract(events.age[:-1], events.age[1:], out=gap[1:])
    gap[events.first()] = 0
    found = {"age": _logged_days(events.age), "gap": _logged_days(np.maximum(gap, 0, out=gap))}
    for channel in contract.numeric:
        found[channel] = signed_log(arrow_numbers.from_arrow(events.flat[array_column(channel)].cast(pa.float32())))
    return found


def _logged_days(seconds: npt.NDArray[np.int64]) -> Array:
    days = np.multiply(seconds, 1 / _DAY, dtype=np.float32, casting="unsafe")
    return np.asarray(np.log1p(days, out=days))


def _fill_channels(found: Array, events: _Events, contract: Contract, encoding: Encoding) -> None:
    """Write the channels of all events into `found` [events, C]."""
    by_channel = np.empty(
        found.T.shape, np.float32
    )  # writing these rows and transposing is faster than writing columns
    logged = _logged(events, contract)
    for place, name in enumerate(["age", "gap", *[None] * 4, *contract.numeric]):
        if name is not None:
            by_channel[place] = encoding.channels[name].apply(logged[name])
    # The as-of instant is midnight UTC, so age alone gives the time of day; whole seconds lose nothing to rounding.
    since_monday = (events.day + _EPOCH_WEEKDAY) * _DAY - events.age
    for place, turn in ((2, _WEEK), (4, _DAY)):
        since_monday -= since_monday // turn * turn
        phase = np.multiply(since_monday, 2 * np.pi / turn, dtype=np.float32, casting="unsafe")
        np.sin(phase, out=by_channel[place])
        np.cos(phase, out=by_channel[place + 1])
    found[:] = by_channel.T


def _fill_codes(found: Array, events: _Events, encoding: Encoding) -> None:
    """Write the codes of all events into `found` [events, Q]."""
    for place, (channel, values) in enumerate(encoding.vocabulary.items()):
        found[:, place] = _coded(events.flat[array_column(channel)], pa.array(values, pa.string()))


def _coded(words: pa.Array, vocabulary: pa.Array) -> Array:
    """The code of each word; a dictionary's words are looked up once."""
    if not pa.types.is_dictionary(words.type):
        found = pc.index_in(words, vocabulary).fill_null(UNKNOWN - FIRST_CODE).to_numpy(zero_copy_only=False)
        return np.asarray(found + FIRST_CODE)
    of_word = np.append(_coded(words.dictionary, vocabulary), UNKNOWN)  # the last one is for null
    return of_word.take(words.indices.fill_null(len(words.dictionary)).to_numpy(zero_copy_only=False))
