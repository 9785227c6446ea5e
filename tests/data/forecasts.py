"""Forecasts whose true chances are known, and outcomes drawn from them."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

TIERS = 3


def drawn_forecasts(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True probabilities [n, K], current and outcome ranks drawn from them."""
    random = np.random.default_rng(seed)
    truth = softmax(random.normal(0, 1.5, (rows, TIERS)), axis=1)
    outcome = (random.random(rows)[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=TIERS - 1)
    return truth, random.integers(0, TIERS, rows), outcome
