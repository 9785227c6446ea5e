"""BG/NBD and Gamma-Gamma against published figures, numeric integration, and simulated members."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import hyp2f1

from features.kernel.tiers import MEASURES
from training.rivals import bg_nbd
from training.rivals.bg_nbd import BgNbd, GammaGamma, Histories, fit_bg_nbd, fit_gamma_gamma, tier_probabilities

CDNOW = BgNbd(0.243, 4.414, 0.793, 2.426)
"""The published fit to the CDNOW cohort, in weeks: Fader, Hardie and Lee 2005, table 2."""
AMOUNTS = GammaGamma(6.25, 3.74, 15.44)
"""The published fit to the same cohort's spend: Fader and Hardie 2013."""


def histories(**given: list[float]) -> Histories:
    n = len(next(iter(given.values())))
    base = {"purchases": [1.0] * n, "repeats": [0.0] * n, "recency": [0.0] * n, "days": [39.0] * n,
            "mean_spend": [np.nan] * n}  # fmt: skip
    return Histories(**{name: np.array(values, float) for name, values in {**base, **given}.items()})


def simulate(n: int, counts: BgNbd, amounts: GammaGamma, days: float, further: float) -> tuple[Histories, np.ndarray]:
    """Members purchase by purchase, as the models tell it, and what each spends in the days that follow; slow."""
    chance, rows, spent = np.random.default_rng(3), [], []
    for _ in range(n):
        rate, stop = chance.gamma(counts.r, 1 / counts.alpha), chance.beta(counts.a, counts.b)
        price = chance.gamma(amounts.q, 1 / amounts.gamma)
        time, times = 0.0, list[float]()
        while True:
            time += chance.exponential(1 / rate)
            if time > days + further:
                break
            times.append(time)
            if chance.random() < stop:
                break
        paid = chance.gamma(amounts.p, 1 / price, len(times) + 1)  # the first is the purchase at 0
        seen = [t for t in times if t <= days]
        rows.append((len(seen) + 1, len(seen), max(seen, default=0.0), days, paid[: len(seen) + 1].mean()))
        spent.append(paid[len(seen) + 1 :].sum())
    return Histories(*np.array(rows, float).T), np.array(spent)


def test_likelihood_equals_the_integral_over_members() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(120)
    p, rate = (nodes[:, None] + 1) / 2, 2 * (nodes + 1)  # over 0..1 and 0..4
    prior = stats.gamma.pdf(rate, 2, scale=1 / 9.0) * stats.beta.pdf(p, 2, 3)
    for x, last, days in [(0, 0.0, 30.0), (1, 12.0, 30.0), (4, 25.0, 38.9)]:
        alive = (1 - p) ** x * rate**x * np.exp(-rate * days)
        stopped = p * (1 - p) ** (x - 1) * rate**x * np.exp(-rate * last) if x else 0.0
        exact = weights @ ((alive + stopped) * prior) @ weights  # half the width times twice the width
        found = BgNbd(2, 9.0, 2, 3).log_likelihood(histories(repeats=[x], recency=[last], days=[days]))
        assert np.exp(found[0]) == pytest.approx(exact, rel=1e-6)


def test_expected_purchases_are_those_published_for_the_first_cdnow_customer() -> None:
    """The authors' spreadsheet gives 1.226 for 39 weeks; equation 10 gives it here a second time."""
    one = histories(repeats=[2.0], recency=[30.43], days=[38.86])
    drawn = CDNOW.draw(one, 39, 400_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(1.226, abs=0.015)
    r, alpha, a, b = dataclasses.astuple(CDNOW)
    share = ((alpha + 38.86) / (alpha + 38.86 + 39)) ** (r + 2)
    expected = (a + b + 1) / (a - 1) * (1 - share * hyp2f1(r + 2, b + 2, a + b + 1, 39 / (alpha + 38.86 + 39)))
    still = 1 + a / (b + 1) * ((alpha + 38.86) / (alpha + 30.43)) ** (r + 2)
    assert drawn.mean() == pytest.approx(expected / still, abs=0.015)
    assert CDNOW.alive(one)[0] == pytest.approx(1 / still)
    assert CDNOW.alive(histories(repeats=[0.0]))[0] == 1  # who has not bought again cannot have stopped


def test_density_of_the_mean_spend_equals_the_integral_over_members() -> None:
    for purchases, mean in [(1.0, 20.0), (5.0, 41.5)]:

        def density(price: float, n: float = purchases, mean: float = mean) -> float:
            of_mean = stats.gamma.pdf(mean, AMOUNTS.p * n, scale=1 / (n * price))
            return float(of_mean * stats.gamma.pdf(price, AMOUNTS.q, scale=1 / AMOUNTS.gamma))

        exact, _ = integrate.quad(density, 0, 5)
        found = AMOUNTS.log_likelihood(np.array([purchases]), np.array([mean]))
        assert np.exp(found[0]) == pytest.approx(exact, rel=1e-6)


def test_further_spend_is_distributed_as_drawn_members_say() -> None:
    chance = np.random.default_rng(2)
    prices = chance.gamma(AMOUNTS.q + AMOUNTS.p * 3, 1 / (AMOUNTS.gamma + 3 * 35.0), 200_000)
    totals = chance.gamma(AMOUNTS.p * 4, 1 / prices)
    for limit in (80.0, 140.0, 260.0):
        found = AMOUNTS.below(limit, np.array([4.0]), np.array([3.0]), np.array([35.0]))
        assert found[0] == pytest.approx((totals < limit).mean(), abs=0.004)


def test_fits_recover_the_parameters_of_simulated_members() -> None:
    members, _ = simulate(6000, CDNOW, AMOUNTS, 39, 0)
    counts, amounts = fit_bg_nbd(members), fit_gamma_gamma(members)
    assert dataclasses.astuple(counts) == pytest.approx(dataclasses.astuple(CDNOW), rel=0.25)
    assert dataclasses.astuple(amounts) == pytest.approx(dataclasses.astuple(AMOUNTS), rel=0.15)
    assert counts.log_likelihood(members).mean() >= CDNOW.log_likelihood(members).mean()
    weeks = dataclasses.replace(members, recency=members.recency * 7, days=members.days * 7)
    assert fit_bg_nbd(weeks).alpha == pytest.approx(7 * counts.alpha, rel=0.01)  # the unit of time is no matter


@pytest.mark.parametrize(
    ("thresholds", "combination"),
    [
        ({"spend": [40.0, 120.0]}, "all_of"),
        ({"purchases": [1.0, 3.0]}, "all_of"),
        ({"spend": [40.0, 120.0], "purchases": [2.0, 3.0]}, "all_of"),
        ({"spend": [40.0, 120.0], "purchases": [2.0, 3.0]}, "any_of"),
    ],
)
def test_tiers_of_simulated_members_come_as_often_as_foretold(
    thresholds: dict[str, list[float]], combination: str
) -> None:
    counts = BgNbd(1.2, 20.0, 0.8, 4.0)
    members, spent, bought = _futures(counts)
    steps = {measure: [int(t * bg_nbd.STEPS[measure]) for t in limits] for measure, limits in thresholds.items()}
    rule = json.dumps({"names": ["a", "b", "c"], "combination": combination, "thresholds": steps})
    p = tier_probabilities(members, counts, AMOUNTS, rule, 60, 1)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    values = {"spend": spent, "purchases": bought}
    ranks = np.stack([np.searchsorted(limits, values[m], side="right") for m, limits in thresholds.items()])
    reached = ranks.min(axis=0) if combination == "all_of" else ranks.max(axis=0)
    for rank in range(3):
        assert p[:, rank].mean() == pytest.approx((reached == rank).mean(), abs=0.02)


def _futures(counts: BgNbd) -> tuple[Histories, np.ndarray, np.ndarray]:
    """Simulated members, and what they spend and how often they buy in the 60 days that follow."""
    longer, _ = simulate(4000, counts, AMOUNTS, 150, 0)  # the same members as below, seen for longer
    members, spent = simulate(4000, counts, AMOUNTS, 90, 60)
    return members, spent, longer.repeats - members.repeats


def test_histories_come_from_the_longest_window() -> None:
    aggregates = {
        "buy_30d": np.array([9.0, 0, 0, 9]), "spend_30d": np.array([1.0, 0, 0, 0]),
        "buy_180d": np.array([12.0, 3, 0, 1]), "spend_180d": np.array([60.0, 90, 0, 0]),
        "buy_365d": np.array([99.0, 99, 99, 99]),  # without spend over the same window it is of no use
        "tenure_days": np.array([400.0, 100, 50, 20]), "purchase_recency_days": np.array([10.0, 25, np.nan, 20]),
    }  # fmt: skip
    found = Histories.of(aggregates, "buy")
    np.testing.assert_array_equal(found.repeats, [12, 2, 0, 0])
    np.testing.assert_array_equal(found.days, [180, 100, 50, 20])
    np.testing.assert_array_equal(found.recency, [170, 75, 0, 0])
    np.testing.assert_array_equal(found.mean_spend, [5, 30, np.nan, np.nan])


def test_steps_are_those_of_the_tier_rule() -> None:
    assert bg_nbd.STEPS.items() <= MEASURES.items()


def test_bad_input_aggregates_or_measures_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="lacks the aggregates buy_Nd and spend_Nd, purchase_recency_days"):
        Histories.of({"tenure_days": np.ones(2)}, "buy")
    rule = json.dumps({"names": ["a", "b"], "combination": "all_of", "thresholds": {"points": [5]}})
    with pytest.raises(ValueError, match="measures points, and only spend and purchases"):
        tier_probabilities(histories(repeats=[1.0]), CDNOW, AMOUNTS, rule, 30, 1)


def test_bad_input_nobody_buys_twice_or_pays() -> None:
    with pytest.raises(ValueError, match="no member has bought twice"):
        fit_bg_nbd(histories(repeats=[0.0, 0.0]))
    with pytest.raises(ValueError, match="no member has paid"):
        fit_gamma_gamma(histories(repeats=[0.0, 0.0]))
