"""Stable order of codes against numpy's."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.kernel.run_columns import stable_order


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200_000), st.integers(0, 10**6))
def test_codes_are_ordered_stably_however_many_ascend_at_first(
    ascending: int, rest: int, count: int, seed: int
) -> None:
    random = Random(seed)
    first = sorted(random.randrange(count) for _ in range(ascending))
    codes = np.array([*first, *(random.randrange(count) for _ in range(rest))], np.int64)
    for few in (codes, codes % 5):
        np.testing.assert_array_equal(stable_order(few, count), np.argsort(few, kind="stable"))
