"""What a bundle looks at on an as-of date, found on a sample of members: for averages, and for the report."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from features.building.pass_plan import SEQUENCES
from features.storage import delta_tables
from jobs.steps.members import sequences_of
from training.bundles.manifest import Manifest
from training.inputs.column_names import OUTCOME_RANK, required_columns
from training.reasons.importance import Overall
from training.spark.explanations import overall, sample

if TYPE_CHECKING:
    from jobs.running.job import Job


def sample_of(job: Job, manifest: Manifest, sequences: DataFrame, *further: str) -> pa.Table:
    """The contract's columns, and further ones, of as many members as the settings say; no ids."""
    columns = [*required_columns(manifest.contract), *further]
    return sample(sequences, job.settings.explanation.sample_members).select(*columns).toArrow()


def reasons_of_sample(job: Job, manifest: Manifest, rows: pa.Table) -> Overall:
    """What the network looks at for these members; with outcomes among the columns, what is lost without it too."""
    known = rows[OUTCOME_RANK].to_numpy().astype(np.int64) if OUTCOME_RANK in rows.column_names else None
    settings = job.settings
    return overall(job.spark, rows, known, settings.storage.models, manifest, settings.explanation, settings.scoring)


def reasons_with_losses(job: Job, manifest: Manifest, date: dt.date) -> Overall | None:
    """What the network looks at for members whose outcome is known; None where sequences are missing or stale."""
    uri, of_date = job.uri(SEQUENCES), delta_tables.date_is("as_of_date", date)
    seen = sequences_of(job, date).version
    if seen is None:
        return None
    outcomes = delta_tables.read(job.spark, job.uri("outcomes")).where(of_date).select("user_id", OUTCOME_RANK)
    known = delta_tables.read(job.spark, uri, seen).where(of_date).join(outcomes, "user_id")
    return reasons_of_sample(job, manifest, sample_of(job, manifest, known, OUTCOME_RANK))
