"""Repeats and conflicts of event ids against a slow, obvious reference."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.ingest.repeats import CONFLICT, settle

SCHEMA = pa.schema(
    {
        "event_id": pa.string(),
        "content_hash": pa.int64(),
        "reasons": pa.list_(pa.field("element", pa.string(), nullable=False)),
    }
)
KNOWN = pa.schema({"event_id": pa.string(), "content_hash": pa.int64()})
Row = dict[str, Any]

valid = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from("abcd"),
        "content_hash": st.integers(-2, 2),
        "reasons": st.just([]),
    }
)
refused = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["a", "b", None]),
        "content_hash": st.integers(-2, 2),
        "reasons": st.sampled_from([["missing_user"], ["missing_time", "negative_amount"]]),
    }
)
known_events = st.dictionaries(st.sampled_from("abcdef"), st.integers(-2, 2))


def reference(rows: list[Row], known: dict[str, int]) -> list[Row]:
    """The same in plain Python, one id after another."""
    of_id: dict[str, list[Row]] = defaultdict(list)
    found = []
    for row in rows:
        if row["reasons"]:
            found.append({**row, "status": "rejected"})
        else:
            of_id[row["event_id"]].append(row)
    for name, same in of_id.items():
        same.sort(key=lambda r: r["content_hash"])
        wanted = known.get(name, same[0]["content_hash"])
        for place, row in enumerate(same):
            if row["content_hash"] != wanted:
                found.append({**row, "reasons": [CONFLICT], "status": "rejected"})
            elif place or name in known:
                found.append({**row, "status": "duplicate"})
            else:
                found.append({**row, "status": "accepted"})
    return found


def chunked(rows: list[Row], size: int) -> pa.Table:
    tables = [pa.Table.from_pylist(rows[n : n + size], SCHEMA) for n in range(0, len(rows), size)]
    return pa.concat_tables(tables or [SCHEMA.empty_table()])


@settings(max_examples=200)
@given(st.lists(st.one_of(valid, refused), max_size=20), known_events, st.integers(1, 9), st.randoms())
def test_statuses_equal_the_reference_in_any_order(
    rows: list[Row], known: dict[str, int], size: int, chance: random.Random
) -> None:
    wanted = reference(rows, known)
    mixed = list(rows)
    chance.shuffle(mixed)
    table = pa.Table.from_pylist([{"event_id": k, "content_hash": v} for k, v in known.items()], KNOWN)
    found = settle(chunked(mixed, size), table)
    assert found.schema == SCHEMA.append(pa.field("status", pa.string()))
    assert sorted(map(_text, found.to_pylist())) == sorted(map(_text, wanted))


def _text(row: Row) -> str:
    return str(sorted(row.items()))
