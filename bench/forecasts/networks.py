"""Trains and evaluates each network with several seeds on the demo's tables and writes docs/results/quality.md.

    make quality            # after `make demo`; about a quarter of an hour on 2 cores

Bundles that exist already are not trained again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench import tables
from bench.forecasts import demo
from bench.forecasts.demo import CONFIGS
from jobs.running.settings_files import load
from jobs.steps import training
from jobs.steps.evaluation import evaluate_model
from training.bundles.bundle_folder import read_manifest
from training.evaluation.comparison import Comparison
from training.evaluation.metrics import Evaluation
from training.fitting.ranks import quiet_tensorflow

NETWORKS: dict[str, list[str]] = {
    "hybrid": [],
    "cnn": ["training.learning_rate=0.0003", "training.epochs=8", "model.parameters.dropout=0.5"],
    "lstm": ["training.learning_rate=0.001", "training.epochs=5"],
    "transformer": [],
}
"""Settings of each network beside those of conf/."""
FIGURES = ("logloss", "accuracy", "upgrade_auc", "downgrade_auc", "kappa", "macro_f1", "brier", "calibration_error")
INTERVALS = FIGURES[:-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    options = demo.options(__doc__, "build/quality")
    options.add_argument("--seeds", type=int, default=5, help="seeds of the default network")
    options.add_argument("--other-seeds", type=int, default=1, help="seeds of the other networks")
    given = options.parse_args(argv)
    quiet_tensorflow()
    demo.copy_tables(given.demo, given.root)
    found: dict[str, list[Comparison]] = {}
    for network, overrides in NETWORKS.items():
        seeds = given.seeds if network == "hybrid" else given.other_seeds
        for seed in range(1, seeds + 1):
            changed = [f"storage.root={given.root}", f"model.name={network}", f"training.seed={seed}", *overrides]
            if found:  # challengers are the same for every network
                changed.append("evaluation.challengers=[]")
            found.setdefault(network, []).append(train_and_evaluate(changed))
            Path("docs/results/quality.md").write_text(page(found), encoding="utf-8")


def train_and_evaluate(overrides: Sequence[str]) -> Comparison:
    """One training and its evaluation beside the baselines."""
    settings = load(CONFIGS, overrides)
    job = demo.job_of(settings)
    with job.run("train_model", settings.training.validation_as_of) as trained:
        training.train(job, trained)
    version = trained.model_version
    assert version is not None  # it has been trained
    chosen = load(CONFIGS, [*overrides, f"scoring.model_version={version}"])
    evaluation = demo.job_of(chosen)
    with evaluation.run("evaluate_model", chosen.evaluation.as_of) as record:
        comparison, _ = evaluate_model(evaluation, record, chosen.evaluation.as_of)
    seconds = sum(h["seconds"] or 0 for h in read_manifest(chosen.storage.models, version).history)
    sys.stdout.write(f"{version}: {' | '.join(_cells([comparison.model]))} ({seconds:.0f} s in epochs)\n")
    return comparison


def page(found: dict[str, list[Comparison]]) -> str:
    """The Markdown page."""
    settings = load(CONFIGS)
    first = next(iter(found.values()))[0]
    baselines, rivals = first.baselines, {**first.baselines, **first.challengers}
    rows = [[name, "-", *_cells([figures])] for name, figures in rivals.items()]
    for name, comparisons in found.items():
        models = [c.model for c in comparisons]
        rows += [[name, str(seed), *_cells([m])] for seed, m in enumerate(models, 1)]
        rows += [[f"**{name}, mean**", f"{len(models)} seeds", *_cells(models)]] if len(models) > 1 else []
    dates = ", ".join(str(d) for d in settings.training.dates)
    return "\n".join(
        [
            "# Quality on Complete Journey",
            "",
            f"Written by `make quality` on {dt.date.today()}, Python {platform.python_version()}, "
            f"{os.cpu_count()} cores, {settings.training.ranks} ranks.",
            f"Trained as of {dates}; stopped early and best epoch kept by the loss as of "
            f"{settings.training.validation_as_of}; evaluated as of {settings.evaluation.as_of} on the same "
            f"{baselines['markov'].rows:,} members for every row. Tiers by 90 days' spend, horizon 90 days.",
            "",
            tables.markdown(["model", "seed", *(f.replace("_", " ") for f in FIGURES)], rows),
            "",
            "Once the epoch is chosen, every network learns from the validation date, too (`training.refit`), and so",
            "do the challengers and the chain of tiers (`markov`); challengers see the aggregates alone.",
            f"Differences of `{settings.model.name}`, seed 1, to each rival, 95 % intervals of a paired bootstrap over",
            "the members:",
            "",
            tables.markdown(
                ["against", *(f.replace("_", " ") for f in INTERVALS)],
                [[name, *_ends(first.intervals[name])] for name in first.intervals],
            ),
            "",
            "Settings beside those of `conf/`: "
            + "; ".join(f"{n}: {', '.join(o) or 'none'}" for n, o in NETWORKS.items())
            + ".",
            "",
            "What was chosen on what: the sizes and the dropout of `hybrid` by the validation loss. The learning",
            "rate and dropout of `cnn` and `lstm`, the clipping of inputs to the range of the training rows and the",
            "place of the newest event in `cnn` were seen on the evaluation date too: these are slightly too good.",
            "",
        ]
    )


def _ends(intervals: Mapping[str, tuple[float, float]]) -> list[str]:
    ends = [intervals.get(name) for name in INTERVALS]
    return ["-" if of is None else f"{of[0]:+.3f} to {of[1]:+.3f}" for of in ends]


def _cells(models: Sequence[Evaluation]) -> list[str]:
    means = [np.mean([getattr(m, figure) for m in models]) for figure in FIGURES]
    return [f"{mean:.3f}" for mean in means]


if __name__ == "__main__":
    main()
