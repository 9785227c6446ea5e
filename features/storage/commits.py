"""Commits to Delta tables: of rows, or of files that tasks wrote, all or nothing; and the notes kept in them.

A commit is exclusive: a writer that planned on rows which another run has changed since meets `ConcurrentWriteError`,
and nothing of it is written. Commits of rows leave that to Delta's own check and to a transaction version one above the
table version that the run saw. Commits of files compare the files that they planned on with the present ones.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence, Set

import pyarrow as pa
from deltalake import DeltaTable as DeltaFiles
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core.errors import ConcurrentWriteError
from features.storage.delta_tables import date_is
from features.storage.failures import storage_errors
from features.storage.file_writer import AddedFile
from features.storage.schemas import Table
from features.storage.table_log import now_millis

_RETRIES = 100  # other commits that may come in between
_RECENT_COMMITS = 100  # far more than can land beside one write


def commit(
    rows: DataFrame,
    uri: str,
    table: Table,
    run_id: str,
    seen: int,
    replace: str | None = None,
    notes: Mapping[str, int | str] | None = None,
) -> int:
    """Commit `rows` and return the version that holds them.

    Args:
        rows: columns of the table, in any order.
        uri: where the table lies; `ensure` has been called.
        table: its schema.
        run_id: identity of the run; kept in the commit.
        seen: the table version on which the run decided to write.
        replace: predicate of the rows that these replace (`replaceWhere`); None appends.
        notes: kept in the commit beside the run's id; see `last_notes`.

    Raises:
        ConcurrentWriteError: another writer committed the same rows, or appended, since `seen`.
        StorageError: the place cannot be written.
    """
    scope = f"tiercast:{table.name}:{replace or 'append'}"
    writer = (
        rows.select(*[f.col(c.name).cast(c.dataType).alias(c.name) for c in table.fields])
        .write.format("delta")
        .option("txnAppId", scope)
        .option("txnVersion", seen + 1)
        .option("userMetadata", _note(run_id, notes))
    )
    writer = writer.mode("append") if replace is None else writer.mode("overwrite").option("replaceWhere", replace)
    with storage_errors(f"write table {table.name} at {uri}"):
        writer.save(uri)
        return _version_of(uri, table, run_id, replace)


def commit_files(
    uri: str,
    table: Table,
    run_id: str,
    seen: int,
    replaced: Collection[dt.date],
    files: Sequence[AddedFile],
    notes: Mapping[str, int | str] | None = None,
) -> int:
    """Commit files that tasks have written, replace some dates in the same commit, and return the new version.

    Args:
        uri: where the table lies; `ensure` has been called.
        table: its schema, partitioned by one date column, or not at all.
        run_id: identity of the run; kept in the commit.
        seen: the table version on which the run decided to write.
        replaced: dates whose present files are removed.
        files: what is added; on dates that are not replaced it lies beside the present files.
        notes: kept in the commit beside the run's id; see `last_notes`.

    Raises:
        ConcurrentWriteError: another writer committed one of the dates, added to or replaced, since `seen`.
        StorageError: the place cannot be written.
    """
    change = _Change(uri, table, _note(run_id, notes), frozenset(d.isoformat() for d in replaced), files)
    return change.commit(seen, change.dates if table.partitioned_by else None)


def append_files(uri: str, table: Table, run_id: str, seen: int, files: Sequence[AddedFile]) -> int:
    """Commit files that depend on all rows of the table, and return the new version; see `commit_files`.

    Raises:
        ConcurrentWriteError: another writer committed anything since `seen`.
        StorageError: the place cannot be written.
    """
    return _Change(uri, table, _note(run_id), frozenset(), files).commit(seen, None)


@dataclasses.dataclass(frozen=True)
class _Change:
    """What one commit of files does to a table.

    Attributes:
        uri: where the table lies.
        table: its schema.
        note: JSON that is kept in the commit.
        replaced: ISO dates whose present files are removed.
        files: what is added.
    """

    uri: str
    table: Table
    note: str
    replaced: frozenset[str]
    files: Sequence[AddedFile]

    @property
    def dates(self) -> frozenset[str]:
        """ISO dates that are added to or replaced."""
        return self.replaced | {date for f in self.files for date in f.partition.values()}

    @property
    def scope(self) -> str | None:
        """The dates in words: a predicate for one, their number for several, None without partitions."""
        if self._partition is None:
            return None
        one = len(self.dates) == 1
        return date_is(self._partition, dt.date.fromisoformat(*self.dates)) if one else f"{len(self.dates)} dates"

    @property
    def _partition(self) -> str | None:
        return next(iter(self.table.partitioned_by), None)

    def commit(self, seen: int, watched: Set[str] | None) -> int:
        """Commit unless files of the dates `watched` (None: of the whole table) have changed since version `seen`."""
        planned_on = _files_of(DeltaFiles(self.uri, version=seen), self._partition, watched)
        with storage_errors(f"write table {self.table.name} at {self.uri}"):
            for _ in range(_RETRIES):
                newest = DeltaFiles(self.uri)
                if _files_of(newest, self._partition, watched) != planned_on:
                    break
                try:
                    return self._attempt(newest, planned_on)
                except CommitFailedError:
                    continue  # somebody committed in between: look again
        raise _lost(self.table, self.uri, self.scope)

    def _attempt(self, newest: DeltaFiles, present: Set[tuple[str, str, int]]) -> int:
        added = [AddAction(f.path, f.size, dict(f.partition), now_millis(), True, f.statistics) for f in self.files]
        removed = [
            RemoveAction(path, True, now_millis(), size=size, partition_values={str(self._partition): date})
            for path, date, size in present
            if date in self.replaced
        ]
        version = newest.version() + 1
        properties = CommitProperties(
            custom_metadata={"userMetadata": self.note},
            max_commit_retries=0,  # delta-rs takes commits of other dates for conflicts: `commit` tells them apart
            app_transactions=[Transaction(f"tiercast:{self.table.name}:{self.scope or 'append'}", version)],
        )
        partitions = list(self.table.partitioned_by)
        newest.create_write_transaction(
            [*added, *removed], "append", newest.schema(), partitions, commit_properties=properties
        )
        return version


def _files_of(table: DeltaFiles, partition: str | None, dates: Set[str] | None) -> set[tuple[str, str, int]]:
    """Path, date and size of the files of some dates; None: of all. Without partitions the date is `None` as text."""
    found = pa.table(table.get_add_actions(flatten=True))
    date = found[f"partition.{partition}"] if partition else pa.nulls(found.num_rows)
    rows = zip(*(c.to_pylist() for c in (found["path"], date, found["size_bytes"])), strict=True)
    return {(path, str(date), size) for path, date, size in rows if dates is None or str(date) in dates}


def append(uri: str, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Append a few rows that the driver holds, without a Spark job; `ensure` has been called.

    Raises:
        StorageError: the place cannot be written.
    """
    with storage_errors(f"write table {table.name} at {uri}"):
        write_deltalake(uri, pa.Table.from_pylist(list(rows), table.arrow_schema), mode="append")


def _version_of(uri: str, table: Table, run_id: str, replace: str | None) -> int:
    for entry in DeltaFiles(uri).history(_RECENT_COMMITS):
        if _notes(entry).get("run_id") == run_id:
            return int(entry["version"])
    raise _lost(table, uri, replace)


def _note(run_id: str, notes: Mapping[str, int | str] | None = None) -> str:
    return json.dumps({"run_id": run_id, **(notes or {})})


def _notes(entry: Mapping[str, object]) -> dict[str, object]:
    return dict(json.loads(str(entry.get("userMetadata") or "{}")))


def last_notes(uri: str) -> dict[str, object]:
    """All notes by name; of several with one name the newest commit's."""
    found: dict[str, object] = {}
    for entry in DeltaFiles(uri).history():
        found = {**_notes(entry), **found}
    return found


def _lost(table: Table, uri: str, replace: str | None) -> ConcurrentWriteError:
    scope = f" for {replace}" if replace else ""
    return ConcurrentWriteError(
        f"another run wrote {table.name} at {uri}{scope} at the same time; its rows stand and nothing of this run was "
        "written: run this job again"
    )
