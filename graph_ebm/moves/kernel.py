"""The molecular kernel: one edit a step, drawn from a set of moves, through the library's one acceptor.

Target: p(G) ∝ exp(−β E(G)) / n! over labelled graphs of n atoms, that is exp(−β E) / |Aut| over molecules, on the
connected molecules that obey the valence table and have at most V atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha, select
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.factored import FactoredNeighbourhood, propose_factored
from discrete_ebm.samplers.informed import Proposal, screen
from discrete_ebm.samplers.single_site import at_least_float32

__all__ = ["MolecularKernel", "propose_edit"]


def _uniform(seed: int, step: int) -> float:
    """A number in [0, 1) from (seed, step): splitmix64. Host arithmetic only, so a step never waits for a device."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / float(1 << 53)


def _fixed_slots(clamp: Tensor, x: Tensor) -> Tensor:
    """(C, V) bool: slots up to the last one whose atom a clamp (V, V) or (C, V, V) tells apart from others.

    A clamped atom must not be removed and be replaced by one that looks the same: the way back would not be scored. A
    row clamped as a whole (no new bonds at one atom) tells apart only the atoms that it is bonded to.
    """
    clamp = clamp.expand(x.shape)
    open_row = clamp & (~clamp.all(-1, keepdim=True) | (x > 0))
    told = clamp.diagonal(dim1=1, dim2=2) | open_row.any(1)
    return told.flip(1).cummax(dim=1).values.flip(1)


def propose_edit(
    move: FactoredNeighbourhood, x: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None
) -> Proposal:
    """A proposal of one move that keeps a clamp (V, V) or (C, V, V): what breaks it is illegal, never redrawn."""
    if clamp is None:
        return propose_factored(move, x, generator=generator)
    proposal = propose_factored(move, x, generator=generator, fixed=_fixed_slots(clamp, x))
    touched = ((proposal.y != x) & clamp).flatten(1).any(-1)
    return proposal._replace(possible=proposal.possible & ~touched)


@dataclass(frozen=True, eq=False)
class MolecularKernel(Kernel):
    """Metropolis–Hastings over molecular edits.

    All chains use the same kind of move in one step; which kind is a function of the generator's seed and the step
    number alone, so every chain sees a mixture of exact kernels and nothing waits for the device.

    ``weights``: relative frequencies of the moves. ``delayed``: let the energy's ``surrogate(x)`` (if it has one)
    screen proposals before the energy itself is evaluated (delayed acceptance; same target, fewer evaluations).

    Invariant law: exp(−β E)/n! on valid connected molecules. Each move is reversible; their sequence is not. With a
    clamp (V, V) or (C, V, V): exp(−β E)/(n − m)! on those that agree with it, where the atoms of the first m slots (up
    to the last clamped one) are told apart and stay where they are; put the part to keep first.
    Cost: at most one energy evaluation a step. Source: Hastings 1970; Christen & Fox 2005 for the screening.
    """

    moves: tuple[FactoredNeighbourhood, ...]
    weights: tuple[float, ...] = ()
    delayed: bool = True
    exact: ClassVar[bool] = True
    _edges: tuple[float, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        weights = self.weights or (1.0,) * len(self.moves)
        if not self.moves or len(weights) != len(self.moves) or min(weights) < 0 or sum(weights) <= 0:
            raise SettingError(
                f"`weights` must be {len(self.moves)} non-negative numbers, one a move, with a positive sum; "
                f"got {weights}."
            )
        total, edges = 0.0, []
        for weight in weights:
            total += weight
            edges.append(total)
        object.__setattr__(self, "weights", tuple(weights))
        object.__setattr__(self, "_edges", tuple(edge / total for edge in edges))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the moves, in order."""
        return tuple(move.name for move in self.moves)

    def kind(self, seed: int, step: int) -> int:
        """Index of the move used at this step."""
        u = _uniform(seed, step)
        return next((index for index, edge in enumerate(self._edges) if u < edge), len(self.moves) - 1)

    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        with torch.no_grad():
            x = x0.clone()
            cache = {"surrogate": at_least_float32(energy.surrogate(x))} if self._screens(energy) else {}
            # a random place in the schedule of moves, so that short runs from init do not repeat its beginning
            step = torch.randint(2**40, (), generator=generator, device=generator.device).cpu()
            return ChainState(x, at_least_float32(evaluate_energy(energy, x)), cache, step)

    def _screens(self, energy: Any) -> bool:
        return self.delayed and callable(getattr(energy, "surrogate", None))

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
        move = self.moves[self.kind(generator.initial_seed(), int(state.step))]
        proposal = propose_edit(move, state.x, generator=generator, clamp=clamp)
        possible = proposal.possible
        inverse_t = beta_column(beta, state.energy)
        log_q_ratio = torch.where(possible, proposal.log_q_ratio, -torch.inf).to(state.energy.dtype)
        proposal = proposal._replace(possible=possible, log_q_ratio=log_q_ratio)
        cache = dict(state.cache)
        if "surrogate" in state.cache:
            surrogate = at_least_float32(energy.surrogate(proposal.y))
            promoted, first = screen(
                surrogate - state.cache["surrogate"], proposal, beta=inverse_t, generator=generator
            )
            energy_y, calls = self._evaluate(energy, proposal.y, promoted, state.energy)
            correction = (energy_y - state.energy) - (surrogate - state.cache["surrogate"])
            log_alpha = metropolis_log_alpha(correction, inverse_t, torch.zeros_like(correction))
        else:
            promoted, first = possible, torch.ones_like(state.energy)
            energy_y, calls = self._evaluate(energy, proposal.y, promoted, state.energy)
            log_alpha = metropolis_log_alpha(energy_y - state.energy, inverse_t, proposal.log_q_ratio)
        accepted, second = metropolis_hastings(log_alpha, generator=generator)
        accepted = accepted & promoted
        if "surrogate" in cache:
            cache["surrogate"] = torch.where(accepted, surrogate, cache["surrogate"])
        info = StepInfo(
            acceptance=torch.where(possible, first * torch.where(promoted, second, 0.0), 0.0),
            accepted=accepted,
            hamming=torch.where(accepted, (proposal.y != state.x).flatten(1).sum(-1), 0),
            energy_calls=calls,
            gradient_calls=0.0,
            # +∞ is a hard constraint at work, not a fault
            non_finite=(promoted & (energy_y.isnan() | (energy_y == -torch.inf))).sum(),
        )
        x = select(accepted, proposal.y, state.x)
        return ChainState(x, torch.where(accepted, energy_y, state.energy), cache, state.step + 1), info

    @staticmethod
    def _evaluate(energy: Any, y: Tensor, wanted: Tensor, fallback: Tensor) -> tuple[Tensor, float]:
        """Energies of the wanted rows (others keep ``fallback``) and evaluations per chain.

        On the CPU only the wanted rows are evaluated; elsewhere counting them would wait for the device.
        """
        if y.device.type != "cpu":
            return torch.where(wanted, at_least_float32(evaluate_energy(energy, y)), fallback), 1.0
        rows = wanted.nonzero()[:, 0]
        if len(rows) == 0:
            return fallback.clone(), 0.0
        return fallback.index_put((rows,), at_least_float32(evaluate_energy(energy, y[rows]))), len(rows) / len(y)
