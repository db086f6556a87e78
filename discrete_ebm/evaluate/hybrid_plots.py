"""Pictures of a classifier that is a density too: reliability, log p(x) by class, robustness, grids of images.

Each draws into ``ax`` or a new figure, saves to ``path`` where one is given, and returns the Axes (or the Figure).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.evaluate.calibration import Calibration
from discrete_ebm.plot_figures import INK, MUTED, PALETTE, axes_of, new_figure, pyplot, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "image_grid", "log_density_histograms", "reliability"]


def reliability(found: Calibration | Mapping[str, Calibration], *, ax: Axes | None = None,
                path: str | Path | None = None) -> Axes:
    """Accuracy against confidence, bin by bin; on the diagonal a probability is a frequency.

    The area of a marker is the share of rows in its bin; empty bins have none.
    """
    named = {"": found} if isinstance(found, Calibration) else dict(found)
    with axes_of(ax, path, (4.6, 4.4)) as ax:
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for number, (name, one) in enumerate(named.items()):
            seen = one.bin_counts > 0
            colour = PALETTE[number % len(PALETTE)]
            share = (one.bin_counts[seen] / one.bin_counts.sum()).numpy()
            confidence, accuracy = one.bin_confidence[seen].numpy(), one.bin_accuracy[seen].numpy()
            ax.plot(confidence, accuracy, color=colour, linewidth=0.6, alpha=0.6)
            ax.plot([], [], color=colour, linewidth=4,
                    label=f"{name}{': ' if name else ''}ECE {one.ece:.3f}, accuracy {one.accuracy:.3f}")
            ax.scatter(confidence, accuracy, s=12 + 300 * share, color=colour, alpha=0.5, linewidths=0)
        ax.set_xlim(0, 1.02)
        ax.set_ylim(0, 1.02)
        ax.set_aspect("equal")
        ax.set_xlabel("confidence, max p(y | x)")
        ax.set_ylabel("accuracy")
        ax.set_title("Reliability")
        ax.legend(loc="lower right", fontsize=8)
    return ax


def log_density_histograms(found: Mapping[str, Sequence[Tensor]], *, classes: Sequence[str] = (), n_bins: int = 40,
                           path: str | Path | None = None) -> Figure:
    """For each named model, a histogram of log p(x) of each class's rows, up to the model's constant.

    Args:
        found: name -> what :func:`class_log_densities` gives. classes: names for the legend.
    """
    if not found:
        raise SettingError("`found` must name at least one model; got none.")
    with style():
        figure = new_figure((4.8 * len(found), 3.4))
        for number, (name, groups) in enumerate(found.items()):
            ax = figure.add_subplot(1, len(found), number + 1)
            joined = torch.cat([group for group in groups if len(group)])
            low, high = (float(v) for v in torch.quantile(joined, torch.tensor([0.002, 0.998]).to(joined)))
            edges = np.linspace(low, high, n_bins + 1)
            colours = pyplot().get_cmap("viridis")(np.linspace(0, 1, len(groups)))
            for c, group in enumerate(groups):
                if len(group):
                    label = classes[c] if c < len(classes) else str(c)
                    density, _ = np.histogram(group.numpy(), edges, density=True)
                    ax.stairs(density, edges, color=colours[c], label=label, linewidth=1.2)
            ax.set_xlabel("log p(x) + constant, nats")
            ax.set_title(name)
            ax.set_yticks([])
            if number == len(found) - 1:
                ax.legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
        save(figure, path, True)
    return figure


def curves(found: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str, title: str = "",
           spread: Mapping[str, Sequence[float]] | None = None, log_x: bool = False, ax: Axes | None = None,
           path: str | Path | None = None) -> Axes:
    """Named lines of (x, y), e.g. accuracy against the radius of an attack or the weight of log p(x); ``spread`` is
    drawn as a band."""
    with axes_of(ax, path, (5.4, 3.4)) as ax:
        for number, (name, (x, y)) in enumerate(found.items()):
            colour = PALETTE[number % len(PALETTE)]
            ax.plot(list(x), list(y), color=colour, marker="o", markersize=3.5, label=name)
            if spread and name in spread:
                at, by = np.asarray(y, dtype=float), np.asarray(spread[name], dtype=float)
                ax.fill_between(list(x), at - by, at + by, color=colour, alpha=0.2, linewidth=0)
        if log_x:
            ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.set_title(title, color=INK)
        ax.legend(loc="best")
    return ax


def image_grid(x: Tensor, n_columns: int = 10, *, titles: Sequence[str] = (), low: float | None = None,
               high: float | None = None, path: str | Path | None = None) -> Figure:
    """Images (n, height, width) or (n, 1 or 3, height, width) row by row; ``titles`` one a row of the grid.

    Grey values are shown from ``low`` to ``high``, by default those of all the images.
    """
    x = x.detach().to("cpu", torch.float32)
    if x.dim() == 3:
        x = x[:, None]
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ShapeError(f"`x` must have shape (n, [1 or 3,] height, width); got {tuple(x.shape)}.")
    if isinstance(n_columns, bool) or not isinstance(n_columns, int) or n_columns < 1:
        raise SettingError(f"`n_columns` must be a whole number of at least 1; got {n_columns!r}.")
    low = float(x.min() if low is None else low)
    high = float(x.max() if high is None else high)
    n_rows = -(-len(x) // n_columns)
    height, width = x.shape[2] + 1, x.shape[3] + 1
    board = torch.full((x.shape[1], n_rows * height - 1, n_columns * width - 1), high)
    for number, image in enumerate(x):
        top, left = number // n_columns * height, number % n_columns * width
        board[:, top: top + height - 1, left: left + width - 1] = image
    shown = ((board - low) / max(high - low, 1e-12)).clamp(0, 1)
    values: Any = (shown[0] if len(shown) == 1 else shown.permute(1, 2, 0)).numpy()
    with style():
        figure = new_figure((0.55 * n_columns + (1.2 if titles else 0.1), 0.58 * n_rows + 0.2))
        ax = figure.add_subplot()
        ax.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([(row + 0.5) * height - 1 for row in range(len(titles))], list(titles))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        save(figure, path, True)
    return figure
