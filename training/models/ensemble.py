"""One model of several networks that answers with the mean of their answers. Imported where a network is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def ensemble(members: Sequence[Any]) -> Any:
    """The mean of the outputs of networks with equal inputs and outputs; the network itself where there is one alone.

    A mean of probabilities is a probability, and its logloss is never above the mean of theirs (Lakshminarayanan et
    al., arXiv 1612.01474).
    """
    if len(members) == 1:
        return members[0]
    inputs = {n: keras.Input(t.shape[1:], dtype=t.dtype, name=n) for n, t in members[0].input.items()}
    for number, member in enumerate(members):
        member.name = f"member_{number}"
    answers = [member(inputs) for member in members]
    mean = {name: keras.layers.Average(dtype="float32")([answer[name] for answer in answers]) for name in answers[0]}
    return keras.Model(inputs, mean, name="ensemble")


def members_of(model: Any) -> list[Any]:
    """The networks of an ensemble; of any other model itself."""
    return [layer for layer in model.layers if isinstance(layer, keras.Model)] or [model]
