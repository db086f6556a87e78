"""Gibbs sampling: each site in turn is drawn from its exact law given all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.fast import check_implementation, fused_step, require_fused
from discrete_ebm.samplers.heat_bath import HeatBath
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import free_sites, require_discrete, site_logits, start

__all__ = ["Gibbs"]


@dataclass(frozen=True)
class Gibbs(Kernel):
    r"""Heat-bath Gibbs; one step is a sweep of N site updates. Rejection-free.

    Site i takes value v with probability ∝ exp(−β E(x with x_i = v)). A non-finite energy is never entered and is
    counted in ``info.non_finite``.

    Args:
        scan: "raster" visits every site once in order; "random" makes N updates, each of a site chosen uniformly and
            independently for each chain (a clamped choice changes nothing).
        conditionals: "auto" uses ``conditional_logits`` or ``flip_deltas`` of the energy where it has them; False
            evaluates the energy K − 1 times for each site instead; both have the same law.
        implementation: "auto" sweeps Ising and Potts models on the CPU by compiled code (raster scan, numba needed),
            "reference" never does, "fused" refuses what compiled code cannot do.
    Invariant law: exp(−βE); a random scan is reversible, a raster sweep is not.
    Source: Geman & Geman 1984, "Stochastic relaxation"; random scan: Liu 2001, §6.1.
    """

    caches_x: ClassVar[bool] = False

    scan: str = "raster"
    conditionals: bool | str = "auto"
    implementation: str = "auto"

    def __post_init__(self) -> None:
        if self.scan not in ("raster", "random"):
            raise SettingError(f"`scan` must be 'raster' or 'random'; got {self.scan!r}.")
        if not (isinstance(self.conditionals, bool) or self.conditionals == "auto"):
            raise SettingError(f"`conditionals` must be 'auto', True or False; got {self.conditionals!r}.")
        check_implementation(self.implementation)
        if self.implementation == "fused" and (self.scan != "raster" or self.conditionals is False):
            raise SettingError(f"`implementation` must not be 'fused' with scan={self.scan!r} and "
                               f"conditionals={self.conditionals!r}; only a raster scan by closed forms has one. "
                               "Use 'auto'.")

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); one evaluation of the energy."""
        require_discrete("gibbs", energy.space)
        require_fused(self.implementation, energy, x0)
        x, energies = start(energy, x0)
        return ChainState(x, energies, {}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One sweep of all C chains. Cost: N·(K − 1) energy evaluations, or N conditionals and one evaluation."""
        if self.scan == "raster" and self.conditionals is not False:
            fused = fused_step(energy, state, generator=generator, beta=beta,
                               free=free_sites(energy.space, clamp, state.x.shape[0]),
                               implementation=self.implementation)
            if fused is not None:
                return fused
        bath = HeatBath(energy, state, beta, clamp)
        for site in self._sites(bath.n_chains, bath.n_sites, clamp, bath.x.device, generator):
            logits, cost = site_logits(energy, bath.x, bath.index, bath.energies, site, bath.values, self.conditionals)
            value = bath.draw(site.reshape(-1, 1) if site.dim() else site[None], logits[:, None], generator)
            bath.calls += cost
            bath.known = cost > 0  # evaluated logits are minus the energies themselves
            if bath.known:
                bath.energies = -logits.gather(1, value)[:, 0]
        return bath.finish()

    def _sites(self, n_chains: int, n_sites: int, clamp: Tensor | None, device: torch.device,
               generator: torch.Generator) -> list[Tensor]:
        """The sites of one sweep: () tensors shared by all chains, or (C,) tensors for a random scan."""
        if self.scan == "random":
            drawn = torch.randint(n_sites, (n_sites, n_chains), generator=generator, device=device)
            return list(drawn.unbind(0))
        if clamp is None or clamp.device.type != "cpu":  # to look at a clamp on a device would be to wait for it
            return list(torch.arange(n_sites, device=device).unbind(0))
        free_somewhere = ~clamp.reshape(-1, n_sites).all(0)
        return list(torch.arange(n_sites)[free_somewhere].to(device).unbind(0))


register(SamplerSpec(
    name="gibbs",
    build=Gibbs,
    summary="heat-bath sweep, one site after the other",
    source="Geman & Geman 1984",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    cost="N conditionals in closed form and one energy evaluation, or N·(K − 1) energy evaluations.",
    use_when="The reference for anything discrete: small spaces, dense models with closed-form conditionals, and "
             "energies without a gradient.",
))
