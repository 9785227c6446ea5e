"""Every global batch has the same rows for any number of ranks; all ranks take the same number of steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.training_examples import CONTRACT, example_rows, stage_rows, to_tensors
from training.examples.batches import Shuffle, prefetch, training_batches, validation_batches
from training.examples.labelled_rows import Chosen, EncodedRows, TensorMaker
from training.examples.shards import ShardSet, example_schema
from training.inputs.encoding_statistics import Statistics
from training.inputs.tensors import Tensors

SHARDS = 4


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    """70 rows in shards of 18, 18, 17, 17, each row told by its outcome value."""
    rows = example_rows(70).set_column(11, "outcome_value", pa.array(np.arange(70.0)))
    return stage_rows(rows, 0, SHARDS, tmp_path, 5)[0]


def _maker(trim: int | None = 8) -> TensorMaker:
    statistics = Statistics.empty(CONTRACT)
    statistics.add(example_rows(70), CONTRACT)
    return TensorMaker(CONTRACT, statistics.encoding(3), CONTRACT.length, trim)


MAKE = _maker()


def _ids(batch: Tensors) -> list[float]:
    return [float(v) for v in np.expm1(batch["target_log_value"]).round()]


def _batches(shards: ShardSet, ranks: int, epoch: int = 0, seed: int = 3, by_length: bool = True) -> list[list[float]]:
    """The global batches that `ranks` ranks take together, each sorted."""
    feeds = [
        [
            _ids(t)
            for t in training_batches(shards, EncodedRows(MAKE, 0), r, ranks, 16, Shuffle(10, by_length, seed, epoch))
        ]
        for r in range(ranks)
    ]
    assert len({len(f) for f in feeds}) == 1, "ranks take different numbers of steps"
    assert {len(batch) for f in feeds for batch in f} == {16 // ranks}
    return [sorted(v for f in feeds for v in f[step]) for step in range(len(feeds[0]))]


@pytest.mark.parametrize("by_length", [False, True])
def test_global_batches_are_equal_for_one_two_and_four_ranks(shards: ShardSet, by_length: bool) -> None:
    one, two, four = (_batches(shards, ranks, by_length=by_length) for ranks in (1, 2, 4))
    assert one == two == four


@pytest.mark.parametrize("most", [0, 5, 30, 70])
def test_rows_that_are_kept_give_the_same_tensors_as_rows_read_anew(shards: ShardSet, most: int) -> None:
    kept = EncodedRows(MAKE, most)
    for epoch in range(3):
        anew = training_batches(shards, EncodedRows(MAKE, 0), 0, 1, 16, Shuffle(10, True, 3, epoch))
        for found, wanted in zip(
            training_batches(shards, kept, 0, 1, 16, Shuffle(10, True, 3, epoch)), anew, strict=True
        ):
            for name, values in wanted.items():
                np.testing.assert_array_equal(found[name], values)
    assert sum(len(rows.outcome_rank) for rows in kept._kept.values()) <= most


def test_rows_of_a_batch_are_of_similar_length(tmp_path: Path) -> None:
    shards, _ = stage_rows(example_rows(2000), 0, SHARDS, tmp_path, 50)

    def masks(by_length: bool) -> list[np.ndarray]:
        return [
            t["mask"] for t in training_batches(shards, EncodedRows(MAKE, 0), 0, 1, 64, Shuffle(250, by_length, 3, 0))
        ]

    def padded(by_length: bool) -> int:
        return sum(int((~mask).sum()) for mask in masks(by_length))

    assert padded(True) < padded(False) / 2
    means = [mask.sum(axis=1).mean() for mask in masks(True)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5  # short ones do not come first


@given(rows=st.integers(1, 90), batch=st.sampled_from([8, 16, 32]), buffer=st.integers(1, 40), by_length=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_of_an_epoch_whatever_the_sizes(
    tmp_path: Path, rows: int, batch: int, buffer: int, by_length: bool
) -> None:
    folder = tmp_path / f"{rows}-{batch}-{buffer}-{by_length}"
    folder.mkdir(exist_ok=True)
    table = example_rows(rows).set_column(11, "outcome_value", pa.array(np.arange(float(rows))))
    staged, _ = stage_rows(table, 0, 1, folder, 5)
    seen = [
        v
        for t in training_batches(staged, EncodedRows(MAKE, 0), 0, 1, batch, Shuffle(buffer, by_length, 1, 0))
        for v in _ids(t)
    ]
    assert len(seen) == -(-rows // batch) * batch
    assert set(seen) == set(range(rows))
    assert max(seen.count(v) for v in set(seen)) <= -(-len(seen) // rows)


def test_steps_follow_from_the_longest_shard(shards: ShardSet) -> None:
    assert shards.rows == (18, 18, 17, 17)
    assert shards.steps(16) == 5
    assert len(_batches(shards, 2)) == 5


def test_an_epoch_has_every_row_and_short_shards_start_over(shards: ShardSet) -> None:
    seen = [v for batch in _batches(shards, 1) for v in batch]
    assert len(seen) == 80
    assert set(seen) == set(range(70))
    assert max(seen.count(v) for v in set(seen)) == 2


def test_epochs_differ_and_repeat_by_the_seed(shards: ShardSet) -> None:
    assert _batches(shards, 1, epoch=0) != _batches(shards, 1, epoch=1)
    assert _batches(shards, 1, seed=3) != _batches(shards, 1, seed=4)
    assert _batches(shards, 1, epoch=1) == _batches(shards, 1, epoch=1)


def test_a_shard_smaller_than_its_share_of_a_batch_is_repeated(tmp_path: Path) -> None:
    tiny, _ = stage_rows(example_rows(3), 0, 1, tmp_path, 5)
    (batch,) = training_batches(tiny, EncodedRows(MAKE, 0), 0, 1, 8, Shuffle(10, True, 0, 0))
    assert len(batch["target_tier"]) == 8


@pytest.mark.parametrize("most", [0, 70])
def test_validation_reads_every_row_once(shards: ShardSet, most: int) -> None:
    for by_length in (False, True):
        encoded = EncodedRows(MAKE, most)
        for _ in range(2):
            batches = [t for r in range(2) for t in validation_batches(shards, encoded, r, 2, 4, 10, by_length)]
            assert sorted(v for t in batches for v in _ids(t)) == list(range(70))
            assert {len(t["target_tier"]) for t in batches} <= {1, 2, 3, 4}


def test_validation_skips_shards_without_rows(tmp_path: Path) -> None:
    nothing = ShardSet((str(tmp_path / "absent.parquet"),), (0,))
    assert list(validation_batches(nothing, EncodedRows(MAKE, 0), 0, 1, 4, 10, True)) == []


def test_a_batch_that_shards_cannot_share_is_refused(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="18 rows cannot be shared equally by 4 shards"):
        shards.steps(18)


@pytest.mark.parametrize("trim", [8, None])
def test_batches_are_the_tensors_of_their_rows(shards: ShardSet, trim: int | None) -> None:
    make = _maker(trim)
    staged = pa.concat_tables([pq.ParquetFile(uri).read() for uri in shards.uris]).cast(example_schema(CONTRACT))
    place = {float(v): k for k, v in enumerate(staged["outcome_value"].to_pylist())}
    for batch in prefetch(training_batches(shards, EncodedRows(make, 0), 0, 1, 16, Shuffle(10, True, 3, 0)), 2):
        rows = staged.take([place[v] for v in _ids(batch)])
        for name, values in to_tensors(rows, CONTRACT, make.encoding, make.width, trim).items():
            np.testing.assert_array_equal(batch[name], values)
        assert batch["target_tier"].tolist() == rows["outcome_tier_rank"].to_pylist()
        assert batch["target_tier"].dtype == np.int32


def test_buffers_that_no_row_is_in_are_let_go() -> None:
    one, two = (Chosen.of(MAKE.encode(example_rows(n)), np.arange(n)) for n in (5, 7))
    both = Chosen.joined([one, two])
    rest = both.at(slice(6, None)).alone()
    assert [len(b.outcome_rank) for b in rest.buffers] == [7]
    np.testing.assert_array_equal(rest.lengths, both.lengths[6:])


def test_an_error_of_the_prefetching_thread_is_raised_and_the_thread_ends(shards: ShardSet) -> None:
    def failing() -> Iterator[Tensors]:
        yield from ()
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(prefetch(failing(), 2))
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_closing_early_ends_the_thread(shards: ShardSet) -> None:
    tensors = prefetch(training_batches(shards, EncodedRows(MAKE, 0), 0, 1, 16, Shuffle(10, True, 3, 0)), 1)
    next(tensors)
    tensors.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
