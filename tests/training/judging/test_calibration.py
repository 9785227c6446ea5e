"""Calibration: what it mends, what it leaves alone, and an oracle that searches by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from tests.data.forecasts import TIERS, drawn_forecasts
from training.judging.calibration import Calibration, cross_fitted, fit
from training.settings.judging import CalibrationSettings

TEMPERATURE = CalibrationSettings(method="temperature", least_rows=100)
VECTOR = CalibrationSettings(method="vector", least_rows=100)


def bent(truth: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Probabilities that are wrong by a temperature and a shift of each current tier's own."""
    scales, shifts = np.array([0.3, 1.0, 2.5]), np.array([[0, 1, 0], [0, 0, 0], [0.5, 0, -1]])
    return np.asarray(softmax(scales[current][:, None] * np.log(truth) + shifts[current], axis=1))


def test_vector_scaling_finds_the_truth_again_in_each_tier() -> None:
    truth, current, outcome = drawn_forecasts(60_000)
    mended = fit(bent(truth, current), current, outcome, VECTOR)(bent(truth, current), current)
    assert np.abs(mended - truth).mean() < 0.01
    assert np.abs(mended.sum(axis=1) - 1).max() < 1e-12
    alone = fit(bent(truth, current), current, outcome, TEMPERATURE)(bent(truth, current), current)
    assert log_loss(outcome, mended) < log_loss(outcome, alone) < log_loss(outcome, bent(truth, current))


def test_temperature_is_the_best_of_all_that_were_tried() -> None:
    truth, _, outcome = drawn_forecasts(4000)
    sure, current = softmax(np.log(truth) / 0.3, axis=1), np.zeros(len(truth), int)
    found = fit(sure, current, outcome, TEMPERATURE)
    tried = np.linspace(0.1, 1, 181)
    best = tried[np.argmin([log_loss(outcome, softmax(np.log(sure) * scale, axis=1)) for scale in tried])]
    assert found.scales[0] == pytest.approx(best, abs=0.01)
    assert found.shifts == ((0.0,) * TIERS,) * TIERS


def test_a_tier_with_few_rows_is_mended_like_all_together() -> None:
    truth, current, outcome = drawn_forecasts(3000)
    current[:] = np.where(np.arange(3000) < 99, 2, current % 2)
    found = fit(bent(truth, current), current, outcome, VECTOR)
    of_all = fit(bent(truth, current), np.zeros(3000, int), outcome, VECTOR)
    assert (found.scales[2], found.shifts[2]) == (of_all.scales[0], of_all.shifts[0])
    assert found.scales[0] != found.scales[1] != found.scales[2]


def test_bad_input_a_class_that_never_occurs_stays_possible() -> None:
    truth, current, outcome = drawn_forecasts(3000)
    outcome = np.minimum(outcome, 1)
    found = fit(truth, current, outcome, VECTOR)
    assert found.shifts == ((0.0,) * TIERS,) * TIERS
    assert (found(truth, current)[:, 2] > 0).all()


@pytest.mark.parametrize("rows", [0, 3000])
def test_none_changes_nothing(rows: int) -> None:
    truth, current, outcome = drawn_forecasts(max(rows, 1))
    truth, current, outcome = truth[:rows], current[:rows], outcome[:rows]
    method = CalibrationSettings(method="none" if rows else "vector", least_rows=1)
    np.testing.assert_allclose(fit(truth, current, outcome, method)(truth, current), truth, atol=1e-12)


def test_a_probability_of_zero_and_the_text_form() -> None:
    found = Calibration((0.5, 1.0, 2.0), ((0.0, 0.1, 0.2),) * 3)
    mended = found(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), np.array([0, 2]))
    assert np.isfinite(mended).all()
    assert Calibration.from_dict(found.to_dict()) == found


def test_each_half_is_mended_by_the_other() -> None:
    truth, current, outcome = drawn_forecasts(2000)
    half = np.arange(2000) % 2 == 0
    mended = cross_fitted(truth, current, outcome, half, VECTOR)
    one = fit(truth[half], current[half], outcome[half], VECTOR)
    np.testing.assert_array_equal(mended[~half], one(truth[~half], current[~half]))
