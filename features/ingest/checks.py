"""Checks of single rows: which source rows are events, which are refused and why. No Spark.

Spark has run the source's query and cast its columns, see `features.ingest.typed_rows.typed`. Rows are checked here in
batches, in a worker; raw ids become pseudonyms here and go no further.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.core.arrays import Flags
from features.ingest.content_hash import xxhash64
from features.ingest.pseudonyms import of_ids

IDS = ("event_id", "user_id")
REASONS = "reasons"
MONEY = pa.decimal128(18, 6)
_TIME = pa.timestamp("us", "UTC")
_REASONS = pa.list_(pa.field("element", pa.string(), nullable=False))
# Spark's casts accept too much: 12d and 0x1p3 as numbers, 10:30 as a time of the day on which it is read.
_NUMBER = r"(?i)^[ \t\n\x0b\f\r]*[+-]?([\d.]+(e[+-]?\d+)?|nan|inf(inity)?)[ \t\n\x0b\f\r]*$"
_NO_DATE = r"^[ \t\n\x0b\f\r]*T?\d{1,2}:"
_YEAR_1 = dt.datetime(1, 1, 1, tzinfo=dt.UTC)  # Delta's partitions have no earlier dates


def cast_of(name: str) -> str:
    """Name of the column that holds Spark's cast of a source column."""
    return f"cast {name}"


MONEY_CAST, DECIMAL_CAST = cast_of("amount"), cast_of("amount, exact")
"""The amount as a double, which shows if it is no number, infinite or too large; and as the decimal that is kept."""


def raw(name: str) -> str:
    """Name of a source column as it was, where `events` has a cast under its own name."""
    return f"raw {name}"


def is_raw(column: str) -> bool:
    """Whether a column's name is one of `raw`; names of attributes have no blanks."""
    return column.startswith(raw(""))


@dataclasses.dataclass(frozen=True, repr=False)
class Checks:
    """What rows are checked against. It holds the pseudonym key, so it has no `repr`.

    Attributes:
        types: event types that are accepted.
        purchase_type: the event type that needs an amount.
        largest_amount: outlier bound of an amount.
        clip: whether larger amounts are cut to the bound; else their rows are refused.
        now: the run's clock, aware; becomes `ingested_at`.
        latest: later times lie in the future.
        attributes: `numeric` or `categorical` by name.
        columns: columns of the source's query, in its order.
        key: pseudonym key.
    """

    types: Sequence[str]
    purchase_type: str
    largest_amount: Decimal
    clip: bool
    now: dt.datetime
    latest: dt.datetime
    attributes: Mapping[str, str]
    columns: Sequence[str]
    key: bytes

    @property
    def content(self) -> list[str]:
        """The columns that make two rows of one event id the same event."""
        return ["user_id", "event_time", "event_type", "amount", "clipped_at", *self.attributes]


def check(rows: pa.RecordBatch, by: Checks) -> pa.RecordBatch:
    """Rows with the columns of `events`, `reasons` to refuse them, and the source columns for `rejections`.

    Args:
        rows: the source's columns and, where `events` has another type, their casts.
        by: what they are checked against.
    """
    ids = {name: of_ids(rows[name], by.key) for name in IDS}
    time, money = _time(rows), _number(rows, "amount")
    reasons = _reasons(rows, ids, time, money, by)
    amount, clipped_at = _amount(rows, reasons, by)
    found = {
        **ids,
        "event_time": time,
        "event_type": rows["event_type"],
        "amount": amount,
        "clipped_at": clipped_at,
        **{name: _attribute(rows, name, kind) for name, kind in by.attributes.items()},
    }
    parts = [part for name in by.content for part in (found[name], found[name].is_null())]
    return pa.record_batch(
        {
            **found,
            "content_hash": pa.array(xxhash64(parts, rows.num_rows)),
            "ingested_at": pa.repeat(pa.scalar(by.now, _TIME), rows.num_rows),
            "event_date": time.cast(pa.date32()),
            REASONS: reasons,
            **{raw(name): rows[name] for name in by.columns if cast_of(name) in rows.schema.names},
        }
    )


def _time(rows: pa.RecordBatch) -> pa.Array:
    given, time = rows["event_time"], rows[cast_of("event_time")]
    usable = pc.greater_equal(time, pa.scalar(_YEAR_1, time.type))
    if pa.types.is_string(given.type):
        usable = pc.and_(usable, pc.invert(pc.match_substring_regex(given, _NO_DATE)))
    return pc.if_else(usable, time, None)


def _number(rows: pa.RecordBatch, name: str) -> pa.Array:
    """A column as doubles, null where it is no number."""
    given, number = rows[name], rows[cast_of(name)]
    if not pa.types.is_string(given.type):
        return number
    return pc.if_else(pc.match_substring_regex(given, _NUMBER), number, None)


def _attribute(rows: pa.RecordBatch, name: str, kind: str) -> pa.Array:
    if kind == "numeric":
        number = _number(rows, name)
        return pc.if_else(pc.is_finite(number), number, None)
    return rows[cast_of(name)] if cast_of(name) in rows.schema.names else rows[name]


def _reasons(
    rows: pa.RecordBatch, ids: Mapping[str, pa.Array], time: pa.Array, money: pa.Array, by: Checks
) -> pa.ListArray:
    """[n] every reason to refuse each row."""
    given, dated, known = (
        _has(rows["amount"]),
        _has(rows["event_time"]),
        pc.is_in(rows["event_type"], pa.array(by.types)),
    )
    number, value = _has(money), money.fill_null(0).to_numpy()
    finite = number & np.isfinite(value)
    conditions = {
        "missing_user": ~_has(ids["user_id"]),
        "missing_event_id": ~_has(ids["event_id"]),
        "missing_time": ~dated,
        "unparseable_time": dated & ~_has(time),
        "time_in_future": _flags(pc.greater(time, pa.scalar(by.latest, _TIME))),
        "unknown_event_type": ~_flags(known),
        "purchase_without_amount": _flags(pc.equal(rows["event_type"], by.purchase_type)) & ~given,
        "unparseable_amount": given & ~number,
        "non_finite_amount": number & ~finite,
        "negative_amount": finite & (value < 0),
    }
    if not by.clip:
        conditions["amount_beyond_bound"] = finite & (value > float(by.largest_amount))
    return _lists(conditions)


def _lists(conditions: Mapping[str, Flags]) -> pa.ListArray:
    """[n] the names of the conditions that hold."""
    holds = np.stack(list(conditions.values()), axis=1)
    offsets = np.concatenate([[0], np.cumsum(holds.sum(axis=1))]).astype(np.int32)
    names = pa.array(list(conditions)).take(pa.array(np.nonzero(holds)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names, type=_REASONS)


def _amount(rows: pa.RecordBatch, reasons: pa.ListArray, by: Checks) -> tuple[pa.Array, pa.Array]:
    """[n] the amount that is kept, and [n] the bound where it was cut to it, else null."""
    exact, bound = rows[DECIMAL_CAST], pa.scalar(by.largest_amount, MONEY)
    beyond = ~_has(exact) | _flags(
        pc.greater(exact, bound)
    )  # an amount that does not fit the decimal is beyond any bound
    clipped = pa.array((np.diff(reasons.offsets) == 0) & _has(rows["amount"]) & beyond)
    nothing = pa.scalar(None, MONEY)
    return pc.if_else(clipped, bound, exact), pc.if_else(clipped, bound, nothing)


def _has(column: pa.Array) -> Flags:
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))


def _flags(column: pa.BooleanArray) -> Flags:
    """[n] truth values, false where null."""
    return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False))
