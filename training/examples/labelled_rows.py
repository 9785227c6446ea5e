"""Encoded rows with their outcomes, as training and validation read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.core.arrays import Array, Ints
from features.core.contract import Contract, outcome_column
from training.inputs.column_names import MEMBER, NO_OUTCOME, OUTCOME_RANK, OUTCOME_VALUE, WEIGHT, column
from training.inputs.encoding import Encoding
from training.inputs.tensors import Encoded, Tensors, trimmed

TARGET_TIER, TARGET_VALUE, TARGET_WEIGHT = "target_tier", "target_log_value", "target_weight"
TAUGHT = "target_taught"
"""Tensor [n, K]: probabilities of a teacher, which are learned beside the outcome."""


def target_tensor(target: str) -> str:
    """Name of the tensor of one of `model.targets`."""
    return f"target_{target}"


@dataclasses.dataclass(frozen=True)
class Labelled:
    """n encoded rows and what came true.

    `outcome_rank` [n] int32; `log_value` [n] float32, log1p of the value; `weight` [n] float32;
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
        """The same rows without the buffers that hold none of them, so that these can be freed."""
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
        targets: further outcomes that the rows have, see `features.core.contract.TARGET`.
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
        """The tensors of `Encoded.padded`, and what came true.

        That is `target_tier`, `target_log_value`, `target_weight` and `member`, [n] each, and those of `targets`.
        """
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

    Further rows are read and encoded again in each epoch, so memory does not grow with the shards.
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
