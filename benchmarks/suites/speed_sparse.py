"""Fused sweeps beyond lattices: sparse random graphs, Potts models of many categories, dense Boltzmann machines."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.common import Context
from benchmarks.suites.speed_common import own, tables_of
from discrete_ebm.energies import Ising, Potts

TITLE = "Speed: sparse graphs, Potts, dense couplings."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "chains": 64, "graphs": [[10_000, 4], [10_000, 20], [100_000, 4], [1_000_000, 4]],
             "categories": [4, 16, 64, 256], "potts_sites": 4096, "dense": [1000, 3000, 10_000], "steps": 3},
    "small": {"threads": 1, "chains": 4, "graphs": [[50, 4]], "categories": [3], "potts_sites": 16, "dense": [20],
              "steps": 1},
}  # fmt: skip


def run(ctx: Context) -> None:
    """Every size with the fused form, the smallest also with the reference."""
    generator = torch.Generator().manual_seed(ctx.seed)
    for number, (n, degree) in enumerate(ctx.graphs):
        edges = random_edges(n, degree, generator)
        energy = Ising.sparse(edges, torch.randn(edges.shape[1], generator=generator), n_sites=n)
        for form in ("fused", "reference")[: 2 if number == 0 else 1]:
            name = "chromatic" if n <= 100_000 else "gibbs"  # colouring a larger graph takes longer than this suite
            if form == "reference":
                name = "chromatic"
            ctx.part(f"{form}, {n} nodes, degree {degree}, {name}", lambda e=energy, f=form, k=name: own(
                e, k, chains=ctx.chains, seed=ctx.seed, beta=0.5, steps=ctx.steps, implementation=f))
    for k in ctx.categories:
        side = int(ctx.potts_sites**0.5)
        energy = Potts.lattice((side, side), 1.0, k)
        ctx.part(f"fused, Potts, K = {k}", lambda e=energy: own(
            e, "chromatic", chains=ctx.chains, seed=ctx.seed, beta=1.0, steps=ctx.steps, implementation="fused"))
    for n in ctx.dense:
        upper = torch.triu(torch.randn(n, n, generator=generator) / n**0.5, diagonal=1)
        energy = Ising(upper + upper.t())
        ctx.part(f"fused, dense, N = {n}", lambda e=energy: own(
            e, "gibbs", chains=ctx.chains, seed=ctx.seed, beta=1.0, steps=1, repeats=1, implementation="fused"))


def random_edges(n: int, degree: int, generator: torch.Generator) -> torch.Tensor:
    """(2, E) distinct pairs, n·degree/2 of them before repeats and loops are dropped."""
    pairs = torch.randint(n, (2, n * degree // 2), generator=generator)
    low, high = pairs.min(0).values, pairs.max(0).values
    code = (low * n + high)[low != high].unique()
    return torch.stack([code // n, code % n])


def tables(records: list[dict[str, Any]]) -> str:
    """Sites per nanosecond."""
    return tables_of(records, TITLE, "Sites drawn per nanosecond, all chains together.")
