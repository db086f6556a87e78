"""Figures of the suites. Matplotlib is loaded when the first is drawn; without it a run has its table and record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from discrete_ebm import plots
from discrete_ebm.benchmark.sampling import rows_of, standing, wrong_laws

__all__ = ["annealed", "bars", "distances", "overview", "save", "sweep"]

GREY = "#b8bfcb"  # of what is not to be trusted


def save(figure: Any, path: Any) -> None:
    """Write and close."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)


def _axes(columns: int, height: float = 4.0) -> tuple[Any, list[Any]]:
    plots.check()
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(6.4 * columns, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cases(record: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.rpartition("/")[0] for name in rows_of(record, "case")))


def _lines(axis: Any, curves: dict[str, list[tuple[float, float]]], untrusted: set[str]) -> None:
    colours = plots.PALETTE
    for number, (label, points) in enumerate(sorted(curves.items())):
        wrong = label in untrusted
        style = {"color": GREY, "linestyle": ":"} if wrong else {
            "color": colours[number % len(colours)], "linestyle": ("-", "--", "-.")[number // len(colours) % 3]}
        axis.plot(*zip(*points, strict=True), marker="x" if wrong else "o", markersize=3, linewidth=1.2,
                  label=f"{label} (biased)" if wrong else label, **style)


def sweep(record: dict[str, Any], axis_label: str, mark: float | None = None) -> Any:
    """ESS per evaluation and per second against the last number in each case's name, at the largest lattice."""
    names = _cases(record)
    largest = names[-1].split(",")[0] if names else ""
    untrusted = wrong_laws([record])
    figure, axes = _axes(2, 4.6)
    for axis, key, what in zip(axes, ("ess_per_evaluation", "ess_per_second"), ("evaluation", "processor second"),
                               strict=True):
        curves: dict[str, list[tuple[float, float]]] = {}
        for name in names:
            if name.split(",")[0] != largest:
                continue
            for label, part in rows_of(record, f"case/{name}").items():
                if (part.get(key) or 0) > 0:
                    curves.setdefault(label, []).append((float(name.split()[-1]), part[key]))
        _lines(axis, curves, untrusted)
        if curves:
            axis.set_yscale("log")
        if mark is not None:
            axis.axvline(mark, color="#8a94a6", linewidth=0.8)
        axis.set(xlabel=axis_label, ylabel=f"effective draws per {what}", title=largest)
    axes[-1].legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def bars(record: dict[str, Any]) -> Any:
    """ESS per second of each kernel, one panel a case; what is biased, frozen or not mixed is grey."""
    names = _cases(record)
    untrusted = wrong_laws([record])
    tall = max((len(rows_of(record, f"case/{name}")) for name in names), default=1)
    figure, axes = _axes(max(1, len(names)), 1.2 + 0.22 * tall)
    for axis, name in zip(axes, names, strict=False):
        found = {label: part for label, part in rows_of(record, f"case/{name}").items()
                 if (part.get("ess_per_second") or 0) > 0}
        order = sorted(found, key=lambda label: found[label]["ess_per_second"])
        colours = [plots.PALETTE[0] if standing(found[label]) == "ok" and label not in untrusted else GREY
                   for label in order]
        axis.barh(order, [found[label]["ess_per_second"] for label in order], color=colours)
        if order:
            axis.set_xscale("log")
        axis.set(xlabel="effective draws per processor second (grey: biased or not mixed)", title=name)
        axis.tick_params(axis="y", labelsize=7)
    return figure


def distances(record: dict[str, Any]) -> Any:
    """Squared MMD with error bars against steps and against seconds."""
    figure, axes = _axes(2, 4.6)
    untrusted = wrong_laws([record])
    floor = record["parts"].get("mmd floor", {}).get("error")
    for axis, key in zip(axes, ("steps", "seconds"), strict=True):
        for number, (label, part) in enumerate(sorted(rows_of(record, "mmd").items())):
            points = part.get("points", [])
            colour = GREY if label in untrusted else plots.PALETTE[number % len(plots.PALETTE)]
            axis.errorbar([p[key] for p in points], [p["mmd"] for p in points], [p["error"] for p in points],
                          color=colour, marker="o", markersize=3, linewidth=1, capsize=2, label=label)
        if floor:
            axis.axhspan(-2 * floor, 2 * floor, color="#e8ebf0", zorder=0)
            axis.set_yscale("symlog", linthresh=2 * floor)
        axis.set_xscale("log")
        axis.set(xlabel="steps" if key == "steps" else "processor seconds",
                 ylabel="squared MMD to a long block-Gibbs run (band: chance)")
    axes[-1].legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def annealed(record: dict[str, Any]) -> Any:
    """Mean over graphs of the best value, one panel a family of graphs."""
    rows = rows_of(record, "anneal")
    families = list(dict.fromkeys(name.split("/")[0] for name in rows))
    figure, axes = _axes(max(1, len(families)))
    for axis, family in zip(axes, families, strict=False):
        values: dict[str, list[float]] = {}
        for name, part in rows.items():
            if name.split("/")[0] == family and "best" in part:
                values.setdefault(name.rpartition("/")[2], []).append(part["best"])
        means = {label: sum(found) / len(found) for label, found in values.items()}
        order = sorted(means, key=lambda label: means[label])
        errors = [statistics.stdev(values[label]) / len(values[label]) ** 0.5 if len(values[label]) > 1 else 0.0
                  for label in order]
        axis.errorbar([means[label] for label in order], order, xerr=errors, fmt="o", markersize=5, capsize=3,
                      color=plots.PALETTE[0])
        axis.grid(axis="x", color="#e8ebf0")
        axis.set_axisbelow(True)
        axis.margins(x=0.1, y=0.15 if len(order) < 4 else 0.05)
        axis.set(xlabel="best value, mean over graphs ± standard error", title=family)
    return figure


def overview(records: Sequence[dict[str, Any]]) -> Any:
    """All kernels against all cases of all records: effective draws relative to the best trustworthy kernel of a case.

    Left per evaluation, right per processor second. Grey: another law. Pale, in brackets: the chains disagree.
    """
    columns = [(record, name) for record in records for name in _cases(record)]
    untrusted = {label for record in records for label in wrong_laws([record])}
    labels = list(dict.fromkeys(label for record, name in columns for label in rows_of(record, f"case/{name}")))
    keys = ("ess_per_evaluation", "ess_per_second")
    shares: dict[str, dict[str, list[tuple[float, str] | None]]] = {key: {one: [] for one in labels} for key in keys}
    for key in keys:
        for record, name in columns:
            found = rows_of(record, f"case/{name}")
            words = {label: "biased" if label in untrusted else standing(part) for label, part in found.items()}
            top = max((found[label].get(key) or 0 for label in found if words[label] == "ok"), default=0) or max(
                (found[label].get(key) or 0 for label in found if words[label] == "not mixed"), default=1)
            for label in labels:
                value = found.get(label, {}).get(key)
                shares[key][label].append((value / top, words[label]) if value else None)

    def worth(label: str) -> float:
        trusted = [cell[0] for cell in shares["ess_per_second"][label] if cell is not None and cell[1] != "biased"]
        return sum(math.log10(max(share, 1e-5)) for share in trusted) / len(trusted) if trusted else -9.0

    order = sorted((label for label in labels if any(shares[keys[1]][label])), key=worth)
    figure, axes = _axes(2, 1.9 + 0.27 * len(order))
    figure.set_figwidth(2 * (2.6 + 0.5 * len(columns)))
    for axis, key, what in zip(axes, keys, ("evaluation", "processor second"), strict=True):
        for row, label in enumerate(order):
            for column, cell in enumerate(shares[key][label]):
                if cell is not None:
                    _tile(axis, column, row, *cell)
        axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(order) - 0.5),
                 title=f"draws per {what}")
        axis.set_xticks(range(len(columns)), [f"{record['suite']}: {name}" for record, name in columns], rotation=60,
                        ha="right", fontsize=7)
        axis.set_yticks(range(len(order)), order, fontsize=7)
        axis.tick_params(length=0)
        axis.spines[["left", "bottom"]].set_visible(False)
    figure.supxlabel("effective draws as a share of the best kernel's; grey: another law; pale, in brackets: chains "
                     "disagree; empty: not run within the limit", fontsize=8)
    return figure


def _tile(axis: Any, column: int, row: int, share: float, word: str) -> None:
    """One field: the darker, the nearer to the best; five powers of ten in all."""
    from matplotlib.colors import to_rgb

    depth = min(1.0, max(0.0, 1 + math.log10(max(share, 1e-5)) / 5))
    base = to_rgb(GREY if word == "biased" else plots.PALETTE[0])
    strength = 0.12 + 0.88 * depth if word in ("ok", "biased") else 0.05 + 0.2 * depth
    axis.fill_between([column - 0.47, column + 0.47], row - 0.45, row + 0.45, linewidth=0,
                      facecolor=tuple(1 - (1 - part) * strength for part in base))
    text = f"{share:.2g}" if share >= 0.01 else f"1e{math.log10(share):.0f}"
    axis.text(column, row, text if word in ("ok", "biased") else f"({text})", ha="center", va="center", fontsize=6,
              color="white" if strength > 0.6 and word == "ok" else "black")
