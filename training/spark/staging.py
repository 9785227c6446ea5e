"""Examples for training: rows of `sequences` with their outcomes, staged as parquet shards under a URI.

One row of a shard is a member at a training or validation date. Shard and place within it are hashes of member, date
and seed, so that neither the arrangement of the tables nor the number of tasks changes a training.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as f

from features.core import places
from features.core.contract import Contract, outcome_column
from features.core.errors import TrainingDataError
from features.spark import workers
from training.examples.example_weights import uniqueness
from training.examples.shards import ShardSet, example_schema, shard_uri, write_shards
from training.inputs.column_names import AS_OF, MEMBER, OUTCOME_RANK, OUTCOME_VALUE, WEIGHT, required_columns
from training.inputs.encoding import Encoding
from training.inputs.encoding_statistics import Statistics
from training.settings.fitting import TrainingSettings
from training.settings.types import Weights

FORMAT = 3
"""Raised when the meaning of staged examples changes."""

KEY_COLUMNS = ["user_id", AS_OF]
_IN_KEY = {"validation_as_of", "weights", "labelled_share", "shards", "row_group_rows", "vocabulary_size", "seed"}
EXACT_SUM = "decimal(20,12)"  # sums of doubles would depend on the order in which tasks end
_PLACES = 1_000_000
"""Members are dealt to this many places by a hash; those in the first places are the labelled share."""
_SUMMARY = "split int, shard int, rows bigint, statistics string"


@dataclasses.dataclass(frozen=True)
class Examples:
    """Staged examples: their shards, and what was learned from the training split about encoding them."""

    training: ShardSet
    validation: ShardSet
    encoding: Encoding

    def to_json(self) -> bytes:
        """Text form, the inverse of `from_json`."""
        return TypeAdapter(Examples).dump_json(self)

    @classmethod
    def from_json(cls, text: bytes) -> Examples:
        """Rebuild from `to_json`."""
        return TypeAdapter(cls).validate_json(text)


def data_identity(
    sequences: DataFrame,
    outcomes: DataFrame | None,
    contract: Contract,
    settings: TrainingSettings,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Fingerprints of the rows that a training would read, after checking that they can train.

    `outcomes` is None for a pretraining, which reads sequences alone.

    Returns:
        JSON-ready: for each table and date the sorted `inputs_id` of its rows.

    Raises:
        TrainingDataError: a date has no rows, rows follow another contract, all outcomes are in one tier, or outcomes
            do not say what became of a target.
    """
    contracts = _grouped(sequences, settings.all_dates, "contract_id")
    _check_contract(contracts, contract)
    _check_dates("sequences", "build_sequences", contracts, settings)
    read = {"sequences": contracts}
    if outcomes is not None:
        read["outcomes"] = _grouped(outcomes, settings.all_dates, OUTCOME_RANK)
        _check_outcomes(read["outcomes"], contract, settings)
        _check_targets(outcomes, settings, targets)
    return {
        name: {str(date): sorted({r["inputs_id"] for r in rows if r[AS_OF] == date}) for date in settings.all_dates}
        for name, rows in read.items()
    }


def _check_outcomes(tiers: Sequence[Any], contract: Contract, settings: TrainingSettings) -> None:
    _check_dates("outcomes", "build_outcomes", tiers, settings)
    classes = {row[OUTCOME_RANK] for row in tiers if row[AS_OF] in settings.dates}
    if len(classes) < 2:
        raise TrainingDataError(
            f"all outcomes of the training dates {_listed(settings.dates)} are in tier "
            f"{contract.tiers[classes.pop()]!r}: a model needs at least two; check the tiers' thresholds, or train on "
            "other dates"
        )


def _check_targets(outcomes: DataFrame, settings: TrainingSettings, targets: Sequence[str]) -> None:
    rows = outcomes.where(f.col(AS_OF).isin(list(settings.all_dates)))
    for name in targets:
        column = outcome_column(name)
        if column not in outcomes.columns or not rows.where(f.col(column).isNull()).isEmpty():
            raise TrainingDataError(
                f"table outcomes does not say {column} at all dates: name {name!r} in horizon.targets and run "
                "build_outcomes, or take it out of model.targets"
            )


def examples_key(
    contract: Contract, settings: TrainingSettings, identity: Mapping[str, Any], targets: Sequence[str] = ()
) -> str:
    """Twelve hexadecimal digits of everything that the staged examples depend on."""
    chosen = settings.model_dump(mode="json", include=_IN_KEY) | {"dates": settings.learned_dates}
    further = {"targets": list(targets)} if targets else {}
    return digest({"format": FORMAT, "contract": contract.to_dict(), "settings": chosen, "data": identity, **further})


def folder_of(
    staging_uri: str,
    contract: Contract,
    settings: TrainingSettings,
    identity: Mapping[str, Any],
    targets: Sequence[str] = (),
) -> str:
    """Where the staged examples of a training lie; see `examples_key`."""
    return places.join(staging_uri, "examples", examples_key(contract, settings, identity, targets))


def digest(content: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def stage(
    sequences: DataFrame,
    outcomes: DataFrame | None,
    contract: Contract,
    settings: TrainingSettings,
    folder: str,
    targets: Sequence[str] = (),
) -> Examples:
    """Write the shards under `folder`, or find them there whole from an earlier run.

    Without outcomes, all sequences are staged, and nothing says what came true.

    Raises:
        TrainingDataError: too few rows for the shards, or no validation rows.
        StorageError: `folder` cannot be written.
    """
    marker = places.join(folder, "examples.json")
    if places.exists(marker):
        return Examples.from_json(places.read_bytes(marker))
    rows = _arranged(examples(sequences, outcomes, contract, settings, targets), settings)
    writer = _shard_writer(example_schema(contract, targets), contract, folder, settings.row_group_rows)
    written = workers.mapped(rows, writer, _SUMMARY).collect()
    found = {(row["split"], row["shard"]): row for row in written}
    counts = [[found[s, k]["rows"] if (s, k) in found else 0 for k in range(settings.shards)] for s in (0, 1)]
    _check_counts(counts, settings)
    statistics, stored = Statistics.empty(contract), TypeAdapter(Statistics)
    for shard in range(settings.shards):
        statistics.merge(stored.validate_json(found[0, shard]["statistics"]))
    training, validation = (
        ShardSet(tuple(shard_uri(folder, split, k) for k in range(settings.shards)), tuple(counts[split]), weight)
        for split, weight in ((0, statistics.weight / sum(counts[0])), (1, 1.0))
    )
    staged = Examples(training, validation, statistics.encoding(settings.vocabulary_size))
    places.write_bytes(marker, staged.to_json())
    return staged


def examples(
    sequences: DataFrame,
    outcomes: DataFrame | None,
    contract: Contract,
    settings: TrainingSettings,
    targets: Sequence[str] = (),
) -> DataFrame:
    """Sequences with outcomes at the training and validation dates; `split` is 0 for training, 1 for validation.

    Training rows are those of the labelled share of the members. With `training.refit` rows of the validation date are
    in both splits. Without outcomes: all sequences, their outcomes null.
    """
    dates = list(settings.all_dates)
    known = sequences.where(f.col(AS_OF).isin(dates)).select("user_id", *required_columns(contract))
    known = known.withColumn(MEMBER, f.xxhash64("user_id"))
    if outcomes is None:
        split = (f.col(AS_OF) == f.lit(settings.validation_as_of)).cast("int")
        nothing = {"split": split, OUTCOME_RANK: f.lit(None).cast("int"), OUTCOME_VALUE: f.lit(None).cast("double")}
        return known.withColumns({**nothing, WEIGHT: f.lit(1.0)})
    training = weighted(outcomes, settings.learned_dates, contract, settings.weights).withColumn("split", f.lit(0))
    validation = weighted(outcomes, [settings.validation_as_of], contract, "equal").withColumn("split", f.lit(1))
    outcome = training.union(validation).select(
        *KEY_COLUMNS,
        "split",
        OUTCOME_RANK,
        f.col(OUTCOME_VALUE).cast("double").alias(OUTCOME_VALUE),
        WEIGHT,
        *(f.col(outcome_column(name)).cast("int").alias(outcome_column(name)) for name in targets),
    )
    place = f.pmod(f.xxhash64(f.lit("labelled"), f.col("user_id"), f.lit(settings.seed)), f.lit(_PLACES))
    labelled = (f.col("split") == 1) | (place < f.lit(round(settings.labelled_share * _PLACES)))
    return known.join(outcome, on=KEY_COLUMNS, how="inner").where(labelled)


def weighted(outcomes: DataFrame, dates: Sequence[dt.date], contract: Contract, weights: Weights) -> DataFrame:
    """Outcomes at some dates with their weights, see `training.examples.example_weights`.

    The window runs over the outcomes alone, which are narrow; they have the same members as the sequences of a date.
    """
    rows = outcomes.where(f.col(AS_OF).isin(list(dates)))
    if weights == "equal":
        return rows.withColumn(WEIGHT, f.lit(1.0))
    shares = [f.lit(x) for pair in uniqueness(dates, contract.horizon_days).items() for x in pair]
    share = f.create_map(*shares)[f.col(AS_OF)].cast(EXACT_SUM)
    total = f.sum(share).over(Window.partitionBy("user_id"))
    return rows.withColumn(WEIGHT, share.cast("double") / total.cast("double"))


def _arranged(rows: DataFrame, settings: TrainingSettings) -> DataFrame:
    """Each shard of each split in one partition, in a total order that no arrangement of the input changes."""
    identity = [f.col("user_id"), f.col(AS_OF), f.lit(settings.seed)]
    shard = f.pmod(f.xxhash64(*identity), f.lit(settings.shards)).cast("int")
    return (
        rows.withColumn("shard", shard)
        .withColumn("place", f.xxhash64(f.lit("place"), *identity))
        .repartitionById(2 * settings.shards, f.col("split") * settings.shards + f.col("shard"))
        .sortWithinPartitions("split", "shard", "place", "user_id", AS_OF)
        .drop("place", "user_id")
    )


def _shard_writer(schema: pa.Schema, contract: Contract, folder: str, row_group_rows: int) -> Any:
    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stored = TypeAdapter(Statistics)
        for split, shard, rows, statistics in write_shards(batches, schema, contract, folder, row_group_rows):
            yield pa.RecordBatch.from_pydict(
                {
                    "split": pa.array([split], pa.int32()),
                    "shard": pa.array([shard], pa.int32()),
                    "rows": pa.array([rows], pa.int64()),
                    "statistics": pa.array([stored.dump_json(statistics).decode()]),
                }
            )

    return write


def _grouped(table: DataFrame, dates: Sequence[dt.date], column: str) -> list[Any]:
    # Rows of the answer: dates times inputs times contracts or tiers, never members.
    return table.where(f.col(AS_OF).isin(list(dates))).groupBy(AS_OF, "inputs_id", column).count().collect()


def _check_contract(rows: Sequence[Any], contract: Contract) -> None:
    others = sorted({(row[AS_OF], row["contract_id"]) for row in rows if row["contract_id"] != contract.id})
    if others:
        named = ", ".join(f"{date}: {found}" for date, found in others)
        raise TrainingDataError(
            f"sequences follow another contract than the settings ({contract.id}): {named}; run build_sequences for "
            "these dates again, or go back to the settings they were built with"
        )


def _check_dates(table: str, job: str, rows: Sequence[Any], settings: TrainingSettings) -> None:
    present = {row[AS_OF] for row in rows}
    missing = [date for date in settings.all_dates if date not in present]
    if missing:
        raise TrainingDataError(
            f"table {table} has no rows as of {_listed(missing)}: run {job} for them, or leave them out of "
            "training.as_of and training.validation_as_of"
        )


def _check_counts(counts: Sequence[Sequence[int]], settings: TrainingSettings) -> None:
    training, validation = counts
    if not sum(validation):
        raise TrainingDataError(f"no member of the validation date {settings.validation_as_of} has an outcome")
    if not all(training):
        raise TrainingDataError(
            f"{sum(training)} training rows leave {list(training).count(0)} of {settings.shards} shards empty: lower "
            "training.shards (and training.ranks), or train on more dates"
        )


def _listed(dates: Iterable[dt.date]) -> str:
    return ", ".join(map(str, dates))
