"""Categorical columns: entries taken, and columns put one after the other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.kernel.event_histories import Categories


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
