"""Shards of examples: parquet files that tasks write and ranks read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.core import places
from features.core.contract import Contract, outcome_column
from training.inputs.column_names import MEMBER, OUTCOME_RANK, OUTCOME_VALUE, WEIGHT, input_schema
from training.inputs.encoding_statistics import Statistics

_ROWS_READ = 8_192

TRAINING, VALIDATION = "training", "validation"
SPLITS = (TRAINING, VALIDATION)


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """The staged shards of one split.

    Attributes:
        uris: one parquet file per shard.
        rows: rows of each.
        mean_weight: of all these rows; a loss is divided by it, so that rows count 1 on average.
    """

    uris: tuple[str, ...]
    rows: tuple[int, ...]
    mean_weight: float = 1.0

    def of_rank(self, rank: int, ranks: int) -> tuple[int, ...]:
        """Numbers of the shards that a rank reads."""
        return tuple(range(rank, len(self.uris), ranks))

    def steps(self, global_batch: int) -> int:
        """Steps of one epoch, equal on all ranks."""
        return -(-max(self.rows) // self.rows_per_batch(global_batch))

    def rows_per_batch(self, global_batch: int) -> int:
        """Rows that each shard gives to a global batch; raises ValueError if the shares are not whole."""
        share, rest = divmod(global_batch, len(self.uris))
        if rest or not share:
            raise ValueError(f"a batch of {global_batch} rows cannot be shared equally by {len(self.uris)} shards")
        return share

    def filled(self) -> tuple[int, ...]:
        """Numbers of the shards that have rows; a shard without has no file."""
        return tuple(number for number, rows in enumerate(self.rows) if rows)

    def sample(self, number: int, most_rows: int) -> pa.Table:
        """A shard's part of a sample of up to about `most_rows` rows of all, equally many of each that has some.

        Places within a shard are hashes, so its first rows are a sample.
        """
        return first_rows(self.uris[number], max(1, most_rows // len(self.filled())))


def first_rows(address: str, most: int) -> pa.Table:
    """Up to `most` rows of a shard, from its beginning."""
    with open_shard(address) as file:
        found, missing = [file.schema_arrow.empty_table()], most
        for batch in file.iter_batches(min(most, _ROWS_READ)):
            found.append(pa.Table.from_batches([batch.slice(0, missing)]))
            missing -= found[-1].num_rows
            if not missing:
                break
        return pa.concat_tables(found)


def open_shard(address: str) -> closing[pq.ParquetFile]:
    """A shard open for reading, to be closed by `with`."""
    system, path = places.locate(address)
    return closing(pq.ParquetFile(system.open_input_file(path), pre_buffer=False))


def example_schema(contract: Contract, targets: Sequence[str] = ()) -> pa.Schema:
    """Arrow types of a staged example: inputs of the tensors, the outcome, its weight, and a hash of its member.

    `targets` are those of `model.targets`.
    """
    further = {OUTCOME_RANK: pa.int32(), OUTCOME_VALUE: pa.float64(), WEIGHT: pa.float64(), MEMBER: pa.int64()}
    further |= {outcome_column(name): pa.int32() for name in targets}
    return pa.schema([*input_schema(contract), *(pa.field(name, kind) for name, kind in further.items())])


def write_shards(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, contract: Contract, folder: str, row_group_rows: int
) -> Iterator[tuple[int, int, int, Statistics]]:
    """Write a stream of examples that is sorted by `split` and `shard`, one file for each; pure but for the files.

    `schema` is an `example_schema`. Row groups have exactly `row_group_rows` rows but for the last, however the stream
    is cut into batches.

    Yields:
        split, shard, rows, and the statistics of a training shard (empty for validation), as each is finished.
    """
    for (split, shard), parts in _runs(batches):
        statistics, count = Statistics.empty(contract), 0
        with (
            places.writing(shard_uri(folder, split, shard)) as file,
            pq.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer,
        ):
            for group in _regrouped(parts, row_group_rows):
                rows = group.select(schema.names).cast(schema)
                writer.write_table(rows, row_group_size=row_group_rows)
                count += rows.num_rows
                if split == SPLITS.index(TRAINING):
                    statistics.add(rows, contract)
        yield split, shard, count, statistics


def _runs(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[tuple[int, int], Iterator[pa.Table]]]:
    """Consecutive rows of one split and shard; each run has to be read to its end before the next."""
    pieces = _pieces(batches)
    ahead = next(pieces, None)
    while ahead is not None:
        key, first = ahead
        ahead = None

        def run(key: tuple[int, int] = key, first: pa.Table = first) -> Iterator[pa.Table]:
            nonlocal ahead
            yield first
            for found, rows in pieces:
                if found != key:
                    ahead = (found, rows)
                    return
                yield rows

        yield key, run()


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    for batch in batches:
        keys = np.stack([batch.column(n).to_numpy() for n in ("split", "shard")], axis=1)
        changes = np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1
        for start, end in zip([0, *changes], [*changes, len(keys)], strict=True):
            if end > start:
                rows = pa.Table.from_batches([batch.slice(start, end - start)])
                yield (int(keys[start, 0]), int(keys[start, 1])), rows


def _regrouped(parts: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    count = 0
    for part in parts:
        held.append(part)
        count += part.num_rows
        if count >= rows:
            table = pa.concat_tables(held)
            whole = count - count % rows
            yield from (table.slice(start, rows) for start in range(0, whole, rows))
            held, count = [table.slice(whole)], count - whole
    if count:
        yield pa.concat_tables(held)


def shard_uri(folder: str, split: int, shard: int) -> str:
    """Where a shard of a split lies."""
    return places.join(folder, f"{SPLITS[split]}-{shard:05d}.parquet")
