"""Reading and committing Delta tables: one way to open, one way to commit.

Every commit is idempotent and exclusive: it carries the run's id, and a transaction version one above the table
version that the run saw. A second writer of the same rows either meets Delta's conflict check or finds its
transaction version taken; both end in `ConcurrentWriteError`, with nothing of the second writer in the table.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import delta.exceptions as delta_errors
import pyarrow as pa
from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaFiles
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.errors import ConcurrentWriteError, StorageError, TableMismatchError
from features.table_files import AddedFile, now_millis
from features.tables import Table

_READABLE_BY_ALL = {
    "delta.minReaderVersion": "1",
    "delta.minWriterVersion": "2",
    "delta.enableDeletionVectors": "false",
}
_RETRIES = 100  # commits of others that may come in between
_RECENT_COMMITS = 100  # far more than can land beside one write


def exists(spark: SparkSession, uri: str) -> bool:
    """Whether a Delta table lies at `uri`."""
    return DeltaTable.isDeltaTable(spark, uri)


def read(spark: SparkSession, uri: str, version: int | None = None) -> DataFrame:
    """The table at `uri`, at its newest or a given version."""
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(uri)


def scalar(rows: DataFrame) -> Any:
    """The first column of the only row of an aggregate."""
    row = rows.first()
    assert row is not None  # an aggregate without groups has one row
    return row[0]


def row_count(uri: str) -> int:
    """Rows of the table's newest version, as its log counts them; nothing of the rows is read, nor Spark asked."""
    return int(DeltaFiles(uri).count())


def version(spark: SparkSession, uri: str) -> int:
    """The table's newest version."""
    return int(_snapshot(spark, uri).version())


def _snapshot(spark: SparkSession, uri: str) -> Any:
    """Delta's own object: `history` and `detail`, the documented ways, are Spark jobs of half a second each."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None  # no job here runs on Spark Connect
    none = jvm.scala.Option.empty()
    return jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, uri).update(False, none, none)


def ensure(spark: SparkSession, uri: str, table: Table, properties: dict[str, str] | None = None) -> None:
    """Create the table at `uri` if there is none; otherwise check that it has the wanted schema.

    It gets the optional columns that it lacks.

    Raises:
        TableMismatchError: with every difference, if the table has another schema or other partition columns.
        StorageError: the place cannot be written.
    """
    with storage_errors(f"create table {table.name} at {uri}"):
        if not exists(spark, uri):
            builder = DeltaTable.createIfNotExists(spark).location(uri).addColumns(table.schema)
            for key, value in {**_READABLE_BY_ALL, **table.properties, **(properties or {})}.items():
                builder = builder.property(key, value)
            (builder.partitionedBy(*table.partitioned_by) if table.partitioned_by else builder).execute()
            return
        problems = _differences(spark, uri, table)
        if not problems:
            _grow(spark, uri, table)
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise TableMismatchError(
            f"the table at {uri} is not the {table.name} that the settings describe:\n{lines}\n"
            "use another storage.root, or remove the table if it can be rebuilt"
        )


def _grow(spark: SparkSession, uri: str, table: Table) -> None:
    """Add the optional columns that the table lacks; none of its files is read or written."""
    found = set(read(spark, uri).columns)
    added = [c for c in table.fields if c.name not in found]
    if added:
        columns = ", ".join(f"`{c.name}` {c.dataType.simpleString()} COMMENT '{c.metadata['comment']}'" for c in added)
        spark.sql(f"ALTER TABLE delta.`{uri}` ADD COLUMNS ({columns})")


def _differences(spark: SparkSession, uri: str, table: Table) -> list[str]:
    found = {c.name: c.dataType.simpleString() for c in read(spark, uri).schema}
    wanted = {c.name: c.dataType.simpleString() for c in table.fields}
    problems = [f"column {n} is missing" for n in wanted if n not in found and not _optional(table, n)]
    problems += [f"column {n} is not expected" for n in found if n not in wanted and not _optional(table, n)]
    problems += [
        f"column {n} is {found[n]}, expected {wanted[n]}" for n in wanted if n in found and found[n] != wanted[n]
    ]
    by, wanted_by = _snapshot(spark, uri).metadata().partitionColumns().mkString(", "), ", ".join(table.partitioned_by)
    if by != wanted_by:
        problems.append(f"partitioned by {by or 'nothing'}, expected {wanted_by or 'nothing'}")
    return problems


def _optional(table: Table, column: str) -> bool:
    return table.optional is not None and re.fullmatch(table.optional, column) is not None


def table_property(spark: SparkSession, uri: str, key: str) -> str | None:
    """A property of the table, or None."""
    found = _snapshot(spark, uri).metadata().configuration().get(key)
    return str(found.get()) if found.isDefined() else None


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


def date_is(column: str, date: dt.date) -> str:
    """Predicate that selects one date's partition."""
    return f"{column} = DATE'{date.isoformat()}'"


_CONFLICTS = (
    delta_errors.ConcurrentAppendException,
    delta_errors.ConcurrentDeleteReadException,
    delta_errors.ConcurrentDeleteDeleteException,
    delta_errors.ConcurrentTransactionException,
    delta_errors.ConcurrentWriteException,
    delta_errors.MetadataChangedException,
    delta_errors.ProtocolChangedException,
)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn Delta's and Hadoop's exceptions while `doing` into the project's, with the cause in one line."""
    try:
        yield
    except _CONFLICTS as error:
        raise ConcurrentWriteError(
            f"could not {doing}: another run committed at the same time; nothing of this run was written: run it again"
        ) from error
    except AnalysisException:
        raise
    except PySparkException as error:
        cause = storage_cause(str(error))
        if cause is None:
            raise
        raise StorageError(f"could not {doing}: {cause}") from error
    except Exception as error:  # py4j reports what has no Python twin as its own class
        cause = storage_cause(str(error))
        if cause is None:
            raise
        raise StorageError(f"could not {doing}: {cause}") from error


_STORAGE_SIGNS = (
    "Permission denied",
    "Mkdirs failed",
    "No space left",
    "Read-only file system",
    "AccessControlException",
    "AccessDeniedException",
    "Not a directory",
    "ParentNotDirectory",
    "No FileSystem for scheme",
    "UnknownHostException",
)


def storage_cause(text: str) -> str | None:
    """The line of an error's text that tells of storage, or None."""
    for line in text.splitlines():
        if any(sign in line for sign in _STORAGE_SIGNS):
            return line.strip()[:300]
    return None
