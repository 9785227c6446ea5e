"""The sentences of the report and of the closing summary."""

from __future__ import annotations

import dataclasses
from typing import Literal

from training.evaluation.comparison import Comparison
from training.report.figure_names import (
    ACCURACY,
    LOGLOSS,
    METRICS,
    UPGRADE_AUC,
    beats,
    best_baseline,
    models_compared,
    title_of,
)

_TITLES: dict[str, str] = {
    "ahead": "The model earns its place: its probabilities beat every simple rule.",
    "mixed": "The model's probabilities beat the simple rules in part only.",
    "behind": "The model's probabilities do not beat the simple rules: do not act on them.",
}


@dataclasses.dataclass(frozen=True)
class Headline:
    """Whether the model is better than the baselines, in words.

    Attributes:
        level: "ahead" of every baseline in logloss and upgrade AUC, "behind" in both, or "mixed".
        title: the answer in a sentence.
        sentences: the figures behind it, in words.
    """

    level: Literal["ahead", "mixed", "behind"]
    title: str
    sentences: tuple[str, ...]


def headline_of(comparison: Comparison) -> Headline:
    """Compare the model with the best baseline, by logloss and upgrade AUC on the same rows.

    Equal is not better. Raises ValueError without baselines: there is nothing to beat.
    """
    if not comparison.baselines:
        raise ValueError("a headline needs at least one baseline")
    wins = [won for metric in (LOGLOSS, UPGRADE_AUC) if (won := beats(comparison, metric)) is not None]
    level: Literal["ahead", "mixed", "behind"] = "ahead" if all(wins) else "mixed" if any(wins) else "behind"
    sentences = (
        _logloss_words(comparison),
        _ranking_words(comparison),
        _accuracy_words(comparison),
        _challenger_words(comparison),
    )
    return Headline(level, _TITLES[level], tuple(s for s in sentences if s))


def summary_lines(comparison: Comparison) -> list[str]:
    """The metrics of model and rivals as an aligned plain-text table; a star marks the best of each line."""
    columns = models_compared(comparison)
    wide, narrow = max(len(f"{m.title} (less is better)") for m in METRICS), max(9, *map(len, columns)) + 1
    lines = [" ".join([" " * wide, *(f"{name:>{narrow}}" for name in columns)])]
    for metric in METRICS:
        title = metric.title if metric.more_is_better else f"{metric.title} (less is better)"
        best = metric.best(columns)
        cells = [f"{metric.text(getattr(e, metric.key))}{'*' if name in best else ' '}" for name, e in columns.items()]
        lines.append(" ".join([f"{title:<{wide}}", *(f"{cell:>{narrow}}" for cell in cells)]).rstrip())
    lines.append(f"on the same {comparison.model.rows:,} members; * best")
    if comparison.intervals:
        lines += [
            "",
            "model minus rival, 95 % intervals of a paired bootstrap over the members",
            *_interval_lines(comparison),
        ]
    return [*lines, *(f"{name} could not be fitted: {why}" for name, why in comparison.failed.items())]


def _interval_lines(comparison: Comparison) -> list[str]:
    shown = [metric for metric in METRICS if any(metric.key in of for of in comparison.intervals.values())]
    rows = [["", *comparison.intervals]]
    for metric in shown:
        ends = (of.get(metric.key) for of in comparison.intervals.values())
        rows.append([metric.title, *("\u2013" if e is None else f"{_signed(e[0])} {_signed(e[1])}" for e in ends)])
    wide = max(len(row[0]) for row in rows)
    return [" ".join([f"{row[0]:<{wide}}", *(f"{cell:>13}" for cell in row[1:])]) for row in rows]


def _signed(value: float) -> str:
    """Three decimals with their sign, no zero before them."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def _logloss_words(comparison: Comparison) -> str:
    best, own = best_baseline(comparison, LOGLOSS), comparison.model.logloss
    if best is None:
        return ""
    change = f"{abs(own / best[1] - 1):.1%} {'below' if own < best[1] else 'above'}" if best[1] else "above"
    return (
        f"Its error (logloss, from the probability it gave to what then happened) is {own:.3f}: {change} the "
        f"{best[1]:.3f} of the best simple rule ({title_of(best[0])})."
    )


def _ranking_words(comparison: Comparison) -> str:
    best, own = best_baseline(comparison, UPGRADE_AUC), comparison.model.upgrade_auc
    if best is None or own is None:
        return "Whether it finds those who move up cannot be said: no member who could move up did, or all did."
    return (
        f"Given one member who moved up and one who did not, it gives the first a higher chance in {own:.0%} of the "
        f"cases; the best simple rule in {best[1]:.0%}, a coin in 50%."
    )


def _accuracy_words(comparison: Comparison) -> str:
    best, own = best_baseline(comparison, ACCURACY), comparison.model.accuracy
    return (
        f"It names the right tier for {own:.1%} of the members; the best simple rule for {best[1]:.1%}." if best else ""
    )


def _challenger_words(comparison: Comparison) -> str:
    """The model compared with the best model of another kind, and whether chance explains the difference."""
    if not comparison.challengers:
        return ""
    name = LOGLOSS.best(comparison.challengers)[-1]
    rival, own = comparison.challengers[name].logloss, comparison.model.logloss
    said = f"The best model of another kind on the same members, {title_of(name)}, has a logloss of {rival:.3f}"
    low, high = comparison.intervals.get(name, {}).get("logloss", (0.0, 0.0))
    if low <= 0 <= high:
        return f"{said}: with so few members, chance can explain the difference."
    return f"{said}: the model is {'better' if own < rival else 'worse'}, by more than chance explains."
