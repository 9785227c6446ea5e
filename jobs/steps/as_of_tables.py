"""Sequences and outcomes of many as-of dates: what stands already, one pass for the rest, a commit for each."""

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
from features.storage import commits, delta_tables, schemas, table_log
from features.storage.failures import failure_in_words
from features.storage.file_writer import AddedFile
from jobs.running.job import Job
from jobs.steps.pinned_inputs import Pinned, in_order, standing_snapshot

JOBS = {SEQUENCES: "build_sequences", OUTCOMES: "build_outcomes"}
"""The job that writes each kind of output."""

Failed = Callable[[str, dt.date, TiercastError], None]
"""Told of a kind and date that cannot be written, and why."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """An output, the version of its table on which it was planned, and why it is to be written; None: it stands."""

    output: Output
    seen: int
    reason: str | None


def plan(job: Job, pinned: Pinned, kind: str, date: dt.date) -> Planned:
    """What is to be done for one kind and date; writes nothing."""
    uri, inputs = job.uri(kind), inputs_of(job, pinned, kind, date)
    output = Output(kind, uri, date, inputs)
    if not delta_tables.exists(job.spark, uri):
        return Planned(output, 0, "missing")
    seen = delta_tables.version(job.spark, uri)
    return Planned(output, seen, table_log.stale(table_log.inputs_at(uri, seen, date), inputs))


def inputs_of(job: Job, pinned: Pinned, kind: str, date: dt.date) -> str:
    """Fingerprints of the files that an output follows from, and of the settings: contract, or rule and window."""
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
    """Write the wanted kinds and dates that do not stand already; many are read together, each is committed alone.

    Args:
        job: the open job.
        pinned: what to read.
        wanted: kinds and as-of dates.
        dates_per_pass: as many are read together; None: as many as the settings say.
        failed: is told of what cannot be written, and the others go on; None: the first failure is raised.
    """
    kinds = dict.fromkeys(kind for kind, _ in wanted)
    for kind in kinds:
        delta_tables.ensure(job.spark, job.uri(kind), _table_of(job, kind))
    missing = []
    for kind, date in wanted:
        planned = plan(job, pinned, kind, date)
        with told(failed, kind, date), job.run(JOBS[kind], date, unless=planned.reason is not None) as record:
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
    """What is read together: those that a snapshot answers, and those that it does not."""
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
            added, table = files[output], _table_of(job, output.kind)
            record.versions = dict(pinned.versions)
            seen = commits.commit_files(output.uri, table, record.id, p.seen, [output.as_of], added)
            record.versions[output.kind] = seen
            record.counts["rows"] = sum(f.rows for f in added)


def reading(job: Job, pinned: Pinned, wanted: Sequence[Output], rebuild: bool = False) -> Pass:
    """The pass that answers what is wanted, from a snapshot where one stands before all of it, unless to `rebuild`."""
    settings, snapshot = job.settings, None if rebuild else standing_snapshot(job, pinned)
    targets = settings.horizon.targets
    if snapshot is not None and any(o.as_of < snapshot.as_of for o in wanted):
        snapshot = None
    if any(map(tier_days, targets)) and any(o.kind == OUTCOMES for o in wanted):
        snapshot = None  # the rule's window may begin before it
    spec, horizon = settings.sequences, settings.horizon.days
    return Pass(pinned.event_files, pinned.day_files, in_order(job), wanted, spec, horizon, snapshot, targets)


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
    """Give a failure that is known to `failed`, if there is one, and go on; any other is raised."""
    try:
        yield
    except Exception as error:
        known = failure_in_words(error)
        if failed is None or known is None:
            raise
        failed(kind, date, known)
