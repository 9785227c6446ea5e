"""Opens the source's tables, runs its query, and checks the columns that come out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from features.core.errors import SourceError
from features.settings.source import EVENT_COLUMNS, Source, SourceTable
from features.storage.failures import source_errors

MALFORMED = "_malformed_line"
_PACKAGE = "package:"


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """The rows of a source.

    Attributes:
        events: rows of the query, with the event columns and attributes.
        malformed: `source` (table name) and `line` of text lines that could not be parsed; None without text tables.
        tables: each source table within the date bounds, without malformed lines.
    """

    events: DataFrame
    malformed: DataFrame | None
    tables: dict[str, DataFrame]


def read_source(
    spark: SparkSession, source: Source, since: dt.date | None = None, until: dt.date | None = None
) -> SourceRows:
    """Open the source's tables, filter those with a date column by `since` <= date < `until`, and run the query.

    Raises:
        SourceError: a table cannot be read, or the query or its columns are wrong.
    """
    tables, malformed = {}, list[DataFrame]()
    for name, table in source.tables.items():
        with source_errors(f"source table {name!r} ({table.uri})"):
            rows = open_table(spark, table)
            if MALFORMED in rows.columns:
                # Parse all columns once: which lines are malformed depends on the columns that are parsed.
                rows = rows.persist(StorageLevel.DISK_ONLY)
                lines = rows.where(f.col(MALFORMED).isNotNull())
                malformed.append(lines.select(f.lit(name).alias("source"), f.col(MALFORMED).alias("line")))
                rows = rows.where(f.col(MALFORMED).isNull()).drop(MALFORMED)
            tables[name] = _between(rows, table.date_column, since, until)
            tables[name].createOrReplaceTempView(name)
    with source_errors("the source query"):
        events = spark.sql(source.query)
    _check_columns(events, source)
    return SourceRows(events, functools.reduce(DataFrame.unionByName, malformed) if malformed else None, tables)


def open_table(spark: SparkSession, table: SourceTable) -> DataFrame:
    """The rows of a table of the settings; in a text table the column `MALFORMED` holds lines that do not parse."""
    if table.format == "table":
        return spark.table(table.uri)
    reader = spark.read.options(**table.options)
    if table.format in ("csv", "json"):
        # Keep lines that do not parse, whole, in a column of their own.
        reader = reader.schema(f"{table.columns}, {MALFORMED} STRING").options(
            mode="PERMISSIVE", columnNameOfCorruptRecord=MALFORMED
        )
    return reader.format(table.format).load(resolve(table.uri))


def resolve(uri: str) -> str:
    """The URI itself; for `package:NAME/PATH` the path inside the installed Python package.

    Raises:
        SourceError: the package is not installed.
    """
    if not uri.startswith(_PACKAGE):
        return uri
    package, _, path = uri[len(_PACKAGE) :].partition("/")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SourceError(f"{uri}: the Python package {package!r} is not installed; pip install it")
    return str(Path(found.origin).parent / path)


def _between(rows: DataFrame, column: str | None, since: dt.date | None, until: dt.date | None) -> DataFrame:
    if column is None:
        return rows
    kind = rows.select(column).schema[0].dataType
    if not isinstance(kind, t.TimestampType | t.TimestampNTZType | t.DateType):
        raise SourceError(f"date_column {column} is {kind.simpleString()}; it may be timestamp or date")
    if since is not None:
        rows = rows.where(f.col(column) >= f.lit(since))
    return rows if until is None else rows.where(f.col(column) < f.lit(until))


_TEXT = (t.StringType,)
ID_TYPES = (t.StringType, t.IntegralType)
WORD_TYPES = (t.IntegralType, t.BooleanType, t.StringType)
_ACCEPTED: dict[str, tuple[type[t.DataType], ...]] = {
    "event_id": ID_TYPES,
    "user_id": ID_TYPES,
    "event_time": (t.TimestampType, t.TimestampNTZType, t.DateType, *_TEXT),
    "event_type": _TEXT,
    "amount": (t.NumericType, *_TEXT),
    "numeric": (t.NumericType, *_TEXT),
    "categorical": WORD_TYPES,
}


def _check_columns(events: DataFrame, source: Source) -> None:
    kinds = {**dict.fromkeys(EVENT_COLUMNS), **{n: a.type for n, a in source.attributes.items()}}
    accepted = {name: _ACCEPTED[kind or name] for name, kind in kinds.items()}
    problems = column_problems(events, accepted, "neither event columns nor under source.attributes")
    if problems:
        raise SourceError("\n".join(["the source query does not yield events:", *(f"  - {p}" for p in problems)]))


def column_problems(rows: DataFrame, accepted: Mapping[str, tuple[type[t.DataType], ...]], unknown: str) -> list[str]:
    """A line for each column that is missing, there twice, of a wrong type, or unknown."""
    found = {c.name: c.dataType for c in rows.schema}
    problems = [f"column {n} is missing" for n in accepted if n not in found]
    problems += [f"column {n} stands more than once" for n in found if rows.columns.count(n) > 1]
    for name, types in accepted.items():
        if name in found and not isinstance(found[name], types):
            wanted = ", ".join(a.__name__.removesuffix("Type").lower() for a in types)
            problems.append(f"column {name} is {found[name].simpleString()}; it may be {wanted}")
    extra = [n for n in found if n not in accepted]
    return [*problems, f"columns {extra} are {unknown}"] if extra else problems


def check_expression(spark: SparkSession, expression: str, schema: t.StructType, where: str) -> None:
    """Check, without reading data, that an SQL expression gives one number per row of `schema` that can be summed.

    Raises:
        SourceError: with the first sentence of Spark's message.
    """
    with source_errors(where):
        rows = spark.createDataFrame([], schema)
        kind = rows.select(f.expr(expression)).schema[0].dataType
        if not isinstance(kind, t.NumericType):
            raise SourceError(f"{where}: {expression} is {kind.simpleString()}; it must be a number")
        # The sum refuses what is no value of a single row: aggregates, windows, generators, random numbers.
        rows.agg(f.sum(f.expr(expression)))
