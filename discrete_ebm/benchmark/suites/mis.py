"""Maximum independent set on random graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.annealing_suite import anneal_parts, annealed_page
from discrete_ebm.benchmark.record import Record
from discrete_ebm.energies import IndependentSet
from discrete_ebm.errors import SettingError

TITLE = "Maximum independent set by annealed kernels."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"families": {"er-small": {"kind": "er", "nodes": [40, 50], "density": 0.15, "graphs": 2, "solved": True}},
              "steps": {"default": 150, "gibbs": 200}, "n_chains": 16, "start": 1.0, "end": 1e4,
              "penalty": 1.0001, "dtype": "float64", "dense": None, "solver_seconds": 30.0, "samplers": []},
    "full": {"families": {
        "er-small": {"kind": "er", "nodes": [60, 80], "density": 0.15, "graphs": 8, "solved": True,
                     "steps": {"default": 2000, "gibbs": 2000, "chromatic": 1000, "metropolis": 20_000}},
        "er-700-800": {"kind": "er", "nodes": [700, 800], "density": 0.15, "graphs": 16}},
        "steps": {"default": 20_000, "gibbs": 20_000, "chromatic": 5000, "metropolis": 200_000},
        "n_chains": 32, "start": 1.0, "end": 1e4, "penalty": 1.0001, "dtype": "float64", "dense": None,
        "solver_seconds": 120.0, "samplers": []},
}  # fmt: skip
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PUBLISHED = {
    "er-700-800": "Published on other graphs of this law: path-auxiliary sampler 44.570 (Goshvadi et al. 2023), "
    "KaMIS 44.87."
}


def run(ctx: Record) -> None:
    if ctx.dtype not in DTYPES:
        raise SettingError(f"setting 'dtype' must be float32 or float64; got {ctx.dtype!r}.")
    anneal_parts(ctx, lambda graph: IndependentSet(
        graph, penalty=ctx.penalty, dtype=DTYPES[ctx.dtype], dense=ctx.dense))


def tables(records: Sequence[dict[str, Any]]) -> str:
    return annealed_page(records, TITLE, "set", PUBLISHED)


def figure(record: dict[str, Any]) -> Any:
    return figures.annealed(record)
