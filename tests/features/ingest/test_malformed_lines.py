"""Lines of CSV and JSON that cannot be parsed: kept, encrypted, counted."""

from __future__ import annotations

import json

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from features.ingest.pseudonyms import line_key
from jobs.running.settings import Settings
from tests.data.programme import KEY
from tests.data.source_rows import BASE, Ingested, ingest, names, pseudonym, reconciles, row, settings

COLUMNS = ", ".join(f"{name} STRING" for name in BASE)
QUERY = """
SELECT id event_id, who user_id, at event_time, kind event_type, paid amount, items, channel FROM rows
UNION ALL
SELECT id, who, at, kind, paid, items, channel FROM more
"""
BAD_JSON = ['{"id": "cut", "who": "member-of-json', "no JSON at all", '{"id": "cut", "who": "member-of-json']
BAD_CSV = ["too-few,member-of-csv", "too-many,member-of-csv,2024-05-01,purchase,1,2,shop,\N{BEAR FACE}"]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("malformed")
    lines = [json.dumps(row("json 1")), *BAD_JSON, json.dumps(row("json 2"))]
    (folder / "rows.json").write_text("\n".join([*lines, ""]), encoding="utf-8")
    good = [",".join(row(f"csv {n}").values()) for n in (1, 2)]
    quoted = '"csv, quoted",member,2024-05-01,purchase,1,2,"shop ""x"""'
    (folder / "more.csv").write_text("\n".join([",".join(BASE), good[0], *BAD_CSV, good[1], quoted, ""]), "utf-8")
    options = {"header": "true", "escape": '"'}
    more = {"format": "csv", "uri": str(folder / "more.csv"), "columns": COLUMNS, "options": options}
    return settings(folder, str(folder / "rows.json"), source={"tables": {"more": more}, "query": QUERY})


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, chosen: Settings) -> Ingested:
    return ingest(spark, chosen)


def test_bad_input_good_lines_beside_malformed_ones_are_accepted(ingested: Ingested) -> None:
    good = ["json 1", "json 2", "csv 1", "csv 2", "csv, quoted"]
    assert names(ingested.accepted) == {pseudonym(n) for n in good}
    assert ingested.event("csv, quoted")["channel"] == 'shop "x"'


def test_bad_input_malformed_lines_are_counted(ingested: Ingested) -> None:
    counts = ingested.run.counts
    assert reconciles(ingested.run)
    assert (counts["accepted"], counts["rejected"], counts["rows_read"]) == (5, 5, 10)
    assert (counts["source.rows"], counts["source.more"]) == (2, 3)
    assert len(ingested.rejected) == 5
    assert {tuple(r["reasons"]) for r in ingested.rejected} == {("malformed_line",)}
    assert all(r["user_id"] is None and r["event_id"] is None for r in ingested.rejected)


def test_bad_input_malformed_lines_are_kept_encrypted(spark: SparkSession, ingested: Ingested) -> None:
    kept = [(r["source"], r["original"]) for r in ingested.rejected]
    assert not [o for _, o in kept for word in ("member-of", "no JSON", "too-") if word in o]
    assert len({o for _, o in kept}) == len(kept)  # equal lines differ once encrypted
    rows = spark.createDataFrame(kept, "source STRING, original STRING")
    key = f.unhex(f.lit(line_key(KEY.encode()).hex()))
    line = f.aes_decrypt(f.unbase64("original"), key, f.lit("GCM")).cast("string").alias("line")
    lines = rows.select("source", line)
    found = sorted((r["source"], r["line"]) for r in lines.collect())
    assert found == sorted([("rows", line) for line in BAD_JSON] + [("more", line) for line in BAD_CSV])


def test_bad_input_malformed_lines_read_again_add_nothing(
    spark: SparkSession, chosen: Settings, ingested: Ingested
) -> None:
    again = ingest(spark, chosen)
    assert again.run.counts["rejected"] == 5
    assert sorted(again.rejected, key=str) == sorted(ingested.rejected, key=str)
    assert again.run.status == "unchanged"
