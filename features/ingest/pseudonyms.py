"""Keyed pseudonyms of ids, HMAC-SHA256 (RFC 2104), and the encryption of malformed lines."""

from __future__ import annotations

import hashlib
import hmac
import os

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from features.core.errors import PseudonymKeyError

DIGITS = 32
"""Hexadecimal digits kept: 128 bits, the least that RFC 2104 (section 5) allows for SHA-256."""

_BLOCK = 64  # bytes of a SHA-256 block
_SHORTEST = 16
_BLANK = " \t\r\n"
_LINE_KEY = "_line_key"
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


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
    """The pseudonym of `text`, as `pseudonyms` gives it."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:DIGITS]


def key_check(key: bytes) -> str:
    """Value that a table keeps to recognise its key; it does not reveal the key."""
    return digest(key, "tiercast key check")


def line_key(key: bytes) -> bytes:
    """The AES-256 key that encrypts malformed source lines."""
    return hmac.new(key, b"tiercast malformed lines", hashlib.sha256).digest()


def pseudonyms(texts: pa.StringArray, key: bytes) -> pa.StringArray:
    """[n] the pseudonym of each text, as `digest` gives it; null stays null.

    Each distinct text is hashed once, from states of the two hashes that hold the key already. Written by hand: copies
    of an `hmac` object take half as long again.
    """
    different = texts.dictionary_encode()
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes(b ^ pad for b in block)) for pad in (0x36, 0x5C))
    hashed = list[bytes]()
    for text in different.dictionary.cast(pa.binary()).to_pylist():
        first, second = inner.copy(), outer.copy()
        first.update(text)
        second.update(first.digest())
        hashed.append(second.digest())
    numbers = np.frombuffer(b"".join(hashed), np.uint8).reshape(-1, inner.digest_size)
    return hexadecimal(numbers[:, : DIGITS // 2]).take(different.indices)


def of_ids(ids: pa.StringArray, key: bytes) -> pa.StringArray:
    """[n] pseudonyms of ids, which are stripped of blanks first; null where nothing is left."""
    trimmed = pc.ascii_trim(ids, _BLANK)
    return pseudonyms(pc.if_else(pc.equal(trimmed, ""), None, trimmed), key)


def hexadecimal(numbers: npt.NDArray[np.uint8]) -> pa.StringArray:
    """[n] strings of hexadecimal digits of [n, m] bytes."""
    rows, width = numbers.shape
    digits = np.empty((rows, 2 * width), np.uint8)
    digits[:, ::2], digits[:, 1::2] = _HEX[numbers >> 4], _HEX[numbers & 15]
    offsets = np.arange(rows + 1, dtype=np.int32) * (2 * width)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(digits))


def encrypted(spark: SparkSession, rows: DataFrame, column: str, key: bytes) -> DataFrame:
    """`rows` with a string column encrypted by AES-GCM under the line key, in base64; equal texts become different.

    The key must not stand in a query plan, as plans are logged and shown in Spark's UI: it is the one row of a small
    relation that is joined to the rows.
    """
    keys = spark.createDataFrame([(bytearray(line_key(key)),)], f"{_LINE_KEY} BINARY")
    text = f.base64(f.aes_encrypt(f.encode(f.col(column), "UTF-8"), f.col(_LINE_KEY), f.lit("GCM")))
    return rows.crossJoin(f.broadcast(keys)).withColumn(column, text).drop(_LINE_KEY)


def check_key(key: bytes, stored: str | None, uri: str) -> None:
    """Raise PseudonymKeyError unless `stored`, the check value of the table at `uri`, is that of `key`; None passes."""
    if stored is not None and not hmac.compare_digest(stored, key_check(key)):
        raise PseudonymKeyError(
            f"the pseudonym key is not the one that {uri} was written with: members would appear twice; "
            "set the old key, or use another storage.root"
        )
