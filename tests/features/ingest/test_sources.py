"""Source tables, queries and columns that cannot be used: one clear error each."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from features.core.errors import SourceError, StorageError, TableMismatchError, TiercastError
from features.storage.failures import failure_in_words
from jobs.running.settings import Settings
from tests.data.source_rows import QUERY, ingest, of_rows, row, settings, stored, write

GOOD = [row("a"), row("b")]


def refusal(spark: SparkSession, chosen: Settings) -> TiercastError:
    """The error message of an ingest; nothing may have been accepted."""
    try:
        ingest(spark, chosen)
    except TiercastError as error:
        found: TiercastError | None = error
    except Exception as error:
        found = failure_in_words(error)
    else:
        pytest.fail("the ingest passed")
    assert found is not None, "the user would see a stack trace"
    return found


def source_error(spark: SparkSession, chosen: Settings) -> str:
    found = refusal(spark, chosen)
    assert isinstance(found, SourceError)
    assert found.exit_code == 2
    return str(found)


def test_bad_input_empty_source(spark: SparkSession, tmp_path: Path) -> None:
    chosen = of_rows(tmp_path, [])
    assert source_error(spark, chosen) == "the source has no rows"
    assert stored(chosen, "events") == []


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_bad_input_missing_file(spark: SparkSession, tmp_path: Path, form: str) -> None:
    said = source_error(spark, settings(tmp_path, str(tmp_path / f"nowhere.{form}")))
    assert "source table 'rows'" in said
    assert f"nowhere.{form}" in said
    assert "\n" not in said
    assert not (tmp_path / "store").exists()


def test_bad_input_package_that_is_not_installed(spark: SparkSession, tmp_path: Path) -> None:
    said = source_error(spark, settings(tmp_path, "package:no_such_package/rows.parquet"))
    assert "'no_such_package' is not installed" in said


def test_bad_input_missing_catalogue_table(spark: SparkSession, tmp_path: Path) -> None:
    table = {"format": "table", "uri": "no_such_table"}
    said = source_error(spark, settings(tmp_path, "x.parquet", source={"tables": {"rows": table}}))
    assert "no_such_table" in said
    assert "\n" not in said


def test_bad_input_folder_without_files(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty.parquet").mkdir()
    assert "source table 'rows'" in source_error(spark, settings(tmp_path, str(tmp_path / "empty.parquet")))


@pytest.mark.parametrize("damage", ["other format", "cut", "overwritten"])
def test_bad_input_corrupt_parquet_names_the_file(spark: SparkSession, tmp_path: Path, damage: str) -> None:
    uri = Path(write(tmp_path, [row(f"event-{n}" * 9, who=f"{n}" * 50) for n in range(500)], "parquet"))
    content = uri.read_bytes()
    if damage == "other format":
        uri.write_text("id,who\n1,2\n" * 20, encoding="utf-8")
    elif damage == "cut":
        uri.write_bytes(content[: len(content) // 2])
    else:  # the footer is whole, the pages are not
        middle = len(content) // 2
        uri.write_bytes(content[:4] + b"\xff" * middle + content[4 + middle :])
    said = source_error(spark, settings(tmp_path, str(uri)))
    assert "rows.parquet" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC id FROM rows", "SELEC"),
        ("SELECT id event_id, FROM rows WHERE (", "Syntax error"),
        ("SELECT * FROM elsewhere", "elsewhere"),
        ("SELECT no_such_column FROM rows", "no_such_column"),
        ("SELECT no_such_function(id) FROM rows", "no_such_function"),
        ("SELECT sum(paid), id FROM rows", "GROUP BY"),
    ],
)
def test_bad_input_invalid_query(spark: SparkSession, tmp_path: Path, query: str, message: str) -> None:
    said = source_error(spark, of_rows(tmp_path, GOOD, source={"query": query}))
    assert said.startswith("the source query: ")
    assert message.lower() in said.lower()
    assert "\n" not in said


def test_bad_input_columns_of_the_query_are_listed_together(spark: SparkSession, tmp_path: Path) -> None:
    query = "SELECT id event_id, array(who) user_id, true event_time, 1 event_type, items, items more FROM rows"
    said = source_error(spark, of_rows(tmp_path, GOOD, source={"query": query}))
    for problem in (
        "column amount is missing",
        "column channel is missing",
        "column user_id is array<string>; it may be string, integral",
        "column event_time is boolean; it may be timestamp, timestampntz, date, string",
        "column event_type is int; it may be string",
        "columns ['more'] are neither event columns nor under source.attributes",
    ):
        assert f"  - {problem}" in said
    assert not (tmp_path / "store").exists()


def test_bad_input_column_twice_in_the_query(spark: SparkSession, tmp_path: Path) -> None:
    query = QUERY.replace("items, channel", "items, channel, paid amount")
    assert "  - column amount stands more than once" in source_error(
        spark, of_rows(tmp_path, GOOD, source={"query": query})
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "CAST(who AS DOUBLE)",
            "CAST(who AS DOUBLE) fails on a value of the data: cast invalid input (STRING to DOUBLE)",
        ),
        ("1 / (length(id) - 1)", "divide by zero"),
        ("year(to_timestamp(who))", "fails on a value of the data"),
        ("year(CAST(who AS DATE))", "fails on a value of the data"),
    ],
)
def test_bad_input_query_that_fails_on_a_value(spark: SparkSession, tmp_path: Path, value: str, words: str) -> None:
    chosen = of_rows(tmp_path, GOOD, source={"query": QUERY.replace("items,", f"{value} items,")})
    said = source_error(spark, chosen)
    assert words in said
    assert "member" not in said  # the value may be a raw id
    assert "\n" not in said
    assert stored(chosen, "events") == []


@pytest.mark.parametrize("column", ["no_such_column", "paid"])
def test_bad_input_date_column_that_is_none(spark: SparkSession, tmp_path: Path, column: str) -> None:
    chosen = of_rows(tmp_path, GOOD, source={"tables": {"rows": {"date_column": column}}})
    with pytest.raises(SourceError, match=column):
        ingest(spark, chosen, since=dt.date(2024, 5, 1))


@pytest.mark.parametrize(
    ("points", "message"), [("amount *", "syntax error"), ("price * 2", "price"), ("no_such(amount)", "no_such")]
)
def test_bad_input_points_expression(spark: SparkSession, tmp_path: Path, points: str, message: str) -> None:
    levels = [{"name": "low"}, {"name": "high", "from": {"points": 50}}]
    chosen = of_rows(tmp_path, GOOD, tiers={"window_days": 30, "points": points, "levels": levels})
    said = source_error(spark, chosen)
    assert said.startswith("tiers.points: ")
    assert message in said.lower()
    assert "\n" not in said
    assert not (tmp_path / "store").exists()  # found before any data was read


def test_bad_input_table_of_another_schema(spark: SparkSession, tmp_path: Path) -> None:
    chosen = of_rows(tmp_path, GOOD)
    rows = spark.sql("SELECT 'a' event_id, 1 user_id, 2.5D amount, true channel, 'red' colour")
    rows.write.format("delta").save(chosen.storage.table("events"))
    found = refusal(spark, chosen)
    assert isinstance(found, TableMismatchError)
    missing = ("event_time", "event_type", "clipped_at", "items", "content_hash", "ingested_at", "event_date")
    for problem in (
        *(f"column {name} is missing" for name in missing),
        "column colour is not expected",
        "column user_id is int, expected string",
        "column amount is double, expected decimal(18,6)",
        "column channel is boolean, expected string",
        "partitioned by nothing, expected event_date",
    ):
        assert f"  - {problem}" in str(found)


def test_bad_input_storage_that_cannot_be_written(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("not a folder", encoding="utf-8")
    chosen = of_rows(tmp_path, GOOD, storage={"root": str(tmp_path / "a file" / "store")})
    found = refusal(spark, chosen)
    assert isinstance(found, StorageError)
    assert found.exit_code == 1
    assert "a file" in str(found)
    assert "\n" not in str(found)
