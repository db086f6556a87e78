"""Simulated annealing in one call: the lowest energy that chains find, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chain_inputs import resolve_sampler
from discrete_ebm.chains import Chains, sample
from discrete_ebm.energies.base import as_energy
from discrete_ebm.samplers.annealing import SimulatedAnnealing
from discrete_ebm.samplers.base import Kernel

__all__ = ["Annealed", "anneal"]


@dataclass(frozen=True, eq=False)
class Annealed:
    """What :func:`anneal` returns.

    Shapes: ``x`` (C, *shape) the best state of each chain, ``energy`` (C,) its energy in nats at beta = 1, +inf where a
    chain met no feasible state; ``reheats`` (C,) how often a chain was sent back up. ``chains`` is the run itself: its
    last states, its counts of evaluations and its seconds.
    """

    x: Tensor
    energy: Tensor
    reheats: Tensor
    chains: Chains

    @property
    def best_energy(self) -> float:
        """The lowest energy over all chains."""
        return float(self.energy.min())

    @property
    def best_x(self) -> Tensor:
        """(*shape) a state of that energy."""
        return self.x[int(self.energy.argmin())]


def anneal(
    energy: Any,
    sampler: str | Kernel = "gibbs",
    n_chains: int | None = None,
    n_steps: int = 1000,
    *,
    schedule: str | tuple[float, ...] = "geometric",
    start: float = 0.1,
    end: float = 10.0,
    cycles: int = 1,
    wander_steps: int = 0,
    wander_change: float = 0.01,
    reheat_to: float = 0.0,
    feasible: Callable[[Tensor], Tensor] | None = None,
    seed: int | torch.Generator = 0,
    x0: Tensor | None = None,
    clamp: Tensor | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Annealed:
    """Look for the lowest energy with C chains that cool down side by side.

    This is an optimiser: its states are no draws of exp(−βE). See
    :class:`~discrete_ebm.samplers.annealing.SimulatedAnnealing` for the schedule and for reheating.

    Args:
        energy: an Energy, or any callable with a ``space``.
        sampler: what moves the chains, a registered name, a kernel, or "auto".
        n_chains: C; 64, or as many as ``x0`` has.
        n_steps: length of the run and of the schedule.
        schedule, start, end, cycles: beta along the run, in 1/nats.
        wander_steps, wander_change, reheat_to: when a chain is heated up again, and how far.
        feasible: ``feasible(x) -> (C,)`` bool; only such states count as best.
        seed, x0, clamp, device, progress: as in :func:`discrete_ebm.sample`.
    Returns:
        Annealed: the best state and energy of each chain.
    Raises:
        SettingError, ShapeError, CapabilityError, NonFiniteEnergyError: as :func:`discrete_ebm.sample`.
    """
    energy = as_energy(energy)
    kernel = SimulatedAnnealing(
        inner=resolve_sampler(sampler, energy.space, energy),
        n_steps=n_steps,
        schedule=schedule,
        start=start,
        end=end,
        cycles=cycles,
        wander_steps=wander_steps,
        wander_change=wander_change,
        reheat_to=reheat_to,
        feasible=feasible,
    )
    chains = sample(energy, kernel, n_chains, n_steps, burn_in=n_steps - 1, seed=seed, x0=x0, clamp=clamp,
                    device=device, progress=progress)
    best = chains.state.cache
    return Annealed(best["best_x"], best["best_energy"], best["reheats"], chains)
