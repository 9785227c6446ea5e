"""Training for the forecast: its loss, its compiled steps and its validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from features.core.contract import INACTIVE, VALUE
from training.examples import labelled_rows
from training.examples.batches import Shuffle, training_batches, validation_batches
from training.examples.labelled_rows import TARGET_TIER, TARGET_VALUE, TARGET_WEIGHT
from training.fitting.plan import Plan
from training.inputs.column_names import MEMBER
from training.inputs.tensors import Tensors
from training.models.create import build_model, start_from


class Forecasting:
    """Training to forecast the outcome tier; an `Objective`."""

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

    def training(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int, epoch: int) -> Iterator[Tensors]:
        """The tensors of shuffled rows."""
        settings = plan.settings
        shuffle = Shuffle(settings.shuffle_rows, settings.by_length, settings.seed, epoch)
        return training_batches(plan.training, encoded, rank, settings.ranks, settings.global_batch, shuffle)

    def validation(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int) -> Iterator[Tensors]:
        """The tensors of all rows."""
        settings = plan.settings
        share = max(1, settings.global_batch // settings.ranks)
        return validation_batches(
            plan.validation, encoded, rank, settings.ranks, share, settings.shuffle_rows, settings.by_length
        )


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
    the loss of a row depend on the rank that it is on. `teacher_weight` is the share of the tier's loss that compares
    with the teacher's probabilities, not with the outcome.
    """
    import keras
    import tensorflow as tf

    signature = _signature(model, targets)
    if teacher_weight:
        signature[labelled_rows.TAUGHT] = tf.TensorSpec([None, model.output["tier"].shape[-1]], tf.float32)

    @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
    def train_step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = model({name: batch[name] for name in model.input}, training=True)
            weight = batch[TARGET_WEIGHT] / mean_weight
            of_tier = _log_losses(batch, outputs)
            if teacher_weight:
                taught = keras.losses.categorical_crossentropy(batch[labelled_rows.TAUGHT], outputs["tier"])
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
    kinds |= {labelled_rows.target_tensor(name): tf.int32 for name in targets}
    return found | {name: tf.TensorSpec([None], kind) for name, kind in kinds.items()}


def _log_losses(batch: Any, outputs: Any) -> Any:
    import keras

    return keras.losses.sparse_categorical_crossentropy(batch[TARGET_TIER], outputs["tier"])


def _target_losses(batch: Any, outputs: Any, target: str) -> Any:
    """Logarithmic loss [n] of one of `model.targets`."""
    import keras

    truth = batch[labelled_rows.target_tensor(target)]
    if target == INACTIVE:
        return keras.losses.binary_crossentropy(truth[:, None], outputs[target])
    return keras.losses.sparse_categorical_crossentropy(truth, outputs[target])
