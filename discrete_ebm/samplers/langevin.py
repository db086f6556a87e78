"""Unadjusted Langevin dynamics for real-valued states: fast, biased, and says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.continuous import check_choice, descended, settle, start_real
from discrete_ebm.samplers.hamiltonian import normal_like
from discrete_ebm.samplers.registry import SamplerSpec, register

__all__ = ["Langevin"]


@dataclass(frozen=True)
class Langevin(Kernel):
    r"""x′ = x − ε β ∇E(x) + noise_scale · √(2ε) ξ, ξ ~ N(0, 1); every proposal is kept.

    There is no accept step, so the law is off by an amount that shrinks in proportion to ε (on a Gaussian of variance
    σ², the stationary variance is σ² / (1 − ε/2σ²)). Bounds of the space are a second bias: a state beyond them is
    reflected (or clipped) back. A non-finite energy or gradient is refused, the chain stays, and it is counted.
    ``kernel.implied_temperature()`` is noise_scale². For a step and a noise of their own, schedules and clipping, see
    `sgld`; for the same proposals made exact, `mala`.

    Args:
        step_size: ε > 0, in squared units of x.
        noise_scale: factor on the noise, ≥ 0; 1 targets exp(−βE), 0 is gradient descent.
        bounds: "reflect" or "clip" at ``low`` and ``high`` of the space.
    Invariant law: only approximately exp(−βE). Cost: one energy and gradient per step.
    Source: Roberts & Tweedie 1996, "Exponential convergence of Langevin distributions", §1.4 (ULA).
    """

    exact: ClassVar[bool] = False

    step_size: float = 0.01
    noise_scale: float = 1.0
    bounds: str = "reflect"

    def __post_init__(self) -> None:
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise SettingError(f"`step_size` must be positive and finite; got {self.step_size!r}. Try 0.01.")
        if not (self.noise_scale >= 0 and math.isfinite(self.noise_scale)):
            raise SettingError(f"`noise_scale` must be at least 0 and finite; got {self.noise_scale!r}. Use 1.0.")
        check_choice("bounds", self.bounds, ("reflect", "clip"))

    def implied_temperature(self) -> float:
        """T of the law exp(−βE/T) that small steps aim at: noise_scale²."""
        return self.noise_scale**2

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape) float, with the gradient there in the cache."""
        x, energies, gradient = start_real("langevin", energy, x0, weighs=False)
        return ChainState(x, energies, {"gradient": gradient}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One Langevin step of all C chains; clamped sites keep their value."""
        x = state.x
        y = descended(x, state.cache["gradient"], self.step_size, beta, state.energy)
        noise = normal_like(x, generator)  # drawn also at scale 0: other settings, the same random numbers
        y = y.add_(noise, alpha=self.noise_scale * math.sqrt(2 * self.step_size))
        return settle(energy, state, y, self.bounds, clamp)


register(SamplerSpec(
    name="langevin",
    build=Langevin,
    summary="unadjusted Langevin dynamics (biased)",
    source="Roberts & Tweedie 1996",
    spaces=frozenset({"Real"}),
    needs_gradient=True,
    exact=False,
    reversible=False,
    use_when="Reals, where a bias that shrinks with the step size is acceptable, e.g. for the negatives of a training.",
))
