"""What all heat-bath kernels share: the working copy of a batch of chains while a sweep writes to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.samplers.base import ChainState, StepInfo, beta_column
from discrete_ebm.samplers.informed import draw_move
from discrete_ebm.samplers.single_site import at_least_float32, free_sites, keep_finite, site_tables, tempered

__all__ = ["HeatBath"]


class HeatBath:
    """C chains in the middle of a sweep. It lives within one ``step`` and modifies nothing of the state it began from.

    Attributes:
        x, index: states (C, *shape) and the same as value indices (C, N), kept equal by :meth:`write`.
        free: (C, N) bool sites that may change, None = all. beta: (C,).
        values, legal: see :func:`discrete_ebm.samplers.single_site.site_tables`.
        energies: (C,) energies of ``x``; out of date where ``known`` is False (sites were drawn in closed form).
        broken: (C,) bool chains that met a NaN or −inf energy (or a log weight of NaN or +inf).
        calls: energy evaluations per chain so far.
    """

    def __init__(self, energy: Any, state: ChainState, beta: float | Tensor, clamp: Tensor | None) -> None:
        self.energy, self.space, self.before = energy, energy.space, state
        self.n_chains, self.n_sites = state.x.shape[0], self.space.n_sites
        self.x = state.x.clone(memory_format=torch.contiguous_format)
        self.index = self.space.to_index(self.x).clone()
        self._flat = self.x.view(self.n_chains, self.n_sites)  # writes go through to x
        self.free = free_sites(self.space, clamp, self.n_chains)
        self.beta = beta_column(beta, state.energy)
        self.values, self.legal = site_tables(self.space, self.x.device)
        self.energies, self.known = state.energy, True
        self.broken = torch.zeros(self.n_chains, dtype=torch.bool, device=self.x.device)
        self.calls = 0.0

    def at(self, table: Tensor, sites: Tensor) -> Tensor:
        """(C, S) entries of a table (C, N) at ``sites``: (S,) shared by all chains, or (C, S)."""
        return table[:, sites] if sites.dim() == 1 else table.gather(1, sites)

    def write(self, sites: Tensor, value: Tensor) -> None:
        """Set ``sites``, (S,) or (C, S), to value indices (C, S)."""
        codes = self.values[value, sites]
        if sites.dim() == 1:
            self.index[:, sites], self._flat[:, sites] = value, codes
        else:
            self.index.scatter_(1, sites, value)
            self._flat.scatter_(1, sites, codes)

    def draw(self, sites: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Draw every one of ``sites`` from its own ``logits`` (C, S, K) at β = 1 and write it; its values (C, S).

        A site that is clamped, or that has no legal value of finite weight, keeps its value.
        """
        weights, bad = tempered(logits, self.beta[:, None, None], self.legal[sites])
        value, possible = draw_move(weights.flatten(0, 1), generator=generator)
        move = possible.view(bad.shape)
        if self.free is not None:
            free = self.at(self.free, sites)
            move, bad = move & free, bad & free
        value = torch.where(move, value.view(bad.shape), self.at(self.index, sites))
        self.write(sites, value)
        self.broken = self.broken | bad.any(dim=1)
        return value

    def evaluate(self) -> Tensor:
        """Energies (C,) of ``x``, evaluated unless they are known."""
        if not self.known:
            self.energies, self.calls = at_least_float32(evaluate_energy(self.energy, self.x)), self.calls + 1.0
            self.known = True
        return self.energies

    def finish(self) -> tuple[ChainState, StepInfo]:
        """The state after the sweep. A chain that ended at a non-finite energy is left where it was, and counted."""
        x, energies, kept = keep_finite(self.x, self.evaluate(), self.before)
        info = StepInfo(
            acceptance=kept.to(energies.dtype),
            accepted=kept,
            hamming=(x != self.before.x).flatten(1).sum(1),
            energy_calls=self.calls,
            gradient_calls=0.0,
            non_finite=(self.broken | ~kept).sum(),
        )
        return ChainState(x, energies, self.before.cache, self.before.step + 1), info
