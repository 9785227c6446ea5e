"""Rows of `scores` from what the network forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.core.arrays import Array
from features.core.contract import VALUE, score_columns
from training.bundles.manifest import Manifest
from training.inputs.column_names import AS_OF, TIER_RANK
from training.models import TIER


def forecast_rows(rows: pa.Table, found: Mapping[str, Array], manifest: Manifest) -> pa.Table:
    """The forecast of each row of `sequences` and its standing, all flat.

    Args:
        rows: n rows, with the columns of the standing.
        found: of `forecasts`.
        manifest: whose tiers and version they are.
    """
    probabilities = found[TIER]
    tiers, rank = manifest.contract.tiers, rows[TIER_RANK].to_numpy().astype(np.int64)
    at, top = np.arange(len(rank)), rank == len(tiers) - 1
    above = np.arange(len(tiers))[None, :] > rank[:, None]
    below = np.arange(len(tiers))[None, :] < rank[:, None]
    margin = probabilities[at, np.minimum(rank + 1, len(tiers) - 1)] - probabilities[at, rank]
    return pa.table(
        {
            **{name: _plain(rows[name]) for name in ("user_id", AS_OF, "current_tier", "next_tier")},
            "predicted_tier": pa.array(tiers).take(pa.array(probabilities.argmax(axis=1))),
            **{f"p_{tier}": pa.array(probabilities[:, k]) for k, tier in enumerate(tiers)},
            "p_upgrade": pa.array(np.where(above, probabilities, 0).sum(axis=1)),
            "p_downgrade": pa.array(np.where(below, probabilities, 0).sum(axis=1)),
            "next_tier_margin": pa.array(margin, mask=top),
            "gap_to_next_tier": rows["gap_to_next_tier"],
            "gap_measure": _plain(rows["gap_measure"]),
            "sequence_length": rows["length"],
            "truncated": rows["truncated"],
            "model_version": pa.repeat(manifest.version, len(rank)),
            **_further_columns(found, tiers),
        }
    )


def _further_columns(found: Mapping[str, Array], tiers: Sequence[str]) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for output, values in found.items():
        if output == TIER:
            continue
        values = np.maximum(np.expm1(values), 0) if output == VALUE else values
        columns |= dict(zip(score_columns(output, tiers), values.T, strict=True))
    return columns


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
