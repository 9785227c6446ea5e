"""The training of one rank: epochs of steps, validation, early stopping, checkpoints. Imported by ranks only."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features import uri
from features.contract import Contract
from training import checkpoint, distributed, feed
from training.feed import TARGET_TIER, TARGET_VALUE, TARGET_WEIGHT, ShardSet, TensorMaker
from training.models import model_module, parameters_class
from training.progress import ProgressFile
from training.settings import ModelSettings, TrainingSettings
from training.tensors import Array, Encoding, Tensors

TRIM = 16
"""Batches are padded to a multiple of this many events: few enough shapes, little enough padding."""


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

    def to_json(self) -> str:
        """Text form, the inverse of `from_json`."""
        return json.dumps(
            {
                "key": self.key,
                "contract": self.contract.to_dict(),
                "encoding": self.encoding.to_dict(),
                "model": self.model.model_dump(mode="json"),
                "settings": self.settings.model_dump(mode="json", by_alias=True),
                "training": dataclasses.asdict(self.training),
                "validation": dataclasses.asdict(self.validation),
                "checkpoint_uri": self.checkpoint_uri,
                "model_uri": self.model_uri,
                "progress_uri": self.progress_uri,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Rebuild from `to_json`."""
        stored = json.loads(text)
        shards = {name: ShardSet.from_dict(stored[name]) for name in ("training", "validation")}
        return cls(
            key=stored["key"],
            contract=Contract.from_dict(stored["contract"]),
            encoding=Encoding.from_dict(stored["encoding"]),
            model=ModelSettings(**stored["model"]),
            settings=TrainingSettings(**stored["settings"]),
            **shards,
            checkpoint_uri=stored["checkpoint_uri"],
            model_uri=stored["model_uri"],
            progress_uri=stored["progress_uri"],
        )

    def tensor_maker(self) -> TensorMaker:
        """How this training makes tensors."""
        return TensorMaker(self.contract, self.encoding, tensor_width(self.model, self.contract), TRIM)


def tensor_width(model: ModelSettings, contract: Contract) -> int:
    """The largest padded length of a model's inputs; it takes any shorter one that holds the events."""
    return min(int(model.resolved()["max_events"]), contract.length)


def build_model(model: ModelSettings, contract: Contract, encoding: Encoding) -> Any:
    """The Keras model with fresh weights."""
    from training.models.layers import Shapes

    shapes = Shapes.of(contract, encoding, tensor_width(model, contract))
    return model_module(model.name).build(shapes, parameters_class(model.name)(**model.parameters))


def in_precision(model: Any, plan: ModelSettings, contract: Contract, encoding: Encoding, precision: str) -> Any:
    """The same network, with the same weights, computing in another precision than that it was loaded with."""
    import keras

    if precision == "float32":
        return model
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        again = build_model(plan, contract, encoding)
    finally:
        keras.config.set_dtype_policy(usual)
    again.set_weights(model.get_weights())
    return again


def learning_rate(step: int, steps: int, warmup_steps: float, peak: float) -> float:
    """Linear warm-up to `peak` (Goyal et al., arXiv 1706.02677), then a half cosine to zero at `steps`."""
    if step + 1 < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def train(plan: Plan, after_epoch: Callable[[Mapping[str, float]], None] | None = None) -> dict[str, Any]:
    """Train with all ranks until the last epoch or the patience ends; the first rank leaves `model.keras`.

    Args:
        plan: equal on all ranks.
        after_epoch: called with each new entry of the history, once the checkpoint is written.

    Returns:
        JSON-ready: `history`, `best_epoch`, `validation_loss`, `validation_accuracy`, `largest_difference` between the
        weights of the ranks, `weights` (their number), `resumed_epochs`.
    """
    rank = distributed.start(plan.settings.mixed_precision, plan.settings.seed)
    state = _State.start(plan, rank)
    resumed = state.epochs
    while state.epochs < plan.settings.epochs and not state.out_of_patience():
        state.run_epoch()
        if rank.first:
            checkpoint.save(state.snapshot(), plan.checkpoint_uri)
        if after_epoch is not None:
            after_epoch(state.history[-1])
    state.restore(state.model.variables, state.best)
    difference = distributed.largest_difference(state.model.variables)
    if rank.first:
        _save_model(state.model, plan.model_uri)
    best = state.history[state.best_epoch - 1]
    return {
        "history": state.history,
        "best_epoch": state.best_epoch,
        "validation_loss": best["validation_loss"],
        "validation_accuracy": best["validation_accuracy"],
        "largest_difference": difference,
        "weights": int(sum(np.prod(w.shape) for w in state.model.trainable_variables)),
        "resumed_epochs": resumed,
    }


@dataclasses.dataclass
class _State:
    """A rank between two epochs."""

    plan: Plan
    rank: distributed.Rank
    model: Any
    optimizer: Any
    train_step: Callable[..., Any]
    validation_step: Callable[..., Any]
    progress: ProgressFile
    encoded: feed.EncodedRows
    best: list[Array] = dataclasses.field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, plan: Plan, rank: distributed.Rank) -> _State:
        """Build the network, take up a checkpoint if there is one, and give all ranks the same state."""
        model = build_model(plan.model, plan.contract, plan.encoding)
        settings = plan.settings
        optimizer = distributed.adamw(settings.peak_learning_rate, settings.weight_decay, settings.average_decay)
        optimizer.build(model.trainable_variables)
        steps = compiled_steps(model, optimizer, plan.settings.auxiliary_weight, plan.training.mean_weight)
        encoded = feed.EncodedRows(plan.tensor_maker(), plan.settings.kept_rows)
        state = cls(plan, rank, model, optimizer, *steps, ProgressFile(plan.progress_uri), encoded)
        found = checkpoint.load(plan.checkpoint_uri, plan.key)
        # All ranks read the same file; that they found the same epoch is checked, not assumed.
        first = distributed.broadcast_number(found.epochs if found else 0)
        if first != (found.epochs if found else 0):
            raise RuntimeError(f"rank {rank.number} does not see the checkpoint that the first rank sees")
        if found:
            state.restore(model.variables, found.model)
            state.restore(optimizer.variables, found.optimizer)
            state.best, state.best_loss, state.best_epoch = list(found.best), found.best_loss, found.best_epoch
            state.history = [dict(entry) for entry in found.history]
        distributed.broadcast([*model.variables, *optimizer.variables])
        return state

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def out_of_patience(self) -> bool:
        """Whether the validation loss has not improved for too long."""
        return self.epochs - self.best_epoch >= self.plan.settings.patience if self.history else False

    @staticmethod
    def restore(variables: list[Any], values: Any) -> None:
        """Assign values to variables in order."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def run_epoch(self) -> None:
        """One pass over the training shards and one over the validation shards."""
        began = time.monotonic()
        losses = self._train_epoch()
        seconds = time.monotonic() - began
        rows = self.plan.training.steps(self.plan.settings.global_batch) * self.plan.settings.global_batch
        with distributed.averaged(self.model, self.optimizer):
            validation_loss, accuracy = self._validate()
            found = [np.array(v.numpy()) for v in self.model.variables]
        if not math.isfinite(validation_loss):
            raise RuntimeError(
                f"the validation loss is {validation_loss} after epoch {self.epochs + 1}: lower training.learning_rate"
            )
        entry = {
            "epoch": float(self.epochs + 1),
            "loss": losses,
            "validation_loss": validation_loss,
            "validation_accuracy": accuracy,
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "seconds": seconds,
            "users_per_second": rows / seconds,
        }
        self.history.append(entry)
        if validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epochs
            self.best = found
        self.progress.epoch(entry)

    def snapshot(self) -> checkpoint.Checkpoint:
        """The state as it is stored."""
        return checkpoint.Checkpoint(
            key=self.plan.key,
            epochs=self.epochs,
            model=[np.array(v.numpy()) for v in self.model.variables],
            optimizer=[np.array(v.numpy()) for v in self.optimizer.variables],
            best=self.best,
            best_loss=self.best_loss,
            best_epoch=self.best_epoch,
            history=self.history,
        )

    def _train_epoch(self) -> float:
        settings, shards = self.plan.settings, self.plan.training
        steps = shards.steps(settings.global_batch)
        batches = feed.training_batches(
            shards,
            self.encoded,
            self.rank.number,
            self.rank.count,
            settings.global_batch,
            settings.shuffle_rows,
            settings.by_length,
            settings.seed,
            self.epochs,
        )
        loss_sum, seen, began = 0.0, 0, time.monotonic()
        for batch in self._ahead(batches):
            done = self.epochs * steps + seen
            self.optimizer.learning_rate = learning_rate(
                done, settings.epochs * steps, settings.warmup_epochs * steps, settings.peak_learning_rate
            )
            loss_sum += float(self.train_step(batch))
            seen += 1
            if self.rank.first:
                speed = seen * settings.global_batch / (time.monotonic() - began)
                self.progress.step(done + 1, settings.epochs * steps, loss_sum / seen, speed)
        return distributed.sums([loss_sum])[0] / (seen * self.rank.count)

    def _validate(self) -> tuple[float, float]:
        share = max(1, self.plan.settings.global_batch // self.rank.count)
        make, rank = self.encoded.make, self.rank
        batches = feed.validation_batches(self.plan.validation, make, rank.number, rank.count, share)
        totals = np.zeros(3)
        for batch in self._ahead(batches):
            totals += np.array([float(v) for v in self.validation_step(batch)])
        loss, correct, count = distributed.sums(list(totals))
        return loss / count, correct / count

    def _ahead(self, batches: Iterator[Tensors]) -> Iterator[Tensors]:
        yield from feed.prefetch(batches, self.plan.settings.prefetch_batches)


def compiled_steps(
    model: Any, optimizer: Any, auxiliary_weight: float, mean_weight: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiled training step (mean loss) and validation step (summed log-loss, correct rows, rows).

    Rows count by their weight over `mean_weight`, that of all training rows: dividing by that of the batch would make
    the loss of a row depend on the rank that it is on.
    """
    import keras
    import tensorflow as tf

    signature = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in model.input.items()}
    signature |= {
        TARGET_TIER: tf.TensorSpec([None], tf.int32),
        TARGET_VALUE: tf.TensorSpec([None], tf.float32),
        TARGET_WEIGHT: tf.TensorSpec([None], tf.float32),
    }

    def log_losses(batch: Any, outputs: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(batch[TARGET_TIER], outputs["tier"])

    @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
    def train_step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = model({name: batch[name] for name in model.input}, training=True)
            weight = batch[TARGET_WEIGHT] / mean_weight
            loss = tf.reduce_mean(weight * log_losses(batch, outputs))
            if "value" in outputs:
                values = tf.squeeze(outputs["value"], -1)
                loss += auxiliary_weight * tf.reduce_mean(
                    weight * keras.losses.huber(batch[TARGET_VALUE][:, None], values[:, None])
                )
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
    def validation_step(batch: Any) -> Any:
        outputs = model({name: batch[name] for name in model.input}, training=False)
        found = tf.argmax(outputs["tier"], axis=-1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(found == batch[TARGET_TIER], tf.float32))
        return tf.reduce_sum(log_losses(batch, outputs)), correct, tf.shape(found)[0]

    return train_step, validation_step


def _save_model(model: Any, address: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        uri.write_bytes(address, path.read_bytes())
