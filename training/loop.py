"""The training of one rank: epochs of steps, validation, early stopping, checkpoints. Imported by ranks only."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from features import uri
from features.contract import INACTIVE, VALUE, Contract
from training import checkpoint, distributed, feed
from training.feed import MEMBER, TARGET_TIER, TARGET_VALUE, TARGET_WEIGHT, ShardSet, TensorMaker
from training.models import model_module, parameters_class
from training.progress import ProgressFile
from training.settings import ModelSettings, PretrainingSettings, TrainingSettings
from training.tensors import Array, Encoding, Tensors

TRIM = 16
"""Batches are padded to a multiple of this many events: few enough shapes, little enough padding."""

_SEEDS_APART = 1_000_003
"""Between the seeds of an ensemble's members, so that ensembles of neighbouring seeds share none."""


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
        teacher_uri: the `training.teacher.Teacher` that is learned from beside what came true; None: nobody.
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
                "encoder_uri": self.encoder_uri,
                "teacher_uri": self.teacher_uri,
                "pretraining": self.pretraining.model_dump(mode="json") if self.pretraining else None,
                "until": self.until,
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
            encoder_uri=stored["encoder_uri"],
            teacher_uri=stored["teacher_uri"],
            pretraining=PretrainingSettings(**stored["pretraining"]) if stored["pretraining"] else None,
            until=tuple(stored["until"]),
        )

    def tensor_maker(self) -> TensorMaker:
        """How this training makes tensors."""
        targets = self.model.targets if self.pretraining is None else ()
        return TensorMaker(self.contract, self.encoding, tensor_width(self.model, self.contract), TRIM, targets)

    def training_tensors(self) -> TensorMaker:
        """How it makes those of training rows, which a teacher may have a say in."""
        if self.teacher_uri is None:
            return self.tensor_maker()
        from training.teacher import Teacher  # scikit-learn and LightGBM are slow to import

        return dataclasses.replace(self.tensor_maker(), teacher=Teacher.load(self.teacher_uri))

    @property
    def folder(self) -> str:
        """Where the training's state lies."""
        return self.checkpoint_uri.rsplit("/", 1)[0]

    @property
    def teacher_weight(self) -> float:
        """Share of the tier's loss that follows the teacher."""
        return 0.0 if self.teacher_uri is None else self.settings.teacher_weight

    def member(self, number: int) -> Plan:
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


def tensor_width(model: ModelSettings, contract: Contract) -> int:
    """The largest padded length of a model's inputs; it takes any shorter one that holds the events."""
    return min(int(model.resolved()["max_events"]), contract.length)


def build_model(model: ModelSettings, contract: Contract, encoding: Encoding, members: int = 1) -> Any:
    """The Keras model with fresh weights; with more than one member their ensemble."""
    from training.models.ensemble import ensemble
    from training.models.layers import Shapes

    shapes = Shapes.of(contract, encoding, tensor_width(model, contract), model.targets)
    parameters = parameters_class(model.name)(**model.parameters)
    return ensemble([model_module(model.name).build(shapes, parameters) for _ in range(members)])


def in_precision(model: Any, plan: ModelSettings, contract: Contract, encoding: Encoding, precision: str) -> Any:
    """The same network, with the same weights, computing in another precision than that it was loaded with."""
    import keras

    from training.models.ensemble import members_of

    if precision == "float32":
        return model
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        again = build_model(plan, contract, encoding, len(members_of(model)))
    finally:
        keras.config.set_dtype_policy(usual)
    again.set_weights(model.get_weights())
    return again


class Objective(Protocol):
    """What a training learns: its network, its steps and what they are given."""

    def network(self, plan: Plan) -> Any:
        """The Keras model with fresh weights."""

    def steps(self, model: Any, optimizer: Any, plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Compiled training step (mean loss) and validation step (summed loss, summed share that is right, rows)."""

    def training(self, plan: Plan, encoded: feed.EncodedRows, rank: int, epoch: int) -> Iterator[Tensors]:
        """What each step of an epoch of a rank is given; equally many on all ranks."""

    def validation(self, plan: Plan, encoded: feed.EncodedRows, rank: int) -> Iterator[Tensors]:
        """What the validation steps of a rank are given."""


class Forecasting:
    """To forecast the outcome tier; an `Objective`."""

    def network(self, plan: Plan) -> Any:
        """The network, its encoder with pretrained weights where the plan names some."""
        model = build_model(plan.model, plan.contract, plan.encoding)
        if plan.encoder_uri is not None:
            start_from(model, plan.encoder_uri)
        return model

    def steps(self, model: Any, optimizer: Any, plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """See `compiled_steps`."""
        weights = plan.settings.auxiliary_weight, plan.training.mean_weight
        return compiled_steps(model, optimizer, *weights, plan.model.targets, plan.teacher_weight)

    def training(self, plan: Plan, encoded: feed.EncodedRows, rank: int, epoch: int) -> Iterator[Tensors]:
        """The tensors of shuffled rows."""
        settings = plan.settings
        return feed.training_batches(
            plan.training, encoded, rank, settings.ranks, settings.global_batch, settings.shuffle_rows,
            settings.by_length, settings.seed, epoch,
        )  # fmt: skip

    def validation(self, plan: Plan, encoded: feed.EncodedRows, rank: int) -> Iterator[Tensors]:
        """The tensors of all rows."""
        settings = plan.settings
        share = max(1, settings.global_batch // settings.ranks)
        return feed.validation_batches(
            plan.validation, encoded, rank, settings.ranks, share, settings.shuffle_rows, settings.by_length
        )


def objective_of(plan: Plan) -> Objective:
    """What the plan's training learns."""
    if plan.pretraining is None:
        return Forecasting()
    from training.pretraining import Pretraining  # it builds on the plan

    return Pretraining(plan.pretraining)


def start_from(model: Any, address: str) -> None:
    """Give a network's encoder the weights of a pretrained one; raises ValueError if their shapes differ."""
    from training.models.layers import encoder_of

    mine, theirs = encoder_of(model), encoder_of(_load_model(address))
    shapes = [[tuple(w.shape) for w in encoder.weights] for encoder in (theirs, mine)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the encoder {address} has weights {shapes[0]}, the network's has {shapes[1]}")
    mine.set_weights(theirs.get_weights())


def encoder_rate(settings: TrainingSettings, epoch: int) -> float:
    """Learning rate of a pretrained encoder in an epoch (from 0), as a share of the others'."""
    return 0.0 if epoch < settings.frozen_epochs else settings.encoder_rate


def learning_rate(step: int, steps: int, warmup_steps: float, peak: float) -> float:
    """Linear warm-up to `peak` (Goyal et al., arXiv 1706.02677), then a half cosine to zero at `steps`."""
    if step + 1 < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def train(plan: Plan, after_epoch: Callable[[Mapping[str, float]], None] | None = None) -> dict[str, Any]:
    """Train with all ranks until the last epoch or the patience ends; the first rank leaves `model.keras`.

    The networks of an ensemble are trained one after the other, and what is left is one model that averages them.

    Args:
        plan: equal on all ranks.
        after_epoch: called with each new entry of the history, once the checkpoint is written.

    Returns:
        JSON-ready: `history` of all members, one after the other; `best_epoch` of the first; the figures
        of `_validated` for the model; `largest_difference` between the weights of the ranks, `weights` (their
        number), `resumed_epochs`.
    """
    distributed.load_keras()
    from training.models.ensemble import ensemble

    rank = distributed.start(plan.settings.mixed_precision)
    rows = _Rows.of(plan)
    trained = [_train_member(plan, number, rank, rows, after_epoch) for number in range(plan.settings.ensemble)]
    model = ensemble([member.model for member in trained])
    difference = distributed.largest_difference(model.variables)
    if rank.first:
        _save_model(model, plan.model_uri)
    validation = trained[0].best_validation()
    if len(trained) > 1:
        step = compiled_validation(model, plan.model.targets)
        validation = _validated(Forecasting(), plan, rank, step, rows.validation)
    return {
        "history": [entry for member in trained for entry in member.history],
        "best_epoch": trained[0].best_epoch,
        **validation,
        "largest_difference": difference,
        "weights": int(sum(np.prod(w.shape) for w in model.trainable_variables)),
        "resumed_epochs": sum(member.resumed for member in trained),
    }


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What a rank keeps of each split from one epoch to the next."""

    training: feed.EncodedRows
    validation: feed.EncodedRows

    @classmethod
    def of(cls, plan: Plan) -> _Rows:
        """Nothing yet."""
        most = plan.settings.kept_rows
        return cls(feed.EncodedRows(plan.training_tensors(), most), feed.EncodedRows(plan.tensor_maker(), most))


def _train_member(
    plan: Plan,
    number: int,
    rank: distributed.Rank,
    rows: _Rows,
    after_epoch: Callable[[Mapping[str, float]], None] | None,
) -> _State:
    """A network of the ensemble with the weights of its best epoch."""
    distributed.seed(plan.member(number).settings.seed)
    state = _State.start(plan.member(number), number, rank, rows)
    while state.epochs < state.last_epoch and not state.out_of_patience():
        state.run_epoch()
        if rank.first:
            checkpoint.save(state.snapshot(), state.plan.checkpoint_uri)
        if after_epoch is not None:
            after_epoch(state.history[-1])
    state.restore(state.model.variables, state.best)
    return state


@dataclasses.dataclass
class _State:
    """A rank between two epochs of a network; `number` is the network's place in the ensemble, from 0."""

    plan: Plan
    number: int
    rank: distributed.Rank
    objective: Objective
    model: Any
    optimizer: Any
    encoder_rate: Any
    train_step: Callable[..., Any]
    validation_step: Callable[..., Any]
    progress: ProgressFile
    rows: _Rows
    best: list[Array] = dataclasses.field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    resumed: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, plan: Plan, number: int, rank: distributed.Rank, rows: _Rows) -> _State:
        """Build the network, take up a checkpoint if there is one, and give all ranks the same state."""
        import tensorflow as tf

        settings, objective = plan.settings, objective_of(plan)
        model = objective.network(plan)
        rate = tf.Variable(1.0, trainable=False)
        optimizer = distributed.adamw(
            settings.peak_learning_rate, settings.weight_decay, settings.average_decay, _pretrained(plan, model), rate
        )
        optimizer.build(model.trainable_variables)
        steps = objective.steps(model, optimizer, plan)
        progress = ProgressFile(plan.progress_uri)
        state = cls(plan, number, rank, objective, model, optimizer, rate, *steps, progress, rows)
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
            state.resumed = state.epochs
        distributed.broadcast([*model.variables, *optimizer.variables])
        return state

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def last_epoch(self) -> int:
        """How many epochs there are at most."""
        return self.plan.until[self.number] if self.plan.until else self.plan.settings.epochs

    def out_of_patience(self) -> bool:
        """Whether the validation loss has not improved for too long."""
        return self.epochs - self.best_epoch >= self.plan.settings.patience if self.history else False

    def best_validation(self) -> dict[str, float]:
        """The validation figures of the best epoch."""
        return {name: x for name, x in self.history[self.best_epoch - 1].items() if name.startswith("validation_")}

    @staticmethod
    def restore(variables: list[Any], values: Any) -> None:
        """Assign values to variables in order."""
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def run_epoch(self) -> None:
        """One pass over the training shards and, where that says something, one over the validation shards."""
        began = time.monotonic()
        losses = self._train_epoch()
        seconds = time.monotonic() - began
        rows = self.plan.training.steps(self.plan.settings.global_batch) * self.plan.settings.global_batch
        with distributed.averaged(self.model, self.optimizer):
            validation = self._validate() if self._is_judged() else {}
            found = [np.array(v.numpy()) for v in self.model.variables]
        validation_loss = validation.get("validation_loss", self.best_loss)
        if validation and not math.isfinite(validation_loss):
            raise RuntimeError(
                f"the validation loss is {validation_loss} after epoch {self.epochs + 1}: lower training.learning_rate"
            )
        entry = {
            "member": float(self.number + 1),
            "epoch": float(self.epochs + 1),
            "loss": losses,
            **validation,
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "seconds": seconds,
            "users_per_second": rows / seconds,
        }
        self.history.append(entry)
        if self.plan.until or validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epochs
            self.best = found
        if not self.plan.until:  # then these rows may have been learned from
            self.progress.epoch(entry)

    def _is_judged(self) -> bool:
        """Whether the epoch at hand is: not where it is known beforehand which is the last, and it is another."""
        return not self.plan.until or self.epochs + 1 == self.last_epoch

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
        batches = self.objective.training(self.plan, self.rows.training, self.rank.number, self.epochs)
        self.encoder_rate.assign(encoder_rate(settings, self.epochs))
        loss_sum, seen, began = 0.0, 0, time.monotonic()
        before, all_steps = self.number * settings.epochs * steps, settings.ensemble * settings.epochs * steps
        for batch in feed.prefetch(batches, settings.prefetch_batches):
            done = self.epochs * steps + seen
            self.optimizer.learning_rate = learning_rate(
                done, settings.epochs * steps, settings.warmup_epochs * steps, settings.peak_learning_rate
            )
            loss_sum += float(self.train_step(batch))
            seen += 1
            if self.rank.first:
                speed = seen * settings.global_batch / (time.monotonic() - began)
                self.progress.step(before + done + 1, all_steps, loss_sum / seen, speed)
        return distributed.sums([loss_sum])[0] / (seen * self.rank.count)

    def _validate(self) -> dict[str, float]:
        return _validated(self.objective, self.plan, self.rank, self.validation_step, self.rows.validation)


def _validated(
    objective: Objective, plan: Plan, rank: distributed.Rank, step: Callable[..., Any], encoded: feed.EncodedRows
) -> dict[str, float]:
    """Mean `validation_loss`, share that is right as `validation_accuracy`, and mean loss of each of `model.targets`.

    Over the validation rows of all ranks.
    """
    make = encoded.make
    totals = np.zeros(3 + len(make.targets))
    for batch in feed.prefetch(objective.validation(plan, encoded, rank.number), plan.settings.prefetch_batches):
        totals += np.array([float(v) for v in step(batch)])
    loss, correct, count, *further = distributed.sums(list(totals))
    means = {"loss": loss, "accuracy": correct, **dict(zip((f"loss_{t}" for t in make.targets), further, strict=True))}
    return {f"validation_{name}": total / count for name, total in means.items()}


def compiled_steps(
    model: Any,
    optimizer: Any,
    auxiliary_weight: float,
    mean_weight: float,
    targets: Sequence[str] = (),
    teacher_weight: float = 0.0,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiled training step (mean loss) and validation step (summed log-loss, correct rows, rows).

    Rows count by their weight over `mean_weight`, that of all training rows: dividing by that of the batch would make
    the loss of a row depend on the rank that it is on. Of the tier's loss, `teacher_weight` is that of the teacher's
    probabilities in place of what came true.
    """
    import keras
    import tensorflow as tf

    signature = _signature(model, targets)
    if teacher_weight:
        signature[feed.TAUGHT] = tf.TensorSpec([None, model.output["tier"].shape[-1]], tf.float32)

    @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
    def train_step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = model({name: batch[name] for name in model.input}, training=True)
            weight = batch[TARGET_WEIGHT] / mean_weight
            of_tier = _log_losses(batch, outputs)
            if teacher_weight:
                taught = keras.losses.categorical_crossentropy(batch[feed.TAUGHT], outputs["tier"])
                of_tier = (1 - teacher_weight) * of_tier + teacher_weight * taught
            loss = tf.reduce_mean(weight * of_tier)
            if VALUE in outputs:
                values = tf.squeeze(outputs[VALUE], -1)
                loss += auxiliary_weight * tf.reduce_mean(
                    weight * keras.losses.huber(batch[TARGET_VALUE][:, None], values[:, None])
                )
            for target in targets:
                loss += auxiliary_weight * tf.reduce_mean(weight * _target_losses(batch, outputs, target))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    return train_step, compiled_validation(model, targets)


def compiled_validation(model: Any, targets: Sequence[str] = ()) -> Callable[..., Any]:
    """Compiled validation step of a model: summed log-loss, correct rows, rows, summed log-loss of each target."""
    import tensorflow as tf

    @tf.function(input_signature=[_signature(model, targets)], jit_compile=False, autograph=False)
    def validation_step(batch: Any) -> Any:
        outputs = model({name: batch[name] for name in model.input}, training=False)
        found = tf.argmax(outputs["tier"], axis=-1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(found == batch[TARGET_TIER], tf.float32))
        further = [tf.reduce_sum(_target_losses(batch, outputs, name)) for name in targets]
        return tf.reduce_sum(_log_losses(batch, outputs)), correct, tf.shape(found)[0], *further

    return cast(Callable[..., Any], validation_step)


def _signature(model: Any, targets: Sequence[str]) -> dict[str, Any]:
    """Inputs and targets of a batch."""
    import tensorflow as tf

    found = {name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in model.input.items()}
    kinds = {TARGET_TIER: tf.int32, TARGET_VALUE: tf.float32, TARGET_WEIGHT: tf.float32, MEMBER: tf.int64}
    kinds |= {feed.target_tensor(name): tf.int32 for name in targets}
    return found | {name: tf.TensorSpec([None], kind) for name, kind in kinds.items()}


def _log_losses(batch: Any, outputs: Any) -> Any:
    import keras

    return keras.losses.sparse_categorical_crossentropy(batch[TARGET_TIER], outputs["tier"])


def _target_losses(batch: Any, outputs: Any, target: str) -> Any:
    """Logarithmic loss [n] of one of `model.targets`."""
    import keras

    truth = batch[feed.target_tensor(target)]
    if target == INACTIVE:
        return keras.losses.binary_crossentropy(truth[:, None], outputs[target])
    return keras.losses.sparse_categorical_crossentropy(truth, outputs[target])


def _pretrained(plan: Plan, model: Any) -> Sequence[Any]:
    """The variables of a network that start from pretrained weights."""
    from training.models.layers import encoder_of

    return encoder_of(model).trainable_variables if plan.encoder_uri is not None else ()


def _load_model(address: str) -> Any:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(uri.read_bytes(address))
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def _save_model(model: Any, address: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        uri.write_bytes(address, path.read_bytes())
