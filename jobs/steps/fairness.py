"""Whether a forecast serves groups of members alike: groups of the settings' tables beside evaluated members."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core.errors import SourceError
from features.ingest.groups import read_groups
from features.ingest.pseudonyms import check_key, key_from_environment
from features.storage import delta_tables, schemas
from features.storage.failures import source_errors
from jobs.running.job import Job, Run
from jobs.steps.dated_output import replace_rows, rows_of_model
from training.bundles.manifest import Manifest
from training.evaluation import fairness
from training.evaluation.fairness import Fairness
from training.spark.driver_rows import Forecasts


def groups_of_users(job: Job) -> DataFrame | None:
    """Groups by pseudonym, not yet read; None where the settings name none.

    Raises:
        SourceError: a table cannot be read, or the query or its columns are wrong.
        PseudonymKeyError: the key is missing, or not that of the events.
    """
    groups = job.settings.fairness.groups
    if groups is None:
        return None
    key = key_from_environment(job.settings.pseudonyms.key_variable)
    events = job.uri("events")
    if delta_tables.exists(job.spark, events):
        check_key(key, delta_tables.table_property(job.spark, events, "tiercast.key_check"), events)
    return read_groups(job.spark, groups, key)


def assess_groups(
    job: Job, record: Run, manifest: Manifest, date: dt.date, forecasts: Forecasts, groups: DataFrame
) -> Fairness:
    """Compare the groups of the evaluated members and keep the figures; a refusal becomes the record's status.

    Raises:
        SourceError: a user has two rows of groups, or no user of the table is evaluated.
    """
    rows = _of_members(job, forecasts, groups)
    place = pc.index_in(pa.array(forecasts.users), rows["user_id"].combine_chunks())
    if place.null_count == len(place):
        raise SourceError(
            f"no user of fairness.groups is among the {len(place):,} members evaluated as of {date}: its query must "
            "give the same user_id as the source's query"
        )
    found = rows.take(place)
    attributes = {name: _words(found[name]) for name in rows.column_names if name != "user_id"}
    known = place.is_valid().to_numpy(zero_copy_only=False)
    assessed = fairness.assess(
        forecasts.probabilities,
        forecasts.current_rank,
        forecasts.outcome_rank,
        attributes,
        known,
        job.settings.fairness,
    )
    figures = [(manifest.version, *row, record.now, date) for row in _rows(assessed)]
    replace_rows(job, record, schemas.FAIRNESS, figures, rows_of_model(date, manifest.version))
    record.counts["members_in_groups"] = assessed.known
    if reasons := assessed.reasons():
        record.status, record.message = "refused", "; ".join(reasons)
    else:
        record.message = "; ".join(assessed.warnings()) or None
    return assessed


def _of_members(job: Job, forecasts: Forecasts, groups: DataFrame) -> pa.Table:
    """The groups' rows of the evaluated members: no more than `evaluation.max_users`, as they are."""
    members = job.spark.createDataFrame(pa.table({"user_id": pa.array(forecasts.users, pa.string())}))
    with source_errors("fairness.groups"):
        rows = groups.join(f.broadcast(members), "user_id", "left_semi").toArrow()
    twice = rows.num_rows - len(pc.unique(rows["user_id"]))
    if twice:
        raise SourceError(f"fairness.groups.query gives {twice:,} users more than one row: give each user one")
    return rows


def _words(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), object)


def _rows(assessed: Fairness) -> Iterator[tuple[object, ...]]:
    for g in assessed.groups:
        for measure, figure in g.figures.items():
            yield g.attribute, g.name, measure, g.members, figure.value, figure.low, figure.high, None, None
    for d in assessed.disparities:
        yield d.attribute, None, d.measure, None, d.difference, None, None, d.chance, d.level
