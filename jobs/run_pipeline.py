"""Everything for one configuration: from ingest to the scores of the dates asked for, and the evaluation."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence

from pyspark.sql import functions as f

from features.storage import delta_tables
from jobs import (
    build_outcomes,
    build_sequences,
    evaluate_model,
    explain_scores,
    ingest_events,
    score_users,
    train_model,
)
from jobs.running.command import main, parser
from jobs.running.job import Job
from jobs.steps.reports import address

ARGUMENTS = parser(
    "run_pipeline",
    reads="the source of the settings.",
    writes="all tables, a bundle, the reports of the dates scored and evaluated.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01",
    as_of="required",
)
_SAMPLE = 5


def run(job: Job) -> None:
    """Run every job, each doing only what is not done yet; end with a summary."""
    asked, settings = job.as_of, job.settings
    learned = [*settings.training.all_dates, settings.evaluation.as_of]
    scored = sorted({*asked, settings.evaluation.as_of})
    with job.run("ingest_events", None) as record:
        ingest_events.ingest_events(job, record, None, None)
    job.run_for(build_sequences.run, sorted({*learned, *scored}))
    job.run_for(build_outcomes.run, learned)
    train_model.run(job)
    job.run_for(score_users.run, scored)
    job.run_for(explain_scores.run, asked)
    job.run_for(evaluate_model.run, [settings.evaluation.as_of])
    job.say(summary(job, asked[-1]))


def summary(job: Job, date: dt.date) -> list[str]:
    """What was written where, and a few of the members who are about to move up."""
    scores = delta_tables.read(job.spark, job.uri("scores")).where(delta_tables.date_is("as_of_date", date))
    columns = ["user_id", "current_tier", "next_tier", "p_upgrade", "gap_to_next_tier", "gap_measure"]
    likely = scores.orderBy(f.desc("p_upgrade"), "user_id").limit(_SAMPLE).select(columns).toPandas()
    likely["user_id"] = likely["user_id"].str.slice(0, 8) + "..."
    likely["gap_to_next_tier"] = likely["gap_to_next_tier"].astype(float)
    return [
        "",
        "rows per table",
        *(f"  {name:<16}{rows:>12,}" for name, rows in job.rows_per_table().items()),
        "",
        f"most likely to move up, as of {date}",
        *(f"  {line}" for line in likely.to_string(index=False, float_format="{:.3f}".format).splitlines()),
        "",
        f"tables  {job.settings.storage.root}/tables",
        f"report  {address(job, job.settings.evaluation.as_of)}  (evaluated)",
        f"report  {address(job, date)}  (forecast)",
        "next    open the report; read scores with any Delta reader; change conf and run again",
    ]


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
