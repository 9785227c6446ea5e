"""Writes the accepted and refused rows of a batch as files, by tasks, from the blobs of `shards.settled`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql.types import StructType

from features.ingest.blobs import packed, places_of, unpacked
from features.ingest.repeats import ACCEPTED, REJECTED
from features.ingest.shards import task_count
from features.spark import workers
from features.storage import file_reader, file_writer, schemas
from features.storage.file_writer import AddedFile
from features.storage.user_ranges import SPREAD

_PORTION = "portion LONG, known BOOLEAN, blob BINARY"

_IDENTITY = "rejection_id"
_NO_IDENTITY = pa.table({_IDENTITY: pa.array([], pa.string())})


def refused(rows: DataFrame, schema: StructType) -> DataFrame:
    """The refused rows of `settled`, with the columns of `schema`, some of `events_rejected`."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["blob"]:
                yield from unpacked(blob).select(schema.names).to_batches()

    return workers.mapped(_blobs_of(rows, REJECTED), task, schema)


def write_refused(rows: DataFrame, uri: str, known: Sequence[str], count: int, rows_per_file: int) -> list[AddedFile]:
    """Write the refused rows of `settled` that `events_rejected` does not have yet; return the files, uncommitted.

    Args:
        rows: of `settled`.
        uri: where `events_rejected` lies.
        known: URIs of its files.
        count: number of refused rows.
        rows_per_file: rows of a file, about; more rows go into several files, by ranges of identities.
    """
    spark, portions = rows.sparkSession, -(-count // rows_per_file)

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for blob in batch["blob"]:
                yield from _cut_up(unpacked(blob), portions, False)

    def identities(file: int) -> Iterator[pa.RecordBatch]:
        yield from _cut_up(file_reader.read_file(known[file], [_IDENTITY]), portions, True)

    def portion_file(blobs: pa.Table) -> pa.Table:
        stand = pc.equal(blobs["known"], True)
        found = [
            pa.concat_tables([unpacked(blob) for blob in blobs.filter(side)["blob"]] or [_NO_IDENTITY])
            for side in (stand, pc.invert(stand))
        ]
        fresh = found[1].filter(pc.invert(pc.is_in(found[1][_IDENTITY], found[0][_IDENTITY].combine_chunks())))
        files = [file_writer.write_file(fresh, uri, None, None).to_json()] if fresh.num_rows else []
        return pa.table({file_writer.FILE: pa.array(files, pa.string())})

    pieces = workers.mapped(_blobs_of(rows, REJECTED), split, _PORTION)
    if known:
        pieces = pieces.unionByName(workers.rows(spark, len(known), identities, _PORTION, task_count(spark)))
    grouped = pieces.groupBy("portion")
    return file_writer.collected(grouped.applyInArrow(workers.prompt(portion_file), f"{file_writer.FILE} STRING"))


def _cut_up(rows: pa.Table, portions: int, known: bool) -> Iterator[pa.RecordBatch]:
    for portion, piece in _portions(rows, _IDENTITY, portions):
        yield pa.record_batch({"portion": [portion], "known": [known], "blob": [packed(piece)]})


def _blobs_of(rows: DataFrame, status: str) -> DataFrame:
    return rows.where((f.col("status") == status) & f.col("blob").isNotNull()).select("event_date", "blob")


def write(rows: DataFrame, uri: str, by_date: Mapping[dt.date, int], rows_per_file: int) -> list[AddedFile]:
    """Write the accepted rows of `settled` as files of `events` and return these, uncommitted.

    Args:
        rows: of `settled`.
        uri: where `events` lies.
        by_date: number of accepted rows of each date.
        rows_per_file: rows of a file, about; a date with more gets several files, by ranges of members.
    """
    portions = {day: -(-count // rows_per_file) for day, count in by_date.items()}

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for day, blob in zip(batch["event_date"].to_pylist(), batch["blob"], strict=True):
                if portions[day] == 1:
                    yield pa.record_batch({"event_date": [day], "portion": [0], "blob": [blob.as_py()]})
                    continue
                for portion, piece in _portions(unpacked(blob), "user_id", portions[day]):
                    yield pa.record_batch({"event_date": [day], "portion": [portion], "blob": [packed(piece)]})

    def portion_file(key: tuple[pa.Scalar, ...], blobs: pa.Table) -> pa.Table:
        events = pa.concat_tables([unpacked(blob) for blob in blobs["blob"]]).combine_chunks()
        events = events.sort_by([(c, "ascending") for c in schemas.EVENT_ORDER.split(", ")])
        file = file_writer.write_file(events, uri, "event_date", key[0].as_py())
        return pa.table({file_writer.FILE: [file.to_json()]})

    pieces = workers.mapped(_blobs_of(rows, ACCEPTED), split, "event_date DATE, portion LONG, blob BINARY")
    grouped = pieces.groupBy("event_date", "portion")
    return file_writer.collected(grouped.applyInArrow(workers.prompt(portion_file), f"{file_writer.FILE} STRING"))


def _portions(rows: pa.Table, ids: str, count: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows divided into up to `count` portions by ranges of the column `ids`, none empty, with their numbers."""
    portion = places_of(rows[ids]) * count // SPREAD
    for number in np.unique(portion):
        yield int(number), rows.filter(pa.array(portion == number))
