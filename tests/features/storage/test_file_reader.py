"""Files of a table: row groups begin where ranges of users do, and each range reads exactly its rows."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from features.storage import file_reader
from features.storage.file_reader import read_range
from features.storage.file_writer import MEMBERS, STATES, Layout, write_file
from features.storage.table_log import TableFile
from features.storage.user_ranges import UserRange, user_ranges

DATE = dt.date(2024, 1, 1)
COLUMNS = ["user_id", "place", "shop"]


def rows_of(users: Sequence[str]) -> pa.Table:
    ids = sorted(users)
    shops = pa.array(["a", None, "b"] * len(ids)).slice(0, len(ids))
    return pa.table(
        {"user_id": pa.array(ids, pa.string()), "place": pa.array(range(len(ids)), pa.int64()), "shop": shops}
    )


def pseudonyms(count: int, seed: int, low: float = 0, high: float = 1) -> list[str]:
    """Ids that are spread evenly over a share of all."""
    random = Random(seed)
    return [f"{int(random.uniform(low, high) * (16**32 - 1)):032x}" for _ in range(count)]


def written(folder: Path, rows: pa.Table, group_rows: int, quick: bool = False) -> TableFile:
    added = write_file(rows, str(folder), "day", DATE, Layout(group_rows, quick))
    return TableFile(
        f"{folder}/{added.path}", DATE, added.rows, rows["user_id"][0].as_py(), rows["user_id"][-1].as_py()
    )


def groups_of(file: TableFile) -> list[list[str]]:
    """The ids of each row group."""
    opened = pq.ParquetFile(file.uri)
    return [opened.read_row_group(g, ["user_id"])["user_id"].to_pylist() for g in range(opened.num_row_groups)]


@given(
    count=st.integers(1, 400),
    seed=st.integers(0, 10**6),
    share=st.sampled_from([(0.0, 1.0), (0.25, 0.5), (0.6, 0.61)]),
    repeated=st.integers(1, 4),
    group_rows=st.integers(1, 50),
    ranges=st.sampled_from([1, 2, 3, 4, 8, 12, 32]),
    quick=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_range_reads_its_own_rows(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    seed: int,
    share: tuple[float, float],
    repeated: int,
    group_rows: int,
    ranges: int,
    quick: bool,
) -> None:
    rows = rows_of(pseudonyms(count, seed, *share) * repeated)
    file = written(tmp_path_factory.mktemp("files"), rows, group_rows, quick)
    groups = groups_of(file)
    assert [one for group in groups for one in group] == rows["user_id"].to_pylist()
    assert all(0 < len(group) <= 2 * group_rows for group in groups)
    for turn in range(2):  # the second turn finds the first one's cache
        for words in ([], ["user_id", "shop"]):
            for users in user_ranges(ranges):
                found = read_range(file, users, COLUMNS, words)
                mine = [row for row in rows.to_pylist() if users.holds(pa.array([row["user_id"]]))[0]]
                assert found.to_pylist() == mine, turn


@pytest.mark.parametrize("layout", [MEMBERS, STATES])
def test_arrow_and_spark_read_what_is_written_in_any_layout(
    spark: SparkSession, tmp_path: Path, layout: Layout
) -> None:
    random, instant = Random(4), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    lengths = [None, *(random.choice([0, 1, 7]) for _ in range(2999))]

    def lists(value: Callable[[], object]) -> list[list[object] | None]:
        return [None if n is None else [value() for _ in range(n)] for n in lengths]

    def some(value: Callable[[], object]) -> list[object]:
        return [None if random.random() < 0.2 else value() for _ in lengths]

    ages, amounts = lambda: random.randint(-5, 2**40), lambda: random.choice([None, 0.5, float("inf"), -0.0])
    columns = {
        "user_id": (sorted(pseudonyms(3000, 5)), pa.string()),
        "whole": (some(ages), pa.int64()),
        "small": (some(lambda: random.randint(0, 3)), pa.int32()),
        "amount": (some(amounts), pa.float64()),
        "money": (some(lambda: Decimal(random.randint(-(10**9), 10**9)).scaleb(-6)), pa.decimal128(28, 6)),
        "instant": (some(lambda: instant + dt.timedelta(microseconds=ages())), pa.timestamp("us", "UTC")),
        "flag": (some(lambda: random.random() < 0.5), pa.bool_()),
        "ages": (lists(ages), pa.list_(pa.int64())),
        "amounts": (lists(amounts), pa.list_(pa.float32())),
        "sums": (lists(lambda: Decimal(random.randint(0, 99)).scaleb(-6)), pa.list_(pa.decimal128(18, 6))),
        "words": (lists(lambda: random.choice(["a", "b", None])), pa.list_(pa.string())),
    }
    rows = pa.table({name: pa.array(values, kind) for name, (values, kind) in columns.items()})
    added = write_file(rows, str(tmp_path), "day", DATE, layout)
    path = f"{tmp_path}/{added.path}"
    assert pq.ParquetFile(path).read().equals(rows)
    read_by_spark = spark.read.parquet(path).toArrow().cast(rows.schema)
    assert read_by_spark.sort_by("user_id").equals(rows)


def test_a_row_group_is_of_one_range(tmp_path: Path) -> None:
    for name, count, share in (("all", 4000, (0.0, 1.0)), ("some", 500, (0.5, 0.625))):
        file = written(tmp_path / name, rows_of(pseudonyms(count, 1, *share)), 100)
        groups = groups_of(file)
        assert len(groups) in (64, 8)
        for ranges in (1, 2, 8, 64):
            bounds = user_ranges(ranges)
            holders = [[k for k, users in enumerate(bounds) if users.overlaps(g[0], g[-1])] for g in groups]
            assert all(len(found) == 1 for found in holders)


def test_ids_that_are_no_pseudonyms_are_cut_by_number(tmp_path: Path) -> None:
    file = written(tmp_path, rows_of([f"member {n:03d}" for n in range(250)]), 100)
    assert [len(group) for group in groups_of(file)] == [200, 50]


def test_rows_of_a_table_without_partitions_come_in_any_order_some_without_a_user(tmp_path: Path) -> None:
    rows = rows_of(pseudonyms(250, 2))
    users = [None, *rows["user_id"].to_pylist()[::-1][1:-1], None]
    rows = rows.set_column(0, "user_id", pa.array(users, pa.string()))
    added = write_file(rows, str(tmp_path), None, None, Layout(100))
    assert pq.read_table(f"{tmp_path}/{added.path}").to_pylist() == rows.to_pylist()
    assert added.rows == 250


def test_the_dictionary_of_few_rows_has_their_ids_alone(tmp_path: Path) -> None:
    rows = rows_of(pseudonyms(300, 3))
    file = written(tmp_path, rows, 1000)
    for _ in range(2):
        found = read_range(file, UserRange("00", "08"), COLUMNS, ["user_id"])
        (chunk,) = found["user_id"].chunks
        assert 0 < len(found) < 50
        assert chunk.dictionary.to_pylist() == found["user_id"].unique().to_pylist()


def test_row_groups_are_kept_while_there_is_room_and_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rows, wanted = rows_of(pseudonyms(10, 4)), (("user_id",), (), ())
    kept = file_reader._Groups(room=2 * rows.get_total_buffer_size(), stale_seconds=60)
    for name in ("a", "b", "c"):
        kept.keep(name, wanted, 0, rows)
    assert kept.of("a", wanted, 0) is rows
    assert kept.of("a", (("place",), (), ()), 0) is None
    assert kept.of("c", wanted, 0) is None, "there was no room"
    now[0] = 50
    assert kept.of("b", wanted, 0) is rows
    now[0] = 100
    kept.keep("c", wanted, 0, rows)
    assert kept.of("c", wanted, 0) is rows
    assert kept.of("a", wanted, 0) is None, "nobody had asked for it for a minute"
    assert kept.of("b", wanted, 0) is rows


def test_the_next_row_group_of_a_file_takes_the_place_of_the_one_before() -> None:
    rows, wanted = rows_of(pseudonyms(10, 4)), (("user_id",), (), ())
    kept = file_reader._Groups(room=rows.get_total_buffer_size(), stale_seconds=60)
    kept.keep("a", wanted, 0, rows)
    kept.keep("a", wanted, 1, rows)
    assert kept.of("a", wanted, 0) is None
    assert kept.of("a", wanted, 1) is rows


def test_ranges_that_share_a_row_group_find_their_own_rows(tmp_path: Path) -> None:
    rows = rows_of(pseudonyms(300, 5))
    file = written(tmp_path, rows, 100)
    ranges = user_ranges(64)
    found = pa.concat_tables([read_range(file, users, COLUMNS) for users in [*ranges, *reversed(ranges)]])
    assert found.slice(0, 300).to_pylist() == rows.select(COLUMNS).to_pylist()
    assert sorted(found.slice(300)["user_id"].to_pylist()) == sorted(rows["user_id"].to_pylist())
