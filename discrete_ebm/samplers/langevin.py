"""Unadjusted Langevin dynamics for real-valued states: fast, biased, and says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_and_gradient
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers.accept import select
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import at_least_float32, free_sites, start

__all__ = ["Langevin"]


@dataclass(frozen=True)
class Langevin(Kernel):
    r"""x′ = x − ε β ∇E(x) + noise_scale · √(2ε) ξ, ξ ~ N(0, 1); every proposal is kept.

    There is no accept step, so the law is off by an amount that shrinks in proportion to ε (on a Gaussian of variance
    σ², the stationary variance is σ² / (1 − ε/2σ²)). Bounds of the space are a second bias: a state beyond them is
    reflected (or clipped) back. A non-finite energy or gradient is refused, the chain stays, and it is counted.

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
        if self.bounds not in ("reflect", "clip"):
            raise SettingError(f"`bounds` must be 'reflect' or 'clip'; got {self.bounds!r}.")

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape) float, with the gradient there in the cache."""
        if energy.space.name != "Real":
            raise CapabilityError(f"`langevin` must be used on Real; got {energy.space.name}. Use `gwg` or `gibbs`.")
        x, _ = start(energy, x0)
        energies, gradient = self._evaluate(energy, x)
        return ChainState(x, energies, {"gradient": gradient}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One Langevin step of all C chains; clamped sites keep their value."""
        x, gradient = state.x, state.cache["gradient"]
        n_chains = x.shape[0]
        per_chain = (n_chains, *[1] * (x.dim() - 1))
        slope = beta_column(beta, state.energy).to(x.dtype).reshape(per_chain) * gradient
        noise = torch.empty_like(x).normal_(generator=generator)
        y = x - self.step_size * slope + self.noise_scale * math.sqrt(2 * self.step_size) * noise
        y = self._within(energy.space, y)
        free = free_sites(energy.space, clamp, n_chains)
        if free is not None:
            y = torch.where(free.reshape(x.shape), y, x)
        energy_y, gradient_y = self._evaluate(energy, y)
        finite = torch.stack([energy_y.isfinite(), *(part.flatten(1).isfinite().all(1) for part in (y, gradient_y))])
        kept = finite.all(0)
        moved = ChainState(select(kept, y, x), select(kept, energy_y, state.energy),
                           {"gradient": select(kept, gradient_y, gradient)}, state.step + 1)
        info = StepInfo(
            acceptance=kept.to(energy_y.dtype),
            accepted=kept,
            hamming=(moved.x != x).flatten(1).sum(1),
            energy_calls=1.0,
            gradient_calls=1.0,
            non_finite=(~kept).sum(),
        )
        return moved, info

    def _evaluate(self, energy: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        energies, gradient = energy_and_gradient(energy, x)
        return at_least_float32(energies), gradient.to(x.dtype)

    def _within(self, space: Any, y: Tensor) -> Tensor:
        """Reflected or clipped to the bounds; between two bounds a far overshoot is folded back as often as needed."""
        low = None if space.low is None else space.low.to(y.device, y.dtype)
        high = None if space.high is None else space.high.to(y.device, y.dtype)
        if self.bounds == "reflect":
            if low is not None and high is not None:
                width = high - low
                y = low + (width - (torch.remainder(y - low, 2 * width) - width).abs())
            elif low is not None:
                y = low + (y - low).abs()
            elif high is not None:
                y = high - (high - y).abs()
        y = y if low is None else torch.maximum(y, low)  # also after reflection: rounding may overshoot
        return y if high is None else torch.minimum(y, high)


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
