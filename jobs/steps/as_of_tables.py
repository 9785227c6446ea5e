"""Sequences and outcomes of many as-of dates: find what stands, read the rest in few passes, commit each date."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Sequence

from features.building import range_tasks
from features.building.pass_plan import OUTCOMES, SEQUENCES, Output, Pass
from features.building.snapshots import Snapshot
from features.core.contract import tier_days
from features.core.errors import TiercastError
from features.kernel import outcomes
from features.storage import delta_tables, schemas, table_log
from features.storage.failures import failure_in_words
from features.storage.file_writer import AddedFile
from jobs.running.job import Job
from jobs.steps import dated_output
from jobs.steps.dated_output import Built, DatedOutput
from jobs.steps.pinned_inputs import Pinned, in_order, standing_snapshot

JOBS = {SEQUENCES: "build_sequences", OUTCOMES: "build_outcomes"}
"""The job that writes each kind of output."""

Failed = Callable[[str, dt.date, TiercastError], None]
"""Called with a kind and date that cannot be written, and the reason."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """An output, the table version it was planned on, and the reason to write it; None: it stands."""

    output: Output
    seen: int
    reason: str | None


def plan(job: Job, pinned: Pinned, kind: str, date: dt.date) -> Planned:
    """Whether one kind and date must be written, and why; writes nothing."""
    uri, inputs = job.uri(kind), inputs_of(job, pinned, kind, date)
    output = Output(kind, uri, date, inputs)
    found = dated_output.look(job, _dated(job, output))
    return Planned(output, found.version, found.reason)


def inputs_of(job: Job, pinned: Pinned, kind: str, date: dt.date) -> str:
    """Fingerprint of all that an output follows from: its files, and the contract or the rule and window."""
    settings = job.settings
    if kind == SEQUENCES:
        return table_log.inputs_before(pinned.event_files, date, settings.contract.id)
    end = outcomes.horizon_end(date, settings.horizon.days)
    rule = settings.aggregates.rule.canonical()
    targets = settings.horizon.targets
    return table_log.inputs_before(pinned.event_files, end, rule, settings.horizon.days, settings.known_by, *targets)


def check(job: Job, pinned: Pinned, kind: str, date: dt.date) -> None:
    """Raise DateError unless the data can answer this date."""
    range_tasks.check_known(pinned.event_files, date)
    if kind == OUTCOMES:
        newest = max((f.date for f in pinned.event_files if f.rows), default=None)
        outcomes.check_horizon_passed(newest, date, job.settings.horizon.days)


def write(
    job: Job,
    pinned: Pinned,
    wanted: Sequence[tuple[str, dt.date]],
    dates_per_pass: int | None = None,
    failed: Failed | None = None,
) -> None:
    """Write the wanted kinds and dates that do not stand yet: read in few passes, committed one by one.

    Args:
        job: the open job.
        pinned: what to read.
        wanted: kinds and as-of dates.
        dates_per_pass: how many outputs one pass reads; None: as the settings say.
        failed: called with what cannot be written, then the others go on; None: the first failure is raised.
    """
    kinds = dict.fromkeys(kind for kind, _ in wanted)
    for kind in kinds:
        delta_tables.ensure(job.spark, job.uri(kind), _table_of(job, kind))
    missing = []
    for kind, date in wanted:
        planned = plan(job, pinned, kind, date)
        with told(failed, kind, date), job.run(JOBS[kind], date, only_failures=planned.reason is not None) as record:
            record.versions, record.status = dict(pinned.versions), "unchanged"
            if planned.reason is not None:
                check(job, pinned, kind, date)
                missing.append(planned)
    if not missing:
        return
    size = dates_per_pass or job.settings.sequence.dates_per_pass
    for group in _groups(missing, standing_snapshot(job, pinned), size):
        _write_pass(job, pinned, group, failed)


def _groups(missing: Sequence[Planned], snapshot: Snapshot | None, size: int) -> Iterator[Sequence[Planned]]:
    """Outputs that are read in one pass: those that a snapshot answers apart from those that need all days."""
    later = [p for p in missing if snapshot is not None and p.output.as_of >= snapshot.as_of]
    for part in (later, [p for p in missing if p not in later]):
        for start in range(0, len(part), size):
            yield part[start : start + size]


def _write_pass(job: Job, pinned: Pinned, group: Sequence[Planned], failed: Failed | None) -> None:
    try:
        files = _read(job, pinned, [p.output for p in group])
    except Exception:
        if failed is None or len(group) == 1:
            with told(failed, group[0].output.kind, group[0].output.as_of):
                raise
            return
        for p in group:  # one date's trouble must not stop the others
            _write_pass(job, pinned, [p], failed)
        return
    for p in group:
        output = p.output
        with told(failed, output.kind, output.as_of), job.run(JOBS[output.kind], output.as_of) as record:
            record.versions = dict(pinned.versions)
            dated_output.commit(job, record, _dated(job, output), p.seen, Built(files[output]))


def reading(job: Job, pinned: Pinned, wanted: Sequence[Output], rebuild: bool = False) -> Pass:
    """The pass that writes the wanted outputs. It starts from a snapshot that is older than all of them, if one stands
    and nothing is to be rebuilt."""
    settings, snapshot = job.settings, None if rebuild else standing_snapshot(job, pinned)
    targets = settings.horizon.targets
    if snapshot is not None and any(o.as_of < snapshot.as_of for o in wanted):
        snapshot = None
    if any(map(tier_days, targets)) and any(o.kind == OUTCOMES for o in wanted):
        snapshot = None  # the rule's window may begin before it
    spec, horizon = settings.sequences, settings.horizon.days
    return Pass(pinned.event_files, pinned.day_files, in_order(job), wanted, spec, horizon, snapshot, targets)


def _dated(job: Job, output: Output) -> DatedOutput:
    return DatedOutput(_table_of(job, output.kind), output.uri, output.as_of, output.inputs_id)


def _table_of(job: Job, kind: str) -> schemas.Table:
    return range_tasks.table_of(kind, job.settings.sequences, job.settings.horizon.targets)


def _read(job: Job, pinned: Pinned, wanted: Sequence[Output]) -> dict[Output, list[AddedFile]]:
    settings, work = job.settings, reading(job, pinned, wanted)
    with job.run("read_events", None) as record:
        record.versions = dict(pinned.versions)
        found = range_tasks.build(job.spark, work, settings.sequence.rows_per_range)
        record.counts = {"dates": len(wanted), "rows": work.rows}
    return found


@contextlib.contextmanager
def told(failed: Failed | None, kind: str, date: dt.date) -> Iterator[None]:
    """Hand a failure that has words for the user to `failed` and go on; raise any other, or all without `failed`."""
    try:
        yield
    except Exception as error:
        known = failure_in_words(error)
        if failed is None or known is None:
            raise
        failed(kind, date, known)
