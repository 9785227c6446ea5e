"""Batches for one rank, streamed from its own shards of the staged examples.

A global batch takes the same number of rows from each shard, and rank r of N reads shards r, r + N, ...: so the rows of
every global batch are the same for any N that divides the shards. All ranks take as many steps as the longest shard
needs; shorter ones start over. Held in memory: one shuffle buffer per own shard, a few batches, and the encoded rows
that a setting allows to be kept for the next epoch.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq

from features.core.arrays import Ints
from training.examples.labelled_rows import Chosen, EncodedRows, Labelled
from training.examples.shards import ShardSet, open_shard
from training.inputs.tensors import Tensors


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """In which order the rows of an epoch come.

    Attributes:
        rows: of each shard's shuffle buffer.
        by_length: put rows of similar length together, which leaves less padding.
        seed: of the whole training.
        epoch: from 0.
    """

    rows: int
    by_length: bool
    seed: int
    epoch: int


def training_batches(
    shards: ShardSet, encoded: EncodedRows, rank: int, ranks: int, global_batch: int, shuffle: Shuffle
) -> Iterator[Tensors]:
    """The rank's tensors of each step of an epoch, shuffled by (seed, epoch, shard).

    Args:
        shards: the training split.
        encoded: how rows become numbers and tensors, the same object in all epochs.
        rank: this rank.
        ranks: how many there are; must divide the shards.
        global_batch: rows of a step over all ranks.
        shuffle: in which order rows come.
    """
    share = shards.rows_per_batch(global_batch)
    streams = [_endless(shards.uris[k], k, encoded, share, shuffle) for k in shards.of_rank(rank, ranks)]
    for _ in range(shards.steps(global_batch)):
        yield encoded.make.tensors(Chosen.joined([next(stream) for stream in streams]))


def validation_batches(
    shards: ShardSet,
    encoded: EncodedRows,
    rank: int,
    ranks: int,
    rows_per_batch: int,
    buffer_rows: int,
    by_length: bool,
) -> Iterator[Tensors]:
    """Every row of the rank's shards once, in order, or by length within buffers of so many rows."""
    for number in shards.of_rank(rank, ranks):
        if not shards.rows[number]:
            continue  # a shard of few rows may be empty, and has no file then
        address = shards.uris[number]
        with open_shard(address) as file:
            for buffer in _buffers(address, encoded, file, range(file.num_row_groups), buffer_rows):
                lengths = buffer.encoded.lengths
                order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(lengths))
                rows = Chosen.of(buffer, order)
                for begin in range(0, len(rows), rows_per_batch):
                    yield encoded.make.tensors(rows.at(slice(begin, begin + rows_per_batch)))


def prefetch(batches: Iterator[Tensors], ahead: int) -> Iterator[Tensors]:
    """The batches, made by a thread up to `ahead` of them before they are asked for.

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
            for batch in batches:
                if stopped.is_set():
                    return
                put(batch)
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


def _endless(address: str, shard: int, encoded: EncodedRows, rows: int, shuffle: Shuffle) -> Iterator[Chosen]:
    """Exactly `rows` rows of a shard at a time; after its last row it starts over in a new order.

    By length, each buffer is cut into slices of rows of similar length. Slices are given in an order that is the same
    for all shards, so the rows that meet in a global batch are of similar length too.
    """
    left: list[Chosen] = []
    lap, seed = 0, (shuffle.seed, shuffle.epoch)
    while True:
        held: list[Chosen] = []
        buffers = _shuffled(address, encoded, shuffle.rows, np.random.default_rng([*seed, shard, lap]))
        for number, buffer in enumerate(buffers):
            pool = Chosen.joined([*left, buffer])
            if left and len(pool) < rows:
                left = [pool]
                continue
            if left:  # what the last lap has left goes first, so that an epoch has every row
                yield pool.at(slice(rows))
                left, pool = [], pool.at(slice(rows, None))
            pool = Chosen.joined([*held, pool])
            order: Sequence[int] | Ints = range(len(pool) // rows)
            if shuffle.by_length:
                pool = pool.at(np.argsort(pool.lengths, kind="stable"))
                order = np.argsort(np.random.default_rng([*seed, lap, number]).random(len(order)))
            for k in order:
                yield pool.at(slice(k * rows, (k + 1) * rows))
            held = [rest] if len(rest := pool.at(slice(len(order) * rows, None)).alone()) else []
        left, lap = [*left, *held], lap + 1


def _shuffled(address: str, encoded: EncodedRows, shuffle_rows: int, random: np.random.Generator) -> Iterator[Chosen]:
    """The shard's rows in random order: row groups permuted, then rows within buffers of some row groups."""
    with open_shard(address) as file:
        if not file.metadata.num_rows:
            raise ValueError(f"shard {address} has no rows")
        for buffer in _buffers(address, encoded, file, random.permutation(file.num_row_groups), shuffle_rows):
            yield _permuted(buffer, random)


def _buffers(
    address: str, encoded: EncodedRows, file: pq.ParquetFile, groups: Iterable[int], rows: int
) -> Iterator[Labelled]:
    """The rows of row groups, in buffers of so many groups that each but the last has at least `rows` rows."""
    together, held = list[int](), 0
    for group in groups:
        together.append(int(group))
        held += file.metadata.row_group(int(group)).num_rows
        if held >= rows:
            yield encoded.of(address, file, together)
            together, held = [], 0
    if together:
        yield encoded.of(address, file, together)


def _permuted(rows: Labelled, random: np.random.Generator) -> Chosen:
    return Chosen.of(rows, random.permutation(len(rows.outcome_rank)))
