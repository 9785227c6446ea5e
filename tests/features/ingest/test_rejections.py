"""Refused rows: their JSON against Spark's `to_json`, their identities and their files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from features.ingest.checks import raw
from features.ingest.rejections import MALFORMED_LINE, of_lines, of_rows, originals
from features.storage import delta_tables
from features.storage.file_writer import MANY_ROWS
from features.storage.table_log import file_uris
from tests.data.source_rows import ingest, reconciles, row
from tests.data.source_rows import of_rows as settings_of_rows

ODD = [
    *["", " ", "plain", 'a "quote"', "back\\slash \\n", "tab\t, line\n, return\r, bell \x07, \x0b, \x1f, \x00, \x7f"],
    *["\N{BEAR FACE} \N{LATIN SMALL LETTER E WITH ACUTE} \u2028", "</script> & 'x'", "{}[]:,", "\b\f"],
]


def test_bad_input_text_is_written_as_spark_writes_it(spark: SparkSession) -> None:
    texts = [*ODD, *(None for _ in ODD)]
    table = pa.table(
        {"event_id": texts, raw("event_time"): texts[::-1], "event_type": texts, "shop": [*texts[1:], "x"]}
    )
    names = ["shop", "event_id", "event_time", "event_type"]
    plain = table.rename_columns([name.removeprefix(raw("")) for name in table.column_names])
    frame = spark.createDataFrame(plain).select(f.to_json(f.struct(*names)).alias("json"))
    assert originals(table, names).to_pylist() == [r["json"] for r in frame.collect()]


def test_bad_input_values_that_are_no_text_stay_what_they_are() -> None:
    time = dt.datetime(2024, 5, 1, 10, 30, tzinfo=dt.UTC)
    rows = pa.table(
        {
            "count": pa.array([3, None, -1]),
            "share": [2.5, float("nan"), 1e300],
            "sure": [True, False, None],
            "time": pa.array([time, None, time], pa.timestamp("us", "UTC")),
            "nothing": pa.nulls(3),
        }
    )
    first, second, third = (json.loads(text) for text in originals(rows, rows.column_names).to_pylist())
    assert (first["count"], first["share"], first["sure"]) == (3, 2.5, True)
    assert dt.datetime.fromisoformat(first["time"]) == time
    assert second == {"share": "nan", "sure": False}
    assert third["share"] == 1e300
    assert "nothing" not in first


def test_equal_refused_rows_have_identities_of_their_own_and_the_same_in_any_order() -> None:
    rows = pa.table(
        {
            "event_id": ["a", "b", "a", "a"],
            "user_id": ["u", "u", "u", "v"],
            "reasons": [["x"], ["x", "y"], ["x"], ["x"]],
            "ingested_at": pa.array([0] * 4).cast(pa.timestamp("us", "UTC")),
        }
    )
    found = of_rows(rows, ["event_id", "user_id"])
    assert len(set(found["rejection_id"].to_pylist())) == 4
    backwards = of_rows(rows.take([3, 1, 2, 0]), ["event_id", "user_id"])
    assert sorted(backwards.to_pylist(), key=str) == sorted(found.to_pylist(), key=str)


def test_equal_lines_of_different_tables_have_identities_of_their_own() -> None:
    lines = pa.table(
        {
            "source": ["one", "two", "one"],
            "content": ["c", "c", "c"],
            "original": ["o1", "o2", "o3"],
            "ingested_at": pa.array([0] * 3).cast(pa.timestamp("us", "UTC")),
        }
    )
    found = of_lines(lines)
    assert len(set(found["rejection_id"].to_pylist())) == 3
    assert found["reasons"].to_pylist() == [[MALFORMED_LINE]] * 3


def test_bad_input_many_refused_rows_are_several_files_and_later_ones_add_only_what_is_new(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [row("fine"), *(row(f"bad {n % 40}", paid=f"-{1 + n % 40}") for n in range(50))]
    found = ingest(spark, settings_of_rows(tmp_path, rows, sequence={"rows_per_range": 20}))
    assert (found.run.counts["rejected"], len(found.rejected)) == (50, 50)
    chosen = settings_of_rows(
        tmp_path, [rows[0], *rows[11:], row("bad 60", paid="-60")], sequence={"rows_per_range": 20}
    )
    uri = chosen.storage.table("events_rejected")
    assert len(file_uris(uri, delta_tables.version(spark, uri))) == 3
    again = ingest(spark, chosen)
    assert again.run.counts["rejected"] == 41
    assert len(again.rejected) == 51
    assert len({r["rejection_id"] for r in again.rejected}) == 51
    assert reconciles(again.run)


def test_bad_input_more_refused_rows_than_a_row_group_holds(spark: SparkSession, tmp_path: Path) -> None:
    many = MANY_ROWS.group_rows + 100
    rows = [row("fine"), *(row(f"bad {n}", who="" if n % 2 else f"u{n}", paid="-1") for n in range(many))]
    found = ingest(spark, settings_of_rows(tmp_path, rows))
    assert len(found.rejected) == many
    assert len({r["rejection_id"] for r in found.rejected}) == many
    assert sum(r["user_id"] is None for r in found.rejected) == many // 2
    assert reconciles(found.run)
