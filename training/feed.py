"""Batches for one rank, streamed from its own shards of the staged examples.

A global batch takes the same number of rows from each shard, and rank r of N reads shards r, r + N, ...: so the rows of
every global batch are the same for any N that divides the shards. All ranks take as many steps as the longest shard
needs; shorter ones start over. Held in memory: one shuffle buffer per own shard, and a few batches.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import uri
from features.contract import AGE, Contract
from training.tensors import Encoding, Tensors, column, to_tensors

OUTCOME_RANK, OUTCOME_VALUE = "outcome_tier_rank", "outcome_value"
TARGET_TIER, TARGET_VALUE = "target_tier", "target_log_value"


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """The staged shards of one split.

    Attributes:
        uris: one parquet file per shard.
        rows: rows of each.
    """

    uris: tuple[str, ...]
    rows: tuple[int, ...]

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


@dataclasses.dataclass(frozen=True)
class TensorMaker:
    """How rows become tensors: what `to_tensors` takes beside the rows."""

    contract: Contract
    encoding: Encoding
    width: int
    trim: int | None

    def __call__(self, rows: pa.Table) -> Tensors:
        """Tensors of the rows, with targets: `target_tier` [n] int32, `target_log_value` [n] float32 (log1p)."""
        values = column(rows, OUTCOME_VALUE).to_numpy(zero_copy_only=False)
        return {
            **to_tensors(rows, self.contract, self.encoding, self.width, self.trim),
            TARGET_TIER: column(rows, OUTCOME_RANK).to_numpy(zero_copy_only=False).astype(np.int32),
            TARGET_VALUE: np.log1p(np.maximum(values, 0.0)).astype(np.float32),
        }


def training_rows(
    shards: ShardSet,
    rank: int,
    ranks: int,
    global_batch: int,
    shuffle_rows: int,
    by_length: bool,
    seed: int,
    epoch: int,
) -> Iterator[pa.Table]:
    """The rank's rows of each step of an epoch, shuffled by (seed, epoch, shard).

    Args:
        shards: the training split.
        rank: this rank.
        ranks: how many there are; must divide the shards.
        global_batch: rows of a step over all ranks.
        shuffle_rows: rows of each shard's shuffle buffer.
        by_length: put rows of similar length together, which leaves less padding.
        seed: of the whole training.
        epoch: from 0.
    """
    share = shards.rows_per_batch(global_batch)
    streams = [
        _endless(shards.uris[number], share, shuffle_rows, by_length, (seed, epoch, number))
        for number in shards.of_rank(rank, ranks)
    ]
    for _ in range(shards.steps(global_batch)):
        yield pa.concat_tables([next(stream) for stream in streams])


def validation_rows(shards: ShardSet, rank: int, ranks: int, rows_per_batch: int) -> Iterator[pa.Table]:
    """Every row of the rank's shards once, in order."""
    for number in shards.of_rank(rank, ranks):
        if not shards.rows[number]:
            continue  # a shard of few rows may be empty, and has no file then
        with _open(shards.uris[number]) as file:
            for batch in file.iter_batches(rows_per_batch):
                yield pa.Table.from_batches([batch])


def prefetch(batches: Iterator[pa.Table], make: TensorMaker, ahead: int) -> Iterator[Tensors]:
    """Tensors of the batches, made by a thread up to `ahead` batches before they are asked for.

    An error of the thread is raised here. Closing the iterator ends the thread.
    """
    ready: queue.Queue[Tensors | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Tensors | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for rows in batches:
                if stopped.is_set():
                    return
                put(make(rows))
            put(None)
        except BaseException as error:  # raised again where the tensors are asked for
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _endless(
    address: str, rows: int, shuffle_rows: int, by_length: bool, seed: tuple[int, int, int]
) -> Iterator[pa.Table]:
    """Slices of exactly `rows` rows; after the last row the shard starts over in a new order.

    By length, each buffer is cut into slices of rows of similar length. Slices are given in an order that is the same
    for all shards, so the rows that meet in a global batch are of similar length too.
    """
    left: list[pa.Table] = []
    lap = 0
    while True:
        held: list[pa.Table] = []
        buffers = _shuffled(address, shuffle_rows, np.random.default_rng([*seed, lap]))
        for number, buffer in enumerate(buffers):
            table = pa.concat_tables([*left, buffer])
            if left and table.num_rows < rows:
                left = [table]
                continue
            if left:  # what the last lap has left goes first, so that an epoch has every row
                yield table.slice(0, rows)
                left, table = [], table.slice(rows)
            table = pa.concat_tables([*held, table])
            order: Sequence[int] | npt.NDArray[np.int64] = range(table.num_rows // rows)
            if by_length:
                table = table.take(np.argsort(_lengths(table), kind="stable"))
                order = np.argsort(np.random.default_rng([*seed[:2], lap, number]).random(len(order)))
            for k in order:
                yield table.slice(k * rows, rows)
            held = [table.slice(len(order) * rows)]
        left, lap = [t for t in (*left, *held) if t.num_rows], lap + 1


def _lengths(rows: pa.Table) -> npt.NDArray[np.int64]:
    return np.asarray(pc.list_value_length(rows[AGE]).fill_null(0), np.int64)


def _shuffled(address: str, shuffle_rows: int, random: np.random.Generator) -> Iterator[pa.Table]:
    """The shard's rows in random order: row groups permuted, then rows within buffers of some row groups."""
    with _open(address) as file:
        if not file.metadata.num_rows:
            raise ValueError(f"shard {address} has no rows")
        groups, held = [], 0
        for group in random.permutation(file.num_row_groups):
            groups.append(int(group))
            held += file.metadata.row_group(int(group)).num_rows
            if held >= shuffle_rows:
                yield _permuted(file.read_row_groups(groups, use_threads=False), random)
                groups, held = [], 0
        if groups:
            yield _permuted(file.read_row_groups(groups, use_threads=False), random)


def _permuted(rows: pa.Table, random: np.random.Generator) -> pa.Table:
    return rows.take(pa.array(random.permutation(rows.num_rows)))


def _open(address: str) -> closing[pq.ParquetFile]:
    system, path = uri.locate(address)
    return closing(pq.ParquetFile(system.open_input_file(path), pre_buffer=False))
