"""Settings of model and training: what is taken, and what each mistake says."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest
from pydantic import ValidationError

from features.core.date_ranges import DateRange, expand
from tests.data.training_examples import settings
from training.models.settings import ModelSettings
from training.settings.judging import EvaluationSettings
from training.settings.scoring import ScoringSettings


@pytest.mark.parametrize(
    ("start", "end", "every", "expected"),
    [
        ("2025-01-31", "2025-04-30", "1mo", ["2025-01-31", "2025-02-28", "2025-03-31", "2025-04-30"]),
        ("2024-11-01", "2025-02-01", "1mo", ["2024-11-01", "2024-12-01", "2025-01-01", "2025-02-01"]),
        ("2025-01-01", "2025-01-20", "1w", ["2025-01-01", "2025-01-08", "2025-01-15"]),
        ("2025-02-27", "2025-03-02", "2d", ["2025-02-27", "2025-03-01"]),
        ("2025-01-01", "2025-01-01", "1mo", ["2025-01-01"]),
    ],
)
def test_date_ranges_are_expanded(start: str, end: str, every: str, expected: list[str]) -> None:
    found = expand(DateRange(**{"from": start, "to": end, "every": every}))
    assert [str(date) for date in found] == expected


def test_dates_come_from_a_list_or_a_range() -> None:
    assert settings().dates == (dt.date(2025, 1, 1), dt.date(2025, 2, 1))
    ranged = settings(as_of={"from": "2025-01-01", "to": "2025-02-28", "every": "1mo"})
    assert ranged.dates == settings().dates
    assert ranged.all_dates[-1] == dt.date(2025, 3, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_as_of": "2025-02-01"}, "must be later than the last training date 2025-02-01"),
        ({"as_of": ["2025-02-01", "2025-01-01"]}, "ascending"),
        ({"as_of": []}, "at least one date"),
        ({"as_of": {"from": "2025-02-01", "to": "2025-01-01", "every": "1d"}}, "lies before"),
        ({"as_of": {"from": "2025-01-01", "to": "2025-02-01", "every": "1y"}}, "pattern"),
        ({"weights": "by_date"}, "'equal' or 'by_user'"),
        ({"ranks": 3}, "shards 4 must be a multiple of ranks 3"),
        ({"batch_size": 30}, "30, must be a multiple of shards 4"),
        ({"ranks": 0}, "greater than or equal to 1"),
        ({"warmup_epochs": 9}, "must not exceed epochs 4"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rates": 1}, "Extra inputs"),
    ],
)
def test_mistakes_in_training_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"later than.*multiple of ranks"):
        settings(validation_as_of="2025-01-15", ranks=3)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("perceptron", {}, "no model 'perceptron'; there are .*hybrid"),
        ("hybrid", {"unit": 3}, "'hybrid': unit: Extra inputs"),
        ("lstm", {"dropout": 1.5}, "dropout: Input should be less than 1"),
        ("cnn", {"kernel": "wide"}, "kernel: Input should be a valid integer"),
        ("lstm", {"head": "ordinal"}, "head: Input should be 'softmax', 'corn' or 'cumulative'"),
        ("transformer", {"head_size": 7}, "head_size: Input should be a multiple of 2"),
    ],
)
def test_mistakes_in_the_model_are_named(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings(name=name, parameters=parameters)


def test_model_parameters_are_resolved_with_their_defaults() -> None:
    resolved = ModelSettings(name="hybrid", parameters={"units": 7}).resolved()
    assert resolved["units"] == 7
    assert resolved["dropout"] > 0


def test_batch_per_rank_scales_batch_and_learning_rate_with_the_ranks() -> None:
    """Goyal et al. 2017: k times the rows, k times the rate; with a global batch neither depends on the ranks."""
    fixed, growing = settings(ranks=2), settings(ranks=2, batch="per_rank")
    assert (fixed.global_batch, fixed.peak_learning_rate) == (32, 0.005)
    assert (growing.global_batch, growing.peak_learning_rate) == (64, 0.01)


def test_evaluation_and_scoring_reject_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        EvaluationSettings(as_of="2025-06-01", max_users=10, calibration_bins=10, bins=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ScoringSettings(model_version="latest", rows_per_range=0, model_rows=256, padding=0.15, xla=False)


def test_settings_need_no_tensorflow() -> None:
    code = (
        "import sys, training.settings.fitting, training.bundles.bundle_folder, training.models as m\n"
        "m.parameters_class('hybrid')\n"
        "assert not {'tensorflow', 'keras', 'horovod', 'pyspark'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
