"""Hashes of rows against the published ones of XXH64 and against Spark's `xxhash64`."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from features.ingest import content_hash
from features.ingest.content_hash import xxhash64

SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "flag": pa.bool_(),
        "number": pa.float64(),
        "money": pa.decimal128(18, 6),
        "time": pa.timestamp("us", "UTC"),
        "more": pa.string(),
    }
)
LETTERS = "aZ09 \x00\n\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{BEAR FACE}"


def any_row(chance: random.Random) -> dict[str, Any]:
    texts = ["".join(chance.choice(LETTERS) for _ in range(chance.randint(0, 40))) for _ in range(2)]
    row = {
        "text": texts[0],
        "flag": chance.random() < 0.5,
        "number": chance.choice([0.0, -0.0, 1e300, -2.5, chance.random()]),
        "money": Decimal(chance.randint(-(10**18) + 1, 10**18 - 1)).scaleb(-6),
        "time": dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=chance.randint(-(10**16), 10**16)),
        "more": texts[1],
    }
    return {name: None if chance.random() < 0.2 else value for name, value in row.items()}


@pytest.mark.parametrize(
    ("text", "seed", "wanted"),
    [
        ("", 0, 0xEF46DB3751D8E999),
        ("a", 0, 0xD24EC4F1A98C6E5B),
        ("abc", 0, 0x44BC2CF5AD770999),
        ("Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_hash_of_a_text_is_the_published_one(
    monkeypatch: pytest.MonkeyPatch, text: str, seed: int, wanted: int
) -> None:
    monkeypatch.setattr(content_hash, "_SEED", seed)
    assert xxhash64([pa.array([text])], 1).view(np.uint64).tolist() == [wanted]


def test_hashes_equal_sparks_and_do_not_depend_on_how_many_are_made_at_once(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(3)
    rows = [any_row(chance) for _ in range(400)]
    table = pa.Table.from_pylist(rows, SCHEMA)
    frame = spark.createDataFrame(table).select(f.xxhash64(*SCHEMA.names).alias("hash"))
    wanted = [row["hash"] for row in frame.collect()]
    monkeypatch.setattr(content_hash, "_AT_ONCE", 7)
    (batch,) = table.to_batches()
    assert xxhash64(batch.columns, len(rows)).tolist() == wanted
    later = batch.slice(33)
    assert xxhash64(later.columns, later.num_rows).tolist() == wanted[33:]
    assert len(xxhash64(batch.slice(0, 0).columns, 0)) == 0
