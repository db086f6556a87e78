r"""Learning by reconstruction: an energy whose descent from a disturbed state leads back to the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.noise_levels import ScoreField
from discrete_ebm.errors import SettingError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.needs import finite_number, need_differentiable, need_real, need_states, whole_number
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.objectives.score_matching import mean_square, model_score
from discrete_ebm.samplers.continuous import bounds_of
from discrete_ebm.samplers.hamiltonian import normal_like

__all__ = ["Reconstruction", "descend"]


def descend(energy: Any, x: Tensor, n_steps: int, step_size: float) -> Tensor:
    """States after ``n_steps`` of x − step_size · ∇E(x), kept between the bounds, with a graph through all of them."""
    bounds = bounds_of(energy.space, x)
    for _ in range(n_steps):
        score, leaf = _attached_score(energy, x)
        x = bounds.clip(torch.add(leaf, score, alpha=step_size))
    return x


def _attached_score(energy: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """s(x) with a graph that goes on through x to where it came from."""
    if not x.requires_grad:
        return model_score(energy, x)
    value = energy(x)
    if isinstance(energy, ScoreField):
        return value, x
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return -slope, x


@dataclass(frozen=True)
class Reconstruction(Objective):
    r"""½ mean |x_K − x|²/σ²: x_0 = x + σξ, then K descent steps x_k = x_{k−1} − ε ∇E(x_{k−1}); gradients through all.

    One step of size ε = σ² is denoising score matching at σ, to the last digit; with more steps E needs to be right
    only along the ways back, and each step may do less. With ``start="random"`` nothing of x is left at the start, so
    an energy of x alone can only learn where to go on average: give it a condition, or use noise.

    Not a density: E learns to be descended in K steps of ε from σ away. It has the scale of a density's energy for
    K = 1 and ε = σ² alone, and exp(−E) is no estimate of p elsewhere.

    Args:
        n_steps: K.
        step_size: ε in squared units of x; None = σ²/K.
        sigma: σ of the noise at the start; with "random" only the unit of the loss.
        start: "noisy" or "random" (of the space).
    Source: Du & Mordatch 2019, arXiv:1903.08689, sections 4 and 6 (states found by descent); trained through the
        descent: Du, Li, Sharma, Tenenbaum & Mordatch 2021, arXiv:2111.03042, eq. 3 and 4.
    """

    n_steps: int = 5
    step_size: float | None = None
    sigma: float = 0.3
    start: str = "noisy"

    def __post_init__(self) -> None:
        whole_number("n_steps", self.n_steps)
        finite_number("sigma", self.sigma, above=0.0)
        if self.step_size is not None:
            finite_number("step_size", self.step_size, above=0.0)
        if self.start not in ("noisy", "random"):
            raise SettingError(f"`start` must be 'noisy' or 'random'; got {self.start!r}. Use 'noisy'.")

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        need_real("reconstruction", energy)
        data = need_states("reconstruction", data)
        if not isinstance(energy, ScoreField):
            need_differentiable("reconstruction", energy, data)
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if self.start == "noisy":
            x = torch.add(batch, normal_like(batch, generator), alpha=self.sigma)
        else:
            x = energy.space.random(len(batch), generator).to(batch.dtype)
        step_size = self.sigma**2 / self.n_steps if self.step_size is None else self.step_size
        end = descend(energy, x, self.n_steps, step_size)
        loss = mean_square(end - batch.to(end.dtype)) / self.sigma**2
        return ObjectiveOutput(loss, {"start": mean_square(x - batch).detach() / self.sigma**2}, end.detach())


register(
    ObjectiveSpec(
        "reconstruction",
        Reconstruction,
        "descent that rebuilds a disturbed state",
        "Du & Mordatch 2019; Du et al. 2021",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="K and K gradients",
        use_when="Inference by a few descent steps (denoising, completion, conditional energies); not for a density.",
    )
)
