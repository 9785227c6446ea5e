"""The pictures of the report: small SVG figures that stay sharp and readable on a phone.

Each function takes plain results of `training.evaluation` and returns a `Picture`. Figures are drawn with the object
interface of matplotlib, so there is no window, no backend to choose and no state of pyplot. Text stays text: a browser
shows it in the reader's sans-serif font. Equal inputs give equal bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from training.evaluation.curves import GainCurve, ReliabilityCurve
from training.evaluation.tier_moves import Counts
from training.reasons.importance import ReasonWeights
from training.reasons.reason_codes import DOWNGRADE, UPGRADE
from training.reasons.stories import Story

INK, MUTED, RULE, ACCENT = "#1f2a37", "#667085", "#d8dee6", "#2f6f9f"
MOVES = {UPGRADE: "moving up", DOWNGRADE: "moving down"}

_SCALE = ("#aebccb", "#6c9ac4", "#2f6f9f", "#3d9a8b", "#e3a53a", "#c8553d")
_PICKS = {2: (0, 4), 3: (0, 2, 4), 4: (0, 1, 2, 4), 5: (0, 1, 2, 3, 4), 6: (0, 1, 2, 3, 4, 5)}
_BASELINE_DASHES = ("--", ":", "-.")
_LIFT_SHARES = (0.05, 0.10, 0.20, 0.30, 0.50)
_LONGEST_NAME = 14

# 5 inches across are 360 SVG points: with 10-point text, 14 pixels in a column of the page and 10 on a phone.
_WIDTH, _HEIGHT = 5.0, 3.7
_STYLE: Any = {
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10,
    "grid.color": "#edf0f4",
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "tiercast",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.labelsize": 9.5,
    "ytick.major.size": 0,
}
_styled = matplotlib.rc_context(_STYLE)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image that needs no file beside the page.

    Attributes:
        uri: a `data:` address that holds the SVG.
        alt: what the picture shows, in words, for those who cannot see it.
    """

    uri: str
    alt: str


def tier_colours(k: int) -> tuple[str, ...]:
    """A colour for each of k tiers, lowest first, the same in every picture and table of a report."""
    if k in _PICKS:
        return tuple(_SCALE[i] for i in _PICKS[k])
    blend = LinearSegmentedColormap.from_list("tiers", _SCALE)
    return tuple(to_hex(blend(x)) for x in np.linspace(0, 1, k))


@_styled
def tier_flows(flows: Counts, tiers: Sequence[str], left: str, right: str) -> Picture:
    """An alluvial diagram of members by tier on the left (rows of `flows`) and on the right (columns).

    Streams have the colour of the tier on the left, to show where its members go.
    """
    counts, colours = np.asarray(flows, dtype=float), tier_colours(len(tiers))
    figure, axes = _figure(height=3.9)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.14))
    axes.axis("off")
    scale = (1 - _node_gap(len(tiers)) * (len(tiers) - 1)) / max(counts.sum(), 1)
    before, after = counts.sum(axis=1), counts.sum(axis=0)
    starts, ends = _stacked(before, scale), _stacked(after, scale)
    # Within a node the streams are in the order of their other ends, so few of them cross.
    leaving = starts[:, None] + (counts.cumsum(axis=1) - counts) * scale
    arriving = ends[None, :] + (counts.cumsum(axis=0) - counts) * scale
    for (i, j), count in np.ndenumerate(counts):
        axes.add_patch(_stream(float(leaving[i, j]), float(arriving[i, j]), float(count) * scale, colours[i]))
    _nodes(axes, _LEFT, starts, before, scale, tiers, left)
    _nodes(axes, _RIGHT, ends, after, scale, tiers, right)
    return _picture(figure, f"Flow diagram from {left} to {right}. {_flow_words(counts, tiers)}")


@_styled
def tier_sizes(sizes: Mapping[str, Sequence[float]], tiers: Sequence[str]) -> Picture:
    """Members of each tier as bars side by side, one for each named moment: the first pale, the last in full colour."""
    figure, axes = _figure(height=3.9)
    width, colours, places = 0.8 / len(sizes), tier_colours(len(tiers)), np.arange(len(tiers))
    for i, (moment, members) in enumerate(sizes.items()):
        offset = (i - (len(sizes) - 1) / 2) * width
        alpha = 0.45 + 0.55 * i / max(len(sizes) - 1, 1)
        axes.bar(places + offset, members, width * 0.94, color=colours, alpha=alpha, zorder=2)
        for place, count in zip(places, members, strict=True):
            axes.text(place + offset, count, f"{count:,.0f}", ha="center", va="bottom", fontsize=9)
            axes.annotate(
                moment, (place + offset, 0), (0, -9), textcoords="offset points", ha="center", va="center", fontsize=8.5
            )
    axes.set_xticks(places, [_short(tier) for tier in tiers])
    axes.tick_params(axis="x", pad=16, labelsize=10, labelcolor=INK)
    axes.set_ylim(0, 1.12 * max(1, *(max(members) for members in sizes.values())))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False)
    axes.set_title("members")
    words = "; ".join(
        f"{moment}: {', '.join(f'{tier} {count:,.0f}' for tier, count in zip(tiers, members, strict=True))}"
        for moment, members in sizes.items()
    )
    return _picture(figure, f"Bars of the members in each tier. {words}.")


@_styled
def confusion(counts: Counts, tiers: Sequence[str]) -> Picture:
    """A heat map of the outcome tier (rows) against the predicted tier (columns), shaded by share of the row."""
    table = np.asarray(counts, dtype=float)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    figure, axes = _figure(height=4.2)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    shades = LinearSegmentedColormap.from_list("shares", ("#f5f7fa", ACCENT))
    axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=2)
    axes.invert_yaxis()
    names, many = [_short(tier) for tier in tiers], len(tiers) > 4
    tilted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if many else {}
    axes.set_xticks(np.arange(len(tiers)) + 0.5, names, **tilted)
    axes.set_yticks(np.arange(len(tiers)) + 0.5, names)
    axes.set_xlabel("predicted tier")
    axes.set_title("tier reached")
    for (i, j), share in np.ndenumerate(shares):
        ink = "white" if share > 0.8 else INK
        axes.text(
            j + 0.5,
            i + 0.5,
            f"{share:.0%}",
            ha="center",
            va="bottom",
            color=ink,
            fontsize=10 if many else 13,
            fontweight="bold",
        )
        axes.text(
            j + 0.5, i + 0.56, f"{table[i, j]:,.0f}", ha="center", va="top", color=ink, fontsize=7.5 if many else 9
        )
    right = ", ".join(f"{tier} {shares[i, i]:.0%}" for i, tier in enumerate(tiers) if totals[i, 0])
    return _picture(figure, f"Confusion matrix. Share of each tier's members that was predicted right: {right}.")


@_styled
def reliability(curves: Mapping[str, ReliabilityCurve], colours: Sequence[str], what: str) -> Picture:
    """Observed share against forecast probability, one line for each curve, with the diagonal of a perfect forecast.

    Thin lines are the 95 % intervals of the observed shares.
    """
    figure, axes = _figure(height=4.2)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        low, high = zip(*curve.intervals(), strict=True)
        axes.vlines(curve.predicted, low, high, color=colour, linewidth=1.2, alpha=0.45, zorder=2)
        axes.plot(curve.predicted, curve.observed, color=colour, linewidth=1.4, zorder=3)
        axes.scatter(curve.predicted, curve.observed, s=18, color=colour, zorder=3, label=_short(name))
    highest = max(max(curve.predicted + curve.observed) for curve in curves.values())
    _percent_axes(axes, min(1.03, highest * 1.08 + 0.01))
    axes.set_title("share that came true")
    axes.set_xlabel("forecast probability")
    _legend(figure)
    gaps = ", ".join(f"{name} {curve.error:.1%}" for name, curve in curves.items())
    return _picture(figure, f"Reliability curves of {what}. Mean gap between forecast and reality: {gaps}.")


@_styled
def upgrade_gain(model: GainCurve, baselines: Mapping[str, GainCurve]) -> Picture:
    """Share of the upgrades found against share of the members contacted: model, baselines, ideal and random."""
    figure, axes = _figure(height=4.2)
    ideal = model.upgrades / model.eligible
    axes.plot(model.contacted, model.found, color=ACCENT, linewidth=2.4, zorder=3, label="model")
    axes.plot([0, ideal, 1], [0, 1, 1], color=RULE, linewidth=1.5, label="ideal")
    for (name, curve), dashes in zip(baselines.items(), _BASELINE_DASHES * len(baselines), strict=False):
        axes.plot(curve.contacted, curve.found, color=MUTED, linewidth=1.3, linestyle=dashes, label=name)
    axes.fill_between(model.contacted, model.found, model.contacted, color=ACCENT, alpha=0.10, linewidth=0)
    _percent_axes(axes, 1.03)
    axes.set_title("upgrades found")
    axes.set_xlabel("members contacted, most promising first")
    _legend(figure)
    points = ", ".join(f"{model.found_at(x):.0%} when contacting {x:.0%}" for x in (0.1, 0.2, 0.5))
    return _picture(figure, f"Gain curve. Share of the upgrades that the model finds: {points}.")


@_styled
def upgrade_lift(model: GainCurve) -> Picture:
    """How many times better than chance the model picks members who will move up, for several campaign sizes."""
    figure, axes = _figure(height=4.2)
    lifts = [model.lift_at(share) for share in _LIFT_SHARES]
    names = [f"{share:.0%}" for share in _LIFT_SHARES]
    axes.bar(names, lifts, color=ACCENT, width=0.62, zorder=2)
    axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    for i, lift in enumerate(lifts):
        axes.text(i, lift + 0.02 * max(lifts), f"{lift:.1f}\u00d7", ha="center", va="bottom", fontweight="bold")
    axes.set_ylim(0, max(1.15, max(lifts) * 1.14))
    axes.grid(False, axis="x")
    axes.set_title("times as many upgrades as by chance (dashed line)")
    axes.set_xlabel("members contacted, most promising first")
    words = ", ".join(f"{lift:.1f} times for the top {name}" for name, lift in zip(names, lifts, strict=True))
    return _picture(figure, f"Lift of the model over contacting members at random: {words}.")


@_styled
def score_distribution(scores: Mapping[str, Sequence[int]], colours: Sequence[str], what: str) -> Picture:
    """Stacked histogram of a probability by current tier; each sequence counts members in equal bins from 0 to 1."""
    figure, axes = _figure()
    bins = len(next(iter(scores.values())))
    edges = np.linspace(0, 1, bins + 1)
    floor = np.zeros(bins)
    for (tier, counts), colour in zip(scores.items(), colours, strict=True):
        axes.bar(
            edges[:-1], counts, 0.92 / bins, bottom=floor, align="edge", color=colour, label=_short(tier), zorder=2
        )
        floor += counts
    axes.set_xlim(-0.01, 1.01)
    axes.grid(False, axis="x")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("members, by current tier")
    axes.set_xlabel(what)
    _legend(figure)
    likely = int(floor[bins // 2 :].sum())
    return _picture(figure, f"Histogram of the {what}. {likely:,} of {int(floor.sum()):,} members are at 50% or above.")


@_styled
def training_curves(epochs: Sequence[float], losses: Mapping[str, Sequence[float]]) -> Picture:
    """Loss by epoch, one line each for the named losses, with the best validation epoch marked."""
    figure, axes = _figure()
    for (name, values), colour in zip(losses.items(), (MUTED, ACCENT), strict=False):
        axes.plot(epochs, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=name)
    watched, values = list(losses.items())[-1]
    best = int(np.nanargmin(values))
    axes.axvline(epochs[best], color=RULE, linewidth=1, zorder=0)
    axes.plot(epochs[best], values[best], "o", color="#e3a53a", markersize=8, label="kept")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title("loss")
    axes.set_xlabel("epoch")
    _legend(figure)
    return _picture(
        figure,
        f"Loss by epoch. The lowest {watched} is {values[best]:.4f} in epoch {epochs[best]:.0f} of {len(epochs)}.",
    )


@_styled
def training_pace(epochs: Sequence[float], series: Mapping[str, Sequence[float]]) -> Picture:
    """Panels one below the other, each a quantity by epoch: learning rate, users per second."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, series.items(), strict=True):
        axes.plot(epochs, values, color=ACCENT, linewidth=2, marker="o", markersize=3.5)
        axes.set_title(name)
        axes.set_ylim(0, max(np.nanmax(values) * 1.15, np.finfo(float).tiny))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.4g}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panels[-1].set_xlabel("epoch")
    spans = "; ".join(f"{name} from {np.nanmin(v):,.4g} to {np.nanmax(v):,.4g}" for name, v in series.items())
    return _picture(figure, f"Training by epoch: {spans}.")


@_styled
def reason_directions(reasons: Sequence[ReasonWeights], target: str) -> Picture:
    """What little and much of each reason adds to a chance, in percentage points: a pale and a full dot."""
    figure, axes = _figure(height=0.9 + 0.42 * len(reasons))
    for place, reason in enumerate(reasons):
        weight = reason.targets[target]
        if weight.little is None or weight.much is None:
            continue
        ends = [100 * weight.little, 100 * weight.much]
        axes.plot(ends, [place, place], color=RULE, linewidth=3, zorder=1, solid_capstyle="round")
        axes.scatter(ends[:1], [place], s=44, color=_SCALE[0], zorder=3, label=None if place else "least of it")
        axes.scatter(ends[1:], [place], s=44, color=ACCENT, zorder=3, label=None if place else "most of it")
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0)
    _words_above(axes, [reason.wording for reason in reasons])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.4g}" if x else "0"))
    axes.set_xlabel("percentage points, against the average member of the tier")
    _legend(figure)
    words = "; ".join(
        f"{r.wording}: {_points(w.much)} with most of it, {_points(w.little)} with least"
        for r in reasons
        if (w := r.targets[target]).much is not None
    )
    return _picture(figure, f"What reasons add to the chance of {MOVES[target]}. {words}.")


@_styled
def reason_losses(reasons: Sequence[ReasonWeights]) -> Picture:
    """Rise of the logloss without each reason: the mean as a bar, least and most as a line."""
    figure, axes = _figure(height=0.9 + 0.42 * len(reasons))
    for place, reason in enumerate(reasons):
        axes.barh(place, reason.loss or 0, height=0.3, color=ACCENT, zorder=2)
        axes.plot([min(reason.losses), max(reason.losses)], [place, place], color=INK, linewidth=1.2, zorder=3)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0)
    _words_above(axes, [reason.wording for reason in reasons])
    axes.set_xlabel("rise of the logloss")
    words = ", ".join(f"{reason.wording} {reason.loss:.4f}" for reason in reasons)
    return _picture(figure, f"Rise of the logloss where a reason is taken from another member: {words}.")


@_styled
def timeline(story: Story) -> Picture:
    """A member's events by what each adds to the chance, over time, and below it the weightiest reasons as bars."""
    figure = Figure(figsize=(_WIDTH, 2.9 + 0.42 * len(story.reasons)), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[2.2, 0.5 + 0.42 * len(story.reasons)])
    kinds = list(dict.fromkeys(sorted(story.kinds, key=lambda kind: (-story.kinds.count(kind), kind))))
    for kind, (colour, marker) in zip(kinds, itertools.cycle(_MARKS)):
        points = [
            (-d, 100 * c) for d, k, c in zip(story.days, story.kinds, story.contributions, strict=True) if k == kind
        ]
        days, added = zip(*points, strict=True)
        above.vlines(days, 0, added, color=colour, linewidth=1.1, alpha=0.6, zorder=2)
        above.scatter(
            days, added, s=22, color=colour, marker=marker, linewidth=0, zorder=3, label=_short(kind.replace("_", " "))
        )
    above.axhline(0, color=MUTED, linewidth=1, zorder=1)
    above.set_title("what each event adds, in percentage points")
    above.set_xlabel("days before the forecast")
    above.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):.0f}"))
    above.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+.4g}" if y else "0"))
    values = [100 * added for _, added in story.reasons]
    colours = [ACCENT if value > 0 else _SCALE[-1] for value in values]
    below.barh(range(len(values)), values, height=0.3, color=colours, zorder=2)
    below.axvline(0, color=MUTED, linewidth=1, zorder=1)
    _words_above(below, [f"{words}  {value:+.1f}" for (words, _), value in zip(story.reasons, values, strict=True)])
    below.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.4g}" if x else "0"))
    below.set_xlabel("percentage points")
    _legend(figure)
    words = ", ".join(f"{words} {_points(added)}" for words, added in story.reasons)
    return _picture(
        figure,
        f"{len(story.days)} events of a member in {story.tier} over {max(story.days, default=0):.0f} days. The chance "
        f"of {MOVES[story.target]} is {story.probability:.0%}, the average member's {story.average:.0%}. "
        f"Reasons: {words}.",
    )


_MARKS = ((ACCENT, "o"), ("#e3a53a", "D"), ("#c8553d", "s"), ("#3d9a8b", "^"), (MUTED, "v"))
"""Colour and shape of each type of event."""


def _words_above(axes: Axes, words: Sequence[str]) -> None:
    """Rows from the top, each with its words above it: so no width beside the rows is lost on a phone."""
    axes.set_ylim(len(words) - 0.5, -0.75)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for place, text in enumerate(words):
        axes.text(0, place - 0.28, text, transform=axes.get_yaxis_transform(), va="bottom", fontsize=9)


def _points(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:+.1f} points"


_LEFT, _RIGHT, _NODE_WIDTH = 0.28, 0.72, 0.018
"""Places in a flow diagram, in shares of its width."""


def _node_gap(k: int) -> float:
    """Share of the height between two of k nodes: a line of text where there is room, to keep labels apart."""
    return min(0.085, 0.6 / k)


def _stacked(members: np.ndarray, scale: float) -> np.ndarray:
    """Lower edge of each node, lowest tier at the bottom; `scale` is the height of one member."""
    edges: np.ndarray = np.concatenate([[0], np.cumsum(members * scale + _node_gap(len(members)))[:-1]])
    return edges


def _stream(start: float, end: float, thickness: float, colour: str) -> PathPatch:
    """A band of constant vertical thickness from the left nodes to the right ones."""
    x0, x1, middle = _LEFT + _NODE_WIDTH, _RIGHT, (_LEFT + _NODE_WIDTH + _RIGHT) / 2
    corners = [
        *((x0, start), (middle, start), (middle, end), (x1, end)),
        *((x1, end + thickness), (middle, end + thickness), (middle, start + thickness), (x0, start + thickness)),
        (x0, start),
    ]
    curve = [Path.CURVE4] * 3
    codes = [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY]
    return PathPatch(Path(corners, codes), facecolor=colour, alpha=0.42, linewidth=0)


def _nodes(
    axes: Axes, x: float, edges: np.ndarray, members: np.ndarray, scale: float, tiers: Sequence[str], title: str
) -> None:
    """One side of a flow diagram: coloured bars, each with its tier and members, and a title above."""
    side, align = (x - 0.02, "right") if x < 0.5 else (x + _NODE_WIDTH + 0.02, "left")
    for edge, count, tier, colour in zip(edges, members, tiers, tier_colours(len(tiers)), strict=True):
        axes.add_patch(Rectangle((x, edge), _NODE_WIDTH, count * scale, color=colour, linewidth=0))
        axes.text(side, edge + count * scale / 2, f"{_short(tier)}  {count:,.0f}", ha=align, va="center")
    axes.text(side, 1.09, title, ha=align, va="center", color=MUTED)


def _flow_words(counts: np.ndarray, tiers: Sequence[str]) -> str:
    """The flows as a sentence for each tier on the left that has members."""
    return " ".join(
        f"Of {row.sum():,.0f} in {tier}: {', '.join(f'{n:,.0f} to {to}' for n, to in zip(row, tiers, strict=True))}."
        for row, tier in zip(counts, tiers, strict=True)
        if row.sum()
    )


def _figure(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _percent_axes(axes: Axes, highest: float) -> None:
    """Both axes from 0 to the same share, written in per cent."""
    axes.set(xlim=(-0.01 * highest, highest), ylim=(-0.01 * highest, highest))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(figure: Figure) -> None:
    """A legend of all labelled artists below the figure: one line, or rows of three if there are more than four."""
    entries = len(figure.axes[0].get_legend_handles_labels()[1])
    if not entries:
        return
    columns = entries if entries <= 4 else 3
    figure.legend(loc="outside lower center", ncols=columns, handlelength=1.4, columnspacing=1.4, handletextpad=0.5)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _picture(figure: Figure, alt: str) -> Picture:
    """The figure as SVG in a data address; without a date, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{encoded}", alt)
