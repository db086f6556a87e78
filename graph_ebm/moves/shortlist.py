"""Molecular edits chosen from a shortlist of candidates that are scored exactly, accepted by multiple-try Metropolis.

First-order scores rank the edits that change several entries at once poorly (:mod:`graph_ebm.moves.taylor` measures
it), so candidates are scored by energies that were evaluated, not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha, select
from discrete_ebm.samplers.balancing import log_balancing
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.informed import Proposal
from discrete_ebm.samplers.multiple_try import check_tries, multiple_try
from discrete_ebm.samplers.single_site import at_least_float32
from graph_ebm.moves.kernel import MolecularKernel, propose_edit

__all__ = ["ShortlistKernel"]


@dataclass(frozen=True, eq=False)
class ShortlistKernel(Kernel):
    """Multiple-try Metropolis over molecular edits, K candidates a step.

    ``base``: the kernel whose moves, weights and schedule are used (its ``delayed`` is not). ``n_tries``: K.
    ``balancing``: weight of a candidate as a function of its acceptance ratio; see :func:`multiple_try`.
    ``scored_by``: "energy" scores all candidates by the energy itself (2K − 1 evaluations a step at most); "surrogate"
    runs the whole multiple-try step on the energy's ``surrogate(x)`` and then accepts its result with
    min(1, exp(−β(ΔE − ΔE_surrogate))), which costs one evaluation at most.

    Invariant law: exp(−β E)/n! on valid connected molecules, as for :class:`MolecularKernel`. Why the second form is
    exact: the multiple-try step is reversible for exp(−β E_surrogate), so it is a proposal whose Hastings ratio is
    exp(β ΔE_surrogate). Where an energy has no better surrogate than zeros, use "energy".

    Source: Liu, Liang & Wong 2000; Pandolfi, Bartolucci & Friel 2010; Christen & Fox 2005 for the second stage.
    """

    base: MolecularKernel
    n_tries: int = 4
    balancing: str = "barker"
    scored_by: str = "energy"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_tries(self.n_tries)
        log_balancing(self.balancing)
        if self.scored_by not in ("energy", "surrogate"):
            raise SettingError(f"`scored_by` must be 'energy' or 'surrogate'; got {self.scored_by!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the moves, in order."""
        return self.base.names

    def kind(self, seed: int, step: int) -> int:
        """Index of the move used at this step."""
        return self.base.kind(seed, step)

    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        if self.scored_by == "surrogate" and not callable(getattr(energy, "surrogate", None)):
            raise CapabilityError(
                f"`energy` must have surrogate(x) for scored_by='surrogate'; got {type(energy).__name__}. "
                "Use scored_by='energy'."
            )
        with torch.no_grad():
            x = x0.clone()
            cache = {"surrogate": at_least_float32(energy.surrogate(x))} if self.scored_by == "surrogate" else {}
            # a random place in the schedule of moves, so that short runs from init do not repeat its beginning
            step = torch.randint(2**40, (), generator=generator, device=generator.device).cpu()
            return ChainState(x, at_least_float32(evaluate_energy(energy, x)), cache, step)

    @torch.no_grad()
    def step(
        self,
        energy: Any,
        state: ChainState,
        *,
        generator: torch.Generator,
        beta: float | Tensor = 1.0,
        clamp: Tensor | None = None,
    ) -> tuple[ChainState, StepInfo]:
        move = self.base.moves[self.kind(generator.initial_seed(), int(state.step))]
        inverse_t = beta_column(beta, state.energy)

        def propose(x: Tensor, chain: Tensor) -> Proposal:
            kept = clamp[chain] if clamp is not None and clamp.dim() == x.dim() else clamp
            return propose_edit(move, x, generator=generator, clamp=kept)

        if self.scored_by == "energy":
            tried = multiple_try(
                propose, lambda x: evaluate_energy(energy, x), state.x, state.energy,
                beta=inverse_t, n_tries=self.n_tries, balancing=self.balancing, generator=generator,
            )
            new = ChainState(tried.x, tried.energy, dict(state.cache), state.step + 1)
            return new, self._info(state, tried.x, tried.accepted, tried.acceptance, tried.calls, tried.non_finite)

        surrogate = state.cache["surrogate"]
        tried = multiple_try(
            propose, energy.surrogate, state.x, surrogate,
            beta=inverse_t, n_tries=self.n_tries, balancing=self.balancing, generator=generator,
        )
        energy_y, calls = MolecularKernel._evaluate(energy, tried.x, tried.accepted, state.energy)
        correction = (energy_y - state.energy) - (tried.energy - surrogate)
        log_alpha = metropolis_log_alpha(correction, inverse_t, torch.zeros_like(correction))
        accepted, second = metropolis_hastings(log_alpha, generator=generator)
        accepted = accepted & tried.accepted
        new = ChainState(
            select(accepted, tried.x, state.x),
            torch.where(accepted, energy_y, state.energy),
            {"surrogate": torch.where(accepted, tried.energy, surrogate)},
            state.step + 1,
        )
        acceptance = tried.acceptance * torch.where(tried.accepted, second, 0.0)
        non_finite = tried.non_finite + (tried.accepted & (energy_y.isnan() | (energy_y == -torch.inf))).sum()
        return new, self._info(state, new.x, accepted, acceptance, calls, non_finite)

    @staticmethod
    def _info(
        state: ChainState, x: Tensor, accepted: Tensor, acceptance: Tensor, calls: float, non_finite: Tensor
    ) -> StepInfo:
        hamming = (x != state.x).flatten(1).sum(-1)
        return StepInfo(acceptance, accepted, hamming, calls, 0.0, non_finite)
