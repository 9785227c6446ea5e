"""The networks by name. A new one is a module with `Parameters` and `build`, and one line here.

Nothing here imports TensorFlow: settings are validated in processes that never train.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from pydantic import BaseModel

REGISTRY = {
    "cnn": "training.models.cnn",
    "lstm": "training.models.lstm",
    "hybrid": "training.models.hybrid",
    "transformer": "training.models.transformer",
}
"""Model names and the modules that define them."""


class ModelModule(Protocol):
    """What a module of the registry offers.

    Attributes:
        Parameters: pydantic class of the model's parameters, with `max_events`, the newest events that it reads.
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
