"""Langevin dynamics as energy-based models are trained with: a step and a noise of their own, schedules, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.continuous import (
    HISTORY,
    check_choice,
    check_precondition,
    descended,
    log_diagonal,
    per_chain,
    root_diagonal,
    settle,
    start_real,
)
from discrete_ebm.samplers.factorised import check_positive
from discrete_ebm.samplers.hamiltonian import normal_like
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.schedules import Schedule, check_schedule, factor

__all__ = ["SGLD"]


@dataclass(frozen=True)
class SGLD(Kernel):
    r"""x′ = x − ε_t c β g + σ_t √c ξ, g = ∇E(x) or its clipped form, ξ ~ N(0, I); always taken. **Biased.**

    Step and noise are set apart, as in the trainings of JEM (ε = 1, σ = 0.01) and IGEBM (ε = 10, σ = 0.005, gradient
    clipped at 0.01). What such a pair aims at is not exp(−βE) but exp(−βE/T), T = σ²/2ε: the implied temperature,
    ``kernel.implied_temperature()``. With ε = 1, σ = 0.01 it is 0.00005: nearly a descent. ``discrete_ebm.samplers.
    implied_temperature(kernel)`` reads it from any kernel. Clipping, clamping to bounds and long steps bend the law
    beyond that, in ways that no number tells. A non-finite energy or gradient is refused, the chain stays, and it is
    counted.

    ε_t = ε f(t) and σ_t = σ h(t), t the step count in the state, so a resumed chain goes on in its schedule. A
    schedule is ("constant",), ("polynomial", b, γ) for (1 + t/b)^−γ, ("geometric", final, n), ("linear", final, n) or
    ("cosine", final, n): from factor 1 to factor ``final`` in n steps, and there for good. Without one for the noise,
    h = √f: the temperature stays, the bias goes.

    Args:
        step_size: ε above 0, in squared units of x.
        noise: σ, standard deviation of the noise, at least 0; None = √(2ε), temperature 1; 0 is gradient descent.
        step_schedule: f, a schedule.
        noise_schedule: h, a schedule; None for √f.
        clip_norm: longest gradient of a chain, in nats per unit of x (L2 over its sites); None = any.
        clip_value: largest entry of a gradient; None = any. Applied before ``clip_norm``.
        precondition: None, or c above 0, one per site in flattened order, kept in ``cache["log_precondition"]``.
        bounds: "clip" (clamp the state) or "reflect" at ``low`` and ``high`` of the space.
    Cache: ``gradient`` (C, *shape), not clipped.
    Invariant law: none exactly; near exp(−βE/T) for small steps. Cost: one energy and gradient per step.
    Source: Welling & Teh 2011, "Bayesian learning via stochastic gradient Langevin dynamics", eq. 2; the decoupled
        form: Du & Mordatch 2019, arXiv:1903.08689; Grathwohl et al. 2020, arXiv:1912.03263; Nijkamp et al. 2020.
    """

    exact: ClassVar[bool] = False
    history: ClassVar[frozenset[str]] = HISTORY

    step_size: float = 0.01
    noise: float | None = None
    step_schedule: Schedule = ("constant",)
    noise_schedule: Schedule | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    precondition: tuple[float, ...] | None = None
    bounds: str = "clip"

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        given = self.noise
        if given is not None and (isinstance(given, bool) or not isinstance(given, (int, float))
                                  or not 0 <= given < math.inf):
            raise SettingError(f"`noise` must be None or a finite number of at least 0; got {given!r}. 0 is gradient "
                               "descent, None the noise of temperature 1.")
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_choice("bounds", self.bounds, ("clip", "reflect"))
        object.__setattr__(self, "precondition", check_precondition(self.precondition, estimate=False))
        object.__setattr__(self, "step_schedule", check_schedule("step_schedule", self.step_schedule))
        if self.noise_schedule is not None:
            object.__setattr__(self, "noise_schedule", check_schedule("noise_schedule", self.noise_schedule))

    def coefficients(self, step: int) -> tuple[float, float]:
        """(ε_t, σ_t) at a step count."""
        along = factor(self.step_schedule, step)
        noise = math.sqrt(2 * self.step_size) if self.noise is None else self.noise
        noise *= math.sqrt(along) if self.noise_schedule is None else factor(self.noise_schedule, step)
        return self.step_size * along, noise

    def implied_temperature(self, step: int = 0) -> float:
        """T of the law exp(−βE/T) that small steps aim at, σ_t²/2ε_t; at the start of the schedules by default."""
        step_size, noise = self.coefficients(step)
        return noise**2 / (2 * step_size)

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape) float, with the gradient there in the cache and the schedules at 0."""
        x, energies, gradient = start_real("sgld", energy, x0, weighs=False)
        cache = {"gradient": gradient, **log_diagonal(self.precondition, x)}
        return ChainState(x, energies, cache, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One step of all C chains; clamped sites keep their value."""
        x, root = state.x, root_diagonal(state)
        step_size, noise = self.coefficients(int(state.step))
        slope = self._clipped(state.cache["gradient"])
        slope = slope if isinstance(root, float) else slope * root.square()
        y = descended(x, slope, step_size, beta, state.energy)
        if noise > 0:
            xi = normal_like(x, generator)
            y.add_(xi if isinstance(root, float) else xi * root, alpha=noise)
        return settle(energy, state, y, self.bounds, clamp)

    def _clipped(self, gradient: Tensor) -> Tensor:
        if self.clip_value is not None:
            gradient = gradient.clamp(-self.clip_value, self.clip_value)
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
            gradient = gradient * per_chain((self.clip_norm / norm).clamp(max=1), gradient)  # 1 where the norm is 0
        return gradient


register(SamplerSpec(
    name="sgld",
    build=SGLD,
    summary="Langevin steps with a noise of their own, schedules, clipping (biased)",
    source="Welling & Teh 2011; Du & Mordatch 2019; Grathwohl et al. 2020",
    spaces=frozenset({"Real"}),
    needs_gradient=True,
    exact=False,
    reversible=False,
    use_when="Negatives for training energies of images, in the published settings. Know the implied temperature; "
             "never for estimates.",
))
