"""The plan of a training, as every rank receives it, and the objective that it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pydantic import TypeAdapter

from features.core.contract import Contract
from training.examples import labelled_rows
from training.examples.labelled_rows import TensorMaker
from training.examples.shards import ShardSet
from training.inputs.encoding import Encoding
from training.inputs.tensors import Tensors
from training.models.create import tensor_width
from training.models.settings import ModelSettings
from training.settings.fitting import PretrainingSettings, TrainingSettings

TRIM = 16
"""Batches are padded to a multiple of this many events: few enough shapes, little enough padding."""

_SEEDS_APART = 1_000_003
"""Distance between the seeds of an ensemble's networks, so that ensembles of neighbouring seeds share none."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a rank needs to know.

    Attributes:
        key: identity of the training: contract, settings and data.
        contract: of the sequences.
        encoding: vocabulary and normalisation.
        model: which network.
        settings: how to train.
        training: shards of the training dates.
        validation: shards of the validation date.
        checkpoint_uri: where the state after each epoch is kept.
        model_uri: where the first rank leaves `model.keras`.
        progress_uri: where it leaves how far it is.
        encoder_uri: the network of a pretrained encoder that the network's own starts from; None: fresh weights.
        teacher_uri: the `training.fitting.teacher.Teacher` that is learned from beside the outcomes; None: no teacher.
        pretraining: how to pretrain the network's encoder, in place of training the network; None: no pretraining.
        until: the epoch after which each network of the ensemble stops, and whose weights are kept; empty: the
            validation rows choose it. They may be among the training rows otherwise.
    """

    key: str
    contract: Contract
    encoding: Encoding
    model: ModelSettings
    settings: TrainingSettings
    training: ShardSet
    validation: ShardSet
    checkpoint_uri: str
    model_uri: str
    progress_uri: str
    encoder_uri: str | None = None
    teacher_uri: str | None = None
    pretraining: PretrainingSettings | None = None
    until: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Text form, the inverse of `from_json`."""
        return TypeAdapter(Plan).dump_json(self, by_alias=True).decode()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Rebuild from `to_json`."""
        return TypeAdapter(cls).validate_json(text)

    def tensor_maker(self) -> TensorMaker:
        """How this training makes tensors."""
        targets = self.model.targets if self.pretraining is None else ()
        return TensorMaker(self.contract, self.encoding, tensor_width(self.model, self.contract), TRIM, targets)

    def training_tensors(self) -> TensorMaker:
        """How it makes those of training rows, with the teacher's probabilities if there is a teacher."""
        if self.teacher_uri is None:
            return self.tensor_maker()
        from training.fitting.teacher import Teacher  # scikit-learn and LightGBM are slow to import

        return dataclasses.replace(self.tensor_maker(), teacher=Teacher.load(self.teacher_uri))

    @property
    def folder(self) -> str:
        """Where the training's state lies."""
        return self.checkpoint_uri.rsplit("/", 1)[0]

    @property
    def teacher_weight(self) -> float:
        """Share of the tier's loss that follows the teacher."""
        return 0.0 if self.teacher_uri is None else self.settings.teacher_weight

    def of_network(self, number: int) -> Plan:
        """How a network of the ensemble is trained, from 0: with a seed and a checkpoint of its own."""
        if not number:
            return self
        seed = (self.settings.seed + number * _SEEDS_APART) % 2**31
        return dataclasses.replace(
            self,
            key=f"{self.key}-{number}",
            settings=self.settings.model_copy(update={"seed": seed}),
            checkpoint_uri=f"{self.checkpoint_uri.removesuffix('.npz')}-{number}.npz",
        )


class Objective(Protocol):
    """What a training learns: its network, its steps and their batches."""

    def network(self, plan: Plan) -> Any:
        """The Keras model with fresh weights."""

    def steps(self, model: Any, optimizer: Any, plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Compiled training step (mean loss) and validation step (summed loss, summed share that is right, rows)."""

    def training(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int, epoch: int) -> Iterator[Tensors]:
        """The batches of a rank in an epoch; equally many on all ranks."""

    def validation(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int) -> Iterator[Tensors]:
        """The validation batches of a rank."""
