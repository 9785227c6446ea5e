"""Slices cut from sequences, for pretraining."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from features.core.arrays import Ints
from training.fitting.plan import TRIM
from training.inputs.column_names import MEMBER
from training.inputs.tensors import Tensors, trimmed
from training.settings.fitting import PretrainingSettings

_NONE = -1


def drawn_slices(lengths: Ints, slices: int, least: int, most: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Random slices of rows of events: length uniform in what the row has, then place uniform in what is left.

    Args:
        lengths: [n] events of each row.
        slices: S, how many of each row.
        least: least events of a slice.
        most: most events of a slice.
        random: where they are drawn from.

    Returns:
        First event [n, S] and number of events [n, S] of each; none of a row that has fewer than `least`.
    """
    shape = (len(lengths), slices)
    enough = (lengths >= least)[:, None]
    choices = np.minimum(lengths, most)[:, None] - least + 1
    taken = np.where(enough, least + np.floor(random.random(shape) * choices), 0).astype(np.int64)
    first = np.where(enough, np.floor(random.random(shape) * (lengths[:, None] - taken + 1)), 0).astype(np.int64)
    return first, taken


def cut(tensors: Tensors, first: Ints, taken: Ints, width: int) -> Tensors:
    """Slices as rows of their own, those of one row one after the other.

    Args:
        tensors: `channels` [n, W, C] and `codes` [n, W, Q].
        first: [n, S] first event of each slice.
        taken: [n, S] events of each slice.
        width: V, the padded length of a slice.

    Returns:
        `channels` [n S, V, C], `codes` [n S, V, Q] and `mask` [n S, V].
    """
    step = np.arange(width)
    mask = step < taken[:, :, None]
    place = np.where(mask, first[:, :, None] + step, 0)
    row = np.arange(len(first))[:, None, None]

    def of(name: str) -> npt.NDArray[Any]:
        values = tensors[name]
        found = np.where(mask[..., None], values[row, place], np.zeros((), values.dtype))
        return found.reshape(-1, width, values.shape[-1])

    return {"channels": of("channels"), "codes": of("codes"), "mask": mask.reshape(-1, width)}


def sliced(tensors: Tensors, randoms: list[np.random.Generator], settings: PretrainingSettings) -> Tensors:
    """The batch of a step: slices of the rows of one or more shards.

    Args:
        tensors: of G shards' rows, equally many of each, one shard after the other.
        randoms: of each shard, where its slices are drawn from.
        settings: sizes of the slices.

    Returns:
        The slices of `cut`, and `member` [G, M] int32: which of a shard's slices are of one member; -1 for a slice
        without events.
    """
    lengths = np.split(tensors["mask"].sum(axis=1).astype(np.int64), len(randoms))
    drawn = [
        drawn_slices(own, settings.slices, settings.least_events, settings.most_events, random)
        for own, random in zip(lengths, randoms, strict=True)
    ]
    first, taken = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    width = trimmed(settings.most_events, taken.ravel(), TRIM)
    return {**cut(tensors, first, taken, width), MEMBER: _members(tensors[MEMBER], taken, len(randoms))}


def _members(members: Ints, taken: Ints, groups: int) -> npt.NDArray[np.int32]:
    number = np.unique(members, return_inverse=True)[1].reshape(-1, 1)
    return np.where(taken > 0, number, _NONE).astype(np.int32).reshape(groups, -1)
