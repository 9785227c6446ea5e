"""A Delta table's log: active files at a version, and the fingerprints that tell whether rows are stale.

A fingerprint of inputs is two hashes with a dot between: of the input files, and of the settings.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import json
import time
from collections.abc import Iterable
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from features.core import places

USER, INPUTS = "user_id", "inputs_id"

_VERSIONS = 32  # versions of tables whose files are cached


@dataclasses.dataclass(frozen=True)
class TableFile:
    """An active file of a table partitioned by one date column.

    Attributes:
        uri: where it lies.
        date: its partition's date.
        rows: number of rows.
        first: smallest user id; None if Delta has no statistics.
        last: largest user id; None if Delta has no statistics.
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
    """The partition column, if there is one, and the log's columns of each active file.

    Cached, because a version never changes and is asked for once per date.
    """
    from deltalake import DeltaTable

    table = DeltaTable(uri, version=at)
    partition = next(iter(table.metadata().partition_columns), None)
    return partition, pa.table(table.get_add_actions(flatten=True))


def rows_by_date(files: Iterable[TableFile]) -> dict[dt.date, int]:
    """Number of rows of each date."""
    found: dict[dt.date, int] = {}
    for file in files:
        found[file.date] = found.get(file.date, 0) + file.rows
    return found


def inputs_at(uri: str, at: int, date: dt.date) -> set[str | None]:
    """Fingerprints of the rows of one date in version `at`, by its files' statistics; empty if it has no file."""
    _, found = _log(uri, at)
    if f"min.{INPUTS}" not in found.column_names:
        return set()
    of_date = found.filter(pc.equal(found["partition.as_of_date"], pa.scalar(date, pa.date32())))
    return {value for side in ("min", "max") for value in of_date[f"{side}.{INPUTS}"].to_pylist()}


def inputs_before(files: Iterable[TableFile], end: dt.date, *parts: object) -> str:
    """Fingerprint of the files of dates before `end`, a dot, and a fingerprint of `end` and `parts`."""
    names = sorted(f.uri.rsplit("/", 1)[1] for f in files if f.date < end)
    return f"{fingerprint(names)}.{fingerprint(end, *parts)}"


def stale(found: set[str | None], inputs: str) -> str | None:
    """Why rows with the fingerprints `found` must be written again; None if they are up to date."""
    if found == {inputs}:
        return None
    (one, *more), files = [*found] or [None], inputs.partition(".")[0]
    if not found:
        return "missing"
    return "settings changed" if not more and one and one.partition(".")[0] == files else "inputs changed"


def fingerprint(*parts: object) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_uris(uri: str, at: int) -> list[str]:
    """URIs of the active files of version `at` of the table at `uri`, partitioned or not, by name."""
    return sorted(places.join(uri, unquote(path)) for path in _log(uri, at)[1]["path"].to_pylist())


def now_millis() -> int:
    """The clock in milliseconds, as Delta's log keeps it."""
    return int(time.time() * 1000)
