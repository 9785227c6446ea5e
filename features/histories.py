"""Histories of a range of users, merged from runs: sorted once, cut at any as-of date. Pure numpy and Arrow, no Spark.

A run is a table of events or of rollup days, most often one file. Runs come in the order of their days and most are
sorted inside, so that merging them is a stable radix sort by user; only users whose runs overlap in time are sorted by
more. Times are int64 microseconds since 1970, days int64 days since 1970.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import floats
from features.ids import ascend, factorize, merged_ids, places_of
from features.tiers import MICROS, Ints

Array = npt.NDArray[Any]
Lists = Mapping[str, pa.ChunkedArray]
DAY_MICROS = 86_400_000_000
EPOCH = dt.date(1970, 1, 1)
NEVER = np.iinfo(np.int64).min
"""Stands for a time that is not there."""

SQUARES, SQUARE_BITS = ("squares_high", "squares_low"), 48
"""The columns that hold squared amounts exactly: units of 2**48 squared micro-units, and what is left below one."""

_RADIX = 1 << 16  # numpy sorts 16-bit integers by radix, several times faster than wider ones


def midnight(as_of: dt.date) -> int:
    """The as-of instant in microseconds."""
    return day_number(as_of) * DAY_MICROS


def day_number(date: dt.date) -> int:
    """Days since 1970."""
    return (date - EPOCH).days


def date_of(number: int) -> dt.date:
    """The inverse of `day_number`."""
    return EPOCH + dt.timedelta(days=number)


@dataclasses.dataclass(frozen=True)
class Cut:
    """The last events of each user before a date: `users` [n], `lengths` [n], `rows` [m] user by user, oldest first.

    `rows` are places in the event columns, `micros` [m] the times.
    """

    users: pa.Array
    lengths: Ints
    rows: Ints
    micros: Ints


@dataclasses.dataclass(frozen=True)
class Categories:
    """A categorical column: `codes` [m] int32 places in `values`, which ascend; -1 where there is no value."""

    codes: Array
    values: pa.Array

    def take(self, rows: Ints) -> pa.DictionaryArray:
        """The entries at `rows`, with a dictionary of just the values that they have."""
        codes, values = self.codes.take(rows), self.values
        used = np.zeros(len(values) + 1, bool)
        used[codes] = True  # the last entry is of -1, no value
        of_values, absent = used[:-1], codes < 0 if used[-1] else None
        if not of_values.all():
            codes = np.append(np.cumsum(of_values) - 1, -1).astype(np.int32).take(codes)
            values = values.filter(pa.array(of_values))
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), values)

    def followed_by(self, other: Categories) -> Categories:
        """The entries of both, one after the other."""
        place = pc.index_in(other.values, self.values)
        if place.null_count:  # there are new values
            return _categories(pa.chunked_array([x.take(np.arange(len(x.codes))) for x in (self, other)]))
        codes = np.append(place.to_numpy(), -1).astype(np.int32).take(other.codes)
        return Categories(np.concatenate([self.codes, codes]), self.values)


@dataclasses.dataclass(frozen=True)
class UserEvents:
    """Events of a range of users in the total order: user, time, event id.

    Attributes:
        users: [n] ids, ascending.
        offsets: [n + 1] where each user's events begin in `rows`.
        rows: [m] place of each event in the columns, in the total order.
        micros: [m] times, in the total order.
        numbers: float32 columns [m], NaN where there is no value.
        categories: categorical columns [m].
    """

    users: pa.Array
    offsets: Ints
    rows: Ints
    micros: Ints
    numbers: dict[str, Array]
    categories: dict[str, Categories]

    @classmethod
    def from_runs(
        cls,
        runs: Sequence[pa.Table],
        numeric: Sequence[str],
        categorical: Sequence[str],
        ids_of_run: Callable[[int], pa.Array] | None = None,
        left_out: Ints | None = None,
    ) -> UserEvents:
        """Merge runs of `user_id`, `event_time` and the channels.

        Args:
            runs: at least one table, all of the same columns; numbers may differ in type.
            numeric: channels to keep as numbers.
            categorical: channels to keep as categories.
            ids_of_run: gives a run's event ids by its place in `runs`, and promises that every run is in the total
                order by itself: ids are then read only where events of one instant lie in several runs. None: the
                runs hold `event_id`, in any order.
            left_out: places of rows, of all runs one after the other, that are not looked at.
        """
        table = pa.concat_tables([r.select(["user_id", "event_time", *categorical]) for r in runs])
        users, codes = _codes(table["user_id"])
        micros = _integers(table["event_time"], NEVER)
        rows = _stable_order(codes, len(users))
        if left_out is not None:
            kept = np.ones(len(rows), bool)
            kept[left_out] = False
            rows = rows[kept.take(rows)]
        codes, times = codes.take(rows), micros.take(rows)
        _sort_by_time(rows, codes, times, len(users))
        run = np.repeat(np.arange(len(runs)), [r.num_rows for r in runs])
        _break_ties(rows, codes, times, run, ids_of_run or (lambda k: runs[k]["event_id"]), ids_of_run is not None)
        return cls(
            users,
            _offsets(codes, len(users)),
            rows,
            times,
            {c: np.concatenate([_floats(r[c]) for r in runs]) for c in numeric},
            {c: _categories(table[c]) for c in categorical},
        )

    @classmethod
    def of_lists(cls, users: pa.Array, times: pa.ChunkedArray, numbers: Lists, categories: Lists) -> UserEvents:
        """Events that lie in lists, one per user, each in the total order.

        Args:
            users: [n] ids, each once, in any order.
            times: [n] lists of microseconds.
            numbers: [n] lists of float32 per channel, as long as those of the times.
            categories: the same of strings, which may be dictionaries.
        """
        lengths = pc.list_value_length(times).to_numpy().astype(np.int64)
        micros, rows = _integers(_flat(times), NEVER), np.arange(lengths.sum())
        if not ascend(users):
            order = pc.sort_indices(users)
            users, lengths, starts = users.take(order), lengths[order], (np.cumsum(lengths) - lengths)[order]
            rows = ranges(starts, lengths)
            micros = micros.take(rows)
        return cls(
            users,
            np.concatenate([[0], np.cumsum(lengths)]),
            rows,
            micros,
            {c: _floats(_flat(lists)) for c, lists in numbers.items()},
            {c: _categories(_flat(lists)) for c, lists in categories.items()},
        )

    def run_of(self, users: pa.Array) -> pa.Table:
        """The events of some users as a run in the total order, see `from_runs`."""
        who = places_of(users, self.users)
        who = np.sort(who[who >= 0])
        begins, counts = self.offsets[:-1][who], np.diff(self.offsets)[who]
        places, of_user = ranges(begins, counts), np.repeat(np.arange(len(who), dtype=np.int32), counts)
        rows = self.rows.take(places)
        return pa.table(
            {
                "user_id": pa.DictionaryArray.from_arrays(of_user, self.users.take(pa.array(who))),
                "event_time": pa.array(self.micros.take(places), pa.timestamp("us", "UTC")),
                **{c: floats.as_arrow(values.take(rows)) for c, values in self.numbers.items()},
                **{c: values.take(rows) for c, values in self.categories.items()},
            }
        )

    def replaced(self, by: UserEvents) -> UserEvents:
        """These events, but of the users of `by` its own in their place; of the same channels."""
        users, mine = merged_ids(self.users, by.users)
        theirs = places_of(by.users, users)
        starts, counts = np.empty((2, len(users)), np.int64)
        starts[mine], counts[mine] = self.offsets[:-1], np.diff(self.offsets)
        starts[theirs], counts[theirs] = len(self.rows) + by.offsets[:-1], np.diff(by.offsets)
        places = ranges(starts, counts)
        return UserEvents(
            users,
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([self.rows, by.rows + self._entries]).take(places),
            np.concatenate([self.micros, by.micros]).take(places),
            {c: np.concatenate([values, by.numbers[c]]) for c, values in self.numbers.items()},
            {c: values.followed_by(by.categories[c]) for c, values in self.categories.items()},
        )

    @property
    def _entries(self) -> int:
        """How long the columns are, which may hold more than the events."""
        columns = [*self.numbers.values(), *(values.codes for values in self.categories.values())]
        return max(map(len, columns), default=len(self.rows))

    def last(self, as_of: dt.date, length: int) -> Cut:
        """The last `length` events of each user before `as_of`; users without any are left out."""
        instant = midnight(as_of)
        early = self.micros < instant
        counts = np.diff(self.offsets) if early.all() else _counts(early, self.offsets)
        known = np.flatnonzero(counts)
        kept = np.minimum(counts[known], length)
        places = ranges(self.offsets[:-1][known] + counts[known] - kept, kept)
        users = self.users if len(known) == len(self.users) else self.users.take(pa.array(known))
        return Cut(users, kept, self.rows[places], self.micros[places])


def cut_run(run: pa.Table, length: int) -> pa.Table:
    """A run without the events that `length` later ones of the same user and run follow, however it is chunked.

    Only for runs that are in the total order and lie wholly before or wholly after each as-of date. Users are
    dictionary-encoded.
    """
    if run.num_rows <= length:
        return run
    starts = _starts(run["user_id"])
    counts = np.diff(starts, append=run.num_rows)
    if counts.max() <= length:
        return run
    kept = np.minimum(counts, length)
    return run.take(pa.array(ranges(starts + counts - kept, kept)))


def _starts(users: pa.ChunkedArray) -> Ints:
    """Where the rows of each user begin."""
    found, begin, last = [], 0, None
    for chunk in users.chunks:
        if not len(chunk):
            continue
        codes, words = chunk.indices.to_numpy(), chunk.dictionary
        places = np.flatnonzero(np.diff(codes)) + 1 + begin
        found.append(places if words[int(codes[0])].as_py() == last else np.append(begin, places))
        begin, last = begin + len(codes), words[int(codes[-1])].as_py()
    return np.concatenate(found).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class DayHistory:
    """Rollup days of a range of users, by user and day, each user's day once.

    Attributes:
        users: [n] ids, ascending.
        offsets: [n + 1] where each user's days begin.
        day: [m] days since 1970.
        columns: [m] int64 per rollup column, money and points in micro-units, and `SQUARES` in place of
            `squared_amount`; a missing time is `NEVER`.
    """

    users: pa.Array
    offsets: Ints
    day: Ints
    columns: dict[str, Array]
    _sums: dict[str, Ints] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_runs(cls, runs: Sequence[pa.Table]) -> DayHistory:
        """Merge runs of rows of `user_days`, all or some columns; what arrived of a user's day in parts is added up.

        Raises:
            OverflowError: the sums of a user may not fit int64, 9.2e12 units of money or points.
        """
        table = pa.concat_tables(runs)
        users, codes = _codes(table["user_id"])
        day = table["day"].cast(pa.int32()).to_numpy().astype(np.int64)
        names = [n for n in table.column_names if n not in ("user_id", "day", "arrival_date")]
        columns = {name: values for n in names for name, values in _day_columns(n, table[n]).items()}
        order = _stable_order(codes, len(users))
        codes, day = codes[order], day[order]
        same = codes[1:] == codes[:-1]
        if (same & (day[1:] <= day[:-1])).any():
            again = np.lexsort((day, codes))
            order, codes, day = order[again], codes[again], day[again]
        columns = {name: values[order] for name, values in columns.items()}
        fresh = np.ones(len(day), bool)
        fresh[1:] = (codes[1:] != codes[:-1]) | (day[1:] != day[:-1])
        if not fresh.all():
            begins = np.flatnonzero(fresh)
            columns = {n: _REDUCED_BY.get(n, np.add).reduceat(v, begins) for n, v in columns.items()}
            codes, day = codes[begins], day[begins]
        offsets = _offsets(codes, len(users))
        _check_sums_fit(columns, int(np.diff(offsets).max(initial=0)))
        return cls(users, offsets, day, columns)

    @property
    def user_of_day(self) -> Ints:
        """[m] index of each day's user."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def before(self, as_of: dt.date) -> UserDays:
        """The days before `as_of`, of the users that have any."""
        limit = day_number(as_of)
        counts = _counts(self.day < limit, self.offsets)
        who = np.flatnonzero(counts)
        first = self.offsets[:-1][who]
        return UserDays(self, who, first, first + counts[who], limit)

    def running(self, name: str, make: Callable[[], Ints]) -> Ints:
        """[m + 1] sums of an int64 quantity [m] over all days before each; kept under `name`."""
        if name not in self._sums:
            self._sums[name] = np.concatenate([[0], np.cumsum(make())])
        return self._sums[name]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Whatever `make` gives, made once for all dates."""
        if name not in self._sums:
            self._sums[name] = make()
        return self._sums[name]


@dataclasses.dataclass(frozen=True)
class UserDays:
    """The days before an as-of date of the n users that have any.

    Attributes:
        history: all days.
        who: [n] the users' places in the history.
        first: [n] each user's first day, a place in the history's columns.
        last: [n] the place after its last day before the as-of date.
        limit: the as-of date in days since 1970.
    """

    history: DayHistory
    who: Ints
    first: Ints
    last: Ints
    limit: int
    _since: dict[int, Ints] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def users(self) -> pa.Array:
        """[n] ids, ascending."""
        return self.history.users.take(pa.array(self.who))

    def since(self, days: int) -> Ints:
        """[n] place of each user's first day in the last `days` days."""
        if days not in self._since:  # every column of a window asks for it
            key = self.history.kept("key", lambda: self.history.user_of_day * _DAYS_APART + self.history.day + _BIAS)
            found = np.searchsorted(key, self.who * _DAYS_APART + (self.limit - days + _BIAS))
            self._since[days] = np.minimum(found, self.last)
        return self._since[days]

    def total(self, column: str, newest: int | None = None) -> Ints:
        """[n] sum over the last `newest` days, all days without it."""
        return self.difference(column, lambda: self.history.columns[column], newest)

    def difference(self, name: str, make: Callable[[], Ints], newest: int | None = None) -> Ints:
        """`total` of a quantity that is no column."""
        sums = self.history.running(name, make)
        return sums[self.last] - sums[self.first if newest is None else self.since(newest)]

    def over(self, function: np.ufunc, values: Array) -> Array:
        """[n] `function` over each user's entries of `values` [m]."""
        if not len(self.who):
            return values[:0]
        if len(self.who) == len(self.history.users) and self.last[-1] == len(values) and _adjacent(self):
            return function.reduceat(values, self.first)
        pairs = np.stack([self.first, self.last], axis=1).ravel()
        return function.reduceat(np.append(values, values[:1]), pairs)[::2]  # the extra entry lets pairs end at m


_DAYS_APART = 1 << 25  # days of one user in a key; more than 90,000 years
_BIAS = 1 << 24
_REDUCED_BY = {
    "largest_amount": np.maximum,
    "first_event_us": np.minimum,
    "last_event_us": np.maximum,
    "last_purchase_us": np.maximum,
}
_TIMES = {
    "first_event_time": "first_event_us",
    "last_event_time": "last_event_us",
    "last_purchase_time": "last_purchase_us",
}
_NO_FLOATS = np.empty(0, np.float32)
_LARGEST = 2**63 - 1


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The concatenation of starts[i] .. starts[i] + lengths[i] - 1."""
    if not len(starts):
        return np.empty(0, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)


def in_steps(run: pa.Table, columns: Sequence[str]) -> pa.Table:
    """`user_id`, `day` and some sums of a run of `user_days`, money and points as int64 micro-units."""
    sums = {c: pa.array(_integers(run[c], 0)) for c in columns}
    return pa.table({"user_id": run["user_id"], "day": run["day"], **sums})


def decimal_steps(column: pa.Array, scale: int = 6) -> Ints:
    """Decimals of a scale as int64 steps, 0 where null; raises OverflowError where one does not fit."""
    if column.type.scale != scale:
        column = column.cast(pa.decimal128(38, scale))
    low, high = _decimal_words(column)
    valid = ~column.is_null().to_numpy(zero_copy_only=False) if column.null_count else True
    if ((high != low >> 63) & valid).any():
        raise OverflowError(f"a decimal of {column.type} does not fit 64 bits")
    return np.where(valid, low, 0) if column.null_count else low


def _decimal_words(column: pa.Array) -> tuple[Ints, Ints]:
    """The lower and the higher 64 bits of decimals, as they lie: 128-bit two's complement, little-endian."""
    words = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    return np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])


def _flat(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """All values of all lists; without any, of the lists' type."""
    return pa.chunked_array([chunk.flatten() for chunk in lists.chunks], lists.type.value_type)


def _integers(column: pa.ChunkedArray, filler: int) -> Ints:
    """A column as int64: times in microseconds, decimals in micro-units, `filler` where null."""
    if pa.types.is_decimal(column.type):
        return np.concatenate([decimal_steps(c) for c in column.chunks] or [np.empty(0, np.int64)])
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    found = column.fill_null(filler) if column.null_count else column
    return np.asarray(found.to_numpy(), np.int64)


def _floats(column: pa.ChunkedArray) -> Array:
    """A numeric channel as float32 [m], NaN where null."""
    if pa.types.is_floating(column.type):
        return np.concatenate([floats.from_arrow(c) for c in column.cast(pa.float32()).chunks] or [_NO_FLOATS])
    if not pa.types.is_decimal(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float32)
    found = _integers(column, 0) / MICROS
    if column.null_count:
        found[column.is_null().to_numpy()] = np.nan
    return found.astype(np.float32)


def _categories(column: pa.ChunkedArray) -> Categories:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    words = chunks[0].dictionary.cast(pa.string()) if chunks else pa.array([], pa.string())
    order = pc.sort_indices(words).to_numpy()
    place = np.append(np.argsort(order), -1).astype(np.int32)  # the last entry is what -1, no value, becomes
    codes = [place.take(c.indices.fill_null(-1).to_numpy()) for c in chunks]
    return Categories(np.concatenate(codes) if codes else place[:0], words.take(pa.array(order)))


def _day_columns(name: str, column: pa.ChunkedArray) -> dict[str, Ints]:
    """A column of the rollup by the names that it has here."""
    if name == "squared_amount":
        halves = [_square_halves(c) for c in column.chunks] or [(np.empty(0, np.int64),) * 2]
        return {half: np.concatenate(parts) for half, parts in zip(SQUARES, zip(*halves, strict=True), strict=True)}
    name = _TIMES.get(name, name)
    return {name: _integers(column, NEVER if name in _TIMES.values() else 0)}


def _square_halves(column: pa.Array) -> tuple[Ints, Ints]:
    """Decimals of 12 places, none negative, as `SQUARES`."""
    low, high = _decimal_words(column.fill_null(0))
    if ((high < 0) | (high >> SQUARE_BITS - 1 != 0)).any():
        raise OverflowError("a day's squared amounts do not fit; lower events.largest_amount")
    below = low.view(np.uint64)
    return high << 64 - SQUARE_BITS | (below >> np.uint64(SQUARE_BITS)).view(np.int64), (
        below & np.uint64((1 << SQUARE_BITS) - 1)
    ).view(np.int64)


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct ids of a column, ascending, and each entry's place among them."""
    chunks = [c for c in column.chunks if len(c)]
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, np.int64)
    if not pa.types.is_dictionary(column.type):
        of_row, users = factorize(pa.concat_arrays(chunks))
        return users, of_row
    words = pa.concat_arrays([c.dictionary.cast(pa.string()) for c in chunks])
    of_word, users = factorize(words)
    begins = np.cumsum([0, *(len(c.dictionary) for c in chunks)])
    codes = np.concatenate(
        [of_word[begin:][c.indices.to_numpy()] for begin, c in zip(begins[:-1], chunks, strict=True)]
    )
    used = np.bincount(codes, minlength=len(users)) > 0  # a dictionary may hold more than its entries
    if used.all():
        return users, codes
    return users.filter(pa.array(used)), (np.cumsum(used) - 1)[codes]


def _stable_order(codes: Ints, count: int) -> Ints:
    """Stable argsort of codes below `count`. Where half of them ascend, as in a snapshot, the rest is put between."""
    falls = codes[1:] < codes[:-1]
    ascending = int(falls.argmax()) + 1 if falls.any() else len(codes)
    if 2 * ascending < len(codes):
        return _radix_order(codes, count)
    rest = ascending + _radix_order(codes[ascending:], count)
    return np.insert(np.arange(ascending), np.searchsorted(codes[:ascending], codes[rest], side="right"), rest)


def _radix_order(codes: Ints, count: int) -> Ints:
    order = np.argsort((codes % _RADIX).astype(np.uint16), kind="stable")
    if count > _RADIX:
        order = order[np.argsort((codes[order] // _RADIX).astype(np.uint16), kind="stable")]
    return order


def _offsets(codes: Ints, count: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=count))])


def _counts(chosen: Array, offsets: Ints) -> Ints:
    """[n] how many of each user's entries are chosen."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    return before[offsets[1:]] - before[offsets[:-1]]


def _sort_by_time(rows: Ints, codes: Ints, times: Ints, count: int) -> None:
    """Put the rows of users whose times are not ascending into order, in place."""
    late = (codes[1:] == codes[:-1]) & (times[1:] < times[:-1])
    if not late.any():
        return
    touched = np.zeros(count, bool)
    touched[codes[1:][late]] = True
    part = np.flatnonzero(touched[codes])
    order = part[np.lexsort((times[part], codes[part]))]
    rows[part], times[part] = rows[order], times[order]


def _break_ties(
    rows: Ints, codes: Ints, times: Ints, run: Ints, ids_of_run: Callable[[int], pa.Array], ordered: bool
) -> None:
    """Order events of one user and instant by their ids, in place; `ordered`: those of one run are so already."""
    equal = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    doubtful = np.flatnonzero(equal) + 1  # places of events that are of the instant of the one before
    if ordered:
        doubtful = doubtful[run[rows[doubtful]] != run[rows[doubtful - 1]]]
    if not len(doubtful):
        return
    group = np.concatenate([[0], np.cumsum(~equal)])[: len(rows)]
    chosen = np.zeros(group[-1] + 1, bool)
    chosen[group[doubtful]] = True
    part = np.flatnonzero(chosen[group])
    of_run, begins = run[rows[part]], np.searchsorted(run, np.arange(run[-1] + 1))
    ids = np.empty(len(part), object)
    for k in np.unique(of_run):
        mine = of_run == k
        ids[mine] = ids_of_run(int(k)).take(pa.array(rows[part[mine]] - begins[k])).to_pylist()
    keys = pa.table({"group": group[part], "id": pa.array(ids, pa.string())})
    order = pc.sort_indices(keys, [("group", "ascending"), ("id", "ascending")]).to_numpy()
    rows[part] = rows[part[order]]


def _adjacent(days: UserDays) -> bool:
    return bool((days.last[:-1] == days.first[1:]).all())


def _check_sums_fit(columns: dict[str, Array], most_days: int) -> None:
    """Sums wrap in silence: so none may come near the limit, even were every day of a user its largest."""
    for name in ("spend", "points", *SQUARES):
        values = columns.get(name, np.empty(0, np.int64))
        largest = max(abs(int(values.max())), abs(int(values.min()))) if len(values) else 0
        if largest * most_days > _LARGEST:
            size = "squared amounts" if name in SQUARES else f"{name} of {largest / MICROS:.3g}"
            raise OverflowError(
                f"{size} in a day, over {most_days} days of a member, does not fit the sums "
                f"(at most {_LARGEST / MICROS:.3g}); lower events.largest_amount or the points of an event"
            )
