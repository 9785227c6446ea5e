"""Events of a range of members, merged from runs: sorted once, then cut at any as-of date.

A run is a table of events, most often one file. Runs come in the order of their days and most are sorted inside, so a
stable radix sort by member merges them; only members whose runs overlap in time are sorted again. Times are int64
microseconds since 1970.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.core import arrow_numbers
from features.core.arrays import Array, Ints
from features.kernel.run_columns import (
    NEVER,
    Lists,
    chosen_counts,
    flat_values,
    float_channel,
    id_codes,
    integers,
    midnight,
    offsets_of,
    ranges,
    stable_order,
)
from features.kernel.user_ids import ascend, merged_ids, places_of


@dataclasses.dataclass(frozen=True)
class Cut:
    """The last events of each member before a date.

    Attributes:
        users: [n] ids, ascending.
        lengths: [n] events of each member, m together.
        rows: [m] places of the events in the columns, member by member, oldest first.
        micros: [m] their times.
    """

    users: pa.Array
    lengths: Ints
    rows: Ints
    micros: Ints


@dataclasses.dataclass(frozen=True)
class Categories:
    """A categorical column: `codes` [m] are int32 places in `values`, which ascend; -1 is no value."""

    codes: Array
    values: pa.Array

    def take(self, rows: Ints) -> pa.DictionaryArray:
        """The entries at `rows`, with a dictionary of only the values that occur."""
        codes, values = self.codes.take(rows), self.values
        used = np.zeros(len(values) + 1, bool)
        used[codes] = True  # -1, no value, is the last entry
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
    """Events of a range of members in the total order: member, time, event id.

    Attributes:
        users: [n] ids, ascending.
        offsets: [n + 1] where each member's events begin in `rows`.
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
            ids_of_run: reads the event ids of the run at a place in `runs`; each run must then be in the total order,
                and ids are read only where events of one instant lie in several runs. None: the runs have a column
                `event_id` and come in any order.
            left_out: places of rows to ignore, counted over all runs one after the other.
        """
        table = pa.concat_tables([r.select(["user_id", "event_time", *categorical]) for r in runs])
        users, codes = id_codes(table["user_id"])
        micros = integers(table["event_time"], NEVER)
        rows = stable_order(codes, len(users))
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
            offsets_of(codes, len(users)),
            rows,
            times,
            {c: np.concatenate([float_channel(r[c]) for r in runs]) for c in numeric},
            {c: _categories(table[c]) for c in categorical},
        )

    @classmethod
    def of_lists(cls, users: pa.Array, times: pa.ChunkedArray, numbers: Lists, categories: Lists) -> UserEvents:
        """Events from lists, one list per member, each in the total order.

        Args:
            users: [n] ids, each once, in any order.
            times: [n] lists of microseconds.
            numbers: [n] lists of float32 per channel, of the lengths of `times`.
            categories: [n] lists of strings per channel, plain or dictionary-encoded.
        """
        lengths = pc.list_value_length(times).to_numpy().astype(np.int64)
        micros, rows = integers(flat_values(times), NEVER), np.arange(lengths.sum())
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
            {c: float_channel(flat_values(lists)) for c, lists in numbers.items()},
            {c: _categories(flat_values(lists)) for c, lists in categories.items()},
        )

    def run_of(self, users: pa.Array) -> pa.Table:
        """The events of some members as a run in the total order, see `from_runs`."""
        who = places_of(users, self.users)
        who = np.sort(who[who >= 0])
        begins, counts = self.offsets[:-1][who], np.diff(self.offsets)[who]
        places, of_user = ranges(begins, counts), np.repeat(np.arange(len(who), dtype=np.int32), counts)
        rows = self.rows.take(places)
        return pa.table(
            {
                "user_id": pa.DictionaryArray.from_arrays(of_user, self.users.take(pa.array(who))),
                "event_time": pa.array(self.micros.take(places), pa.timestamp("us", "UTC")),
                **{c: arrow_numbers.as_arrow(values.take(rows)) for c, values in self.numbers.items()},
                **{c: values.take(rows) for c, values in self.categories.items()},
            }
        )

    def replaced(self, by: UserEvents) -> UserEvents:
        """These events, with those of `by` for its members in place of theirs; both have the same channels."""
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
        """Length of the columns, which may hold rows that are no events here."""
        columns = [*self.numbers.values(), *(values.codes for values in self.categories.values())]
        return max(map(len, columns), default=len(self.rows))

    def last(self, as_of: dt.date, length: int) -> Cut:
        """The last `length` events of each member before `as_of`; members without any are left out."""
        instant = midnight(as_of)
        early = self.micros < instant
        counts = np.diff(self.offsets) if early.all() else chosen_counts(early, self.offsets)
        known = np.flatnonzero(counts)
        kept = np.minimum(counts[known], length)
        places = ranges(self.offsets[:-1][known] + counts[known] - kept, kept)
        users = self.users if len(known) == len(self.users) else self.users.take(pa.array(known))
        return Cut(users, kept, self.rows[places], self.micros[places])


def cut_run(run: pa.Table, length: int) -> pa.Table:
    """The last `length` events of each member in a run.

    The run must be in the total order and lie before or after each as-of date as a whole; its members are
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
    """Where the rows of each member begin."""
    found, begin, last = [], 0, None
    for chunk in users.chunks:
        if not len(chunk):
            continue
        codes, words = chunk.indices.to_numpy(), chunk.dictionary
        places = np.flatnonzero(np.diff(codes)) + 1 + begin
        found.append(places if words[int(codes[0])].as_py() == last else np.append(begin, places))
        begin, last = begin + len(codes), words[int(codes[-1])].as_py()
    return np.concatenate(found).astype(np.int64)


def _categories(column: pa.ChunkedArray) -> Categories:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    words = chunks[0].dictionary.cast(pa.string()) if chunks else pa.array([], pa.string())
    order = pc.sort_indices(words).to_numpy()
    place = np.append(np.argsort(order), -1).astype(np.int32)  # -1, no value, stays -1: the last entry
    codes = [place.take(c.indices.fill_null(-1).to_numpy()) for c in chunks]
    return Categories(np.concatenate(codes) if codes else place[:0], words.take(pa.array(order)))


def _sort_by_time(rows: Ints, codes: Ints, times: Ints, count: int) -> None:
    """Sort by time, in place, the rows of members whose times do not ascend."""
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
    """Sort events of one member and instant by their ids, in place; with `ordered`, those of one run already are."""
    equal = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    doubtful = np.flatnonzero(equal) + 1  # places of events with the instant of the one before
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
