"""Limits of the demo's data: noise of the figures, averages of forecasts, learning curves; to docs/results/limits.md.

    make limits             # after `make quality`; about half an hour on 2 cores

Bundles that exist already, also those of `make quality`, are not trained again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import tables
from bench.forecasts import demo
from bench.forecasts.demo import CONFIGS
from features.core.arrays import Floats
from features.storage import delta_tables
from jobs.running.job import Job, Run
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from jobs.steps.evaluation import Evaluated, evaluated
from jobs.steps.training import train
from training.evaluation.bootstrap import FIGURES
from training.evaluation.comparison import Judged
from training.fitting.ranks import quiet_tensorflow
from training.rivals.boosted_trees import lightgbm
from training.rivals.rows import Rows, Task, inputs_of
from training.spark.driver_rows import aggregate_rows

GOALS = {"logloss": 0.595, "accuracy": 0.75, "upgrade_auc": 0.785, "kappa": 0.77}
"""What was aimed at on the evaluated date."""
LESS_IS_BETTER = "logloss"
CURVED = ("logloss", "upgrade_auc")
SHARES = (0.25, 0.5, 1.0)
"""Shares of the users that keep their labels."""
SEEDS, CURVE_SEEDS, DRAWS = 5, 3, 2000
ALONE = "alone"
WAYS: dict[str, dict[str, Any]] = {
    ALONE: {"teacher_weight": 0.0, "refit": False},
    "with a teacher": {"teacher_weight": 0.5, "refit": False},
    "with a refit": {"teacher_weight": 0.0, "refit": True},
    "with both, as in `conf/`": {},
}
"""Settings of the training beside those of conf/; the last way is published."""

Drawn = Mapping[str, Floats]
"""By figure: first its value, then draws of it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, measure, write the page."""
    options = demo.options(__doc__, "build/quality")
    options.add_argument("--page", type=Path, default=Path("docs/results/limits.md"))
    given = options.parse_args(argv)
    quiet_tensorflow()
    demo.copy_tables(given.demo, given.root)
    found = {way: [network(given.root, seed, **WAYS[way]) for seed in range(1, SEEDS + 1)] for way in WAYS}
    alone = found[ALONE]
    settings = load(CONFIGS, [f"storage.root={given.root}"])
    curve = Curve(
        {
            share: [
                figures(alone[seed - 1] if share == 1 else network(given.root, seed, share, **WAYS[ALONE]))
                for seed in range(1, CURVE_SEEDS + 1)
            ]
            for share in SHARES
        },
        trees_by_share(demo.job_of(settings), alone[0]),
    )
    given.page.write_text(page(settings, found, curve), encoding="utf-8")


def network(root: str, seed: int, share: float = 1.0, **training: Any) -> Evaluated:
    """The forecasts of the default network, trained with these settings and the labels of a share of the users."""
    changes = [f"storage.root={root}", f"training.seed={seed}", f"training.labelled_share={share}"]
    changes += [f"training.{name}={json.dumps(value)}" for name, value in training.items()]
    challengers = "lightgbm" if seed == 1 and share == 1 else ""
    changes += [f"evaluation.challengers=[{challengers}]", "evaluation.bootstrap_draws=0"]
    epochs = load(CONFIGS).training.epochs
    if share < 1:  # as many steps
        changes += [f"training.epochs={round(epochs / share)}", f"training.patience={round(4 / share)}"]
    job = demo.job_of(load(CONFIGS, changes))
    with job.run("train_model", job.settings.training.validation_as_of) as record:
        version = train(job, record).manifest.version
    date = job.settings.evaluation.as_of
    return evaluated(job, Run("bench", date), version, date)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Figures by share of the labelled users: of each seed, the logloss and the upgrade AUC."""

    network: Mapping[float, Sequence[Drawn]]
    trees: Mapping[float, Sequence[Drawn]]


def judged(of: Evaluated, **probabilities: Floats) -> Judged:
    """Other forecasts of the same rows, by name."""
    rows = of.forecasts
    return Judged(rows.users, rows.current_rank, rows.outcome_rank, probabilities)


def drawn(rows: Judged, name: str, draws: int = DRAWS) -> Drawn:
    """The figures of a forecast: first of all members, then of members drawn with replacement."""
    ready, chance = rows.figures(name, 15), np.random.default_rng(0)
    n = len(rows.current)
    weights = [np.ones(n), *(np.bincount(chance.integers(0, n, n), minlength=n) for _ in range(draws))]
    return dict(zip(FIGURES, np.array([ready.at(w.astype(float)) for w in weights]).T, strict=True))


def figures(of: Evaluated) -> Drawn:
    """The figures of a network, without draws."""
    return drawn(judged(of, network=of.forecasts.probabilities), "network", 0)


def if_true(of: Evaluated, probabilities: Floats) -> Drawn:
    """The figures that a forecast would have if it were the truth, by outcomes drawn from it; first their mean."""
    chance, rows = np.random.default_rng(0), of.forecasts
    found = []
    for _ in range(DRAWS // 4):
        outcome = (chance.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
        truth = Judged(rows.users, rows.current_rank, outcome, {"it": probabilities})
        found.append(truth.figures("it", 15).at(np.ones(len(outcome))))
    draws = np.array(found)
    return dict(zip(FIGURES, np.concatenate([draws.mean(axis=0, keepdims=True), draws]).T, strict=True))


def trees_by_share(job: Job, of: Evaluated) -> dict[float, list[Drawn]]:
    """LightGBM, tuned as the challenger is, on the rows of a share of the users."""
    settings, contract = job.settings, of.manifest.contract
    sequences, outcomes = (delta_tables.read(job.spark, job.uri(name)) for name in ("sequences", "outcomes"))
    most, weights = settings.evaluation.challenger_rows, settings.training.weights
    training, validation = (
        Rows.of(aggregate_rows(sequences, outcomes, dates, contract, most, weights), contract)
        for dates in (of.manifest.training_dates, [of.manifest.validation_date])
    )
    known = aggregate_rows(sequences, outcomes, [of.date], contract, most)
    place = np.searchsorted(known["user_id"].to_numpy(), of.forecasts.users)  # both are ordered by user
    inputs, users = inputs_of(known.take(place), contract), np.unique(training.user)

    def measured(share: float, seed: int) -> Drawn:
        chosen = np.random.default_rng(seed).permutation(users)[: round(share * len(users))]
        task = Task(contract, settings.events.purchase_type, settings.evaluation.lightgbm_trials, seed)
        forecast = lightgbm(training.at(np.isin(training.user, chosen)), validation, task)
        return drawn(judged(of, trees=forecast(inputs)), "trees", 0)

    return {share: [measured(share, seed) for seed in range(1, CURVE_SEEDS + 1)] for share in SHARES}


def forecasts(found: Sequence[Evaluated]) -> dict[str, Floats]:
    """The forecasts that are compared, by name; LightGBM learns from the same dates as the networks."""
    networks, trees = np.array([of.forecasts.probabilities for of in found]), np.asarray(found[0].rivals["lightgbm"])
    together = networks.mean(axis=0)
    return {
        "the network, seed 1": networks[0],
        f"{len(found)} networks, averaged": together,
        "LightGBM": trees,
        "the network and LightGBM, averaged": (networks[0] + trees) / 2,
        f"{len(found)} networks and LightGBM, averaged": (together + trees) / 2,
    }


def page(settings: Settings, found: Mapping[str, Sequence[Evaluated]], curve: Curve) -> str:
    """The Markdown page."""
    *_, published = found.values()
    compared = forecasts(published)
    rows = judged(published[0], **compared)
    training, validation = settings.training.dates, settings.training.validation_as_of
    return "\n".join(
        [
            "# How far the data of Complete Journey goes",
            "",
            f"Written by `make limits` on {dt.date.today()}. Trained as of {', '.join(map(str, training))}, chosen and",
            f"judged as of {validation}, then trained anew with that date among the others (`training.refit`);",
            f"evaluated as of {published[0].date} on {len(rows.current):,} members.",
            "",
            *_parts_of_training(found),
            *_noise(published[0], compared, rows),
            *_learning_curves(curve),
            *TRIED,
            "",
        ]
    )


def _parts_of_training(found: Mapping[str, Sequence[Evaluated]]) -> list[str]:
    *_, published = found.values()
    rows = {
        "goal": _goals(),
        **{way: _means(seeds) for way, seeds in found.items()},
        "LightGBM, not refitted": _once(found[ALONE][0]),
        "LightGBM, refitted": _once(published[0]),
    }
    return [
        "## What the parts of the training bring",
        "",
        "A *teacher*: the network learns half from what came true, half from LightGBM's forecasts by trees that",
        f"are fitted to other members' rows. Means over {SEEDS} seeds, in brackets the standard deviation.",
        "",
        _table("the network", GOALS, rows),
        "",
    ]


def _noise(first: Evaluated, compared: Mapping[str, Floats], rows: Judged) -> list[str]:
    draws = {name: drawn(rows, name) for name in compared}
    truths = {name: if_true(first, p) for name, p in compared.items()}
    return [
        "## The noise of the figures",
        "",
        f"In brackets, 95 of 100 samples of as many members ({DRAWS:,} draws). *Goal*: what was aimed at.",
        "",
        _table("forecast", GOALS, {"goal": _goals(), **_each(draws, _with_ends)}),
        "",
        "How many of 100 samples of members reach the goal:",
        "",
        _table("forecast", GOALS, _each(draws, _reached)),
        "",
        "If a forecast were the truth itself, and only chance decided what became of each member, it would have",
        f"these figures (mean and 95 of 100, {DRAWS // 4} draws of the outcomes):",
        "",
        _table("the truth is", GOALS, _each(truths, _with_ends)),
        "",
    ]


def _learning_curves(curve: Curve) -> list[str]:
    columns = [f"{of}: {figure}" for of in ("network", "LightGBM") for figure in CURVED]
    return [
        "## Learning curves",
        "",
        f"Means over {CURVE_SEEDS} seeds, each with users of its own, without a teacher and a refit; the",
        "validation date has all users. The network gets as many steps whatever the share. In brackets the",
        "standard deviation over the seeds.",
        "",
        _table("labelled users", columns, _curves(curve)),
        "",
    ]


def _table(first: str, columns: Iterable[str], rows: Mapping[str, Iterable[str]]) -> str:
    return tables.markdown([first, *columns], [[name, *cells] for name, cells in rows.items()])


def _goals() -> list[str]:
    return [f"{goal:.3f}" for goal in GOALS.values()]


def _each(draws: Mapping[str, Drawn], cell: Callable[[str, Floats], str]) -> dict[str, list[str]]:
    return {name: [cell(figure, of[figure]) for figure in GOALS] for name, of in draws.items()}


def _with_ends(figure: str, draws: Floats) -> str:
    del figure
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{draws[0]:.3f} ({low:.3f} to {high:.3f})"


def _means(of: Sequence[Evaluated]) -> list[str]:
    drawn_once = [figures(one) for one in of]
    return [_mean([one[figure][0] for one in drawn_once]) for figure in GOALS]


def _once(of: Evaluated) -> list[str]:
    trees = drawn(judged(of, trees=of.rivals["lightgbm"]), "trees", 0)
    return [f"{trees[figure][0]:.3f}" for figure in GOALS]


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({np.std(values, ddof=1):.3f})"


def _reached(figure: str, draws: Floats) -> str:
    better = draws <= GOALS[figure] if figure == LESS_IS_BETTER else draws >= GOALS[figure]
    return f"{np.mean(better):.0%}"


def _curves(curve: Curve) -> dict[str, list[str]]:
    def cell(of: Sequence[Drawn], figure: str) -> str:
        return _mean([seed[figure][0] for seed in of])

    return {
        f"{share:.0%}": [cell(of[share], figure) for of in (curve.network, curve.trees) for figure in CURVED]
        for share in SHARES
    }


TRIED = [
    "## What else was tried",
    "",
    "- Other networks, heads and sizes: [search.md](search.md), [quality.md](quality.md).",
    "- Pretraining: [pretraining.md](pretraining.md). Other dates, and a programme of 28 days: [folds.md](folds.md).",
    "- What follows was judged on the evaluated dates 2017-08-20, 09-03 and 09-17 of folds.md, two seeds, one process,",
    "  means, by which teacher and refit were chosen. Logloss of the network alone .605, with a teacher",
    "  .600, with a refit .597, with both .593; one shape of LightGBM's trees .621, refitted .606.",
    "- To calibrate the refitted network as its candidate is: temperature .596, vector .597, not at all .593. What the",
    "  calibration mends is how the validation date differs from those before, and that date has been learned from.",
    "- 11 to 15 training dates in place of 2 to 4, as many steps or more: .593. Two networks, averaged: .593.",
    "- Before the refit, on the same three dates (three seeds): averaged with LightGBM .599, with a teacher .599,",
    "  alone .602. Outcomes softened by how near the value is to a threshold: .601. Judged as of 06-01 and 07-01,",
    "  where the network has .669 and .602: aggregates cut into pieces between their quantiles .685 and .606, a",
    "  teacher of weight .8 .665 and .605, finer tiers that are added up .662 and .610.",
]


if __name__ == "__main__":
    main()
