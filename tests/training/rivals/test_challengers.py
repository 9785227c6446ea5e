"""Challengers: they learn, the validation rows choose their sizes, and one that fails is reported."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from tests.data.training_examples import CONTRACT, example_rows
from training.evaluation.comparison import Rivals, compare
from training.inputs.column_names import TIER_RANK
from training.rivals import boosted_trees, challengers
from training.rivals.baselines import fit_baselines, transition_counts
from training.rivals.challengers import REGISTRY, probabilities
from training.rivals.rows import Fitted, Rows, Task, inputs_of

PARTS = {name: example_rows(count, seed) for seed, (name, count) in enumerate((("a", 900), ("b", 500), ("c", 600)))}
TRAINING, VALIDATION, EVALUATED = (
    Rows.of(t.append_column("user_id", pa.array([f"u{i:04d}" for i in range(len(t))])), CONTRACT)
    for t in PARTS.values()
)
TASK = Task(CONTRACT, "purchase", trials=1, seed=1)
LEARNERS = [name for name in REGISTRY if name != "bg_nbd"]
CURRENT = {name: t[TIER_RANK].to_numpy().astype(np.int64) for name, t in PARTS.items()}


def test_inputs_are_aggregates_with_their_holes_and_the_tier() -> None:
    assert EVALUATED.inputs.shape == (600, len(CONTRACT.aggregates) + 3)
    spend = PARTS["c"]["spend_90d"].to_numpy()
    np.testing.assert_allclose(EVALUATED.inputs[:, 0], np.log1p(spend), rtol=1e-6)
    assert np.isnan(EVALUATED.inputs[:, 2]).sum() == PARTS["c"]["gap_mean"].null_count > 0
    np.testing.assert_array_equal(EVALUATED.inputs[:, 3:].argmax(axis=1), CURRENT["c"])


@pytest.fixture(scope="module")
def forecasts() -> dict[str, np.ndarray]:
    found, failed = probabilities(LEARNERS, TRAINING, VALIDATION, EVALUATED.inputs, TASK)
    assert not failed
    return found


@pytest.mark.parametrize("name", LEARNERS)
def test_each_beats_the_chain_of_tiers(forecasts: dict[str, np.ndarray], name: str) -> None:
    p = forecasts[name]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)
    counts = transition_counts(CURRENT["a"], TRAINING.outcome, 3)
    markov = fit_baselines(counts)["markov"].predict(CURRENT["c"])
    assert log_loss(EVALUATED.outcome, p) < log_loss(EVALUATED.outcome, markov)


def test_the_budget_of_trials_is_kept_and_a_better_shape_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[dict[str, Any]]()

    def loss(training: Rows, validation: Rows, task: Task, shape: dict[str, Any]) -> float:
        tried.append(shape)
        return float(shape["num_leaves"])

    monkeypatch.setattr(boosted_trees, "_loss_on_others", loss)
    grown = list[dict[str, Any]]()
    monkeypatch.setattr(boosted_trees, "_boosted", lambda training, validation, task, shape: grown.append(shape))
    boosted_trees.lightgbm(TRAINING, VALIDATION, dataclasses.replace(TASK, trials=9))
    assert len(tried) == 9
    assert grown == [min(tried, key=lambda shape: shape["num_leaves"])]


def test_the_simplest_that_is_about_as_good_is_taken() -> None:
    def foretelling(share: float) -> Fitted:
        right = np.random.default_rng(6).random(len(VALIDATION.outcome)) < share
        p = 0.1 + 0.7 * np.eye(3)[np.where(right, VALIDATION.outcome, 2 - VALIDATION.outcome)]
        return lambda inputs: p

    bad, near, best = (foretelling(share) for share in (0.5, 0.79, 0.8))
    assert challengers._simplest([bad, near, best], VALIDATION) == 1
    assert challengers._simplest([best, near, bad], VALIDATION) == 0


def test_once_the_sizes_are_chosen_more_rows_may_be_learned_from() -> None:
    """Learning from the training rows at last is what is done without; learning from others is not."""
    same, other = (dataclasses.replace(TASK, trials=2, learned=rows) for rows in (TRAINING, VALIDATION))
    plain = dataclasses.replace(TASK, trials=2)
    for name in LEARNERS:
        alone, again, moved = (
            challengers.REGISTRY[name](TRAINING, VALIDATION, task)(EVALUATED.inputs) for task in (plain, same, other)
        )
        np.testing.assert_allclose(again, alone, atol=1e-9, err_msg=name)
        assert np.abs(moved - alone).max() > 0.01


def test_no_user_is_in_both_halves_of_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[set[str], set[str]]]()

    def boosted(training: Rows, validation: Rows, task: Task, shape: dict[str, Any]) -> Any:
        seen.append((set(training.user), set(validation.user)))
        return lambda inputs: np.full((len(inputs), 3), 1 / 3)

    monkeypatch.setattr(boosted_trees, "_boosted", boosted)
    assert boosted_trees._loss_on_others(TRAINING, VALIDATION, TASK, {}) == pytest.approx(np.log(3))
    assert len(seen) == 2
    assert all(not learned & judged for learned, judged in seen)
    assert set.union(*(judged for _, judged in seen)) == set(VALIDATION.user)


def test_rows_count_by_their_weight() -> None:
    """A tier that only rows without weight reached is hardly forecast."""
    none = dataclasses.replace(TRAINING, weight=np.where(TRAINING.outcome == 2, 1e-9, 1.0))
    found, failed = probabilities(LEARNERS, none, VALIDATION, EVALUATED.inputs, TASK)
    assert not failed
    assert all(p[:, 2].mean() < 0.02 for p in found.values())


def test_lifetimes_are_fitted_to_the_histories_in_the_aggregates() -> None:
    names = ("buy_365d", "spend_365d", "tenure_days", "purchase_recency_days")
    rule = json.dumps({"names": ["a", "b"], "combination": "all_of", "thresholds": {"spend": [20_000_000]}})
    contract = dataclasses.replace(CONTRACT, aggregates=names, tiers=("a", "b"), tier_rule=rule, horizon_days=30)
    chance = np.random.default_rng(4)
    rate, tenure = chance.gamma(2, 0.02, 500), chance.uniform(50, 300, 500)
    bought = 1 + chance.poisson(rate * tenure)
    values = [bought, bought * chance.gamma(9, 2, 500), tenure, tenure * chance.beta(1, bought)]
    rows = pa.table({name: np.asarray(v, float) for name, v in zip(names, values, strict=True)})
    rows = rows.append_column(TIER_RANK, pa.array(np.zeros(500, np.int32)))
    task = Task(contract, "buy", 1, 1)
    found, failed = probabilities(["bg_nbd"], TRAINING, VALIDATION, inputs_of(rows, contract), task)
    assert not failed
    later = chance.poisson(rate * 30) * values[1] / bought > 20
    p = found["bg_nbd"][:, 1]
    assert p.mean() == pytest.approx(later.mean(), abs=0.05)
    assert p[later].mean() > p[~later].mean() + 0.1


def test_bad_input_a_contract_without_purchases_is_reported() -> None:
    found, failed = probabilities(["bg_nbd", "forest"], TRAINING, VALIDATION, EVALUATED.inputs, TASK)
    assert set(found) == {"forest"}
    assert "the contract lacks the aggregates purchase_Nd and spend_Nd, tenure_days" in failed["bg_nbd"]


def test_equal_seeds_give_equal_forecasts(forecasts: dict[str, np.ndarray]) -> None:
    again, _ = probabilities(["lightgbm"], TRAINING, VALIDATION, EVALUATED.inputs, TASK)
    np.testing.assert_array_equal(again["lightgbm"], forecasts["lightgbm"])


def test_bad_input_a_challenger_that_does_not_converge_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challengers, "_ITERATIONS", 1)
    found, failed = probabilities(["logistic", "forest"], TRAINING, VALIDATION, EVALUATED.inputs, TASK)
    assert set(found) == {"forest"}
    assert "failed to converge" in failed["logistic"]


def test_a_tier_that_no_training_row_reached() -> None:
    few = dataclasses.replace(TRAINING, outcome=np.minimum(TRAINING.outcome, 1))
    found, failed = probabilities(LEARNERS, few, VALIDATION, EVALUATED.inputs, TASK)
    assert not failed
    assert all(p.shape == (600, 3) for p in found.values())
    assert (found["logistic"][:, 2] == 0).all()


def test_intervals_leave_out_zero_only_where_one_is_better(forecasts: dict[str, np.ndarray]) -> None:
    counts = transition_counts(CURRENT["a"], TRAINING.outcome, 3)
    blurred = 0.5 * forecasts["lightgbm"] + 0.5 / 3
    others = {"same": forecasts["lightgbm"], "blurred": blurred}
    rivals = Rivals(fit_baselines(counts), others, {"broken": "why"})
    found = compare(forecasts["lightgbm"], CURRENT["c"], EVALUATED.outcome, CONTRACT.tiers, rivals, 15, 200)
    assert found.intervals["same"]["logloss"] == (0.0, 0.0)
    low, high = found.intervals["blurred"]["logloss"]
    assert low < high < 0
    exact = found.model.logloss - found.challengers["blurred"].logloss
    assert low < exact < high
    assert found.failed == {"broken": "why"}
