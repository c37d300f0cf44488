"""The pictures of a comparison, as matplotlib figures without global state.

``svg`` and ``png`` turn one into a file. Text in an SVG stays text, so that it can be searched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .statistics import Difference
from .summary import Grid, Point, Summary, frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers. Markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
DPI = 150


def quality_bars(summaries: Sequence[Summary]) -> Figure:
    """Quality with its interval, the best on top."""
    figure, axes = _figure(height=1.2 + 0.32 * len(summaries))
    for place, one in enumerate(reversed(summaries)):
        quality = one.quality
        axes.errorbar(
            quality.mean,
            place,
            xerr=_spread(quality.mean, quality.low, quality.high),
            fmt="o",
            color=COLOURS[0],
            capsize=3,
        )
    axes.set_yticks(range(len(summaries)), [_text(s.label) for s in reversed(summaries)])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(_text(f"{summaries[0].metric}, mean and 95 % interval"))
    return figure


def quality_cost(summaries: Sequence[Summary], *, dollars: bool = False) -> Figure:
    """Quality against tokens a question (or dollars), with the frontier drawn.

    A strategy whose costs are known of no question is left out.
    """
    figure, axes = _figure(height=4.4)

    def x(one: Summary) -> float:
        return (one.cost or 0.0) if dollars else max(one.tokens, 1.0)

    styles = _styles(s.label for s in summaries)
    for one in summaries:
        if not one.counted:
            continue
        axes.errorbar(
            x(one),
            one.quality.mean,
            yerr=_spread(one.quality.mean, one.quality.low, one.quality.high),
            ls="none",
            elinewidth=0.7,
            **styles[one.label],
            label=_text(one.label),
        )
    best = frontier(summaries)
    axes.plot(
        [x(s) for s in best],
        [s.quality.mean for s in best],
        color="#555555",
        ls="--",
        lw=1,
        label="frontier",
    )
    if not dollars:
        _logarithmic(axes)
    axes.set_xlabel("dollars a question" if dollars else "tokens in and out, a question")
    axes.set_ylabel(_text(summaries[0].metric))
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)
    return figure


def quality_length(points: Mapping[str, Sequence[Point]], metric: str) -> Figure:
    """Quality over the length of the document."""
    figure, axes = _figure(height=4.4)
    styles = _styles(points)
    for label, found in points.items():
        axes.errorbar(
            [p.length for p in found],
            [p.quality.mean for p in found],
            yerr=[
                [max(p.quality.mean - p.quality.low, 0) for p in found],
                [max(p.quality.high - p.quality.mean, 0) for p in found],
            ],
            lw=1.2,
            **styles[label],
            elinewidth=0.5,
            label=_text(label),
        )
    lengths = sorted({p.length for found in points.values() for p in found})
    _logarithmic(axes, lengths[:: max(len(lengths) // 8, 1)])
    axes.set_xlabel("tokens of the document")
    axes.set_ylabel(_text(metric))
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)
    return figure


def difference_bars(found: Mapping[str, Difference], against: str) -> Figure:
    """Paired differences with their intervals; those that exclude 0 are filled."""
    figure, axes = _figure(height=1.2 + 0.32 * len(found))
    order = sorted(found.items(), key=lambda pair: pair[1].mean)
    for place, (_, one) in enumerate(order):
        colour = COLOURS[2] if one.mean > 0 else COLOURS[1]
        axes.errorbar(
            one.mean,
            place,
            xerr=_spread(one.mean, one.low, one.high),
            fmt="o",
            color=colour,
            markerfacecolor=colour if one.significant else "white",
            capsize=3,
        )
    axes.axvline(0, color="#555555", lw=0.8)
    axes.set_yticks(range(len(order)), [_text(label) for label, _ in order])
    axes.set_xlabel(_text(f"score minus that of {against}, same questions"))
    return figure


def heat_map(grid: Grid, label: str) -> Figure:
    """Score by length and depth of the needle; what was not measured stays white."""
    figure, axes = _figure(width=1.8 + 0.7 * len(grid.lengths), height=1.4 + 0.4 * len(grid.depths))
    values = [[math.nan if v is None else v for v in line] for line in grid.values]
    axes.grid(visible=False)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isnan(value):
                colour = "black" if 0.15 < value < 0.85 else "white"
                said = f"{value:.2f}"
                axes.text(column, row, said, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(grid.lengths)), [_thousands(n) for n in grid.lengths])
    axes.set_yticks(range(len(grid.depths)), [f"{d:.0%}" for d in grid.depths])
    axes.set_xlabel("tokens of the document")
    axes.set_ylabel("depth")
    axes.set_title(_text(label), fontsize=9)
    figure.colorbar(image, ax=axes)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for a page; ``name`` keeps ids of several apart."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _figure(*, width: float = 7.0, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, color="#dddddd", lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker by label: the same label looks the same in every picture of a set."""
    return {
        label: {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
        for n, label in enumerate(sorted(labels))
    }


def _logarithmic(axes: Axes, ticks: Sequence[int] = ()) -> None:
    """A logarithmic axis of tokens with few, plain labels; ``ticks`` where they are known."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

    axes.set_xscale("log")
    locator = FixedLocator(ticks) if ticks else LogLocator(base=2.0, numticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any) -> None:
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _spread(mean: float, low: float, high: float) -> list[list[float]]:
    """Lengths of the two whiskers; never below 0, whatever rounding did."""
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]


def _text(text: str) -> str:
    """A label as it is: matplotlib would read dollar signs as formulas."""
    return text.replace("$", r"\$")


def _thousands(tokens: float) -> str:
    return f"{tokens / 1024:.3g}k" if tokens >= 1024 else f"{tokens:.0f}"
