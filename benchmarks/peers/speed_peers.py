"""Speed of other packages: each a script in an interpreter of its own, with the same problem and threads."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["run_peer"]


def run_peer(script: str, problem: dict[str, Any], *, python: str, threads: int,
             seconds: float = 600) -> dict[str, Any]:
    """What ``script`` (a file of this folder) measured, or {"missing": why} where it could not.

    Args:
        problem: arrays and numbers, written to an .npz. python: an interpreter that has the package.
        threads: processor cores and BLAS threads of the child.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    limits["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        np.savez(file, **problem)
        try:
            done = subprocess.run([python, str(Path(__file__).parent / script), str(file)], capture_output=True,
                                  text=True, timeout=seconds, env={**os.environ, **limits, "PYTHONPATH": ""},
                                  preexec_fn=lambda: os.sched_setaffinity(0, cores))  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as cause:
            return {"missing": str(cause)}
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"per_ns": found["updates"] / found["seconds"] / 1e9,
                    "per_cpu_ns": found["updates"] / found["cpu_seconds"] / 1e9}  # fmt: skip
