"""Errors of Spark, Delta and object storage as the project's errors: what to mend, and never a raw value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import delta.exceptions as delta_errors
from pyspark.errors import (
    AnalysisException,
    ArithmeticException,
    DateTimeException,
    NumberFormatException,
    ParseException,
    PySparkException,
)

from features.core.errors import ConcurrentWriteError, SourceError, StorageError, TiercastError

_CONFLICTS = (
    delta_errors.ConcurrentAppendException,
    delta_errors.ConcurrentDeleteReadException,
    delta_errors.ConcurrentDeleteDeleteException,
    delta_errors.ConcurrentTransactionException,
    delta_errors.ConcurrentWriteException,
    delta_errors.MetadataChangedException,
    delta_errors.ProtocolChangedException,
)

_STORAGE_SIGNS = (
    "Permission denied",
    "Mkdirs failed",
    "No space left",
    "Read-only file system",
    "AccessControlException",
    "AccessDeniedException",
    "Not a directory",
    "ParentNotDirectory",
    "No FileSystem for scheme",
    "UnknownHostException",
)

_BAD_VALUES = (ArithmeticException, DateTimeException, NumberFormatException)
_TYPES_IN_MESSAGE = ("sourceType", "targetType")

_UNREADABLE = (
    ("it is missing or damaged", r"cannot read ([^\s{]+): it is missing"),  # not the line of code that says so
    ("FAILED_READ_FILE", r"(?:file|FILE)[: ]+(\S+)"),
    ("is not a Parquet file", r"(\S+) is not a Parquet file"),
    ("CANNOT_READ_FILE_FOOTER", r"file: (\S+)"),
)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn exceptions of Delta and Hadoop into the project's, with the cause in one line; `doing` says what failed."""
    try:
        yield
    except _CONFLICTS as error:
        raise ConcurrentWriteError(
            f"could not {doing}: another run committed at the same time; nothing of this run was written: run it again"
        ) from error
    except AnalysisException:
        raise
    except PySparkException as error:
        cause = storage_cause(str(error))
        if cause is None:
            raise
        raise StorageError(f"could not {doing}: {cause}") from error
    except Exception as error:  # py4j has one class for all Java exceptions without a Python one
        cause = storage_cause(str(error))
        if cause is None:
            raise
        raise StorageError(f"could not {doing}: {cause}") from error


def storage_cause(text: str) -> str | None:
    """The line of an error's text that names a failure of storage, or None."""
    for line in text.splitlines():
        if any(sign in line for sign in _STORAGE_SIGNS):
            return line.strip()[:300]
    return None


@contextmanager
def source_errors(where: str) -> Iterator[None]:
    """Turn Spark's errors about a source, a query or a file into one line that names the place."""
    try:
        yield
    except _BAD_VALUES as error:
        raise SourceError(f"{where}: {bad_value(error)}") from None  # its text would quote the value
    except (AnalysisException, ParseException) as error:
        raise SourceError(f"{where}: {shorten(str(error))}") from error
    except TiercastError:
        raise
    except Exception as error:
        cause = unreadable(str(error))
        if cause is None:
            raise
        raise SourceError(f"{where}: {cause}") from error


def bad_value(error: PySparkException) -> str:
    """Which expression failed on a value of the data, and how. The value is left out: it may be a raw id."""
    context = error.getQueryContext()
    expression = re.sub(r"\s+", " ", context[0].fragment()).strip() if context else ""
    found = error.getMessageParameters() or {}
    types = " to ".join(found[name].strip('"') for name in _TYPES_IN_MESSAGE if name in found)
    kind = (error.getCondition() or "bad value").split(".")[0].lower().replace("_", " ")
    return (
        f"{expression or 'an expression'} fails on a value of the data: {kind}{f' ({types})' if types else ''}; the "
        "value is not shown, it may be an id: use try_cast or try_divide, or leave such rows out"
    )


def shorten(message: str) -> str:
    """The first sentence of a Spark message, without its plan and context."""
    first = message.split("\n== SQL")[0].split(";\n")[0].split("SQLSTATE")[0]
    return re.sub(r"\s+", " ", first).strip().rstrip(".;")


def unreadable(text: str) -> str | None:
    """Which file is corrupt, in words, by an error's text; None if the error is another."""
    for sign, pattern in _UNREADABLE:
        if sign in text:
            found = re.search(pattern, text)
            name = found.group(1).rstrip(".,") if found else "a file"
            return f"cannot read {name}: it is missing or damaged, or not of the stated format"
    return None


def _mended(cause: str) -> str:
    """How to mend a damaged snapshot; nothing for other files."""
    return "; it is of a snapshot: compact --rebuild writes it from all events" if "/snapshots/" in cause else ""


def failure_in_words(error: Exception) -> TiercastError | None:
    """What an exception of Spark means for the person who started the job; None if it is not known."""
    if isinstance(error, TiercastError):
        return error
    text = str(error)
    if isinstance(error, _BAD_VALUES):  # all SQL that can meet one comes from the settings
        return SourceError(bad_value(error))
    cause = unreadable(text)
    if cause is not None:  # the project's tasks read the tables, Spark's the source
        return StorageError(cause + _mended(cause)) if "StorageError" in text else SourceError(cause)
    cause = storage_cause(text)
    return StorageError(cause) if cause is not None else None
