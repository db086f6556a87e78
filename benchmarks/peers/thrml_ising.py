"""thrml on an Ising model; run by the interpreter that has it: ``python thrml_ising.py problem.npz``."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """Sweeps per second of ``chains`` chains, the compilation left out; the state is returned once, at the end."""
    problem = np.load(path)
    import jax
    import jax.numpy as jnp
    from thrml.block_management import Block
    from thrml.block_sampling import SamplingSchedule, sample_states
    from thrml.models.ising import IsingEBM, IsingSamplingProgram, hinton_init
    from thrml.pgm import SpinNode

    n, edges, chains = int(problem["n"]), problem["edges"], int(problem["chains"])
    nodes = [SpinNode() for _ in range(n)]
    model = IsingEBM(nodes, [(nodes[i], nodes[j]) for i, j in edges.T], jnp.zeros(n),
                     jnp.asarray(problem["weights"], jnp.float32), jnp.asarray(float(problem["beta"])))  # fmt: skip
    colours = problem["colours"]
    blocks = [Block([nodes[i] for i in np.flatnonzero(colours == c)]) for c in range(colours.max() + 1)]
    program = IsingSamplingProgram(model, blocks, [])
    schedule = SamplingSchedule(n_warmup=int(problem["sweeps"]), n_samples=1, steps_per_sample=1)
    start = hinton_init(jax.random.key(0), model, blocks, (chains,))
    run = jax.jit(jax.vmap(lambda key, state: sample_states(key, program, schedule, state, [], blocks)))
    keys = jax.random.split(jax.random.key(1), chains)
    jax.block_until_ready(run(keys, start))
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(keys, start))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    updates = n * chains * (int(problem["sweeps"]) + 1)
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "updates": updates, "version": version("thrml")}))


if __name__ == "__main__":
    main(sys.argv[1])
