"""Bad rows by the handful: a base row and overrides, written in any format, ingested in this process."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.ingest.pseudonyms import digest
from jobs import ingest_events
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from tests.data.programme import CHECKOUT, KEY

Row = dict[str, Any]

NOW = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
VARIABLE = "TIERCAST_PSEUDONYM_KEY"
QUERY = "SELECT id event_id, who user_id, at event_time, kind event_type, paid amount, items, channel FROM rows"
BASE: Row = {
    "id": "e",
    "who": "member",
    "at": "2024-05-01T10:00:00Z",
    "kind": "purchase",
    "paid": "10.00",
    "items": "2",
    "channel": "shop",
}
SETTINGS: dict[str, Any] = {
    "extends": [f"{CHECKOUT}/conf/base.yaml", f"{CHECKOUT}/conf/local.yaml"],
    "source": {
        "tables": {"rows": {}},
        "query": QUERY,
        "attributes": {"items": {"type": "numeric"}, "channel": {"type": "categorical"}},
    },
    "events": {"types": ["purchase", "visit"], "purchase_type": "purchase"},
    "quality": {"largest_rejected_share": None, "day_rows_against_median": None},
    "features": {"windows_days": [7, 30]},
    "sequence": {"length": 5},
    "tiers": {"window_days": 30, "levels": [{"name": "low"}, {"name": "high", "from": {"spend": 50}}]},
    "horizon": {"days": 30},
    "training": {"as_of": ["2024-02-01"], "validation_as_of": "2024-02-02"},
    "evaluation": {"as_of": "2024-04-01"},
}


def row(name: str, **overrides: Any) -> Row:
    """A good row whose event id is `name`, but for the overrides."""
    return {**BASE, "id": name, **overrides}


def pseudonym(text: str) -> str:
    return digest(KEY.encode(), text)


def write(
    folder: Path, rows: Sequence[Row], form: str = "json", schema: Mapping[str, pa.DataType] | None = None
) -> str:
    """Write rows as one file `rows.FORM` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rows.{form}"
    if form == "json":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return str(path)
    kinds = {**dict.fromkeys(BASE, pa.string()), **(schema or {})}
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(list(kinds.items())))
    if form == "csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    return str(path)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: merged(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def settings(folder: Path, uri: str, **changes: Any) -> Settings:
    """Settings that read `uri`, whose ending tells the format, into the storage root `folder`/store."""
    form = uri.rsplit(".", 1)[-1]
    table: dict[str, Any] = {"format": form, "uri": uri}
    if form in ("csv", "json"):
        table["columns"] = ", ".join(f"{name} STRING" for name in BASE)
    if form == "csv":
        table["options"] = {"header": "true"}
    tree = merged(SETTINGS, {"source": {"tables": {"rows": table}}, "storage": {"root": str(folder / "store")}})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(merged(tree, changes)), encoding="utf-8")
    return load([str(path)])


def of_rows(
    folder: Path,
    rows: Sequence[Row],
    form: str = "json",
    schema: Mapping[str, pa.DataType] | None = None,
    **changes: Any,
) -> Settings:
    """Settings over these rows; `schema` tells the parquet columns that are no text."""
    return settings(folder, write(folder, rows, form, schema), **changes)


@dataclasses.dataclass(frozen=True)
class Ingested:
    """What one ingest left behind."""

    run: Run
    accepted: list[Row]
    rejected: list[Row]

    def event(self, name: str) -> Row:
        """The accepted event of a source id."""
        (found,) = [r for r in self.accepted if r["event_id"] == pseudonym(name)]
        return found

    def reasons(self, name: str) -> list[set[str]]:
        """The reasons of each refused row of a source id."""
        return [set(r["reasons"]) for r in self.rejected if r["event_id"] == pseudonym(name)]

    def reasons_of_user(self, who: str) -> list[set[str]]:
        """The reasons of each refused row of a member."""
        return [set(r["reasons"]) for r in self.rejected if r["user_id"] == pseudonym(who)]


def stored(chosen: Settings, table: str) -> list[Row]:
    """All rows of a table, read without Spark; none where there is no table."""
    uri = chosen.storage.table(table)
    return list(DeltaTable(uri).to_pyarrow_table().to_pylist()) if Path(uri).exists() else []


def ingest(
    spark: SparkSession,
    chosen: Settings,
    since: dt.date | None = None,
    until: dt.date | None = None,
    now: dt.datetime = NOW,
) -> Ingested:
    """Run the job's body at a fixed clock and read what it wrote."""
    run = Run("ingest_events", until, now=now)
    job = Job(chosen, spark, argparse.Namespace(as_of=[], since=since))
    ingest_events.ingest_events(job, run, since, until)
    return Ingested(run, stored(chosen, "events"), stored(chosen, "events_rejected"))


def reconciles(run: Run) -> bool:
    """Whether the counts of a run add up to the rows read."""
    return sum(run.counts[s] for s in ("accepted", "rejected", "duplicate")) == run.counts["rows_read"]


def names(rows: Iterable[Row]) -> set[str]:
    return {r["event_id"] for r in rows}
