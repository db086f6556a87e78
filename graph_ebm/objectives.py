"""Objectives for molecular energies E = local + network: contrast with a cheap law first, then persistent chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from discrete_ebm.chains import StepTotals, raise_if_not_finite
from discrete_ebm.errors import CheckpointError, SettingError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.samplers.base import ChainState
from graph_ebm.advance import advance_chains
from graph_ebm.moves.kernel import MolecularKernel

__all__ = ["MolecularPCD", "MoleculeBank", "ResidualContrast", "best_constant", "starting_chains"]


class MoleculeBank(ObjectiveState):
    """Persistent chains ``state`` (a ChainState), and what each kind of move did: ``tried`` / ``accepted`` by move."""

    def __init__(self, state: ChainState, kernel: MolecularKernel) -> None:
        self.state = state
        self.tried = dict.fromkeys(kernel.names, 0)
        self.accepted = dict.fromkeys(kernel.names, 0.0)
        self.updates = 0

    @property
    def chains(self) -> Tensor:
        return self.state.x

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the chains go on; their energies are evaluated anew at each update."""
        return {
            "x": self.state.x,
            "step": self.state.step,
            "updates": self.updates,
            "tried": dict(self.tried),
            "accepted": dict(self.accepted),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["x"].shape != self.state.x.shape or set(state["tried"]) != set(self.tried):
            raise CheckpointError(
                f"`state` must have chains {tuple(self.state.x.shape)} and this kernel's moves; got "
                f"{tuple(state['x'].shape)} and {', '.join(state['tried'])}. Use the settings that it was saved with."
            )
        self.state = self.state._replace(x=state["x"].clone(), step=state["step"].to("cpu", copy=True))
        self.updates = int(state["updates"])
        self.tried, self.accepted = dict(state["tried"]), dict(state["accepted"])

    def acceptance(self) -> dict[str, float]:
        """Share of proposals accepted, by move, since the start."""
        return {name: float(self.accepted[name]) / max(1, tried) for name, tried in self.tried.items()}

    def advance(
        self,
        kernel: MolecularKernel,
        energy: Any,
        n_steps: int,
        *,
        generator: torch.Generator,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Move the chains (or ``rows`` of them) ``n_steps`` steps under the present energy; mean acceptance ()."""
        x = self.state.x if rows is None else self.state.x[rows]
        with torch.no_grad():
            state = kernel.init(energy, x, generator=generator)._replace(step=self.state.step)  # old energies are stale
            raise_if_not_finite(energy, state, StepTotals.zero(state.energy), "at the start of its steps")
            done = advance_chains(kernel, energy, state, n_steps, generator=generator)
        state = done.state
        for name in self.tried:
            self.tried[name] += done.tried[name]
            self.accepted[name] += done.accepted[name]
        moved = state.x if rows is None else self.state.x.index_put((rows,), state.x)
        self.state = state._replace(x=moved)
        share = sum(done.accepted.values()) / max(1, sum(done.tried.values()))
        return torch.tensor(share, device=x.device)


def starting_chains(
    x: Tensor, n: int, kernel: MolecularKernel, energy: Any, *, generator: torch.Generator, fresh: Tensor | None = None
) -> ChainState:
    """n chains: at the states ``fresh`` (F, V, V) first, the others at random rows of x (with replacement only where
    there are too few)."""
    start = x[:0] if fresh is None else fresh[:n]
    left = n - len(start)
    if left <= len(x):
        rows = torch.randperm(len(x), generator=generator, device=x.device)[:left]
    else:
        rows = torch.randint(len(x), (left,), generator=generator, device=x.device)
    return kernel.init(energy, torch.cat([start, x[rows]]), generator=generator)


@dataclass(frozen=True)
class MolecularPCD(Objective):
    """Persistent contrastive divergence with the molecular kernel.

    The chains are never restarted: their age grows with training, so the law is learned far beyond any fixed horizon (a
    bank with restarts learns the law of chains of one age only).

    ``n_steps`` kernel steps an update; ``n_chains`` the bank; ``batch`` of its chains move and enter the loss at each
    update; ``penalty`` on the variance of the energies, 1/nats; ``ramp``: begin with one step an update and add one
    every ``ramp`` updates, so that an untrained energy cannot lead the chains far from the data (0 = no ramp).
    Source: Tieleman 2008.
    """

    kernel: MolecularKernel
    n_steps: int = 20
    n_chains: int = 1024
    batch: int = 512
    penalty: float = 0.0
    ramp: int = 0
    bank: MoleculeBank | None = None

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> MoleculeBank:
        if self.bank is not None:
            return self.bank
        return MoleculeBank(starting_chains(data, self.n_chains, self.kernel, energy, generator=generator), self.kernel)

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        state = _bank(state)
        rows = None
        if self.batch < len(state.chains):
            rows = torch.randperm(len(state.chains), generator=generator, device=batch.device)[: self.batch]
        n_steps = min(self.n_steps, 1 + state.updates // self.ramp) if self.ramp else self.n_steps
        state.updates += 1
        acceptance = state.advance(self.kernel, energy, n_steps, generator=generator, rows=rows)
        negatives = state.chains if rows is None else state.chains[rows]
        values = energy.state_energy(torch.cat([batch, negatives]))
        positive, negative = values[: len(batch)], values[len(batch) :]
        gap = negative.mean() - positive.mean()
        loss = -gap
        if self.penalty:
            centre = state.average(values.detach().mean())
            loss = loss + self.penalty * (values - centre).square().mean()
        n_atoms = (negatives.diagonal(dim1=1, dim2=2) > 0).sum(1).float().mean()
        terms = {
            "gap": gap.detach(),
            "positive_energy": positive.mean().detach(),
            "acceptance": acceptance,
            "mean_atoms": n_atoms,
            "energy_sd": values.detach().std(),
        }
        return ObjectiveOutput(loss, terms, negatives)


def _bank(state: ObjectiveState) -> MoleculeBank:
    if not isinstance(state, MoleculeBank):
        raise SettingError(f"`state` must be what the objective's init returned; got {type(state).__name__}.")
    return state


def best_constant(data: Tensor, noise: Tensor, average: Callable[[Tensor], Tensor] = lambda values: values) -> Tensor:
    """The c () that minimises mean softplus(data + c) + mean softplus(−noise − c): Newton on a convex function.

    ``average``: of the means over the processes that train together.
    """
    c = average(-(data.mean() + noise.mean()) / 2)
    for _ in range(8):
        p, q = torch.sigmoid(data + c), torch.sigmoid(-noise - c)
        slope = p.mean() - q.mean()
        curvature = (p * (1 - p)).mean() + (q * (1 - q)).mean()
        slope, curvature = average(torch.stack([slope, curvature])).unbind()
        c = c - (slope / curvature.clamp_min(1e-3)).clamp(-2, 2)
    return c


@dataclass(frozen=True)
class ResidualContrast(Objective):
    r"""Train the network alone, without running chains on it: tell data from draws of the local law.

    Two logistic losses. (1) Noise contrast with long chains of the local law π_s: data against noise, log-odds
    −N(x) − c, whose optimum is N = −log(p/π_s), the network that the sum needs. (2) Conditional contrast: a molecule
    against where ``near_steps`` steps of the π_s-reversible kernel took it; for such a kernel the proposal ratio is
    π_s(y)/π_s(x), so the local terms cancel and the log-odds are N(y) − N(x): no normaliser and no ratio of path
    probabilities.

    Source: Gutmann & Hyvärinen 2010 (1); Ceylan & Gutmann 2018, arXiv:1806.03664 (2).
    """

    kernel: MolecularKernel
    n_steps: int = 10
    n_chains: int = 1024
    near_steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    near_weight: float = 0.5
    penalty: float = 0.0
    bank: MoleculeBank | None = None

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> MoleculeBank:
        if self.bank is not None:
            return self.bank
        chains = starting_chains(data, self.n_chains, self.kernel, energy.local, generator=generator)
        return MoleculeBank(chains, self.kernel)

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        state = _bank(state)
        rows = torch.randperm(len(state.chains), generator=generator, device=batch.device)[: len(batch)]
        state.advance(self.kernel, energy.local, self.n_steps, generator=generator, rows=rows)
        noise = state.chains[rows]
        pick = int(torch.randint(len(self.near_steps), (), generator=generator, device=generator.device))
        with torch.no_grad():
            near = self.kernel.init(energy.local, batch, generator=generator)
            for _ in range(self.near_steps[pick]):
                near, _ = self.kernel.step(energy.local, near, generator=generator)
        values = energy.network.state_energy(torch.cat([batch, noise, near.x]))
        data, far, close = values.split([len(batch), len(noise), len(batch)])
        c = best_constant(data.detach(), far.detach(), state.average)
        nce = softplus(data + c).mean() + softplus(-(far + c)).mean()
        moved = ((near.x != batch).flatten(1).any(1)).to(values.dtype)
        each = (softplus(data - close) * moved).sum()
        conditional = each / state.average(moved.sum()).clamp_min(1)
        loss = nce + self.near_weight * conditional
        if self.penalty:
            loss = loss + self.penalty * (values - state.average(values.detach().mean())).square().mean()
        terms = {
            "nce": nce.detach(),
            "conditional": conditional.detach(),
            "accuracy": ((data + c < 0).float().mean() + (far + c > 0).float().mean()) / 2,
        }
        return ObjectiveOutput(loss, terms, noise)
