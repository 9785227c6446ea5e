"""Runs Horovod's ranks in Spark's barrier tasks, and reports the error of the rank that failed."""

from __future__ import annotations

import collections
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from features.core.errors import RankFailedError
from training.fitting.plan import Plan
from training.fitting.progress import ProgressBar
from training.fitting.ranks import QUIET_TENSORFLOW
from training.settings.fitting import TrainingSettings

_RANK_ENVIRONMENT = {
    **QUIET_TENSORFLOW,
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_NOTE = "TIERCAST-RANK-ERROR "
"""Starts the line by which a rank tells the driver its error, as JSON."""


def run_ranks(spark: SparkSession, plan: Plan, progress: bool = False) -> dict[str, Any]:
    """Run `training.fitting.loop.train` in as many ranks as the plan says; the first rank's answer.

    Raises:
        RankFailedError: a rank failed, died, or found no task slot in time. No process is left behind.
    """
    import horovod.spark

    settings = plan.settings
    output = RankOutput()
    began = time.monotonic()
    try:
        with ProgressBar(plan.progress_uri, progress), _quiet_spark_thread():
            results = horovod.spark.run(
                rank_entry(import_paths(spark)),
                args=(plan.to_json(),),
                num_proc=settings.ranks,
                start_timeout=settings.start_timeout_seconds,
                use_gloo=True,
                env=dict(_RANK_ENVIRONMENT),
                stdout=output,
                stderr=output,
                verbose=0,
                nics=set(settings.network_interfaces) if settings.network_interfaces else None,
            )
    except Exception as error:  # Horovod raises bare RuntimeError, Exception and its own classes
        raise RankFailedError(output.explain(error, settings, time.monotonic() - began)) from error
    return dict(results[0])


def import_paths(spark: SparkSession) -> list[str]:
    """Where a rank may find this package: the driver's own folder, and the archives shipped by --py-files.

    Spark puts the archives on the path of its own Python workers, and ranks are processes that those start.
    """
    shipped = [name for name in getattr(spark.sparkContext, "_python_includes", [])]
    return [str(Path(__file__).resolve().parents[2]), *shipped]


def rank_entry(paths: list[str]) -> Callable[[str], dict[str, Any]]:
    """What each rank runs. It travels by value, so that it can set the import path before this package is imported."""
    note = _NOTE

    def run(plan_json: str) -> dict[str, Any]:
        import json
        import os
        import sys
        import time
        import traceback

        try:
            work = os.environ.get("HOROVOD_SPARK_WORK_DIR", os.getcwd())
            sys.path[:0] = [p if os.path.isabs(p) else os.path.join(work, p) for p in paths]
            from training.fitting.loop import train
            from training.fitting.plan import Plan

            return train(Plan.from_json(plan_json))
        except BaseException as error:
            own = {
                "rank": int(os.environ.get("HOROVOD_RANK", -1)),
                "time": time.time(),
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
            sys.stderr.write(f"\n{note}{json.dumps(own)}\n")
            sys.stderr.flush()
            raise

    return run


class RankOutput:
    """A text stream that takes what all ranks print, and keeps their errors and the last lines of the rest."""

    def __init__(self) -> None:
        # One thread per rank and stream writes here, and a piece of text may end within a line.
        self._pending: dict[int, str] = {}
        self._errors: list[dict[str, Any]] = []
        self._lines: collections.deque[str] = collections.deque(maxlen=50)

    def write(self, text: str) -> int:
        """Take any piece of text."""
        thread = threading.get_ident()
        *lines, self._pending[thread] = (self._pending.get(thread, "") + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered beyond the line."""

    def explain(self, error: Exception, settings: TrainingSettings, seconds: float) -> str:
        """The message of a failed run: the first rank's own error, or what is known if a rank died without a word."""
        own = [e for e in self._errors if e["type"] != "HorovodInternalError"] or self._errors
        if own:
            first = min(own, key=lambda e: float(e["time"]))
            return (
                f"rank {first['rank']} of {settings.ranks} failed: {first['type']}: {first['message']}\n"
                f"{first['traceback']}"
            )
        if "Timed out waiting" in str(error):
            return (
                f"the {settings.ranks} ranks did not start within {settings.start_timeout_seconds} s: each needs a "
                "free task slot at the same time; give Spark that many cores, or lower training.ranks"
            )
        last = "\n".join(self._lines)
        return (
            f"a rank died after {seconds:.0f} s without an error of its own (killed, or out of memory); start the job "
            f"again, it goes on from the last epoch\n{last}".rstrip()
        )

    def _take(self, line: str) -> None:
        _, mark, note = line.partition(_NOTE)
        if not mark:
            if line.strip():
                self._lines.append(line)
            return
        with contextlib.suppress(ValueError):  # cut off when the rank died
            self._errors.append(json.loads(note))


@contextlib.contextmanager
def _quiet_spark_thread() -> Iterator[None]:
    """Keep the stack trace of Horovod's own Spark thread off the terminal: the error is raised here anyway."""
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or "run_spark" not in args.thread.name:
            previous(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
