"""Gibbs-with-Gradients: one site changes per step, chosen by how much the change lowers the energy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import HasFlipDeltas, energy_and_gradient, evaluate_energy
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha, select
from discrete_ebm.samplers.balancing import log_balancing
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.informed import propose
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import SingleSite, at_least_float32, require_discrete, start

__all__ = ["GibbsWithGradients"]

_HUGE = 1e30  # stands for an infinite ΔE in proposal scores: finite, so that the two directions still compare


@dataclass(frozen=True)
class GibbsWithGradients(Kernel):
    r"""Propose one single-site change m with probability ∝ g(exp(−β Δ_m(x))), then accept or reject it.

    Δ_m is the exact change of energy where the energy has ``flip_deltas``, else the first-order estimate from one
    gradient, which is kept in the state so that a step costs one gradient. The reverse probability is taken at the
    proposed state, and the acceptance always uses evaluated energies: a poor estimate slows the chain but never
    bends its law.

    Args:
        balancing: g, one of "sqrt" (the paper's), "barker", "min", "max".
        exact_deltas: "auto" uses ``flip_deltas`` where the energy has it, True demands it, False never uses it.
        laziness: probability of staying although a proposal would be accepted, in [0, 1). Without it a chain on equal
            energies flips a site every time and alternates for ever between even and odd states; 0 is the paper's
            kernel.
    Invariant law: exp(−βE); reversible. Cost: one energy and one gradient (or one ``flip_deltas``) per step.
    Source: Grathwohl et al. 2021, arXiv:2102.04509, eqs. 3 and 6; balancing: Zanella 2020, arXiv:1711.07424.
    """

    balancing: str = "sqrt"
    exact_deltas: bool | str = "auto"
    laziness: float = 0.01

    def __post_init__(self) -> None:
        log_balancing(self.balancing)
        if not (isinstance(self.exact_deltas, bool) or self.exact_deltas == "auto"):
            raise SettingError(f"`exact_deltas` must be 'auto', True or False; got {self.exact_deltas!r}.")
        if isinstance(self.laziness, bool) or not 0 <= self.laziness < 1:
            raise SettingError(f"`laziness` must be at least 0 and below 1; got {self.laziness!r}.")

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape), with the deltas of all moves there in the cache."""
        require_discrete("gwg", energy.space)
        if self.exact_deltas is True and not isinstance(energy, HasFlipDeltas):
            raise CapabilityError(
                f"`energy` must have `flip_deltas` for exact_deltas=True; got {type(energy).__name__}. "
                "Use exact_deltas='auto' for gradient estimates."
            )
        x, _ = start(energy, x0)
        energies, deltas, _ = self._evaluate(energy, SingleSite(energy.space), x)
        return ChainState(x, energies, {"deltas": deltas}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One proposal for each of C chains. A chain with every site clamped stays, with acceptance 0."""
        neighbourhood = SingleSite(energy.space)
        beta = beta_column(beta, state.energy)
        at_y: list[tuple[Tensor, Tensor, Tensor]] = []

        def deltas_at(y: Tensor) -> Tensor:
            energies, deltas, broken = self._evaluate(energy, neighbourhood, y)
            at_y.append((energies, deltas, broken))
            return deltas

        proposal = propose(neighbourhood, state.x, beta=beta, generator=generator, deltas_at=deltas_at,
                           balancing=self.balancing, clamp=clamp, deltas_x=state.cache["deltas"])
        energy_y, deltas_y, broken = at_y[0]
        log_alpha = metropolis_log_alpha(energy_y - state.energy, beta, proposal.log_q_ratio)
        log_alpha = log_alpha.masked_fill(~energy_y.isfinite(), -torch.inf)
        log_alpha = log_alpha.clamp(max=0) + math.log1p(-self.laziness)  # a constant factor keeps detailed balance
        accepted, acceptance = metropolis_hastings(log_alpha, generator=generator)
        accepted = accepted & proposal.possible
        moved = ChainState(
            x=select(accepted, proposal.y, state.x),
            energy=select(accepted, energy_y, state.energy),
            cache={"deltas": select(accepted, deltas_y, state.cache["deltas"])},
            step=state.step + 1,
        )
        info = StepInfo(
            acceptance=torch.where(proposal.possible, acceptance, torch.zeros_like(acceptance)),
            accepted=accepted,
            hamming=accepted.long(),
            energy_calls=2.0 if self._uses_exact(energy) else 1.0,
            gradient_calls=0.0 if self._uses_exact(energy) else 1.0,
            non_finite=(broken & proposal.possible).sum(),
        )
        return moved, info

    def _uses_exact(self, energy: Any) -> bool:
        return self.exact_deltas is not False and isinstance(energy, HasFlipDeltas)

    def _evaluate(self, energy: Any, neighbourhood: SingleSite, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energies (C,), finite deltas (C, M), and chains (C,) that met NaN or −inf (not +inf: forbidden)."""
        if self._uses_exact(energy):
            energies, table = evaluate_energy(energy, x), energy.flip_deltas(x)
        else:
            energies, gradient = energy_and_gradient(energy, x)
            table = energy.space.taylor_deltas(x, gradient)
        energies, deltas = at_least_float32(energies), at_least_float32(neighbourhood.to_moves(table, x))
        broken = torch.where(energies.isfinite(), deltas.isnan().any(dim=1), energies != torch.inf)
        # Scores may be any function of the state: a NaN becomes "no opinion" and the acceptance still decides.
        return energies, torch.nan_to_num(deltas, nan=0.0, posinf=_HUGE, neginf=-_HUGE).clamp(-_HUGE, _HUGE), broken


register(SamplerSpec(
    name="gwg",
    build=GibbsWithGradients,
    summary="one gradient-informed single-site change",
    source="Grathwohl et al. 2021, arXiv:2102.04509",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=True,
    exact=True,
    reversible=True,
))
