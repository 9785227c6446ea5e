"""The training of one rank: epochs of steps, validation, early stopping, checkpoints. Imported by ranks only."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from features.core.arrays import Array
from training.examples import labelled_rows
from training.examples.batches import prefetch
from training.fitting import checkpoint, ranks
from training.fitting.forecasting import Forecasting, compiled_validation
from training.fitting.plan import Objective, Plan
from training.fitting.progress import ProgressFile
from training.models.create import save_model
from training.settings.fitting import TrainingSettings


def train(plan: Plan, after_epoch: Callable[[Mapping[str, float]], None] | None = None) -> dict[str, Any]:
    """Train with all ranks until the last epoch or the patience ends; the first rank leaves `model.keras`.

    The networks of an ensemble are trained one after the other; the result is one model that averages them.

    Args:
        plan: equal on all ranks.
        after_epoch: called with each new entry of the history, once the checkpoint is written.

    Returns:
        JSON-ready: `history` of all networks, one after the other; `best_epoch` of the first; the figures
        of `_validated` for the model; `largest_difference` between the weights of the ranks, `weights` (their
        number), `resumed_epochs`.
    """
    ranks.load_keras()
    from training.models.ensemble import ensemble

    rank = ranks.start(plan.settings.mixed_precision)
    rows = _Rows.of(plan)
    trained = [_train_network(plan, number, rank, rows, after_epoch) for number in range(plan.settings.ensemble)]
    model = ensemble([network.learner.model for network in trained])
    difference = ranks.largest_difference(model.variables)
    if rank.first:
        save_model(model, plan.model_uri)
    validation = trained[0].best_validation()
    if len(trained) > 1:
        step = compiled_validation(model, plan.model.targets)
        validation = _validated(Forecasting(), plan, rank, step, rows.validation)
    return {
        "history": [entry for network in trained for entry in network.history],
        "best_epoch": trained[0].best_epoch,
        **validation,
        "largest_difference": difference,
        "weights": int(sum(np.prod(w.shape) for w in model.trainable_variables)),
        "resumed_epochs": sum(network.resumed for network in trained),
    }


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What a rank keeps of each split from one epoch to the next."""

    training: labelled_rows.EncodedRows
    validation: labelled_rows.EncodedRows

    @classmethod
    def of(cls, plan: Plan) -> _Rows:
        """Nothing yet."""
        most = plan.settings.kept_rows
        return cls(
            labelled_rows.EncodedRows(plan.training_tensors(), most),
            labelled_rows.EncodedRows(plan.tensor_maker(), most),
        )


def _train_network(
    plan: Plan,
    number: int,
    rank: ranks.Rank,
    rows: _Rows,
    after_epoch: Callable[[Mapping[str, float]], None] | None,
) -> _State:
    """A network of the ensemble with the weights of its best epoch."""
    ranks.seed(plan.of_network(number).settings.seed)
    state = _State.start(plan.of_network(number), number, rank, rows)
    while state.epochs < state.last_epoch and not state.out_of_patience():
        state.run_epoch()
        if rank.first:
            checkpoint.save(state.snapshot(), state.plan.checkpoint_uri)
        if after_epoch is not None:
            after_epoch(state.history[-1])
    state.restore(state.learner.model.variables, state.best)
    return state


@dataclasses.dataclass(frozen=True)
class _Learner:
    """A network and what trains it: see `Objective`; `encoder_rate` is a TensorFlow variable."""

    objective: Objective
    model: Any
    optimizer: Any
    encoder_rate: Any
    train_step: Callable[..., Any]
    validation_step: Callable[..., Any]

    @classmethod
    def of(cls, plan: Plan) -> _Learner:
        """Build the network and compile its steps."""
        import tensorflow as tf

        settings, objective = plan.settings, objective_of(plan)
        model = objective.network(plan)
        rate = tf.Variable(1.0, trainable=False)
        optimizer = ranks.adamw(
            settings.peak_learning_rate, settings.weight_decay, settings.average_decay, _pretrained(plan, model), rate
        )
        optimizer.build(model.trainable_variables)
        return cls(objective, model, optimizer, rate, *objective.steps(model, optimizer, plan))


@dataclasses.dataclass
class _State:
    """A rank between two epochs of a network; `number` is the network's place in the ensemble, from 0."""

    plan: Plan
    number: int
    rank: ranks.Rank
    learner: _Learner
    progress: ProgressFile
    rows: _Rows
    best: list[Array] = dataclasses.field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    resumed: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, plan: Plan, number: int, rank: ranks.Rank, rows: _Rows) -> _State:
        """Build the network, take up a checkpoint if there is one, and give all ranks the same state."""
        learner = _Learner.of(plan)
        model, optimizer = learner.model, learner.optimizer
        state = cls(plan, number, rank, learner, ProgressFile(plan.progress_uri), rows)
        found = checkpoint.load(plan.checkpoint_uri, plan.key)
        # All ranks read the same file; that they found the same epoch is checked, not assumed.
        first = ranks.broadcast_number(found.epochs if found else 0)
        if first != (found.epochs if found else 0):
            raise RuntimeError(f"rank {rank.number} does not see the checkpoint that the first rank sees")
        if found:
            state.restore(model.variables, found.model)
            state.restore(optimizer.variables, found.optimizer)
            state.best, state.best_loss, state.best_epoch = list(found.best), found.best_loss, found.best_epoch
            state.history = [dict(entry) for entry in found.history]
            state.resumed = state.epochs
        ranks.broadcast([*model.variables, *optimizer.variables])
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
        """One pass over the training shards and, if the epoch is validated, one over the validation shards."""
        began = time.monotonic()
        losses = self._train_epoch()
        seconds = time.monotonic() - began
        rows = self.plan.training.steps(self.plan.settings.global_batch) * self.plan.settings.global_batch
        with ranks.averaged(self.learner.model, self.learner.optimizer):
            validation = self._validate() if self._is_judged() else {}
            found = [np.array(v.numpy()) for v in self.learner.model.variables]
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
            "learning_rate": float(self.learner.optimizer.learning_rate.numpy()),
            "seconds": seconds,
            "users_per_second": rows / seconds,
        }
        self.history.append(entry)
        if self.plan.until or validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = validation_loss, self.epochs
            self.best = found
        if not self.plan.until:  # otherwise the validation rows may be among the training rows
            self.progress.epoch(entry)

    def _is_judged(self) -> bool:
        """Whether the running epoch is validated: only the last one where `plan.until` fixes it, otherwise each."""
        return not self.plan.until or self.epochs + 1 == self.last_epoch

    def snapshot(self) -> checkpoint.Checkpoint:
        """The state as it is stored."""
        return checkpoint.Checkpoint(
            key=self.plan.key,
            epochs=self.epochs,
            model=[np.array(v.numpy()) for v in self.learner.model.variables],
            optimizer=[np.array(v.numpy()) for v in self.learner.optimizer.variables],
            best=self.best,
            best_loss=self.best_loss,
            best_epoch=self.best_epoch,
            history=self.history,
        )

    def _train_epoch(self) -> float:
        settings, shards = self.plan.settings, self.plan.training
        steps = shards.steps(settings.global_batch)
        batches = self.learner.objective.training(self.plan, self.rows.training, self.rank.number, self.epochs)
        self.learner.encoder_rate.assign(encoder_rate(settings, self.epochs))
        loss_sum, seen, began = 0.0, 0, time.monotonic()
        before, all_steps = self.number * settings.epochs * steps, settings.ensemble * settings.epochs * steps
        for batch in prefetch(batches, settings.prefetch_batches):
            done = self.epochs * steps + seen
            self.learner.optimizer.learning_rate = learning_rate(
                done, settings.epochs * steps, settings.warmup_epochs * steps, settings.peak_learning_rate
            )
            loss_sum += float(self.learner.train_step(batch))
            seen += 1
            if self.rank.first:
                speed = seen * settings.global_batch / (time.monotonic() - began)
                self.progress.step(before + done + 1, all_steps, loss_sum / seen, speed)
        return ranks.sums([loss_sum])[0] / (seen * self.rank.count)

    def _validate(self) -> dict[str, float]:
        learner = self.learner
        return _validated(learner.objective, self.plan, self.rank, learner.validation_step, self.rows.validation)


def _validated(
    objective: Objective, plan: Plan, rank: ranks.Rank, step: Callable[..., Any], encoded: labelled_rows.EncodedRows
) -> dict[str, float]:
    """Mean `validation_loss`, share that is right as `validation_accuracy`, and mean loss of each of `model.targets`.

    Over the validation rows of all ranks.
    """
    make = encoded.make
    totals = np.zeros(3 + len(make.targets))
    for batch in prefetch(objective.validation(plan, encoded, rank.number), plan.settings.prefetch_batches):
        totals += np.array([float(v) for v in step(batch)])
    loss, correct, count, *further = ranks.sums(list(totals))
    means = {"loss": loss, "accuracy": correct, **dict(zip((f"loss_{t}" for t in make.targets), further, strict=True))}
    return {f"validation_{name}": total / count for name, total in means.items()}


def _pretrained(plan: Plan, model: Any) -> Sequence[Any]:
    """The variables of a network that start from pretrained weights."""
    from training.models.layers import encoder_of

    return encoder_of(model).trainable_variables if plan.encoder_uri is not None else ()


def objective_of(plan: Plan) -> Objective:
    """What the plan's training learns."""
    if plan.pretraining is None:
        return Forecasting()
    from training.fitting.pretraining import Pretraining  # it builds on the plan

    return Pretraining(plan.pretraining)


def encoder_rate(settings: TrainingSettings, epoch: int) -> float:
    """Learning rate of a pretrained encoder in an epoch (from 0), as a share of that of the other weights."""
    return 0.0 if epoch < settings.frozen_epochs else settings.encoder_rate


def learning_rate(step: int, steps: int, warmup_steps: float, peak: float) -> float:
    """Linear warm-up to `peak` (Goyal et al., arXiv 1706.02677), then a half cosine to zero at `steps`."""
    if step + 1 < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))
