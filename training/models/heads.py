"""Output layers of networks: probabilities of the tiers, and the outcome value. Imported where a network is built.

Every head gives probabilities that are not negative and sum to 1 by construction, and is trained by the one loss of
`training.fitting.loop`, the logarithm of the outcome tier's probability: for the ordinal heads this is their own
likelihood.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from features.core.contract import INACTIVE
from training.models.layers import PACKAGE, Shapes
from training.models.parameters import NetworkParameters

_APART = 3.0
"""Distance of two thresholds before training, in logits: in the middle of a tier a member stays with chance 0.64."""


def outputs(features: Any, inputs: dict[str, Any], shapes: Shapes, parameters: NetworkParameters) -> dict[str, Any]:
    """What every network gives: `tier` [n, K], and each of `shapes.targets`: a tier's [n, K], `inactive` [n, 1].

    Args:
        features: [n, H].
        inputs: of the network.
        shapes: sizes, and what is forecast.
        parameters: `head` and `tier_aware`.
    """

    def output(name: str) -> Any:
        if name == INACTIVE:
            return keras.layers.Dense(1, activation="sigmoid", dtype="float32", name=name)(features)
        return tier_head(features, inputs["tier"], shapes.tiers, parameters, name)

    return {name: output(name) for name in ("tier", *shapes.targets)}


def tier_head(features: Any, tier: Any, tiers: int, parameters: NetworkParameters, name: str = "tier") -> Any:
    """Probabilities of the tiers [n, K], always in float32.

    With `softmax` each tier has a score of its own. `corn` and `cumulative` know that tiers are ordered:
    `ConditionalTiers` asks at each tier whether a member goes further, `CumulativeTiers` places a member on one line
    that the tiers divide.

    Args:
        features: [n, H].
        tier: [n, K] one-hot current tier.
        tiers: K.
        parameters: `head` and `tier_aware`.
        name: begins those of the layers.
    """
    scores = {"softmax": tiers, "corn": tiers - 1, "cumulative": 2}[parameters.head]
    x = keras.layers.Dense(scores, dtype="float32", name=f"{name}_scores")(features)
    if parameters.tier_aware:
        x = ByTier(dtype="float32", name=f"by_{name}")(x, tier=tier)
    if parameters.head == "corn":
        return ConditionalTiers(dtype="float32", name=f"{name}_probabilities")(x)
    if parameters.head == "cumulative":
        return CumulativeTiers(dtype="float32", name=f"{name}_probabilities")(x, tier=tier)
    return keras.layers.Softmax(dtype="float32", name=f"{name}_probabilities")(x)


def value_head(features: Any) -> Any:
    """The auxiliary forecast of log1p of the outcome value, [n, 1], always in float32."""
    return keras.layers.Dense(1, dtype="float32", name="log_value")(features)


@keras.saving.register_keras_serializable(PACKAGE)
class ByTier(keras.layers.Layer):
    """Scores [n, S], scaled and shifted by learned numbers of the current tier [n, K]; unchanged before training."""

    def build(self, scores_shape: Any, tier_shape: Any) -> None:
        """A row of scales and one of shifts per tier."""
        shape = (tier_shape[-1], scores_shape[-1])
        self.log_scales = self.add_weight(shape=shape, initializer="zeros", name="log_scales")
        self.shifts = self.add_weight(shape=shape, initializer="zeros", name="shifts")

    def call(self, scores: Any, tier: Any) -> Any:
        """See the class."""
        return scores * ops.exp(ops.matmul(tier, self.log_scales)) + ops.matmul(tier, self.shifts)

    def compute_output_shape(self, scores_shape: Any, tier_shape: Any) -> Any:
        """[n, S]."""
        return scores_shape


@keras.saving.register_keras_serializable(PACKAGE)
class ConditionalTiers(keras.layers.Layer):
    """Scores [n, K - 1] to probabilities [n, K]: score k says how likely a member who reaches tier k goes further.

    CORN (Shi et al., arXiv 2111.08851): P(beyond k) = sigmoid(score_0) ... sigmoid(score_k). Its conditional losses,
    each over the rows that reach the tier, add up to the logloss of these probabilities.
    """

    def call(self, scores: Any) -> Any:
        """See the class."""
        beyond = ops.cumsum(ops.log_sigmoid(scores), axis=-1)
        reached = ops.pad(beyond, [[0, 0], [1, 0]])
        stays = ops.pad(ops.log_sigmoid(-scores), [[0, 0], [0, 1]])
        return ops.exp(reached + stays)

    def compute_output_shape(self, scores_shape: Any) -> Any:
        """[n, K]."""
        return (scores_shape[0], scores_shape[-1] + 1)


@keras.saving.register_keras_serializable(PACKAGE)
class CumulativeTiers(keras.layers.Layer):
    """A place and its log spread [n, 2], and the current tier [n, K], to probabilities [n, K].

    P(beyond k) = sigmoid((place - threshold_k) / spread): cumulative logits (McCullagh 1980), whose ascending
    thresholds each current tier has of its own.
    """

    def build(self, scores_shape: Any, tier_shape: Any) -> None:
        """By current tier: the first threshold, then numbers whose softplus is the step to the next threshold.

        Before training, the place 0 is in the middle of each current tier: a member without any signal stays.
        """
        tiers = tier_shape[-1]
        start = np.full((tiers, tiers - 1), np.log(np.expm1(_APART)))
        start[:, 0] = _APART * (0.5 - np.arange(tiers))
        self.steps = self.add_weight(shape=start.shape, initializer=keras.initializers.Constant(start), name="steps")

    def call(self, scores: Any, tier: Any) -> Any:
        """See the class."""
        steps = ops.concatenate([self.steps[:, :1], ops.softplus(self.steps[:, 1:])], axis=1)
        thresholds = ops.cumsum(steps, axis=1)
        logits = (scores[:, :1] - ops.matmul(tier, thresholds)) * ops.exp(-scores[:, 1:])
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) keeps the digits of small differences.
        beyond = ops.pad(ops.sigmoid(logits), [[0, 0], [1, 0]], constant_values=1.0)
        within = ops.pad(ops.sigmoid(-logits), [[0, 0], [0, 1]], constant_values=1.0)
        between = -ops.expm1(logits[:, 1:] - logits[:, :-1])
        return beyond * within * ops.pad(between, [[0, 0], [1, 1]], constant_values=1.0)

    def compute_output_shape(self, scores_shape: Any, tier_shape: Any) -> Any:
        """[n, K]."""
        return tier_shape
