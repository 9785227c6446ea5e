"""A made-up programme's behaviour events at any size, as `ingest_events` would have written them to Delta.

Numbers of purchases are lognormal, a few bots buy a thousand times as much, some events arrive days late, some share
their time. Each day is made separately from the seed, so memory does not grow with the size.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from features.core import places
from features.storage import delta_tables, schemas
from features.storage.file_writer import AddedFile, write_file
from features.storage.table_log import now_millis

TYPES = ("purchase", "visit", "coupon", "campaign")
SHOPS = tuple(f"shop {n:02d}" for n in range(40))
CHANNELS = ("app", "web", "store")
ATTRIBUTES = {"items": "numeric", "shop": "categorical", "channel": "categorical"}
EVENTS = schemas.events(ATTRIBUTES)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
LATE_DAYS = 2


@dataclasses.dataclass(frozen=True)
class Programme:
    """Size and shape of the events.

    Attributes:
        events: number of events, about.
        users: members that events are drawn for.
        days: number of dates; the last is the day before `as_of`.
        as_of: the as-of date after the last of them.
        bots: number of members with a thousand times the usual number of events.
        late: share of a day's events that arrive days later, in a file of their own.
        seed: seed of all random numbers.
    """

    events: int
    users: int
    days: int
    as_of: dt.date = dt.date(2024, 7, 1)
    bots: int = 3
    late: float = 0.01
    seed: int = 7

    @property
    def dates(self) -> list[dt.date]:
        """Every date, ascending."""
        return [self.as_of - dt.timedelta(days=n) for n in range(self.days, 0, -1)]


def hexadecimal(numbers: npt.NDArray[np.uint64]) -> pa.Array:
    """[n, 2] 64-bit numbers as 32 hexadecimal digits each, evenly spread as pseudonyms are."""
    raw = numbers.astype(">u8").view(np.uint8).reshape(len(numbers), 16)
    digits = np.empty((len(numbers), 32), np.uint8)
    digits[:, ::2], digits[:, 1::2] = _HEX[raw >> 4], _HEX[raw & 15]
    offsets = pa.py_buffer(np.arange(len(numbers) + 1, dtype=np.int32) * 32)
    return pa.StringArray.from_buffers(len(numbers), offsets, pa.py_buffer(digits))


def user_ids(programme: Programme) -> npt.NDArray[np.uint64]:
    """[users, 2] the numbers of each member's id, ascending."""
    made = np.random.default_rng(programme.seed).integers(0, 2**64, (programme.users, 2), np.uint64)
    return made[np.lexsort((made[:, 1], made[:, 0]))]


def weights(programme: Programme) -> npt.NDArray[np.float64]:
    """[users] cumulative share of the events."""
    chance = np.random.default_rng(programme.seed + 1)
    rate = chance.lognormal(0, 1.2, programme.users)
    rate[: programme.bots] = 1000 * rate.mean()
    total = np.cumsum(rate)
    return np.asarray(total / total[-1])


def day(
    programme: Programme, number: int, ids: npt.NDArray[np.uint64], share: npt.NDArray[np.float64]
) -> Iterator[pa.Table]:
    """The files of one date, each sorted by the total order: what arrived in time, and what came late."""
    date = programme.dates[number]
    chance = np.random.default_rng((programme.seed, number))
    count = programme.events // programme.days
    who = np.searchsorted(share, chance.random(count)).clip(0, programme.users - 1)
    second = chance.integers(0, 86_400, count)
    exact = chance.random(count) < 0.7  # the others carry whole minutes: ties
    micros = np.where(exact, second * 1_000_000 + chance.integers(0, 1_000_000, count), second // 60 * 60_000_000)
    is_late = chance.random(count) < programme.late
    for late in (False, True):
        chosen = np.flatnonzero(is_late == late)
        order = chosen[np.lexsort((micros[chosen], who[chosen]))]
        yield _table(programme, date, ids[who[order]], micros[order], chance, late)


def _table(
    programme: Programme,
    date: dt.date,
    users: npt.NDArray[np.uint64],
    micros: npt.NDArray[np.int64],
    chance: np.random.Generator,
    late: bool,
) -> pa.Table:
    n = len(users)
    kind = chance.choice(len(TYPES), n, p=[0.5, 0.3, 0.1, 0.1])
    cents = chance.lognormal(3, 0.9, n) * 100
    amount = np.where(kind == 0, cents.astype(np.int64) * 10_000, 0)
    ids = np.stack([np.arange(n, dtype=np.uint64), chance.integers(0, 2**64, n, np.uint64)], axis=1)
    ids[:, 0] += np.uint64(number_of(programme, date) << 33 | late << 32)  # ascending, so ties are in order
    midnight = (date - dt.date(1970, 1, 1)).days * 86_400_000_000
    arrival = midnight + (1 + late * LATE_DAYS) * 86_400_000_000 + 3_600_000_000
    columns: dict[str, Any] = {
        "event_id": hexadecimal(ids),
        "user_id": hexadecimal(users),
        "event_time": pa.array(midnight + micros, pa.timestamp("us", "UTC")),
        "event_type": pa.DictionaryArray.from_arrays(kind.astype(np.int32), list(TYPES)),
        "amount": _money(amount, kind == 0),
        "clipped_at": pa.nulls(n, pa.decimal128(18, 6)),
        "items": pa.array(chance.integers(1, 30, n).astype(np.float64), mask=kind != 0),
        "shop": pa.DictionaryArray.from_arrays(chance.integers(0, len(SHOPS), n).astype(np.int32), list(SHOPS)),
        "channel": pa.DictionaryArray.from_arrays(chance.integers(0, 3, n).astype(np.int32), list(CHANNELS)),
        "content_hash": pa.array(chance.integers(0, 2**62, n)),
        "ingested_at": pa.repeat(pa.scalar(arrival, pa.timestamp("us", "UTC")), n),
    }
    return pa.table(columns)


def number_of(programme: Programme, date: dt.date) -> int:
    """Place of a date among those of the programme."""
    return (date - programme.dates[0]).days


def _money(micros: npt.NDArray[np.int64], there: npt.NDArray[np.bool_]) -> pa.Array:
    words = np.stack([micros, np.zeros_like(micros)], axis=1)
    made = pa.Array.from_buffers(pa.decimal128(18, 6), len(micros), [None, pa.py_buffer(words)])
    return pa.compute.if_else(pa.array(there), made, pa.scalar(None, made.type))


def write(spark: SparkSession, programme: Programme, root: str, first: int = 0, last: int | None = None) -> str:
    """Write what arrived on the days first..last-1 to the `events` table under `root` and return the table's place.

    Late events are in a file of their own, which arrives `LATE_DAYS` after the other file of their date.
    """
    place = places.join(root, "tables", "events")
    delta_tables.ensure(spark, place, EVENTS, {"tiercast.key_check": "bench"})
    ids, share = user_ids(programme), weights(programme)
    last, added = programme.days if last is None else last, list[AddedFile]()
    for number in range(max(0, first - LATE_DAYS), last):
        for part, rows in enumerate(day(programme, number, ids, share)):
            if first <= number + part * LATE_DAYS < last:
                added.append(write_file(rows, place, "event_date", programme.dates[number]))
    table = DeltaTable(place)
    actions = [AddAction(f.path, f.size, dict(f.partition), now_millis(), True, f.statistics) for f in added]
    table.create_write_transaction(list(actions), "append", table.schema(), ["event_date"])
    return place


def arrow_schema() -> pa.Schema:
    """Arrow types of a file of `events`."""
    return to_arrow_schema(EVENTS.schema)
