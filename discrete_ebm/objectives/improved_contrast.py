r"""Contrastive divergence with the term that it leaves out: how the sampler's own draws depend on the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from discrete_ebm.chain_bank import ChainBank
from discrete_ebm.chain_inputs import resolve_sampler
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import SettingError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.contrastive import BankState, contrast, draw_negatives
from discrete_ebm.objectives.needs import (
    finite_number,
    fraction,
    need_differentiable,
    need_real,
    need_states,
    whole_number,
)
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.objectives.score_matching import model_score
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.continuous import bounds_of
from discrete_ebm.samplers.hamiltonian import normal_like
from discrete_ebm.samplers.langevin import Langevin
from discrete_ebm.samplers.sgld import SGLD

__all__ = ["ImprovedCD", "last_step", "log_distances", "nearest_entropy"]

EULER = 0.5772156649015329


def last_step(energy: Any, kernel: Kernel, x: Tensor, *, generator: torch.Generator) -> Tensor:
    """One unadjusted step of ``kernel`` from x (C, *shape), with a graph through ∇E to the parameters."""
    score, leaf = model_score(energy, x)
    bounds = bounds_of(energy.space, leaf)
    if isinstance(kernel, SGLD):
        step_size, noise = kernel.coefficients(0)
        score = -kernel._clipped(-score)
        settle = bounds.reflect if kernel.bounds == "reflect" else bounds.clip
    elif isinstance(kernel, Langevin):
        step_size, noise = kernel.step_size, kernel.noise_scale * math.sqrt(2 * kernel.step_size)
        settle = bounds.reflect if kernel.bounds == "reflect" else bounds.clip
    else:
        raise SettingError(f"`sampler` must be 'langevin' or 'sgld' for objective 'improved-cd', whose last step is "
                           f"differentiated; got {type(kernel).__name__}. Use 'langevin'.")  # fmt: skip
    return settle(leaf.detach() + step_size * score + noise * normal_like(x, generator).to(leaf.dtype))


def log_distances(x: Tensor, others: Tensor) -> Tensor:
    """(C,) log distance of each row of x (C, *shape) to its nearest row of ``others`` (R, *shape).

    A row at distance 0 is itself (or a copy), and is left out.
    """
    far = torch.cdist(x.flatten(1), others.detach().flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return far.masked_fill(far == 0, torch.inf).min(1).values.log()


def nearest_entropy(x: Tensor, others: Tensor) -> Tensor:
    """() entropy of a law, nats, from draws x (C, *shape) and other draws of it (R, *shape): d·E[log nearest] + const.

    Differentiable in x. Consistent as R grows; in many dimensions R has to grow beyond reach, and what is left is a
    repulsion of neighbours.

    Source: Kozachenko & Leonenko 1987; as used by Du et al. 2021, arXiv:2012.01316, eq. 9.
    """
    d = x[0].numel()
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return d * log_distances(x, others).mean() + math.log(len(others)) + log_ball + EULER


@dataclass(frozen=True)
class ImprovedCD(Objective):
    r"""Persistent CD plus the gradient of KL(q ‖ p) through q, the law of the sampler's draws.

    CD's gradient leaves out that moving the parameters moves the negatives. The missing term is that of
    E_q[E_fixed(x)] − H(q): draws should end where the energy is low, and differ from each other. The last Langevin step
    is differentiated (as in the source's experiments, through one step only), the energy that judges it is held, and
    the entropy is d times the mean log distance to the nearest chain of the bank. The term needs no weight of its own
    where the estimate of the entropy is right: ``weight`` 1; 0 is PCD.

    Args:
        sampler: "langevin" or "sgld", a name or a kernel.
        n_steps: kernel steps per update, the differentiated one included.
        bank_size: number of chains.
        weight: of the KL term. entropy: weight of the entropy within it.
        restart: probability that a drawn chain starts anew; .05 as in recipes for continuous energies.
        penalty: weight of the energy magnitude, 1/nats.
    Source: Du, Li, Tenenbaum & Mordatch 2021, arXiv:2012.01316, eq. 5 to 9.
    """

    sampler: str | Kernel = "langevin"
    n_steps: int = 10
    bank_size: int = 1000
    weight: float = field(default=1.0, kw_only=True)
    entropy: float = field(default=1.0, kw_only=True)
    restart: float = field(default=0.05, kw_only=True)
    penalty: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        whole_number("n_steps", self.n_steps)
        whole_number("bank_size", self.bank_size, 2)
        for name in ("weight", "entropy", "penalty"):
            finite_number(name, getattr(self, name))
        fraction("restart", self.restart, "Use ShortRun for no memory at all.")

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> BankState:
        space = need_real("improved-cd", energy)
        data = need_states("improved-cd", data)
        evaluate_energy(energy, data[:1])  # a score alone is refused here
        need_differentiable("improved-cd", energy, data)
        if not isinstance(energy, nn.Module):
            raise SettingError(f"`energy` must be a torch module for objective 'improved-cd'; got "
                               f"{type(energy).__name__}. Wrap it with de.from_callable(module, space).")  # fmt: skip
        kernel = resolve_sampler(self.sampler, space)
        with torch.enable_grad():
            last_step(energy, kernel, data[:1], generator=torch.Generator(generator.device).manual_seed(0))
        return BankState(ChainBank(space, self.bank_size, None, generator=generator))

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, BankState):
            raise SettingError(f"`state` must be what ImprovedCD.init returned; got {type(state).__name__}.")
        kernel = resolve_sampler(self.sampler, energy.space)
        rows, x = state.bank.draw(min(len(batch), len(state.bank)), generator)
        if self.restart:
            anew = torch.rand(len(rows), generator=generator, device=x.device) < self.restart
            fresh = energy.space.random(len(rows), generator)
            x = torch.where(anew.reshape(-1, *[1] * (x.dim() - 1)), fresh, x)
            state.bank.ages[rows] *= ~anew
        totals = None
        if self.n_steps > 1:
            x, totals = draw_negatives(kernel, energy, x, self.n_steps - 1, generator=generator)
        draws = last_step(energy, kernel, x, generator=generator)
        state.bank.write(rows, draws.detach().to(x.dtype))
        output = contrast(energy, batch, draws.detach(), self.penalty, totals)
        if self.weight:
            pull = held_energy(energy, draws).mean()
            spread = nearest_entropy(draws, state.bank.x.to(draws.dtype))
            output.loss = output.loss + self.weight * (pull - self.entropy * spread)
            output.terms |= {"entropy": spread.detach(), "pull": pull.detach()}
        return output


def held_energy(energy: nn.Module, x: Tensor) -> Tensor:
    """(C,) energies of x with a graph to x alone: parameters are held."""
    held = {name: part.detach() for name, part in energy.named_parameters()}
    return functional_call(energy, held, (x,))


register(
    ObjectiveSpec(
        "improved-cd",
        ImprovedCD,
        "persistent contrast with the sampler's own gradient",
        "Du et al. 2021",
        needs_sampler=True,
        spaces="Real",
        needs_gradient=True,
        cost="data and negatives twice, and n_steps of the sampler",
        use_when="Real variables where plain chains lag behind or collapse: draws are pulled down and kept apart.",
    )
)
