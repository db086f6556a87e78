"""Independent sets and cuts by dwave-samplers, on the graphs of ``discrete-ebm benchmark mis`` and ``maxcut``."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

from benchmarks.common import Context
from benchmarks.peers.speed_peers import run_peer
from discrete_ebm.benchmark.annealing_suite import annealed_page, random_graph
from discrete_ebm.benchmark.contenders import part_seed
from discrete_ebm.energies import IndependentSet, MaxCut

TITLE = "dwave-samplers as an optimiser."
_ER = {"kind": "er", "nodes": [700, 800], "density": 0.15, "graphs": 16, "problem": "mis"}
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "families": {
        "er-700-800": _ER,
        "er-1024-1100": {"kind": "er", "nodes": [1024, 1100], "density": 0.15, "graphs": 2, "problem": "maxcut"},
        "ba-1024-1100": {"kind": "ba", "nodes": [1024, 1100], "attach": 4, "graphs": 2, "problem": "maxcut"}},
        "reads": 32, "sweeps": 8000, "penalty": 1.0001, "peers_python": sys.executable},
    "small": {"threads": 1, "families": {"er-700-800": _ER | {"nodes": [30, 40], "graphs": 2}},
              "reads": 4, "sweeps": 50, "penalty": 1.0001, "peers_python": sys.executable},
}  # fmt: skip
EXTENDABLE = ("peers_python",)


def run(ctx: Context) -> None:
    """Every graph of every family; names and seeds of graphs are those of the package's suites."""
    for name, family in ctx.families.items():
        for number in range(family["graphs"]):
            graph = random_graph(family, part_seed(ctx.seed, f"graph/{name}/{number}"))
            problem = MaxCut(graph) if family["problem"] == "maxcut" else IndependentSet(
                graph, penalty=ctx.penalty, dense=False)
            ctx.part(f"graph/{name}/{number}", lambda p=problem: {"nodes": p.n_nodes, "edges": p.edges.shape[1]})
            ctx.part(f"anneal/{name}/{number}/dwave-samplers", partial(_annealed, ctx, problem, number))


def _annealed(ctx: Context, problem: Any, number: int) -> dict[str, Any]:
    """Repaired and counted as our own chains are."""
    ising = problem.energy
    dense = ising.edge_index is None
    edges = problem.edges if dense else ising.edge_index
    coupling = ising.coupling.detach()[edges[0], edges[1]] if dense else ising.coupling.detach()
    asked = {"edges": edges.numpy(), "couplings": -coupling.double().numpy(), "seed": ctx.seed + number,
             "fields": -ising.field.detach().double().expand(problem.n_nodes).numpy(), "reads": ctx.reads,
             "sweeps": ctx.sweeps}  # fmt: skip
    found = run_peer("dwave_anneal.py", asked, python=ctx.peers_python, threads=ctx.threads)
    if "missing" in found:
        return {"failed": found["missing"]}
    bits = torch.tensor([[int(bit) for bit in text] for text in found["states"]], dtype=torch.int8)
    x = problem.repair(bits if ising.space.name == "Binary" else 2 * bits - 1)
    feasible = problem.is_feasible(x)
    best = problem.value(x).double().where(feasible, torch.tensor(-torch.inf, dtype=torch.float64))
    return {"best": float(best.max()), "mean_of_chains": float(best.mean()), "feasible": int(feasible.sum()),
            "chains": ctx.reads, "steps": ctx.sweeps, "evaluations": ctx.sweeps, "seconds": found["cpu_seconds"],
            "wall_seconds": found["seconds"], "version": found["version"]}  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """One table a family."""
    return annealed_page(records, TITLE, "value", {})
