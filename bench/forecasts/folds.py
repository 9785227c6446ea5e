"""Rolling folds of the demo's data with all challengers, for two programmes; writes docs/results/folds.md.

    make folds              # after `make demo`; about a quarter of an hour on 2 cores

Finished programmes and networks are not done again, so a stopped run goes on where it was. Remove the folder under
build to do them again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bench.forecasts import demo
from bench.forecasts.demo import CONFIGS
from features.spark.session import open_session
from jobs.cross_validate import cross_validate
from jobs.running.job import Job
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from training.fitting.ranks import quiet_tensorflow

PROGRAMMES: dict[str, list[str]] = {
    "Tiers by 90 days, as in the demo": [],
    "Tiers by 28 days": [
        "tiers.window_days=28",
        "tiers.levels=[{name: base}, {name: silver, from: {spend: 80}}, {name: gold, from: {spend: 220}}]",
        "horizon.days=28",
        "training.as_of={from: 2017-05-21, to: 2017-10-08, every: 4w}",
        "training.validation_as_of=2017-11-05",
        "evaluation.as_of=2017-12-03",
        "evaluation.folds={count: 4, every: 4w}",
    ],
}
"""Settings of each programme beside those of conf/. The year has four folds with separate outcomes only for short
windows."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    options = demo.options(__doc__, "build/folds")
    options.add_argument("--page", type=Path, default=Path("docs/results/folds.md"))
    given = options.parse_args(argv)
    quiet_tensorflow()
    parts = []
    for number, (title, overrides) in enumerate(PROGRAMMES.items(), 1):
        root = f"{given.root}/{number}"
        missing = [t for t in ("events", "events_rejected") if not Path(f"{root}/tables/{t}").exists()]
        demo.copy_tables(given.demo, root, missing)
        settings = load(CONFIGS, [f"storage.root={root}", *overrides])
        parts += [f"## {title}", "", *introduction(settings), *folds_of(settings)]
        given.page.write_text("\n".join([*head(), *parts]).rstrip() + "\n", encoding="utf-8")


def folds_of(settings: Settings) -> list[str]:
    """The page of one programme's cross-validation; the one that an earlier run left, if it did."""
    left = Path(f"{settings.storage.reports}/folds-{settings.evaluation.as_of}.md")
    if left.exists():
        return left.read_text(encoding="utf-8").splitlines()
    spark = open_session(settings.spark.app_name, settings.spark.master, settings.spark.options)
    return cross_validate(Job(settings, spark, argparse.Namespace(as_of=None, folds=None)))


def head() -> list[str]:
    """What the page is."""
    settings = load(CONFIGS)
    return [
        "# Rolling folds on Complete Journey",
        "",
        f"Written by `make folds` on {dt.date.today()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"{settings.training.ranks} ranks, seed {settings.training.seed}.",
        "",
        f"`network` is the `{settings.model.name}` of `conf/base.yaml`, trained as in `conf/complete_journey.yaml`: "
        "each fold's validation date chooses the epoch, then it is learned from, too (`training.refit`). Baselines and "
        "challengers learn from the same dates and are judged on the same members. "
        f"LightGBM tries {settings.evaluation.lightgbm_trials} shapes of trees in each fold. BG/NBD with Gamma-Gamma "
        "is fitted to the purchases before the evaluated date. Less is better for logloss, Brier score and calibration "
        "error.",
        "",
        "What was chosen on what: sizes and dropout of the network by the validation loss of the demo's dates, which "
        "are those of the first fold here. That a teacher and a refit are used, and that the refitted network is not "
        "calibrated, was chosen on the evaluated dates of folds 2 to 4 of the first programme, so the network's "
        "figures there are slightly too good. The rule that picks the penalty of the logistic regression, and the "
        "clipping of inputs to the range of the training rows, were seen on the first fold's evaluated date.",
        "",
    ]


def introduction(settings: Settings) -> list[str]:
    """The programme and its folds in words."""
    spend = ", ".join(f"{x.name} from {x.from_['spend']}" for x in settings.tiers.levels if x.from_)
    return [
        f"Spend of {settings.tiers.window_days} days: {spend}. Horizon {settings.horizon.days} days. "
        f"{settings.evaluation.folds.count} folds, {settings.evaluation.folds.every} apart.",
        "",
    ]


if __name__ == "__main__":
    main()
