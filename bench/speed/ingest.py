"""Ingest of made-up source rows: by the job, and the same checks by DuckDB and by Polars.

All read the rows as text, refuse bad rows with reasons, resolve repeats by id and content, and write the accepted
events by date, user, time and id. DuckDB's pseudonyms are one keyed hash where HMAC takes two; Polars has none.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml
from pyspark.sql import SparkSession

from bench.speed.days import settings as programme_settings
from bench.speed.events import CHANNELS, SHOPS, TYPES
from bench.speed.sequences import emptied
from jobs import ingest_events
from jobs.running.job import Job, Run
from jobs.running.settings_files import load

KEY = "a key for measuring, and for nothing else"
COLUMNS = ("id", "who", "at", "kind", "paid", "items", "shop", "channel")
BAD, REPEATED = 0.01, 0.01
_CHUNK = 250_000  # rows of a file; engines distribute files over cores
_FIRST = np.datetime64("2024-01-01T00:00:00")
_DAYS = 91


def write_source(folder: Path, rows: int, form: str) -> str:
    """Write files of text rows, some without user, type or number, some repeated; returns their folder."""
    place = Path(emptied(f"{folder}/source-{form}-{rows}"))
    place.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, _CHUNK)):
        table = _rows(start, min(_CHUNK, rows - start))
        if form == "csv":
            pyarrow.csv.write_csv(table, place / f"{number}.csv")
        else:
            pq.write_table(table, place / f"{number}.parquet", compression="zstd")
    return str(place)


def _rows(start: int, count: int) -> pa.Table:
    chance = np.random.default_rng(start + 1)
    number = np.arange(start, start + count)
    number = np.where(chance.random(count) < REPEATED, np.maximum(number - 1, start), number)
    mixed = (number * 2654435761) % (1 << 32)  # the content of a row follows from its number, so repeats are equal
    second = mixed % (_DAYS * 86_400)
    bad = (mixed % 1000) < BAD * 1000
    which = mixed % 3
    kind = np.array(TYPES)[(mixed >> 7) % len(TYPES)]
    kind = np.where(bad & (which == 0), "unheard of", kind)
    cents = (mixed >> 3) % 20_000
    paid = np.char.add(np.char.add((cents // 100).astype(str), "."), np.char.zfill((cents % 100).astype(str), 2))
    paid = np.where(bad & (which == 1), "a lot", paid)
    who = np.char.add("member-", ((mixed >> 5) % max(1, count // 20)).astype(str))
    who = np.where(bad & (which == 2), "", who)
    at = np.char.add((_FIRST + second.astype("timedelta64[s]")).astype(str), "Z")
    columns = {
        "id": np.char.add("event-", number.astype(str)),
        "who": who,
        "at": at,
        "kind": kind,
        "paid": paid,
        "items": ((mixed >> 9) % 30).astype(str),
        "shop": np.array(SHOPS)[(mixed >> 11) % len(SHOPS)],
        "channel": np.array(CHANNELS)[(mixed >> 13) % len(CHANNELS)],
    }
    return pa.table({name: pa.array(values.tolist(), pa.string()) for name, values in columns.items()})


def tiercast(spark: SparkSession, source: str, form: str, root: str) -> dict[str, int]:
    """By the job; returns its counts."""
    os.environ.setdefault("TIERCAST_PSEUDONYM_KEY", KEY)
    tree = programme_settings(Path(emptied(root)))
    table: dict[str, Any] = {"format": form, "uri": source}
    if form == "csv":
        table |= {"columns": ", ".join(f"{c} STRING" for c in COLUMNS), "options": {"header": "true"}}
    tree["source"] |= {
        "tables": {"rows": table},
        "query": "SELECT id event_id, who user_id, at event_time, kind event_type, paid amount, items, shop, channel "
        "FROM rows",
    }
    Path(root).mkdir(parents=True)
    path = Path(root) / "settings.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    job = Job(load([str(path)], []), spark, argparse.Namespace(as_of=[], since=None))
    record = Run("ingest_events", None)
    ingest_events.ingest_events(job, record, None, None)
    return {name: record.counts[name] for name in ("accepted", "rejected", "duplicate")}


_REASONS = """[
    CASE WHEN coalesce(u, '') = '' THEN 'missing_user' END,
    CASE WHEN coalesce(i, '') = '' THEN 'missing_event_id' END,
    CASE WHEN t IS NULL THEN 'unparseable_time' END,
    CASE WHEN t > now() + INTERVAL 1 HOUR THEN 'time_in_future' END,
    CASE WHEN kind IS NULL OR kind NOT IN {types} THEN 'unknown_event_type' END,
    CASE WHEN kind = 'purchase' AND paid IS NULL THEN 'purchase_without_amount' END,
    CASE WHEN paid IS NOT NULL AND money IS NULL THEN 'unparseable_amount' END,
    CASE WHEN money < 0 THEN 'negative_amount' END,
    CASE WHEN money > 100000 THEN 'amount_beyond_bound' END
]"""


def duckdb_checks(source: str, form: str, out: str) -> dict[str, int]:
    """By DuckDB: one query for the statuses, and two files of its rows."""
    read = f"read_parquet('{source}/*.parquet')"
    if form == "csv":
        read = f"read_csv('{source}/*.csv', header = true, all_varchar = true)"
    query = f"""
        CREATE TEMP TABLE classified AS
        WITH typed AS (
            SELECT *, trim(who) AS u, trim(id) AS i, try_cast("at" AS TIMESTAMPTZ) AS t,
                try_cast(paid AS DECIMAL(38, 6)) AS money, try_cast(items AS DOUBLE) AS n FROM {read}
        ), checked AS (
            SELECT *, list_filter({_REASONS.format(types=TYPES)}, lambda x: x IS NOT NULL) AS reasons,
                hash(u, t, kind, money, n, shop, channel) AS content FROM typed
        ), placed AS (
            SELECT *, row_number() OVER same AS place, first_value(content) OVER same AS first_content FROM checked
            WINDOW same AS (PARTITION BY i, len(reasons) = 0 ORDER BY content)
        )
        SELECT sha256('{KEY}' || i)[:32] AS event_id, sha256('{KEY}' || u)[:32] AS user_id, t AS event_time,
            kind AS event_type, money AS amount, n AS items, shop, channel, content, reasons, t::DATE AS event_date,
            CASE WHEN len(reasons) > 0 OR content <> first_content THEN 'rejected'
                 WHEN place > 1 THEN 'duplicate' ELSE 'accepted' END AS status
        FROM placed"""
    Path(emptied(out)).mkdir(parents=True)
    with duckdb.connect() as base:
        base.execute("SET TimeZone = 'UTC'")
        base.execute(query)
        for status, order in (("accepted", "event_date, user_id, event_time, event_id"), ("rejected", "event_id")):
            base.execute(
                f"COPY (SELECT * FROM classified WHERE status = '{status}' ORDER BY {order}) "
                f"TO '{out}/{status}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )
        return dict(base.execute("SELECT status, count(*) FROM classified GROUP BY status").fetchall())


def polars_checks(source: str, form: str, out: str) -> dict[str, int]:
    """By Polars: lazy expressions, collected once; ids are not replaced."""
    rows = (
        pl.scan_parquet(f"{source}/*.parquet")
        if form == "parquet"
        else pl.scan_csv(f"{source}/*.csv", infer_schema=False)
    )
    c = pl.col
    typed = rows.with_columns(
        u=c("who").str.strip_chars(),
        i=c("id").str.strip_chars(),
        t=c("at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False),
        money=c("paid").cast(pl.Float64, strict=False).cast(pl.Decimal(38, 6), strict=False),
        n=c("items").cast(pl.Float64, strict=False),
    )
    latest = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    conditions = {
        "missing_user": c("u").fill_null("") == "",
        "missing_event_id": c("i").fill_null("") == "",
        "unparseable_time": c("t").is_null(),
        "time_in_future": c("t") > latest,
        "unknown_event_type": ~c("kind").is_in(list(TYPES)).fill_null(False),
        "purchase_without_amount": (c("kind") == "purchase") & c("paid").is_null(),
        "unparseable_amount": c("paid").is_not_null() & c("money").is_null(),
        "negative_amount": c("money") < 0,
        "amount_beyond_bound": c("money") > 100_000,
    }
    reasons = pl.concat_list([pl.when(test).then(pl.lit(name)) for name, test in conditions.items()]).list.drop_nulls()
    content = pl.struct("u", "t", "kind", "money", "n", "shop", "channel").hash()
    checked = typed.with_columns(reasons=reasons, content=content).with_columns(valid=c("reasons").list.len() == 0)
    same = ["i", "valid"]
    placed = checked.sort("content").with_columns(
        place=pl.int_range(pl.len()).over(same), first=c("content").first().over(same)
    )
    status = (
        pl.when(~c("valid") | (c("content") != c("first"))).then(pl.lit("rejected"))
        .when(c("place") > 0).then(pl.lit("duplicate")).otherwise(pl.lit("accepted"))
    )  # fmt: skip
    found = placed.with_columns(status=status, event_date=c("t").dt.date()).collect()
    Path(emptied(out)).mkdir(parents=True)
    found.filter(c("status") == "accepted").sort("event_date", "u", "t", "i").write_parquet(f"{out}/accepted.parquet")
    found.filter(c("status") == "rejected").write_parquet(f"{out}/rejected.parquet")
    return dict(found.group_by("status").len().iter_rows())
