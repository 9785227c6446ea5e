"""Fairness: figures by group against loops and fairlearn's own functions, suppression, and what chance explains."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate
from sklearn.metrics import accuracy_score

from tests.data.forecasts import drawn_forecasts
from training.evaluation import fairness
from training.evaluation.fairness import MEASURES, Fairness, assess, contacted_first
from training.settings.judging import FairnessSettings

SETTINGS = FairnessSettings.model_validate(
    {
        "contacted": 0.25,
        "smallest_group": 50,
        "least_members": 10,
        "draws": 60,
        "bounds": {
            "selection_rate": {"warning": 0.2, "refusal": None},
            "upgrade_recall": {"warning": 0.2, "refusal": 0.5},
            "accuracy": {"warning": 0.1, "refusal": 0.2},
            "calibration_gap": {"warning": 0.05, "refusal": 0.2},
        },
    }
)
TRUTH, CURRENT, OUTCOME = drawn_forecasts(2000, 7)
EVERYBODY = np.ones(len(TRUTH), bool)


def letters(shares: dict[str | None, float], seed: int = 1) -> np.ndarray:
    """Groups that have nothing to do with anything."""
    random = np.random.default_rng(seed)
    return np.array([*shares], object)[random.choice(len(shares), len(TRUTH), p=[*shares.values()])]


def assessed(names: np.ndarray, p: np.ndarray = TRUTH, outcome: np.ndarray = OUTCOME, **changes: Any) -> Fairness:
    return assess(p, CURRENT, outcome, {"letter": names}, EVERYBODY, SETTINGS.model_copy(update=changes))


def test_figures_are_those_of_fairlearns_and_sklearns_own_functions() -> None:
    names = letters({"a": 0.5, "b": 0.3, "c": 0.2})
    found = {g.name: g for g in assessed(names).groups}
    up = np.where(np.arange(3) > CURRENT[:, None], TRUTH, 0).sum(axis=1)
    below, rose = CURRENT < 2, OUTCOME > CURRENT
    contacted = below & (up >= np.sort(up[below])[::-1][round(0.25 * below.sum()) - 1])
    metrics = {"selection_rate": selection_rate, "upgrade_recall": true_positive_rate}
    oracle = MetricFrame(
        metrics=metrics, y_true=rose[below], y_pred=contacted[below], sensitive_features=names[below].astype(str)
    )
    for name, group in found.items():
        of = names == name
        assert group.members == of.sum()
        assert set(group.figures) == set(MEASURES)
        for measure in metrics:
            assert group.figures[measure].value == pytest.approx(oracle.by_group[measure][name])
        right = accuracy_score(OUTCOME[of], TRUTH[of].argmax(axis=1))
        assert group.figures["accuracy"].value == pytest.approx(right)
        gap = up[of & below].mean() - rose[of & below].mean()
        assert group.figures["calibration_gap"].value == pytest.approx(gap)
        for figure in group.figures.values():
            assert figure.low <= figure.value <= figure.high


def test_intervals_are_as_wide_as_the_standard_error_says() -> None:
    (group, _) = assessed(letters({"a": 0.5, "b": 0.5}), draws=400).groups
    accuracy = group.figures["accuracy"]
    error = np.sqrt(accuracy.value * (1 - accuracy.value) / group.members)
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_small_groups_are_suppressed_and_members_without_a_group_left_out() -> None:
    names = letters({"a": 0.4, "b": 0.3, "tiny": 0.01, None: 0.29})
    found = assess(TRUTH, CURRENT, OUTCOME, {"letter": names}, names != None, SETTINGS)  # noqa: E711 (elementwise)
    assert [g.name for g in found.groups] == ["a", "b"]
    assert found.suppressed == {"letter": ("tiny",)}
    assert "tiny" not in {x for d in found.disparities for x in (d.lowest, d.highest)}
    assert (found.evaluated, found.known) == (2000, sum(name is not None for name in names))


def test_a_figure_that_rests_on_too_few_members_is_left_out() -> None:
    names, rose = letters({"a": 0.5, "b": 0.5}), OUTCOME > CURRENT
    outcome = np.where(rose & (names == "b"), CURRENT, OUTCOME)
    outcome[np.flatnonzero(rose & (names == "b"))[:9]] = OUTCOME[rose & (names == "b")][:9]
    found = assessed(names, outcome=outcome)
    b = next(g for g in found.groups if g.name == "b")
    assert set(MEASURES) - set(b.figures) == {"upgrade_recall"}
    assert "upgrade_recall" not in {d.measure for d in found.disparities}


def test_groups_that_mean_nothing_are_even_however_tight_the_bounds() -> None:
    tight = {m: {"warning": 0.0, "refusal": 0.0} for m in MEASURES}
    settings = FairnessSettings.model_validate(SETTINGS.model_dump() | {"bounds": tight})
    beyond = 0
    for seed in range(25):
        names = letters({"a": 0.8, "b": 0.1, "c": 0.1}, seed)
        found = assess(TRUTH, CURRENT, OUTCOME, {"letter": names}, EVERYBODY, settings)
        beyond += sum(d.level != "even" for d in found.disparities)
    assert beyond <= 12  # one of 20 of 100


def test_a_group_whose_forecasts_are_spoilt_warns_or_refuses_by_the_bounds() -> None:
    names = letters({"a": 0.5, "b": 0.5})
    spoilt = np.where((names == "b")[:, None], TRUTH[:, ::-1], TRUTH)
    found = assessed(names, spoilt)
    disparity = next(d for d in found.disparities if d.measure == "accuracy")
    assert (disparity.lowest, disparity.highest, disparity.level) == ("b", "a", "refusal")
    assert disparity.difference > 0.2 > disparity.chance
    assert any(r.startswith("groups by letter: accuracy of a is 0.") for r in found.reasons())
    assert found.lines()[0] == "fairness: refused, groups are not served alike"

    lenient = {"accuracy": SETTINGS.bounds["accuracy"].model_copy(update={"refusal": None})}
    warned = assessed(names, spoilt, bounds=lenient)
    assert warned.reasons() == []
    assert [d.measure for d in warned.disparities if d.level == "warning"] == ["accuracy"]
    assert warned.lines()[0] == "fairness: with warnings"


def test_one_group_alone_has_no_disparity() -> None:
    found = assessed(letters({"a": 1.0}))
    assert (len(found.groups), found.disparities) == (1, ())
    assert found.lines() == ["fairness: within bounds"]
    assert json.loads(json.dumps(dataclasses.asdict(found)))["groups"][0]["name"] == "a"


def test_who_is_contacted_first() -> None:
    up, below = np.array([0.9, 0.1, 0.5, 0.5, 0.0, 0.8]), np.array([1, 1, 1, 1, 1, 0], bool)
    assert contacted_first(up, below, 0.2).tolist() == [True, False, False, False, False, False]
    assert contacted_first(up, below, 0.4).tolist() == [True, False, True, True, False, False]
    assert not contacted_first(up, np.zeros(6, bool), 0.4).any()


def test_chance_is_the_spread_of_random_divisions() -> None:
    """Two groups of m members each: the difference of their means is normal with variance 2 s^2 / m."""
    values, group = np.random.default_rng(2).normal(size=2000), np.repeat([0, 1], 1000)
    assert fairness._by_chance(values, group, 2000) == pytest.approx(1.96 * np.sqrt(2 / 1000), rel=0.07)


def test_bad_input_a_refusal_bound_below_the_warning_bound() -> None:
    with pytest.raises(ValueError, match=r"refusal 0\.1 lies below warning 0\.2"):
        FairnessSettings.model_validate(
            SETTINGS.model_dump() | {"bounds": {"accuracy": {"warning": 0.2, "refusal": 0.1}}}
        )
