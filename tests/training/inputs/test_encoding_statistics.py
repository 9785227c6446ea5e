"""Vocabulary and normalisation against numpy, and their independence of how the rows come."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from tests.data.training_examples import CONTRACT, example_rows, stage_rows
from training.examples.shards import example_schema, write_shards
from training.inputs import encoding_statistics
from training.inputs.encoding import signed_log
from training.inputs.encoding_statistics import Moments, Statistics
from training.inputs.tensors import numeric_events


def test_scales_equal_numpy() -> None:
    rows = example_rows(200)
    found = Statistics.empty(CONTRACT)
    found.add(rows, CONTRACT)
    encoding = found.encoding(10)
    amounts = numeric_events(rows, CONTRACT)["amount"]
    scale = encoding.channels["amount"]
    np.testing.assert_allclose([scale.mean, scale.deviation], [np.nanmean(amounts), np.nanstd(amounts)])
    assert (scale.least, scale.greatest) == (np.nanmin(amounts), np.nanmax(amounts))
    spend = signed_log(rows["spend_90d"].to_numpy())
    np.testing.assert_allclose(encoding.aggregates["spend_90d"].mean, spend.mean())


def test_vocabulary_is_ranked_by_frequency_then_text() -> None:
    found = Statistics.empty(CONTRACT)
    found.values["shelf"] = Counter({"tea": 3, "milk": 5, "bread": 3, "soap": 1})
    assert found.encoding(3).vocabulary["shelf"] == ("milk", "bread", "tea")


def test_only_aggregates_that_were_null_are_indicated() -> None:
    found = Statistics.empty(CONTRACT)
    found.add(example_rows(100), CONTRACT)
    assert found.encoding(3).indicated == ("gap_mean",)


def test_constant_and_absent_values_keep_a_deviation_of_one() -> None:
    constant, absent = Moments(), Moments()
    constant.add(np.full(10, 7.7))
    absent.add(np.full(3, np.nan))
    assert constant.scale().deviation == 1.0
    assert absent.scale().apply(np.array([5.0, np.nan])).tolist() == [0.0, 0.0]
    assert absent.missing == 3


def test_statistics_round_trip_through_json() -> None:
    found = Statistics.empty(CONTRACT)
    found.add(example_rows(20), CONTRACT)
    stored = TypeAdapter(Statistics)
    assert stored.validate_json(stored.dump_json(found)) == found


def test_shards_and_statistics_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    """Invariant 3: however Spark cuts the rows into Arrow batches, files and sums are the same, bit for bit."""
    rows = example_rows(100).append_column("split", pa.array(np.zeros(100, np.int32)))
    rows = rows.append_column("shard", pa.array(np.repeat([0, 1, 4], [50, 13, 37]).astype(np.int32)))
    results = []
    for size in (100, 17, 1):
        folder = tmp_path / str(size)
        batches = rows.combine_chunks().to_batches(max_chunksize=size)
        sums = [(k, n, s) for _, k, n, s in write_shards(batches, example_schema(CONTRACT), CONTRACT, str(folder), 16)]
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        results.append((sums, files))
    assert [(k, n) for k, n, _ in results[0][0]] == [(0, 50), (1, 13), (4, 37)]
    assert results[0] == results[1] == results[2]


def test_validation_rows_add_nothing(tmp_path: Path) -> None:
    _, sums = stage_rows(example_rows(40), 1, 2, tmp_path, 16)
    assert sums == Statistics.empty(CONTRACT)


def test_counts_of_values_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_statistics, "MOST_COUNTED", 4)
    counts = Counter({f"v{i}": i for i in range(1, 7)})
    encoding_statistics._forget_rare(counts)
    assert counts == Counter({"v6": 6, "v5": 5})
