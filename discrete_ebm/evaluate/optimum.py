"""Exact optima of small graph problems by an open solver (HiGHS, through scipy.optimize.milp)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.energies.graph_problems import IndependentSet, MaxCut
from discrete_ebm.errors import CapabilityError, SettingError

__all__ = ["Optimum", "optimum"]


@dataclass(frozen=True, eq=False)
class Optimum:
    """``value`` of the best state found, ``bound`` above which no state is, ``proven`` that they agree, ``x`` (N,)."""

    value: float
    bound: float
    proven: bool
    x: Tensor


def optimum(problem: IndependentSet | MaxCut, seconds: float = 60.0) -> Optimum:
    """Solve a problem on a small graph to optimality by branch and bound.

    Args:
        problem: an independent set or a cut with weights of at least 0; tens of nodes, more where the graph is sparse.
        seconds: time limit of the solver; past it ``proven`` is False and ``value`` the best state by then.
    Raises:
        CapabilityError: scipy is missing. SettingError: another problem, a negative weight, or no state in time.
    """
    try:
        from scipy import optimize, sparse
    except ImportError as cause:
        raise CapabilityError("`optimum` needs scipy. Install it with: pip install scipy.") from cause
    n, n_edges = problem.n_nodes or 0, problem.edges.shape[1]
    i, j = problem.edges.cpu().numpy()
    row = np.arange(n_edges)
    if isinstance(problem, IndependentSet):
        worth = np.ones(n)
        # x_i + x_j <= 1
        rows, columns, entries = np.r_[row, row], np.r_[i, j], np.ones(2 * n_edges)
        upper = np.ones(n_edges)
        whole = np.ones(n)
    elif isinstance(problem, MaxCut):
        weights = problem.weights.numpy()
        if (weights < 0).any():
            raise SettingError(f"`weights` must be at least 0 for the solver; got {weights.min():g}. Use de.anneal.")
        worth = np.r_[np.zeros(n), weights]
        # an edge is cut at most where its ends differ: z <= x_i + x_j and z <= 2 - x_i - x_j
        two = row + n_edges
        rows = np.r_[row, row, row, two, two, two]
        columns = np.r_[n + row, i, j, n + row, i, j]
        entries = np.r_[np.ones(n_edges), -np.ones(2 * n_edges), np.ones(3 * n_edges)]
        upper = np.r_[np.zeros(n_edges), 2 * np.ones(n_edges)]
        whole = np.r_[np.ones(n), np.zeros(n_edges)]
    else:
        raise SettingError(f"`problem` must be an IndependentSet or a MaxCut; got {type(problem).__name__}.")
    high = np.ones(len(worth))
    if isinstance(problem, MaxCut):
        high[0] = 0  # the two sides may be named either way
    limits = ()
    if n_edges:
        matrix = sparse.csr_matrix((entries, (rows, columns)), shape=(len(upper), len(worth)))
        limits = optimize.LinearConstraint(matrix, -np.inf, upper)
    done = optimize.milp(-worth, integrality=whole, bounds=optimize.Bounds(0, high), constraints=limits,
                         options={"time_limit": float(seconds), "mip_rel_gap": 0.0})  # HiGHS alone stops at 1e-4
    if done.x is None:
        raise SettingError(f"`seconds` must be enough for the solver to find a state; got {seconds} ({done.message}).")
    bits = torch.from_numpy(np.round(done.x[:n]).astype(np.int8))
    x = 2 * bits - 1 if isinstance(problem, MaxCut) else bits
    bound = _upper_bound(done)
    # counted from the state, not taken from the solver
    return Optimum(float(problem.value(x[None])[0]), bound, done.status == 0, x)


def _upper_bound(done: Any) -> float:
    bound = done.mip_dual_bound
    return float("inf") if bound is None else -float(bound)
