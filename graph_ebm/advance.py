"""Advance many molecular chains: in one piece on a device, in as many threads as torch has on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.errors import NonFiniteEnergyError
from discrete_ebm.samplers.base import ChainState
from graph_ebm.moves.kernel import MolecularKernel

__all__ = ["Advanced", "advance_chains"]

LEAST_CHAINS = 64  # a thread with fewer chains costs more than it saves


class Advanced(NamedTuple):
    """``state`` after the steps; proposals ``tried`` and ``accepted`` by move, both in chains·steps; energy evaluations
    in all."""

    state: ChainState
    tried: dict[str, int]
    accepted: dict[str, float]
    energy_calls: float


def advance_chains(
    kernel: MolecularKernel,
    energy: Any,
    state: ChainState,
    n_steps: int,
    *,
    generator: torch.Generator,
    beta: float | Tensor = 1.0,
    clamp: Tensor | None = None,
    workers: int | None = None,
) -> Advanced:
    """``n_steps`` kernel steps of all chains, at fixed parameters and without gradients.

    Chains are independent, so parts of them can run side by side: each part has a generator of its own, seeded from
    ``generator``. The result depends on the seed and on ``workers`` (default: torch's thread count on the CPU, else 1).

    Raises:
        NonFiniteEnergyError: a proposal's energy was NaN or −inf. Such a proposal is never accepted, so without this a
            broken energy would look like a frozen chain. (+inf is a hard constraint at work.)
    """
    n_chains = len(state.x)
    if workers is None:
        workers = torch.get_num_threads() if state.x.device.type == "cpu" else 1
    workers = max(1, min(workers, n_chains // LEAST_CHAINS))
    seeds = torch.randint(2**62, (workers,), generator=generator, device=generator.device).tolist()
    size = -(-n_chains // workers)
    parts = [slice(at, min(at + size, n_chains)) for at in range(0, n_chains, size)]

    def run(part: slice, seed: int) -> Advanced:
        own = torch.Generator(device=generator.device).manual_seed(seed)
        here = ChainState(state.x[part], state.energy[part], {k: v[part] for k, v in state.cache.items()}, state.step)
        chain_beta = beta[part] if isinstance(beta, Tensor) and beta.shape == (n_chains,) else beta
        per_chain = clamp is not None and clamp.shape == state.x.shape
        kept = clamp[part] if clamp is not None and per_chain else clamp
        tried = dict.fromkeys(kernel.names, 0)
        accepted: dict[str, Any] = dict.fromkeys(kernel.names, 0.0)
        calls = 0.0
        faults: Any = 0
        for _ in range(n_steps):
            name = kernel.names[kernel.kind(seed, int(here.step))]
            here, info = kernel.step(energy, here, generator=own, beta=chain_beta, clamp=kept)
            tried[name] += len(here.x)
            accepted[name] = accepted[name] + info.accepted.sum()
            calls += info.energy_calls * len(here.x)
            faults = faults + info.non_finite
        if int(faults):  # one look after all the steps
            raise NonFiniteEnergyError(
                f"energies must be finite or +inf; got NaN or -inf for {int(faults)} proposals in {n_steps} steps of "
                f"{len(here.x)} chains. Lower the learning rate, or look at the energy of those molecules."
            )
        return Advanced(here, tried, {name: float(value) for name, value in accepted.items()}, calls)

    threads = torch.get_num_threads()
    try:
        if state.x.device.type == "cpu":
            torch.set_num_threads(1)  # small tensor operations gain nothing from threads and lose much
        if len(parts) == 1:
            return run(parts[0], seeds[0])
        with ThreadPoolExecutor(len(parts)) as pool:
            done = list(pool.map(run, parts, seeds))
    finally:
        torch.set_num_threads(threads)
    states = [part.state for part in done]
    merged = ChainState(
        torch.cat([s.x for s in states]),
        torch.cat([s.energy for s in states]),
        {key: torch.cat([s.cache[key] for s in states]) for key in state.cache},
        states[0].step,
    )
    return Advanced(
        merged,
        {name: sum(part.tried[name] for part in done) for name in kernel.names},
        {name: sum(part.accepted[name] for part in done) for name in kernel.names},
        sum(part.energy_calls for part in done),
    )
