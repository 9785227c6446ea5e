"""Strong rivals on the same rows: what a data scientist would try first, fitted to the aggregates of the members.

A network earns its place only if it beats these. Each is fitted on the rows of the training dates; where one has a
size to choose (LightGBM: trees and their shape, logistic regression: penalty), the validation date chooses it, as it
chooses the network's epoch; where the network is then trained anew with the validation date, so are they. BG/NBD with
Gamma-Gamma learns from the purchases of the members that it forecasts.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import loguniform, randint, uniform
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import ParameterSampler
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from features.contract import Contract
from training import lifetimes
from training.feed import OUTCOME_RANK, WEIGHT
from training.tensors import TIER_RANK, aggregate_values, column

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_PENALTIES = (0.0003, 0.003, 0.03, 0.3)  # the inverse of their strength
_ITERATIONS = 2000
_TREES, _LEAF = 400, 10
_ROUNDS, _PATIENCE = 1000, 50
FIRST_SHAPE: dict[str, Any] = {
    "num_leaves": 8, "min_data_in_leaf": 40, "feature_fraction": 0.5, "bagging_fraction": 0.7, "lambda_l2": 5.0,
}  # fmt: skip
"""Of LightGBM's trees: one that suits small tables."""
_SHAPES = {
    "num_leaves": randint(3, 33),
    "min_data_in_leaf": randint(10, 201),
    "feature_fraction": uniform(0.15, 0.85),
    "bagging_fraction": uniform(0.4, 0.6),
    "lambda_l2": loguniform(0.1, 100),
}
"""Where further shapes are drawn from."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Members at some dates: inputs [n, A + K]; outcome ranks, what each counts (1 on average), user ids, [n] each."""

    inputs: Floats
    outcome: Ranks
    weight: Floats
    user: npt.NDArray[Any]

    @classmethod
    def of(cls, rows: pa.Table, contract: Contract) -> Rows:
        """From `training.spark_examples.aggregate_rows`."""
        weight = rows[WEIGHT].to_numpy()
        return cls(
            inputs_of(rows, contract),
            rows[OUTCOME_RANK].to_numpy().astype(np.int64),
            weight / weight.mean() if len(weight) else weight,
            rows["user_id"].to_numpy(),
        )

    def at(self, rows: npt.NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(*(values[rows] for values in vars(self).values()))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be forecast, and how much may be spent on it.

    Attributes:
        contract: what the inputs are, and the tiers.
        purchase_type: the event type whose amounts are spend.
        trials: shapes of LightGBM's trees that are tried.
        seed: of all that is drawn.
        learned: what is fitted to at last, once the validation rows have chosen the size; None: the training rows.
    """

    contract: Contract
    purchase_type: str
    trials: int
    seed: int
    learned: Rows | None = None

    @property
    def tiers(self) -> int:
        """K."""
        return len(self.contract.tiers)

    def aggregates(self, inputs: Floats) -> dict[str, Floats]:
        """The aggregates as they stand in `sequences`, to six digits, by name: [n] each, NaN where null."""
        values = np.copysign(np.expm1(np.abs(inputs)), inputs)
        return {name: values[:, place] for place, name in enumerate(self.contract.aggregates)}


Fitted = Callable[[Floats], Floats]
"""From inputs [n, A + K] to probabilities [n, K]."""


def inputs_of(rows: pa.Table, contract: Contract) -> Floats:
    """[n, A + K]: the signed logarithm of each aggregate, NaN where it is null, and the current tier one-hot."""
    aggregates = [aggregate_values(rows, name) for name in contract.aggregates]
    tier = np.eye(len(contract.tiers))[column(rows, TIER_RANK).to_numpy(zero_copy_only=False)]
    return np.concatenate([np.stack(aggregates, axis=1), tier], axis=1)


def logistic(training: Rows, validation: Rows, task: Task) -> Fitted:
    """Multinomial logistic regression, nulls indicated; inputs beyond the training range count as its end.

    The penalty is the strongest whose validation loss is within a standard error of the least (Breiman et al. 1984):
    the weaker ones lean on windows longer than the history of the training dates, and go astray later.
    """
    fitted = [_logistic(training, task.tiers, penalty) for penalty in _PENALTIES]
    chosen = _simplest(fitted, validation)
    return fitted[chosen] if task.learned is None else _logistic(task.learned, task.tiers, _PENALTIES[chosen])


def _logistic(training: Rows, tiers: int, penalty: float) -> Fitted:
    steps = make_pipeline(
        SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression(C=penalty, max_iter=_ITERATIONS)
    )
    steps.fit(training.inputs, training.outcome, logisticregression__sample_weight=training.weight)
    least, greatest = np.nanmin(training.inputs, axis=0), np.nanmax(training.inputs, axis=0)
    predict = _classes(steps, tiers)
    return lambda inputs: predict(np.clip(inputs, least, greatest))


def forest(training: Rows, validation: Rows, task: Task) -> Fitted:
    """A random forest (Breiman 2001)."""
    del validation  # it has no size that needs choosing
    trees = RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, n_jobs=-1, random_state=task.seed)
    rows = task.learned or training
    return _classes(trees.fit(rows.inputs, rows.outcome, rows.weight), task.tiers)


def lightgbm(training: Rows, validation: Rows, task: Task) -> Fitted:
    """Gradient boosted trees (Ke et al. 2017) of the best shape tried, stopped where the validation loss is least."""
    shapes = [FIRST_SHAPE, *ParameterSampler(_SHAPES, task.trials - 1, random_state=task.seed)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # whole fits side by side: many threads of one wait for each other
        losses = list(pool.map(lambda shape: _loss_on_others(training, validation, task, shape), shapes))
    chosen = shapes[int(np.argmin(losses))]
    if task.learned is None:
        return _boosted(training, validation, task, chosen)
    rounds = boosted(training, task.tiers, task.seed, chosen, validation).best_iteration
    booster = boosted(task.learned, task.tiers, task.seed, chosen, rounds=rounds)
    return lambda inputs: np.asarray(booster.predict(inputs), np.float64)


def _loss_on_others(training: Rows, validation: Rows, task: Task, shape: Mapping[str, Any]) -> float:
    """Logloss of a shape over two folds: half of the users later on, forecast by what the other half taught.

    A user in both would let large trees learn users by heart: outcome windows of neighbouring dates overlap.
    """
    half = np.unique(np.concatenate([training.user, validation.user]))[::2]
    learned, judged = np.isin(training.user, half), np.isin(validation.user, half)
    losses = []
    for side in (True, False):
        others, rows = training.at(learned == side), validation.at(judged != side)
        p = _boosted(others, rows, task, shape)(rows.inputs)
        losses.append(log_loss(rows.outcome, p, labels=np.arange(task.tiers)))
    return float(np.mean(losses))


def _boosted(training: Rows, validation: Rows, task: Task, shape: Mapping[str, Any]) -> Fitted:
    booster = boosted(training, task.tiers, task.seed, shape, validation)
    return lambda inputs: np.asarray(booster.predict(inputs, num_iteration=booster.best_iteration), np.float64)


def boosted(
    training: Rows,
    tiers: int,
    seed: int,
    shape: Mapping[str, Any],
    validation: Rows | None = None,
    rounds: int = _ROUNDS,
) -> Any:
    """A LightGBM booster of one thread, the same for the same rows.

    With validation rows it stops where their loss has not become less for a while; `best_iteration` is that of the
    least.
    """
    import lightgbm as trees

    options: dict[str, Any] = {
        **shape, "objective": "multiclass", "num_class": tiers, "learning_rate": 0.05, "bagging_freq": 1,
        "seed": seed, "deterministic": True, "num_threads": 1, "verbose": -1,
    }  # fmt: skip
    known = trees.Dataset(training.inputs, training.outcome, weight=training.weight)
    if validation is None:
        return trees.train(options, known, rounds)
    later = trees.Dataset(validation.inputs, validation.outcome, reference=known)
    patience = trees.early_stopping(_PATIENCE, verbose=False)
    return trees.train(options, known, rounds, valid_sets=[later], callbacks=[patience])


def bg_nbd(training: Rows, validation: Rows, task: Task) -> Fitted:
    """BG/NBD with Gamma-Gamma, fitted to the histories that it forecasts: it needs no outcomes, so none is seen."""
    del training, validation

    def forecast(inputs: Floats) -> Floats:
        histories = lifetimes.Histories.of(task.aggregates(inputs), task.purchase_type)
        return lifetimes.tier_probabilities(
            histories,
            lifetimes.fit_bg_nbd(histories),
            lifetimes.fit_gamma_gamma(histories),
            task.contract.tier_rule,
            task.contract.horizon_days,
            task.seed,
        )

    return forecast


def _classes(model: Any, tiers: int) -> Fitted:
    """Probabilities by rank; a tier that no training row reached has none."""

    def predict(inputs: Floats) -> Floats:
        found = np.zeros((len(inputs), tiers))
        found[:, model.classes_.astype(int)] = model.predict_proba(inputs)
        return found

    return predict


def _simplest(fitted: Sequence[Fitted], validation: Rows) -> int:
    """Place of the first, they come simplest first, whose validation loss is within a standard error of the least."""
    rows, least = np.arange(len(validation.outcome)), np.finfo(np.float64).eps
    losses = [-np.log(np.maximum(f(validation.inputs)[rows, validation.outcome], least)) for f in fitted]
    best = min(losses, key=lambda of: float(of.mean()))
    bound = best.mean() + best.std() / np.sqrt(len(rows))
    return next(place for place, of in enumerate(losses) if of.mean() <= bound)


REGISTRY: dict[str, Callable[[Rows, Rows, Task], Fitted]] = {
    "logistic": logistic,
    "forest": forest,
    "lightgbm": lightgbm,
    "bg_nbd": bg_nbd,
}
"""Challengers by name. One more is one function and one line."""


def probabilities(
    names: Sequence[str], training: Rows, validation: Rows, evaluated: Floats, task: Task
) -> tuple[dict[str, Floats], dict[str, str]]:
    """[n, K] of each challenger, and why those that failed did: the others go on.

    Args:
        names: of the registry.
        training: rows to learn from.
        validation: rows to choose sizes by.
        evaluated: inputs [n, A + K] of the rows to forecast.
        task: what is forecast.
    """
    found, failed = dict[str, Floats](), dict[str, str]()
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", ConvergenceWarning)
                found[name] = REGISTRY[name](training, validation, task)(evaluated)
        except (ConvergenceWarning, ValueError, ArithmeticError) as error:
            failed[name] = str(error).splitlines()[0]
    return found, failed
