"""Pretraining of an encoder on sequences alone: its losses, its network and its batches.

Two losses look at the same slices, which are drawn at random from members' sequences. The contrastive one (CoLES,
Babaev et al., arXiv 2002.08232) wants slices of one member near each other and those of different members apart. The
other one forecasts, from the state at each event of a slice, what the next event is. Neither needs an outcome.

Slices are compared within the rows that one shard gives to a step. So a step's loss, like its rows, is the same for any
number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from features.core.contract import Contract
from training.examples import labelled_rows
from training.examples.batches import Shuffle, training_batches, validation_batches
from training.examples.shards import ShardSet
from training.fitting.plan import Plan
from training.fitting.slices import sliced
from training.inputs.column_names import MEMBER
from training.inputs.encoding import TIME_CHANNELS
from training.inputs.tensors import Tensors
from training.models import EMBEDDING
from training.models.create import build_model
from training.settings.fitting import PretrainingSettings

_NUMBERS = "next_numbers"
_VALIDATION = 1_000_000_007
"""In place of the epoch when slices of the validation rows are drawn: they are the same in all epochs."""

_SMALLEST = 1e-12


class Pretraining:
    """To tell members' slices apart and to forecast next events; an `Objective` of `training.fitting.loop`."""

    def __init__(self, settings: PretrainingSettings) -> None:
        self.settings = settings

    def network(self, plan: Plan) -> Any:
        """The encoder of the plan's network, with an embedding of the row and forecasts at each event."""
        import keras

        from training.inputs.encoding import FIRST_CODE
        from training.models.layers import EventPooling, UnitLength, encoder_of

        encoder = encoder_of(build_model(plan.model, plan.contract, plan.encoding))
        states = encoder.output
        pooled = EventPooling()(states, present=encoder.input["mask"])
        outputs = {EMBEDDING: UnitLength(name=EMBEDDING)(pooled)}
        outputs[_NUMBERS] = keras.layers.Dense(
            len(forecast_numbers(plan.contract)), dtype="float32", name=_NUMBERS
        )(states)  # fmt: skip
        for q, channel in enumerate(plan.contract.categorical):
            codes = len(plan.encoding.vocabulary[channel]) + FIRST_CODE
            outputs[_code(q)] = keras.layers.Dense(codes, dtype="float32", name=_code(q))(states)
        return keras.Model(encoder.input, outputs, name="pretraining")

    def steps(self, model: Any, optimizer: Any, plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Training step: the weighted sum of both losses; validation step: the same, and the share of codes right."""
        import tensorflow as tf

        signature = {n: tf.TensorSpec([None, *t.shape[1:]], t.dtype) for n, t in model.input.items()}
        signature[MEMBER] = tf.TensorSpec([None, None], tf.int32)

        def losses(batch: Any, training: bool) -> tuple[Any, Any]:
            outputs = model({name: batch[name] for name in model.input}, training=training)
            return self._losses(outputs, batch, plan.contract)

        @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
        def train_step(batch: Any) -> Any:
            with tf.GradientTape() as tape:
                loss, _ = losses(batch, training=True)
            gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        @tf.function(input_signature=[signature], jit_compile=False, autograph=False)
        def validation_step(batch: Any) -> Any:
            loss, right = losses(batch, training=False)
            slices = tf.cast(tf.size(batch[MEMBER]), tf.float32)
            return loss * slices, right * slices, slices

        return train_step, validation_step

    def _losses(self, outputs: Any, batch: Any, contract: Contract) -> tuple[Any, Any]:
        from keras import ops

        settings, embedding = self.settings, outputs[EMBEDDING]
        loss, right = next_event_loss(outputs, batch, forecast_numbers(contract), len(contract.categorical))
        loss *= settings.next_event_weight
        if settings.contrastive_weight:
            shape = (*ops.shape(batch[MEMBER]), embedding.shape[-1])
            grouped = ops.reshape(embedding, shape)
            loss += settings.contrastive_weight * contrastive_loss(
                grouped, batch[MEMBER], settings.margin, settings.negatives
            )
        return loss, right

    def training(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int, epoch: int) -> Iterator[Tensors]:
        """Slices of shuffled rows, drawn by (seed, epoch, step, shard)."""
        settings = plan.settings
        shards = plan.training.of_rank(rank, settings.ranks)
        shuffle = Shuffle(settings.shuffle_rows, settings.by_length, settings.seed, epoch)
        batches = training_batches(plan.training, encoded, rank, settings.ranks, settings.global_batch, shuffle)
        for step, batch in enumerate(batches):
            yield sliced(batch, [_random(settings.seed, epoch, step, shard) for shard in shards], self.settings)

    def validation(self, plan: Plan, encoded: labelled_rows.EncodedRows, rank: int) -> Iterator[Tensors]:
        """Slices of all rows, the same in every epoch and for any number of ranks."""
        settings, shards = plan.settings, plan.validation
        share = shards.rows_per_batch(settings.global_batch)
        for shard in shards.of_rank(rank, settings.ranks):
            alone = ShardSet((shards.uris[shard],), (shards.rows[shard],))
            batches = validation_batches(alone, encoded, 0, 1, share, settings.shuffle_rows, settings.by_length)
            for step, batch in enumerate(batches):
                yield sliced(batch, [_random(settings.seed, _VALIDATION, step, shard)], self.settings)


def contrastive_loss(embeddings: Any, member: Any, margin: float, negatives: int) -> Any:
    """Contrastive loss (Hadsell et al. 2006) with the nearest negatives, as CoLES uses it (arXiv 2002.08232).

    Of each group: the mean squared distance of pairs of one member, and the mean of max(0, margin - distance)^2 over
    each slice's nearest slices of other members.

    Args:
        embeddings: [G, M, H], each of length 1.
        member: [G, M] ints, equal for slices of one member, negative for a slice that does not count.
        margin: distance that slices of different members should have.
        negatives: how many of the nearest ones count for each slice.

    Returns:
        The mean over the groups; a group without pairs of either kind adds nothing of that kind.
    """
    from keras import ops

    # Vectors of length 1: |a - b|^2 = 2 - 2 a.b; the root has no slope at 0.
    squared = ops.maximum(2.0 - 2.0 * ops.einsum("gih,gjh->gij", embeddings, embeddings), _SMALLEST)
    counts = ops.logical_and((member >= 0)[:, :, None], (member >= 0)[:, None, :])
    same = member[:, :, None] == member[:, None, :]
    itself = ops.eye(ops.shape(member)[1], dtype="bool")[None]
    near = ops.logical_and(counts, ops.logical_and(same, ops.logical_not(itself)))
    far = ops.logical_and(counts, ops.logical_not(same))
    # Squared distances are at most 4, so 9 puts pairs that are no negatives behind all negatives.
    nearest = -ops.top_k(-ops.where(far, squared, 9.0), ops.minimum(negatives, ops.shape(member)[1]))[0]
    counted = ops.cast(nearest < 5.0, "float32")
    short = counted * ops.square(ops.maximum(margin - ops.sqrt(nearest), 0.0))
    return ops.mean(_mean(ops.where(near, squared, 0.0), ops.cast(near, "float32")) + _mean(short, counted))


def _mean(values: Any, counted: Any) -> Any:
    """[G] mean of the counted values of each group, 0 for a group without any."""
    from keras import ops

    return ops.sum(values, axis=(1, 2)) / ops.maximum(ops.sum(counted, axis=(1, 2)), 1.0)


def next_event_loss(outputs: Any, batch: Any, numbers: list[int], channels: int) -> tuple[Any, Any]:
    """The loss of the forecasts of next events, and the share of their categories that is forecast correctly.

    Of each event that another one follows: the mean over categorical channels of the negative log-likelihood of the
    next event's code, and the mean over `numbers` of the Huber loss (delta 1) of its normalised value; each a mean over
    the events of a slice, and then over all slices, of which those without two events add nothing.

    Args:
        outputs: `next_numbers` [m, W, N], and for each categorical channel q `next_code_q` [m, W, codes], logits.
        batch: `channels` [m, W, C], `codes` [m, W, Q], `mask` [m, W].
        numbers: N numeric channels that are forecast.
        channels: Q.

    Returns:
        Two scalars.
    """
    import keras
    from keras import ops

    pairs = ops.cast(batch["mask"][:, 1:], "float32")
    share = pairs / ops.maximum(ops.sum(pairs, axis=1, keepdims=True), 1.0)
    wanted = ops.stack([batch["channels"][:, 1:, c] for c in numbers], axis=-1)
    missed = keras.losses.huber(wanted, outputs[_NUMBERS][:, :-1])
    right = ops.zeros_like(pairs)
    for q in range(channels):
        logits, codes = outputs[_code(q)][:, :-1], batch["codes"][:, 1:, q]
        missed += keras.losses.sparse_categorical_crossentropy(codes, logits, from_logits=True) / channels
        right += ops.cast(ops.equal(ops.argmax(logits, axis=-1), codes), "float32") / channels
    slices = ops.cast(ops.shape(pairs)[0], "float32")
    return ops.sum(share * missed) / slices, ops.sum(share * right) / slices


def forecast_numbers(contract: Contract) -> list[int]:
    """Which of `channels` are forecast of the next event: its gap and the contract's numbers, not its time."""
    return [TIME_CHANNELS.index("gap"), *range(len(TIME_CHANNELS), len(TIME_CHANNELS) + len(contract.numeric))]


def _code(channel: int) -> str:
    return f"next_code_{channel}"


def _random(*of: int) -> np.random.Generator:
    return np.random.default_rng(of)
