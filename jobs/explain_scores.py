"""Scores of an as-of date in; out come the reasons of each member's chance to move."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.core.errors import DateError
from features.storage import delta_tables, schemas, table_log
from features.storage.failures import source_errors
from jobs.running.command import main, parser
from jobs.running.job import Job, Run
from jobs.steps import dated_output
from jobs.steps.bundles import scoring_bundle
from jobs.steps.dated_output import Built, DatedOutput
from jobs.steps.reasons import reasons_of_sample, sample_of
from jobs.steps.reports import is_evaluated, write_forecast
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


@dataclasses.dataclass(frozen=True)
class Explained(Built):
    """Reasons, and the sample of members that their averages and the report stand on."""

    sample: pa.Table = dataclasses.field(kw_only=True)


def run(job: Job) -> None:
    """Explain each date that is not explained already."""
    for date in job.as_of:
        with job.run("explain_scores", date) as record:
            explain_scores(job, record, date, getattr(job.options, "where", None))


def explain_scores(job: Job, record: Run, date: dt.date, where: str | None) -> None:
    """Write the reasons of one as-of date in one commit, and the report of a date whose outcomes are not known yet."""
    record.versions = {name: delta_tables.version(job.spark, job.existing(name)) for name in ("scores", "sequences")}
    scores = _of_date(job, record, "scores", date, "score_users")
    sequences = _of_date(job, record, "sequences", date, "build_sequences")
    (version, of_scores), *_ = scores.select("model_version", "inputs_id").distinct().collect()
    _check_sequences(job, record, date, of_scores)
    manifest, explanation = scoring_bundle(job, version), job.settings.explanation
    record.model_version = version
    # Spark keeps the first 32 characters of a text as its bounds: one fingerprint fits.
    inputs = table_log.fingerprint(of_scores, explanation.model_dump(), where)

    def build() -> Explained:
        chosen, count = _chosen(scores, date, where)
        some = sample_of(job, manifest, sequences)
        rows = sequences.join(chosen, "user_id", "left_semi")
        rows = rows.repartition(job.spark.sparkContext.defaultParallelism, "user_id")
        averages = Averages.of(some, manifest, explanation)
        reasons = explained(rows, job.settings.storage.models, manifest, averages, explanation).withColumns(
            {"as_of_date": f.lit(date), "model_version": f.lit(version), "inputs_id": f.lit(inputs)}
        )
        return Explained(reasons, count, sample=some)

    output = DatedOutput(schemas.SCORE_REASONS, job.uri("score_reasons"), date, inputs)
    built = dated_output.write(job, record, output, build)
    if built is not None and not is_evaluated(job, date):
        write_forecast(job, manifest, scores, date, reasons_of_sample(job, manifest, built.sample))


def _chosen(scores: DataFrame, date: dt.date, where: str | None) -> tuple[DataFrame, int]:
    """The ids of the members to explain, and how many they are; DateError where there are none."""
    with source_errors("--where"):
        chosen = scores.where(where or "true").select("user_id").cache()
        count = chosen.count()
    if not count:
        raise DateError(f"no member scored as of {date} meets --where {where!r}")
    return chosen, count


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
