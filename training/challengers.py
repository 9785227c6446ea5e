"""Strong rivals on the same rows: what a data scientist would try first, fitted to the aggregates of the members.

A network earns its place only if it beats these. Each is fitted on the rows of the training dates; where one has a
size to choose (LightGBM: leaves and rounds, logistic regression: penalty), the validation date chooses it, as it
chooses the network's epoch.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from features.contract import Contract
from training.tensors import TIER_RANK, aggregate_values, column

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_PENALTIES = (0.003, 0.03, 0.3)
_ITERATIONS = 2000
_LEAVES = (4, 8, 16)
_ROUNDS, _PATIENCE, _LEARNING_RATE = 1000, 50, 0.03
_TREES, _LEAF = 400, 10


@dataclasses.dataclass(frozen=True)
class Rows:
    """Members at some dates: inputs [n, A + K] and outcome ranks [n]."""

    inputs: Floats
    outcome: Ranks


Fitted = Callable[[Floats], Floats]
"""From inputs [n, A + K] to probabilities [n, K]."""


def inputs_of(rows: pa.Table, contract: Contract) -> Floats:
    """[n, A + K]: the signed logarithm of each aggregate, NaN where it is null, and the current tier one-hot."""
    aggregates = [aggregate_values(rows, name) for name in contract.aggregates]
    tier = np.eye(len(contract.tiers))[column(rows, TIER_RANK).to_numpy(zero_copy_only=False)]
    return np.concatenate([np.stack(aggregates, axis=1), tier], axis=1)


def logistic(training: Rows, validation: Rows, tiers: int, seed: int) -> Fitted:
    """Multinomial logistic regression, nulls indicated."""
    del seed  # nothing is drawn
    return _best([_logistic(training, tiers, penalty) for penalty in _PENALTIES], validation, tiers)


def _logistic(training: Rows, tiers: int, penalty: float) -> Fitted:
    steps = make_pipeline(
        SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression(C=penalty, max_iter=_ITERATIONS)
    )
    return _classes(steps.fit(training.inputs, training.outcome), tiers)


def forest(training: Rows, validation: Rows, tiers: int, seed: int) -> Fitted:
    """A random forest (Breiman 2001)."""
    del validation  # it has no size that needs choosing
    trees = RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, n_jobs=-1, random_state=seed)
    return _classes(trees.fit(training.inputs, training.outcome), tiers)


def lightgbm(training: Rows, validation: Rows, tiers: int, seed: int) -> Fitted:
    """Gradient boosted trees (Ke et al. 2017), stopped where the validation loss is least."""
    return _best([_boosted(training, validation, tiers, leaves, seed) for leaves in _LEAVES], validation, tiers)


def _boosted(training: Rows, validation: Rows, tiers: int, leaves: int, seed: int) -> Fitted:
    import lightgbm as trees

    options: dict[str, Any] = {
        "objective": "multiclass", "num_class": tiers, "num_leaves": leaves, "learning_rate": _LEARNING_RATE,
        "min_data_in_leaf": 40, "feature_fraction": 0.5, "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5.0,
        "seed": seed, "deterministic": True, "verbose": -1,
    }  # fmt: skip
    known = trees.Dataset(training.inputs, training.outcome)
    booster = trees.train(
        options,
        known,
        _ROUNDS,
        valid_sets=[trees.Dataset(validation.inputs, validation.outcome, reference=known)],
        callbacks=[trees.early_stopping(_PATIENCE, verbose=False)],
    )
    return lambda inputs: np.asarray(booster.predict(inputs, num_iteration=booster.best_iteration), np.float64)


def _classes(model: Any, tiers: int) -> Fitted:
    """Probabilities by rank; a tier that no training row reached has none."""

    def predict(inputs: Floats) -> Floats:
        found = np.zeros((len(inputs), tiers))
        found[:, model.classes_.astype(int)] = model.predict_proba(inputs)
        return found

    return predict


def _best(fitted: Sequence[Fitted], validation: Rows, tiers: int) -> Fitted:
    losses = [log_loss(validation.outcome, f(validation.inputs), labels=np.arange(tiers)) for f in fitted]
    return fitted[int(np.argmin(losses))]


REGISTRY: dict[str, Callable[[Rows, Rows, int, int], Fitted]] = {
    "logistic": logistic,
    "forest": forest,
    "lightgbm": lightgbm,
}
"""Challengers by name. One more is one function and one line."""


def probabilities(
    names: Sequence[str], training: Rows, validation: Rows, evaluated: Floats, tiers: int, seed: int
) -> tuple[dict[str, Floats], dict[str, str]]:
    """[n, K] of each challenger, and why those that failed did: the others go on.

    Args:
        names: of the registry.
        training: rows to learn from.
        validation: rows to choose sizes by.
        evaluated: inputs [n, A + K] of the rows to forecast.
        tiers: K.
        seed: of what is drawn.
    """
    found, failed = dict[str, Floats](), dict[str, str]()
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", ConvergenceWarning)
                found[name] = REGISTRY[name](training, validation, tiers, seed)(evaluated)
        except (ConvergenceWarning, ValueError, ArithmeticError) as error:
            failed[name] = str(error).splitlines()[0]
    return found, failed
