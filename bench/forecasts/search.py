"""Looks for a better network: sizes, heads, joining and training settings, tried on folds of time by Optuna.

    make search                       # after `make demo`; an hour by default, MINUTES=10 for less
    .venv/bin/python -m bench.forecasts.search --minutes 10 \
        --set 'training.as_of={from: 2017-03-01, to: 2017-06-28, every: 1w}'

A fold is validated at one as-of date and trained on the dates whose outcomes were known by then, so no trial sees the
future. The dates are the training dates and the validation date of the settings; the evaluation date is not read.
A trial trains one configuration on each fold, in one process, with the feed, loop and networks of `train_model`, and
is given up early when it does worse than half of those before it. Trials are kept in `ROOT/search.db`: a further run
with the same rows and networks goes on where the last one ended, and writes docs/results/search.md and search.png anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, Trial, TrialState

from bench import tables
from bench.forecasts.demo import CONFIGS
from features.core.errors import DateError, SettingsError, TiercastError
from features.spark.session import open_session
from features.storage import delta_tables
from jobs.running.settings import Settings
from jobs.running.settings_files import load
from training.fitting.loop import train
from training.fitting.plan import Plan
from training.fitting.ranks import QUIET_TENSORFLOW
from training.models import REGISTRY
from training.models.settings import ModelSettings
from training.settings.fitting import TrainingSettings
from training.spark import staging

SHOWN = 15
"""Configurations in the table."""
_STARTUP = 12
"""Trials at random before Optuna's estimator chooses."""

Dates = tuple[dt.date, ...]
Built = tuple[ModelSettings, dict[str, Any]]


class OutOfTimeError(Exception):
    """The budget ended within a trial, which counts as not done."""


@dataclasses.dataclass(frozen=True)
class Fold:
    """Training dates, and the later date on which a trial is judged."""

    training: Dates
    validation: dt.date


def time_folds(dates: Sequence[dt.date], horizon_days: int, count: int) -> list[Fold]:
    """Folds from the newest date to the oldest that has something to learn from, evenly spaced between them.

    Args:
        dates: as-of dates with outcomes.
        horizon_days: days until a date can be learned from.
        count: number of folds.

    Raises:
        DateError: the dates allow fewer folds.
    """
    horizon, possible = dt.timedelta(days=horizon_days), []
    for date in sorted(set(dates), reverse=True):
        known = tuple(sorted(d for d in set(dates) if d + horizon <= date))
        possible += [Fold(known, date)] if known else []
    if len(possible) < count:
        raise DateError(
            f"{count} folds were asked for, but with a horizon of {horizon_days} days the dates "
            f"{', '.join(map(str, sorted(set(dates))))} leave {len(possible)}: ask for fewer --folds, or add earlier "
            "training.as_of dates"
        )
    return [possible[k] for k in np.linspace(0, len(possible) - 1, count).round().astype(int)]


def suggested(trial: Trial, networks: Sequence[str]) -> Built:
    """A network and the training settings that differ from those of `conf`, as Optuna chooses them."""
    name = trial.suggest_categorical("network", list(networks))
    parameters = {
        "head": trial.suggest_categorical("head", ["softmax", "corn", "cumulative"]),
        "tier_aware": trial.suggest_categorical("tier_aware", [False, True]),
        "embedding": trial.suggest_categorical("embedding", [4, 8, 16]),
        "dense": trial.suggest_categorical("dense", [32, 64, 128]),
        "dropout": trial.suggest_float("dropout", 0.1, 0.6, step=0.05),
        "max_events": trial.suggest_categorical("max_events", [48, 96]),
        **SPACES[name](trial),
    }
    training = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 6e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        "average_decay": trial.suggest_categorical("average_decay", [0.0, 0.98, 0.99]),
        "batch_size": trial.suggest_categorical("batch_size", [128, 256]),
        "epochs": trial.suggest_int("epochs", 6, 14, step=2),
    }
    if name in JOINED:
        training["auxiliary_weight"] = trial.suggest_categorical("auxiliary_weight", [0.0, 0.1, 0.3, 1.0])
    return ModelSettings(name=name, parameters=parameters), training


def _joined(trial: Trial) -> dict[str, Any]:
    join = trial.suggest_categorical("join", ["concatenate", "gate", "cross"])
    found = {"join": join, "periods": trial.suggest_categorical("periods", [0, 4])}
    return found | ({"cross_layers": trial.suggest_int("cross_layers", 1, 3)} if join == "cross" else {})


def _hybrid(trial: Trial) -> dict[str, Any]:
    return {**_joined(trial), "units": trial.suggest_categorical("units", [16, 32, 48, 64])}


def _transformer(trial: Trial) -> dict[str, Any]:
    width = trial.suggest_categorical("width", [16, 32, 64])
    return {
        **_joined(trial),
        "layers": trial.suggest_int("layers", 1, 3),
        "width": width,
        "inner": 2 * width,
        "heads": trial.suggest_categorical("heads", [2, 4]),
        "causal": trial.suggest_categorical("causal", [False, True]),
        "layer_dropout": trial.suggest_float("layer_dropout", 0.0, 0.4, step=0.1),
    }


def _cnn(trial: Trial) -> dict[str, Any]:
    filters = trial.suggest_categorical("filters", [16, 32, 64])
    return {"first_filters": filters, "second_filters": 2 * filters}


def _lstm(trial: Trial) -> dict[str, Any]:
    units = trial.suggest_categorical("lstm_units", [32, 64, 128])
    return {"first_units": units, "second_units": units}


SPACES: Mapping[str, Callable[[Trial], dict[str, Any]]] = {
    "hybrid": _hybrid,
    "transformer": _transformer,
    "cnn": _cnn,
    "lstm": _lstm,
}
"""Choices of each network beside those that all networks have."""
JOINED = ("hybrid", "transformer")
"""Networks with an auxiliary value."""


def configured(plan: Plan, built: Built, folder: str) -> Plan:
    """A fold's plan for one configuration, its files in a folder of its own."""
    model, changes = built
    settings = TrainingSettings(**{**plan.settings.model_dump(by_alias=True), **changes})
    return dataclasses.replace(
        plan,
        model=model,
        settings=settings,
        checkpoint_uri=f"{folder}/checkpoint.npz",
        model_uri=f"{folder}/model.keras",
        progress_uri=f"{folder}/progress.json",
    )


def mean_loss(trial: Trial, plans: Sequence[Plan], networks: Sequence[str], deadline: float) -> float:
    """Mean over the folds of the best validation loss of a configuration.

    Raises:
        TrialPruned: it does worse so far than half of the trials before it.
        OutOfTimeError: the deadline, in seconds of `time.time`, has come.
    """
    built, losses = suggested(trial, networks), list[float]()
    for number, plan in enumerate(plans):
        with tempfile.TemporaryDirectory() as folder:
            fold, best = configured(plan, built, folder), [float("inf")]

            def after_epoch(entry: Mapping[str, float], number: int = number, best: list[float] = best) -> None:
                best[0] = min(best[0], entry["validation_loss"])
                trial.report(float(np.mean([*losses, best[0]])), number * 100 + int(entry["epoch"]))
                if trial.should_prune():
                    raise optuna.TrialPruned
                if time.time() > deadline:
                    raise OutOfTimeError

            losses.append(float(train(fold, after_epoch)["validation_loss"]))
    trial.set_user_attr("losses", losses)
    return float(np.mean(losses))


def search(plans: Sequence[Plan], networks: Sequence[str], database: str, name: str, deadline: float) -> None:
    """One worker: runs trials until the deadline."""
    import keras

    study = opened(database, name)

    def told(study: optuna.Study, trial: FrozenTrial) -> None:
        keras.backend.clear_session()
        value = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
        sys.stdout.write(f"trial {trial.number}: {value} ({trial.params['network']})\n")
        sys.stdout.flush()

    study.optimize(
        lambda trial: mean_loss(trial, plans, networks, deadline),
        timeout=max(1.0, deadline - time.time()),
        catch=(OutOfTimeError, RuntimeError),  # a loss that is not finite is a RuntimeError
        callbacks=[told],
    )


def opened(database: str, name: str) -> optuna.Study:
    """The study of these folds and networks, new or with the trials of earlier runs."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # workers report failures
    return optuna.create_study(
        storage=f"sqlite:///{database}",
        study_name=name,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(n_startup_trials=_STARTUP),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=3),
    )


def prepare(study: optuna.Study, settings: Settings) -> None:
    """Let a new study begin with the present configuration, and give up the trials of a run that was killed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    if not study.trials:
        chosen = settings.model.resolved() | settings.training.model_dump()
        study.enqueue_trial({"network": settings.model.name, **{n: v for n, v in chosen.items() if n in _NAMES}})


_NAMES = {
    "head", "tier_aware", "embedding", "dense", "dropout", "max_events", "join", "periods", "units", "learning_rate",
    "weight_decay", "average_decay", "batch_size", "epochs", "auxiliary_weight",
}  # fmt: skip


def staged(settings: Settings, folds: Sequence[Fold]) -> list[Plan]:
    """A plan for each fold, its examples staged by Spark or found there."""
    spark = open_session(settings.spark.app_name, settings.spark.master, settings.spark.options)
    sequences, outcomes = (
        delta_tables.read(
            spark, settings.storage.table(name), delta_tables.version(spark, settings.storage.table(name))
        )
        for name in ("sequences", "outcomes")
    )
    plans = []
    for fold in folds:
        changes: dict[str, Any] = {"as_of": list(fold.training), "validation_as_of": fold.validation}
        changes |= {"ranks": 1, "ensemble": 1, "teacher_weight": 0.0, "refit": False}
        training = TrainingSettings(**{**settings.training.model_dump(by_alias=True), **changes})
        identity = staging.data_identity(sequences, outcomes, settings.contract, training)
        key = staging.examples_key(settings.contract, training, identity)
        folder = staging.folder_of(settings.storage.staging, settings.contract, training, identity)
        found = staging.stage(sequences, outcomes, settings.contract, training, folder)
        shards = (found.training, found.validation)
        plans.append(Plan(key, settings.contract, found.encoding, settings.model, training, *shards, "", "", ""))
    spark.stop()
    return plans


def run(given: argparse.Namespace) -> None:
    """Stage the folds, let workers try configurations until the budget ends, write page and picture."""
    if given.minutes <= 0:
        raise SettingsError([f"--minutes {given.minutes:g}: a search needs a budget; give it a few minutes at least"])
    settings = load(given.config or CONFIGS, given.set)
    folds = time_folds(settings.training.all_dates, settings.horizon.days, given.folds)
    plans = staged(settings, folds)
    networks = sorted(set(given.networks))
    name = staging.digest([networks, *(plan.key for plan in plans)])
    database = str(Path(given.root, "search.db"))
    Path(given.root).mkdir(parents=True, exist_ok=True)
    prepare(opened(database, name), settings)
    deadline = time.time() + 60 * given.minutes
    context = multiprocessing.get_context("spawn")
    arguments = (plans, networks, database, name, deadline)
    workers = [context.Process(target=search, args=arguments) for _ in range(given.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    trials = opened(database, name).get_trials()
    Path(given.page).write_text(page(trials, folds, networks), encoding="utf-8")
    picture(trials).savefig(Path(given.page).with_suffix(".png"), dpi=120)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that ran on all folds, best first."""
    whole = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(whole, key=lambda t: (t.value or 0.0, t.number))


def page(trials: Sequence[FrozenTrial], folds: Sequence[Fold], networks: Sequence[str]) -> str:
    """The Markdown page."""
    best, first = finished(trials), next((t for t in trials if t.number == 0), None)
    count = {state: sum(t.state == state for t in trials) for state in TrialState}
    lines = [
        "# What a search found",
        "",
        f"Written by `make search` on {dt.date.today()}: {len(trials)} trials among {', '.join(networks)}; "
        f"{count[TrialState.COMPLETE]} trained on all folds, {count[TrialState.PRUNED]} given up early, "
        f"{count[TrialState.FAIL]} not done. The figure is the mean logloss over the folds, at each fold's best epoch. "
        + (
            f"Trial 0 is the configuration that stood in `conf` before: {first.value:.4f}."
            if first is not None and first.value is not None
            else "The configuration that stood in `conf` before is trial 0, which has no figure."
        ),
        "",
        *(f"- fold {k}: trained as of {_listed(f.training)}, judged as of {f.validation}" for k, f in enumerate(folds)),
        "",
        "![Loss by trial](search.png)",
        "",
        tables.markdown(
            ["trial", "mean", *(f"fold {k}" for k in range(len(folds))), "network", "settings"],
            [_row(trial) for trial in best[:SHOWN]],
        ),
        "",
    ]
    if best:
        lines += ["The best as settings:", "", "```yaml", _as_settings(best[0], networks), "```", ""]
    return "\n".join(lines)


def _listed(dates: Dates) -> str:
    return ", ".join(map(str, dates)) if len(dates) < 5 else f"{dates[0]} to {dates[-1]}, {len(dates)} dates"


def _row(trial: FrozenTrial) -> list[str]:
    losses = [f"{loss:.4f}" for loss in trial.user_attrs["losses"]]
    chosen = ", ".join(f"{n} {_short(v)}" for n, v in trial.params.items() if n != "network")
    return [str(trial.number), f"{trial.value:.4f}", *losses, trial.params["network"], chosen]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _as_settings(trial: FrozenTrial, networks: Sequence[str]) -> str:
    fixed: Any = optuna.trial.FixedTrial(trial.params)
    model, training = suggested(fixed, networks)
    found = {"model": {"name": model.name, "parameters": _rounded(model.parameters)}, "training": _rounded(training)}
    return yaml.safe_dump(found, sort_keys=False).strip()


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in values.items()}


def picture(trials: Sequence[FrozenTrial]) -> Figure:
    """Loss by trial, and the best so far."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    whole = sorted(finished(trials), key=lambda t: t.number)
    for network in REGISTRY:
        of = [t for t in whole if t.params["network"] == network]
        if of:
            axes.plot([t.number for t in of], [t.value or 0.0 for t in of], "o", markersize=5, label=network)
    best = np.minimum.accumulate(np.array([t.value or 0.0 for t in whole]))
    axes.step([t.number for t in whole], best, where="post", color="black", linewidth=1, label="best so far")
    axes.set(xlabel="trial", ylabel="mean logloss over the folds")
    axes.legend(frameon=False)
    return figure


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.forecasts.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--minutes", type=float, default=60, help="budget of this run")
    made.add_argument("--folds", type=int, default=2)
    made.add_argument("--workers", type=int, default=max(1, os.cpu_count() or 1), help="trials at once, a core each")
    made.add_argument("--networks", nargs="+", choices=sorted(REGISTRY), default=["hybrid", "transformer"])
    made.add_argument("--config", action="append", metavar="YAML", help="settings, repeatable; default: the demo's")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    made.add_argument("--root", default="build/search", help="where trials are kept")
    made.add_argument("--page", default="docs/results/search.md", help="results, with a .png beside")
    return made


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: 0 done, 2 the user's mistake, 1 a failure."""
    os.environ.update(QUIET_TENSORFLOW)
    try:
        run(arguments().parse_args(argv))
    except TiercastError as error:
        sys.stderr.write(f"python -m bench.forecasts.search: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(entry())
