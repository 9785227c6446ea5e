"""Metrics against oracles written out by hand from their definitions, in plain Python."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from training.evaluation.comparison import Rivals, compare
from training.evaluation.curves import gain_curve, reliability_by_tier, reliability_curve
from training.evaluation.metrics import Scores, evaluate, summarise_forecast
from training.evaluation.tier_moves import movement_probabilities, predicted_ranks
from training.rivals.baselines import fit_baselines, transition_counts

Rows = tuple[list[list[float]], list[int], list[int]]
TIERS = ("base", "silver", "gold", "platinum", "ruby", "diamond")

WORKED: Rows = ([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], [0, 0, 1, 2], [0, 1, 1, 2])


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Probabilities from a coarse grid, so that ties are common, with any current and outcome ranks."""
    k, n = draw(st.integers(2, 6)), draw(st.integers(1, 30))
    weights = draw(st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n))
    ranks = st.lists(st.integers(0, k - 1), min_size=n, max_size=n)
    return [[w / sum(row) for w in row] for row in weights], draw(ranks), draw(ranks)


def oracle_auc(scores: Sequence[float], happened: Sequence[bool]) -> float | None:
    """Share of (happened, did not) pairs in which the first scores higher; a tie counts half."""
    pairs = [
        (s, t)
        for s, h in zip(scores, happened, strict=True)
        if h
        for t, g in zip(scores, happened, strict=True)
        if not g
    ]
    return sum(0.5 if s == t else float(s > t) for s, t in pairs) / len(pairs) if pairs else None


def oracle_kappa(truth: list[int], predicted: list[int]) -> float | None:
    n = len(truth)
    seen = sum((t - p) ** 2 for t, p in zip(truth, predicted, strict=True)) / n
    by_chance = sum((t - p) ** 2 for t in truth for p in predicted) / n**2
    return 1 - seen / by_chance if by_chance else None


def oracle_calibration_error(probabilities: list[list[float]], truth: list[int], bins: int) -> float:
    """Bins by counting how many rows lie below each edge; each class weighted alike."""
    n, k = len(truth), len(probabilities[0])
    total = 0.0
    for rank in range(k):
        p = [row[rank] for row in probabilities]
        edges = [sorted(p)[b * n // bins] for b in range(1, bins)]
        groups: dict[int, list[int]] = {}
        for i, value in enumerate(p):
            groups.setdefault(sum(value >= edge for edge in edges), []).append(i)
        for members in groups.values():
            gap = sum(p[i] for i in members) - sum(truth[i] == rank for i in members)
            total += abs(gap) / n
    return total / k


def oracle_tiers(
    truth: list[int], predicted: list[int], k: int
) -> list[tuple[float | None, float | None, float | None]]:
    found = []
    for rank in range(k):
        hits = sum(t == p == rank for t, p in zip(truth, predicted, strict=True))
        said, were = predicted.count(rank), truth.count(rank)
        found.append(
            (
                hits / said if said else None,
                hits / were if were else None,
                2 * hits / (said + were) if said + were else None,
            )
        )
    return found


def assert_same(found: float | None, wanted: float | None) -> None:
    assert (found is None) == (wanted is None), (found, wanted)
    if found is not None and wanted is not None:
        assert found == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(rows(), st.integers(2, 15))
def test_random_rows_agree_with_the_oracles(case: Rows, bins: int) -> None:
    p, now, truth = case
    n, k = len(p), len(p[0])
    found = evaluate(p, now, truth, TIERS[:k], bins)
    # The oracle starts from the same scaled probabilities: a tie is a matter of the last bit.
    p = (np.array(p) / np.array(p).sum(axis=1, keepdims=True)).tolist()
    predicted = [row.index(max(row)) for row in p]

    assert found.accuracy == pytest.approx(sum(a == b for a, b in zip(predicted, truth, strict=True)) / n)
    clipped = [min(max(row[t], 2.0**-52), 1 - 2.0**-52) for row, t in zip(p, truth, strict=True)]
    assert found.logloss == pytest.approx(sum(-math.log(q) for q in clipped) / n, abs=1e-9)
    squares = [sum((q - (rank == t)) ** 2 for rank, q in enumerate(row)) for row, t in zip(p, truth, strict=True)]
    assert found.brier == pytest.approx(sum(squares) / n)
    assert_same(found.kappa, oracle_kappa(truth, predicted))
    assert found.calibration_error == pytest.approx(oracle_calibration_error(p, truth, bins), abs=1e-9)

    tiers = oracle_tiers(truth, predicted, k)
    for score, wanted in zip(found.per_tier, tiers, strict=True):
        for value, want in zip((score.precision, score.recall, score.f1), wanted, strict=True):
            assert_same(value, want)
    used = [t for t in tiers if t[2] is not None]
    for i, macro in enumerate((found.macro_precision, found.macro_recall, found.macro_f1)):
        assert macro == pytest.approx(sum(t[i] or 0.0 for t in used) / len(used))

    rising = [i for i in range(n) if now[i] < k - 1]
    falling = [i for i in range(n) if now[i] > 0]
    up, down = movement_probabilities(p, now)
    assert_same(found.upgrade_auc, oracle_auc([up[i] for i in rising], [truth[i] > now[i] for i in rising]))
    assert_same(found.downgrade_auc, oracle_auc([down[i] for i in falling], [truth[i] < now[i] for i in falling]))

    for table, pairs in [
        (found.confusion, zip(truth, predicted, strict=True)),
        (found.flows_predicted, zip(now, predicted, strict=True)),
        (found.flows_outcome, zip(now, truth, strict=True)),
    ]:
        seen = list(pairs)
        assert table == tuple(tuple(seen.count((i, j)) for j in range(k)) for i in range(k))


@settings(max_examples=60, deadline=None)
@given(rows(), st.randoms())
def test_order_of_rows_changes_nothing(case: Rows, random: Any) -> None:
    order = list(range(len(case[0])))
    random.shuffle(order)
    shuffled = [[part[i] for i in order] for part in case]
    tiers = TIERS[: len(case[0][0])]
    first, second = evaluate(*case, tiers), evaluate(*shuffled, tiers)
    assert (first.tiers, first.rows) == (second.tiers, second.rows)
    for field in dataclasses.fields(Scores)[2:]:
        assert_same(getattr(first, field.name), getattr(second, field.name))
    assert first.confusion == second.confusion
    if first.upgrade_gain and second.upgrade_gain:
        assert first.upgrade_gain.found == pytest.approx(second.upgrade_gain.found)


@settings(max_examples=60, deadline=None)
@given(rows())
def test_everything_is_json_without_nan(case: Rows) -> None:
    tiers = TIERS[: len(case[0][0])]
    for result in (evaluate(*case, tiers), summarise_forecast(case[0], case[1], tiers)):
        text = json.dumps(dataclasses.asdict(result), allow_nan=False)
        assert json.loads(text)["tiers"] == list(tiers)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_movements_and_the_current_tier_add_up_to_one(case: Rows) -> None:
    p, now, _ = case
    up, down = movement_probabilities(p, now)
    for i, row in enumerate(p):
        assert up[i] + down[i] + row[now[i]] == pytest.approx(1, abs=1e-12)
        assert up[i] == pytest.approx(sum(row[now[i] + 1 :]))
        assert not (now[i] == len(row) - 1 and up[i])
        assert not (now[i] == 0 and down[i])


def test_a_worked_example() -> None:
    found = evaluate(*WORKED, TIERS[:3])
    assert found.accuracy == 0.75
    assert found.logloss == pytest.approx(-(math.log(0.7) + math.log(0.4) + 2 * math.log(0.6)) / 4)
    assert found.brier == pytest.approx((0.14 + 0.62 + 0.26 + 0.24) / 4)
    assert found.kappa == pytest.approx(1 - (1 / 4) / (20 / 16))
    assert found.upgrade_auc == 1.0  # p_upgrade .3, .5, .3: the one who rose has .5
    assert found.downgrade_auc is None  # nobody fell
    assert found.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert found.flows_outcome == ((1, 1, 0), (0, 1, 0), (0, 0, 1))
    assert [s.members for s in found.per_tier] == [1, 2, 1]
    assert [s.predicted for s in found.per_tier] == [2, 1, 1]


@pytest.mark.parametrize("k", range(2, 7))
def test_a_perfect_forecast(k: int) -> None:
    truth = list(range(k)) * 3
    now = [*range(k), *([0] * k), *([k - 1] * k)]
    found = evaluate(np.eye(k)[truth], now, truth, TIERS[:k])
    assert found.accuracy == found.macro_f1 == found.kappa == found.upgrade_auc == found.downgrade_auc == 1.0
    assert found.brier == found.calibration_error == 0.0
    assert found.logloss == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("k", range(2, 7))
def test_one_outcome_class_leaves_undefined_figures_none(k: int) -> None:
    found = evaluate(np.eye(k)[[0, 0, 0]], [0, 0, 0], [0, 0, 0], TIERS[:k])
    assert found.kappa is found.upgrade_auc is found.downgrade_auc is found.upgrade_gain is None
    assert found.per_tier[1].precision is found.per_tier[1].recall is found.per_tier[1].f1 is None
    assert found.macro_f1 == found.accuracy == 1.0


def test_members_of_the_top_tier_only_cannot_upgrade() -> None:
    found = evaluate([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2]], [2, 2], [2, 0], TIERS[:3])
    assert found.upgrade_auc is found.upgrade_reliability is found.upgrade_gain is None
    assert found.downgrade_auc == 1.0


def test_a_certain_and_wrong_forecast_costs_a_bounded_logloss() -> None:
    assert evaluate([[1.0, 0.0]], [0], [1], TIERS[:2]).logloss == pytest.approx(36.04, abs=0.01)


def test_float32_rows_are_scaled_to_one() -> None:
    p = np.array([[0.1, 0.2, 0.7]] * 5, dtype=np.float32)
    assert evaluate(p, [0] * 5, [0, 1, 2, 2, 2], TIERS[:3]).rows == 5


def test_equal_probabilities_predict_the_lower_tier() -> None:
    assert predicted_ranks([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]).tolist() == [0, 1]


def test_reliability_bins_hold_equally_many_rows() -> None:
    p = np.linspace(0, 1, 60)
    curve = reliability_curve(p, p > 0.5, bins=15)
    assert curve.rows == (4,) * 15
    assert curve.predicted[0] == pytest.approx(p[:4].mean())
    assert curve.observed[0] == 0
    assert curve.observed[-1] == 1


def test_reliability_keeps_equal_probabilities_in_one_bin() -> None:
    curve = reliability_curve(np.full(10, 0.3), np.arange(10) < 4)
    assert curve.rows == (10,)
    assert curve.error == pytest.approx(0.1)


def test_gain_of_a_perfect_order_a_constant_and_a_reversed_order() -> None:
    happened = np.arange(100) < 20
    best, flat, worst = (gain_curve(score, happened) for score in (-np.arange(100.0), np.zeros(100), np.arange(100.0)))
    assert best is not None and flat is not None and worst is not None  # noqa: PT018
    assert (best.found_at(0.1), best.found_at(0.2), best.lift_at(0.2)) == pytest.approx((0.5, 1.0, 5.0))
    assert flat.found == pytest.approx(flat.contacted)
    assert worst.found_at(0.8) == pytest.approx(0)
    assert (best.eligible, best.upgrades) == (100, 20)


def test_forecast_adds_up_what_probabilities_say() -> None:
    found = summarise_forecast(WORKED[0], WORKED[1], TIERS[:3])
    assert found.rows == 4
    assert found.flows == ((2, 0, 0), (0, 1, 0), (0, 0, 1))
    assert np.array(found.expected).sum(axis=0) == pytest.approx(np.sum(WORKED[0], axis=0))
    assert found.expected_upgrades == pytest.approx(0.3 + 0.5 + 0.3)
    assert found.expected_downgrades == pytest.approx(0.1 + 0.4)
    assert [sum(row) for row in found.upgrade_scores] == [2, 1, 1]
    assert found.upgrade_scores[2][0] == 1  # the top tier's chance to rise is 0


def test_a_probability_rounded_above_one_is_still_counted() -> None:
    p = np.array([[0.0, *[0.1] * 3, 0.7]])
    assert sum(summarise_forecast(p, [0], TIERS[:5]).upgrade_scores[0]) == 1


def test_baselines_are_evaluated_on_the_same_rows() -> None:
    p, now, truth = WORKED
    found = compare(p, now, truth, TIERS[:3], Rivals(fit_baselines(transition_counts(now, truth, 3))))
    assert list(found.baselines) == ["majority", "stays", "markov"]
    assert {e.rows for e in (found.model, *found.baselines.values())} == {4}
    assert found.baselines["stays"].accuracy == 0.75
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_intervals_of_observed_shares_are_wilsons() -> None:
    random = np.random.default_rng(4)
    p = random.random(400)
    curve = reliability_curve(p, random.random(400) < p, 7)
    for share, n, ends in zip(curve.observed, curve.rows, curve.intervals(), strict=True):
        expected = binomtest(round(share * n), n).proportion_ci(method="wilson")
        assert ends == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_standings_are_the_calibration_errors_of_each_current_tier() -> None:
    random = np.random.default_rng(5)
    p, now = random.dirichlet([1, 1, 1], 900), random.choice([0, 2], 900)
    truth = np.array([random.choice(3, p=row) for row in p])
    found = reliability_by_tier(p, now, truth, TIERS[:3], 15, 100)
    assert [(s.tier, s.members) for s in found] == [("base", int((now == 0).sum())), ("gold", int((now == 2).sum()))]
    for tier, rank in zip(found, (0, 2), strict=True):
        alone = evaluate(p[now == rank], now[now == rank], truth[now == rank], TIERS[:3], 15)
        assert tier.calibration_error == pytest.approx(alone.calibration_error)
        assert tier.interval is not None
        low, high = tier.interval
        assert 0 <= low < high < tier.calibration_error + 0.03  # the truth is 0: what is seen is chance
    assert all(s.interval is None for s in reliability_by_tier(p, now, truth, TIERS[:3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.empty((0, 3)), "current": [], "outcome": []}, "at least one member"),
        ({"probabilities": [[0.5, 0.5]]}, r"must be \[members, 3\]"),
        ({"probabilities": [[0.5, 0.4, 0.0]]}, "row 0 .* not a distribution"),
        ({"probabilities": [[1.2, -0.2, 0.0]]}, "not a distribution"),
        ({"probabilities": [[math.nan, 0.5, 0.5]]}, "not a distribution"),
        ({"current": [3]}, r"current ranks must be 0\.\.2, found 3"),
        ({"current": [-1]}, r"current ranks must be 0\.\.2, found -1"),
        ({"outcome": [0, 1]}, "outcome ranks must be 1 integers"),
        ({"outcome": [0.5]}, "outcome ranks must be 1 integers"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {"probabilities": [[0.2, 0.3, 0.5]], "current": [0], "outcome": [1], "tiers": TIERS[:3]}
    with pytest.raises(ValueError, match=message):
        evaluate(**(sound | change))
