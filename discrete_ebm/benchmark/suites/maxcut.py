"""Maximum cut on random graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.annealing_suite import anneal_parts, annealed_page
from discrete_ebm.benchmark.record import Record
from discrete_ebm.energies import MaxCut

TITLE = "Maximum cut by annealed kernels."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"families": {
        "er-small": {"kind": "er", "nodes": [14, 18], "density": 0.3, "graphs": 1, "solved": True},
        "ba-small": {"kind": "ba", "nodes": [16, 20], "attach": 2, "graphs": 1, "solved": True}},
        "steps": {"default": 120, "gibbs": 120}, "n_chains": 16, "start": 0.1, "end": 20.0, "solver_seconds": 30.0,
        "samplers": []},
    "full": {"families": {
        "er-small": {"kind": "er", "nodes": [20, 24], "density": 0.3, "graphs": 8, "solved": True,
                     "steps": {"default": 1000, "metropolis": 10_000}},
        "ba-small": {"kind": "ba", "nodes": [40, 50], "attach": 2, "graphs": 8, "solved": True,
                     "steps": {"default": 1000, "metropolis": 10_000}},
        "er-1024-1100": {"kind": "er", "nodes": [1024, 1100], "density": 0.15, "graphs": 8},
        "ba-1024-1100": {"kind": "ba", "nodes": [1024, 1100], "attach": 4, "graphs": 8}},
        "steps": {"default": 10_000, "chromatic": 5000, "metropolis": 200_000}, "n_chains": 32, "start": 0.05,
        "end": 20.0, "solver_seconds": 120.0, "samplers": []},
}  # fmt: skip


def run(ctx: Record) -> None:
    anneal_parts(ctx, MaxCut)


def tables(records: Sequence[dict[str, Any]]) -> str:
    return annealed_page(records, TITLE, "cut", {})


def figure(record: dict[str, Any]) -> Any:
    return figures.annealed(record)
