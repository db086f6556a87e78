"""What is measured of a kernel: effective draws per evaluation and per second, its energy, and its law where known."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chains import StepTotals, raise_if_not_finite, sample
from discrete_ebm.diagnostics import DiagnosticWarning, ess, rhat
from discrete_ebm.energies.base import energy_device
from discrete_ebm.errors import EBMError
from discrete_ebm.evaluate.exact import ExactLaw, exact
from discrete_ebm.samplers.base import Kernel

__all__ = ["attempt", "clock_of", "efficiency", "law_error", "standard_error"]

RESAMPLES = 400
PILOT = 3  # steps whose time decides whether a part fits into its limit


def law_error(energy: Any, kernel: Kernel, *, n_chains: int, n_steps: int, burn_in: int, seed: int,
              law: ExactLaw | None = None) -> dict[str, Any]:
    """Total variation between the chains' states and the exact law, with the size that chance alone would give it.

    Chains start from exact draws, so a kernel that keeps the law has it in every step, however slowly it mixes; a
    kernel that does not keep it drifts away as fast as it moves (one that hardly moves shows in its ESS). The noise is
    that of C independent chains: chains are drawn again with replacement 400 times, and the distance of each redraw
    from all chains is what a correct kernel's distance from the law would look like.

    Returns:
        ``tv`` of the pooled draws, ``tv_noise`` mean of the redraws, ``tv_z`` = (tv − noise) / their standard
        deviation. A correct kernel stays near 0; above 6 it has another law.
    """
    law = exact(energy) if law is None else law
    space = energy.space
    powers = torch.cat((torch.ones(1, dtype=torch.int64), space.n_values.cumprod(0)[:-1]))
    codes, order = (space.to_index(law.states) * powers).sum(-1).sort()
    start = law.sample(n_chains, seed=seed).to(energy_device(energy) or "cpu")
    chains = sample(energy, kernel, n_chains, n_steps, burn_in=burn_in, seed=seed + 1, x0=start)
    drawn = (space.to_index(chains.x.flatten(0, 1).cpu()) * powers).sum(-1)
    rows = order[torch.searchsorted(codes, drawn)].reshape(-1, n_chains)
    n_states = len(law.probabilities)
    flat = rows + n_states * torch.arange(n_chains)
    shares = torch.bincount(flat.flatten(), minlength=n_states * n_chains).reshape(n_chains, n_states).double()
    shares /= len(rows)
    pooled = shares.mean(0)
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(n_chains, (RESAMPLES, n_chains), generator=generator)
    weights = torch.zeros(RESAMPLES, n_chains, dtype=torch.float64).scatter_add(
        1, picked, torch.full(picked.shape, 1 / n_chains, dtype=torch.float64))
    noise = (weights @ shares - pooled).abs().sum(-1) / 2
    tv = float((pooled - law.probabilities).abs().sum()) / 2
    spread = max(float(noise.std()), 1e-9)
    return {"tv": tv, "tv_noise": float(noise.mean()), "tv_z": (tv - float(noise.mean())) / spread,
            "states": n_states, "draws": len(rows) * n_chains, "acceptance": chains.acceptance_rate}


def efficiency(energy: Any, kernel: Kernel, *, n_chains: int, n_steps: int, burn_in: int, seed: int,
               start: Tensor | None = None, limit: float | None = None, least_steps: int = 0) -> dict[str, Any]:
    """Run C chains and count effective draws.

    Quantities followed: the energy, and the number of sites that differ from one fixed random state. The ESS that is
    reported is the smaller of their bulk ESS. The kernel's scale is adapted in the burn-in, then frozen; only the
    ``n_steps`` steps after it are counted and timed, without the bookkeeping of this function.

    Args:
        start: (C, *shape) where the chains begin; None = random.
        limit: seconds by :func:`clock_of`. A run that would last longer by the time of its first steps is made shorter,
            burn-in and steps alike.
        least_steps: a run that would have fewer is not made; 0 = only the whole run is.
    Returns:
        ``ess``, ``ess_energy``, ``ess_distance``; ``evaluations`` of the energy or its gradient per chain and step;
        ``ess_per_evaluation``, ``ess_per_second`` (processor seconds of this process on a CPU, wall clock elsewhere);
        ``acceptance``, ``hamming`` per step, ``scale``; ``mean_energy`` and its standard error between chains;
        ``rhat``. Or ``skipped`` with a sentence.
    """
    space = energy.space
    if limit is not None:
        clock = clock_of(energy_device(energy) or "cpu")
        sample(energy, kernel, n_chains, 1, burn_in=0, seed=seed, x0=start)  # compiles, fills caches
        began = clock()
        sample(energy, kernel, n_chains, PILOT, burn_in=0, seed=seed, x0=start)
        pilot = (clock() - began) / PILOT
        total = n_steps + burn_in
        share = limit / max(pilot * total, 1e-9)
        if share < 1 and (not least_steps or share * n_steps < least_steps):
            return {"skipped": f"{total} steps would take {pilot * total:.0f} s; the limit is {limit:g} s"}
        if share < 1:
            n_steps, burn_in = int(share * n_steps), int(share * burn_in)
    warm = sample(energy, kernel, n_chains, burn_in + 1, burn_in=burn_in, seed=seed, x0=start)
    state, device = warm.state, warm.last.device
    generator = torch.Generator(device).manual_seed(seed + 1)
    other = space.random(1, torch.Generator().manual_seed(20_251))[0].to(device)
    record = torch.empty(n_steps, n_chains, 2, dtype=torch.float64)
    totals = StepTotals.zero(state.energy)
    clock = clock_of(device)
    spent = wall = 0.0
    with torch.no_grad():
        for done in range(n_steps):
            began, began_wall = clock(), time.perf_counter()
            state, info = kernel.step(energy, state, generator=generator)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent, wall = spent + clock() - began, wall + time.perf_counter() - began_wall
            totals = totals.add(info)
            record[done, :, 0] = state.energy
            record[done, :, 1] = (state.x != other).flatten(1).sum(-1)
    raise_if_not_finite(energy, state, totals, f"within {n_steps} steps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticWarning)  # a frozen chain has an ESS of 0: the table shows it
        effective, mixed = ess(record), rhat(record)
    calls = (totals.energy_calls + totals.gradient_calls) / n_steps
    smaller = float(effective.min())
    log_scale = state.cache.get("log_scale")
    return {
        "ess": smaller, "ess_energy": float(effective[0]), "ess_distance": float(effective[1]),
        "evaluations": calls, "gradients": totals.gradient_calls / n_steps,
        "ess_per_evaluation": smaller / (calls * n_steps * n_chains) if calls else math.nan,
        "seconds": spent, "wall_seconds": wall, "ess_per_second": smaller / spent if spent else math.nan,
        "acceptance": float(totals.accepted.mean()) / n_steps,
        "hamming": float(totals.hamming.double().mean()) / n_steps,
        "scale": None if log_scale is None else float(log_scale.exp().mean()),
        "mean_energy": float(record[..., 0].mean()), "mean_energy_error": standard_error(record[..., 0].mean(0)),
        "rhat": float(mixed.max()), "steps": n_steps, "chains": n_chains,
    }  # fmt: skip


def clock_of(device: torch.device | str) -> Callable[[], float]:
    """Processor time on a CPU, so that other work on the machine does not count; wall clock elsewhere."""
    return time.process_time if torch.device(device).type == "cpu" else time.perf_counter


def standard_error(per_chain: Tensor) -> float:
    """Of a mean over independent chains (C,): right however slowly each of them moves; nan for one chain."""
    return float(per_chain.double().std() / math.sqrt(len(per_chain))) if len(per_chain) > 1 else math.nan


def attempt(compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part yields, or the sentence with which it failed."""
    try:
        return compute()
    except EBMError as reason:
        return {"failed": str(reason)}
