"""LightGBM on the aggregates; its shape is chosen on members that it has not learned from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.stats import loguniform, randint, uniform
from sklearn.metrics import log_loss
from sklearn.model_selection import ParameterSampler

from training.rivals.rows import Fitted, Rows, Task

_ROUNDS, _PATIENCE = 1000, 50
FIRST_SHAPE: dict[str, Any] = {
    "num_leaves": 8, "min_data_in_leaf": 40, "feature_fraction": 0.5, "bagging_fraction": 0.7, "lambda_l2": 5.0,
}  # fmt: skip
"""A first shape of the trees, which suits small tables."""
_SHAPES = {
    "num_leaves": randint(3, 33),
    "min_data_in_leaf": randint(10, 201),
    "feature_fraction": uniform(0.15, 0.85),
    "bagging_fraction": uniform(0.4, 0.6),
    "lambda_l2": loguniform(0.1, 100),
}
"""Values from which further shapes are drawn."""


def lightgbm(training: Rows, validation: Rows, task: Task) -> Fitted:
    """Gradient boosted trees (Ke et al. 2017) of the best shape tried, stopped at the least validation loss."""
    shapes = [FIRST_SHAPE, *ParameterSampler(_SHAPES, task.trials - 1, random_state=task.seed)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # whole fits in parallel: threads of one fit wait for each other
        losses = list(pool.map(lambda shape: _loss_on_others(training, validation, task, shape), shapes))
    chosen = shapes[int(np.argmin(losses))]
    if task.learned is None:
        return _boosted(training, validation, task, chosen)
    rounds = boosted(training, task.tiers, task.seed, chosen, validation).best_iteration
    booster = boosted(task.learned, task.tiers, task.seed, chosen, rounds=rounds)
    return lambda inputs: np.asarray(booster.predict(inputs), np.float64)


def _loss_on_others(training: Rows, validation: Rows, task: Task, shape: Mapping[str, Any]) -> float:
    """Logloss of a shape over two folds: each half of the users at later dates, forecast by a fit to the other half.

    Users are in one half only: outcome windows of neighbouring dates overlap, and large trees would remember users.
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

    With validation rows it stops when their loss has not fallen for a while; `best_iteration` has the least loss.
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
