"""Which of the rows with one event id is the event. No Spark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.ingest.checks import REASONS

ACCEPTED, REJECTED, DUPLICATE, READ = "accepted", "rejected", "duplicate", "read"
CONFLICT = "conflicting_event_id"

KNOWN_COLUMNS = ["event_id", "content_hash"]


def settle(rows: pa.Table, known: pa.Table) -> pa.Table:
    """Rows with their `status`: of an id the first is accepted, equal rows are duplicates, others conflicts.

    The first is an event in the table, else the row with the smallest hash: the order of the input does not matter.
    Rows with other reasons are left out of this: a broken repeat must not take the place of a good row.

    Args:
        rows: rows of `features.ingest.checks.check`, all of each id, in any order.
        known: `event_id` and `content_hash` of events in the table, each id once; other ids do no harm.
    """
    status = np.full(rows.num_rows, REJECTED, object)
    valid = np.flatnonzero(pc.equal(pc.list_value_length(rows[REASONS]), 0).to_numpy())
    keys = rows.select(KNOWN_COLUMNS).take(pa.array(valid))
    order = pc.sort_indices(keys, [(c, "ascending") for c in KNOWN_COLUMNS])
    keys, valid = keys.take(order).combine_chunks(), valid[order.to_numpy()]
    ids, content = keys["event_id"], keys["content_hash"].to_numpy()
    first = _starts(ids)
    place = pc.index_in(ids, known["event_id"].combine_chunks())
    stands = place.is_valid().to_numpy()
    wanted = content[np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))] if len(ids) else content
    wanted = np.where(stands, _taken(known["content_hash"].to_numpy(), place), wanted)
    conflict = content != wanted
    status[valid] = np.select([conflict, stands | ~first], [REJECTED, DUPLICATE], ACCEPTED)
    rows = rows.append_column("status", pa.array(status, pa.string()))
    return _with_conflicts(rows, valid[conflict])


def _with_conflicts(rows: pa.Table, places: npt.NDArray[np.int64]) -> pa.Table:
    """Rows where those at `places` have a conflict as their only reason."""
    if not len(places):
        return rows
    at, reasons = rows.column_names.index(REASONS), rows[REASONS]
    conflict = np.zeros(rows.num_rows, bool)
    conflict[places] = True
    reasons = pc.if_else(pa.array(conflict), pa.scalar([CONFLICT], reasons.type), reasons)
    return rows.set_column(at, rows.schema.field(at), reasons)


def _starts(ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """[n] whether each id differs from the one before."""
    found = np.ones(len(ids), bool)
    if len(ids) > 1:
        found[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return found


def _taken(values: npt.NDArray[np.int64], place: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if not len(values):
        return np.zeros(len(place), np.int64)
    return np.asarray(values[place.fill_null(0).to_numpy()])
