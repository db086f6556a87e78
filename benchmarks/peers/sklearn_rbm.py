"""scikit-learn's BernoulliRBM.gibbs; run by the interpreter that has it: ``python sklearn_rbm.py problem.npz``."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np


def main(path: str) -> None:
    """Block Gibbs steps of ``chains`` chains; an update is one visible unit drawn."""
    problem = np.load(path)
    from sklearn.neural_network import BernoulliRBM

    weight, chains, sweeps = problem["weight"], int(problem["chains"]), int(problem["sweeps"])
    rbm = BernoulliRBM(n_components=weight.shape[1], random_state=0)
    rbm.components_ = np.ascontiguousarray(weight.T)
    rbm.intercept_visible_ = np.zeros(weight.shape[0], weight.dtype)
    rbm.intercept_hidden_ = np.zeros(weight.shape[1], weight.dtype)
    v = np.random.default_rng(0).integers(0, 2, (chains, weight.shape[0])).astype(weight.dtype)
    for _ in range(3):
        v = rbm.gibbs(v)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(sweeps):
        v = rbm.gibbs(v)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "updates": v.size * sweeps,
                      "version": version("scikit-learn")}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
