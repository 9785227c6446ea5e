"""Active files of a table and fingerprints of inputs."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

from pyspark.sql import SparkSession

from features.storage import commits, delta_tables, schemas
from features.storage.table_log import active_files, fingerprint, inputs_before

DATE, NEXT = dt.date(2024, 3, 1), dt.date(2024, 3, 2)


def test_inputs_follow_the_files_before_a_date_and_nothing_later(spark: SparkSession, tmp_path: Path) -> None:
    uri = str(tmp_path / "outcomes")
    delta_tables.ensure(spark, uri, schemas.outcomes())

    def add(date: dt.date) -> None:
        commits.append(uri, schemas.outcomes(), [{"user_id": f"user{n}", "as_of_date": date} for n in range(3)])

    def inputs(*parts: object, at: int | None = None) -> str:
        files = active_files(uri, delta_tables.version(spark, uri) if at is None else at)
        return inputs_before(files, NEXT, *parts)

    empty = inputs("a")
    add(DATE)
    first = inputs("a")
    assert first != empty
    assert inputs("a") == first
    assert inputs("b") != first
    add(NEXT)
    assert inputs("a") == first  # files of the date itself do not count
    add(DATE)
    assert inputs("a") != first
    assert inputs("a", at=2) == first  # an old version has its old inputs
    assert [f.date for f in active_files(uri, 3)] == [DATE, DATE, NEXT]
    assert [(f.date, f.rows, f.first, f.last) for f in active_files(uri, 1)] == [(DATE, 3, "user0", "user2")]


def test_fingerprint_is_the_same_in_every_process() -> None:
    canonical = b'["2024-03-01", ["a"], {"x": null, "y": 1}]'
    assert fingerprint(DATE, ["a"], {"y": 1, "x": None}) == hashlib.sha256(canonical).hexdigest()[:16]
    assert fingerprint("a", "b") != fingerprint(["a", "b"])
    assert fingerprint(["ab"]) != fingerprint(["a", "b"])
