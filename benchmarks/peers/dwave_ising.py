"""dwave-samplers at a fixed beta; run by the interpreter that has it: ``python dwave_ising.py problem.npz``."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """Heat-bath sweeps by the annealer with one temperature; two lengths, so that starting costs nothing."""
    problem = np.load(path)
    import dimod
    from dwave.samplers import SimulatedAnnealingSampler

    n, sweeps, reads = int(problem["n"]), max(4, int(problem["sweeps"])), max(1, int(problem["chains"]) // 16)
    i, j = problem["edges"]
    pairs = zip(i.tolist(), j.tolist(), strict=True)
    couplings = dict(zip(pairs, (-problem["weights"].astype(float)).tolist(), strict=True))
    model = dimod.BinaryQuadraticModel.from_ising(dict.fromkeys(range(n), 0.0), couplings)
    found = []
    for length in (sweeps, 5 * sweeps):
        wall, cpu = time.perf_counter(), time.process_time()
        SimulatedAnnealingSampler().sample(
            model, num_reads=reads, num_sweeps=length, num_sweeps_per_beta=1, beta_schedule_type="custom",
            beta_schedule=np.full(length, float(problem["beta"])), proposal_acceptance_criteria="Gibbs",
            seed=1)  # fmt: skip
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (max(1e-9, b - a) for a, b in zip(*found, strict=True))
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "updates": n * reads * 4 * sweeps,
                      "version": version("dwave-samplers")}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
