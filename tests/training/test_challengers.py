"""Challengers: they learn, the validation rows choose their sizes, and one that fails is reported."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tests.training.training_examples import CONTRACT, example_rows
from training import challengers
from training.baselines import fit_baselines, transition_counts
from training.challengers import REGISTRY, Rows, inputs_of, probabilities
from training.feed import OUTCOME_RANK
from training.metrics import compare
from training.tensors import TIER_RANK

PARTS = {name: example_rows(count, seed) for seed, (name, count) in enumerate((("a", 1500), ("b", 500), ("c", 600)))}
TRAINING, VALIDATION, EVALUATED = (
    Rows(inputs_of(t, CONTRACT), t[OUTCOME_RANK].to_numpy().astype(np.int64)) for t in PARTS.values()
)
CURRENT = {name: t[TIER_RANK].to_numpy().astype(np.int64) for name, t in PARTS.items()}


def test_inputs_are_aggregates_with_their_holes_and_the_tier() -> None:
    assert EVALUATED.inputs.shape == (600, len(CONTRACT.aggregates) + 3)
    spend = PARTS["c"]["spend_90d"].to_numpy()
    np.testing.assert_allclose(EVALUATED.inputs[:, 0], np.log1p(spend))
    assert np.isnan(EVALUATED.inputs[:, 2]).sum() == PARTS["c"]["gap_mean"].null_count > 0
    np.testing.assert_array_equal(EVALUATED.inputs[:, 3:].argmax(axis=1), CURRENT["c"])


@pytest.fixture(scope="module")
def forecasts() -> dict[str, np.ndarray]:
    found, failed = probabilities(list(REGISTRY), TRAINING, VALIDATION, EVALUATED.inputs, 3, 1)
    assert not failed
    return found


@pytest.mark.parametrize("name", REGISTRY)
def test_each_beats_the_chain_of_tiers(forecasts: dict[str, np.ndarray], name: str) -> None:
    p = forecasts[name]
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)
    counts = transition_counts(CURRENT["a"], TRAINING.outcome, 3)
    markov = fit_baselines(counts)["markov"].predict(CURRENT["c"])
    assert log_loss(EVALUATED.outcome, p) < log_loss(EVALUATED.outcome, markov)


def test_equal_seeds_give_equal_forecasts(forecasts: dict[str, np.ndarray]) -> None:
    again, _ = probabilities(["lightgbm"], TRAINING, VALIDATION, EVALUATED.inputs, 3, 1)
    np.testing.assert_array_equal(again["lightgbm"], forecasts["lightgbm"])


def test_bad_input_a_challenger_that_does_not_converge_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challengers, "_ITERATIONS", 1)
    found, failed = probabilities(["logistic", "forest"], TRAINING, VALIDATION, EVALUATED.inputs, 3, 1)
    assert set(found) == {"forest"}
    assert "failed to converge" in failed["logistic"]


def test_a_tier_that_no_training_row_reached() -> None:
    few = Rows(TRAINING.inputs, np.minimum(TRAINING.outcome, 1))
    found, failed = probabilities(list(REGISTRY), few, VALIDATION, EVALUATED.inputs, 3, 1)
    assert not failed
    assert all(p.shape == (600, 3) for p in found.values())
    assert (found["logistic"][:, 2] == 0).all()


def test_intervals_leave_out_zero_only_where_one_is_better(forecasts: dict[str, np.ndarray]) -> None:
    counts = transition_counts(CURRENT["a"], TRAINING.outcome, 3)
    blurred = 0.5 * forecasts["lightgbm"] + 0.5 / 3
    others = {"same": forecasts["lightgbm"], "blurred": blurred}
    found = compare(
        forecasts["lightgbm"], CURRENT["c"], EVALUATED.outcome, CONTRACT.tiers, fit_baselines(counts), 15, others,
        {"broken": "why"}, draws=200,
    )  # fmt: skip
    assert found.intervals["same"]["logloss"] == (0.0, 0.0)
    low, high = found.intervals["blurred"]["logloss"]
    assert low < high < 0
    exact = found.model.logloss - found.challengers["blurred"].logloss
    assert low < exact < high
    assert found.failed == {"broken": "why"}
