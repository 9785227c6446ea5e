"""Challengers: models of other kinds, fitted to the aggregates of the same members, that a network should beat.

Each is fitted on the rows of the training dates. The validation date chooses the size of a challenger (LightGBM: trees
and their shape, logistic regression: penalty), as it chooses the epoch of the network. If the network is then trained
anew with the validation date, the challengers are too. BG/NBD with Gamma-Gamma learns from the purchases of the members
that it forecasts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from features.core.arrays import Floats
from training.rivals.bg_nbd import Histories, fit_bg_nbd, fit_gamma_gamma, tier_probabilities
from training.rivals.boosted_trees import lightgbm
from training.rivals.rows import Fitted, Rows, Task

_PENALTIES = (0.0003, 0.003, 0.03, 0.3)  # the inverse of their strength
_ITERATIONS = 2000
_TREES, _LEAF = 400, 10


def logistic(training: Rows, validation: Rows, task: Task) -> Fitted:
    """Multinomial logistic regression with indicators of nulls; inputs are clipped to the training range.

    The penalty is the strongest whose validation loss is within a standard error of the least (Breiman et al. 1984):
    weaker ones rely on windows longer than the history of the training dates, and are wrong at later dates.
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


def bg_nbd(training: Rows, validation: Rows, task: Task) -> Fitted:
    """BG/NBD with Gamma-Gamma, fitted to the histories that it forecasts; it uses no outcomes."""
    del training, validation

    def forecast(inputs: Floats) -> Floats:
        histories = Histories.of(task.aggregates(inputs), task.purchase_type)
        return tier_probabilities(
            histories,
            fit_bg_nbd(histories),
            fit_gamma_gamma(histories),
            task.contract.tier_rule,
            task.contract.horizon_days,
            task.seed,
        )

    return forecast


def _classes(model: Any, tiers: int) -> Fitted:
    """Probabilities [n, K] by rank; 0 for a tier that no training row reached."""

    def predict(inputs: Floats) -> Floats:
        found = np.zeros((len(inputs), tiers))
        found[:, model.classes_.astype(int)] = model.predict_proba(inputs)
        return found

    return predict


def _simplest(fitted: Sequence[Fitted], validation: Rows) -> int:
    """Place of the simplest forecast whose validation loss is within a standard error of the least; simplest first."""
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
"""Challengers by name. To add one, add a function and a line here."""


def probabilities(
    names: Sequence[str], training: Rows, validation: Rows, evaluated: Floats, task: Task
) -> tuple[dict[str, Floats], dict[str, str]]:
    """Probabilities [n, K] by challenger, and the reason by challenger that failed; the others go on.

    Args:
        names: names in the registry.
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
