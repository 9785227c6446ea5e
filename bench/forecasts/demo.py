"""Shared by the benches on the demo's data: its settings, their options, and copies of its tables."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence

from features.spark.session import open_session
from jobs.running.job import Job
from jobs.running.settings import Settings

CONFIGS = ["conf/complete_journey.yaml", "conf/local.yaml"]


def options(description: str | None, root: str) -> argparse.ArgumentParser:
    """A parser of `--demo`, the storage root of the demo, and `--root`, the storage root of the bench."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--demo", default="build/demo", help="storage root of the demo")
    found.add_argument("--root", default=root, help="storage root of the bench")
    return found


def job_of(settings: Settings) -> Job:
    """A job of these settings, without arguments, in the session of the process."""
    spark = open_session(settings.spark.app_name, settings.spark.master, settings.spark.options)
    return Job(settings, spark, argparse.Namespace(as_of=None))


def copy_tables(demo: str, root: str, names: Sequence[str] | None = None) -> None:
    """Copy the demo's tables, or some of them, to another root, and replace those that are there."""
    for name in os.listdir(f"{demo}/tables") if names is None else names:
        shutil.rmtree(f"{root}/tables/{name}", ignore_errors=True)  # two Delta logs in one folder are no table
        shutil.copytree(f"{demo}/tables/{name}", f"{root}/tables/{name}")
