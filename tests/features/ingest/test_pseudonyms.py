"""Pseudonyms against Python's HMAC; the key stays secret, and a missing or wrong one is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from features.core.errors import PseudonymKeyError
from features.ingest.pseudonyms import digest, key_check, line_key, pseudonyms
from features.ingest.shards import cut, cut_lines, settled
from features.ingest.typed_rows import refused_lines, typed
from features.storage import delta_tables
from tests.data.programme import KEY
from tests.data.source_rows import NOW, VARIABLE, ingest, of_rows, row, stored

TEXTS = [
    "",
    " ",
    "a",
    "0",
    "Ünïcödé",
    "e\u0301 is not \u00e9",
    "\N{FACE WITH TEARS OF JOY}\N{ZERO WIDTH JOINER}\N{BEAR FACE}",
    "\x00 in the middle \x00",
    "line\nbreak\ttab",
    "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 64,
    "x" * 63,
    "x" * 64,
    "x" * 65,
    "y" * 100_000,
]


@pytest.mark.parametrize("key", [b"k" * 16, b"k" * 64, b"k" * 65, "schlüssel \N{KEY}".encode() * 9, bytes(range(256))])
def test_bad_input_pseudonyms_equal_pythons_hmac(key: bytes) -> None:
    texts = [*TEXTS, None, *TEXTS[::-1], None]
    wanted = [t if t is None else hmac.new(key, t.encode(), hashlib.sha256).hexdigest()[:32] for t in texts]
    found = pseudonyms(pa.array(["not looked at", *texts])[1:], key)
    assert found.type == pa.string()
    assert found.to_pylist() == wanted
    assert wanted == [t if t is None else digest(key, t) for t in texts]
    assert pseudonyms(pa.array([], pa.string()), key).to_pylist() == []


def plans(rows: DataFrame) -> str:
    """All query plans that Spark may show of some rows, before and after they are computed."""
    execution = rows._jdf.queryExecution()
    rows.collect()
    return str(execution.toString()) + str(execution.stringWithStats())


def test_bad_input_the_key_stands_in_no_plan(spark: SparkSession, tmp_path: Path) -> None:
    spec, key = of_rows(tmp_path, [row("a")]).ingest, KEY.encode()
    rows = spark.sql(
        "SELECT 'e' event_id, 'm' user_id, '2024-05-01' event_time, 'visit' event_type, NULL amount, '2' items, "
        "'shop' channel"
    )
    lines = spark.createDataFrame([("rows", "broken")], "source STRING, line STRING")
    pieces = cut(typed(rows, spec), spec.checks(rows.columns, key, NOW))
    pieces = pieces.unionByName(cut_lines(refused_lines(lines, key, NOW)))
    shown = plans(settled(pieces, [], rows.columns)) + repr(spec.checks(rows.columns, key, NOW))
    assert "aes_encrypt" in shown
    block = key.ljust(64, b"\0")
    secrets = [key, bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block), line_key(key)]
    for secret in secrets:
        piece = secret[:12]  # plans show long values shortened
        forms = [
            piece.hex(),
            piece.hex(" "),
            piece.decode("latin-1"),
            base64.b64encode(piece).decode(),
            ", ".join(str(b) for b in piece),
            ",".join(str(b - 256 if b > 127 else b) for b in piece),
        ]
        assert not [form for form in forms if form.lower() in shown.lower()]


def test_bad_input_another_key_than_the_tables(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = of_rows(tmp_path, [row("a")])
    uri = chosen.storage.table("events")
    delta_tables.ensure(spark, uri, chosen.ingest.table, {"tiercast.key_check": key_check(KEY.encode())})
    other = "another key for the same tables"
    monkeypatch.setenv(VARIABLE, other)
    with pytest.raises(PseudonymKeyError, match=r"not the one that .*events was written with") as caught:
        ingest(spark, chosen)
    assert other not in str(caught.value)
    assert KEY not in str(caught.value)
    assert stored(chosen, "events") == []


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "no pseudonym key: set the environment"), ("", "no pseudonym key"), ("fifteen letters", "has 15 bytes")],
)
def test_bad_input_no_key_or_a_short_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    monkeypatch.delenv(VARIABLE) if value is None else monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(PseudonymKeyError, match=message) as caught:
        ingest(spark, of_rows(tmp_path, [row("a")]))
    assert VARIABLE in str(caught.value)
    assert not value or value not in str(caught.value)
    assert not (tmp_path / "store").exists()
