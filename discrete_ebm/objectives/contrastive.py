r"""Contrastive divergence: lower the energy of data, raise that of what the model draws.

The gradient of the negative log-likelihood is E_data[∇E] − E_model[∇E]. CD-k takes the model's draws from k steps that
start at the data (biased, calm); PCD from chains that live on between updates (nearly unbiased while they keep up).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chain_bank import ChainBank
from discrete_ebm.chain_inputs import resolve_sampler
from discrete_ebm.chains import StepTotals, advance, raise_if_not_finite
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import SettingError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.samplers.base import Kernel

__all__ = ["CD", "PCD", "BankState", "contrast", "draw_negatives"]


def contrast(
    energy: Any, positives: Tensor, negatives: Tensor, penalty: float = 0.0, totals: StepTotals | None = None
) -> ObjectiveOutput:
    """mean E(positives) − mean E(negatives) + penalty · (mean E² of both), by one call of the energy.

    Args:
        positives: (B, *shape) data. negatives: (C, *shape) model draws, taken as constants.
        penalty: weight of the energy magnitude, 1/nats; it also pins the constant an energy is free to drift by.
        totals: of the steps that made the negatives, to log acceptance and distance.
    Source: Du & Mordatch 2019, arXiv:1903.08689, section 3.3, for the penalty.
    """
    values = evaluate_energy(energy, torch.cat([positives, negatives.to(positives.dtype)]))
    positive, negative = values.split([positives.shape[0], negatives.shape[0]])
    gap = negative.mean() - positive.mean()
    loss = -gap
    if penalty:
        loss = loss + penalty * (positive.square().mean() + negative.square().mean())
    terms = {
        "positive_energy": positive.mean().detach(),
        "negative_energy": negative.mean().detach(),
        "gap": gap.detach(),
    }
    if totals is not None and totals.n_steps:
        terms["acceptance"] = totals.accepted.mean() / totals.n_steps
        terms["hamming"] = totals.hamming.mean() / totals.n_steps
    return ObjectiveOutput(loss, terms, negatives)


def draw_negatives(
    kernel: Kernel, energy: Any, x: Tensor, n_steps: int, *, generator: torch.Generator
) -> tuple[Tensor, StepTotals]:
    """States after ``n_steps`` steps from x (C, *shape), at beta = 1 and without gradients; x is not modified.

    Raises:
        NonFiniteEnergyError: names the chains.
    """
    with torch.no_grad():
        state = kernel.init(energy, x, generator=generator)  # what the kernel cached is stale after an update
        raise_if_not_finite(energy, state, StepTotals.zero(state.energy), "at the start of its steps")
        state, totals = advance(kernel, energy, state, n_steps, generator=generator)
    return state.x, totals


@dataclass(frozen=True)
class CD(Objective):
    """CD-k: negatives by ``n_steps`` kernel steps that start at the batch itself.

    Args:
        sampler: a registered name or a kernel.
        n_steps: k, kernel steps (a step of a Gibbs kernel is a sweep).
        penalty: weight of the energy magnitude; 0 = none.
    Source: Hinton 2002, "Training products of experts by minimizing contrastive divergence".
    """

    sampler: str | Kernel = "gwg"
    n_steps: int = 1
    penalty: float = 0.0

    def __post_init__(self) -> None:
        _check_settings(self.n_steps, self.penalty)

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        resolve_sampler(self.sampler, energy.space)
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        kernel = resolve_sampler(self.sampler, energy.space)
        negatives, totals = draw_negatives(kernel, energy, batch, self.n_steps, generator=generator)
        return contrast(energy, batch, negatives, self.penalty, totals)


class BankState(ObjectiveState):
    """Persistent chains as an objective's memory."""

    def __init__(self, bank: ChainBank) -> None:
        self.bank = bank

    @property
    def chains(self) -> Tensor:
        return self.bank.x

    def state_dict(self) -> dict[str, Tensor]:
        return self.bank.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.bank.load_state_dict(state)


@dataclass(frozen=True)
class PCD(Objective):
    """Persistent CD: negatives from a bank of chains that go on where the last update left them.

    Each update draws as many chains as the batch has rows (at most the bank), without replacement, moves them
    ``n_steps`` and writes them back to the same rows.

    Args:
        sampler: a registered name or a kernel.
        n_steps: kernel steps per update (a step of a Gibbs kernel is a sweep).
        bank_size: number of chains.
        penalty: weight of the energy magnitude; 0 = none.
        restart: probability that a drawn chain first starts anew at a random state; 0 = never.
        start: "random" states of the space or "data" rows for the first chains.
    Source: Tieleman 2008, "Training restricted Boltzmann machines using approximations to the likelihood gradient";
        restarts: Du & Mordatch 2019, arXiv:1903.08689.
    """

    sampler: str | Kernel = "gwg"
    n_steps: int = 10
    bank_size: int = 1000
    penalty: float = 0.0
    restart: float = 0.0
    start: str = "random"

    def __post_init__(self) -> None:
        _check_settings(self.n_steps, self.penalty)
        if isinstance(self.bank_size, bool) or not isinstance(self.bank_size, int) or self.bank_size < 1:
            raise SettingError(f"`bank_size` must be a whole number of at least 1; got {self.bank_size!r}.")
        if not 0 <= self.restart < 1:
            raise SettingError(
                f"`restart` must be at least 0 and below 1; got {self.restart!r}. Use CD for no memory at all."
            )
        if self.start not in ("random", "data"):
            raise SettingError(f"`start` must be 'random' or 'data'; got {self.start!r}.")

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> BankState:
        resolve_sampler(self.sampler, energy.space)
        x0 = None
        if self.start == "data":
            x0 = data[torch.randperm(len(data), generator=generator, device=generator.device)[: self.bank_size]]
        return BankState(ChainBank(energy.space, self.bank_size, x0, generator=generator))

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, BankState):
            raise SettingError(f"`state` must be what PCD.init returned; got {type(state).__name__}.")
        kernel = resolve_sampler(self.sampler, energy.space)
        rows, x = state.bank.draw(min(len(batch), len(state.bank)), generator)
        if self.restart:
            anew = torch.rand(len(rows), generator=generator, device=x.device) < self.restart
            fresh = energy.space.random(len(rows), generator)
            x = torch.where(anew.reshape(-1, *[1] * (x.dim() - 1)), fresh, x)
            state.bank.ages[rows] *= ~anew
        negatives, totals = draw_negatives(kernel, energy, x, self.n_steps, generator=generator)
        state.bank.write(rows, negatives)
        return contrast(energy, batch, negatives, self.penalty, totals)


def _check_settings(n_steps: Any, penalty: Any) -> None:
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise SettingError(f"`n_steps` must be a whole number of at least 1; got {n_steps!r}.")
    if (
        isinstance(penalty, bool)
        or not isinstance(penalty, (int, float))
        or not (math.isfinite(penalty) and penalty >= 0)
    ):
        raise SettingError(f"`penalty` must be finite and not negative; got {penalty!r}.")


register(ObjectiveSpec("cd", CD, "contrastive divergence from the data", "Hinton 2002", needs_sampler=True))
register(
    ObjectiveSpec("pcd", PCD, "contrastive divergence from persistent chains", "Tieleman 2008", needs_sampler=True)
)
