"""Rolling folds: dates that never look ahead, clear errors, and a summary over what the folds have."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.core.errors import DateError
from tests.data.training_examples import settings
from training.evaluation import folds
from training.evaluation.comparison import Judged, Rivals, compare
from training.evaluation.folds import Fold, Judgement, rolling
from training.report import folds_page
from training.rivals.baselines import fit_baselines, transition_counts
from training.settings.judging import FoldSettings

WEEKLY = {"as_of": {"from": "2025-01-01", "to": "2025-02-26", "every": "1w"}, "validation_as_of": "2025-03-05"}
EVALUATED = dt.date(2025, 4, 9)


def plan(count: int, every: str = "2w", horizon: int = 30, **changes: Any) -> list[Fold]:
    return rolling(settings(**{**WEEKLY, **changes}), EVALUATED, horizon, FoldSettings(count=count, every=every))


def test_the_first_fold_has_the_dates_of_the_settings_and_the_others_earlier_ones() -> None:
    first, second, third = plan(3)
    assert first.training == settings(**WEEKLY).dates
    assert (first.validation, first.evaluated) == (dt.date(2025, 3, 5), EVALUATED)
    assert second.training == first.training[:-2]
    assert second.validation == dt.date(2025, 2, 19)
    assert third.evaluated == EVALUATED - dt.timedelta(weeks=4)


def test_dates_of_a_list_are_moved_and_none_lies_before_the_first() -> None:
    monthly = {"as_of": ["2025-01-01", "2025-02-01", "2025-03-01"], "validation_as_of": "2025-03-05"}
    _, second = plan(2, "1mo", **monthly)
    assert second.training == (dt.date(2025, 1, 1), dt.date(2025, 2, 1))
    assert second.validation == dt.date(2025, 2, 5)


@given(count=st.integers(1, 5), weeks=st.integers(1, 3), horizon=st.integers(1, 35))
def test_no_outcome_that_a_fold_learns_from_lies_after_its_evaluated_date(count: int, weeks: int, horizon: int) -> None:
    try:
        found = plan(count, f"{weeks}w", horizon)
    except DateError as error:
        assert "more than the training dates allow" in str(error)  # noqa: PT017  (a property, not an expectation)
        assert 8 - weeks * (count - 1) < 0
        return
    assert [fold.number for fold in found] == list(range(1, count + 1))
    for fold in found:
        assert max(*fold.training, fold.validation) + dt.timedelta(days=horizon) <= fold.evaluated
        assert max(fold.training) < fold.validation


def test_bad_input_folds_that_would_look_into_the_future() -> None:
    with pytest.raises(DateError, match=r"fold 1 would look into the future: .* until 2025-04-19, after .* 2025-04-09"):
        plan(2, horizon=45)


def test_bad_input_fewer_dates_than_folds() -> None:
    with pytest.raises(DateError, match=r"6 folds, 2w apart, are more .* fold 6 would have none .* ask for 5 or fewer"):
        plan(6)


def test_overlap_is_that_of_the_nearest_two() -> None:
    found = plan(3)
    assert folds.overlap(found, 30) == 16
    assert folds.overlap(found, 14) == 0
    assert folds.overlap(found[:1], 30) == 0


def judgements() -> list[Judgement]:
    """Three folds of 50 members; the second has no forest, and nobody could move up in the third."""
    chance, found = np.random.default_rng(1), []
    for fold in plan(3):
        current = chance.integers(0, 3, 50) if fold.number < 3 else np.full(50, 2)
        outcome = np.where(chance.random(50) < 0.7, current, chance.integers(0, 3, 50))
        p = 0.2 / 3 + 0.8 * np.eye(3)[current]
        others = {"forest": np.full((50, 3), 1 / 3)} if fold.number != 2 else {}
        baselines = fit_baselines(transition_counts(current, outcome, 3))
        failed = {} if others else {"forest": "it would not grow"}
        comparison = compare(p, current, outcome, ("a", "b", "c"), Rivals(baselines, others, failed), 15, 20)
        judged = Judged(
            np.arange(50), current, outcome, {"model": p, "markov": baselines["markov"].predict(current), **others}
        )
        found.append(Judgement(fold, f"v{fold.number}", comparison, judged))
    return found


def test_spread_is_over_the_folds_that_have_a_figure() -> None:
    found = judgements()
    spread = folds.spreads(found)
    assert list(spread) == ["network", "majority", "stays", "markov", "forest"]
    losses = [one.comparison.model.logloss for one in found]
    own = spread["network"]["logloss"]
    assert (own.folds, own.mean, own.deviation) == (3, np.mean(losses), pytest.approx(np.std(losses, ddof=1)))
    assert (own.least, own.greatest) == (min(losses), max(losses))
    assert spread["network"]["upgrade_auc"].folds == 2
    assert spread["forest"]["logloss"].folds == 2
    alone = folds.spreads(found[:1])["network"]["logloss"]
    assert alone.deviation is None


def test_the_page_has_a_table_for_each_fold_and_one_over_all() -> None:
    found = judgements()
    intervals = folds.over_folds(found, 15, 20)
    assert set(intervals) == {"markov"}  # the forest is missing in a fold
    page = "\n".join(folds_page.page(found, folds.spreads(found), intervals, 30))
    for said in (
        "### Fold 2: evaluated as of 2025-03-26, 50 members",
        "forest could not be fitted: it would not grow",
        "### Over 3 folds: mean and standard deviation",
        "share 16 of 30 days",
        "### Network minus rival, over the folds",
    ):
        assert said in page
    assert page.count("| network ") == 4
    assert "share" not in "\n".join(folds_page.page(found, folds.spreads(found), intervals, 14))
