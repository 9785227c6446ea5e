"""Delta tables: created as their schemas describe them, for every reader, and grown by optional columns."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.kernel.aggregates import aggregate_columns
from features.storage import commits, delta_tables, schemas
from tests.data.reference import aggregate_spec, contract_for

DATE, NEXT = dt.date(2024, 3, 1), dt.date(2024, 3, 2)
SPEC = aggregate_spec()
ALL_TABLES = [
    schemas.events({"items": "numeric", "channel": "categorical"}),
    schemas.EVENTS_REJECTED,
    schemas.user_days(SPEC.event_types),
    schemas.sequences(contract_for(SPEC), aggregate_columns(SPEC)),
    schemas.outcomes(),
    schemas.scores(SPEC.rule.names),
    schemas.TIERS,
    schemas.EVALUATIONS,
    schemas.RUNS,
]


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: t.name)
def test_every_column_has_its_comment_and_every_reader_can_read(
    spark: SparkSession, tmp_path: Path, table: schemas.Table
) -> None:
    uri = str(tmp_path / table.name)
    delta_tables.ensure(spark, uri, table)
    found = DeltaTable(uri)
    assert {c.name: c.metadata.get("comment") for c in found.schema().fields} == {
        c.name: c.metadata["comment"] for c in table.fields
    }
    assert all(c.metadata["comment"] for c in table.fields)
    assert (found.protocol().min_reader_version, found.protocol().min_writer_version) == (1, 2)
    assert not found.protocol().reader_features
    assert tuple(found.metadata().partition_columns) == table.partitioned_by
    assert found.to_pyarrow_table().num_rows == 0
    delta_tables.ensure(spark, uri, table)  # the table is there: no commit
    assert DeltaTable(uri).version() == 0


def test_properties_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    uri = str(tmp_path / "tiers")
    delta_tables.ensure(spark, uri, schemas.TIERS, {"tiercast.key_check": "abc"})
    assert delta_tables.table_property(spark, uri, "tiercast.key_check") == "abc"
    assert delta_tables.table_property(spark, uri, "tiercast.other") is None


def test_optional_columns_come_and_stay(spark: SparkSession, tmp_path: Path) -> None:
    uri, plain = str(tmp_path / "outcomes"), schemas.outcomes()
    with_targets = schemas.outcomes(["tier_30d", "inactive"])
    row = {"user_id": "a", "outcome_value": Decimal(1), "outcome_tier_rank": 0, "as_of_date": DATE}
    delta_tables.ensure(spark, uri, plain)
    commits.append(uri, plain, [row])
    delta_tables.ensure(spark, uri, with_targets)
    delta_tables.ensure(spark, uri, with_targets)
    found = {c.name: c for c in delta_tables.read(spark, uri).schema}
    assert list(found)[-2:] == ["outcome_tier_rank_30d", "outcome_inactive"]
    assert found["outcome_inactive"].metadata["comment"] == "whether the outcome window has no event"
    assert DeltaTable(uri).to_pyarrow_table()["outcome_inactive"].null_count == 1
    further = {"outcome_tier_rank_30d": 1, "outcome_inactive": True}
    commits.append(uri, with_targets, [row | further | {"as_of_date": NEXT}])
    delta_tables.ensure(spark, uri, plain)
    kept = DeltaTable(uri).to_pyarrow_table().sort_by("as_of_date")["outcome_tier_rank_30d"].to_pylist()
    assert kept == [None, 1]
