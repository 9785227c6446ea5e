"""The state of a training after an epoch, as one file that holds arrays and JSON only.

A training that is started again with the same key goes on from it, and ends in the weights of an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence

import numpy as np

from features.core import places
from features.core.arrays import Array
from features.core.errors import StorageError

_GROUPS = ("model", "optimizer", "best")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything that the next epoch depends on beside plan and data.

    Attributes:
        key: of the training; a checkpoint of another is not taken up.
        epochs: finished epochs.
        model: values of all variables of the network, seed generators included.
        optimizer: values of all variables of the optimizer.
        best: values of the variables of the network after the best epoch.
        best_loss: the validation loss of that epoch.
        best_epoch: its number, from 1.
        history: one entry per finished epoch.
    """

    key: str
    epochs: int
    model: Sequence[Array]
    optimizer: Sequence[Array]
    best: Sequence[Array]
    best_loss: float
    best_epoch: int
    history: Sequence[Mapping[str, float]]

    def to_bytes(self) -> bytes:
        """An .npz file."""
        arrays = {f"{group}_{i:05d}": a for group in _GROUPS for i, a in enumerate(getattr(self, group))}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _GROUPS}
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Checkpoint:
        """Read what `to_bytes` wrote; raises ValueError on anything else, and never unpickles."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                rest = json.loads(stored["meta"].tobytes())
                rest |= {g: [stored[n] for n in sorted(stored.files) if n.startswith(f"{g}_")] for g in _GROUPS}
                return cls(**rest)
        except Exception as error:  # zip, numpy and JSON each have their own classes of damage
            raise ValueError(f"not a checkpoint: {error}") from error


def save(checkpoint: Checkpoint, address: str) -> None:
    """Write it whole or not at all."""
    places.write_bytes(address, checkpoint.to_bytes())


def load(address: str, key: str) -> Checkpoint | None:
    """The checkpoint of this training, or None if there is none yet; raises StorageError if it is damaged."""
    try:
        found = Checkpoint.from_bytes(places.read_bytes(address))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(f"{address} is damaged ({error}); delete it to train from the start") from error
    return found if found.key == key else None
