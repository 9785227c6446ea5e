"""The progress of a training: the first rank writes it to a small file, and the driver shows it.

Horovod hands a rank's output to the driver in pieces of 64 KiB, much too late for a progress bar.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from features.core import places
from features.core.errors import StorageError

EVERY_SECONDS = 1.0
"""Least seconds between two writes, and between two reads."""


class ProgressFile:
    """Called by the first rank with each step and epoch; writes seldom, and never fails a training."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._written = 0.0
        self._validation: float | None = None

    def step(self, done: int, steps: int, loss: float, users_per_second: float) -> None:
        """After `done` of `steps` steps with this mean training loss."""
        now = time.monotonic()
        if now - self._written < EVERY_SECONDS and done < steps:
            return
        self._written = now
        content = {
            "step": done,
            "steps": steps,
            "loss": loss,
            "users_per_second": users_per_second,
            "validation_loss": self._validation,
        }
        with contextlib.suppress(StorageError):
            places.write_bytes(self._address, json.dumps(content).encode())

    def epoch(self, entry: Mapping[str, float]) -> None:
        """After an epoch, with its entry of the history."""
        self._validation = entry["validation_loss"]


class ProgressBar:
    """While entered, shows on the terminal what the file at `address` says; silent where there is no terminal."""

    def __init__(self, address: str, shown: bool) -> None:
        self._address = address
        self._shown = shown and sys.stderr.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> ProgressBar:
        """Start to watch the file."""
        if self._shown:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the end."""
        self._ended.set()
        if self._shown:
            self._thread.join()

    def _watch(self) -> None:
        from tqdm import tqdm

        with tqdm(desc="train", unit="step", file=sys.stderr, leave=True) as bar:
            while not self._ended.wait(EVERY_SECONDS):
                self._show(bar)
            self._show(bar)

    def _show(self, bar: Any) -> None:
        with contextlib.suppress(FileNotFoundError, StorageError, ValueError):
            found = json.loads(places.read_bytes(self._address))
            bar.total, bar.n = found["steps"], found["step"]
            validation = found["validation_loss"]
            after = "" if validation is None else f", validation {validation:.4f}"
            bar.set_postfix_str(f"loss {found['loss']:.4f}{after}, {found['users_per_second']:,.0f} users/s")
