"""Embeddings of members by a pretrained encoder, in Spark's workers: each worker loads the network once."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from training.bundles.manifest import Manifest
from training.inputs.column_names import AS_OF
from training.models import EMBEDDING
from training.scoring.network_calls import NetworkCalls
from training.settings.scoring import ScoringSettings
from training.spark.predictors import load_once, network_key, network_of_worker

_encoders: dict[tuple[tuple[str, str, str], str], NetworkCalls] = {}
"""Encoders of this Python worker by network and settings."""


def embedded(
    rows: pa.Table, as_of: dt.date, pretrained_uri: str, manifest: Manifest, settings: ScoringSettings
) -> pa.Table:
    """The embedding of each row of `sequences`: user_id, embedding (float32, length 1), version and as_of_date."""
    vectors = encoder_of_worker(pretrained_uri, manifest, settings)(rows)
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.table(
        {
            "user_id": rows["user_id"],
            EMBEDDING: pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.astype(np.float32).ravel())),
            "version": pa.repeat(manifest.version, rows.num_rows),
            AS_OF: pa.repeat(pa.scalar(as_of, pa.date32()), rows.num_rows),
        }
    )


def encoder_of_worker(pretrained_uri: str, manifest: Manifest, settings: ScoringSettings) -> NetworkCalls:
    """The calls of a pretrained encoder, which give [n, H]; loaded by the first call in a process."""

    def load() -> NetworkCalls:
        return NetworkCalls(network_of_worker(pretrained_uri, manifest), manifest, settings, EMBEDDING)

    return load_once(_encoders, (network_key(pretrained_uri, manifest), settings.model_dump_json()), load)
