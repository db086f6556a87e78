"""Block Gibbs of the package rbms; run by the interpreter that has it: ``python rbms_gibbs.py problem.npz``."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """``sample_state`` on ``chains`` chains, whose last half-step is one among ``sweeps``; an update is one visible."""
    problem = np.load(path)
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM

    weight = torch.from_numpy(problem["weight"])
    rbm = BBRBM(weight, torch.zeros(weight.shape[0]), torch.zeros(weight.shape[1]))
    torch.manual_seed(0)
    chains, sweeps = int(problem["chains"]), int(problem["sweeps"])
    state = {"visible": torch.rand(chains, weight.shape[0]).round(), "weights": torch.ones(chains)}
    state = rbm.sample_state(state, 3)  # compiles its scripts
    walls, cpus = [], []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        state = rbm.sample_state(state, sweeps)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(json.dumps({"seconds": min(walls), "cpu_seconds": min(cpus), "version": version("rbms"),
                      "updates": weight.shape[0] * chains * sweeps}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
