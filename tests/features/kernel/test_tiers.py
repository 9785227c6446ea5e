"""The tier rule: exact thresholds, combinations, and what is missing to the next tier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.core.arrays import Ints
from features.kernel.tiers import MEASURES, TierRule, decimal_to_steps, steps_to_decimal
from tests.data import reference

BOTH = {"spend": (reference.micros(100), reference.micros(500)), "purchases": (4, 10)}


def ints(**values: int) -> dict[str, Ints]:
    return {m: np.array([v], np.int64) for m, v in values.items()}


def rank(rule: TierRule, **values: int) -> int:
    return int(rule.rank(ints(**values))[0])


def gap(rule: TierRule, **values: int) -> tuple[int, int]:
    found, which = rule.gap_to_next(ints(**values), rule.rank(ints(**values)))
    return int(found[0]), int(which[0])


@pytest.mark.parametrize("combination", ["all_of", "any_of"])
@pytest.mark.parametrize("measure", ["spend", "purchases", "points"])
@pytest.mark.parametrize("tier", [1, 2])
def test_a_member_exactly_at_a_threshold_has_reached_the_tier(combination: str, measure: str, tier: int) -> None:
    limits = (250 * MEASURES[measure], 1000 * MEASURES[measure])
    rule = reference.simple_rule(combination=combination, thresholds={measure: limits})
    limit = limits[tier - 1]
    assert [rank(rule, **{measure: limit + step}) for step in (-1, 0, 1)] == [tier - 1, tier, tier]


def test_thresholds_stay_exact_above_the_integers_of_float64() -> None:
    limit = 2**53 + 1
    rule = reference.simple_rule(thresholds={"spend": (limit, limit + 1)})
    assert [rank(rule, spend=limit + step) for step in (-1, 0, 1)] == [0, 1, 2]


def test_all_of_takes_the_lowest_and_any_of_the_highest_tier() -> None:
    everything, anything = (reference.simple_rule(combination=c, thresholds=BOTH) for c in ("all_of", "any_of"))
    for spend, purchases, lowest, highest in [(500, 3, 0, 2), (99, 10, 0, 2), (100, 4, 1, 1), (500, 10, 2, 2)]:
        values = {"spend": reference.micros(spend), "purchases": purchases}
        assert rank(everything, **values) == lowest
        assert rank(anything, **values) == highest


def test_negative_and_zero_measures_are_of_the_lowest_tier() -> None:
    rule = reference.simple_rule()
    assert [rank(rule, spend=v) for v in (-1, 0)] == [0, 0]
    assert gap(rule, spend=0) == (reference.micros(100), 0)


def test_gap_is_the_measure_furthest_behind_where_all_must_be_reached() -> None:
    rule = reference.simple_rule(thresholds=BOTH)
    assert gap(rule, spend=reference.micros(90), purchases=1) == (3, 1)
    assert gap(rule, spend=reference.micros(10), purchases=3) == (reference.micros(90), 0)
    assert gap(rule, spend=reference.micros(900), purchases=3) == (1, 1)


def test_gap_is_the_nearest_measure_where_any_will_do() -> None:
    rule = reference.simple_rule(combination="any_of", thresholds=BOTH)
    assert gap(rule, spend=reference.micros(90), purchases=1) == (reference.micros(10), 0)
    assert gap(rule, spend=reference.micros(10), purchases=3) == (1, 1)
    assert gap(rule, spend=reference.micros(100), purchases=0) == (reference.micros(400), 0)


def test_gap_of_one_step_and_of_the_top_tier() -> None:
    rule = reference.simple_rule()
    assert gap(rule, spend=reference.micros(500) - 1) == (1, 0)
    assert gap(rule, spend=reference.micros(500)) == gap(rule, spend=reference.micros(9999)) == (-1, -1)


def test_equally_far_measures_are_counted_in_the_first() -> None:
    for combination in ("all_of", "any_of"):
        rule = reference.simple_rule(combination=combination, thresholds=BOTH)
        assert gap(rule, spend=reference.micros(50), purchases=2) == (reference.micros(50), 0)


def test_no_members() -> None:
    rule, none = reference.simple_rule(), {"spend": np.empty(0, np.int64)}
    assert rule.rank(none).tolist() == []
    assert [a.tolist() for a in rule.gap_to_next(none, rule.rank(none))] == [[], []]


def as_fractions(values: Mapping[str, int]) -> dict[str, Fraction]:
    return {m: Fraction(v, MEASURES[m]) for m, v in values.items()}


@settings(deadline=None, max_examples=60)
@given(reference.rules(), st.data())
def test_rank_and_gap_match_the_reference(rule: TierRule, data: st.DataObject) -> None:
    near = {
        m: st.one_of(
            st.integers(0, 10 if m == "purchases" else 450_000_000),
            st.builds(lambda limit, step: max(limit + step, 0), st.sampled_from(t), st.integers(-1, 1)),
        )
        for m, t in rule.thresholds.items()
    }
    members = data.draw(st.lists(st.fixed_dictionaries(near), min_size=1, max_size=10))
    values = {m: np.array([member[m] for member in members], np.int64) for m in rule.measures}
    ranks = rule.rank(values)
    gaps, which = rule.gap_to_next(values, ranks)
    for i, member in enumerate(members):
        assert ranks[i] == reference.rank_of(rule, as_fractions(member))
        wanted = reference.gap_of(rule, as_fractions(member))
        if wanted is None:
            assert (gaps[i], which[i]) == (-1, -1)
        else:
            assert rule.measures[which[i]] == wanted[1]
            assert int(gaps[i]) == wanted[0] * MEASURES[wanted[1]]


def test_describe() -> None:
    rule = reference.simple_rule(
        thresholds={"spend": (reference.micros("99.5"), reference.micros(5000)), "purchases": (4, 10)}
    )
    assert rule.describe(0) == "every member"
    assert rule.describe(1) == "spend of 99.5 or more and purchases of 4 or more in 30 days"
    either = dataclasses.replace(rule, combination="any_of")
    assert either.describe(2) == "spend of 5000 or more or purchases of 10 or more in 30 days"


def test_canonical_is_equal_exactly_when_the_rules_are() -> None:
    rule = reference.simple_rule()
    assert rule.canonical() == reference.simple_rule().canonical()
    others = [
        reference.simple_rule(names=("basic", "silver", "platinum")),
        reference.simple_rule(window_days=31),
        reference.simple_rule(combination="any_of"),
        reference.simple_rule(thresholds={"spend": (reference.micros(100), reference.micros(500) + 1)}),
        reference.simple_rule(thresholds={"points": (reference.micros(100), reference.micros(500))}),
        reference.simple_rule(points="amount * 2"),
    ]
    assert len({r.canonical() for r in [rule, *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    ("measure", "value", "steps"),
    [("spend", "250", 250_000_000), ("spend", "0.000001", 1), ("points", "1E+3", 10**9), ("purchases", "12.0", 12)],
)
def test_decimal_to_steps(measure: str, value: str, steps: int) -> None:
    found = decimal_to_steps(measure, Decimal(value))
    assert found == steps
    assert isinstance(found, int)
    assert steps_to_decimal(measure, steps) == Decimal(value)


@pytest.mark.parametrize(
    ("measure", "value"), [("spend", "0.0000001"), ("points", "1.0000005"), ("purchases", "2.5"), ("purchases", "1e-6")]
)
def test_bad_input_a_threshold_finer_than_its_measure_is_refused(measure: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"is finer than {measure} is counted"):
        decimal_to_steps(measure, Decimal(value))


@pytest.mark.parametrize("measure", sorted(MEASURES))
@pytest.mark.parametrize("sign", [1, -1])
def test_bad_input_a_threshold_of_more_steps_than_int64_holds_is_refused(measure: str, sign: int) -> None:
    with pytest.raises(ValueError, match=f"is more {measure} than can be counted"):
        decimal_to_steps(measure, sign * steps_to_decimal(measure, 2**63))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(MEASURES)), st.integers(-(2**63) + 1, 2**63 - 1))
def test_steps_to_decimal_is_the_inverse(measure: str, steps: int) -> None:
    assert decimal_to_steps(measure, steps_to_decimal(measure, steps)) == steps
