"""The teacher: trees that have not learned from the members whom they are asked about."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from features.core.errors import TrainingDataError
from tests.data.training_examples import CONTRACT, example_rows, plan
from training.fitting.teacher import Teacher, teacher_of
from training.rivals.baselines import fit_baselines, transition_counts
from training.rivals.rows import inputs_of

PARTS = 3
TRAINING, VALIDATION = example_rows(600, 1), example_rows(300, 2)
OUTCOME, PART = TRAINING["outcome_tier_rank"].to_numpy(), TRAINING["member"].to_numpy() % PARTS


def fitted(training: pa.Table) -> Teacher:
    return Teacher.fitted(training, VALIDATION, training, CONTRACT, PARTS, seed=1)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return fitted(TRAINING)


def test_it_forecasts_better_than_the_chain_of_tiers(teacher: Teacher) -> None:
    p = teacher(TRAINING)
    assert p.shape == (600, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    current = TRAINING["current_tier_rank"].to_numpy()
    markov = fit_baselines(transition_counts(current, OUTCOME, 3))["markov"].predict(current)
    assert log_loss(OUTCOME, p / p.sum(axis=1, keepdims=True)) < log_loss(OUTCOME, markov)


def test_a_member_is_forecast_by_the_trees_of_its_part(teacher: Teacher) -> None:
    inputs = inputs_of(TRAINING, CONTRACT)
    for number, text in enumerate(teacher.trees):
        theirs = np.asarray(lightgbm.Booster(model_str=text).predict(inputs))
        np.testing.assert_allclose(teacher(TRAINING)[number == PART], theirs[number == PART], atol=1e-6)


@pytest.mark.parametrize("number", range(PARTS))
def test_what_became_of_a_member_has_no_part_in_its_forecast(teacher: Teacher, number: int) -> None:
    turned = np.where(number == PART, 2 - OUTCOME, OUTCOME).astype(np.int32)
    place = TRAINING.schema.get_field_index("outcome_tier_rank")
    other = fitted(TRAINING.set_column(place, TRAINING.schema.field(place), pa.array(turned)))
    inputs = inputs_of(TRAINING, CONTRACT)

    def first_trees(of: Teacher, part: int) -> np.ndarray:  # how many there are depends on all members
        return np.asarray(lightgbm.Booster(model_str=of.trees[part]).predict(inputs, num_iteration=3))

    for part in range(PARTS):
        equal = np.array_equal(first_trees(teacher, part), first_trees(other, part))
        assert equal == (part == number)


def test_it_is_the_same_when_fitted_or_loaded_again(teacher: Teacher, tmp_path: Path) -> None:
    assert fitted(TRAINING) == teacher
    teacher.save(str(tmp_path / "teacher.json"))
    loaded = Teacher.load(str(tmp_path / "teacher.json"))
    assert loaded == teacher
    np.testing.assert_array_equal(loaded(VALIDATION), teacher(VALIDATION))


def test_it_is_fitted_to_as_many_staged_rows_as_are_allowed(tmp_path: Path) -> None:
    made = plan(tmp_path, rows=600)
    few, all_rows = (
        teacher_of(made.training, made.validation, made.training, CONTRACT, PARTS, most, seed=1)
        for most in (100, 10_000)
    )
    assert few != all_rows
    assert "leaf_count" in all_rows.trees[0]


def test_how_many_trees_is_told_by_other_rows_than_they_are_fitted_to(teacher: Teacher) -> None:
    more = pa.concat_tables([TRAINING, VALIDATION])
    other = Teacher.fitted(TRAINING, VALIDATION, more, CONTRACT, PARTS, seed=1)

    def trees(of: Teacher) -> list[int]:
        return [lightgbm.Booster(model_str=text).num_trees() for text in of.trees]

    assert trees(other) == trees(teacher)
    assert other != teacher


def test_bad_input_members_of_one_part_have_no_teacher() -> None:
    alone = TRAINING.filter(pa.array(PART == 1))
    with pytest.raises(TrainingDataError, match=r"200 training rows .* set training.teacher_weight to 0"):
        fitted(alone)
