"""Small made-up examples that follow a contract, and a plan to train on them, without Spark."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from features.core.contract import Contract
from training.bundles.manifest import Manifest
from training.examples.shards import ShardSet, example_schema, write_shards
from training.fitting.plan import Plan
from training.inputs.encoding import Encoding
from training.inputs.encoding_statistics import Statistics
from training.inputs.tensors import Encoded, Tensors, trimmed
from training.judging.calibration import Calibration
from training.models.settings import ModelSettings
from training.settings.fitting import PretrainingSettings, TrainingSettings
from training.settings.judging import CalibrationSettings, DriftSettings, GateSettings
from training.settings.scoring import ScoringSettings
from training.spark.verdicts import Judging

CONTRACT = Contract(
    length=40,
    numeric=("amount", "items"),
    categorical=("event_type", "shelf"),
    aggregates=("spend_90d", "recency_days", "gap_mean"),
    tiers=("base", "silver", "gold"),
    tier_rule=json.dumps({"spend": [250, 700]}),
    horizon_days=90,
    known_by="event_time",
)
DATES = (dt.date(2025, 1, 1), dt.date(2025, 2, 1), dt.date(2025, 3, 1))
DATE = DATES[-1]
SHELVES = ("bread", "milk", "tea", "soap")

SETTINGS: dict[str, Any] = {
    "as_of": ["2025-01-01", "2025-02-01"],
    "validation_as_of": "2025-03-01",
    "weights": "equal",
    "ranks": 1,
    "shards": 4,
    "batch": "global",
    "batch_size": 32,
    "epochs": 4,
    "learning_rate": 0.005,
    "warmup_epochs": 1,
    "weight_decay": 0.001,
    "average_decay": 0.0,
    "ensemble": 1,
    "patience": 4,
    "auxiliary_weight": 0.3,
    "mixed_precision": False,
    "vocabulary_size": 3,
    "shuffle_rows": 24,
    "kept_rows": 50,
    "by_length": True,
    "row_group_rows": 8,
    "prefetch_batches": 2,
    "labelled_share": 1.0,
    "encoder_rate": 1.0,
    "frozen_epochs": 0,
    "teacher_weight": 0.0,
    "teacher_parts": 3,
    "teacher_rows": 1000,
    "refit": False,
    "seed": 5,
    "start_timeout_seconds": 60,
    "network_interfaces": ["lo"],
}

SCORING = ScoringSettings(model_version="latest", rows_per_range=50, model_rows=16, padding=0.15, xla=False)
DRIFT = DriftSettings.model_validate(
    {
        "bins": 10,
        "sample_rows": 1000,
        "warning": {"psi": 9, "distance": 9},
        "refusal": {"psi": 9, "distance": 9},
    }
)
JUDGING = Judging(
    CalibrationSettings(method="vector", least_rows=20),
    GateSettings(better_than_markov=-9, worse_than_published=9, calibration_error=1, least_members=1000, drift=DRIFT),
    SCORING,
    max_rows=1000,
)
"""Publishes whatever is trained."""

SMALL: dict[str, dict[str, Any]] = {
    "hybrid": {"max_events": 24, "embedding": 3, "units": 6, "dense": 8, "dropout": 0.0},
    "lstm": {"max_events": 24, "embedding": 3, "first_units": 5, "second_units": 6, "dense": 8, "dropout": 0.0},
    "transformer": {
        "max_events": 24,
        "embedding": 3,
        "layers": 2,
        "heads": 2,
        "head_size": 4,
        "width": 6,
        "inner": 8,
        "dense": 8,
        "dropout": 0.0,
        "layer_dropout": 0.0,
        "causal": True,
    },
    "cnn": {"max_events": 24, "embedding": 3, "first_filters": 5, "second_filters": 6, "dense": 8},
}
"""Parameters with which each model is built and trained in a moment."""


def manifest_of(
    contract: Contract,
    encoding: Encoding,
    model: str = "hybrid",
    parameters: dict[str, Any] | None = None,
    targets: Sequence[str] = (),
    **fields: Any,
) -> Manifest:
    """A manifest of a bundle that nothing is known of; `fields` say more."""
    made: dict[str, Any] = {
        "version": f"{model}-v1",
        "training_dates": (dt.date(2024, 1, 1),),
        "validation_date": dt.date(2024, 2, 1),
        "metrics": {},
        "history": [],
        "provenance": {},
        "libraries": {},
        "created_at": "",
        "files": {},
        "calibration": Calibration.none(len(contract.tiers)),
    }
    chosen = ModelSettings(name=model, parameters=parameters or {}, targets=tuple(targets))
    return Manifest(contract=contract, encoding=encoding, model=chosen, **{**made, **fields})


def encoding_of(rows: pa.Table) -> Encoding:
    """Vocabulary of three words a channel and normalisation of these rows."""
    statistics = Statistics.empty(CONTRACT)
    statistics.add(rows, CONTRACT)
    return statistics.encoding(3)


def to_tensors(rows: pa.Table, contract: Contract, encoding: Encoding, width: int, trim: int | None = None) -> Tensors:
    """The tensors of all rows, in order, cut to the longest row if `trim` is given."""
    encoded = Encoded.of(rows, contract, encoding)
    return encoded.padded(np.arange(rows.num_rows), trimmed(width, encoded.lengths, trim))


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{**SETTINGS, **changes})


def pretraining(**changes: Any) -> PretrainingSettings:
    made = {
        "contrastive_weight": 1.0,
        "next_event_weight": 1.0,
        "slices": 3,
        "least_events": 4,
        "most_events": 12,
        "margin": 0.5,
        "negatives": 3,
        "epochs": 4,
        "batch_size": 32,
        "learning_rate": 0.005,
        "patience": 4,
        "version": "latest",
    }
    return PretrainingSettings(**{**made, **changes})


PRETRAINING = pretraining()

TARGETS = ("tier_30d", "inactive")


def example_rows(count: int, seed: int = 0, contract: Contract = CONTRACT, targets: Sequence[str] = ()) -> pa.Table:
    """`count` examples of all lengths from 0 to L, with missing values, whose outcome follows from their spend."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, contract.length + 1, count)
    spend = np.round(random.gamma(2.0, 200.0, count), 2)
    value = np.round(spend * random.uniform(0.6, 1.4, count), 2)
    columns: dict[str, Any] = {
        "seq_age": [np.sort(random.integers(1, 80 * 86_400, n))[::-1].tolist() for n in lengths],
        "seq_amount": [_holes(random, random.gamma(2.0, 20.0, n).tolist()) for n in lengths],
        "seq_items": [_holes(random, random.integers(1, 9, n).astype(float).tolist()) for n in lengths],
        "seq_event_type": [random.choice(["purchase", "campaign"], n, p=[0.9, 0.1]).tolist() for n in lengths],
        "seq_shelf": [_holes(random, random.choice(SHELVES, n, p=[0.4, 0.3, 0.2, 0.1]).tolist()) for n in lengths],
        "spend_90d": spend,
        "recency_days": random.uniform(0, 60, count),
        "gap_mean": _holes(random, random.uniform(0, 30, count).tolist()),
        "current_tier_rank": np.digitize(spend, [250, 700]),
        "as_of_date": [DATE] * count,
        "outcome_tier_rank": np.digitize(value, [250, 700]),
        "outcome_value": value,
        "member": np.arange(count),
        "weight": random.choice([0.25, 0.5, 1.0], count),
        "outcome_tier_rank_30d": np.digitize((spend + value) / 2, [250, 700]),
        "outcome_inactive": (value < 200).astype(int),
    }
    schema = example_schema(contract, targets)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def example_tables(users: int = 40) -> tuple[pa.Table, pa.Table]:
    """Rows of `sequences` and `outcomes` at the three `DATES`."""
    parts = []
    for number, date in enumerate(DATES):
        rows = example_rows(users, number).drop_columns(["as_of_date"])
        rows = rows.append_column("user_id", pa.array([f"u{i:03d}" for i in range(users)]))
        rows = rows.append_column("as_of_date", pa.array([date] * users))
        rows = rows.append_column("contract_id", pa.array([CONTRACT.id] * users))
        parts.append(rows.append_column("inputs_id", pa.array([f"in-{date}"] * users)))
    whole, outcome = pa.concat_tables(parts), ["outcome_tier_rank", "outcome_value"]
    columns = [*outcome, "member", "weight"]
    return whole.drop_columns(columns), whole.select(["user_id", "as_of_date", "inputs_id", *outcome])


def stage_rows(rows: pa.Table, split: int, shards: int, folder: Path, group: int) -> tuple[ShardSet, Statistics]:
    """Deal rows to shards in turn and write them as the examples job does."""
    number = np.arange(rows.num_rows) % shards
    order = np.argsort(number, kind="stable")
    keyed = rows.take(pa.array(order)).append_column("split", pa.array(np.full(rows.num_rows, split, np.int32)))
    keyed = keyed.append_column("shard", pa.array(number[order].astype(np.int32)))
    statistics, counts = Statistics.empty(CONTRACT), {}
    for _, shard, count, sums in write_shards(
        keyed.combine_chunks().to_batches(), rows.schema, CONTRACT, str(folder), group
    ):
        statistics.merge(sums)
        counts[shard] = count
    name = ("training", "validation")[split]
    uris = tuple(f"{folder}/{name}-{k:05d}.parquet" for k in range(shards))
    rows_of = tuple(counts[k] for k in range(shards))
    return ShardSet(uris, rows_of, statistics.weight / rows.num_rows if split == 0 else 1.0), statistics


def plan(
    folder: Path, model: str = "hybrid", rows: int = 160, key: str = "k", targets: Sequence[str] = (), **changes: Any
) -> Plan:
    """A plan over freshly staged rows: with the defaults 5 steps of 32 rows per epoch, 4 epochs."""
    chosen = settings(**changes)
    parameters = {**SMALL[model], **changes.pop("parameters", {})}
    training, statistics = stage_rows(
        example_rows(rows, 1, targets=targets), 0, chosen.shards, folder, chosen.row_group_rows
    )
    validation, _ = stage_rows(example_rows(64, 2, targets=targets), 1, chosen.shards, folder, chosen.row_group_rows)
    return Plan(
        key=key,
        contract=CONTRACT,
        encoding=statistics.encoding(chosen.vocabulary_size),
        model=ModelSettings(name=model, parameters=parameters, targets=tuple(targets)),
        settings=chosen,
        training=training,
        validation=validation,
        checkpoint_uri=f"{folder}/checkpoint.npz",
        model_uri=f"{folder}/model.keras",
        progress_uri=f"{folder}/progress.json",
    )


def _holes(random: np.random.Generator, values: list[Any]) -> list[Any]:
    return [None if random.random() < 0.1 else v for v in values]
