"""Drawings for reports, as inline SVG texts: distributions, curves, shares.

Charts are matplotlib figures made without pyplot (no global state, no screen). Text stays text, so a page's own font
applies and the numbers can be searched; every id is unique, so many charts fit in one page.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

__all__ = ["AFTER", "BEFORE", "GRID", "INK", "MUTED", "PALETTE", "STYLE", "canvas", "curves_svg", "distribution_svg",
           "shares_svg", "to_svg"]

INK, MUTED, GRID = "#1d2433", "#667085", "#e7eaf0"
BEFORE, AFTER = "#a9b2c3", "#0f766e"
PALETTE = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#0369a1")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "discrete-ebm",
    "text.parse_math": False,  # a property may be called "a$b$"
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": "#cbd2dd",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
}
_serial = itertools.count()


def canvas(width: float = 3.9, height: float = 2.35) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element that scales with its container and shares no id with another."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    prefix = f"c{next(_serial)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{prefix}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'{head} role="img" aria-label="{label}">{rest}'.strip()


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def distribution_svg(
    name: str,
    before: ArrayLike,
    after: ArrayLike,
    *,
    labels: tuple[str, str] = ("training data", "generated"),
    target: tuple[float | None, float | None] | None = None,
) -> str:
    """Two distributions of one property on shared bins, as shares of their own totals, with their means.

    Args:
        name: axis label. before, after: numbers; NaN is left out, empty is allowed.
        labels: what the two are. target: (low, high) of the wanted range, either may be None; drawn as a band.

    Returns:
        One <svg> element.
    """
    sides = [_finite(before), _finite(after)]
    with rc_context(STYLE):
        figure, axes = canvas()
        both = np.concatenate(sides)
        if len(both) == 0:
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=MUTED)
        else:
            # Of each side alone: the smaller set must not be cut by the larger one's tails.
            ends = [np.quantile(values, [0.002, 0.998]) for values in sides if len(values)]
            low, high = min(e[0] for e in ends), max(e[1] for e in ends)
            low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
            integers = bool(np.all(both == np.round(both))) and high - low <= 60
            bins = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.0) if integers else np.linspace(low, high, 41)
            if target is not None:
                left = bins[0] if target[0] is None else max(target[0], bins[0])
                right = bins[-1] if target[1] is None else min(target[1], bins[-1])
                if left < right:
                    axes.axvspan(left, right, color="#f6c453", alpha=0.22, lw=0)
            for values, colour, label, alpha in zip(sides, (BEFORE, AFTER), labels, (0.55, 0.30), strict=True):
                if len(values) == 0:
                    continue
                inside = np.clip(values, bins[0], bins[-1])  # the outermost 0.2 % pile up at the edges, none is lost
                share = np.histogram(inside, bins)[0] / len(values)
                axes.stairs(share, bins, fill=True, color=colour, alpha=alpha, lw=0)
                axes.stairs(share, bins, color=colour, lw=1.5, label=label)
                axes.axvline(float(values.mean()), color=colour, lw=1.2, ls=(0, (3, 2)))
            axes.set_xlim(bins[0], bins[-1])
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=8.5, borderaxespad=0.2,
                        handletextpad=0.5, handlelength=1.2, columnspacing=1.2)  # fmt: skip
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(name)
        return to_svg(figure, f"distribution of {name}")


def curves_svg(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    x_label: str,
    y_label: str = "",
    title: str = "",
    stages: Sequence[str] | None = None,
    zero_line: bool = False,
) -> str:
    """Curves over a common x; points that are NaN are left out. ``stages`` (one per x) shades every second stage.

    ``title`` is for screen readers; the page writes it above the drawing.
    """
    horizontal = np.asarray(x, dtype=np.float64).ravel()
    with rc_context(STYLE):
        figure, axes = canvas()
        for i, (label, values) in enumerate(series.items()):
            y = np.asarray(values, dtype=np.float64).ravel()
            kept = np.isfinite(horizontal[: len(y)]) & np.isfinite(y[: len(horizontal)])
            n = len(kept)
            sparse = kept.sum() < 30
            axes.plot(horizontal[:n][kept], y[:n][kept], color=PALETTE[i % len(PALETTE)], lw=1.6, label=label,
                      marker="o" if sparse else None, ms=3.5)  # fmt: skip
        if zero_line:
            axes.axhline(0.0, color="#98a2b3", lw=0.8)
        if stages:
            axes.margins(y=0.14)  # room for the names of the stages
            _stage_bands(axes, horizontal, stages)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=8.5, borderaxespad=0.2,
                        handletextpad=0.5, handlelength=1.2, columnspacing=1.2)  # fmt: skip
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xmargin(0.01)
        return to_svg(figure, f"{title or y_label} over {x_label}")


def _stage_bands(axes: Axes, x: np.ndarray, stages: Sequence[str]) -> None:
    """Shade every second training stage and name each at the top."""
    start = 0
    axes.set_xlim(np.nanmin(x), np.nanmax(x))  # a curve may miss at both ends; the stages do not
    for k, (name, run) in enumerate(itertools.groupby(stages[: len(x)])):
        end = start + len(list(run))
        left, right = x[start], x[min(end, len(x) - 1)]
        if k % 2 == 0:
            axes.axvspan(left, right, color="#f2f4f7", lw=0, zorder=0)
        if right > left:
            axes.text((left + right) / 2, 0.98, str(name), transform=axes.get_xaxis_transform(), ha="center", va="top",
                      fontsize=8, color=MUTED)  # fmt: skip
        start = end


def shares_svg(name: str, samples: Mapping[str, float], reference: Mapping[str, float], keys: Iterable[str]) -> str:
    """Two histograms over categories side by side, as shares (from ``metrics.histograms`` and ``metrics.shares``)."""
    order = list(keys)
    with rc_context(STYLE):
        figure, axes = canvas(3.4, 2.1)
        at = np.arange(len(order))
        width = 0.4 if reference else 0.7
        if reference:
            axes.bar(at - 0.2, [reference.get(k, 0.0) for k in order], width, color=BEFORE, label="reference")
        shift = 0.2 if reference else 0.0
        axes.bar(at + shift, [samples.get(k, 0.0) for k in order], width, color=AFTER, alpha=0.85, label="samples")
        step = max(1, -(-len(order) // 12))
        axes.set_xticks(at[::step], order[::step])
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(name)
        if reference:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=8.5, borderaxespad=0.2,
                        handlelength=1.2, columnspacing=1.2)  # fmt: skip
        return to_svg(figure, f"histogram of {name}")
