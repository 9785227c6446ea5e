"""Sequences, outcomes and snapshots built from a snapshot equal those built from all files."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.building.pass_plan import OUTCOMES, SEQUENCES, SNAPSHOTS, Output, Pass
from features.building.range_tasks import rows_of_range, table_of
from features.building.rollup import day_rows
from features.building.snapshots import Snapshot
from features.kernel.sequences import SequenceSpec
from features.kernel.tiers import TierRule
from features.storage.file_writer import Layout, write_file
from features.storage.table_log import TableFile
from features.storage.user_ranges import user_ranges
from tests.data import reference
from tests.data.reference import D, Event

SCHEMA = pa.schema({**{f.name: f.type for f in reference.EVENT_SCHEMA}, "points": pa.decimal128(28, 6)}).append(
    pa.field("ingested_at", pa.timestamp("us", "UTC"))
)
HORIZON = 10


class Tables:
    """Files of `events` and `user_days` that grow by one ingest after another, and snapshots of them."""

    def __init__(self, folder: Path, spec: SequenceSpec) -> None:
        self.folder, self.spec = folder, spec
        self.events: list[TableFile] = []
        self.days: list[TableFile] = []

    def ingest(self, events: Sequence[Event]) -> None:
        """Append a file per date to each table, as the jobs do."""
        for date in sorted({reference.day_of(e) for e in events}):
            own = sorted((e for e in events if reference.day_of(e) == date), key=_total_order)
            rows = pa.Table.from_pylist([{**e, "ingested_at": e["event_time"]} for e in own], SCHEMA)
            self.events.append(self.write("events", "event_date", date, rows, Layout(3)))
            self.days.append(self.write("user_days", "day", date, day_rows(rows, self.spec.aggregates), Layout(3)))
        for files in (self.events, self.days):
            files.sort(key=lambda f: (f.date, f.uri))

    def write(self, name: str, partition: str, date: dt.date, rows: pa.Table, layout: Layout) -> TableFile:
        added = write_file(rows, f"{self.folder}/{name}", partition, date, layout)
        users = rows["user_id"].to_pylist()
        return TableFile(f"{self.folder}/{name}/{added.path}", date, added.rows, min(users), max(users))

    def snapshot(
        self, as_of: dt.date, earlier: Snapshot | None, ranges: int
    ) -> tuple[Snapshot, list[TableFile], list[TableFile]]:
        """Write a snapshot, from all files or from an earlier snapshot, with a file for each range."""
        columns = [c for c in table_of(SNAPSHOTS, self.spec).columns if c not in ("inputs_id", "as_of_date")]
        files = []
        for users in user_ranges(ranges):
            for _, rows in rows_of_range(self.plan([(SNAPSHOTS, as_of)], earlier), users):
                if rows.num_rows:
                    files.append(
                        self.write("snapshots", "as_of_date", as_of, rows.select(columns), Layout(2, quick=True))
                    )
        then = list(self.events), list(self.days)
        return Snapshot(as_of, files, (), (), ()), *then

    def plan(self, outputs: Sequence[tuple[str, dt.date]], snapshot: Snapshot | None) -> Pass:
        wanted = [Output(kind, "", date, "") for kind, date in outputs]
        return Pass(self.events, self.days, True, wanted, self.spec, HORIZON, snapshot)

    def rows(
        self, outputs: Sequence[tuple[str, dt.date]], snapshot: Snapshot | None, ranges: int = 1
    ) -> list[pa.Table]:
        """The rows of each output in one table."""
        work = self.plan(outputs, snapshot)
        parts = [[rows for _, rows in rows_of_range(work, users)] for users in user_ranges(ranges)]
        return [pa.concat_tables([_plain(t) for t in tables_]) for tables_ in zip(*parts, strict=True)]


def _total_order(e: Event) -> tuple[str, int, str]:
    return e["user_id"], e["event_time"], e["event_id"]


def _plain(rows: pa.Table) -> pa.Table:
    """Rows with plain strings, so that they compare by value."""
    fields = []
    for field in rows.schema:
        kind = field.type
        if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
            kind = pa.list_(pa.string())
        fields.append(pa.field(field.name, kind))
    return rows.cast(pa.schema(fields))


@st.composite
def histories(draw: st.DrawFn) -> dict[str, Any]:
    """Events of a few members over some days, when each is ingested, and when snapshots are made."""
    events = draw(reference.members(max_size=40))
    spread = draw(st.sampled_from((1, 4, 400)))  # many events on few days with ties, up to few on many days
    events = [{**e, "event_time": _nearer(e["event_time"], spread)} for e in events]
    count = draw(st.integers(1, 4))
    return {
        "events": events,
        "batch": [draw(st.integers(0, count - 1)) for _ in events],
        "snapshots": [draw(st.sampled_from((None, 0, 0, 1, 2, 7, 30, 95))) for _ in range(count - 1)],
        "ranges": [draw(st.sampled_from((1, 2, 8))) for _ in range(count)],
        "later": draw(st.sampled_from((0, 1, 3, 40, 120))),
    }


def _nearer(micros: int, spread: int) -> int:
    """The instant with its distance to D divided, the time of day kept in whole hours or as it is."""
    days, rest = divmod(micros - reference.midnight(D), reference.DAY_US)
    return (
        reference.midnight(D)
        + days // spread * reference.DAY_US
        + (rest if spread == 400 else rest // (8 * 3600 * 10**6) * 8 * 3600 * 10**6)
    )


@settings(deadline=None, max_examples=250)
@given(histories(), reference.rules(), st.sampled_from((1, 2, 4, 64)))
def test_invariant_2_rebuild_equals_update(made: dict[str, Any], rule: TierRule, length: int) -> None:
    """Batches arrive in any order, some late; each snapshot is built from the one before."""
    with tempfile.TemporaryDirectory() as folder:
        world, latest = Tables(Path(folder), reference.sequence_spec(rule, length)), None
        for number, ranges in enumerate(made["ranges"]):
            world.ingest([e for e, batch in zip(made["events"], made["batch"], strict=True) if batch == number])
            back = (made["snapshots"] + [None])[number]
            if back is None:
                continue
            as_of = D - dt.timedelta(days=back)
            earlier = _now(world, latest)
            if earlier is not None and as_of < earlier.as_of:
                earlier = None
            latest = world.snapshot(as_of, earlier, ranges)
        current = _now(world, latest)
        if current is None:
            return
        dates = sorted({current.as_of, D, D + dt.timedelta(days=made["later"])})
        outputs = [(kind, date) for date in dates for kind in (SEQUENCES, OUTCOMES)]
        outputs += [(SNAPSHOTS, D)] if made["later"] == 3 else []
        for found, wanted in zip(
            world.rows(outputs, current, made["ranges"][0]), world.rows(outputs, None), strict=True
        ):
            assert found.column_names == wanted.column_names
            for name in wanted.column_names:
                assert found[name].to_pylist() == wanted[name].to_pylist(), name


def _now(world: Tables, made: tuple[Snapshot, list[TableFile], list[TableFile]] | None) -> Snapshot | None:
    if made is None:
        return None
    snapshot, events, days = made
    return Snapshot.since(snapshot.as_of, snapshot.files, (events, world.events), (days, world.days))


def test_events_of_one_instant_late_ones_too_fall_by_their_ids(tmp_path: Path) -> None:
    world = Tables(tmp_path, reference.sequence_spec(length=3))
    ids = [f"e{n}" for n in (5, 1, 7, 3, 9, 0)]
    world.ingest([reference.event("ann", i, -9, "visit", None, shop=i) for i in ids[:4]])
    latest = world.snapshot(D - dt.timedelta(days=5), None, 1)
    world.ingest([reference.event("ann", i, -9, "visit", None, shop=i) for i in ids[4:]])
    current = _now(world, latest)
    assert current is not None
    (found,) = world.rows([(SEQUENCES, D)], current)
    assert found["seq_shop"].to_pylist() == [["e5", "e7", "e9"]]
    assert found["total_events"].to_pylist() == [6]
