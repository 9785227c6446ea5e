"""Measures calls: wall time, CPU time of the whole process tree, and peak memory of each process."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil

_EVERY_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one call: `wall` and `cpu` seconds, `peaks` in MB of memory by kind of process."""

    wall: float
    cpu: float
    peaks: Mapping[str, float]


def measure(call: Callable[[], object]) -> Cost:
    """Run a call and measure this process and its children; CPU of children that end meanwhile is not counted."""
    tree, peaks, ended = _Tree(), dict[str, float](), threading.Event()
    watcher = threading.Thread(target=_watch, args=(tree, peaks, ended))
    before, start = tree.cpu(), time.perf_counter()
    watcher.start()
    try:
        call()
    finally:
        wall, cpu = time.perf_counter() - start, tree.cpu() - before
        ended.set()
        watcher.join()
    return Cost(wall, cpu, peaks)


def alternate(calls: Mapping[str, Callable[[], object]], runs: int, warm: int = 1) -> dict[str, Cost]:
    """Median costs of several calls, run in turns so that a slow moment of the machine affects all of them."""
    found: dict[str, list[Cost]] = {name: [] for name in calls}
    for turn in range(warm + runs):
        for name, call in calls.items():
            cost = measure(call)
            if turn >= warm:
                found[name].append(cost)
    return {name: median(costs) for name, costs in found.items()}


def median(costs: Sequence[Cost]) -> Cost:
    """Median of each figure, and the highest peak of each kind of process."""
    kinds = {kind for cost in costs for kind in cost.peaks}
    return Cost(
        statistics.median(c.wall for c in costs),
        statistics.median(c.cpu for c in costs),
        {kind: max(c.peaks.get(kind, 0) for c in costs) for kind in kinds},
    )


class _Tree:
    """This process and its children; for dead children the last figures seen count."""

    def __init__(self) -> None:
        self._root, self._seen = psutil.Process(), dict[int, float]()

    def processes(self) -> Iterator[psutil.Process]:
        yield self._root
        with contextlib.suppress(psutil.Error):
            yield from self._root.children(recursive=True)

    def cpu(self) -> float:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid] = times.user + times.system
        return sum(self._seen.values())


def _watch(tree: _Tree, peaks: dict[str, float], ended: threading.Event) -> None:
    while not ended.wait(_EVERY_SECONDS):
        tree.cpu()
        for process in tree.processes():
            with contextlib.suppress(psutil.Error):
                kind = _kind(process)
                peaks[kind] = max(peaks.get(kind, 0.0), process.memory_info().rss / 1e6)


def _kind(process: psutil.Process) -> str:
    name = process.name()
    if name.startswith("java"):
        return "JVM"
    return "this process" if process.pid == psutil.Process().pid else "worker"
