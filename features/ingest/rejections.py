"""Refused rows as rows of `events_rejected`, with the source's row as JSON and an identity. No Spark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ingest.checks import raw
from features.storage.schemas import EVENTS_REJECTED

MALFORMED_LINE = "malformed_line"
_QUERY = "query"
_CONTENT, _JOINED = "content", "joined reasons"
_DIGITS = 32


def of_rows(refused: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows of `events_rejected` from refused rows of the query.

    Args:
        refused: rows of `features.ingest.checks.check`; of equal rows all must be there.
        columns: columns of the source's query, in its order.
    """
    kept = refused.select(["reasons", "user_id", "event_id", "ingested_at"])
    kept = kept.append_column("source", pa.repeat(_QUERY, kept.num_rows))
    original = originals(refused, columns)
    return _identified(kept.append_column("original", original).append_column(_CONTENT, original))


def of_lines(lines: pa.Table) -> pa.Table:
    """Rows of `events_rejected` from malformed lines, whose ids are not known.

    Args:
        lines: `source` (table name), `original` (encrypted), `content` (pseudonym of the line) and `ingested_at`; of
            equal lines all must be there.
    """
    count = lines.num_rows
    unknown = pa.nulls(count, pa.string())
    reasons = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), pa.repeat(MALFORMED_LINE, count))
    return _identified(
        lines.append_column("reasons", reasons).append_column("user_id", unknown).append_column("event_id", unknown)
    )


def _identified(rows: pa.Table) -> pa.Table:
    """Rows of `events_rejected` with their identities.

    An identity is a hash of a row's content and its number among equal rows. So equal rows are all kept, and the same
    input read again has the same identities.
    """
    rows = rows.append_column(_JOINED, pc.binary_join(rows["reasons"].cast(pa.list_(pa.string())), ","))
    rows = rows.sort_by([(c, "ascending") for c in ("source", _CONTENT, _JOINED)])
    place = np.arange(rows.num_rows)
    first = np.ones(rows.num_rows, bool)
    if rows.num_rows > 1:
        same = [pc.equal(rows[c][1:], rows[c][:-1]).to_numpy() for c in ("source", _CONTENT)]
        first[1:] = ~(same[0] & same[1])
    nth = place - np.maximum.accumulate(np.where(first, place, 0)) + 1
    parts = [rows[c].cast(pa.string()) for c in ("source", _JOINED, _CONTENT)]
    texts = pc.binary_join_element_wise(*parts, pa.array(nth).cast(pa.string()), "|").to_pylist()
    identities = [hashlib.sha256(text.encode()).hexdigest()[:_DIGITS] for text in texts]
    rows = rows.append_column("rejection_id", pa.array(identities, pa.string()))
    return rows.select(EVENTS_REJECTED.columns).cast(EVENTS_REJECTED.arrow_schema)


def originals(rows: pa.Table, columns: Sequence[str]) -> pa.Array:
    """[n] source rows as JSON objects without nulls, with pseudonyms in place of ids.

    Text is written as by Spark's `to_json`; numbers, times and truth values as by Arrow.

    Args:
        rows: rows of `features.ingest.checks.check`.
        columns: columns of the source's query, in its order.
    """
    fields = []
    for name in columns:
        values = rows[raw(name) if raw(name) in rows.column_names else name]
        fields.append(pc.binary_join_element_wise(json.dumps(name) + ":", _json(values), ""))
    joined = pc.binary_join_element_wise(*fields, ",", null_handling="skip")
    return pc.binary_join_element_wise("{", joined, "}", "")


def _json(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        text = values.cast(pa.string())
        return pc.if_else(pc.is_finite(values), text, _quoted(text))
    return _quoted(values.cast(pa.string()))


_ESCAPES = {
    "\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r",
}  # fmt: skip
_CONTROL = {chr(n): f"\\u{n:04X}" for n in range(32) if chr(n) not in _ESCAPES}


def _quoted(text: pa.ChunkedArray) -> pa.ChunkedArray:
    if pc.any(pc.match_substring_regex(text, r'[\x00-\x1f"\\]')).as_py():
        for letter, escaped in {**_ESCAPES, **_CONTROL}.items():  # the backslash first
            text = pc.replace_substring(text, letter, escaped)
    return pc.binary_join_element_wise('"', text, '"', "")
