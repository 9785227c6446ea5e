"""The parquet files behind Delta tables: which are active, reading a range of users from them, writing new ones.

Files are read and written by Spark's tasks with pyarrow, so rows never become JVM objects; Delta's log is read and
committed through delta-rs. User ids are keyed pseudonyms, evenly spread, and files are sorted by them: so a range of
ids is a bounded share of the users in any number of ranges, and a few row groups of each file.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
import functools
import hashlib
import itertools
import json
import math
import operator
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import uri as places
from features.errors import StorageError

USER, INPUTS = "user_id", "inputs_id"
SPREAD = 1 << 16
"""How many different first four hexadecimal digits ids have: as many ranges can be told apart."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rows of a table lie in its files.

    Attributes:
        group_rows: the most rows of a row group, on average over the groups of a file.
        quick: whether it is read by tasks again and again. Compressed by LZ4 in place of Zstandard, with integers as
            differences and other numbers as dictionaries, it is a tenth larger and read in two thirds of the time.
    """

    group_rows: int
    quick: bool = False


MANY_ROWS = Layout(8_192)
"""Of many rows per user, in many files, of which each range of users reads some."""
MEMBERS = Layout(32_768)
"""Of one row per member and date: a range reads all of few files, and each column of each row group has its cost."""
STATES = Layout(32_768, quick=True)
"""Of a row per member and date from which members are scored, trained on and carried to another date."""

Bounds = list[tuple[str | None, str | None]]
Wanted = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Columns to read, which of them become dictionaries, and arrays whose strings do; see `read_range`."""
_VERSIONS = 32  # of tables whose files are remembered
_LONGEST_BOUND = 64  # characters; longer text is no bound worth keeping in the log
_STATISTICS = 32  # Delta keeps statistics of a table's first columns


@dataclasses.dataclass(frozen=True)
class UserRange:
    """The users with low <= id < high; None is no bound."""

    low: str | None = None
    high: str | None = None

    def overlaps(self, first: str | None, last: str | None) -> bool:
        """Whether ids from `first` to `last` may lie in the range; None is not known."""
        above = self.high is None or first is None or first < self.high
        return above and (self.low is None or last is None or last >= self.low)

    def holds_all(self, first: str | None, last: str | None) -> bool:
        """Whether ids from `first` to `last` all lie in the range; None is not known."""
        above = self.low is None or (first is not None and first >= self.low)
        return above and (self.high is None or (last is not None and last < self.high))

    def holds(self, ids: pa.Array) -> npt.NDArray[np.bool_]:
        """[n] whether each id lies in the range."""
        found = np.ones(len(ids), bool)
        if self.low is not None:
            found &= pc.greater_equal(ids, self.low).to_numpy(zero_copy_only=False)
        if self.high is not None:
            found &= pc.less(ids, self.high).to_numpy(zero_copy_only=False)
        return found


def user_ranges(count: int) -> list[UserRange]:
    """`count` ranges, up to 65,536, that hold every id once and pseudonyms in equal shares."""
    bounds = [None, *(_bound(k, count) for k in range(1, count)), None]
    return [UserRange(low, high) for low, high in itertools.pairwise(bounds)]


def _bound(place: int, count: int) -> str:
    """Where the range of a place among `count` begins."""
    return f"{SPREAD * place // count:04x}"


def ranges_needed(rows: int, rows_per_range: int, tasks_at_once: int = 1) -> int:
    """As many ranges as keep each at `rows_per_range`, and no task idle where there is work for all.

    Powers of two are preferred, as row groups begin where such ranges do: each is then read by one range alone.
    """
    wanted, slots = max(-(-rows // rows_per_range), 1), 1
    if rows > _WORTH_A_TASK:
        wanted, slots = max(wanted, tasks_at_once), tasks_at_once
    aligned = 1 << (wanted - 1).bit_length()
    turns = -(-aligned // slots)
    found = aligned if aligned >= _BUSY * turns * slots else -(-wanted // slots) * slots
    return min(found, SPREAD)


_WORTH_A_TASK = 20_000  # rows
_BUSY = 0.9  # of the slots, over all turns: what reading row groups once is worth


@dataclasses.dataclass(frozen=True)
class TableFile:
    """An active file of a table partitioned by one date column.

    Attributes:
        uri: where it lies.
        date: its partition's date.
        rows: how many rows it has.
        first: smallest user id, or None where Delta has no statistics.
        last: largest user id.
    """

    uri: str
    date: dt.date
    rows: int
    first: str | None
    last: str | None


def active_files(uri: str, at: int) -> list[TableFile]:
    """The files of version `at` of the Delta table at `uri`, by date and name."""
    partition, found = _log(uri, at)
    unknown = [None] * found.num_rows
    columns = [
        found[name].to_pylist() if name in found.column_names else unknown
        for name in ("path", f"partition.{partition}", "num_records", f"min.{USER}", f"max.{USER}")
    ]
    files = [
        TableFile(places.join(uri, unquote(path)), date, rows or 0, first, last)
        for path, date, rows, first, last in zip(*columns, strict=True)
    ]
    return sorted(files, key=lambda f: (f.date, f.uri))


@functools.lru_cache(_VERSIONS)
def _log(uri: str, at: int) -> tuple[str | None, pa.Table]:
    """The partition column, if there is one, and what Delta's log says of each active file.

    A version never changes, and a plan asks for it once per date.
    """
    from deltalake import DeltaTable

    table = DeltaTable(uri, version=at)
    partition = next(iter(table.metadata().partition_columns), None)
    return partition, pa.table(table.get_add_actions(flatten=True))


def rows_by_date(files: Iterable[TableFile]) -> dict[dt.date, int]:
    """How many rows each date has."""
    found: dict[dt.date, int] = {}
    for file in files:
        found[file.date] = found.get(file.date, 0) + file.rows
    return found


def inputs_at(uri: str, at: int, date: dt.date) -> set[str | None]:
    """The fingerprints of one date's files in version `at`, by their statistics; empty where the date has no file."""
    _, found = _log(uri, at)
    if f"min.{INPUTS}" not in found.column_names:
        return set()
    of_date = found.filter(pc.equal(found["partition.as_of_date"], pa.scalar(date, pa.date32())))
    return {value for side in ("min", "max") for value in of_date[f"{side}.{INPUTS}"].to_pylist()}


def inputs_before(files: Iterable[TableFile], end: dt.date, *parts: object) -> str:
    """Fingerprint of the files of the dates before `end`, a dot, and a fingerprint of `end` and `parts`."""
    names = sorted(f.uri.rsplit("/", 1)[1] for f in files if f.date < end)
    return f"{fingerprint(names)}.{fingerprint(end, *parts)}"


def stale(found: set[str | None], inputs: str) -> str | None:
    """Why rows with the fingerprints `found` are to be written anew; None where they stand."""
    if found == {inputs}:
        return None
    (one, *more), files = [*found] or [None], inputs.partition(".")[0]
    if not found:
        return "missing"
    return "settings changed" if not more and one and one.partition(".")[0] == files else "inputs changed"


def fingerprint(*parts: object) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_range(
    file: TableFile, users: UserRange, columns: Sequence[str], words: Sequence[str] = (), inside: Sequence[str] = ()
) -> pa.Table:
    """The rows of a file whose users lie in a range, in its order.

    Args:
        file: an active file.
        users: the range.
        columns: what to read.
        words: strings that become dictionaries; ids gain from it where users have many rows each.
        inside: arrays whose strings become dictionaries; they stay as they are where the file has none of them.

    Raises:
        StorageError: the file is missing or damaged.
    """
    wanted = tuple(columns), tuple(words), tuple(inside)
    with _damaged(file.uri):
        metadata, bounds = _footers.of(file.uri)
    groups = [group for group, (first, last) in enumerate(bounds) if users.overlaps(first, last)]
    rows = _groups.of(file.uri, wanted, groups[0]) if len(groups) == 1 else None
    if rows is not None:
        return _in_range(rows, users)
    with _damaged(file.uri), places.opened(file.uri) as source:
        try:
            rows = _read(source, metadata, groups, *wanted)
        except pa.ArrowNotImplementedError:  # a row group with too many different words for one dictionary
            rows = _read(source, metadata, groups, wanted[0], wanted[1], ())
    if all(users.holds_all(*bounds[group]) for group in groups):
        return rows
    found = _in_range(rows, users)
    if len(groups) == 1 and 2 * found.num_rows < rows.num_rows:
        _groups.keep(file.uri, wanted, groups[0], rows)
    return found


def file_uris(uri: str, at: int) -> list[str]:
    """Where the active files lie of version `at` of the Delta table at `uri`, partitioned or not, by name."""
    return sorted(places.join(uri, unquote(path)) for path in _log(uri, at)[1]["path"].to_pylist())


def read_file(uri: str, columns: Sequence[str]) -> pa.Table:
    """All rows of a file, some columns of them.

    Raises:
        StorageError: the file is missing or damaged.
    """
    with _damaged(uri), places.opened(uri) as source:
        return _with_known_types(pq.ParquetFile(source).read(list(columns), use_threads=False))


def _read(
    source: pa.NativeFile,
    metadata: pq.FileMetaData | None,
    groups: Sequence[int],
    columns: Sequence[str],
    words: Sequence[str],
    inside: Sequence[str],
) -> pa.Table:
    leaves = [*(c for c in words if c in columns), *(f"{name}.list.element" for name in inside)]
    parquet = pq.ParquetFile(source, metadata=metadata, read_dictionary=leaves, coerce_int96_timestamp_unit="us")
    if not inside or not groups:
        return _with_known_types(parquet.read_row_groups(groups, columns=list(columns), use_threads=False))
    # Arrow reads dictionaries inside arrays, several times as fast as strings, from one row group at a time.
    parts = [parquet.read_row_group(g, columns=list(columns), use_threads=False) for g in groups]
    return _with_known_types(pa.concat_tables(parts))


class _Footers:
    """What a worker remembers of files, which are written once and never changed, from one range to the next.

    The bounds of row groups are small. Parsed metadata is not, some 2 kB for each column of each row group: it is kept
    up to a number of these, and of further files parsed again for every range, so that memory stays flat.
    """

    def __init__(self, files: int, columns_of_groups: int) -> None:
        self._files, self._room = files, columns_of_groups
        self._kept: dict[str, tuple[pq.FileMetaData | None, Bounds]] = {}

    def of(self, uri: str) -> tuple[pq.FileMetaData | None, Bounds]:
        """A file's metadata, if it is kept, and the first and last user of each row group."""
        if uri not in self._kept:
            with places.opened(uri) as source:
                metadata = pq.read_metadata(source)
            if len(self._kept) >= self._files:
                return metadata, _bounds(metadata)
            size = metadata.num_row_groups * metadata.num_columns
            fits = size <= self._room
            self._room -= size if fits else 0
            self._kept[uri] = metadata if fits else None, _bounds(metadata)
        return self._kept[uri]


def _bounds(metadata: pq.FileMetaData) -> Bounds:
    names = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
    at, bounds = names.index(USER), []
    for group in range(metadata.num_row_groups):
        known = metadata.row_group(group).column(at).statistics
        has = known is not None and known.has_min_max
        bounds.append((known.min, known.max) if has else (None, None))
    return bounds


_footers = _Footers(files=20_000, columns_of_groups=200_000)


class _Groups:
    """Rows of row groups of which each range would read all to keep a few: the last one of each file.

    Ranges come in the order of their users, so a file's next group takes the place of the one before. They are kept up
    to a number of bytes; those that nobody has asked for lately make room for others.
    """

    def __init__(self, room: int, stale_seconds: float) -> None:
        self._room, self._stale_seconds = room, stale_seconds
        self._kept = dict[tuple[str, Wanted], tuple[float, int, pa.Table]]()  # the latest asked for is last

    def of(self, uri: str, wanted: Wanted, group: int) -> pa.Table | None:
        """The rows of a file's group if they are kept."""
        _, kept, rows = self._kept.get((uri, wanted), (0, -1, None))
        if kept != group:
            return None
        del self._kept[uri, wanted]
        self._kept[uri, wanted] = time.monotonic(), group, rows
        return rows

    def keep(self, uri: str, wanted: Wanted, group: int, rows: pa.Table) -> None:
        """Keep them if there is room."""
        size, now = rows.get_total_buffer_size(), time.monotonic()
        if (uri, wanted) in self._kept:
            self._forget((uri, wanted))
        while self._kept and self._room < size:
            key = next(iter(self._kept))
            if now - self._kept[key][0] < self._stale_seconds:
                return
            self._forget(key)
        if size <= self._room:
            self._room -= size
            self._kept[uri, wanted] = now, group, rows

    def _forget(self, key: tuple[str, Wanted]) -> None:
        *_, rows = self._kept.pop(key)
        self._room += rows.get_total_buffer_size()


_groups = _Groups(room=64 << 20, stale_seconds=120)


def _in_range(rows: pa.Table, users: UserRange) -> pa.Table:
    inside = [_holds(users, chunk) for chunk in rows[USER].chunks]
    mask = np.concatenate(inside) if inside else np.empty(0, bool)
    if mask.all():
        return rows
    begin, end = int(mask.argmax()), len(mask) - int(mask[::-1].argmax())
    if mask[begin:end].all() and end - begin > len(mask) // 2:
        return rows.slice(begin, end - begin)  # sorted by user: nothing is copied, and not much is held beside
    few = rows.filter(pa.array(mask))
    if not pa.types.is_dictionary(few[USER].type):
        return few
    ids = few[USER].cast(pa.string()).dictionary_encode()  # of these rows alone, not of all
    return few.set_column(few.schema.get_field_index(USER), USER, ids)


def _with_known_types(rows: pa.Table) -> pa.Table:
    """Rows with plain strings: whoever rewrote a file (OPTIMIZE, DELETE by delta-rs) may have left Arrow's others."""
    kinds = [_known_type(f.type) for f in rows.schema]
    if kinds == rows.schema.types:
        return rows
    return rows.cast(pa.schema([f.with_type(kind) for f, kind in zip(rows.schema, kinds, strict=True)]))


def _known_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_known_type(kind.value_type)))
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _known_type(kind.value_type))
    return kind


def _holds(users: UserRange, ids: pa.Array) -> npt.NDArray[np.bool_]:
    if pa.types.is_dictionary(ids.type):
        return users.holds(ids.dictionary)[ids.indices.to_numpy()]
    return users.holds(ids)


@dataclasses.dataclass(frozen=True)
class AddedFile:
    """A file that was written and not yet committed; `path` is relative to `table`, the table's place."""

    table: str
    path: str
    size: int
    rows: int
    partition: Mapping[str, str]
    statistics: str

    def to_json(self) -> str:
        """One line, the inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AddedFile:
        """Rebuild from `to_json`."""
        return cls(**json.loads(text))


def write_file(
    rows: pa.Table, uri: str, partition: str | None, date: dt.date | None, layout: Layout = MANY_ROWS
) -> AddedFile:
    """Write rows of one date as a file of the table at `uri`; `partition` is its date column, in the path alone.

    Rows come by user, as ranges of users are read. A table without partitions has neither, nor an order of its rows.

    Nobody sees the file until it is committed; if it never is, VACUUM sweeps it.
    """
    rows = rows.select([c for c in rows.column_names if c != partition])
    name, values = f"part-{uuid.uuid4().hex}.parquet", {partition: str(date)} if partition else {}
    path = f"{partition}={date}/{name}" if partition else name
    with places.created(places.join(uri, path)) as sink:
        with pq.ParquetWriter(
            sink,
            rows.schema,
            **_encodings(rows.schema, layout),
            write_statistics=[USER],
            store_schema=False,
        ) as writer:
            for part in _aligned(rows, layout.group_rows) if partition else [rows]:
                writer.write_table(part, row_group_size=2 * layout.group_rows)
        size = sink.tell()
    return AddedFile(uri, path, size, rows.num_rows, values, _statistics(rows))


def _aligned(rows: pa.Table, group_rows: int) -> Iterator[pa.Table]:
    """Parts of a file's rows, none empty, of up to `group_rows` on average, that end where ranges of users do.

    See `user_ranges`: their number is a power of two, so any such number of ranges, up to as many, is made of whole
    parts. Ids that are no pseudonyms are left in one.
    """
    places = [0]
    if USER in rows.column_names and rows.num_rows > group_rows:
        ids = rows[USER].combine_chunks()
        first, last = (_prefix(ids[place].as_py()) for place in (0, -1))
        of_all = rows.num_rows * SPREAD / max(last - first + 1, 1)  # were all ids as dense as these
        count = min(1 << math.ceil(math.log2(of_all / group_rows)), SPREAD)
        for k in range(first * count // SPREAD + 1, last * count // SPREAD + 1):
            places.append(bisect.bisect_left(ids, _bound(k, count), places[-1], key=_text))
    for begin, end in itertools.pairwise([*places, rows.num_rows]):
        if end > begin:
            yield rows.slice(begin, end - begin)


_text = operator.methodcaller("as_py")


def _prefix(user: str) -> int:
    """Place of a pseudonym among `SPREAD`; 0 for another id."""
    try:
        return int(user[:4], 16)
    except ValueError:
        return 0


def _encodings(schema: pa.Schema, layout: Layout) -> dict[str, Any]:
    """How each leaf is written, as arguments of pyarrow's writer; ids are all distinct and stay plain."""
    leaves = {_leaf(f): f.type.value_type if pa.types.is_list(f.type) else f.type for f in schema if f.name != USER}
    words = [leaf for leaf, kind in leaves.items() if pa.types.is_string(kind) or pa.types.is_dictionary(kind)]
    if not layout.quick:
        return {"compression": "zstd", "use_dictionary": words}
    amounts = [leaf for leaf, kind in leaves.items() if pa.types.is_floating(kind) or pa.types.is_decimal(kind)]
    whole = [leaf for leaf, kind in leaves.items() if pa.types.is_integer(kind) or pa.types.is_timestamp(kind)]
    differences = dict.fromkeys(whole, "DELTA_BINARY_PACKED")
    return {"compression": "lz4", "use_dictionary": words + amounts, "column_encoding": differences}


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def _statistics(rows: pa.Table) -> str:
    """Delta's statistics of the flat columns as JSON."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for field in list(rows.schema)[:_STATISTICS]:
        column = rows[field.name]
        if pa.types.is_nested(field.type):
            continue
        nulls[field.name] = column.null_count
        if not _bounded(field.type) or column.null_count == len(column):
            continue
        bounds = pc.min_max(column.cast(pa.string()) if pa.types.is_dictionary(field.type) else column)
        least, most = (_plain(bounds[side].as_py()) for side in ("min", "max"))
        if not isinstance(least, str) or max(len(least), len(most)) <= _LONGEST_BOUND:
            low[field.name], high[field.name] = least, most
    return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _bounded(kind: pa.DataType) -> bool:
    """Types whose bounds JSON holds exactly: a decimal would be rounded, and rows lost to data skipping."""
    return not (pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_timestamp(kind))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value


def now_millis() -> int:
    """The clock in milliseconds, as Delta's log keeps it."""
    return int(time.time() * 1000)


@contextmanager
def _damaged(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"cannot read {uri}: it is missing or damaged ({str(error).splitlines()[0][:200]})"
        ) from None
