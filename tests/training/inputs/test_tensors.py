"""Tensors against a slow reference in plain Python; training and scoring share the one function tested here."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.data.training_examples import CONTRACT, DATE, SHELVES, example_rows, to_tensors
from training.inputs.column_names import input_schema
from training.inputs.encoding import FIRST_CODE, PADDING, UNKNOWN, Encoding, Scale
from training.inputs.encoding_statistics import Statistics

SCHEMA = input_schema(CONTRACT)
ENCODING = Encoding(
    vocabulary={"event_type": ("purchase", "campaign"), "shelf": SHELVES[:2]},
    channels={
        "age": Scale(2.0, 0.5, 0.0, 4.0),
        "gap": Scale(1.0, 2.0, 0.0, 3.0),
        "amount": Scale(3.0, 1.5, -1.0, 6.0),
        "items": Scale(0.0, 1.0, 0.0, 0.0),
    },
    aggregates={
        "spend_90d": Scale(5.0, 2.0, 0.0, 8.0),
        "recency_days": Scale(1, 1, 0, 5),
        "gap_mean": Scale(0, 1, 0, 9),
    },
    indicated=("gap_mean",),
)

numbers = st.one_of(st.none(), st.floats(width=32, allow_nan=True, allow_infinity=True))


@st.composite
def sequence_rows(draw: st.DrawFn) -> dict[str, Any]:
    ages = sorted(draw(st.lists(st.integers(0, 10**8), max_size=CONTRACT.length)), reverse=True)
    n = len(ages)

    def parallel(elements: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(elements, min_size=n, max_size=n))

    return {
        "seq_age": ages,
        "seq_amount": parallel(numbers),
        "seq_items": parallel(numbers),
        "seq_event_type": parallel(st.sampled_from(["purchase", "campaign", "coupon"])),
        "seq_shelf": parallel(st.one_of(st.none(), st.sampled_from([*SHELVES, "🛒"]))),
        "spend_90d": draw(st.one_of(st.none(), st.floats(-1e6, 1e308))),
        "recency_days": draw(st.one_of(st.none(), st.floats(0, 1e4))),
        "gap_mean": draw(st.one_of(st.none(), st.floats(0, 1e4))),
        "current_tier_rank": draw(st.integers(0, 2)),
        "as_of_date": draw(st.dates(dt.date(1970, 1, 2), dt.date(2100, 12, 31))),
    }


@given(rows=st.lists(sequence_rows(), min_size=1, max_size=5), width=st.sampled_from([1, 7, 24, 40]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_tensors_equal_the_plain_reference(rows: list[dict[str, Any]], width: int) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    found = to_tensors(table, CONTRACT, ENCODING, width)
    for i, row in enumerate(rows):
        expected = _reference(row, width)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][i], values, rtol=1e-5, atol=1e-5, err_msg=name)


def _reference(row: dict[str, Any], width: int) -> dict[str, Any]:
    channels = np.zeros((width, 8))
    codes = np.zeros((width, 2), int)
    mask = np.zeros(width, bool)
    ages = row["seq_age"]
    kept = range(max(0, len(ages) - width), len(ages))
    for place, i in enumerate(kept):
        gap = ages[i - 1] - ages[i] if i else 0
        instant = dt.datetime.combine(row["as_of_date"], dt.time()) - dt.timedelta(seconds=ages[i])
        second_of_week = instant.weekday() * 86_400 + instant.hour * 3600 + instant.minute * 60 + instant.second
        week, day = 2 * math.pi * second_of_week / 604_800, 2 * math.pi * (second_of_week % 86_400) / 86_400
        channels[place] = [
            _scaled(math.log1p(ages[i] / 86_400), ENCODING.channels["age"]),
            _scaled(math.log1p(gap / 86_400), ENCODING.channels["gap"]),
            math.sin(week),
            math.cos(week),
            math.sin(day),
            math.cos(day),
            _scaled(_log(row["seq_amount"][i]), ENCODING.channels["amount"]),
            _scaled(_log(row["seq_items"][i]), ENCODING.channels["items"]),
        ]
        codes[place] = [
            _code(row["seq_event_type"][i], ENCODING.vocabulary["event_type"]),
            _code(row["seq_shelf"][i], ENCODING.vocabulary["shelf"]),
        ]
        mask[place] = True
    aggregates = [_scaled(_log(row[name]), ENCODING.aggregates[name]) for name in CONTRACT.aggregates]
    aggregates.append(float(row["gap_mean"] is None))
    tier = [float(k == row["current_tier_rank"]) for k in range(3)]
    return {"channels": channels, "codes": codes, "mask": mask, "aggregates": aggregates, "tier": tier}


def _log(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else math.copysign(math.log1p(abs(value)), value)


def _scaled(value: float | None, scale: Scale) -> float:
    return 0.0 if value is None else (min(max(value, scale.least), scale.greatest) - scale.mean) / scale.deviation


def _code(value: str | None, vocabulary: tuple[str, ...]) -> int:
    return FIRST_CODE + vocabulary.index(value) if value in vocabulary else UNKNOWN


def test_shapes_and_types() -> None:
    found = to_tensors(example_rows(11), CONTRACT, ENCODING, 24)
    assert {name: (t.shape, t.dtype.name) for name, t in found.items()} == {
        "channels": ((11, 24, 8), "float32"),
        "codes": ((11, 24, 2), "int32"),
        "mask": ((11, 24), "bool"),
        "aggregates": ((11, 4), "float32"),
        "tier": ((11, 3), "float32"),
    }


def test_padding_follows_the_events_and_is_zero() -> None:
    found = to_tensors(example_rows(30), CONTRACT, ENCODING, 40)
    assert (np.diff(found["mask"].astype(int), axis=1) <= 0).all()
    assert (found["codes"][~found["mask"]] == PADDING).all()
    assert not found["channels"][~found["mask"]].any()


def test_slices_and_chunks_give_the_same_rows() -> None:
    rows = example_rows(30)
    whole = to_tensors(rows, CONTRACT, ENCODING, 24)
    chunked = pa.concat_tables([rows.slice(0, 7), rows.slice(7)])
    for start, part in ((0, chunked), (5, rows.slice(5, 20)), (5, rows.slice(5, 20).to_batches()[0])):
        for name, values in to_tensors(part, CONTRACT, ENCODING, 24).items():
            np.testing.assert_array_equal(values, whole[name][start : start + part.num_rows], err_msg=name)


def test_trimming_cuts_padding_alone() -> None:
    rows = example_rows(30)
    short = rows.filter(pa.compute.less(pa.compute.list_value_length(rows["seq_age"]), 10))
    whole, trimmed = (to_tensors(short, CONTRACT, ENCODING, 40, trim) for trim in (None, 16))
    assert trimmed["mask"].shape[1] == 16
    assert not whole["mask"][:, 16:].any()
    np.testing.assert_array_equal(trimmed["channels"], whole["channels"][:, :16])


def test_no_rows_and_null_lists() -> None:
    empty = example_rows(3).select(SCHEMA.names).slice(0, 0)
    assert to_tensors(empty, CONTRACT, ENCODING, 8)["channels"].shape == (0, 8, 8)
    row = example_rows(1).select(SCHEMA.names).to_pylist()[0]
    row |= {name: None for name in CONTRACT.array_columns}
    found = to_tensors(pa.Table.from_pylist([row], schema=SCHEMA), CONTRACT, ENCODING, 8)
    assert not found["mask"].any()


def test_a_sequence_longer_than_the_contract_is_refused() -> None:
    row = example_rows(1).select(SCHEMA.names).to_pylist()[0]
    row |= {name: [1] * 41 for name in ("seq_age", "seq_amount", "seq_items")}
    row |= {name: ["x"] * 41 for name in ("seq_event_type", "seq_shelf")}
    with pytest.raises(ValueError, match="41 events, more than the contract's length 40"):
        to_tensors(pa.Table.from_pylist([row], schema=SCHEMA), CONTRACT, ENCODING, 24)


def test_arrays_of_unequal_length_are_refused() -> None:
    row = example_rows(1).select(SCHEMA.names).to_pylist()[0]
    row["seq_amount"] = [*row["seq_amount"], 1.0]
    with pytest.raises(ValueError, match=r"row 0: seq_amount has .* events and seq_age has"):
        to_tensors(pa.Table.from_pylist([row], schema=SCHEMA), CONTRACT, ENCODING, 24)


def test_values_beyond_the_training_range_count_as_its_end() -> None:
    scale = Scale(1.0, 2.0, 0.0, 3.0)
    np.testing.assert_array_equal(
        scale.apply(np.array([-5.0, 0.0, 3.0, 99.0, np.nan])), np.array([-0.5, -0.5, 1.0, 1.0, 0.0], np.float32)
    )


def test_encoding_round_trips_through_json() -> None:
    statistics = Statistics.empty(CONTRACT)
    statistics.add(example_rows(50), CONTRACT)
    encoding = statistics.encoding(3)
    stored = TypeAdapter(Encoding)
    assert stored.validate_json(stored.dump_json(encoding)) == encoding


def test_contract_without_categorical_channels_or_aggregates() -> None:
    import dataclasses

    bare = dataclasses.replace(CONTRACT, categorical=(), aggregates=())
    encoding = Encoding({}, ENCODING.channels, {}, ())
    found = to_tensors(example_rows(5), bare, encoding, 8)
    assert found["codes"].shape == (5, 8, 0)
    assert found["aggregates"].shape == (5, 0)


def test_the_as_of_date_of_the_examples_is_used() -> None:
    assert example_rows(2)["as_of_date"].to_pylist() == [DATE, DATE]
