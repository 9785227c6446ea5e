"""The plan of one pass over the files: what it writes and what it reads."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from features.building.snapshots import Snapshot
from features.kernel.sequences import SequenceSpec
from features.storage.table_log import TableFile

SEQUENCES, OUTCOMES, SNAPSHOTS = "sequences", "outcomes", "snapshots"


@dataclasses.dataclass(frozen=True)
class Output:
    """Rows of one table for one as-of date.

    Attributes:
        kind: `SEQUENCES`, `OUTCOMES` or `SNAPSHOTS`.
        uri: the Delta table's place.
        as_of: the as-of date.
        inputs_id: fingerprint that the rows carry.
    """

    kind: str
    uri: str
    as_of: dt.date
    inputs_id: str


@dataclasses.dataclass(frozen=True)
class Pass:
    """One reading of the files, which builds all outputs.

    Attributes:
        events: active files of `events`, by date; not read if all outputs are outcomes.
        days: active files of `user_days`, by date.
        sorted_events: whether each file of `events` is in the total order, by the table's promise.
        outputs: what to write.
        sequences: contract, windows, tier rule.
        horizon_days: days of the outcome window.
        snapshot: read in place of all files that it knows; no output's date lies before its date.
        targets: further outcomes, see `features.core.contract.TARGET`.
    """

    events: Sequence[TableFile]
    days: Sequence[TableFile]
    sorted_events: bool
    outputs: Sequence[Output]
    sequences: SequenceSpec
    horizon_days: int
    snapshot: Snapshot | None = None
    targets: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the larger of the two inputs, which tasks hold by ranges of members."""
        if self.snapshot is None:
            return max(sum(f.rows for f in files) for files in (self.events_needed, self.days))
        new = max(sum(f.rows for f in files) for files in (self.snapshot.new_events, self.snapshot.new_days))
        standing = sum(f.rows for f in self.snapshot.files) * self.sequences.contract.length
        return new + min(standing, sum(f.rows for f in self.events))

    @property
    def dates(self) -> list[dt.date]:
        """As-of dates of outputs that hold events."""
        return [o.as_of for o in self.outputs if o.kind != OUTCOMES]

    @property
    def last_day(self) -> dt.date:
        """The day after the last day that an output depends on; no day if there is no output."""
        horizon = dt.timedelta(days=self.horizon_days)
        return max((o.as_of + horizon if o.kind == OUTCOMES else o.as_of for o in self.outputs), default=dt.date.min)

    @property
    def events_needed(self) -> Sequence[TableFile]:
        """Files of events before the last date of the sequences."""
        last = max(self.dates, default=dt.date.min)
        return [f for f in self.events if f.date < last]
