"""numpyro's DiscreteGibbs on an Ising model; run by an interpreter that has it: ``python numpyro_ising.py problem.npz``

It draws one site after the other and evaluates the whole log density for each, so a sweep costs N² and only small
lattices are within its reach.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """Sweeps of ``chains`` vectorised chains, the compilation left out."""
    problem = np.load(path)
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions
    from numpyro.infer import DiscreteGibbs

    n, chains, sweeps = int(problem["n"]), int(problem["chains"]), int(problem["sweeps"])
    (i, j), weights = jnp.asarray(problem["edges"]), jnp.asarray(problem["weights"], jnp.float32)

    def model() -> None:
        with numpyro.plate("sites", n):
            s = 2.0 * numpyro.sample("x", distributions.Bernoulli(0.5)) - 1.0
        numpyro.factor("energy", float(problem["beta"]) * (weights * s[i] * s[j]).sum())

    kernel = DiscreteGibbs(model)
    start = jax.vmap(lambda key: kernel.init(key, 0, None, (), {}))(jax.random.split(jax.random.key(0), chains))
    sweep = jax.vmap(lambda state: kernel.sample(state, (), {}))
    run = jax.jit(lambda state: jax.lax.fori_loop(0, sweeps, lambda _, at: sweep(at), state))
    jax.block_until_ready(run(start))
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(start))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "updates": n * chains * sweeps,
                      "version": version("numpyro")}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
