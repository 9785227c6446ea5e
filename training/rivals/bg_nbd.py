"""BG/NBD with Gamma-Gamma: how often a member buys, whether the member has stopped, and what a purchase costs.

A member buys at a rate of their own until, after some purchase, they quietly stop (Fader, Hardie and Lee 2005,
"Counting Your Customers" the Easy Way, Marketing Science 24(2)); what they pay varies around a level of their own
(Fader and Hardie 2013, The Gamma-Gamma Model of Monetary Value, brucehardie.com/notes/025). Four numbers and three
describe all members; with a member's history they give the spend of any period to come, and so the tier it earns.

No library for this is maintained, so the fits are written here, in a few lines on scipy. Time is in days.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betainc, betaln, expit, gammaln

from features.core.arrays import Floats

STEPS = {"spend": 1_000_000, "purchases": 1}
"""Integer steps of a unit in the contract's tier rule, for the measures that these models know of."""

_WIDEST = 12.0
"""Bound of the logarithms of the parameters: if nobody ever stops, the likelihood is flat and has no maximum."""

_DRAWS = 400
_SMOOTHING = 0.5
_PORTION = 10_000  # members whose draws are held at once: 30 MB an array


@dataclasses.dataclass(frozen=True)
class Histories:
    """Purchases of n members over the days for which they are known, float64 [n] each.

    Attributes:
        purchases: number of purchases.
        repeats: purchases after the first one; all of them where the first lies before the window.
        recency: days from the beginning of the window to the last purchase; 0 without repeats.
        days: days from the beginning of the window to the as-of date.
        mean_spend: mean spend of a purchase; NaN where no purchase cost anything.
    """

    purchases: Floats
    repeats: Floats
    recency: Floats
    days: Floats
    mean_spend: Floats

    @classmethod
    def of(cls, aggregates: Mapping[str, Floats], purchase_type: str) -> Histories:
        """From the aggregates of members ([n] each, NaN where null), over the longest window that they have.

        A member known for longer than the window is followed from its beginning and counts as still buying then. A
        member known for less time became known by a purchase, which is not a repeat; if it was another event, one
        repeat too few is counted.

        Raises:
            ValueError: an aggregate that is needed is not there.
        """
        prefix = f"{purchase_type}_"
        counted = [name.removeprefix(prefix)[:-1] for name in aggregates if name.startswith(prefix)]
        windows = [int(w) for w in counted if w.isdecimal() and f"spend_{w}d" in aggregates]
        needed = [f"{prefix}Nd and spend_Nd"] if not windows else []
        needed += [name for name in ("tenure_days", "purchase_recency_days") if name not in aggregates]
        if needed:
            raise ValueError(f"the contract lacks the aggregates {', '.join(needed)}")
        window = max(windows)
        purchases, tenure = np.rint(aggregates[f"{prefix}{window}d"]), aggregates["tenure_days"]
        days = np.minimum(tenure, window)
        repeats = np.where(tenure > window, purchases, np.maximum(purchases - 1, 0))
        last = np.clip(days - aggregates["purchase_recency_days"], 0, days)
        spend = aggregates[f"spend_{window}d"]
        paid = (purchases > 0) & (spend > 0)
        mean = np.divide(spend, purchases, out=np.full(len(spend), np.nan), where=paid)
        return cls(purchases, repeats, np.where(repeats > 0, last, 0.0), days, mean)

    def at(self, rows: slice | npt.NDArray[np.int64]) -> Histories:
        """Some of the members."""
        return Histories(*(values[rows] for values in vars(self).values()))


@dataclasses.dataclass(frozen=True)
class BgNbd:
    """Purchase rates are Gamma(r, alpha), the chance to stop after a purchase is Beta(a, b)."""

    r: float
    alpha: float
    a: float
    b: float

    def log_likelihood(self, of: Histories) -> Floats:
        """[n]: log-likelihood of repeats and recency, given the days; equation 6 of Fader, Hardie and Lee 2005."""
        alive, stopped = self._ways(of)
        return np.logaddexp(alive, stopped)

    def alive(self, of: Histories) -> Floats:
        """[n]: the probability that a member still buys."""
        alive, stopped = self._ways(of)
        return np.asarray(expit(alive - stopped), np.float64)

    def _ways(self, of: Histories) -> tuple[Floats, Floats]:
        """Log-likelihoods of a history if the member still buys, and if the member stopped after the last purchase."""
        x, shape = of.repeats, self.r + of.repeats
        rate = gammaln(shape) - gammaln(self.r) + self.r * np.log(self.alpha)
        alive = rate + betaln(self.a, self.b + x) - betaln(self.a, self.b) - shape * np.log(self.alpha + of.days)
        later = np.maximum(x, 1)  # the value for 0 is not used
        stopped = rate + betaln(self.a + 1, self.b + later - 1) - betaln(self.a, self.b)
        return alive, np.where(x > 0, stopped - shape * np.log(self.alpha + of.recency), -np.inf)

    def draw(self, of: Histories, horizon_days: int, draws: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
        """[n, draws] purchases of the next days, drawn from the posterior of rate and end.

        A member who still buys has a rate of Gamma(r + x, alpha + T) and a chance to stop of Beta(a, b + x).
        """
        size, x = (len(of.repeats), draws), of.repeats[:, None]
        rates = chance.gamma(self.r + x, 1 / (self.alpha + of.days[:, None]), size)
        stops = np.clip(chance.beta(self.a, self.b + x, size), 1e-12, 1)
        found = np.minimum(chance.poisson(rates * horizon_days), chance.geometric(stops))
        return np.where(chance.random(size) < self.alive(of)[:, None], found, 0)


@dataclasses.dataclass(frozen=True)
class GammaGamma:
    """A purchase costs Gamma(p, v), and the members' rates v are Gamma(q, gamma)."""

    p: float
    q: float
    gamma: float

    def log_likelihood(self, purchases: Floats, mean_spend: Floats) -> Floats:
        """[n]: the density of the mean of so many purchases, Fader and Hardie 2013."""
        shape = self.p * purchases
        return np.asarray(
            gammaln(shape + self.q) - gammaln(shape) - gammaln(self.q)
            + self.q * np.log(self.gamma) + (shape - 1) * np.log(mean_spend) + shape * np.log(purchases)
            - (shape + self.q) * np.log(self.gamma + purchases * mean_spend)
        )  # fmt: skip

    def below(self, spend: float, purchases: Floats, seen: Floats, mean_spend: Floats) -> Floats:
        """[m]: the probability that so many further purchases cost less than `spend` together.

        Args:
            spend: above 0.
            purchases: further ones, [m] above 0.
            seen: earlier ones, [m].
            mean_spend: of the earlier ones, [m]; anything where there is none.
        """
        known = np.where(seen > 0, seen * mean_spend, 0.0)
        scale = self.gamma + known
        # A Gamma total over a Gamma rate is a beta prime variable.
        return np.asarray(betainc(self.p * purchases, self.q + self.p * seen, spend / (scale + spend)), np.float64)


def fit_bg_nbd(of: Histories) -> BgNbd:
    """Maximum likelihood; raises ValueError where it does not converge or there is nothing to learn from."""
    if not len(of.days) or not (of.repeats > 0).any():
        raise ValueError("no member has bought twice")
    scale = float(of.days.mean()) or 1.0  # the search works best with parameters near 1

    def likelihood(x: Floats) -> float:
        r, alpha, a, b = np.exp(x)
        return float(BgNbd(r, alpha * scale, a, b).log_likelihood(of).mean())

    r, alpha, a, b = _most_likely(likelihood, 4, "BG/NBD")
    return BgNbd(r, alpha * scale, a, b)


def fit_gamma_gamma(of: Histories) -> GammaGamma:
    """Maximum likelihood over the members who paid; raises ValueError where it does not converge or nobody paid."""
    paid = np.isfinite(of.mean_spend)
    if not paid.any():
        raise ValueError("no member has paid for a purchase")
    purchases, mean = of.purchases[paid], of.mean_spend[paid]
    scale = float(mean.mean())

    def likelihood(x: Floats) -> float:
        p, q, gamma = np.exp(x)
        return float(GammaGamma(p, q, gamma).log_likelihood(purchases, mean / scale).mean())

    p, q, gamma = _most_likely(likelihood, 3, "Gamma-Gamma")
    return GammaGamma(p, q, gamma * scale)


def _most_likely(likelihood: Callable[[Floats], float], parameters: int, name: str) -> list[float]:
    bounds = [(-_WIDEST, _WIDEST)] * parameters
    found: Any = minimize(lambda x: -likelihood(x), np.zeros(parameters), method="L-BFGS-B", bounds=bounds)
    if not found.success or not np.isfinite(found.fun):
        raise ValueError(f"the likelihood of {name} did not converge: {found.message}")
    return [float(value) for value in np.exp(found.x)]


def tier_probabilities(
    of: Histories, counts: BgNbd, amounts: GammaGamma, tier_rule: str, horizon_days: int, seed: int
) -> Floats:
    """Tier probabilities [n, K]: purchases are drawn, the distribution of their cost is exact, then the rule applies.

    Args:
        of: histories of the members.
        counts: model of purchases, fitted to these members or to similar ones.
        amounts: model of spend, likewise.
        tier_rule: the contract's, see `features.core.contract.Contract`.
        horizon_days: length of the period to come.
        seed: seed of the draws.

    Raises:
        ValueError: the rule measures something else than spend and purchases.
    """
    rule, chance = json.loads(tier_rule), np.random.default_rng(seed)
    if strange := sorted(set(rule["thresholds"]) - set(STEPS)):
        raise ValueError(f"the tier rule measures {', '.join(strange)}, and only spend and purchases are forecast")
    paid = np.isfinite(of.mean_spend)
    known = dataclasses.replace(of, purchases=np.where(paid, of.purchases, 0.0))
    starts = range(0, len(of.days), _PORTION)
    parts = [_reached(known.at(slice(k, k + _PORTION)), counts, amounts, rule, horizon_days, chance) for k in starts]
    shares = np.concatenate(parts) if parts else np.empty((0, len(rule["names"]) - 1))
    reached = np.column_stack([np.ones(len(shares)), shares, np.zeros(len(shares))])
    # No tier is impossible: the draws are finite, and people are not gamma variables.
    smoothed = np.maximum(-np.diff(reached, axis=1), 0) * _DRAWS + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True), np.float64)


def _reached(
    of: Histories,
    counts: BgNbd,
    amounts: GammaGamma,
    rule: Mapping[str, Any],
    horizon_days: int,
    chance: np.random.Generator,
) -> Floats:
    """[n, K - 1]: the probability to be in tier k or above, for k from 1."""
    n, drawn = len(of.days), counts.draw(of, horizon_days, _DRAWS, chance)
    # Many draws of a member are equal: each number of purchases is priced once.
    most = int(drawn.max(initial=0)) + 1
    places, times = np.unique(np.arange(n)[:, None] * most + drawn, return_counts=True)
    who, purchases = places // most, places % most
    combine = np.minimum if rule["combination"] == "all_of" else np.maximum
    found = np.zeros((n, len(rule["names"]) - 1))
    for k in range(found.shape[1]):
        # Given the number of purchases, all that is open is what they cost; so min and max join the conditions.
        chances = [
            _meets(measure, limits[k] / STEPS[measure], purchases, of.at(who), amounts)
            for measure, limits in rule["thresholds"].items()
        ]
        found[:, k] = np.bincount(who, times * combine.reduce(chances), n) / _DRAWS
    return found


def _meets(measure: str, limit: float, purchases: npt.NDArray[np.int64], of: Histories, amounts: GammaGamma) -> Floats:
    if measure == "purchases":
        return (purchases >= limit).astype(np.float64)
    bought = purchases > 0
    below = amounts.below(limit, np.maximum(purchases, 1).astype(np.float64), of.purchases, of.mean_spend)
    return np.where(bought, 1 - below, 0.0)
