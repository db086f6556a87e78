"""An example plug-in: a kernel that flips one or two sites of a state of bits or spins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies import evaluate_energy
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers import ChainState, Kernel, SamplerSpec, StepInfo, metropolis_hastings, metropolis_log_alpha

__all__ = ["PairFlip", "spec"]


@dataclass(frozen=True)
class PairFlip(Kernel):
    r"""Flip a site chosen uniformly and, with probability q, a second one chosen likewise.

    The choice does not depend on the state, so the proposal is symmetric and min(1, exp(−βΔE)) is exact. When both
    choices are one site it is flipped back: the chain stays, which also keeps it from alternating for ever.

    Args:
        pair: q in (0, 1].
    Invariant law: exp(−βE); reversible. Cost: one energy per step. Source: Metropolis et al. 1953.
    """

    pair: float = 0.3
    target_acceptance: ClassVar[float] = 0.234  # what de.sample tunes q towards in its burn-in
    scale_bounds: ClassVar[tuple[float, float]] = (0.05, 1.0)

    def __post_init__(self) -> None:
        low, high = self.scale_bounds
        if isinstance(self.pair, bool) or not low <= self.pair <= high:
            raise SettingError(f"`pair` must be between {low} and {high}; got {self.pair!r}. Try 0.3.")

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape)."""
        if energy.space.name not in ("Binary", "Spin"):
            raise CapabilityError(f"`pair-flip` must be used on Binary or Spin; got {energy.space!r}. Use 'gibbs'.")
        x = x0.detach().clone(memory_format=torch.contiguous_format).to(energy.space.dtype)
        log_scale = torch.full((len(x),), math.log(self.pair), device=x.device)
        return ChainState(x, evaluate_energy(energy, x).detach(), {"log_scale": log_scale},
                          torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One proposal for each of C chains; a chosen site that is clamped is left as it is."""
        x, (n_chains, n_sites) = state.x, (len(state.x), energy.space.n_sites)
        site = torch.randint(n_sites, (2, n_chains, 1), generator=generator, device=x.device)
        second = torch.rand(n_chains, 1, generator=generator, device=x.device) < state.cache["log_scale"].exp()[:, None]
        flip = torch.zeros(n_chains, n_sites, dtype=torch.bool, device=x.device).scatter(1, site[0], True)
        flip = torch.where(second, flip ^ torch.zeros_like(flip).scatter(1, site[1], True), flip)
        if clamp is not None:
            flip = flip & ~clamp.reshape(-1, n_sites)
        index = energy.space.to_index(x)
        y = energy.space.from_index(torch.where(flip, 1 - index, index))
        energy_y = evaluate_energy(energy, y)
        column = torch.as_tensor(beta, dtype=energy_y.dtype, device=x.device).expand(n_chains)
        log_alpha = metropolis_log_alpha(energy_y - state.energy, column, torch.zeros_like(energy_y))
        log_alpha = log_alpha.masked_fill(~energy_y.isfinite(), -torch.inf)
        accepted, acceptance = metropolis_hastings(log_alpha, generator=generator)
        moved = ChainState(torch.where(accepted.reshape(-1, *[1] * (x.dim() - 1)), y, x),
                           torch.where(accepted, energy_y, state.energy), state.cache, state.step + 1)
        broken = energy_y.isnan() | (energy_y == -torch.inf)
        hamming = (moved.x != x).flatten(1).sum(1)
        return moved, StepInfo(acceptance, accepted, hamming, 1.0, 0.0, broken.sum())


spec = SamplerSpec(
    name="pair-flip",
    build=PairFlip,
    summary="flips one or two sites chosen at random",
    source="Metropolis et al. 1953",
    spaces=frozenset({"Binary", "Spin"}),
    needs_gradient=False,
    exact=True,
    reversible=True,
    use_when="As a template for a sampler of your own.",
)
