"""dwave-samplers as an optimiser with its own schedule; ``python dwave_anneal.py problem.npz``."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """Simulated annealing of Σ h_i s_i + Σ J_ij s_i s_j; the last states as texts of 0 and 1, one a read."""
    problem = np.load(path)
    import dimod
    from dwave.samplers import SimulatedAnnealingSampler

    i, j = problem["edges"].tolist()
    couplings = dict(zip(zip(i, j, strict=True), problem["couplings"].tolist(), strict=True))
    fields = dict(enumerate(problem["fields"].tolist()))
    model = dimod.BinaryQuadraticModel.from_ising(fields, couplings)
    reads, sweeps = int(problem["reads"]), int(problem["sweeps"])
    wall, cpu = time.perf_counter(), time.process_time()
    found = SimulatedAnnealingSampler().sample(model, num_reads=reads, num_sweeps=sweeps, seed=int(problem["seed"]))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    order = np.argsort([int(name) for name in found.variables])
    states = ["".join("1" if spin > 0 else "0" for spin in row[order]) for row in found.record.sample]
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "updates": len(fields) * reads * sweeps, "states": states,
                      "version": version("dwave-samplers")}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
