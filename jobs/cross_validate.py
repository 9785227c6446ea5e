"""Sequences and outcomes of earlier and earlier dates in; the network and its rivals over rolling folds out."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence

from features.building.pass_plan import OUTCOMES, SEQUENCES
from features.core import places
from features.storage import schemas
from jobs.running.command import main, parser
from jobs.running.job import Job, Run
from jobs.steps import as_of_tables, pinned_inputs
from jobs.steps.dated_output import replace_rows, rows_of_model
from jobs.steps.evaluation import evaluated, keep
from jobs.steps.training import train
from training.evaluation import folds
from training.evaluation.bootstrap import Intervals
from training.evaluation.folds import Fold, Judgement, Spread
from training.report import folds_page
from training.settings.fitting import TrainingSettings
from training.settings.judging import FoldSettings

ARGUMENTS = parser(
    "cross_validate",
    reads="events; sequences and outcomes of the dates of all folds.",
    writes="sequences and outcomes that are missing, bundles that are never published, evaluations, "
    "cross_validations, reports/folds-AS_OF.md, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --folds 4",
    as_of=None,
)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folds, 1 or more")
    return int(text)


ARGUMENTS.add_argument("--folds", type=_count, metavar="N", help="how many; as in evaluation.folds if left out")


def run(job: Job) -> None:
    """Show the folds and what they say together."""
    job.say(cross_validate(job))


def cross_validate(job: Job) -> list[str]:
    """Check that all folds can be answered, then train and evaluate one after the other; the page, in Markdown.

    Networks that are there from an earlier run are not trained again.
    """
    settings, evaluation = job.settings, job.settings.evaluation
    wanted = FoldSettings(count=job.options.folds or evaluation.folds.count, every=evaluation.folds.every)
    planned = folds.rolling(settings.training, evaluation.as_of, settings.horizon.days, wanted)
    with job.run("cross_validate", evaluation.as_of) as record:
        _prepare(job, planned)
        found = [_judged(job, fold) for fold in planned]
        spread = folds.spreads(found)
        intervals = folds.over_folds(found, evaluation.calibration_bins, evaluation.bootstrap_draws)
        record.model_version = found[0].version
        record.counts = {"folds": len(found), "rows": sum(one.comparison.model.rows for one in found)}
        _keep(job, record, found, spread, intervals)
        page = folds_page.page(found, spread, intervals, settings.horizon.days)
        places.write_bytes(
            places.join(settings.storage.reports, f"folds-{evaluation.as_of}.md"), "\n".join(page).encode()
        )
    return page


def _prepare(job: Job, planned: Sequence[Fold]) -> None:
    """Sequences and outcomes of all folds, in one pass; a date that the events cannot answer stops before training."""
    pinned = pinned_inputs.update_user_days(job)
    dates = sorted({date for fold in planned for date in fold.dates})
    wanted = [(kind, date) for date in dates for kind in (SEQUENCES, OUTCOMES)]
    for kind, date in wanted:
        as_of_tables.check(job, pinned, kind, date)
    as_of_tables.write(job, pinned, wanted)


def _judged(job: Job, fold: Fold) -> Judgement:
    """Train a fold's network, or find it, and evaluate it and all rivals."""
    of_fold = _job_of(job, fold)
    with of_fold.run("train_model", fold.validation) as record:
        version = train(of_fold, record, publish=False).version
    with of_fold.run("evaluate_model", fold.evaluated) as record:
        found = evaluated(of_fold, record, version, fold.evaluated)
        keep(of_fold, record, found)
    return Judgement(fold, version, found.comparison, found.judged)


def _job_of(job: Job, fold: Fold) -> Job:
    """The same job with the dates of a fold."""
    settings = job.settings
    training = settings.training.model_dump() | {"as_of": list(fold.training), "validation_as_of": fold.validation}
    changed = {
        "training": TrainingSettings(**training),
        "evaluation": settings.evaluation.model_copy(update={"as_of": fold.evaluated}),
    }
    return dataclasses.replace(job, settings=settings.model_copy(update=changed))


def _keep(
    job: Job,
    record: Run,
    found: Sequence[Judgement],
    spread: Mapping[str, Mapping[str, Spread]],
    intervals: Mapping[str, Intervals],
) -> None:
    """Replace the rows of the network and the number of folds in `cross_validations`."""
    date, version = job.settings.evaluation.as_of, found[0].version
    days = [one.fold.evaluated for one in found]
    rows = [
        (
            version, model, figure, len(found), days, of.folds, of.mean, of.deviation, of.least, of.greatest,
            *intervals.get(model, {}).get(figure, (None, None)), record.now, date,
        )
        for model, figures in spread.items() for figure, of in figures.items()
    ]  # fmt: skip
    where = f"{rows_of_model(date, version)} AND folds = {len(found)}"
    replace_rows(job, record, schemas.CROSS_VALIDATIONS, rows, where)


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
