"""Calls of the network: rows brought to a few fixed shapes, so that it is compiled once for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.core.arrays import Array
from training.bundles.manifest import Manifest
from training.inputs.tensors import Encoded, Tensors
from training.models import TIER
from training.settings.scoring import ScoringSettings

ROWS_TOGETHER = 64
"""Calls with a multiple of this number of rows give the same bits for a row: they fill the vectors and blocks of matrix
products. A smaller number would leave fewer empty rows but change the last digit."""

_CALLS_PADDED = 8
"""Number of calls that are padded at once: after each call the processor's caches are cold for padding."""


class NetworkCalls:
    """A loaded network that is called with rows of `contract` and gives some of its outputs.

    Attributes:
        contract: what the rows mean.
        encoding: vocabulary and normalisation.
        network: from the padded tensors of a call, see `calls`, to the outputs, side by side.
    """

    def __init__(self, model: Any, manifest: Manifest, settings: ScoringSettings, *outputs: str) -> None:
        import tensorflow as tf

        from training.models.create import tensor_width

        self.contract, self.encoding, self._version = manifest.contract, manifest.encoding, manifest.version
        self._model = model  # which holds the weights: a compiled function does not
        self._sizes = {name: model.output[name].shape[-1] for name in outputs}
        # Padding costs as much as events do: each row is padded to the next of a ladder of widths.
        self._widths = width_ladder(tensor_width(manifest.model, manifest.contract), settings.padding)
        # XLA compiles each shape anew.
        self._together = settings.model_rows if settings.xla else min(settings.model_rows, ROWS_TOGETHER)
        self._rows = _rounded_up(settings.model_rows, self._together)
        rows, self._inputs = self._rows if settings.xla else None, list(model.input)
        signature = {n: tf.TensorSpec([rows, *model.input[n].shape[1:]], model.input[n].dtype) for n in self._inputs}
        # Looking up the concrete function at each call would take a thirtieth of the time.
        self.network = tf.function(
            lambda batch: _side_by_side(model(batch, training=False), outputs),
            input_signature=[signature],
            jit_compile=settings.xla,
            autograph=False,
        ).get_concrete_function()

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> Array:
        """The first output, see `outputs`."""
        return self.outputs(rows)[next(iter(self._sizes))]

    def outputs(self, rows: pa.Table | pa.RecordBatch) -> dict[str, Array]:
        """Each output [n, its size] float64; raises ValueError if the network gives numbers that are not finite."""
        encoded = Encoded.of(rows, self.contract, self.encoding)
        found = np.empty((rows.num_rows, sum(self._sizes.values())))
        for members, tensors in self.calls(encoded):
            found[members] = self.network(tensors).numpy()[: len(members)]
        if not np.isfinite(found).all():
            raise ValueError(f"model {self._version} gives numbers that are not finite")
        ends = np.cumsum([*self._sizes.values()])[:-1]
        return dict(zip(self._sizes, np.split(found, ends, axis=1), strict=True))

    def calls(self, encoded: Encoded) -> Iterator[tuple[Array, Tensors]]:
        """The rows of each call of the network and their tensors, padded by the rows' own lengths.

        Up to `model_rows` rows, rounded up so that answers do not depend on their number; the rest are empty.
        """
        step = np.searchsorted(self._widths, np.minimum(encoded.lengths, self._widths[-1]))
        for k in np.unique(step):
            alike = np.flatnonzero(step == k)
            for start in range(0, len(alike), _CALLS_PADDED * self._rows):
                members = alike[start : start + _CALLS_PADDED * self._rows]
                rows = _rounded_up(len(members), self._together)
                tensors = encoded.padded(members, int(self._widths[k]), rows)
                for begin in range(0, rows, self._rows):
                    call = slice(begin, begin + self._rows)
                    yield members[call], {name: tensors[name][call] for name in self._inputs}


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _side_by_side(found: Any, outputs: Sequence[str]) -> Any:
    import tensorflow as tf

    return found[outputs[0]] if len(outputs) == 1 else tf.concat([found[name] for name in outputs], axis=1)


class Predictor(NetworkCalls):
    """The calls of a network that forecasts tiers, and the further outputs that the settings ask for."""

    def __init__(self, model: Any, manifest: Manifest, settings: ScoringSettings) -> None:
        super().__init__(model, manifest, settings, TIER, *settings.outputs)

    def outputs(self, rows: pa.Table | pa.RecordBatch) -> dict[str, Array]:
        """See `NetworkCalls.outputs`; not calibrated. Probabilities of tiers sum to 1 in float64, too."""
        found = super().outputs(rows)
        return {name: x / x.sum(axis=1, keepdims=True) if x.shape[1] > 1 else x for name, x in found.items()}


def width_ladder(width: int, padding: float) -> Array:
    """Ascending widths up to `width`, such that a row padded to the next one has at most this share of padding."""
    widths = [1]
    while widths[-1] < width:
        widths.append(min(width, max(widths[-1] + 1, int((widths[-1] + 1) / (1 - padding)))))
    return np.array(widths)
