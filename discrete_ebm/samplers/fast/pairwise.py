"""Sweeps with arbitrary couplings for any number of chains: blocks of 64, each a job of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from discrete_ebm.samplers.fast import _pairwise as compiled
from discrete_ebm.samplers.fast.plan import Plan
from discrete_ebm.samplers.fast.threads import run_jobs

__all__ = ["pairwise_sweeps"]

BASE_LIMIT = 5 * 10**7  # numbers in a Potts table of exponentials
SAFE = 300.0  # sums of exponents up to here stay within float64


def pairwise_sweeps(plan: Plan, old: Any, new: Any, betas: Any, fixed: Any, order: Any, n_sweeps: int, seeds: Any,
                    low: int) -> tuple[Any, Any]:
    """Fill ``new`` (C, N) with states after sweeps over ``order`` from ``old``.

    Args:
        betas: (1,) or (C,) float64. fixed: (C, N) bool sites that stay, or None. order: (N,) int32.
        seeds: (2,) uint64 of this step. low: value of an Ising spin that is down.
    Returns:
        energies (C,) float64 and numbers of changed sites (C,) int64.
    """
    n_chains = len(old)
    betas = np.ascontiguousarray(np.broadcast_to(betas, n_chains))
    energies, hamming = np.zeros(n_chains), np.zeros(n_chains, np.int64)
    keep = np.zeros((1, 1), np.int8) if fixed is None else fixed.view(np.int8)
    one: Any = {"potts": _potts, "ising": _sparse if plan.matrix is None else _dense}[plan.kind]
    prepared = _potts_tables(plan, betas) if plan.kind == "potts" else ()

    def job(number: int) -> None:
        rows = slice(compiled.LANES * number, min(n_chains, compiled.LANES * (number + 1)))
        mine = keep if fixed is None else keep[rows]
        one(plan, old[rows], new[rows], betas[rows], mine, fixed is not None, order, n_sweeps, seeds, rows.start, low,
            energies[rows], *prepared)
        compiled.changed(old[rows], new[rows], hamming[rows])

    cost = 2.0 * old.shape[1] * min(n_chains, compiled.LANES) * n_sweeps
    run_jobs(job, -(-n_chains // compiled.LANES), cost)
    return energies, hamming


def _sparse(plan: Plan, old: Any, new: Any, betas: Any, keep: Any, clamped: bool, order: Any, n_sweeps: int, seeds: Any,
            first: int, low: int, energies: Any) -> None:
    n_chains, n_sites = old.shape
    scale = (2 * betas).astype(plan.weights.dtype)
    signs = old if low < 0 else (2 * old - 1).astype(np.int8)
    if n_chains == 1:  # both orders are the same
        spins, by_site = signs.reshape(n_sites, 1).copy(), keep.reshape(-1, 1)
    else:
        octets = -(-n_chains // 8) if n_chains <= 8 else 2 * -(-n_chains // 16)  # whole vectors; more lanes are no cost
        words = np.zeros((n_sites, octets), np.uint64)
        compiled.to_sites(signs, words)
        spins = words.view(np.int8)
        by_site = keep
        if clamped:
            kept = np.zeros_like(words)
            compiled.to_sites(keep, kept)
            by_site = kept.view(np.int8)
        scale = np.pad(scale, (0, spins.shape[1] - n_chains))
    compiled.sparse_sweep(spins, plan.indptr, plan.indices, plan.weights, plan.field, scale, by_site, clamped, order,
                          seeds[0], seeds[1], first, n_sweeps)
    lanes = np.zeros(len(scale))
    compiled.sparse_energy(spins, plan.indptr, plan.indices, plan.weights, plan.field, lanes)
    energies += lanes[:n_chains]
    if n_chains == 1:
        new[0] = spins[:, 0]
    else:
        compiled.from_sites(words, new)
    if low == 0:
        np.greater(new, 0, out=new, casting="unsafe")


def _dense(plan: Plan, old: Any, new: Any, betas: Any, keep: Any, clamped: bool, order: Any, n_sweeps: int, seeds: Any,
           first: int, low: int, energies: Any) -> None:
    spins = np.where(old > 0, 1, -1).astype(np.int8)
    # anew in every step, so that rounding does not pile up
    local = spins.astype(plan.matrix.dtype) @ plan.matrix + plan.field
    compiled.dense_sweep(spins, local, plan.matrix, betas, keep, clamped, order, seeds[0], seeds[1], first, n_sweeps)
    new[:] = np.where(spins > 0, 1, low)
    energies += -0.5 * (spins * (local.astype(np.float64) + plan.field)).sum(1)


def _potts_tables(plan: Plan, betas: Any) -> tuple[Any, bool]:
    """Tables of exponentials, and whether they may be multiplied up."""
    spread = float(np.ptp(plan.field.astype(np.float64), axis=1).max())
    rows = np.add.reduceat(np.append(np.abs(plan.weights), 0), plan.indptr[:-1])
    heaviest = float(np.where(np.diff(plan.indptr) > 0, rows, 0).max())
    shared = bool((plan.field == plan.field[:1]).all())
    field = plan.field[:1] if shared else plan.field
    safe = bool((betas == betas[0]).all()) and field.size <= BASE_LIMIT
    safe = safe and abs(float(betas[0])) * (spread + heaviest) <= SAFE
    if not safe:
        return np.zeros((0, 0)), False
    base = np.empty(field.shape)
    compiled.potts_base(field, float(betas[0]), base)
    return base, True


def _potts(plan: Plan, old: Any, new: Any, betas: Any, keep: Any, clamped: bool, order: Any, n_sweeps: int, seeds: Any,
           first: int, low: int, energies: Any, base: Any, safe: bool) -> None:
    new[:] = old
    compiled.potts_sweep(new, plan.indptr, plan.indices, plan.weights, plan.field, base, safe, betas, keep, clamped,
                         order, seeds[0], seeds[1], first, n_sweeps)
    compiled.potts_energy(new, plan.indptr, plan.indices, plan.weights, plan.field, energies)
