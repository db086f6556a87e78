"""Underdamped Langevin dynamics by the BAOAB splitting: a momentum with friction, not adjusted, so biased."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.accept import select
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.continuous import (
    HISTORY,
    bounds_of,
    check_precondition,
    log_diagonal,
    per_chain,
    root_diagonal,
    settle,
    start_real,
)
from discrete_ebm.samplers.dhams import refreshed
from discrete_ebm.samplers.factorised import check_positive
from discrete_ebm.samplers.hamiltonian import normal_like
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import free_sites

__all__ = ["UnderdampedLangevin"]


@dataclass(frozen=True)
class UnderdampedLangevin(Kernel):
    r"""dx = √c p dt, dp = −√c β∇E dt − γ p dt + √(2γ) dW, in steps e of BAOAB; always taken. **Biased**, in order e².

    B: p ← p − (e/2) √c β∇E(x). A: x ← x + (e/2) √c p. O: p ← a p + √(1 − a²) ξ, a = exp(−γe). A, then B at the new x.
    On a Gaussian the law of x is exact for every stable step (e < 2 standard deviations); elsewhere its bias is of
    order e². At a bound sites are reflected, and their momenta. A non-finite energy or gradient is refused: the chain
    stays, turned round, and it is counted. The same made exact is `ghmc`.

    Args:
        step_size: e above 0, in units of x.
        friction: γ above 0, per unit of time; 1/γ is how long a momentum lasts.
        precondition: None, or c above 0, one per site in flattened order, kept in ``cache["log_precondition"]``.
    Cache: ``gradient`` and ``momentum`` (C, *shape).
    Invariant law: near exp(−βE) × N(0, I) for small steps. Cost: one energy and gradient per step.
    Source: Leimkuhler & Matthews 2013, "Rational construction of stochastic numerical methods for molecular sampling",
        Appl. Math. Res. Express, BAOAB.
    """

    exact: ClassVar[bool] = False
    history: ClassVar[frozenset[str]] = HISTORY | {"momentum"}

    step_size: float = 0.1
    friction: float = 1.0
    precondition: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        if self.friction == math.inf:
            raise SettingError("`friction` must be finite; got inf. For no momentum at all use `langevin`.")
        check_positive("friction", self.friction)
        object.__setattr__(self, "precondition", check_precondition(self.precondition, estimate=False))

    def implied_temperature(self) -> float:
        """T of the law exp(−βE/T) that small steps aim at: 1."""
        return 1.0

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape) float with a momentum drawn from N(0, I)."""
        x, energies, gradient = start_real("underdamped", energy, x0, weighs=False)
        cache = {"gradient": gradient, "momentum": normal_like(x, generator), **log_diagonal(self.precondition, x)}
        return ChainState(x, energies, cache, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One BAOAB step of all C chains; clamped sites keep their value."""
        x, before, gradient = state.x, state.cache["momentum"], state.cache["gradient"]
        sizes = torch.as_tensor(self.step_size * root_diagonal(state), dtype=x.dtype, device=x.device)
        free = free_sites(energy.space, clamp, x.shape[0])
        if free is not None:
            sizes = sizes * free.reshape(x.shape)
        kick = 0.5 * sizes * per_chain(beta_column(beta, state.energy), x)
        momentum = before - kick * gradient
        within = bounds_of(energy.space, x)
        middle, sign = within.fold(x + 0.5 * sizes * momentum)
        momentum = momentum if sign is None else momentum * sign
        momentum = refreshed(momentum, math.exp(-self.friction * self.step_size), generator=generator)
        y, sign = within.fold(middle + 0.5 * sizes * momentum)
        moved, info = settle(energy, state, y, "reflect", clamp)
        momentum = momentum if sign is None else momentum * sign
        momentum = momentum - kick * moved.cache["gradient"]
        kept = select(info.accepted, momentum, -before)
        return moved._replace(cache={**moved.cache, "momentum": kept}), info


register(SamplerSpec(
    name="underdamped",
    build=UnderdampedLangevin,
    summary="Langevin dynamics with momentum and friction, BAOAB (biased)",
    source="Leimkuhler & Matthews 2013",
    spaces=frozenset({"Real"}),
    needs_gradient=True,
    exact=False,
    reversible=False,
    use_when="Reals where `langevin` crawls and a bias of the order of the squared step is acceptable.",
))
