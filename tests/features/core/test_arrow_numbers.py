"""Floats and decimals between Arrow and numpy, with their nulls."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.core.arrow_numbers import as_arrow, decimal_steps, from_arrow, micros_to_decimal

VALUES = st.lists(st.one_of(st.none(), st.floats(width=32, allow_nan=False)), max_size=40)
MICROS_64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from((-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1)))


@given(VALUES, st.integers(0, 9), st.integers(0, 9))
def test_floats_keep_their_nulls_both_ways(values: list[float | None], before: int, after: int) -> None:
    column = pa.array([1.5, None, 2.5][: before % 4] + values + [None] * after, pa.float32())
    column = column.slice(min(before % 4, 3), len(values))
    found = from_arrow(column)
    np.testing.assert_array_equal(found, np.array([np.nan if v is None else v for v in values], np.float32))
    assert as_arrow(np.ascontiguousarray(found)).to_pylist() == values


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(MICROS_64, st.booleans()), max_size=8))
def test_micros_to_decimal_is_exact(values: list[tuple[int, bool]]) -> None:
    numbers = np.array([v for v, _ in values], np.int64)
    missing = np.array([m for _, m in values], bool)
    found = micros_to_decimal(numbers, missing)
    found.validate(full=True)
    assert found.type == pa.decimal128(28, 6)
    assert found.to_pylist() == [None if m else Decimal(v).scaleb(-6) for v, m in values]
    assert decimal_steps(found.fill_null(0)).tolist() == [0 if m else v for v, m in values]
    assert decimal_steps(found).tolist() == [0 if m else v for v, m in values]
    assert decimal_steps(found.slice(1)).tolist() == [0 if m else v for v, m in values][1:]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_bad_input_decimals_beyond_int64_are_refused(value: int) -> None:
    with pytest.raises(OverflowError, match="does not fit"):
        decimal_steps(pa.array([Decimal(value).scaleb(-6)], pa.decimal128(28, 6)))
