"""A teacher of the network: boosted trees, whose forecasts are learned beside the outcomes.

An outcome is one draw from a member's chances; a teacher's forecast tells more about them. A teacher forecasts only
members that it has not learned from, as in stacking (Wolpert 1992): otherwise it would repeat their outcomes. Learning
from another model's probabilities is distillation (Hinton et al., arXiv 1503.02531); nothing of the teacher is needed
when scoring.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter

from features.core import places
from features.core.contract import Contract
from features.core.errors import TrainingDataError
from training.examples.shards import ShardSet
from training.inputs.column_names import MEMBER, OUTCOME_RANK, TIER_RANK, WEIGHT, column
from training.rivals.boosted_trees import FIRST_SHAPE, boosted
from training.rivals.rows import Rows, inputs_of


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Trees for each part of the members, which have learned from the members of the other parts.

    Attributes:
        contract: what their inputs are.
        trees: LightGBM's own text of each part's.
    """

    contract: Contract
    trees: tuple[str, ...]

    @classmethod
    def fitted(
        cls,
        training: pa.Table,
        validation: pa.Table,
        learned: pa.Table,
        contract: Contract,
        parts: int,
        seed: int,
    ) -> Teacher:
        """Fit as many trees for each part as are best for the validation rows when all training rows are learned from.

        Args:
            training: staged rows, see `training.examples.shards.example_schema`.
            validation: likewise.
            learned: the rows that the trees are fitted to, once it is known how many trees: the training rows, or more.
            contract: that they follow.
            parts: how many.
            seed: of the trees.

        Raises:
            TrainingDataError: all members are in one part, so that no trees could teach them.
        """
        tiers, part = len(contract.tiers), _parts(learned, parts)
        if len(np.unique(part)) < 2:
            raise TrainingDataError(
                f"{len(part)} training rows are of too few members for a teacher: set training.teacher_weight to 0"
            )
        known, later, taught = (_rows(table, contract) for table in (training, validation, learned))
        rounds = boosted(known, tiers, seed, FIRST_SHAPE, later).best_iteration

        def of_others(number: int) -> str:
            return str(boosted(taught.at(part != number), tiers, seed, FIRST_SHAPE, rounds=rounds).model_to_string())

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return cls(contract, tuple(pool.map(of_others, range(parts))))

    def __call__(self, rows: pa.Table) -> npt.NDArray[np.float32]:
        """Probabilities [n, K] of staged rows, each by the trees that have not learned from its member."""
        inputs, part = inputs_of(rows, self.contract), _parts(rows, len(self.trees))
        found = np.empty((len(part), len(self.contract.tiers)), np.float32)
        for number, booster in enumerate(self._boosters):
            mine = part == number
            if mine.any():
                found[mine] = booster.predict(inputs[mine], num_threads=1)
        return found

    @functools.cached_property
    def _boosters(self) -> list[Any]:
        import lightgbm

        return [lightgbm.Booster(model_str=text) for text in self.trees]

    def save(self, address: str) -> None:
        """Write it as JSON."""
        places.write_bytes(address, TypeAdapter(Teacher).dump_json(self))

    @classmethod
    def load(cls, address: str) -> Teacher:
        """Read what `save` has written."""
        return TypeAdapter(cls).validate_json(places.read_bytes(address))


def teacher_of(
    training: ShardSet,
    validation: ShardSet,
    learned: ShardSet,
    contract: Contract,
    parts: int,
    most_rows: int,
    seed: int,
) -> Teacher:
    """See `Teacher.fitted`: of each of the splits a sample of up to `most_rows` rows."""
    known, later, taught = (
        pa.concat_tables([split.sample(shard, most_rows) for shard in split.filled()])
        for split in (training, validation, learned)
    )
    return Teacher.fitted(known, later, taught, contract, parts, seed)


def _rows(table: pa.Table, contract: Contract) -> Rows:
    needed: Sequence[str] = (*contract.aggregates, TIER_RANK, OUTCOME_RANK, WEIGHT)
    return Rows.of(table.select(needed).append_column("user_id", table[MEMBER]), contract)


def _parts(rows: pa.Table, parts: int) -> npt.NDArray[np.int64]:
    """[n] part of each row's member; `member` is a hash."""
    return np.asarray(column(rows, MEMBER).to_numpy(zero_copy_only=False) % parts, np.int64)
