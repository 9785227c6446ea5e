"""The gate: models that deserve to be refused are, with the reason, and a good one is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tests.data.forecasts import drawn_forecasts
from tests.data.training_examples import DRIFT
from training.judging.drift import Shift
from training.judging.gate import calibration_error, error_by_chance, judge, of_refit
from training.judging.verdict import Verdict
from training.rivals.baselines import fit_baselines, transition_counts
from training.settings.judging import GateSettings

TIERS = ("base", "silver", "gold")
GATE = GateSettings(
    better_than_markov=0.0, worse_than_published=0.01, calibration_error=0.03, least_members=100, drift=DRIFT
)
TRUTH, CURRENT, OUTCOME = drawn_forecasts(6000, 5)
MARKOV = fit_baselines(transition_counts(CURRENT, OUTCOME, 3))["markov"].predict(CURRENT)


def verdict(p: np.ndarray, published: np.ndarray | None = None, **bounds: float) -> Verdict:
    rivals = {"markov": MARKOV} | ({} if published is None else {"published": published})
    return judge({"model": p, **rivals}, CURRENT, OUTCOME, TIERS, GATE.model_copy(update=bounds), ["a note"])


def test_a_good_model_is_published() -> None:
    found = verdict(TRUTH)
    assert found.published
    assert found.reasons == ()
    assert found.figures["model"] < found.figures["markov"]
    assert [c.tier for c in found.calibration] == list(TIERS)
    assert found.lines("v1") == ["model v1: published", "  (a note)"]
    assert Verdict.from_dict(found.to_dict()) == found


def test_a_model_of_shuffled_labels_is_refused() -> None:
    shuffled = np.random.default_rng(1).permutation(TRUTH)
    found = verdict(shuffled)
    assert not found.published
    assert any("is not below" in reason and "of markov" in reason for reason in found.reasons)


def test_an_overconfident_model_is_refused() -> None:
    found = verdict(softmax(np.log(TRUTH) / 0.3, axis=1), better_than_markov=-9)
    assert [reason for reason in found.reasons if reason.startswith("members now in base: the calibration error")]


def test_a_model_that_says_little_more_than_nothing_is_refused() -> None:
    barely = 0.02 * TRUTH + 0.98 / 3
    assert not verdict(barely).published


def test_a_model_worse_than_the_published_one_is_refused() -> None:
    worse = 0.8 * TRUTH + 0.2 / 3
    assert verdict(worse, calibration_error=1).published
    (reason,) = verdict(worse, published=TRUTH, calibration_error=1).reasons
    assert "of published" in reason
    assert verdict(TRUTH, published=TRUTH).published


def test_a_refit_takes_over_the_verdict_unless_its_training_went_wrong() -> None:
    before = verdict(0.9 * TRUTH + 0.1 / 3, calibration_error=1)
    fine = of_refit(before, TRUTH, OUTCOME, GATE)
    assert fine.published
    assert fine.figures["refit"] < fine.figures["model"] == before.figures["model"]
    assert (fine.calibration, fine.notes, fine.bounds) == (before.calibration, before.notes, before.bounds)
    (reason,) = of_refit(before, np.full_like(TRUTH, 1 / 3), OUTCOME, GATE).reasons
    assert reason.startswith("trained anew with these members, its logloss of 1.0986 is not below the 0.")
    refused = verdict(np.full_like(TRUTH, 1 / 3))
    assert of_refit(refused, TRUTH, OUTCOME, GATE).reasons == refused.reasons != ()


def test_a_tier_that_is_never_forecast_refuses() -> None:
    p = TRUTH.copy()
    p[:, 2] = np.minimum(p[:, 2], p[:, :2].max(axis=1) * 0.99)
    p /= p.sum(axis=1, keepdims=True)
    reached = int((OUTCOME == 2).sum())
    found = verdict(p, better_than_markov=-9, calibration_error=1)
    assert found.reasons == (f"no member is forecast in gold, which {reached} members reached",)
    assert verdict(p, better_than_markov=-9, calibration_error=1, least_members=reached + 1).published


def test_a_feature_far_from_the_training_rows_refuses_with_both_figures() -> None:
    near, far = Shift("spend_30d", 9.5, 0.1, 0.0, "warning"), Shift("events", 2.0, 11.0, 0.0, "refusal")
    found = judge({"model": TRUTH, "markov": MARKOV}, CURRENT, OUTCOME, TIERS, GATE, ["a note"], [far, near])
    assert found.reasons == (
        "events has a population stability index of 2.000 (bound 9) and a distance of 11.000 standard deviations "
        "(bound 9) from the training rows",
    )
    assert found.notes[0] == "a note"
    assert found.notes[1].endswith("distance 9): spend_30d (9.500, 0.100)")
    assert Verdict.from_dict(found.to_dict()) == found
    assert judge({"model": TRUTH, "markov": MARKOV}, CURRENT, OUTCOME, TIERS, GATE, [], [near]).published


@pytest.mark.parametrize("rows", [3, 200])
def test_chance_explains_the_errors_of_outcomes_drawn_from_the_forecast(rows: int) -> None:
    p, chance = drawn_forecasts(rows, 1)[0].round(1), np.random.default_rng(0)  # equal forecasts, uneven bins
    p /= p.sum(axis=1, keepdims=True)
    errors = []
    for _ in range(200):
        drawn = (chance.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(max=p.shape[1] - 1)
        errors.append(calibration_error(p, drawn))
    assert error_by_chance(p) == pytest.approx(np.quantile(errors, 0.95), rel=1e-12)


@pytest.mark.parametrize("rows", [200, 5000])
def test_chance_alone_explains_less_with_more_rows(rows: int) -> None:
    """A perfect forecast stays below the bound of chance 19 times of 20, whatever the number of rows."""
    above = []
    for seed in range(60):
        truth, _, outcome = drawn_forecasts(rows, seed)
        above.append(calibration_error(truth, outcome) > error_by_chance(truth))
    assert sum(above) <= 9
    assert error_by_chance(drawn_forecasts(200)[0]) > 2 * error_by_chance(drawn_forecasts(5000)[0])
