"""The command line of a job: arguments, one Spark session, errors as exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from pyspark.sql import SparkSession

from features.core.date_ranges import dates
from features.core.errors import TiercastError
from features.spark.session import open_session
from features.storage.failures import failure_in_words
from jobs.running.job import Job, log
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from training.fitting.ranks import quiet_tensorflow


def parser(name: str, reads: str, writes: str, example: str, as_of: str | None) -> argparse.ArgumentParser:
    """The command line of a job.

    Args:
        name: the job's module.
        reads: what it reads, for --help.
        writes: what it writes.
        example: arguments of one example.
        as_of: `required`, `optional`, or None for a job without dates.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}",
        description=f"Reads {reads}\nWrites {writes}",
        epilog=f"example:\n  python -m jobs.{name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config", action="append", required=True, metavar="YAML", help="settings; repeatable, last wins"
    )
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    if as_of:
        made.add_argument(
            "--as-of", type=dates, required=as_of == "required", metavar="DATE",
            help="as-of date, or a range FROM..TO, FROM..TO/1w, FROM..TO/1mo",
        )  # fmt: skip
    return made


def main(arguments: argparse.ArgumentParser, body: Callable[[Job], None], argv: Sequence[str] | None = None) -> int:
    """Run a job in a Spark session and return its exit code: 0 done, 2 the user's mistake, 1 a failure."""

    def work(options: argparse.Namespace) -> None:
        settings = load(options.config, options.set)
        body(Job(settings, _session(settings), options))

    return _exit_code(arguments, work, argv)


def print_page(
    arguments: argparse.ArgumentParser, page: Callable[[argparse.Namespace], str], argv: Sequence[str] | None = None
) -> int:
    """Print what a job without Spark writes, and return its exit code; see `main`."""
    return _exit_code(arguments, lambda options: sys.stdout.write(page(options)), argv)


def _exit_code(
    arguments: argparse.ArgumentParser, work: Callable[[argparse.Namespace], object], argv: Sequence[str] | None
) -> int:
    options = arguments.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    quiet_tensorflow()  # ranks and workers inherit it
    try:
        work(options)
    except KeyboardInterrupt:
        log.error("interrupted; run the same command again to go on")
        return 130
    except TiercastError as error:
        log.error("%s: %s", arguments.prog, error)
        return error.exit_code
    except Exception as error:
        known = failure_in_words(error)
        if known is None:
            log.exception("%s failed", arguments.prog)
            return 1
        log.error("%s: %s", arguments.prog, known)
        return known.exit_code
    return 0


def _session(settings: Settings) -> SparkSession:
    return open_session(settings.spark.app_name, settings.spark.master, settings.spark.options)
