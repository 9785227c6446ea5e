"""Scores of an as-of date in; out come the reasons of each member's chance to move."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core.errors import DateError
from features.storage import commits, delta_tables, schemas, table_log
from features.storage.failures import source_errors
from jobs.running.command import main, parser
from jobs.running.job import Job, Run, reconcile
from jobs.steps.reasons import reasons_of_sample, sample_of
from jobs.steps.reports import is_evaluated, write_forecast
from training.bundles.bundle_folder import read_manifest
from training.bundles.manifest import check_fits
from training.reasons.attributions import Averages
from training.spark.explanations import explained

ARGUMENTS = parser(
    "explain_scores",
    reads="scores and sequences of the as-of date, and the bundle that gave the scores.",
    writes="score_reasons, in place of those of the date; reports/AS_OF.html unless it is evaluated; runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01 --where 'p_upgrade > 0.3'",
    as_of="required",
)
ARGUMENTS.add_argument("--where", metavar="SQL", help="only members whose row of scores meets this condition")


def run(job: Job) -> None:
    """Explain each date that is not explained already."""
    for date in job.as_of:
        with job.run("explain_scores", date) as record:
            explain_scores(job, record, date, getattr(job.options, "where", None))


def explain_scores(job: Job, record: Run, date: dt.date, where: str | None) -> None:
    """Write the reasons of one as-of date in one commit, and the report of a date whose outcomes are not known yet."""
    settings, uri = job.settings, job.uri("score_reasons")
    record.versions = {name: delta_tables.version(job.spark, job.existing(name)) for name in ("scores", "sequences")}
    scores = _of_date(job, record, "scores", date, "score_users")
    sequences = _of_date(job, record, "sequences", date, "build_sequences")
    (version, of_scores), *_ = scores.select("model_version", "inputs_id").distinct().collect()
    _check_sequences(job, record, date, of_scores)
    manifest = read_manifest(settings.storage.models, version)
    check_fits(manifest, settings.contract, settings.scoring.outputs)
    record.model_version = version
    delta_tables.ensure(job.spark, uri, schemas.SCORE_REASONS)
    seen = delta_tables.version(job.spark, uri)
    # Spark keeps the first 32 characters of a text as its bounds: one fingerprint fits.
    inputs = table_log.fingerprint(of_scores, settings.explanation.model_dump(), where)
    if table_log.inputs_at(uri, seen, date) == {inputs}:
        record.status = "unchanged"
        return
    with source_errors("--where"):
        chosen = scores.where(where or "true").select("user_id").cache()
        members = chosen.count()
    if not members:
        raise DateError(f"no member scored as of {date} meets --where {where!r}")
    some = sample_of(job, manifest, sequences)
    averages = Averages.of(some, manifest, settings.explanation)
    rows = sequences.join(chosen, "user_id", "left_semi")
    rows = rows.repartition(job.spark.sparkContext.defaultParallelism, "user_id")
    reasons = explained(rows, settings.storage.models, manifest, averages, settings.explanation).withColumns(
        {"as_of_date": f.lit(date), "model_version": f.lit(version), "inputs_id": f.lit(inputs)}
    )
    record.versions["score_reasons"] = commits.commit(
        reasons, uri, schemas.SCORE_REASONS, record.id, seen, delta_tables.date_is("as_of_date", date)
    )
    written = delta_tables.read(job.spark, uri, record.versions["score_reasons"]).where(
        delta_tables.date_is("as_of_date", date)
    )
    record.counts = {"members": written.select("user_id").distinct().count(), "rows": written.count()}
    reconcile(f"members explained as of {date}", members, record.counts["members"])
    if not is_evaluated(job, date):
        write_forecast(job, manifest, scores, date, reasons_of_sample(job, manifest, some))


def _of_date(job: Job, record: Run, table: str, date: dt.date, writer: str) -> DataFrame:
    rows = delta_tables.read(job.spark, job.uri(table), record.versions[table]).where(
        delta_tables.date_is("as_of_date", date)
    )
    if rows.isEmpty():
        raise DateError(f"there are no {table} as of {date} to explain: run {writer} for it first")
    return rows


def _check_sequences(job: Job, record: Run, date: dt.date, of_scores: str) -> None:
    """Reasons must be those of the rows that were scored."""
    found = table_log.inputs_at(job.uri("sequences"), record.versions["sequences"], date)
    if {table_log.fingerprint(inputs) for inputs in found} != {of_scores.partition(".")[0]}:
        raise DateError(
            f"the sequences as of {date} are not those that were scored, because events came in or settings changed: "
            "run build_sequences and score_users for it again"
        )


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
