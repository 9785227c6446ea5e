"""Many as-of dates: plan what is missing or stale and why, then build it in few passes, a commit for each date."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from features.building.pass_plan import OUTCOMES, SEQUENCES
from features.core.date_ranges import DateRange, expand
from features.core.errors import BackfillError, SettingsError, TiercastError
from features.storage import delta_tables, table_log
from jobs.running.command import main, parser
from jobs.running.job import Job, Run, reconcile
from jobs.steps import as_of_tables, pinned_inputs, scores

SCORES = "scores"
KINDS = (SEQUENCES, OUTCOMES, SCORES)

ARGUMENTS = parser(
    "backfill",
    reads="events, user_days, and for scores the bundle named by `scoring.model_version`.",
    writes="user_days where it is stale, sequences, outcomes, scores, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --from 2017-03-01 --to 2017-09-01 --every 1w",
    as_of=None,
)
ARGUMENTS.add_argument("--from", dest="first", required=True, metavar="DATE", help="first as-of date")
ARGUMENTS.add_argument("--to", dest="last", required=True, metavar="DATE", help="no as-of date after this one")
ARGUMENTS.add_argument("--every", default="1d", metavar="STEP", help="1d, 1w, 1mo; 1d by default")
ARGUMENTS.add_argument(
    "--only", type=lambda text: text.split(","), default=list(KINDS), metavar="KINDS", help=f"of {','.join(KINDS)}"
)
ARGUMENTS.add_argument(
    "--max-parallel", type=int, metavar="N", help="dates that one pass answers; sequence.dates_per_pass"
)
ARGUMENTS.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")


@dataclasses.dataclass(frozen=True)
class Step:
    """One kind and date of the plan; without a reason it stands already."""

    kind: str
    date: dt.date
    reason: str | None


def run(job: Job) -> None:
    """Print the plan; unless it is a dry run, carry it out and say what failed."""
    dates, kinds = _asked(job)
    per_pass = job.options.max_parallel or job.settings.sequence.dates_per_pass
    pinned = pinned_inputs.pin_events(job)
    steps = [step for kind in kinds for step in _plan(job, pinned, kind, dates)]
    job.say(describe(job, pinned, steps, per_pass))
    if job.options.dry_run:
        return
    failures: dict[tuple[str, dt.date], str] = {}

    def failed(kind: str, date: dt.date, error: TiercastError) -> None:
        failures[kind, date] = str(error)

    built = [(s.kind, s.date) for s in steps if s.kind != SCORES]
    if built:
        as_of_tables.write(job, pinned_inputs.update_user_days(job), built, per_pass, failed)
    if SCORES in kinds:
        scores.write_tiers(job)
    for date in dates if SCORES in kinds else []:
        if (SEQUENCES, date) in failures:
            failed(SCORES, date, BackfillError("its sequences could not be written"))
        else:
            _score(job, date, failed)
    for date in dates:
        with job.run("reconcile", date) as record:
            _reconcile(job, record, date, [k for k in kinds if (k, date) not in failures])
    _conclude(job, steps, failures)


def _asked(job: Job) -> tuple[list[dt.date], list[str]]:
    options = job.options
    try:
        dates = expand(DateRange.model_validate({"from": options.first, "to": options.last, "every": options.every}))
    except ValidationError as error:
        raise SettingsError(
            [f"--{'.'.join(map(str, e['loc'])) or 'from'}: {e['msg']}" for e in error.errors()]
        ) from None
    unknown = [k for k in options.only if k not in KINDS]
    if unknown:
        raise SettingsError([f"--only: {unknown} are none of {', '.join(KINDS)}"])
    if options.max_parallel is not None and options.max_parallel < 1:
        raise SettingsError([f"--max-parallel: {options.max_parallel} must be at least 1"])
    return list(dates), [k for k in KINDS if k in options.only]


def _plan(job: Job, pinned: pinned_inputs.Pinned, kind: str, dates: Sequence[dt.date]) -> list[Step]:
    if kind == SCORES:
        return [Step(kind, d, scores.reason(job, d, as_of_tables.inputs_of(job, pinned, SEQUENCES, d))) for d in dates]
    return [Step(kind, d, as_of_tables.plan(job, pinned, kind, d).reason) for d in dates]


def describe(job: Job, pinned: pinned_inputs.Pinned, steps: Sequence[Step], per_pass: int) -> list[str]:
    """The plan in lines: per kind and reason the dates, the passes over the events, and what they may cost."""
    lines = ["", f"plan, on events version {pinned.versions['events']}"]
    for kind in dict.fromkeys(s.kind for s in steps):
        for reason in dict.fromkeys(s.reason for s in steps if s.kind == kind):
            dates = [s.date for s in steps if (s.kind, s.reason) == (kind, reason)]
            span = f"{dates[0]}" if len(dates) == 1 else f"{dates[0]} .. {dates[-1]}"
            lines.append(f"  {kind:<10} {reason or 'stand already':<17} {len(dates):>5} dates  {span}")
    built = [s for s in steps if s.reason and s.kind != SCORES]
    count, rows = -(-len(built) // per_pass), sum(f.rows for f in pinned.event_files)
    cost = _cost(job, count, rows)
    return [*lines, f"  {count} passes over {rows:,} events, each for up to {per_pass} dates and kinds{cost}"]


def _cost(job: Job, count: int, rows: int) -> str:
    """What the passes may take, from what earlier ones took."""
    if not count or not delta_tables.exists(job.spark, job.uri("runs")):
        return ""
    past = delta_tables.read(job.spark, job.uri("runs")).where("job = 'read_events' AND status = 'written'")
    per_row = delta_tables.scalar(past.selectExpr("sum(seconds) / nullif(sum(counts['rows']), 0)"))
    return "" if per_row is None else f"; about {count * rows * per_row:,.0f} s, by the speed of earlier ones"


def _score(job: Job, date: dt.date, failed: as_of_tables.Failed) -> None:
    with as_of_tables.told(failed, SCORES, date), job.run("score_users", date) as record:
        scores.score_users(job, record, date)


def _reconcile(job: Job, record: Run, date: dt.date, kinds: Sequence[str]) -> None:
    """Every table of a date has a row for each user known at it."""
    for kind in kinds:
        uri = job.uri(kind)
        files = table_log.active_files(uri, delta_tables.version(job.spark, uri))
        record.counts[kind] = table_log.rows_by_date(files).get(date, 0)
    for kind, rows in record.counts.items():
        reconcile(f"{kind} as of {date}", record.counts[kinds[0]], rows)


def _conclude(job: Job, steps: Sequence[Step], failures: dict[tuple[str, dt.date], str]) -> None:
    stood = sum(s.reason is None for s in steps)
    written = len(steps) - stood - len(failures)
    job.say(["", f"backfill: {written} written, {stood} stood already, {len(failures)} failed"])
    if failures:
        lines = [f"  - {kind} as of {date}: {said}" for (kind, date), said in sorted(failures.items())]
        raise BackfillError("\n".join([f"{len(failures)} of {len(steps)} failed; the others are written:", *lines]))


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
