"""How docs/results/benchmarks.md shows what was measured: a table for each section, and one picture of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import tables
from bench.speed.measure import Cost
from training.report.plots import ACCENT, INK, MUTED, RULE

_FASTER = "#c8553d"
_TICKS = (1.0, 2.0, 5.0)


@dataclasses.dataclass(frozen=True)
class Section:
    """Several ways to do one thing.

    Attributes:
        title: what is done.
        costs: cost of each way, by its name.
        first: name of the way that the others are compared with.
        note: what a reader must know about the table.
    """

    title: str
    costs: Mapping[str, Cost]
    first: str
    note: str

    def times_as_long(self, name: str) -> float:
        """Wall time of a way, divided by that of the first."""
        return self.costs[name].wall / self.costs[self.first].wall

    def text(self) -> str:
        """The section in Markdown, with ratios to the first way."""
        rows = []
        for name, cost in self.costs.items():
            peaks = ", ".join(f"{kind} {mb:,.0f}" for kind, mb in sorted(cost.peaks.items()))
            rows.append([name, f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{self.times_as_long(name):.2f}", peaks])
        table = tables.markdown(["way", "wall s", "CPU s", "times as long", "peak MB"], rows)
        return "\n".join([f"## {self.title}", "", self.note, "", table, ""])


def picture(sections: Sequence[Section]) -> Figure:
    """Bars of how many times as long each way takes as the first of its section, on one logarithmic scale."""
    bars = [len(section.costs) for section in sections]
    figure = Figure(figsize=(9, 0.27 * sum(bars) + 0.62 * len(bars) + 0.4), layout="constrained")
    rows = figure.subplots(len(sections), 1, sharex=True, squeeze=False, height_ratios=[n + 0.8 for n in bars])
    for section, axes in zip(sections, rows[:, 0], strict=True):
        _bars(axes, section)
    ratios = [section.times_as_long(name) for section in sections for name in section.costs]
    last = rows[-1, 0]
    last.set_xlim(min(0.5, *ratios) / 1.5, 2.2 * max(ratios))
    last.xaxis.set_major_locator(LogLocator(subs=_TICKS))
    last.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    last.xaxis.set_minor_formatter(NullFormatter())
    last.set_xlabel("times as long as the blue mark; red takes less time than it", color=MUTED, fontsize=9)
    return figure


def _bars(axes: Axes, section: Section) -> None:
    """The ways of a section from the top: a bar from 1 to the ratio of each, with its seconds beside it."""
    names = list(section.costs)
    for place, name in enumerate(names):
        ratio = section.times_as_long(name)
        colour = ACCENT if name == section.first else _FASTER if ratio < 1 else MUTED
        axes.barh(place, ratio - 1, left=1, color=colour, height=0.7)
        if name == section.first:
            axes.plot([1], [place], "s", color=colour, markersize=6)
        beside, side = (6, "left") if ratio >= 1 else (-6, "right")
        axes.annotate(
            f"{section.costs[name].wall:.1f} s", (ratio, place), (beside, 0), textcoords="offset points",
            ha=side, va="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.axvline(1, color=RULE, linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(section.title, loc="left", fontsize=9, color=INK)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=8)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
