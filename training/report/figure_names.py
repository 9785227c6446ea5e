"""Names of models and figures for readers, and which value of a figure is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from training.evaluation.comparison import Comparison
from training.evaluation.metrics import Evaluation

TITLES = {
    "majority": "Majority tier",
    "stays": "Stays in tier",
    "markov": "Markov",
    "logistic": "Logistic regression",
    "forest": "Random forest",
    "lightgbm": "LightGBM",
    "bg_nbd": "BG/NBD with Gamma-Gamma",
}
"""Names of rivals for readers; one not listed is shown by its own name."""

MODEL = "model"


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a figure of `Scores` is named, explained and written.

    Attributes:
        key: field of `Scores`.
        title: name in tables.
        meaning: one line for readers who do not know it.
        more_is_better: direction of improvement.
        percent: written as a percentage rather than with three decimals.
    """

    key: str
    title: str
    meaning: str
    more_is_better: bool = True
    percent: bool = False

    def text(self, value: float | None) -> str:
        """The figure as text; a dash where it is undefined."""
        if value is None:
            return "\u2013"
        return f"{value:.1%}" if self.percent else f"{value:.3f}"

    def best(self, evaluations: Mapping[str, Evaluation]) -> tuple[str, ...]:
        """Names of the best evaluations by this metric, ties included; empty where it is undefined in all."""
        known = {name: value for name, e in evaluations.items() if (value := getattr(e, self.key)) is not None}
        top = (max if self.more_is_better else min)(known.values(), default=None)
        return tuple(name for name, value in known.items() if value == top)


METRICS = (
    Metric("logloss", "Logloss", "surprise at what happened, all probabilities judged", more_is_better=False),
    Metric("accuracy", "Accuracy", "members whose most probable tier came true", percent=True),
    Metric("upgrade_auc", "Upgrade AUC", "ranking of who moves up; 0.5 is chance, 1 perfect"),
    Metric("downgrade_auc", "Downgrade AUC", "ranking of who moves down; 0.5 is chance, 1 perfect"),
    Metric("kappa", "Weighted kappa", "agreement beyond chance, far misses count more"),
    Metric("macro_f1", "Macro F1", "precision and recall in one, each tier counting the same"),
    Metric("macro_precision", "Macro precision", "how often a named tier is right, mean over tiers"),
    Metric("macro_recall", "Macro recall", "how much of each tier is found, mean over tiers"),
    Metric("brier", "Brier score", "squared error of the probabilities, 0 to 2", more_is_better=False),
    Metric("calibration_error", "Calibration error", "gap between stated and real shares", False, percent=True),
)
"""The figures shown, most important first."""

LOGLOSS, ACCURACY, UPGRADE_AUC = METRICS[:3]


def models_compared(comparison: Comparison) -> dict[str, Evaluation]:
    """Model first, then the baselines, then the challengers."""
    return {MODEL: comparison.model, **comparison.baselines, **comparison.challengers}


def title_of(name: str) -> str:
    """The name of a model as readers see it."""
    return TITLES.get(name, name)


def best_baseline(comparison: Comparison, metric: Metric) -> tuple[str, float] | None:
    """Name and figure of the best baseline; None where the metric is undefined."""
    names = metric.best(comparison.baselines)
    return (names[-1], getattr(comparison.baselines[names[-1]], metric.key)) if names else None


def rival_name(comparison: Comparison) -> str:
    """Name of the baseline with the lowest logloss; it is never undefined."""
    return LOGLOSS.best(comparison.baselines)[-1]


def beats(comparison: Comparison, metric: Metric) -> bool | None:
    """Whether the model is better than every baseline; None where the metric is undefined."""
    best, own = best_baseline(comparison, metric), getattr(comparison.model, metric.key)
    if best is None or own is None:
        return None
    return bool(own > best[1] if metric.more_is_better else own < best[1])
