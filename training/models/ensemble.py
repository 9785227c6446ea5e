"""One model of several networks that answers with the mean of their answers. Imported where a network is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def ensemble(networks: Sequence[Any]) -> Any:
    """The mean of the outputs of networks with equal inputs and outputs; a single network itself.

    A mean of probabilities is a probability, and its logloss is never above the mean of theirs (Lakshminarayanan et
    al., arXiv 1612.01474).
    """
    if len(networks) == 1:
        return networks[0]
    inputs = {n: keras.Input(t.shape[1:], dtype=t.dtype, name=n) for n, t in networks[0].input.items()}
    for number, network in enumerate(networks):
        network.name = f"network_{number}"
    answers = [network(inputs) for network in networks]
    mean = {name: keras.layers.Average(dtype="float32")([answer[name] for answer in answers]) for name in answers[0]}
    return keras.Model(inputs, mean, name="ensemble")


def networks_of(model: Any) -> list[Any]:
    """The networks of an ensemble; for any other model the model itself."""
    return [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
