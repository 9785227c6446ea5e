"""The Markdown page of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from training.evaluation.bootstrap import FIGURES, Intervals
from training.evaluation.folds import Judgement, Spread, overlap


def page(
    found: Sequence[Judgement], spread: Mapping[str, Mapping[str, Spread]], intervals: Mapping[str, Intervals],
    horizon_days: int,
) -> list[str]:  # fmt: skip
    """The folds as Markdown lines: a table for each fold, one over all of them, and the differences."""
    lines = []
    for one in found:
        fold, comparison = one.fold, one.comparison
        figures = {name: [_number(getattr(e, f)) for f in FIGURES] for name, e in one.evaluations().items()}
        lines += [
            f"### Fold {fold.number}: evaluated as of {fold.evaluated}, {comparison.model.rows:,} members",
            "",
            f"Trained as of {', '.join(map(str, fold.training))}; validated as of {fold.validation}; "
            f"bundle `{one.version}`.",
            "",
            *_table("model", figures),
            *(f"\n{name} could not be fitted: {why}" for name, why in comparison.failed.items()),
            "",
        ]
    means = {name: [_mean(of.get(f)) for f in FIGURES] for name, of in spread.items()}
    lines += [f"### Over {len(found)} folds: mean and standard deviation", "", *_table("model", means), ""]
    if shared := overlap([one.fold for one in found], horizon_days):
        lines += [
            f"Outcome windows of neighbouring folds share {shared} of {horizon_days} days, and the folds share "
            "members: the deviations are smaller than those of independent years.",
            "",
        ]
    if intervals:
        ends = {name: [_ends(of.get(f)) for f in FIGURES] for name, of in intervals.items()}
        lines += [
            "### Network minus rival, over the folds",
            "",
            "95 % intervals of the mean difference; a paired bootstrap over the members, with their rows of all folds.",
            "",
            *_table("rival", ends),
            "",
        ]
    return lines


def _table(first: str, rows: Mapping[str, Sequence[str]]) -> list[str]:
    """A Markdown table, one line each, that is aligned for the console too."""
    header = [first, *(figure.replace("_", " ") for figure in FIGURES)]
    cells = [[name, *values] for name, values in rows.items()]
    return tabulate(cells, header, tablefmt="github", disable_numparse=True).splitlines()


def _number(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"


def _mean(spread: Spread | None) -> str:
    if spread is None:
        return "\u2013"
    return _number(spread.mean) + (f" ± {spread.deviation:.3f}" if spread.deviation is not None else "")


def _ends(ends: tuple[float, float] | None) -> str:
    return "\u2013" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"
