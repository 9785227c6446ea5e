"""Drift: both figures against independent oracles, counts that add up, and what is told of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter
from scipy.stats import wasserstein_distance

from tests.data.training_examples import CONTRACT, example_rows
from training.judging import drift
from training.judging.drift import PREDICTED_TIER, Counted, Profile, Shift
from training.settings.judging import DriftBounds, DriftSettings

BOUNDS = {"warning": {"psi": 0.25, "distance": 0.5}, "refusal": {"psi": 1, "distance": 1.5}}
SETTINGS = DriftSettings.model_validate({"bins": 20, "sample_rows": 1000, **BOUNDS, "expected": ["tenure*"]})
RANDOM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test draws the same, in whatever order they run."""
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state


def profile_of(bins: int = 20, **features: np.ndarray) -> Profile:
    rows = len(next(iter(features.values())))
    return Profile.of({**features, PREDICTED_TIER: RANDOM.integers(0, 3, rows).astype(float)}, 3, bins)


def shift_of(before: np.ndarray, now: np.ndarray, name: str = "x") -> Shift:
    profile = profile_of(**{name: before})
    found = profile.count({name: now, PREDICTED_TIER: RANDOM.integers(0, 3, len(now)).astype(float)})
    return {s.feature: s for s in drift.shifts(profile, found, SETTINGS)}[name]


def test_the_stability_index_by_hand() -> None:
    """Half a row is added to each bin: shares 10.5, 20.5 and .5 of 31.5 against 20.5, 10.5 and .5 of 31.5."""
    p, q = 10.5 / 31.5, 20.5 / 31.5
    assert drift.stability_index((10, 20, 0), (20, 10, 0)) == pytest.approx(2 * (q - p) * math.log(q / p))
    assert drift.stability_index((10, 20, 7), (10, 20, 7)) == 0.0
    assert drift.stability_index((10, 20), (20, 10)) == drift.stability_index((20, 10), (10, 20))


def test_equal_samples_have_neither_index_nor_distance() -> None:
    values = RANDOM.normal(size=500)
    same = shift_of(values, values)
    assert (same.psi, same.distance, same.level) == (0.0, 0.0, "steady")


@pytest.mark.parametrize("moved", [0.3, 1.0, 4.0])
def test_the_distance_is_that_of_scipy_in_standard_deviations(moved: float) -> None:
    before, now = 5 + 2 * RANDOM.normal(size=4000), 5 + 2 * moved + 2 * RANDOM.normal(size=3000)
    whole = wasserstein_distance(before, now) / before.std()
    assert shift_of(before, now).distance == pytest.approx(whole, abs=0.02)
    assert whole == pytest.approx(moved, abs=0.1)


def test_chance_alone_stays_below_what_chance_explains() -> None:
    shifts = [shift_of(RANDOM.gamma(2, size=800), RANDOM.gamma(2, size=300)) for _ in range(300)]
    assert sum(s.psi > s.chance for s in shifts) <= 3
    assert np.mean([s.psi for s in shifts]) == pytest.approx(19 * (1 / 800 + 1 / 300), rel=0.15)


def test_few_members_need_a_larger_index_to_be_far() -> None:
    before = RANDOM.normal(size=2000)
    few = [shift_of(before, RANDOM.normal(size=40)) for _ in range(20)]
    assert max(s.psi for s in few) > 0.25
    assert {s.level for s in few} == {"steady"}


def test_levels_follow_either_figure_and_what_is_expected() -> None:
    before = RANDOM.normal(size=2000)
    assert shift_of(before, before + 0.7).level == "warning"
    assert shift_of(before, before + 3).level == "refusal"
    assert shift_of(before, before + 3, "tenure_days").level == "expected"
    assert shift_of(before, np.where(RANDOM.random(2000) < 0.6, np.nan, before)).level == "refusal"  # values get lost
    far_tail = np.where(np.arange(2000) < 20, 400.0, before)  # one member of 100: the index sees little of it
    tail = shift_of(before, far_tail)
    assert tail.psi < 0.25
    assert tail.level == "refusal"


def test_values_that_repeat_share_a_bin() -> None:
    profile = profile_of(x=np.repeat([0.0, 1.0, 7.0], [900, 60, 40]))
    assert profile.edges["x"] == (0.0, 1.0)
    assert profile.training.rows["x"] == (900, 60, 40, 0)
    counted = profile.count({"x": np.array([-5, 0, 0.5, 1, 2, np.nan]), PREDICTED_TIER: np.array([0, 1, 2, 2, 2, 2.0])})
    assert counted.rows["x"] == (2, 2, 1, 1)
    assert counted.totals["x"] == (-5.0, 1.5, 2.0)
    assert counted.rows[PREDICTED_TIER] == (1, 1, 4, 0)


def test_a_feature_that_nobody_has_a_value_of() -> None:
    nothing, something = np.full(300, np.nan), RANDOM.normal(size=300)
    assert shift_of(nothing, nothing).psi == 0.0
    assert shift_of(nothing, something).level == shift_of(something, nothing).level == "refusal"


def test_counts_of_parts_add_up_to_the_whole_and_survive_json() -> None:
    values = {"x": RANDOM.normal(size=500), PREDICTED_TIER: RANDOM.integers(0, 3, 500).astype(float)}
    profile = Profile.of(values, 3, 10)
    stored = TypeAdapter(Counted)
    parts = [profile.count({k: v[s] for k, v in values.items()}) for s in (slice(0, 120), slice(120, 500))]
    whole = parts[0] + stored.validate_json(stored.dump_json(parts[1]))
    assert whole.rows == profile.training.rows
    for name, totals in whole.totals.items():
        np.testing.assert_allclose(totals, profile.training.totals[name])
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    assert sum(profile.training.rows["x"]) == 500
    assert max(profile.training.rows["x"]) == 50


def test_features_of_rows_against_a_loop_over_members() -> None:
    rows = pa.concat_tables([example_rows(30, 1), example_rows(25, 2)])
    found = drift.feature_values(rows, CONTRACT)
    assert tuple(found) == drift.feature_names(CONTRACT)
    for k, row in enumerate(rows.to_pylist()):
        assert found["events"][k] == pytest.approx(math.log1p(len(row["seq_age"])))
        assert found["spend_90d"][k] == pytest.approx(math.log1p(row["spend_90d"]))
        amounts = [math.log1p(a) for a in row["seq_amount"] if a is not None]
        assert found["mean_amount"][k] == pytest.approx(np.mean(amounts) if amounts else np.nan, nan_ok=True, rel=1e-5)
        ages = [math.log1p(a / 86_400) for a in row["seq_age"]]
        assert found["mean_age"][k] == pytest.approx(np.mean(ages) if ages else np.nan, nan_ok=True)
        assert np.isnan(found["gap_mean"][k]) == (row["gap_mean"] is None)


def test_words_name_the_feature_and_both_figures() -> None:
    shifts = [Shift("spend_30d", 1.25, 0.4, 0.01, "refusal"), Shift("events", 0.3, 0.1, 0.01, "warning")]
    (reason,) = drift.refusals(shifts, SETTINGS)
    assert reason.startswith("spend_30d has a population stability index of 1.250 (bound 1) and a distance of 0.400")
    (note,) = drift.notes(shifts, SETTINGS)
    assert note.endswith("(stability index 0.25, distance 0.5): spend_30d (1.250, 0.400), events (0.300, 0.100)")
    assert drift.notes([], SETTINGS) == drift.refusals([], SETTINGS) == []


def test_bad_input_a_refusal_bound_below_the_warning_bound() -> None:
    with pytest.raises(ValueError, match=r"refusal\.psi 0\.1 lies below warning\.psi 0\.25"):
        DriftSettings(
            bins=20,
            sample_rows=10,
            warning=DriftBounds(psi=0.25, distance=0.5),
            refusal=DriftBounds(psi=0.1, distance=2),
        )
