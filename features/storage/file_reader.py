"""Reads a range of members, or all rows, from the parquet files of a Delta table.

Tasks read with pyarrow, so rows never become JVM objects. User ids are keyed pseudonyms, evenly spread, and files are
sorted by them: a range of ids is a bounded share of the members, and few row groups of each file. A worker remembers
footers and row groups from one range to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.core import places
from features.core.errors import StorageError
from features.storage.table_log import USER, TableFile
from features.storage.user_ranges import UserRange

Bounds = list[tuple[str | None, str | None]]
Wanted = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""`columns`, `words` and `inside` of `read_range`."""


def read_range(
    file: TableFile, users: UserRange, columns: Sequence[str], words: Sequence[str] = (), inside: Sequence[str] = ()
) -> pa.Table:
    """The rows of a file whose members lie in a range, in the file's order.

    Args:
        file: an active file.
        users: the range.
        columns: columns to read.
        words: string columns to dictionary-encode; worth it for ids if members have many rows each.
        inside: columns of string arrays to dictionary-encode; where the file does not allow it they stay plain.

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
        except pa.ArrowNotImplementedError:  # a row group has too many different words for a dictionary
            rows = _read(source, metadata, groups, wanted[0], wanted[1], ())
    if all(users.holds_all(*bounds[group]) for group in groups):
        return rows
    found = _in_range(rows, users)
    if len(groups) == 1 and 2 * found.num_rows < rows.num_rows:
        _groups.keep(file.uri, wanted, groups[0], rows)
    return found


def read_file(uri: str, columns: Sequence[str]) -> pa.Table:
    """All rows of a file, with some of its columns.

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
    # Dictionaries inside arrays are read several times as fast as strings, but from one row group at a time.
    parts = [parquet.read_row_group(g, columns=list(columns), use_threads=False) for g in groups]
    return _with_known_types(pa.concat_tables(parts))


class _Footers:
    """A worker's cache of files' metadata and of the bounds of their row groups; files never change.

    Bounds are small. Parsed metadata takes some 2 kB for each column of each row group: it is cached for up to
    `columns_of_groups` of these, and parsed again for every range of further files.
    """

    def __init__(self, files: int, columns_of_groups: int) -> None:
        self._files, self._room = files, columns_of_groups
        self._kept: dict[str, tuple[pq.FileMetaData | None, Bounds]] = {}

    def of(self, uri: str) -> tuple[pq.FileMetaData | None, Bounds]:
        """A file's metadata, None if it is not cached, and the first and last member of each row group."""
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
    """A worker's cache of one row group per file, of which a range needed less than half.

    Ranges come in the order of their ids, so the next range of the same file often needs the rest. The cache holds up
    to `room` bytes; groups that were not asked for in `stale_seconds` make room for others.
    """

    def __init__(self, room: int, stale_seconds: float) -> None:
        self._room, self._stale_seconds = room, stale_seconds
        self._kept = dict[tuple[str, Wanted], tuple[float, int, pa.Table]]()  # the latest asked for is last

    def of(self, uri: str, wanted: Wanted, group: int) -> pa.Table | None:
        """The rows of a file's row group; None if they are not cached."""
        _, kept, rows = self._kept.get((uri, wanted), (0, -1, None))
        if kept != group:
            return None
        del self._kept[uri, wanted]
        self._kept[uri, wanted] = time.monotonic(), group, rows
        return rows

    def keep(self, uri: str, wanted: Wanted, group: int, rows: pa.Table) -> None:
        """Cache the rows of a file's row group if there is room."""
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
        return rows.slice(begin, end - begin)  # one stretch and most of the rows: a view without a copy
    few = rows.filter(pa.array(mask))
    if not pa.types.is_dictionary(few[USER].type):
        return few
    ids = few[USER].cast(pa.string()).dictionary_encode()  # a dictionary of these rows' ids only
    return few.set_column(few.schema.get_field_index(USER), USER, ids)


def _with_known_types(rows: pa.Table) -> pa.Table:
    """Rows with Arrow's plain strings: files that OPTIMIZE or delta-rs rewrote may have views or large strings."""
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


@contextmanager
def _damaged(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"cannot read {uri}: it is missing or damaged ({str(error).splitlines()[0][:200]})"
        ) from None
