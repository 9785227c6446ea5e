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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features import uri
from features.contract import Contract, outcome_column
from training.tensors import Array, Encoded, Encoding, Tensors, column, trimmed

Ints = npt.NDArray[np.int64]

OUTCOME_RANK, OUTCOME_VALUE, WEIGHT = "outcome_tier_rank", "outcome_value", "weight"
TARGET_TIER, TARGET_VALUE, TARGET_WEIGHT = "target_tier", "target_log_value", "target_weight"
TAUGHT = "target_taught"
"""Tensor [n, K]: probabilities of a teacher, that are learned beside the outcome."""
MEMBER = "member"
"""Column and tensor: a hash of the user, by which rows of one member at several dates are known."""
NO_OUTCOME = -1
"""Outcome rank of a row without one."""


def target_tensor(target: str) -> str:
    """Name of the tensor of one of `model.targets`."""
    return f"target_{target}"


@dataclasses.dataclass(frozen=True)
class ShardSet:
    """The staged shards of one split.

    Attributes:
        uris: one parquet file per shard.
        rows: rows of each.
        mean_weight: of all these rows; a loss divided by it is that of rows that count 1 on average.
    """

    uris: tuple[str, ...]
    rows: tuple[int, ...]
    mean_weight: float = 1.0

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ShardSet:
        """Rebuild from `dataclasses.asdict`, also after a way through JSON."""
        return cls(tuple(stored["uris"]), tuple(stored["rows"]), stored["mean_weight"])

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


@dataclasses.dataclass(frozen=True)
class Labelled:
    """n encoded rows and what came true.

    `outcome_rank` [n] int32; `log_value` [n] float32, log1p of the value; `weight` [n] float32, what the row counts;
    `member` [n] int64 tells rows of one member; `targets` by the names of their tensors: [n] int32 each, and `TAUGHT`.
    """

    encoded: Encoded
    outcome_rank: Array
    log_value: Array
    weight: Array
    member: Array
    targets: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Labelled]) -> Labelled:
        """The rows of all parts, one after the other."""
        names = ("outcome_rank", "log_value", "weight", "member")
        others = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        targets = {name: np.concatenate([p.targets[name] for p in parts]) for name in parts[0].targets}
        return cls(Encoded.joined([p.encoded for p in parts]), **others, targets=targets)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """n rows of encoded buffers: the buffers, and of each row its buffer [n] and its place there [n]."""

    buffers: tuple[Labelled, ...]
    buffer: Ints
    place: Ints

    @classmethod
    def of(cls, buffer: Labelled, places: Ints) -> Chosen:
        """Rows of one buffer."""
        return cls((buffer,), np.zeros(len(places), np.int64), places)

    @classmethod
    def joined(cls, parts: Sequence[Chosen]) -> Chosen:
        """The rows of all parts, one after the other."""
        begins = np.cumsum([0, *(len(p.buffers) for p in parts)])
        return cls(
            tuple(b for p in parts for b in p.buffers),
            np.concatenate([p.buffer + begin for p, begin in zip(parts, begins, strict=False)]),
            np.concatenate([p.place for p in parts]),
        )

    def __len__(self) -> int:
        """How many rows."""
        return len(self.place)

    def at(self, rows: slice | Ints) -> Chosen:
        """Some of the rows."""
        return Chosen(self.buffers, self.buffer[rows], self.place[rows])

    def alone(self) -> Chosen:
        """The same rows without the buffers that none of them is in, so that these can be freed."""
        used, buffer = np.unique(self.buffer, return_inverse=True)
        return Chosen(tuple(self.buffers[k] for k in used), buffer, self.place)

    @property
    def lengths(self) -> Ints:
        """[n] events of each row."""
        begins = np.cumsum([0, *(len(b.encoded.lengths) for b in self.buffers)])
        return np.concatenate([b.encoded.lengths for b in self.buffers])[begins[self.buffer] + self.place]

    def by_buffer(self) -> Iterator[tuple[Labelled, Ints]]:
        """Each buffer that has rows among these, and their places."""
        for k in np.unique(self.buffer):
            yield self.buffers[k], self.place[self.buffer == k]


@dataclasses.dataclass(frozen=True)
class TensorMaker:
    """How rows become tensors.

    Attributes:
        contract: what the rows mean.
        encoding: vocabulary and normalisation.
        width: largest padded length.
        trim: batches are cut to their longest row, rounded up to a multiple of this; None: not at all.
        targets: further outcomes that the rows have, see `features.contract.TARGET`.
        teacher: from staged rows to probabilities [n, K], see `TAUGHT`; None: there is none.
    """

    contract: Contract
    encoding: Encoding
    width: int
    trim: int | None
    targets: Sequence[str] = ()
    teacher: Callable[[pa.Table], Array] | None = None

    def encode(self, rows: pa.Table) -> Labelled:
        """Staged rows as numbers, once for all batches that take from them."""
        values = column(rows, OUTCOME_VALUE).fill_null(0.0).to_numpy(zero_copy_only=False)
        ranks = column(rows, OUTCOME_RANK).fill_null(NO_OUTCOME).to_numpy(zero_copy_only=False)
        log_values = np.log1p(np.maximum(values, 0.0)).astype(np.float32)
        weights = column(rows, WEIGHT).to_numpy(zero_copy_only=False).astype(np.float32)
        members = column(rows, MEMBER).to_numpy(zero_copy_only=False)
        encoded = Encoded.of(rows, self.contract, self.encoding)
        targets = {
            target_tensor(t): column(rows, outcome_column(t)).cast(pa.int32()).to_numpy(zero_copy_only=False)
            for t in self.targets
        }
        if self.teacher is not None:
            targets[TAUGHT] = self.teacher(rows)
        return Labelled(encoded, ranks.astype(np.int32), log_values, weights, members, targets)

    def tensors(self, rows: Chosen) -> Tensors:
        """See `to_tensors`; `target_tier`, `target_log_value`, `target_weight`, `member`, [n] each; and `targets`."""
        width = trimmed(self.width, rows.lengths, self.trim)
        parts = [self._of_buffer(buffer, places, width) for buffer, places in rows.by_buffer()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @staticmethod
    def _of_buffer(buffer: Labelled, places: Ints, width: int) -> Tensors:
        of_rows = {
            TARGET_TIER: buffer.outcome_rank,
            TARGET_VALUE: buffer.log_value,
            TARGET_WEIGHT: buffer.weight,
            MEMBER: buffer.member,
            **buffer.targets,
        }
        return {**buffer.encoded.padded(places, width), **{name: values[places] for name, values in of_rows.items()}}


class EncodedRows:
    """Row groups of a rank's shards as numbers, kept from one epoch to the next up to a number of rows.

    What lies beyond is read and encoded again in each epoch, so memory stays flat whatever the shards hold.
    """

    def __init__(self, make: TensorMaker, most_rows: int) -> None:
        self.make, self._room = make, most_rows
        self._kept: dict[tuple[str, int], Labelled] = {}

    def of(self, address: str, file: pq.ParquetFile, groups: Sequence[int]) -> Labelled:
        """The rows of some row groups of a shard, one after the other."""
        missing = [g for g in groups if (address, g) not in self._kept]
        size = sum(file.metadata.row_group(g).num_rows for g in missing)
        if size > self._room:
            return self.make.encode(file.read_row_groups(groups, use_threads=False))
        self._room -= size
        for group in missing:
            self._kept[address, group] = self.make.encode(file.read_row_group(group, use_threads=False))
        return Labelled.joined([self._kept[address, g] for g in groups])


def training_batches(
    shards: ShardSet,
    encoded: EncodedRows,
    rank: int,
    ranks: int,
    global_batch: int,
    shuffle_rows: int,
    by_length: bool,
    seed: int,
    epoch: int,
) -> Iterator[Tensors]:
    """The rank's tensors of each step of an epoch, shuffled by (seed, epoch, shard).

    Args:
        shards: the training split.
        encoded: how rows become numbers and tensors; of all epochs.
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
        _endless(shards.uris[number], encoded, share, shuffle_rows, by_length, (seed, epoch, number))
        for number in shards.of_rank(rank, ranks)
    ]
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
        with _open(address) as file:
            for buffer in _buffers(address, encoded, file, range(file.num_row_groups), buffer_rows):
                lengths = buffer.encoded.lengths
                order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(lengths))
                rows = Chosen.of(buffer, order)
                for begin in range(0, len(rows), rows_per_batch):
                    yield encoded.make.tensors(rows.at(slice(begin, begin + rows_per_batch)))


def first_rows(address: str, most: int) -> pa.Table:
    """Up to `most` rows of a shard, from its beginning."""
    with _open(address) as file:
        found, missing = [file.schema_arrow.empty_table()], most
        for batch in file.iter_batches(min(most, _ROWS_READ)):
            found.append(pa.Table.from_batches([batch.slice(0, missing)]))
            missing -= found[-1].num_rows
            if not missing:
                break
        return pa.concat_tables(found)


_ROWS_READ = 8_192


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


def _endless(
    address: str, encoded: EncodedRows, rows: int, shuffle_rows: int, by_length: bool, seed: tuple[int, int, int]
) -> Iterator[Chosen]:
    """Exactly `rows` rows at a time; after the last row the shard starts over in a new order.

    By length, each buffer is cut into slices of rows of similar length. Slices are given in an order that is the same
    for all shards, so the rows that meet in a global batch are of similar length too.
    """
    left: list[Chosen] = []
    lap = 0
    while True:
        held: list[Chosen] = []
        buffers = _shuffled(address, encoded, shuffle_rows, np.random.default_rng([*seed, lap]))
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
            if by_length:
                pool = pool.at(np.argsort(pool.lengths, kind="stable"))
                order = np.argsort(np.random.default_rng([*seed[:2], lap, number]).random(len(order)))
            for k in order:
                yield pool.at(slice(k * rows, (k + 1) * rows))
            held = [rest] if len(rest := pool.at(slice(len(order) * rows, None)).alone()) else []
        left, lap = [*left, *held], lap + 1


def _shuffled(address: str, encoded: EncodedRows, shuffle_rows: int, random: np.random.Generator) -> Iterator[Chosen]:
    """The shard's rows in random order: row groups permuted, then rows within buffers of some row groups."""
    with _open(address) as file:
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


def _open(address: str) -> closing[pq.ParquetFile]:
    system, path = uri.locate(address)
    return closing(pq.ParquetFile(system.open_input_file(path), pre_buffer=False))
