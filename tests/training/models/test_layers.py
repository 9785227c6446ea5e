"""Heads and layers of the networks against plain loops over numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from training.models.heads import ByTier, ConditionalTiers, CumulativeTiers, tier_head
from training.models.joined_network import Cross
from training.models.parameters import NetworkParameters
from training.models.time_layers import _FASTEST, _SLOWEST, PeriodicTime, TimedAttention

keras = pytest.importorskip("keras")

CHANCE = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test draws the same, in whatever order they run."""
    CHANCE.bit_generator.state = np.random.default_rng(3).bit_generator.state


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return CHANCE.normal(scale=scale, size=shape).astype(np.float32)


@pytest.mark.parametrize("tiers", [2, 3, 5])
def test_corn_multiplies_the_chances_to_go_further(tiers: int) -> None:
    scores = _floats(50, tiers - 1, scale=3)
    found = np.array(ConditionalTiers()(scores))
    for row, probabilities in zip(scores.tolist(), found, strict=True):
        reached, wanted = 1.0, []
        for score in row:
            wanted.append(reached * (1 - _sigmoid(score)))
            reached *= _sigmoid(score)
        np.testing.assert_allclose(probabilities, [*wanted, reached], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_the_logloss_of_corn_is_the_sum_of_its_conditional_losses() -> None:
    """Task k of arXiv 2111.08851, equation 5, takes the rows that reach tier k and asks which go beyond it."""
    scores, outcome = _floats(200, 3, scale=2), CHANCE.integers(0, 4, 200)
    losses = 0.0
    for task in range(3):
        for score, came in zip(scores[:, task].tolist(), outcome.tolist(), strict=True):
            if came >= task:
                losses -= math.log(_sigmoid(score) if came > task else 1 - _sigmoid(score))
    found = keras.losses.sparse_categorical_crossentropy(outcome, ConditionalTiers()(scores))
    assert float(np.sum(found)) == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("tiers", [2, 3, 5])
def test_cumulative_tiers_are_differences_of_logistic_curves(tiers: int) -> None:
    scores, now = _floats(60, 2), CHANCE.integers(0, tiers, 60)
    layer = CumulativeTiers()
    layer(scores, tier=np.eye(tiers, dtype=np.float32)[now])
    steps = _floats(tiers, tiers - 1)
    layer.set_weights([steps])
    found = np.array(layer(scores, tier=np.eye(tiers, dtype=np.float32)[now]))
    for (place, spread), tier, probabilities in zip(scores.tolist(), now, found, strict=True):
        first, *others = steps[tier].tolist()
        thresholds = [first]
        for step in others:
            thresholds.append(thresholds[-1] + math.log1p(math.exp(step)))
        beyond = [1.0, *(_sigmoid((place - t) / math.exp(spread)) for t in thresholds), 0.0]
        np.testing.assert_allclose(probabilities, -np.diff(beyond), atol=1e-6)


def test_at_first_a_member_in_the_middle_stays() -> None:
    found = np.array(CumulativeTiers()(np.zeros((4, 2), np.float32), tier=np.eye(4, dtype=np.float32)))
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found[1:3].max(axis=1), _sigmoid(1.5) - _sigmoid(-1.5), atol=1e-6)


@pytest.mark.parametrize("layer", [ConditionalTiers, CumulativeTiers])
def test_ordinal_probabilities_hold_for_extreme_scores(layer: type) -> None:
    scores = np.array([[-90.0, 40.0], [60.0, -30.0], [-60.0, -8.0], [1e3, 6.0]], np.float32)
    with_tier = {"tier": np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]} if layer is CumulativeTiers else {}
    found = np.array(layer()(scores, **with_tier))
    assert found.shape == (4, 3)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_each_tier_scales_and_shifts_its_scores() -> None:
    scores, now = _floats(9, 2), CHANCE.integers(0, 3, 9)
    tier, layer = np.eye(3, dtype=np.float32)[now], ByTier()
    np.testing.assert_allclose(layer(scores, tier=tier), scores)
    log_scales, shifts = _floats(3, 2), _floats(3, 2)
    layer.set_weights([log_scales, shifts])
    found = np.array(layer(scores, tier=tier))
    for row, k, mended in zip(scores, now, found, strict=True):
        np.testing.assert_allclose(mended, row * np.exp(log_scales[k]) + shifts[k], rtol=1e-5)


@pytest.mark.parametrize(("head", "scores"), [("softmax", 4), ("corn", 3), ("cumulative", 2)])
def test_a_head_has_no_more_scores_than_it_needs(head: Any, scores: int) -> None:
    features, tier = keras.Input((5,)), keras.Input((4,))
    built = keras.Model([features, tier], tier_head(features, tier, 4, NetworkParameters(head=head)))
    assert built.get_layer("tier_scores").units == scores
    assert built.output_shape == (None, 4)


def test_a_cross_layer_multiplies_all_features_with_the_first() -> None:
    x, first, layer = _floats(4, 3), _floats(4, 3), Cross(2)
    layer(x, first=first)
    down, up, bias = _floats(3, 2), _floats(2, 3), _floats(3)
    layer.set_weights([down, up, bias])
    found = np.array(layer(x, first=first))
    for n in range(4):
        for k in range(3):
            inner = sum(x[n, i] * sum(down[i, r] * up[r, k] for r in range(2)) for i in range(3)) + bias[k]
            assert found[n, k] == pytest.approx(x[n, k] + first[n, k] * inner, abs=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_a_loop_over_pairs_of_events(causal: bool) -> None:
    """Each half-pair of a query and a key is a complex number, turned by the age: products see differences of ages."""
    heads, size, lengths = 2, 4, [5, 3, 1]
    steps, events = _floats(3, 5, 6), _floats(3, 5, 7)
    present = np.arange(5)[None, :] < np.array(lengths)[:, None]
    layer = TimedAttention(heads, size, causal)
    layer(steps, events=events, present=present)
    inward, outward, bias = _floats(6, 3 * heads * size, scale=0.5), _floats(heads * size, 6), _floats(6)
    layer.set_weights([inward, outward, bias])
    found = np.array(layer(steps, events=events, present=present))
    speeds = np.geomspace(_SLOWEST, _FASTEST, size // 2)
    for n, length in enumerate(lengths):
        for at in range(length):
            heard = []
            for head in range(heads):
                of = [(steps[n] @ inward).reshape(5, 3, heads, size)[:, part, head] for part in range(3)]
                query, key = (part[:, : size // 2] + 1j * part[:, size // 2 :] for part in of[:2])
                seen = range(at + 1) if causal else range(length)
                scores = []
                for other in seen:
                    turn = np.exp(1j * speeds * (events[n, at, 0] - events[n, other, 0]))
                    scores.append(float((query[at] * turn * key[other].conj()).real.sum()) / math.sqrt(size))
                weights = np.exp(np.array(scores) - max(scores))
                heard.append((weights / weights.sum()) @ of[2][list(seen)])
            np.testing.assert_allclose(found[n, at], np.concatenate(heard) @ outward + bias, atol=1e-4)


def test_periods_are_sines_of_age_and_gap_and_none_of_padding() -> None:
    events, present = _floats(2, 3, 5), np.array([[True, True, False], [True, False, False]])
    layer = PeriodicTime(2)
    layer(events, present=present)
    frequencies, phases = _floats(2, 2), _floats(2, 2)
    layer.set_weights([frequencies, phases])
    found = np.array(layer(events, present=present))
    for n, step in np.ndindex(2, 3):
        waves = [math.sin(events[n, step, c] * frequencies[c, k] + phases[c, k]) for c in range(2) for k in range(2)]
        np.testing.assert_allclose(found[n, step], waves if present[n, step] else np.zeros(4), atol=1e-5)
