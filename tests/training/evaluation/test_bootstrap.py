"""Figures under weights against scikit-learn; intervals against what draws of whole rows give."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, cohen_kappa_score, f1_score, log_loss, roc_auc_score

from training.evaluation import bootstrap
from training.evaluation.bootstrap import FIGURES
from training.evaluation.comparison import Judged, differences
from training.evaluation.curves import BINS
from training.evaluation.metrics import evaluate

RNG = np.random.default_rng(5)
N, K = 400, 3
TIERS = ("a", "b", "c")
CURRENT = RNG.integers(0, K, N)
P = RNG.multinomial(58, [1 / 3] * K, N) + 6 * np.eye(K)[CURRENT]


P /= P.sum(axis=1, keepdims=True)  # of 64ths: sums are exact, and many members tie


OUTCOME = np.array([RNG.choice(K, p=row) for row in P])


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test draws the same, in whatever order they run."""
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def judged(**forecasts: np.ndarray) -> Judged:
    return Judged(np.arange(N), CURRENT, OUTCOME, forecasts)


def test_equal_weights_give_the_figures_of_an_evaluation() -> None:
    found = dict(zip(FIGURES, judged(own=P).figures("own", BINS).at(np.ones(N)), strict=True))
    wanted = evaluate(P, CURRENT, OUTCOME, TIERS)
    assert found == pytest.approx({name: getattr(wanted, name) for name in FIGURES})


def test_weights_count_as_in_scikit_learn() -> None:
    weight, predicted = RNG.integers(0, 4, N).astype(float), P.argmax(axis=1)
    found = dict(zip(FIGURES, judged(own=P).figures("own", BINS).at(weight), strict=True))
    up = (P * (np.arange(K) > CURRENT[:, None])).sum(axis=1)
    can = CURRENT < K - 1
    wanted = {
        "logloss": log_loss(OUTCOME, P, sample_weight=weight, labels=range(K)),
        "accuracy": accuracy_score(OUTCOME, predicted, sample_weight=weight),
        "upgrade_auc": roc_auc_score((OUTCOME > CURRENT)[can], up[can], sample_weight=weight[can]),
        "kappa": cohen_kappa_score(OUTCOME, predicted, weights="quadratic", sample_weight=weight),
        "macro_f1": f1_score(OUTCOME, predicted, average="macro", sample_weight=weight),
        "brier": brier_score_loss(OUTCOME, P, sample_weight=weight, labels=range(K), scale_by_half=False),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_intervals_are_those_of_drawn_rows() -> None:
    blurred = 0.6 * P + 0.4 / K
    found = differences([judged(own=P, blurred=blurred)], BINS, 300)["blurred"]
    losses = -np.log(P[np.arange(N), OUTCOME]) + np.log(blurred[np.arange(N), OUTCOME])
    drawn = [losses[RNG.integers(0, N, N)].mean() for _ in range(3000)]
    assert found["logloss"] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.004)
    assert set(found) == set(FIGURES)
    assert found["accuracy"] == (0.0, 0.0)  # blurring changes no most probable tier


def test_dates_of_a_member_are_drawn_together() -> None:
    """Four dates that repeat each other say no more than one; four dates of other members say twice as much."""
    blurred = 0.6 * P + 0.4 / K
    one = judged(own=P, blurred=blurred)
    others = [Judged(np.arange(N) + N * k, CURRENT, OUTCOME, one.probabilities) for k in range(4)]
    width = {
        name: np.diff(differences(dates, BINS, 300)["blurred"]["logloss"])[0]
        for name, dates in (("one", [one]), ("same", [one] * 4), ("others", others))
    }
    assert width["same"] == pytest.approx(width["one"])
    assert width["others"] == pytest.approx(width["one"] / 2, rel=0.2)


def test_a_figure_that_is_never_defined_has_no_interval() -> None:
    top, forecasts = np.full(5, 2), {"own": np.full((5, 3), 1 / 3), "other": np.eye(3)[[2] * 5]}
    found = differences([Judged(np.arange(5), top, top, forecasts)], BINS, 20)["other"]
    assert "upgrade_auc" not in found
    assert "logloss" in found


def test_a_rival_that_is_missing_at_a_date_is_left_out_and_no_draws_give_no_intervals() -> None:
    dates = [judged(own=P, here=P, gone=P), judged(own=P, here=P)]
    assert set(differences(dates, BINS, 5)) == {"here"}
    assert differences(dates, BINS, 0) == {}
    assert bootstrap.intervals([], {}, [np.arange(3)], 0) == {}
