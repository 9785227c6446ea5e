"""Scoring rows of `sequences` in Spark's workers: a predictor that each worker loads once, and a UDF of it for SQL.

The network is loaded once per Python worker and never by the driver. A row's padded width follows from its own length
and calls have multiples of some rows, so a forecast does not depend on the rows it is computed with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from features import tasks
from features.contract import VALUE, Contract, score_columns
from features.errors import TrainingDataError
from training import bundle
from training.bundle import Manifest
from training.distributed import bound_threads, load_keras, quiet_tensorflow
from training.feed import OUTCOME_RANK
from training.settings import ScoringSettings
from training.tensors import AS_OF, TIER_RANK, Array, Encoded, Tensors, column, input_schema

TIER = "tier"
"""The output of every network: probabilities by tier rank."""

K = TypeVar("K")
V = TypeVar("V")

_THREADS_PER_WORKER = 1  # a Python worker is one Spark task, and Spark counts one core for it

ROWS_TOGETHER = 64
"""Calls of a multiple of these rows compute each row alike, bit by bit: so many fill the vectors and blocks of matrix
products. Fewer would leave fewer empty rows, but change the last digit."""

_CALLS_PADDED = 8
"""So many calls are padded at once: between calls all that pads has left the processor's caches."""

_loaded: dict[tuple[str, str, str], Predictor] = {}
"""Predictors of this Python worker by models URI, version and settings: it outlives tasks, closures do not."""


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Forecasts beside what came true, ordered by user: users [n] str, probabilities [n, K], ranks [n] int64."""

    users: Array
    probabilities: Array
    current_rank: Array
    outcome_rank: Array


class NetworkCalls:
    """A loaded network with all that turns rows of `contract` into its inputs, and gives some of its outputs.

    Attributes:
        contract: what the rows mean.
        encoding: vocabulary and normalisation.
        network: from the padded tensors of a call, see `calls`, to the outputs, side by side.
    """

    def __init__(self, model: Any, manifest: Manifest, settings: ScoringSettings, *outputs: str) -> None:
        import tensorflow as tf

        from training.loop import tensor_width

        self.contract, self.encoding, self._version = manifest.contract, manifest.encoding, manifest.version
        self._model = model  # which holds the weights: a compiled function does not
        self._sizes = {name: model.output[name].shape[-1] for name in outputs}
        # Padding costs as much as events do: each row is padded to the next of a ladder of widths.
        self._widths = width_ladder(tensor_width(manifest.model, manifest.contract), settings.padding)
        # XLA compiles each shape anew.
        self._together = settings.model_rows if settings.xla else min(settings.model_rows, ROWS_TOGETHER)
        self._rows = _rounded_up(settings.model_rows, self._together)
        rows, self._inputs = self._rows if settings.xla else None, list(model.input)
        signature = {n: tf.TensorSpec([rows, *model.input[n].shape[1:]], model.input[n].dtype) for n in self._inputs}
        # To find the one concrete function anew for each call would take a thirtieth of all.
        self.network = tf.function(
            lambda batch: _side_by_side(model(batch, training=False), outputs),
            input_signature=[signature],
            jit_compile=settings.xla,
            autograph=False,
        ).get_concrete_function()

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> Array:
        """The first output, see `outputs`."""
        return self.outputs(rows)[next(iter(self._sizes))]

    def outputs(self, rows: pa.Table | pa.RecordBatch) -> dict[str, Array]:
        """Each output [n, its size] float64; raises ValueError if the network gives numbers that are not finite."""
        encoded = Encoded.of(rows, self.contract, self.encoding)
        found = np.empty((rows.num_rows, sum(self._sizes.values())))
        for members, tensors in self.calls(encoded):
            found[members] = self.network(tensors).numpy()[: len(members)]
        if not np.isfinite(found).all():
            raise ValueError(f"model {self._version} gives numbers that are not finite")
        ends = np.cumsum([*self._sizes.values()])[:-1]
        return dict(zip(self._sizes, np.split(found, ends, axis=1), strict=True))

    def calls(self, encoded: Encoded) -> Iterator[tuple[Array, Tensors]]:
        """The rows of each call of the network and their tensors, padded by the rows' own lengths.

        Of up to `model_rows` rows, rounded up to so many that the answers do not depend on it; the last are empty.
        """
        step = np.searchsorted(self._widths, np.minimum(encoded.lengths, self._widths[-1]))
        for k in np.unique(step):
            alike = np.flatnonzero(step == k)
            for start in range(0, len(alike), _CALLS_PADDED * self._rows):
                members = alike[start : start + _CALLS_PADDED * self._rows]
                rows = _rounded_up(len(members), self._together)
                tensors = encoded.padded(members, int(self._widths[k]), rows)
                for begin in range(0, rows, self._rows):
                    call = slice(begin, begin + self._rows)
                    yield members[call], {name: tensors[name][call] for name in self._inputs}


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _side_by_side(found: Any, outputs: Sequence[str]) -> Any:
    import tensorflow as tf

    return found[outputs[0]] if len(outputs) == 1 else tf.concat([found[name] for name in outputs], axis=1)


class Predictor(NetworkCalls):
    """The calls of a network that forecasts tiers, and the further outputs that the settings ask for."""

    def __init__(self, model: Any, manifest: Manifest, settings: ScoringSettings) -> None:
        super().__init__(model, manifest, settings, TIER, *settings.outputs)

    def outputs(self, rows: pa.Table | pa.RecordBatch) -> dict[str, Array]:
        """See `NetworkCalls.outputs`; not calibrated. Probabilities of tiers sum to 1 in float64, too."""
        found = super().outputs(rows)
        return {name: x / x.sum(axis=1, keepdims=True) if x.shape[1] > 1 else x for name, x in found.items()}


def width_ladder(width: int, padding: float) -> Array:
    """Ascending widths up to `width`, such that a row padded to the next one has at most this share of padding."""
    widths = [1]
    while widths[-1] < width:
        widths.append(min(width, max(widths[-1] + 1, int((widths[-1] + 1) / (1 - padding)))))
    return np.array(widths)


def scoring_udf(manifest: Manifest, models_uri: str, settings: ScoringSettings) -> Callable[[Column], Column]:
    """A pandas UDF from a struct of (at least) the contract's columns to an array of probabilities by tier rank."""

    def probabilities(batches: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        for batch in batches:
            yield pd.Series(list(forecast(arrow_rows(batch, manifest.contract), models_uri, manifest, settings)))

    probabilities.__annotations__ = {"batches": Iterator[pd.DataFrame], "return": Iterator[pd.Series]}
    make: Any = f.pandas_udf  # its overloads know only function types given by number
    return cast("Callable[[Column], Column]", make(tasks.prompt(probabilities), "array<double>"))


def register_scoring_udf(
    spark: SparkSession, name: str, manifest: Manifest, models_uri: str, settings: ScoringSettings
) -> None:
    """Let SQL call the UDF: `SELECT user_id, NAME(struct(*)) FROM sequences` gives probabilities by tier rank."""
    spark.udf.register(name, scoring_udf(manifest, models_uri, settings))


def forecast(rows: pa.Table | pa.RecordBatch, models_uri: str, manifest: Manifest, settings: ScoringSettings) -> Array:
    """[n, K] calibrated probabilities of rows, by the network that this worker keeps."""
    return forecasts(rows, models_uri, manifest, settings)[TIER]


def forecasts(
    rows: pa.Table | pa.RecordBatch, models_uri: str, manifest: Manifest, settings: ScoringSettings
) -> dict[str, Array]:
    """What `forecast` gives, as `tier`, and beside it the outputs that the settings ask for, not calibrated."""
    found = predictor_of_worker(models_uri, manifest.version, settings).outputs(rows)
    current = column(rows, TIER_RANK).to_numpy(zero_copy_only=False).astype(np.int64)
    return {**found, TIER: manifest.calibration(found[TIER], current)}


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


def collect_forecasts(scores: DataFrame, outcomes: DataFrame, contract: Contract, max_users: int) -> Forecasts:
    """Forecasts and outcomes of up to `max_users` users, chosen by a hash of the user.

    Raises:
        TrainingDataError: no user of the scores has an outcome.
    """
    keys = ["user_id", AS_OF]
    known = scores.join(outcomes.select(*keys, OUTCOME_RANK), on=keys, how="inner")
    rows = _by_user(known.orderBy(f.xxhash64("user_id"), "user_id").limit(max_users), OUTCOME_RANK)
    if not rows.num_rows:
        raise TrainingDataError("no scored user has an outcome at this date: run build_outcomes for it first")
    probabilities, current = _by_rank(rows, contract)
    return Forecasts(
        users=rows["user_id"].to_numpy(),
        probabilities=probabilities,
        current_rank=current,
        outcome_rank=rows[OUTCOME_RANK].to_numpy().astype(np.int64),
    )


def collect_scores(scores: DataFrame, contract: Contract, members: int, max_users: int) -> tuple[Array, Array]:
    """Probabilities [n, K] and current ranks [n] of about `max_users` of the scored `members`, all if they are fewer.

    They are those of the lowest ids: pseudonyms are as good as random, and of the other files nothing is read.
    """
    if members > max_users:
        scores = scores.where(f.col("user_id") < f"{max_users * _IDS // members:08x}")
    return _by_rank(_by_user(scores), contract)


_IDS = 1 << 32
"""How many different first eight hexadecimal digits pseudonyms have."""


def _by_user(scores: DataFrame, *further: str) -> pa.Table:
    shown = [c for c in scores.columns if c.startswith("p_")]
    return scores.select("user_id", "current_tier", *shown, *further).toArrow().sort_by("user_id")


def _by_rank(rows: pa.Table, contract: Contract) -> tuple[Array, Array]:
    current = pa.compute.index_in(rows["current_tier"], pa.array(contract.tiers))
    probabilities = np.stack([rows[f"p_{tier}"].to_numpy() for tier in contract.tiers], axis=1)
    return probabilities, current.to_numpy().astype(np.int64)


def predictor_of_worker(models_uri: str, version: str, settings: ScoringSettings) -> Predictor:
    """The predictor of a bundle, loaded by the first call in a process."""

    def load() -> Predictor:
        from training.loop import in_precision

        manifest = bundle.read_manifest(models_uri, version)
        model = bundle.load_model(models_uri, manifest)
        model = in_precision(model, manifest.model, manifest.contract, manifest.encoding, settings.precision)
        return Predictor(model, manifest, settings)

    return load_once(_loaded, (models_uri, version, settings.model_dump_json()), load)


def load_once(loaded: dict[K, V], key: K, load: Callable[[], V]) -> V:
    """What `load` gives, made by the first call with a key in this worker; TensorFlow is quiet and takes one thread."""
    if key not in loaded:
        quiet_tensorflow()
        load_keras()
        bound_threads(_THREADS_PER_WORKER)
        loaded[key] = load()
        tasks.keep_loaded()
    return loaded[key]


def arrow_rows(batch: pd.DataFrame, contract: Contract) -> pa.Table:
    """The contract's columns of a pandas batch as Spark makes it, with the types of the table."""
    schema = input_schema(contract)
    absent = [name for name in schema.names if name not in batch.columns]
    if absent:
        raise ValueError(f"the rows to score lack the columns {absent}; pass struct(*) of `sequences`")
    return pa.table({field.name: _arrow(batch[field.name], field.type) for field in schema}, schema=schema)


def _arrow(values: pd.Series, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind, from_pandas=True)
    cells = [_EMPTY if cell is None else cell for cell in values]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int32)
    flat = np.concatenate(cells) if cells else _EMPTY
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, from_pandas=True).cast(kind.value_type), kind)


_EMPTY = np.empty(0, object)
