"""Transition matrices of the shipped moves on the small chemical space, by listing every site, option and context."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from small_space import V, index_of, molecules

from graph_ebm.moves.rings import RepaintRing, RingPath
from graph_ebm.moves.tables import GraphTables

VALENCE = torch.tensor((0, 4, 3, 2))


def random_energy(seed: int = 0) -> np.ndarray:
    """An arbitrary energy of every molecule: a law with no structure that a wrong kernel could share."""
    return np.random.default_rng(seed).normal(size=len(molecules()[1])) * 1.5


def target(energy: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """exp(−β E)/|Aut|, normalised."""
    weight = np.exp(-beta * energy) / molecules()[2]
    return weight / weight.sum()


def _paths(x: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(row, atoms (P, size), probability) of every closed self-avoiding walk, from the adjacency alone."""
    rows, paths, chance = [], [], []
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
                paths.append([int(a) for a in path])
                chance.append(p)
    return torch.tensor(rows), torch.tensor(paths).reshape(-1, size), torch.tensor(chance, dtype=torch.float64)


def proposals(move) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every legal proposal of a move from every molecule: (from, to, probability, log reverse − log forward)."""
    x = molecules()[0]
    if isinstance(move, RepaintRing):
        row, atoms, chance = _paths(x, move.size)
        context = RingPath(atoms, torch.ones(len(row), dtype=torch.bool))
    else:
        row, chance, context = torch.arange(len(x)), torch.ones(len(x), dtype=torch.float64), None

    def of(c, index):
        return None if c is None else RingPath(c.atoms[index], c.closed[index])

    sites = move.site_weights(x[row], context)
    at, site = (sites > 0).nonzero(as_tuple=True)
    out = []
    for part in torch.arange(len(at)).split(20_000):
        a, s = at[part], site[part]
        options = move.option_weights(x[row[a]], s, of(context, a))
        pick, option = (options > 0).nonzero(as_tuple=True)
        a, s = a[pick], s[pick]
        start, c = x[row[a]], of(context, a)
        forward = move.log_prob(start, s, option, c)
        y = move.apply(start, s, option, c)
        back_site, back_option = move.reverse(start, s, option, y, c)
        backward = move.log_prob(y, back_site, back_option, c)
        extra = move.log_multiplicity(start, s, option, c)
        drawn = forward if extra is None else forward - extra  # the walk draws a (site, option), not a labelled graph
        probability = drawn.double().exp() * chance[a]
        out.append((row[a].numpy(), index_of(y), probability.numpy(), (backward - forward).double().numpy()))
        # the way back must lead back
        again = move.apply(y, back_site, back_option, c)
        legal = backward > -torch.inf
        assert (index_of(again[legal]) == row[a][legal].numpy()).all(), f"{move.name}: the reverse does not lead back"
    return tuple(np.concatenate(parts) for parts in zip(*out, strict=True))


def matrix(move, energy: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """Transition matrix (M, M) over molecules of Metropolis–Hastings with one move."""
    start, end, probability, log_ratio = proposals(move)
    accept = np.exp(np.minimum(0.0, -beta * (energy[end] - energy[start]) + log_ratio))
    p = np.zeros((len(energy), len(energy)))
    np.add.at(p, (start, end), probability * accept)
    p[np.diag_indices_from(p)] += 1.0 - p.sum(1)
    return p


def valid(x: torch.Tensor) -> bool:
    """Connected, valence-correct, compact and symmetric."""
    t = GraphTables(x, VALENCE)
    return bool((t.free >= 0).all()) and bool(torch.equal(x, x.transpose(1, 2)))
