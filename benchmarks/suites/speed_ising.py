"""Heat-bath sweeps of the square-lattice Ising model: ours against thrml, dwave-samplers and (on a small one) numpyro.

``per_ns`` are spins drawn per nanosecond of wall clock with everything a step does (packing, energies, counts).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from benchmarks.common import Context
from benchmarks.peers.speed_peers import run_peer
from benchmarks.suites.speed_common import own, tables_of, with_ratios
from discrete_ebm.energies import Ising

TITLE = "Speed: Ising lattice."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 2, "side": 128, "chains": 64, "sweeps": [1, 16], "steps": 50, "peer_sweeps": 200,
             "sizes": [32, 128, 512, 1024, 3163], "beta": 0.44, "tiny": 16, "peers_python": sys.executable},
    "small": {"threads": 1, "side": 16, "chains": 8, "sweeps": [1], "steps": 2, "peer_sweeps": 4, "sizes": [16],
              "beta": 0.44, "tiny": 4, "peers_python": sys.executable},
}  # fmt: skip
EXTENDABLE = ("peers_python",)


def run(ctx: Context) -> None:
    """Homogeneous and arbitrary couplings, then cost against size, then the peers, then ratios."""
    shape, generator = (ctx.side, ctx.side), torch.Generator().manual_seed(ctx.seed)
    plain = Ising.lattice(shape, 1.0)
    weights = 1.0 + 0.1 * torch.randn(len(plain.coupling), generator=generator)
    rough = Ising.lattice(shape, weights)
    common = {"seed": ctx.seed, "beta": ctx.beta}
    parts: dict[str, Any] = {}

    def measured(name: str, compute: Any) -> None:
        parts[name] = ctx.part(name, compute)

    few = max(1, ctx.steps // 25)
    measured("reference, one coupling", lambda: own(plain, "chromatic", chains=ctx.chains, steps=few,
                                                    implementation="reference", **common))  # fmt: skip
    for sweeps in ctx.sweeps:
        for name, energy in (("one coupling", plain), ("arbitrary couplings", rough)):
            steps = max(1, ctx.steps // sweeps)
            measured(f"fused, {name}, {sweeps} sweeps a step", lambda energy=energy, sweeps=sweeps, steps=steps: own(
                energy, "chromatic", chains=ctx.chains, steps=steps, sweeps=sweeps, implementation="fused", **common))
    for side in ctx.sizes:
        chains = max(1, min(64, 2 * 10**7 // side**2))
        measured(f"size {side}", lambda side=side, chains=chains: own(
            Ising.lattice((side + side % 2, side + side % 2), 1.0), "chromatic", chains=chains, steps=3,
            implementation="fused", **common))  # fmt: skip
    row, column = np.indices(shape)
    problem = {"n": plain.space.n_sites, "edges": plain.edge_index.numpy(), "chains": ctx.chains, "beta": ctx.beta,
               "weights": weights.numpy(), "colours": ((row + column) % 2).ravel(),
               "sweeps": ctx.peer_sweeps}  # fmt: skip
    for peer in ("thrml", "dwave"):
        measured(peer, lambda peer=peer: run_peer(f"{peer}_ising.py", problem, python=ctx.peers_python,
                                                  threads=ctx.threads if peer == "thrml" else 1))  # fmt: skip
        ctx.part(f"ratio to {peer}", lambda peer=peer: with_ratios(parts, peer))
    _against_numpyro(ctx)
    ctx.note("dwave-samplers runs on one thread whatever is allowed; divide by the threads of the others to compare.")


def _against_numpyro(ctx: Context) -> None:
    """A sweep of numpyro's costs N² operations, so the two meet on a lattice of side ``tiny``."""
    energy = Ising.lattice((ctx.tiny, ctx.tiny), 1.0)
    where = f"side {ctx.tiny}"
    ours = ctx.part(f"fused, {where}", lambda: own(energy, "chromatic", chains=ctx.chains, seed=ctx.seed, beta=ctx.beta,
                                                   steps=ctx.steps, implementation="fused"))  # fmt: skip
    problem = {"n": energy.space.n_sites, "edges": energy.edge_index.numpy(), "chains": ctx.chains, "beta": ctx.beta,
               "weights": energy.coupling.detach().numpy(), "sweeps": max(1, ctx.peer_sweeps // 4)}  # fmt: skip
    theirs = ctx.part(f"numpyro, {where}", lambda: run_peer("numpyro_ising.py", problem, python=ctx.peers_python,
                                                            threads=ctx.threads))  # fmt: skip
    ctx.part("ratio to numpyro", lambda: with_ratios({f"fused, {where}": ours, "numpyro": theirs}, "numpyro"))


def tables(records: list[dict[str, Any]]) -> str:
    """Spins per nanosecond."""
    return tables_of(records, TITLE, "Spins drawn per nanosecond, heat bath; 'size' parts have one coupling.")
