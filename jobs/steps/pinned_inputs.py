"""The versions of events and rollup that a run reads, and the snapshot that stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deltalake.exceptions import DeltaError

from features.building import rollup, snapshots
from features.building.pass_plan import SNAPSHOTS
from features.building.snapshots import Snapshot
from features.storage import commits, delta_tables, schemas, table_log
from features.storage.table_log import TableFile
from jobs.running.job import Job, Run


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Versions of `events` and of the `user_days` that were built from exactly these events, and their files.

    Every date of a run reads both at these versions: an ingest in between changes nothing half way.
    """

    versions: dict[str, int]
    event_files: Sequence[TableFile]
    day_files: Sequence[TableFile]


def pin_events(job: Job) -> Pinned:
    """The events as they are now, for a plan; raises DateError if there are none."""
    uri = job.existing("events")
    at = delta_tables.version(job.spark, uri)
    return Pinned({"events": at}, table_log.active_files(uri, at), ())


def update_user_days(job: Job) -> Pinned:
    """Write the rollup's days whose events changed since it was last written, and pin both tables."""
    with job.run("update_user_days", None) as record:
        return _update_user_days(job, record)


def _update_user_days(job: Job, record: Run) -> Pinned:
    spark, spec, pinned = job.spark, job.settings.aggregates, pin_events(job)
    events_uri, uri, table = job.uri("events"), job.uri("user_days"), schemas.user_days(spec.event_types)
    delta_tables.ensure(spark, uri, table)
    seen, at = delta_tables.version(spark, uri), pinned.versions["events"]
    notes: dict[str, int | str] = {
        "built_from": at,
        "rollup": table_log.fingerprint(table.columns, spec.rule.points),
    }
    stood = commits.last_notes(uri)
    before = stood.get("built_from") if stood.get("rollup") == notes["rollup"] else None
    update = rollup.pending(events_uri, pinned.event_files, None if before is None else int(str(before)))
    replaced = update.replaced
    if replaced is None:
        replaced = {f.date for f in table_log.active_files(uri, seen)}
    if update.files or replaced:
        files = rollup.build(spark, update.files, events_uri, uri, spec, job.settings.sequence.rows_per_range)
        seen = commits.commit_files(uri, table, record.id, seen, replaced, files, notes)
    else:
        record.status = "unchanged"
    record.versions = {"events": at, "user_days": seen}
    return Pinned(record.versions, pinned.event_files, table_log.active_files(uri, seen))


def in_order(job: Job) -> bool:
    """Whether the files of `events` are promised to be in the total order."""
    return delta_tables.table_property(job.spark, job.uri("events"), schemas.ORDER_PROPERTY) == schemas.EVENT_ORDER


def snapshots_uri(job: Job) -> str:
    """Where the snapshots of these settings lie; other settings have other folders."""
    return f"{job.uri(SNAPSHOTS)}/{snapshots.identity(job.settings.sequences)}"


def snapshot_inputs(pinned: Pinned) -> str:
    """The table versions that a snapshot was made from; its rows carry them to tell what is new."""
    return f"{pinned.versions['events']}.{pinned.versions['user_days']}"


def standing_snapshot(job: Job, pinned: Pinned) -> Snapshot | None:
    """The snapshot that stands, with the files added since; None where there is none or it does not apply.

    What had arrived by a date cannot be told from it, so there is none with `known_by: ingested_at`.
    """
    uri, known_by = snapshots_uri(job), job.settings.known_by
    if (
        known_by == "ingested_at"
        or not pinned.day_files
        or not delta_tables.exists(job.spark, uri)
        or not in_order(job)
    ):
        return None
    at = delta_tables.version(job.spark, uri)
    files = table_log.active_files(uri, at)
    dates = {f.date for f in files}
    if len(dates) != 1:
        return None
    (as_of,) = dates
    (made_from,) = table_log.inputs_at(uri, at, as_of)
    try:
        events, days = (
            table_log.active_files(job.uri(name), int(version))
            for name, version in zip(("events", "user_days"), str(made_from).split("."), strict=True)
        )
    except DeltaError:  # the log of that version is gone
        return None
    return Snapshot.since(as_of, files, (events, pinned.event_files), (days, pinned.day_files))
