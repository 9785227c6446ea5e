"""Delta tables as a whole: whether there is one, its rows, version and properties, and how one is created."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaFiles
from pyspark.sql import DataFrame, SparkSession

from features.core.errors import TableMismatchError
from features.storage.failures import storage_errors
from features.storage.schemas import Table

_READABLE_BY_ALL = {
    "delta.minReaderVersion": "1",
    "delta.minWriterVersion": "2",
    "delta.enableDeletionVectors": "false",
}


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
    """Rows of the table's newest version, counted by its log: neither the rows nor Spark are needed."""
    return int(DeltaFiles(uri).count())


def version(spark: SparkSession, uri: str) -> int:
    """The table's newest version."""
    return int(_snapshot(spark, uri).version())


def _snapshot(spark: SparkSession, uri: str) -> Any:
    """Delta's own object of the newest version. The documented `history` and `detail` take half a second each."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None  # no job here runs on Spark Connect
    none = jvm.scala.Option.empty()
    return jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, uri).update(False, none, none)


def ensure(spark: SparkSession, uri: str, table: Table, properties: dict[str, str] | None = None) -> None:
    """Create the table at `uri` if there is none; else check its schema, and add the optional columns that it lacks.

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
    """Add the optional columns that the table lacks, without reading or writing its files."""
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
    """A property of the table; None if it is not set."""
    found = _snapshot(spark, uri).metadata().configuration().get(key)
    return str(found.get()) if found.isDefined() else None


def date_is(column: str, date: dt.date) -> str:
    """Predicate that selects one date's partition."""
    return f"{column} = DATE'{date.isoformat()}'"
