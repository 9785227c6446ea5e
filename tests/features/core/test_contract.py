"""The contract: round trip, identity and differences."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from features.core.contract import AGE, FORMAT, Contract, array_column
from features.kernel.tiers import TierRule
from tests.data import reference

BASE = Contract(
    length=8,
    numeric=("amount",),
    categorical=("event_type", "shop"),
    aggregates=("spend_30d", "recency_days"),
    tiers=("basic", "silver"),
    tier_rule="{}",
    horizon_days=90,
    known_by="event_time",
)

CHANGES: dict[str, Any] = {
    "length": 9,
    "numeric": ("amount", "points"),
    "categorical": ("shop", "event_type"),
    "aggregates": ("spend_30d",),
    "tiers": ("basic", "ruby 🦊"),
    "tier_rule": '{"a": 1}',
    "horizon_days": 91,
    "known_by": "ingested_at",
    "format": FORMAT + 1,
}


def test_round_trip_through_json() -> None:
    again = Contract.from_dict(json.loads(json.dumps(BASE.to_dict())))
    assert again == BASE
    assert again.id == BASE.id
    assert again.differences(BASE) == []


def test_every_field_is_tried_below() -> None:
    assert list(CHANGES) == [field.name for field in dataclasses.fields(Contract)]


@pytest.mark.parametrize("field", CHANGES)
def test_invariant_5_id_changes_with_each_field(field: str) -> None:
    other = dataclasses.replace(BASE, **{field: CHANGES[field]})
    assert other.id != BASE.id
    assert Contract.from_dict(other.to_dict()) == other


@pytest.mark.parametrize("field", CHANGES)
def test_invariant_5_differences_name_the_field_and_both_sides(field: str) -> None:
    other = dataclasses.replace(BASE, **{field: CHANGES[field]})
    mine, theirs = BASE.to_dict()[field], other.to_dict()[field]
    assert BASE.differences(other) == [f"{field}: {mine!r} against {theirs!r}"]
    assert other.differences(BASE) == [f"{field}: {theirs!r} against {mine!r}"]


def test_invariant_5_differences_have_a_line_for_each_field() -> None:
    found = BASE.differences(dataclasses.replace(BASE, **CHANGES))
    assert [line.split(":")[0] for line in found] == list(CHANGES)


def test_id_is_twelve_hexadecimal_digits_and_stays() -> None:
    assert re.fullmatch("[0-9a-f]{12}", BASE.id)
    assert dataclasses.replace(BASE).id == BASE.id


@pytest.mark.parametrize(
    "change",
    [{"window_days": 31}, {"combination": "any_of"}, {"thresholds": {"spend": (1, 2)}}, {"points": "amount"}],
)
def test_invariant_5_id_changes_with_the_tier_rule(change: dict[str, Any]) -> None:
    rules: list[TierRule] = [reference.simple_rule(), reference.simple_rule(**change)]
    first, second = (reference.contract_for(reference.aggregate_spec(rule)) for rule in rules)
    assert first.id != second.id


def test_bad_input_unknown_and_missing_fields() -> None:
    stored = BASE.to_dict()
    with pytest.raises(TypeError, match="surprise"):
        Contract.from_dict({**stored, "surprise": 1})
    del stored["length"]
    with pytest.raises(TypeError, match="length"):
        Contract.from_dict(stored)


def test_column_names() -> None:
    assert AGE == "seq_age"
    assert array_column("shop") == "seq_shop"
    assert BASE.array_columns == ("seq_age", "seq_amount", "seq_event_type", "seq_shop")
    assert BASE.input_columns == (*BASE.array_columns, "spend_30d", "recency_days", "current_tier_rank")
