"""Frames of the files that grouped tasks have written, not yet committed: no row becomes a JVM object."""

from __future__ import annotations

from pyspark.sql import DataFrame

from features.table_files import AddedFile

FILE = "file"
"""The one column of such a frame: a file as JSON."""


def collected(written: DataFrame) -> list[AddedFile]:
    """The files that the rows of a frame of `FILE` name."""
    return [AddedFile.from_json(row[FILE]) for row in written.collect()]
