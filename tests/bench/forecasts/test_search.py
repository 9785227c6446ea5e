"""The search over networks: folds that see no future, a study that is resumed, the figure of a trial, its page."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from bench.forecasts.demo import CONFIGS
from bench.forecasts.search import (
    Fold,
    OutOfTimeError,
    entry,
    finished,
    mean_loss,
    opened,
    page,
    picture,
    prepare,
    suggested,
    time_folds,
)
from features.core.errors import DateError
from jobs.running.settings_files import load
from tests.data.training_examples import plan
from training.fitting.loop import train
from training.fitting.plan import Plan
from training.models import REGISTRY

MONTHS = [dt.date(2025, m, 1) for m in range(1, 8)]
CHOSEN = {
    "network": "cnn", "head": "corn", "tier_aware": True, "embedding": 4, "dense": 32, "dropout": 0.1 + 7 * 0.05,
    "max_events": 48, "filters": 16, "learning_rate": 0.003, "weight_decay": 0.01, "average_decay": 0.0,
    "batch_size": 128, "epochs": 6,
}  # fmt: skip


def test_folds_learn_only_from_outcomes_that_had_passed() -> None:
    found = time_folds(MONTHS, horizon_days=90, count=3)
    assert [fold.validation for fold in found] == [MONTHS[6], MONTHS[4], MONTHS[3]]  # 2025-04-01 knows 2025-01-01
    assert found[0].training == tuple(MONTHS[:4])  # 2025-04-01 and 90 days end on 2025-06-30
    for fold in found:
        assert all(date + dt.timedelta(days=90) <= fold.validation for date in fold.training)
    assert time_folds(MONTHS, 90, 1) == [found[0]]


def test_bad_input_more_folds_than_dates_allow() -> None:
    with pytest.raises(DateError, match=r"5 folds were asked for, .*90 days .*2025-01-01, .* leave 4: ask for fewer"):
        time_folds(MONTHS, 90, 5)


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_bad_input_a_budget_of_zero(minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["--minutes", minutes, "--root", str(tmp_path / "search")]) == 2
    assert f"--minutes {minutes}: a search needs a budget" in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_a_study_begins_with_the_present_configuration_and_is_taken_up_again(tmp_path: Path) -> None:
    settings, database = load(CONFIGS), str(tmp_path / "search.db")
    study = opened(database, "folds")
    prepare(study, settings)
    networks = sorted(REGISTRY)
    model, training = suggested(study.ask(), networks)
    assert model.name == settings.model.name
    assert model.resolved() == settings.model.resolved()
    assert {name: getattr(settings.training, name) for name in training} == training

    again = opened(database, "folds")  # as if the first run had been killed within its trial
    prepare(again, settings)
    assert [t.state for t in again.trials] == [TrialState.FAIL]
    for _ in range(20):  # every configuration that can be suggested is a valid one
        suggested(again.ask(), networks)


def test_the_figure_of_a_trial_is_the_mean_of_its_folds(tmp_path: Path) -> None:
    plans = [_plan(tmp_path / name, seed) for name, seed in (("one", 5), ("two", 6))]
    trial = FixedTrial(CHOSEN)
    found = mean_loss(trial, plans, ["cnn"], time.time() + 600)
    model, changes = suggested(FixedTrial(CHOSEN), ["cnn"])
    own = [
        train(dataclasses.replace(p, model=model, settings=p.settings.model_copy(update=changes)))["validation_loss"]
        for p in plans
    ]
    assert trial.user_attrs["losses"] == pytest.approx(own, rel=1e-6)
    assert found == pytest.approx(np.mean(own), rel=1e-6)
    with pytest.raises(OutOfTimeError):
        mean_loss(FixedTrial(CHOSEN), plans, ["cnn"], time.time() - 1)


def _plan(folder: Path, seed: int) -> Plan:
    folder.mkdir()
    return plan(folder, seed=seed)


def test_the_page_ranks_what_was_trained_on_all_folds() -> None:
    study = optuna.create_study()
    space = {name: optuna.distributions.CategoricalDistribution([value]) for name, value in CHOSEN.items()}
    for value in (0.7, 0.6, None):
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        attributes = {"losses": [value, value]}
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=value, params=CHOSEN, distributions=space, user_attrs=attributes
            )
        )
    trials = study.get_trials()
    assert [t.number for t in finished(trials)] == [1, 0]
    text = page(trials, [Fold(tuple(MONTHS[:1]), MONTHS[4]), Fold(tuple(MONTHS[:4]), MONTHS[6])], ["cnn"])
    assert "3 trials among cnn; 2 trained on all folds, 1 given up early, 0 not done" in text
    shown = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| ")]
    assert shown == [["trial", "mean"], ["1", "0.6000"], ["0", "0.7000"]]
    assert "head: corn" in text
    assert "dropout: 0.45\n" in text
    assert len(picture(trials).axes[0].lines) == 2
