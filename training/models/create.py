"""Creates a network: its input width, fresh or pretrained weights, its precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from features.core import places
from features.core.contract import Contract
from training.inputs.encoding import Encoding
from training.models import model_module, parameters_class
from training.models.settings import ModelSettings


def tensor_width(model: ModelSettings, contract: Contract) -> int:
    """The largest padded length of a model's inputs; it takes any shorter one that holds the events."""
    return min(int(model.resolved()["max_events"]), contract.length)


def build_model(model: ModelSettings, contract: Contract, encoding: Encoding, networks: int = 1) -> Any:
    """The Keras model with fresh weights: one network, or an ensemble of several."""
    from training.models.ensemble import ensemble
    from training.models.layers import Shapes

    shapes = Shapes.of(contract, encoding, tensor_width(model, contract), model.targets)
    parameters = parameters_class(model.name)(**model.parameters)
    return ensemble([model_module(model.name).build(shapes, parameters) for _ in range(networks)])


def in_precision(model: Any, plan: ModelSettings, contract: Contract, encoding: Encoding, precision: str) -> Any:
    """The network with the same weights, computing in another precision."""
    import keras

    from training.models.ensemble import networks_of

    if precision == "float32":
        return model
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        again = build_model(plan, contract, encoding, len(networks_of(model)))
    finally:
        keras.config.set_dtype_policy(usual)
    again.set_weights(model.get_weights())
    return again


def start_from(model: Any, address: str) -> None:
    """Give a network's encoder the weights of a pretrained one; raises ValueError if their shapes differ."""
    from training.models.layers import encoder_of

    mine, theirs = encoder_of(model), encoder_of(_load_model(address))
    shapes = [[tuple(w.shape) for w in encoder.weights] for encoder in (theirs, mine)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the encoder {address} has weights {shapes[0]}, the network's has {shapes[1]}")
    mine.set_weights(theirs.get_weights())


def _load_model(address: str) -> Any:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(places.read_bytes(address))
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def save_model(model: Any, address: str) -> None:
    """Write a Keras model to a URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        places.write_bytes(address, path.read_bytes())
