"""What every job shares: the command line, one Spark session, a record in `runs`, errors as exit codes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import logging
import sys
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar, cast

from pyspark.sql import SparkSession

from features.core.errors import DateError, ReconciliationError
from features.storage import commits, delta_tables, schemas
from features.storage.failures import failure_in_words
from jobs.running.settings import Settings

log = logging.getLogger("tiercast")

T = TypeVar("T")

_WRITTEN_BY = {
    "events": "ingest_events",
    "events_rejected": "ingest_events",
    "user_days": "build_sequences",
    "sequences": "build_sequences",
    "outcomes": "build_outcomes",
    "scores": "score_users",
    "drift": "score_users",
    "score_reasons": "explain_scores",
    "embeddings": "embed_users",
    "tiers": "score_users",
    "evaluations": "evaluate_model",
    "fairness": "evaluate_model",
    "cross_validations": "cross_validate",
    "runs": "any job",
}


@dataclasses.dataclass
class Run:
    """One run of one job for one as-of date; becomes a row of `runs`.

    Attributes:
        id: random identity, kept in the commits too.
        job: the job's name.
        as_of: its date, or None.
        now: the run's clock, UTC.
        status: `written`, `unchanged` where everything stood already, `refused` or `failed`.
        message: why it was refused or failed, or a warning.
        versions: Delta version of each table read or written.
        counts: reconciled row counts.
        model_version: bundle trained, evaluated or used.
    """

    job: str
    as_of: dt.date | None
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    now: dt.datetime = dataclasses.field(default_factory=lambda: dt.datetime.now(dt.UTC))
    status: str = "written"
    message: str | None = None
    versions: dict[str, int] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    model_version: str | None = None


@dataclasses.dataclass
class Job:
    """An open job: settings, session, dates."""

    settings: Settings
    spark: SparkSession
    options: argparse.Namespace
    _kept: dict[Hashable, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def uri(self, table: str) -> str:
        """Where a table lies."""
        return self.settings.storage.table(table)

    @property
    def as_of(self) -> list[dt.date]:
        """The as-of dates asked for."""
        return list(self.options.as_of or [])

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Cached result of `make` for this run; a job that runs another one starts it with nothing cached."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    def existing(self, table: str) -> str:
        """Where a table lies; DateError, naming the job to run first, if it is not there."""
        if not delta_tables.exists(self.spark, self.uri(table)):
            raise DateError(f"there is no table {table} at {self.uri(table)}: run {_WRITTEN_BY[table]} first")
        return self.uri(table)

    def rows_per_table(self) -> dict[str, int]:
        """Rows of each table that exists, from events to runs."""
        there = [name for name in _WRITTEN_BY if delta_tables.exists(self.spark, self.uri(name))]
        return {name: delta_tables.row_count(self.uri(name)) for name in there}

    def run_for(self, body: Callable[[Job], None], dates: Sequence[dt.date]) -> None:
        """Run another job's body in this session for other dates."""
        options = argparse.Namespace(**{**vars(self.options), "as_of": list(dates)})
        body(dataclasses.replace(self, options=options))

    def say(self, lines: Sequence[str]) -> None:
        """Tell the person at the terminal; logs go to stderr, results to stdout."""
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()

    @contextlib.contextmanager
    def run(self, job: str, as_of: dt.date | None, only_failures: bool = False) -> Iterator[Run]:
        """Record what happens inside as a row of `runs`; with `only_failures` only what fails."""
        run, started = Run(job, as_of), time.monotonic()
        try:
            yield run
        except Exception as error:
            run.status, run.message = "failed", _in_words(error)
            with contextlib.suppress(Exception):  # the failure itself matters more than its record
                self._record(run, time.monotonic() - started)
            raise
        if only_failures:
            return
        self._record(run, time.monotonic() - started)
        log.info("%s", _line(run, time.monotonic() - started))

    def _record(self, run: Run, seconds: float) -> None:
        uri = self.uri("runs")
        delta_tables.ensure(self.spark, uri, schemas.RUNS)
        values = (
            run.id, run.job, run.as_of, run.status, run.message, run.now, seconds, list(run.versions.items()),
            list(run.counts.items()), run.model_version, self.settings.hash,
        )  # fmt: skip
        commits.append(uri, schemas.RUNS, [dict(zip(schemas.RUNS.columns, values, strict=True))])


def _in_words(error: Exception) -> str:
    """What `runs` keeps of a failure. An unknown error may quote raw values, so only its kind is kept."""
    known = failure_in_words(error)
    return str(known)[:2000] if known is not None else f"{type(error).__name__}: see the log of the job"


def reconcile(what: str, expected: int, found: int) -> int:
    """The row count that two sides agree on; raises ReconciliationError where they do not."""
    if expected != found:
        raise ReconciliationError(f"{what}: {found} rows written, {expected} expected")
    return found


def _line(run: Run, seconds: float) -> str:
    date = f" as of {run.as_of}" if run.as_of else ""
    counts = ", ".join(f"{name} {n:,}" for name, n in run.counts.items())
    warned = f"; {run.message}" if run.message and run.status == "written" else ""
    return f"{run.job}{date}: {run.status} in {seconds:.1f} s" + (f" ({counts})" if counts else "") + warned
