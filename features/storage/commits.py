"""Commits to Delta tables: rows or files that tasks wrote, all or nothing, and the notes kept with them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence

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

_RETRIES = 100  # commits of others that may come in between
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
    """Commit `rows` once and return the version that holds them.

    Args:
        rows: columns of the table, any order.
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
        .option("userMetadata", json.dumps({"run_id": run_id, **(notes or {})}))
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
    alone: bool = False,
) -> int:
    """Commit files that tasks have written: of the dates `replaced` in place of what stands, of others beside it.

    Args:
        uri: where the table lies; `ensure` has been called.
        table: its schema, partitioned by one date column, or not at all.
        run_id: identity of the run; kept in the commit.
        seen: the table version on which the run decided to write.
        replaced: partitions whose files are removed.
        files: what is added.
        notes: kept in the commit beside the run's id; see `last_notes`.
        alone: a commit of any date since `seen` is a conflict, because what is added depends on all that stands.

    Raises:
        ConcurrentWriteError: another writer committed one of the dates, added to or replaced, since `seen`.
        StorageError: the place cannot be written.
    """
    partition, gone = next(iter(table.partitioned_by), None), {d.isoformat() for d in replaced}
    wanted = gone | {date for f in files for date in f.partition.values()}
    added = [AddAction(f.path, f.size, dict(f.partition), now_millis(), True, f.statistics) for f in files]
    watched = None if alone or partition is None else wanted
    planned_on = _files_of(DeltaFiles(uri, version=seen), partition, watched)
    note = json.dumps({"run_id": run_id, **(notes or {})})
    one = date_is(partition, dt.date.fromisoformat(*wanted)) if partition and len(wanted) == 1 else None
    scope = one or (f"{len(wanted)} dates" if partition else None)
    with storage_errors(f"write table {table.name} at {uri}"):
        for _ in range(_RETRIES):
            newest = DeltaFiles(uri)
            if _files_of(newest, partition, watched) != planned_on:
                raise _lost(table, uri, scope)
            removed = [
                RemoveAction(path, True, now_millis(), size=size, partition_values={str(partition): date})
                for path, date, size in planned_on
                if date in gone
            ]
            try:
                newest.create_write_transaction(
                    [*added, *removed],
                    "append",
                    newest.schema(),
                    list(table.partitioned_by),
                    commit_properties=CommitProperties(
                        custom_metadata={"userMetadata": note},
                        max_commit_retries=0,  # delta-rs would take other dates for conflicts: they are told apart here
                        app_transactions=[
                            Transaction(f"tiercast:{table.name}:{scope or 'append'}", newest.version() + 1)
                        ],
                    ),
                )
                return newest.version() + 1
            except CommitFailedError:
                continue  # somebody committed in between: look again
    raise _lost(table, uri, scope)


def _files_of(table: DeltaFiles, partition: str | None, dates: set[str] | None) -> set[tuple[str, str, int]]:
    """Path, date and size of the files of some dates, or of all; without partitions the date is nothing."""
    found = pa.table(table.get_add_actions(flatten=True))
    date = found[f"partition.{partition}"] if partition else pa.nulls(found.num_rows)
    rows = zip(*(c.to_pylist() for c in (found["path"], date, found["size_bytes"])), strict=True)
    return {(path, str(date), size) for path, date, size in rows if dates is None or str(date) in dates}


def append(uri: str, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Append a few rows of the driver's own, without a Spark job; `ensure` has been called.

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


def _notes(entry: Mapping[str, object]) -> dict[str, object]:
    return dict(json.loads(str(entry.get("userMetadata") or "{}")))


def last_notes(uri: str) -> dict[str, object]:
    """For each note's name what the newest commit that has one of this name says."""
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
