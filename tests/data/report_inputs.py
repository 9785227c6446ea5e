"""What a report is made of, in small, and a reader of its page."""

from __future__ import annotations

import dataclasses
import datetime as dt
from html.parser import HTMLParser
from typing import Any

import numpy as np

from training.evaluation import comparison, curves, metrics
from training.evaluation.fairness import Disparity, Fairness, Figure, Group
from training.judging.drift import Shift
from training.judging.verdict import TierCalibration, Verdict
from training.reasons import importance
from training.reasons.reason_codes import DOWNGRADE, TARGETS, UPGRADE
from training.reasons.stories import Story
from training.report import contents
from training.rivals import baselines

VOID = {"meta", "img", "br", "link", "input"}

VERDICT = Verdict(
    ("members now in t1 are <strange>",),
    {"model": 0.61, "markov": 0.7, "published": 0.6},
    (TierCalibration("t0", 150, 0.02, 0.04), TierCalibration("t1", 150, 0.09, 0.04)),
    {},
    ("not compared with x",),
)

STEADY = tuple(Shift(f"steady_{k:02d}", 0.01 * k, 0.1, 0.05, "steady") for k in range(15))
NOW = (
    Shift("spend_30d", 1.234, 0.5, 0.05, "refusal"),
    Shift("tenure_days", 0.9, 2.25, 0.05, "expected"),
    Shift("<events>", 0.3, 0.6, 0.05, "warning"),
    *STEADY,
)
JUDGED = dataclasses.replace(VERDICT, drift=(Shift("spend_30d", 0.111, 0.01, 0.05, "steady"), *STEADY))
FAIRNESS = Fairness(
    evaluated=300,
    known=120,
    groups=(
        Group("age", "19 <young>", 60, {"accuracy": Figure(0.71, 0.62, 0.8)}),
        Group("age", "65+", 60, {"accuracy": Figure(0.81, 0.72, 0.9), "selection_rate": Figure(0.2, 0.1, 0.3)}),
    ),
    disparities=(Disparity("age", "accuracy", "19 <young>", "65+", 0.1, 0.15, "even"),),
    suppressed={"age": ("45-54",), "size": ()},
)


def forecast_case(k: int = 3, n: int = 300) -> dict[str, Any]:
    """Members whose outcome follows the probabilities, most likely near the current tier."""
    chance = np.random.default_rng(20171001)
    current = chance.integers(0, k, n)
    weights = chance.gamma(1.0, size=(n, k)) + 3 * np.eye(k)[current]
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    outcome = np.array([chance.choice(k, p=row) for row in probabilities])
    return {
        "probabilities": probabilities,
        "current": current,
        "outcome": outcome,
        "tiers": [f"t{i}" for i in range(k)],
    }


def overall_of(tiers: list[str], losses: tuple[float, ...] = (0.01, 0.03)) -> importance.Overall:
    """Reasons of every kind: heavy and light, recent, and one that all members have as much of."""
    weights = {
        "spend": importance.Weight(0.08, 0.1, -0.06),
        "recent_purchase": importance.Weight(0.05, 0.07, -0.02),
        "recent_campaign": importance.Weight(0.01, -0.01, 0.005),
        "tenure_days": importance.Weight(0.004, None, None),
    }
    reasons = tuple(
        importance.ReasonWeights(name, f"<{name}> in words", dict.fromkeys(TARGETS, weight), losses)
        for name, weight in weights.items()
    )
    stories = (
        Story(tiers[0], UPGRADE, 0.4, 0.2, (90.5, 12.0, 3.0), ("purchase", "campaign", "purchase"),
                         (-0.01, 0.0, 0.03), (("<spend> in words", 0.15), ("the rest", -0.02))),
        Story(tiers[-1], DOWNGRADE, 0.3, 0.2, (), (), (), (("<spend> in words", 0.1),)),
    )  # fmt: skip
    return importance.Overall(250, 0.996, reasons, stories)


def comparison_of(case: dict[str, Any]) -> comparison.Comparison:
    counts = baselines.transition_counts(case["current"], case["outcome"], len(case["tiers"]))
    return comparison.compare(**case, rivals=comparison.Rivals(baselines.fit_baselines(counts)))


def inputs_of(case: dict[str, Any], **changes: Any) -> contents.ReportInputs:
    """A sound report of the members; `changes` by field of the report or of its training record."""
    sound: dict[str, Any] = {
        "title": "Corner shop",
        "as_of": dt.date(2017, 10, 1),
        "horizon_days": 90,
        "tiers": [contents.TierCard(name, f"rule of {name}", ["free tea"]) for name in case["tiers"]],
        "forecast": metrics.summarise_forecast(case["probabilities"], case["current"], case["tiers"]),
        "comparison": comparison_of(case),
        "versions": {"model": "hybrid-1"},
        "rows": {"events": 155848},
        "notes": ["A sample of 300 members."],
    }
    trained: dict[str, Any] = {
        "history": [
            {"epoch": e, "loss": 1 / e, "validation_loss": 1.1 / e, "learning_rate": 1e-3, "users_per_second": 2e3}
            for e in range(1, 5)
        ],
        "verdict": VERDICT,
        "judged_as_of": dt.date(2017, 7, 1),
        "predicted_tiers": (),
    }
    training = contents.TrainingRecord(**{name: changes.pop(name, value) for name, value in trained.items()})
    return contents.ReportInputs(**(sound | changes), training=training)


def whole(case: dict[str, Any]) -> contents.ReportInputs:
    """With all parts that take long to draw."""
    return inputs_of(case, reasons=overall_of(case["tiers"]), by_tier=curves.reliability_by_tier(**case, draws=20))


def complete(case: dict[str, Any]) -> contents.ReportInputs:
    """With every part that a report can have."""
    counts = baselines.transition_counts(case["current"], case["outcome"], len(case["tiers"]))
    rivals = {"lightgbm": np.full(case["probabilities"].shape, 1 / 3), "forest": case["probabilities"]}
    beside = comparison.compare(
        **case,
        rivals=comparison.Rivals(baselines.fit_baselines(counts), rivals, {"logistic": "no end"}),
        draws=20,
    )
    far = dataclasses.replace(FAIRNESS.disparities[0], difference=0.4, level="refusal")
    return inputs_of(
        case,
        reasons=overall_of(case["tiers"]),
        by_tier=curves.reliability_by_tier(**case, draws=20),
        comparison=beside,
        verdict=JUDGED,
        drift=NOW,
        predicted_tiers=(50, 30, 20),
        fairness=dataclasses.replace(FAIRNESS, disparities=(far,)),
        versions={f"table {name}": "1234567890abcdef" * 4 for name in ("events", "sequences", "outcomes")},
    )


def forecast_only(case: dict[str, Any]) -> contents.ReportInputs:
    """Before outcomes are known, of a published model."""
    published = dataclasses.replace(JUDGED, reasons=())
    return inputs_of(
        case, comparison=None, verdict=published, drift=NOW, predicted_tiers=(50, 30, 20),
        reasons=overall_of(case["tiers"], ()),
    )  # fmt: skip


class Page(HTMLParser):
    """Collects what a page loads, and checks that each element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.sources: list[str | None] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        self.sources += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
