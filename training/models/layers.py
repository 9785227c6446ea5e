"""Keras layers that leave padding out, and the inputs that all networks share. Imported where a network is built.

Events come first in each row and padding last, so a recurrent layer needs no mask: what it gives at an event does not
depend on the padding that follows. Only what mixes steps (pooling, convolution) looks at the mask, which is called
`present` in calls because Keras has plans of its own for an argument called `mask`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from features.core.contract import Contract
from training.inputs.encoding import FIRST_CODE, TIME_CHANNELS, Encoding

PACKAGE = "tiercast"
STATES = "states"
"""Name of the layer whose output [n, W, H] is a state at each event, in networks whose encoder can be pretrained."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes that follow from contract and encoding.

    Attributes:
        width: the largest padded length W; inputs may have any shorter one that holds the events.
        channels: C, numeric channels of an event.
        vocabularies: number of values of each categorical channel.
        aggregates: A, numbers of a member.
        tiers: K.
        targets: what the network forecasts beside the tier, see `features.core.contract.TARGET`.
    """

    width: int
    channels: int
    vocabularies: tuple[int, ...]
    aggregates: int
    tiers: int
    targets: tuple[str, ...] = ()

    @classmethod
    def of(cls, contract: Contract, encoding: Encoding, width: int, targets: Sequence[str] = ()) -> Shapes:
        """Sizes of the tensors that `training.inputs.tensors.Encoded.padded` makes of a contract and encoding."""
        return cls(
            width=width,
            channels=len(TIME_CHANNELS) + len(contract.numeric),
            vocabularies=tuple(len(encoding.vocabulary[c]) for c in contract.categorical),
            aggregates=len(contract.aggregates) + len(encoding.indicated),
            tiers=len(contract.tiers),
            targets=tuple(targets),
        )

    def inputs(self) -> dict[str, keras.KerasTensor]:
        """Keras inputs by the names of the tensors."""
        return {
            "channels": keras.Input((None, self.channels), name="channels"),
            "codes": keras.Input((None, len(self.vocabularies)), dtype="int32", name="codes"),
            "mask": keras.Input((None,), dtype="bool", name="mask"),
            "aggregates": keras.Input((self.aggregates,), name="aggregates"),
            "tier": keras.Input((self.tiers,), name="tier"),
        }


@keras.saving.register_keras_serializable(PACKAGE)
class EventEmbedding(keras.layers.Layer):
    """Numeric channels beside an embedding of each categorical channel, zero at padded steps.

    Called with channels [n, W, C], codes [n, W, Q] and present [n, W]; gives [n, W, C + Q * size].

    Attributes:
        between: what explanations put between the embedded events and the rest of the network.
    """

    def __init__(self, vocabularies: list[int], size: int, **options: Any) -> None:
        super().__init__(**options)
        self.vocabularies, self.size = list(vocabularies), size
        self.between: Callable[[Any], Any] | None = None
        self.tables = [keras.layers.Embedding(n + FIRST_CODE, size) for n in self.vocabularies]

    def build(self, *_: Any) -> None:
        """One table per categorical channel."""
        for table in self.tables:
            table.build()
        super().build(None)

    def call(self, channels: Any, codes: Any, present: Any) -> Any:
        """See the class."""
        parts = [channels, *(table(codes[:, :, q]) for q, table in enumerate(self.tables))]
        joined = ops.concatenate([ops.cast(p, self.compute_dtype) for p in parts], axis=-1)
        events = ops.where(present[:, :, None], joined, ops.zeros_like(joined))
        return events if self.between is None else self.between(events)

    def average(self, channels: Any, shares: Sequence[Any]) -> Any:
        """Means of embedded events [.., C + Q * size], by mean channels [.., C] and shares [.., V + 2] of the codes."""
        tables = [ops.matmul(s, table.embeddings) for s, table in zip(shares, self.tables, strict=True)]
        return ops.concatenate([channels, *tables], axis=-1)

    def compute_output_shape(self, channels_shape: Any, **_: Any) -> Any:
        """[n, W, C + Q * size]."""
        return (*channels_shape[:-1], channels_shape[-1] + self.size * len(self.vocabularies))

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "vocabularies": self.vocabularies, "size": self.size}


def last_step(steps: Any, present: Any) -> Any:
    """The step of the last event: [n, W, H] and mask [n, W] to [n, H]; zeros for a row without events."""
    # An event followed by padding, or in the last step, is the last one.
    following = ops.pad(present[:, 1:], [[0, 0], [0, 1]])
    last = ops.logical_and(present, ops.logical_not(following))[:, :, None]
    return ops.sum(ops.where(last, steps, ops.zeros_like(steps)), axis=1)


@keras.saving.register_keras_serializable(PACKAGE)
class LastEvent(keras.layers.Layer):
    """`last_step` as a layer."""

    def call(self, steps: Any, present: Any) -> Any:
        """See `last_step`."""
        return last_step(steps, present)

    def compute_output_shape(self, steps_shape: Any, **_: Any) -> Any:
        """[n, H]."""
        return (steps_shape[0], steps_shape[-1])


@keras.saving.register_keras_serializable(PACKAGE)
class NewestAtTheEnd(keras.layers.Layer):
    """Padding moved before the events: [n, W, H] and mask [n, W] to [n, W, H].

    Where each place has weights of its own, the newest event must always stand at the same one: otherwise members with
    more history than any training row had end up at places that were never trained.
    """

    def call(self, steps: Any, present: Any) -> Any:
        """See the class."""
        width = ops.shape(steps)[1]
        padding = width - ops.sum(ops.cast(present, "int32"), axis=1)
        sources = ops.mod(ops.arange(width, dtype="int32")[None, :] - padding[:, None], width)
        return ops.take_along_axis(steps, sources[:, :, None], axis=1)

    def compute_output_shape(self, steps_shape: Any, **_: Any) -> Any:
        """[n, W, H]."""
        return steps_shape


@keras.saving.register_keras_serializable(PACKAGE)
class Window(keras.layers.Layer):
    """Zeros before the events, so many that a stack of convolutions sees what it would see at full width.

    [n, W, H] becomes [n, V, H], where V is the smallest of `width`, `width - step`, `width - 2 step` .. that is at
    least W + `margin`; V is `width` where none is.

    Args:
        width: full width.
        margin: how far before the events the convolutions' answers still depend on them or on the window's edge.
        step: how many steps the pooling makes one, so that the window's pools are those of the full width.
    """

    def __init__(self, width: int, margin: int, step: int, **options: Any) -> None:
        super().__init__(**options)
        self.width, self.margin, self.step = width, margin, step

    def call(self, steps: Any) -> Any:
        """See the class."""
        rows, taken, size = (ops.shape(steps)[axis] for axis in range(3))
        spare = ops.maximum(self.width - taken - self.margin, 0)
        zeros = ops.zeros((rows, self.width - spare // self.step * self.step - taken, size), steps.dtype)
        return ops.concatenate([zeros, steps], axis=1)

    def compute_output_shape(self, steps_shape: Any) -> Any:
        """[n, V, H]."""
        return (steps_shape[0], None, steps_shape[2])

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "width": self.width, "margin": self.margin, "step": self.step}


@keras.saving.register_keras_serializable(PACKAGE)
class NoEvents(keras.layers.Layer):
    """One row of `width` steps without events: [n, W, H] to zeros [1, width, H]."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def call(self, steps: Any) -> Any:
        """See the class."""
        return ops.zeros((1, self.width, ops.shape(steps)[2]), steps.dtype)

    def compute_output_shape(self, steps_shape: Any) -> Any:
        """[1, width, H]."""
        return (1, self.width, steps_shape[2])

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(PACKAGE)
class FullWidth(keras.layers.Layer):
    """A window's steps [n, V, F] at the end of a full width, and before them the answer to no events [1, P, F].

    `edge`: the first steps of the window, which saw its edge; they are left out unless it is as wide as the whole.
    """

    def __init__(self, edge: int, **options: Any) -> None:
        super().__init__(**options)
        self.edge = edge

    def call(self, window: Any, none: Any) -> Any:
        """See the class."""
        rows, taken, places = ops.shape(window)[0], ops.shape(window)[1], none.shape[1]
        front = places - taken
        edge = ops.minimum(front, 1) * self.edge
        before = ops.repeat(none[:, : front + edge], rows, axis=0)
        joined = ops.concatenate([before, window[:, edge:]], axis=1)
        return ops.reshape(joined, (-1, places, none.shape[2]))

    def compute_output_shape(self, window_shape: Any, none_shape: Any) -> Any:
        """[n, P, F]."""
        return (window_shape[0], *none_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """For loading."""
        return {**super().get_config(), "edge": self.edge}


@keras.saving.register_keras_serializable(PACKAGE)
class EventPooling(keras.layers.Layer):
    """Mean, maximum and last over the events: [n, W, H] and mask [n, W] to [n, 3 H]; zeros for a row without events."""

    def call(self, steps: Any, present: Any) -> Any:
        """See the class."""
        real, none = present[:, :, None], ops.zeros_like(steps)
        count = ops.sum(ops.cast(real, "float32"), axis=1)
        # Sums and maxima in float32: a bfloat16 sum of many steps would lose the small ones.
        values = ops.cast(ops.where(real, steps, none), "float32")
        mean = ops.sum(values, axis=1) / ops.maximum(count, 1.0)
        lowest = float("-inf")
        highest = ops.max(ops.where(real, values, lowest), axis=1)
        highest = ops.where(count > 0, highest, ops.zeros_like(highest))
        pooled = [ops.cast(mean, steps.dtype), ops.cast(highest, steps.dtype), last_step(steps, present)]
        return ops.concatenate(pooled, axis=-1)

    def compute_output_shape(self, steps_shape: Any, **_: Any) -> Any:
        """[n, 3 H]."""
        return (steps_shape[0], 3 * steps_shape[-1])


def encoder_of(network: keras.Model) -> keras.Model:
    """The part of a network from channels, codes and mask to its states at each event, sharing its weights."""
    events = {name: network.input[name] for name in ("channels", "codes", "mask")}
    return keras.Model(events, network.get_layer(STATES).output, name="encoder")


@keras.saving.register_keras_serializable(PACKAGE)
class UnitLength(keras.layers.Layer):
    """Vectors [n, H] scaled to length 1, in float32; zeros stay zeros."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"dtype": "float32", **options})

    def call(self, vectors: Any) -> Any:
        """See the class."""
        return ops.normalize(vectors, axis=-1)

    def compute_output_shape(self, vectors_shape: Any) -> Any:
        """[n, H]."""
        return vectors_shape
