"""Block Gibbs of an RBM with 784 visible and 500 hidden units, against its two matrix products and peers."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import Context
from benchmarks.peers.speed_peers import run_peer
from benchmarks.suites.speed_common import own, tables_of, with_ratios
from discrete_ebm.energies import BernoulliRBM

TITLE = "Speed: RBM."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "visible": 784, "hidden": 500, "batches": [100, 1000], "steps": 50, "thrml_batch": 100,
             "peers_python": sys.executable},
    "small": {"threads": 1, "visible": 20, "hidden": 10, "batches": [10], "steps": 3, "thrml_batch": 10,
              "peers_python": sys.executable},
}  # fmt: skip
EXTENDABLE = ("peers_python",)


def run(ctx: Context) -> None:
    """Products alone, fused and reference steps, the peers; ratios to the products."""
    energy = BernoulliRBM(ctx.visible, ctx.hidden, scale=0.05, seed=ctx.seed)
    for batch in ctx.batches:
        parts: dict[str, Any] = {}
        products = f"two matrix products, batch {batch}"
        parts[products] = ctx.part(products, lambda batch=batch: matrix_products(energy, batch, ctx.steps))
        for form in ("fused", "reference"):
            name = f"{form}, batch {batch}"
            parts[name] = ctx.part(name, lambda form=form, batch=batch: own(
                energy, "block-gibbs", chains=batch, seed=ctx.seed, beta=1.0, steps=ctx.steps, implementation=form))
        problem = {"weight": energy.weight.detach().numpy(), "chains": batch, "sweeps": ctx.steps}
        for peer, script in (("scikit-learn", "sklearn_rbm.py"), ("rbms", "rbms_gibbs.py")):
            name = f"{peer}, batch {batch}"
            parts[name] = ctx.part(name, lambda problem=problem, script=script: run_peer(
                script, problem, python=ctx.peers_python, threads=ctx.threads))
        if batch <= ctx.thrml_batch:
            name = f"thrml, batch {batch}"
            parts[name] = ctx.part(name, lambda batch=batch: by_thrml(energy, batch, ctx))
        ctx.part(f"ratio to the products, batch {batch}", lambda parts=parts, products=products: with_ratios(
            parts, products))


def by_thrml(energy: BernoulliRBM, batch: int, ctx: Context) -> dict[str, Any]:
    """thrml takes it as an Ising model of all units in two blocks, a pair of layers a sweep; visible units are counted.

    Spins in the place of bits, the same couplings: another law of the same shape and cost. It gathers a neighbour list
    for each unit and chain, which a batch of 1,000 has no memory for.
    """
    n, m = energy.space.n_sites, energy.n_hidden
    row, column = np.indices((n, m))
    problem = {"n": n + m, "edges": np.stack([row.ravel(), n + column.ravel()]), "chains": batch, "beta": 1.0,
               "weights": energy.weight.detach().numpy().ravel() / 4, "sweeps": max(1, ctx.steps // 10),
               "colours": (np.arange(n + m) >= n).astype(np.int64)}  # fmt: skip
    found = run_peer("thrml_ising.py", problem, python=ctx.peers_python, threads=ctx.threads)
    share = n / (n + m)
    return found | {key: found[key] * share for key in ("updates", "per_ns", "per_cpu_ns") if key in found}


@torch.no_grad()
def matrix_products(energy: BernoulliRBM, batch: int, steps: int, repeats: int = 5) -> dict[str, Any]:
    """v W and h Wᵀ on floats that lie ready: what any implementation must do."""
    v, h = torch.rand(batch, energy.space.n_sites).round(), torch.rand(batch, energy.n_hidden).round()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            torch.mm(v, energy.weight)
            torch.mm(h, energy.weight.t())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    updates = energy.space.n_sites * batch * steps
    return {"seconds": min(walls), "cpu_seconds": min(cpus), "updates": updates,
            "per_ns": updates / min(walls) / 1e9, "per_cpu_ns": updates / min(cpus) / 1e9}  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """Visible units per nanosecond."""
    return tables_of(records, TITLE, "Visible units drawn per nanosecond; one step draws each layer once.")
