"""Transition matrices of the shipped moves on the small chemical space, by listing every site, option and context."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from discrete_ebm.samplers.factored import FactoredNeighbourhood
from graph_ebm.moves import MolecularKernel, MoveSettings, build_kernel, mine_fragments, mine_ring_patterns
from graph_ebm.moves.rings import RepaintRing, RingPath
from tests.graph_ebm.small_space import Clamped, V, index_of, molecules, relabelled

VALENCE = torch.tensor((0, 4, 3, 2))


class Proposals(NamedTuple):
    """Every legal proposal of a move from every molecule: rows, drawn ``chance``, log q reverse − log q forward."""

    start: np.ndarray
    end: np.ndarray
    chance: np.ndarray
    log_ratio: np.ndarray


@lru_cache(maxsize=2)
def settings(fragments: int = 40) -> MoveSettings:
    """Fragments and ring patterns mined from the small space itself; few of them, so that every move can be listed."""
    x = molecules()[0]
    patterns = {}
    for size, most in ((3, 60), (4, 40)):
        for prefix, with_types in (("repaint", False), ("repaint-types", True)):
            mined = mine_ring_patterns(x, VALENCE, size, with_types=with_types, most=most)
            assert mined is not None
            patterns[f"{prefix}-{size}"] = mined
    weight = torch.tensor([0.0, 0.5, 0.3, 0.2])
    return MoveSettings(VALENCE, weight, mine_fragments(x, VALENCE, most=fragments), patterns)


def kernel(**options: object) -> MolecularKernel:
    """The kernel over all moves with those settings."""
    return build_kernel(settings(), **options)


def random_energy(seed: int = 0) -> np.ndarray:
    """An arbitrary energy of every molecule: a law with no structure that a wrong kernel could share."""
    return np.random.default_rng(seed).normal(size=len(molecules()[1])) * 1.5


def target(energy: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """exp(−β E)/|Aut|, normalised."""
    weight = np.exp(-beta * (energy - energy.min())) / molecules()[2]
    return weight / weight.sum()


def paths(x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(row, atoms (P, size), probability) of every closed self-avoiding walk, from the adjacency alone."""
    rows, found, chance = [], [], []
    bonded = (x.numpy() > 0) & ~np.eye(V, dtype=bool)
    present = x.numpy().diagonal(axis1=1, axis2=2) > 0
    for row in range(len(x)):
        for path in itertools.permutations(np.flatnonzero(present[row]), size):
            if not bonded[row, path[-1], path[0]]:
                continue
            p = 1.0 / present[row].sum()
            for step in range(1, size):
                free = [a for a in np.flatnonzero(bonded[row, path[step - 1]]) if a not in path[:step]]
                p = p / len(free) if path[step] in free else 0.0
                if p == 0.0:
                    break
            if p > 0:
                rows.append(row)
                found.append([int(a) for a in path])
                chance.append(p)
    closed = torch.tensor(found, dtype=torch.long).reshape(-1, size)
    return torch.tensor(rows, dtype=torch.long), closed, torch.tensor(chance, dtype=torch.float64)


def _share(weights: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """log probability of one index a row of a weight table."""
    weights = weights.double()
    return (weights.gather(1, index[:, None])[:, 0] / weights.sum(1)).log()


def _allowed(move: FactoredNeighbourhood, x: torch.Tensor, site: torch.Tensor, option: torch.Tensor,
             y: torch.Tensor, world: Clamped) -> torch.Tensor:
    """(P,) whether the shipped kernel lets a proposal pass the clamp."""
    touched = ((y != x) & world.clamp).flatten(1).any(-1)
    displaced = move.displaced(x, site, option)
    return ~touched if displaced is None else ~touched & ~displaced[:, : world.kept].any(-1)


def proposals(
    move: FactoredNeighbourhood, x: torch.Tensor | None = None, world: Clamped | None = None
) -> Proposals:
    """List a move from the states ``x`` (default: one of every molecule), the way the shipped step would draw it.

    With a ``world``, what its clamp forbids is left out, and rows are those of the world.

    Raises:
        AssertionError: an outcome is no valid molecule, or its way back is illegal or does not lead back.
    """
    number = index_of if world is None else world.index_of
    if x is None:
        x = molecules()[0] if world is None else world.x
    if isinstance(move, RepaintRing):
        row, atoms, chance = paths(x, move.size)
        context = RingPath(atoms, torch.ones(len(row), dtype=torch.bool))
    else:
        row, chance, context = torch.arange(len(x)), torch.ones(len(x), dtype=torch.float64), None
    home = number(x)

    def of(index: torch.Tensor) -> RingPath | None:
        return None if context is None else RingPath(context.atoms[index], context.closed[index])

    sites = move.site_weights(x[row], context)
    at, site = (sites > 0).nonzero(as_tuple=True)
    log_site = _share(sites[at], site)
    out = []
    for part in torch.arange(len(at)).split(20_000):
        a, s = at[part], site[part]
        options = move.option_weights(x[row[a]], s, of(a))
        pick, option = (options > 0).nonzero(as_tuple=True)
        drawn = log_site[part][pick] + _share(options[pick], option)
        a, s = a[pick], s[pick]
        start, c = x[row[a]], of(a)
        extra = move.log_multiplicity(start, s, option, c)
        forward = drawn if extra is None else drawn + extra
        y = move.apply(start, s, option, c)
        if world is not None:
            passed = _allowed(move, start, s, option, y, world).nonzero()[:, 0]
            a, s, option, start, y, c = a[passed], s[passed], option[passed], start[passed], y[passed], of(a[passed])
            drawn, forward = drawn[passed], forward[passed]
        end = number(y)
        back_site, back_option = move.reverse(start, s, option, y, c)
        backward = move.log_prob(y, back_site, back_option, c).double()
        assert bool(backward.isfinite().all()), f"{move.name}: the reverse is illegal"
        again = number(move.apply(y, back_site, back_option, c))
        assert (again == home[row[a]]).all(), f"{move.name}: the reverse does not lead back"
        # the walk draws a (site, option), of the probability `drawn`; multiplicities enter the ratio alone
        chances = drawn.exp() * chance[a]
        out.append((home[row[a]], end, chances.numpy(), (backward - forward).numpy()))
    return Proposals(*(np.concatenate(parts) for parts in zip(*out, strict=True)))


def matrix(
    drawn: Proposals, energy: np.ndarray, beta: float = 1.0, surrogate: np.ndarray | None = None
) -> np.ndarray:
    """Transition matrix (M, M) over molecules of Metropolis–Hastings with one move, in two stages with a surrogate."""
    change = energy[drawn.end] - energy[drawn.start]
    if surrogate is None:
        accept = np.exp(np.minimum(0.0, -beta * change + drawn.log_ratio))
    else:
        first = surrogate[drawn.end] - surrogate[drawn.start]
        accept = np.exp(np.minimum(0.0, -beta * first + drawn.log_ratio) + np.minimum(0.0, -beta * (change - first)))
    p = np.zeros((len(energy), len(energy)))
    np.add.at(p, (drawn.start, drawn.end), drawn.chance * accept)
    p[np.diag_indices_from(p)] += 1.0 - p.sum(1)
    return p


def drawn_mass(drawn: Proposals) -> np.ndarray:
    """(M,) total probability of the legal proposals of each molecule."""
    return np.bincount(drawn.start, drawn.chance, minlength=len(molecules()[1]))


def imbalance(p: np.ndarray, law: np.ndarray) -> float:
    """Largest |π(x) P(x, y) − π(y) P(y, x)|."""
    flow = law[:, None] * p
    return float(np.abs(flow - flow.T).max())


class TableEnergy:
    """An energy given as a table over molecules, with a surrogate that is another table."""

    def __init__(self, table: np.ndarray, surrogate: np.ndarray | None = None) -> None:
        self.table = torch.tensor(table)
        self.calls = 0
        if surrogate is not None:
            other = torch.tensor(surrogate)
            self.surrogate = lambda x: other[torch.tensor(index_of(x))]

    def state_energy(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += len(x)
        return self.table[torch.tensor(index_of(x))]


def noisy(energy: np.ndarray, seed: int = 5) -> np.ndarray:
    """A poor surrogate: the energy and as much noise again."""
    return 0.7 * energy + np.random.default_rng(seed).normal(size=len(energy))


def walk(
    k: MolecularKernel, energy: TableEnergy, start: np.ndarray, n_steps: int, seed: int,
    beta: float | torch.Tensor = 1.0,
) -> tuple[np.ndarray, list[int]]:
    """Where chains from rows ``start`` (C,), atoms in random orders, are after ``n_steps``; and the moves used."""
    generator = torch.Generator().manual_seed(seed)
    x = relabelled(molecules()[0][torch.tensor(start)], generator)
    state = k.init(energy, x, generator=generator)
    kinds = []
    for _ in range(n_steps):
        kinds.append(k.kind(generator.initial_seed(), int(state.step)))
        state, _ = k.step(energy, state, generator=generator, beta=beta)
        assert torch.equal(state.energy, energy.table[torch.tensor(index_of(state.x))]), "the energy is stale"
    return index_of(state.x), kinds
