"""One reading of the source, settled: which rows are accepted, refused or repeats, and files of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from pyspark import StorageLevel
from pyspark.sql import DataFrame

from features.core.errors import ReconciliationError, SourceError
from features.ingest import batch_files, repeats, row_counts, shards, typed_rows
from features.ingest.row_counts import Counts
from features.ingest.sources import SourceRows
from features.ingest.typed_rows import IngestSpec
from features.storage import schemas
from features.storage.failures import source_errors
from features.storage.file_writer import AddedFile
from features.storage.table_log import TableFile


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one reading, kept on disk by Spark until they are written.

    Attributes:
        rows: of `shards.settled`.
        counts: of `row_counts.counts`.
        by_status: how many rows are accepted, rejected and duplicates.
        new_days: accepted events by date.
    """

    rows: DataFrame
    counts: Counts
    by_status: dict[str, int]
    new_days: dict[dt.date, int]

    @property
    def read(self) -> int:
        """Rows read from the source, malformed lines among them."""
        return self.counts.get((repeats.READ, None, None), 0)

    @property
    def rejected(self) -> DataFrame:
        """Reasons and originals of the refused rows."""
        return batch_files.refused(self.rows, schemas.EVENTS_REJECTED.part(["reasons", "original"]))

    def check(self, since: dt.date | None, until: dt.date | None) -> None:
        """Every row read between the dates is accepted, rejected or a duplicate.

        Raises:
            SourceError: nothing was read.
            ReconciliationError: the three do not add up to the rows read.
        """
        if not self.read:
            raise SourceError("the source has no rows" + (f" from {since} to {until}" if since or until else ""))
        if sum(self.by_status.values()) != self.read:
            raise ReconciliationError(
                f"accepted + rejected + duplicates are not the rows read: {self.by_status}, {self.read} read"
            )

    def write_events(self, uri: str, rows_per_file: int) -> list[AddedFile]:
        """Files of `events`, uncommitted."""
        return batch_files.write(self.rows, uri, self.new_days, rows_per_file)

    def write_rejected(self, uri: str, standing: Sequence[str], rows_per_file: int) -> list[AddedFile]:
        """Files of `events_rejected`, uncommitted: refused rows that are not in its files `standing` already."""
        count = self.by_status[repeats.REJECTED]
        return batch_files.write_refused(self.rows, uri, standing, count, rows_per_file) if count else []


def settled_batch(
    source: SourceRows, spec: IngestSpec, key: bytes, now: dt.datetime, known: Sequence[TableFile]
) -> Batch:
    """Read the source once, check each row and settle repeats.

    Args:
        source: rows of the query, and malformed lines.
        spec: what ingest depends on beside the data.
        key: of the pseudonyms.
        now: the run's clock.
        known: active files of `events`, in which repeats are looked for.

    Raises:
        SourceError: the source cannot be read.
    """
    columns, within = source.events.columns, spec.events.repeats_within_days
    pieces = shards.cut(typed_rows.typed(source.events, spec), spec.checks(columns, key, now))
    if source.malformed is not None:
        pieces = pieces.unionByName(shards.cut_lines(typed_rows.refused_lines(source.malformed, key, now)))
    with source_errors("the source"):  # the first time that its rows are read
        sought = None
        if known:
            pieces = pieces.persist(StorageLevel.DISK_ONLY)
            known = known if within is None else shards.near(known, shards.dates(pieces), within)
            sought = shards.sought(pieces, known)
        rows = shards.settled(pieces, known, columns, sought).persist(StorageLevel.DISK_ONLY)
        counts = row_counts.counts(rows)
    return Batch(rows, counts, row_counts.by_status(counts), row_counts.by_date(counts))
