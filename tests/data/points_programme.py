"""Writes the CSV files of conf/points_programme.yaml: a year of simulated members, the same at every run."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_FIRST_DAY = np.datetime64("2024-01-01")


def write(folder: Path, members: int = 500, days: int = 366, seed: int = 7) -> dict[str, int]:
    """Write orders.csv and visits.csv of so many members and days; returns the rows of each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    # A member's rate of orders drifts over the year: that is what there is to forecast.
    rate = random.lognormal(-2.7, 0.8, members)
    drift = random.normal(0, 0.6, members)
    season = np.exp(drift[:, None] * np.linspace(-1, 1, days)[None, :])
    orders = random.poisson(rate[:, None] * season)
    visits = random.poisson(1.5 * rate[:, None] * season)
    basket = random.lognormal(3.4, 0.4, members)
    return {
        "orders": _write(folder / "orders.csv", _orders(random, orders, basket)),
        "visits": _write(folder / "visits.csv", _visits(random, visits)),
    }


def _orders(random: np.random.Generator, counts: np.ndarray, basket: np.ndarray) -> Iterable[Sequence[object]]:
    yield ("order_no", "customer", "placed_at", "total", "channel", "lines")
    for number, (member, moment) in enumerate(_moments(random, counts)):
        total = round(float(basket[member] * random.lognormal(0, 0.3)), 2)
        channel = random.choice(["app", "web", "store"], p=[0.2, 0.5, 0.3])
        yield (number, f"member{member:05d}", moment, total, channel, 1 + int(random.poisson(2)))


def _visits(random: np.random.Generator, counts: np.ndarray) -> Iterable[Sequence[object]]:
    yield ("visit_no", "customer", "seen_at", "page")
    for number, (member, moment) in enumerate(_moments(random, counts)):
        yield (number, f"member{member:05d}", moment, random.choice(["home", "offers", "basket"]))


def _moments(random: np.random.Generator, counts: np.ndarray) -> Iterable[tuple[int, str]]:
    """Member and ISO time of each event, with the offset of the shop's time zone."""
    members, days = np.nonzero(counts)
    repeats = counts[members, days]
    members, days = np.repeat(members, repeats), np.repeat(days, repeats)
    moments = (
        _FIRST_DAY + days.astype("timedelta64[D]") + random.integers(0, 86_400, len(days)).astype("timedelta64[s]")
    )
    return zip(members.tolist(), (f"{moment}+01:00" for moment in moments), strict=True)


def _write(path: Path, rows: Iterable[Sequence[object]]) -> int:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = list(rows)
        csv.writer(file).writerows(lines)
    return len(lines) - 1


if __name__ == "__main__":
    sys.stdout.write(f"{write(Path(sys.argv[1]))}\n")
