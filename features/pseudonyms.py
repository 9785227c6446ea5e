"""Keyed pseudonyms: HMAC-SHA256 (RFC 2104) of ids, written as Spark SQL so that no row passes through Python.

The key never stands in a query plan (plans are shown in Spark's UI and logged): it travels as the one row of a small
relation that is joined to the data.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from features.errors import PseudonymKeyError

DIGITS = 32
"""Hexadecimal digits kept: 128 bits, the least that RFC 2104 (section 5) allows for SHA-256."""

_BLOCK = 64  # bytes of a SHA-256 block
_SHORTEST = 16
_COLUMNS = ("_inner_pad", "_outer_pad", "_line_key")


def key_from_environment(variable: str) -> bytes:
    """The key from an environment variable.

    Raises:
        PseudonymKeyError: the variable is not set or holds fewer than 16 bytes.
    """
    key = os.environ.get(variable, "").encode()
    if not key:
        raise PseudonymKeyError(f"no pseudonym key: set the environment variable {variable} to at least 16 characters")
    if len(key) < _SHORTEST:
        raise PseudonymKeyError(f"the pseudonym key in {variable} has {len(key)} bytes; it needs at least {_SHORTEST}")
    return key


def digest(key: bytes, text: str) -> str:
    """The pseudonym of `text`, as the SQL of `pseudonym` gives it."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:DIGITS]


def key_check(key: bytes) -> str:
    """What a table keeps to recognise its key by, without telling the key."""
    return digest(key, "tiercast key check")


def line_key(key: bytes) -> bytes:
    """The AES-256 key under which malformed source lines are kept."""
    return hmac.new(key, b"tiercast malformed lines", hashlib.sha256).digest()


def with_key(spark: SparkSession, rows: DataFrame, key: bytes) -> DataFrame:
    """`rows` with the key's columns, for `pseudonym` and `encrypted`; `without_key` drops them."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    pads = [bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block), line_key(key)]
    schema = ", ".join(f"{c} BINARY" for c in _COLUMNS)
    return rows.crossJoin(f.broadcast(spark.createDataFrame([tuple(bytearray(p) for p in pads)], schema)))


def without_key(rows: DataFrame) -> DataFrame:
    """`rows` without the key's columns."""
    return rows.drop(*_COLUMNS)


def pseudonym(text: Column) -> Column:
    """HMAC-SHA256 of a string column, first 128 bits in hexadecimal; null stays null."""
    inner, outer, _ = (f.col(c) for c in _COLUMNS)
    first = f.sha2(f.concat(inner, f.encode(text, "UTF-8")), 256)
    return f.substring(f.sha2(f.concat(outer, f.unhex(first)), 256), 1, DIGITS)


def encrypted(text: Column) -> Column:
    """AES-GCM of a string column under the line key, base64: random bits, so never equal twice."""
    return f.base64(f.aes_encrypt(f.encode(text, "UTF-8"), f.col(_COLUMNS[2]), f.lit("GCM")))


def check_key(key: bytes, stored: str | None, uri: str) -> None:
    """Raise PseudonymKeyError unless the table at `uri`, whose check value is `stored`, was written with `key`."""
    if stored is not None and not hmac.compare_digest(stored, key_check(key)):
        raise PseudonymKeyError(
            f"the pseudonym key is not the one that {uri} was written with: members would appear twice; "
            "set the old key, or use another storage.root"
        )
