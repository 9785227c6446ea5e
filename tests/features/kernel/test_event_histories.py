"""Parts of merging against plain numpy: order of codes, floats with nulls, categories."""

from __future__ import annotations

from random import Random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.core import arrow_numbers
from features.kernel.event_histories import Categories
from features.kernel.run_columns import stable_order

VALUES = st.lists(st.one_of(st.none(), st.floats(width=32, allow_nan=False)), max_size=40)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200_000), st.integers(0, 10**6))
def test_codes_are_ordered_stably_however_many_ascend_at_first(
    ascending: int, rest: int, count: int, seed: int
) -> None:
    random = Random(seed)
    first = sorted(random.randrange(count) for _ in range(ascending))
    codes = np.array([*first, *(random.randrange(count) for _ in range(rest))], np.int64)
    for few in (codes, codes % 5):
        np.testing.assert_array_equal(stable_order(few, count), np.argsort(few, kind="stable"))


@given(VALUES, st.integers(0, 9), st.integers(0, 9))
def test_floats_keep_their_nulls_both_ways(values: list[float | None], before: int, after: int) -> None:
    column = pa.array([1.5, None, 2.5][: before % 4] + values + [None] * after, pa.float32())
    column = column.slice(min(before % 4, 3), len(values))
    found = arrow_numbers.from_arrow(column)
    np.testing.assert_array_equal(found, np.array([np.nan if v is None else v for v in values], np.float32))
    assert arrow_numbers.as_arrow(np.ascontiguousarray(found)).to_pylist() == values


def test_categories_keep_the_values_that_they_have_and_no_others() -> None:
    column = Categories(np.array([2, -1, 0, 2, 1], np.int32), pa.array(["a", "b", "c"]))
    for rows, words in (([0, 2, 3], ["a", "c"]), ([4], ["b"]), ([1, 1], []), ([1, 0], ["c"]), ([], [])):
        found = column.take(np.array(rows, np.int64))
        assert found.dictionary.to_pylist() == words
        assert found.to_pylist() == [["c", None, "a", "c", "b"][row] for row in rows]


@given(*[st.lists(st.one_of(st.none(), st.sampled_from("abcd")), max_size=8)] * 2)
def test_categories_of_two_columns_follow_each_other(first: list[str | None], second: list[str | None]) -> None:
    columns = []
    for entries in (first, second):
        values = sorted({e for e in entries if e is not None})
        codes = np.array([-1 if e is None else values.index(e) for e in entries], np.int32)
        columns.append(Categories(codes, pa.array(values, pa.string())))
    found = columns[0].followed_by(columns[1])
    assert found.take(np.arange(len(found.codes))).to_pylist() == first + second
    assert found.values.to_pylist() == sorted(set(first + second) - {None})
