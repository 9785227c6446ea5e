"""The networks by name. A new one is a module with `Parameters` and `build`, and one line here.

Nothing here imports TensorFlow: settings are validated in processes that never train.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from pydantic import BaseModel

from features.core.contract import VALUE
from training.models.parameters import JoinedParameters

EMBEDDING = "embedding"
"""Output of the network: the vector of length 1 of a row's events [n, H]."""

TIER = "tier"
"""The output of every network: probabilities by tier rank."""

REGISTRY = {
    "cnn": "training.models.cnn",
    "lstm": "training.models.lstm",
    "hybrid": "training.models.hybrid",
    "transformer": "training.models.transformer",
}
"""Model names and the modules that define them."""


@dataclasses.dataclass(frozen=True)
class EncoderShape:
    """The part of a network that can be pretrained: from events to a state at each event, the layer `STATES`.

    Attributes:
        parameters: of the model, those that the encoder's weights depend on.
        causal: whether the state at an event depends on no later one, so that it may be asked to forecast the next.
    """

    parameters: tuple[str, ...]
    causal: bool


class ModelModule(Protocol):
    """What a module of the registry offers.

    Attributes:
        Parameters: pydantic class of the model's parameters, with `max_events`, the newest events that it reads.
        ENCODER: an `EncoderShape`, where the network has a layer named `training.models.layers.STATES`.
    """

    Parameters: type[BaseModel]

    def build(self, shapes: object, parameters: BaseModel) -> object:
        """A Keras model with fresh weights; `shapes` are those of `training.models.layers.Shapes`."""


def model_module(name: str) -> ModelModule:
    """The module of a model; raises KeyError for an unknown name."""
    return cast(ModelModule, importlib.import_module(REGISTRY[name]))


def parameters_class(name: str) -> type[BaseModel]:
    """The parameters class of a model; raises KeyError for an unknown name."""
    return model_module(name).Parameters


def further_outputs(name: str, targets: Sequence[str]) -> tuple[str, ...]:
    """What a model forecasts beside the tier: `value` where it has such a head, and `model.targets`."""
    value = (VALUE,) if issubclass(parameters_class(name), JoinedParameters) else ()
    return (*value, *targets)


def encoder_shape(name: str) -> EncoderShape | None:
    """The encoder of a model that can be pretrained, or None; raises KeyError for an unknown name."""
    return getattr(model_module(name), "ENCODER", None)


def with_encoders() -> list[str]:
    """Names of the models that offer an encoder."""
    return [name for name in REGISTRY if encoder_shape(name)]
