"""Baselines against counts small enough to divide by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.core.errors import TrainingDataError
from training.rivals.baselines import REGISTRY, cross_fitted_markov, fit_baselines, transition_counts

COUNTS = [[6, 2, 0], [1, 4, 1], [0, 1, 2]]
"""17 members; 12 stayed; outcomes 7, 7, 3."""


def test_majority_gives_everybody_the_smoothed_outcome_shares() -> None:
    counts = [[6, 3, 0], [0, 4, 1], [0, 1, 2]]
    found = fit_baselines(counts)["majority"].predict([0, 2])
    assert found == pytest.approx(np.array([[7, 9, 4]] * 2) / 20)
    assert found.argmax(axis=1).tolist() == [1, 1]


def test_stays_gives_the_share_of_stayers_and_spreads_the_rest() -> None:
    found = fit_baselines(COUNTS)["stays"].predict([1, 0])
    p = 13 / 19
    assert found == pytest.approx(np.array([[(1 - p) / 2, p, (1 - p) / 2], [p, (1 - p) / 2, (1 - p) / 2]]))


@pytest.mark.parametrize("k", range(2, 7))
def test_stays_forecasts_the_current_tier_even_where_nobody_stayed(k: int) -> None:
    moved = np.full((k, k), 100) - np.eye(k, dtype=int) * 100
    found = fit_baselines(moved)["stays"].predict(range(k))
    assert found.argmax(axis=1).tolist() == list(range(k))
    assert np.isin(found.argmax(axis=1), np.arange(k)).all()


def test_markov_gives_the_smoothed_shares_of_the_current_tier() -> None:
    found = fit_baselines(COUNTS)["markov"].predict([0, 1, 2])
    assert found == pytest.approx(np.array([[7 / 11, 3 / 11, 1 / 11], [2 / 9, 5 / 9, 2 / 9], [1 / 6, 2 / 6, 3 / 6]]))


def test_markov_knows_nothing_of_a_tier_without_training_rows() -> None:
    assert fit_baselines([[5, 5], [0, 0]])["markov"].predict([1]) == pytest.approx(np.array([[0.5, 0.5]]))


@given(st.integers(2, 6).flatmap(lambda k: st.lists(st.integers(0, 50), min_size=k * k, max_size=k * k).filter(any)))
def test_every_baseline_gives_positive_probabilities_that_sum_to_one(counts: list[int]) -> None:
    k = round(len(counts) ** 0.5)
    for baseline in fit_baselines(np.reshape(counts, (k, k))).values():
        found = baseline.predict(np.arange(k))
        assert found.shape == (k, k)
        assert (found > 0).all()
        assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)


def test_counts_are_by_current_then_outcome() -> None:
    found = transition_counts([0, 0, 1, 2, 2], [1, 1, 0, 2, 2], 3)
    assert found.tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 2]]


def test_small_integers_and_no_members_are_accepted() -> None:
    markov = fit_baselines(COUNTS)["markov"]
    assert markov.predict(np.array([2], dtype=np.int8)).shape == (1, 3)
    assert markov.predict(np.array([], dtype=np.int8)).shape == (0, 3)


def test_a_new_baseline_is_one_line_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "even", lambda counts: np.full_like(counts, 1 / len(counts)))
    assert fit_baselines(COUNTS)["even"].predict([0]) == pytest.approx(np.full((1, 3), 1 / 3))


def test_no_training_rows_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TrainingDataError, match="build outcomes"):
        fit_baselines(np.zeros((3, 3)))


@pytest.mark.parametrize("counts", [[[1, 2, 3], [4, 5, 6]], [1, 2], [[5]], [[1, -1], [0, 2]], [[1, np.nan], [0, 2]]])
def test_counts_of_another_shape_or_sign_are_refused(counts: list[object]) -> None:
    with pytest.raises(ValueError, match="square table of counts"):
        fit_baselines(counts)


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_outside_the_tiers_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"must be 0\.\.2"):
        fit_baselines(COUNTS)["markov"].predict([0, rank])


def test_each_half_is_forecast_by_what_the_other_half_did() -> None:
    current, outcome = np.array([0, 0, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 1, 0])
    half = np.array([True, True, True, True, False, False])
    found = cross_fitted_markov(current, outcome, half, 2)
    # The second half moved from 0 to 1 once and from 1 to 0 once; the first 0 to 0 twice, 0 to 1 and 1 to 1 once.
    assert found == pytest.approx(np.array([[1 / 3, 2 / 3]] * 3 + [[2 / 3, 1 / 3]] + [[3 / 5, 2 / 5], [1 / 3, 2 / 3]]))
    assert cross_fitted_markov(current, outcome, np.ones(6, bool), 2) == pytest.approx(0.5)  # nobody to learn from
