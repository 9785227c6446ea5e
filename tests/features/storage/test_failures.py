"""Failures of storage, recognised by their text."""

from __future__ import annotations

import pytest

from features.storage import failures


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("first\n  IOException: Mkdirs failed to create x  \nat y", "IOException: Mkdirs failed to create x"),
        ("Permission denied " + "x" * 400, "Permission denied " + "x" * 282),
        ("something else", None),
    ],
)  # fmt: skip
def test_storage_failures_are_told_from_others(text: str, cause: str | None) -> None:
    assert failures.storage_cause(text) == cause
