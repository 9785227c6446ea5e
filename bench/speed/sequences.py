"""Sequences of one as-of date, from the `events` table to a table of their own: by Tiercast and by other engines.

Every way gives the same rows: the last L events of each user before D by time and event id, as parallel arrays.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.transaction import AddAction, create_table_with_add_actions
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.building import range_tasks
from features.building.pass_plan import SEQUENCES, Output, Pass
from features.building.range_reader import EventReader
from features.core.contract import AGE, Contract, array_column
from features.kernel.sequences import SequenceSpec, arrays
from features.spark import workers
from features.storage import delta_tables, file_writer
from features.storage.file_writer import AddedFile
from features.storage.table_log import TableFile, now_millis

NUMERIC, CATEGORICAL = ("amount", "items"), ("event_type", "shop", "channel")
CHANNELS = (*NUMERIC, *CATEGORICAL)
ORDER = ["user_id", "event_time", "event_id"]

_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "length": pa.int32(),
        AGE: pa.list_(pa.int64()),
        **{array_column(c): pa.list_(pa.float32()) for c in NUMERIC},
        **{array_column(c): pa.list_(pa.string()) for c in CATEGORICAL},
    }
)


def contract(length: int) -> Contract:
    """The arrays only."""
    return Contract(length, NUMERIC, CATEGORICAL, (), ("a", "b"), "", 90, "event_time")


def emptied(place: str) -> str:
    """The folder, emptied."""
    shutil.rmtree(place, ignore_errors=True)
    return place


def tiercast(spark: SparkSession, events: list[TableFile], out: str, as_of: dt.date, length: int, rows: int) -> None:
    """By the reader and kernel of the jobs, without the aggregates."""
    wanted = [Output(SEQUENCES, emptied(out), as_of, "")]
    work = Pass(events, (), True, wanted, SequenceSpec(contract(length), None), 90)  # type: ignore[arg-type]
    ranges = range_tasks.ranges_of_users(work, rows, spark.sparkContext.defaultParallelism)

    def build(k: int) -> Iterator[AddedFile]:
        merged = EventReader(work, ranges[k]).known(as_of)
        cut = merged.last(as_of, length)
        columns = {
            "user_id": cut.users,
            "length": pa.array(cut.lengths.astype(np.int32)),
            **arrays(merged, cut, as_of, work.sequences.contract),
        }
        yield file_writer.write_file(pa.table(columns), out, "as_of_date", as_of, file_writer.STATES)

    files = workers.found(spark, len(ranges), build)
    create_table_with_add_actions(
        out,
        Schema.from_arrow(_SCHEMA.append(pa.field("as_of_date", pa.date32()))),
        [AddAction(x.path, x.size, dict(x.partition), now_millis(), True, x.statistics) for x in files],
        "overwrite",
        ["as_of_date"],
    )


def spark_collect_list(spark: SparkSession, place: str, out: str, as_of: dt.date, length: int) -> None:
    """By Spark SQL: a sorted list of structs per user, as in pytorch-lifestream, written by Spark's Delta writer."""
    events = delta_tables.read(spark, place).where(f.col("event_date") < f.lit(as_of))
    spark_lists(events, as_of, length).write.format("delta").save(emptied(out))


def spark_lists(events: DataFrame, as_of: dt.date, length: int) -> DataFrame:
    """The last events of each user as parallel arrays."""
    numbers = [f.col(c).cast("float").alias(c) for c in NUMERIC]
    struct = f.struct("event_time", "event_id", *numbers, *CATEGORICAL)
    lists = events.groupBy("user_id").agg(f.sort_array(f.collect_list(struct)).alias("e"))
    last = lists.withColumn("e", f.slice("e", f.greatest(f.lit(1), f.size("e") - length + 1), length))
    instant = f.unix_micros(f.lit(dt.datetime.combine(as_of, dt.time(), dt.UTC)))
    age = f.transform("e.event_time", lambda t: f.floor((instant - f.unix_micros(t)) / 1_000_000))
    columns = [f.col(f"e.{c}").alias(array_column(c)) for c in CHANNELS]
    return last.select("user_id", f.size("e").alias("length"), age.alias(AGE), *columns)


def polars_eager(files: list[str], out: str, as_of: dt.date, length: int) -> None:
    """By Polars: read, sort by the total order, take the last rows of each group."""
    _polars(files, as_of, length, ORDER).collect().write_delta(emptied(out))


def polars_streaming(files: list[str], out: str, as_of: dt.date, length: int) -> None:
    """The same by the streaming engine of Polars."""
    _polars(files, as_of, length, ORDER).collect(engine="streaming").write_delta(emptied(out))


def polars_by_time(files: list[str], out: str, as_of: dt.date, length: int) -> None:
    """Without the event ids: ties keep the order of the files, so rows may differ where events tie over files."""
    _polars(files, as_of, length, ORDER[:2]).collect().write_delta(emptied(out))


def _polars(files: list[str], as_of: dt.date, length: int, order: list[str]) -> pl.LazyFrame:
    instant = dt.datetime.combine(as_of, dt.time(), dt.UTC)
    events = pl.scan_parquet(files, hive_partitioning=False).select(*order, *CHANNELS)
    events = events.filter(pl.col("event_time") < instant).with_columns(
        pl.col("amount").cast(pl.Float32), pl.col("items").cast(pl.Float32)
    )
    last = events.sort(order, maintain_order=len(order) == 2).group_by("user_id", maintain_order=True)
    age = ((pl.lit(instant) - pl.col("event_time")).dt.total_microseconds() // 1_000_000).alias(AGE)
    columns = [pl.col(c).tail(length).alias(array_column(c)) for c in CHANNELS]
    return last.agg(pl.len().clip(upper_bound=length).cast(pl.Int32).alias("length"), age.tail(length), *columns)


def duckdb_lists(files: list[str], out: str, as_of: dt.date, length: int) -> None:
    """By DuckDB: a window function for the last events, lists by a sorted aggregate, written as parquet."""
    Path(emptied(out)).mkdir(parents=True)
    lists = ", ".join(
        f"list({c}::{_DUCK.get(c, 'VARCHAR')} ORDER BY event_time, event_id) {array_column(c)}" for c in CHANNELS
    )
    query = f"""
        COPY (
            SELECT user_id, count(*)::INT AS length,
                list((epoch_us(TIMESTAMPTZ '{as_of} 00:00:00+00') - epoch_us(event_time)) // 1000000
                     ORDER BY event_time, event_id) AS {AGE}, {lists}
            FROM (
                SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_time DESC, event_id DESC) AS place
                FROM read_parquet($files, hive_partitioning = false)
                WHERE event_time < TIMESTAMPTZ '{as_of} 00:00:00+00'
            ) WHERE place <= {length} GROUP BY user_id
        ) TO '{out}/rows.parquet' (FORMAT parquet, COMPRESSION zstd)"""
    with duckdb.connect() as base:
        base.execute("SET TimeZone = 'UTC'")
        base.execute(query, {"files": files})


_DUCK = {"amount": "FLOAT", "items": "FLOAT"}


def rows_of(place: str) -> pa.Table:
    """Rows of an output in a fixed order and form, to compare them."""
    parts = [pq.ParquetFile(p).read(columns=_SCHEMA.names) for p in sorted(Path(place).rglob("*.parquet"))]
    typed = [_typed(part) for part in parts]
    return pa.concat_tables(typed).sort_by("user_id")


def _typed(rows: pa.Table) -> pa.Table:
    return pa.table({field.name: rows[field.name].cast(field.type) for field in _SCHEMA})
