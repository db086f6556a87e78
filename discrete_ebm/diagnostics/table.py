"""One table of what is known about each quantity: estimate, its error, and whether the chains can be trusted."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from discrete_ebm.diagnostics.blocks import Metric, check_draws, per_quantity
from discrete_ebm.diagnostics.convergence import RHAT, ess_metric, mcse_metric
from discrete_ebm.errors import SettingError, ShapeError

__all__ = ["Summary", "summarize"]

_SHOWN = 24  # rows of the printed table


@dataclass(frozen=True, eq=False)
class Summary:
    """Figures of Q quantities. ``columns`` name to (Q,) float64 on the CPU: mean, sd, mcse_mean, mcse_sd, ess_bulk,
    ess_tail, rhat; ``parts`` the names and shapes of what the rows are. ``print`` shows it, at most 24 rows."""

    columns: Mapping[str, Tensor]
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    n_draws: int
    n_chains: int

    def __len__(self) -> int:
        return len(self.columns["mean"])

    def name(self, row: int) -> str:
        """What a row is about, e.g. ``energy`` or ``x[3, 4]``."""
        for label, shape in self.parts:
            size = math.prod(shape)
            if row < size:
                position = [int(i) for i in torch.unravel_index(torch.tensor(row), shape)] if shape else []
                return f"{label}[{', '.join(map(str, position))}]" if shape else label
            row -= size
        raise IndexError(row)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Name of the quantity to column to value; all rows."""
        rows = torch.stack(list(self.columns.values()), dim=1).tolist()
        return {self.name(i): dict(zip(self.columns, row, strict=True)) for i, row in enumerate(rows)}

    def to_csv(self, path: str | Path | None = None) -> str:
        """All rows as text with a header, full precision; written to ``path`` too where one is given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["quantity", *self.columns])
        for name, row in self.to_dict().items():
            writer.writerow([name, *(repr(value) for value in row.values())])
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def __str__(self) -> str:
        shown = self._chosen()
        table = [["", *self.columns]]
        for row in shown:
            values = {name: float(column[row]) for name, column in self.columns.items()}
            table.append([self.name(row), *(_cell(name, value) for name, value in values.items())])
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                            zip(line[1:], widths[1:], strict=True))]).rstrip() for line in table]
        head = f"{self.n_chains} chains x {self.n_draws} draws"
        if len(shown) < len(self):
            head += f"; {len(shown)} of {len(self)} quantities, those with the lowest bulk ESS"
        return "\n".join([head, *lines])

    __repr__ = __str__

    def _chosen(self) -> list[int]:
        """Rows to print: all, or single numbers first and then the worst."""
        if len(self) <= _SHOWN:
            return list(range(len(self)))
        singles, start = [], 0
        for _, shape in self.parts:
            singles += [start] if not shape else []
            start += math.prod(shape)
        order = self.columns["ess_bulk"].nan_to_num(-1.0).argsort(stable=True)[: _SHOWN + len(singles)].tolist()
        return singles[:_SHOWN] + [row for row in order if row not in singles][: max(0, _SHOWN - len(singles))]


def summarize(quantities: Mapping[str, Tensor]) -> Summary:
    """The table of named quantities, each of draws (S, C, ...), all with the same S and C.

    Columns: mean and sd over all draws; mcse_mean and mcse_sd, their standard errors; ess_bulk and ess_tail; rhat.
    Means of category codes say nothing: pass one-hot states. Rows that never moved have an ESS of 0 and an mcse of
    inf, with one :class:`DiagnosticWarning` for each name.

    Raises:
        SettingError: no quantity. ShapeError: different numbers of draws or chains.
    """
    if not quantities:
        raise SettingError("`quantities` must have at least one name; got none. Try {'energy': chains.energy}.")
    metrics = {  # ess_bulk first: it is the one that warnings are about
        "ess_bulk": ess_metric("bulk"),
        "mean": Metric(lambda block: block.mean, 0.0, 0.0, 0.0, always=True),
        "sd": Metric(lambda block: block.values.flatten(1).std(-1), 0.0, 0.0, 0.0, always=True),
        "mcse_mean": mcse_metric("mean"),
        "mcse_sd": mcse_metric("sd"),
        "ess_tail": ess_metric("tail"),
        "rhat": RHAT,
    }
    order = ("mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat")
    found: dict[str, list[Tensor]] = {name: [] for name in order}
    parts = []
    for draws in quantities.values():
        check_draws(draws)
    first = next(iter(quantities.values())).shape[:2]
    for label, draws in quantities.items():
        if draws.shape[:2] != first:
            raise ShapeError(f"`quantities` must share S and C; got {tuple(first)} and {tuple(draws.shape[:2])} for "
                             f"{label!r}. Summarize them one by one.")
        columns = per_quantity(draws, metrics, "ess")
        for name in order:
            found[name].append(columns[name].flatten().cpu())
        parts.append((label, tuple(draws.shape[2:])))
    return Summary({name: torch.cat(values) for name, values in found.items()}, tuple(parts), first[0], first[1])


def _cell(name: str, value: float) -> str:
    if not math.isfinite(value):
        return f"{value:g}"
    if name.startswith("ess"):
        return f"{value:.0f}"
    return f"{value:.3f}" if name == "rhat" else f"{value:.4g}"

