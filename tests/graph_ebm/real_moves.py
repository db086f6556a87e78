"""Balance of moves between real molecules and single neighbours of theirs; |Aut| and isomorphism from NetworkX."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch

from discrete_ebm.samplers.factored import FactoredNeighbourhood
from graph_ebm.datasets import load
from graph_ebm.graphs import to_smiles
from graph_ebm.moves import build_kernel, mine_moves


def automorphisms(x: torch.Tensor) -> int:
    g = graph(x)
    same = nx.algorithms.isomorphism.GraphMatcher(g, g, lambda a, b: a == b, lambda a, b: a == b)
    return sum(1 for _ in same.isomorphisms_iter())


def graph(x: torch.Tensor) -> nx.Graph:
    n = int((x.diagonal() > 0).sum())
    g = nx.Graph()
    g.add_nodes_from((i, {"type": int(x[i, i])}) for i in range(n))
    g.add_edges_from((i, j, {"order": int(x[i, j])}) for i in range(n) for j in range(i) if x[i, j])
    return g


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return nx.is_isomorphic(graph(a), graph(b), lambda p, q: p == q, lambda p, q: p == q)


def all_from(move: FactoredNeighbourhood, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(y, site, option, log drawn, log forward) of every proposal from one molecule (V, V), without a context."""
    sites = move.site_weights(x[None])[0]
    site = sites.nonzero()[:, 0]
    options = move.option_weights(x.expand(len(site), *x.shape), site)
    pick, option = (options > 0).nonzero(as_tuple=True)
    drawn = (sites[site[pick]] / sites.sum()).log() + (options[pick, option] / options[pick].sum(1)).log()
    site = site[pick]
    many = x.expand(len(site), *x.shape)
    extra = move.log_multiplicity(many, site, option)
    return move.apply(many, site, option), site, option, drawn, drawn if extra is None else drawn + extra


def fingerprint(x: torch.Tensor) -> torch.Tensor:
    """(B,) a number equal for relabelled states: it only preselects pairs for the exact isomorphism check."""
    y = x.double()
    types = y.diagonal(dim1=1, dim2=2)
    bonds = y - torch.diag_embed(types)
    label = torch.where(types > 0, torch.sin(types * 12.9898), 0.0)
    for _ in range(6):
        passed = ((bonds**1.3) * torch.cos(label)[:, None, :]).sum(-1)
        label = torch.where(types > 0, torch.sin(label * 3.7 + passed), 0.0)
    return label.sum(-1)


def flow(move: FactoredNeighbourhood, x: torch.Tensor, y: torch.Tensor) -> float:
    """Σ over the proposals from x that lead to y of q · min(1, ratio), at a constant energy."""
    end, site, option, drawn, forward = all_from(move, x)
    near = ((fingerprint(end) - fingerprint(y[None])).abs() < 1e-6).nonzero()[:, 0]
    near = torch.tensor([r for r in near.tolist() if same(end[r], y)], dtype=torch.long)
    many = x.expand(len(near), *x.shape)
    back_site, back_option = move.reverse(many, site[near], option[near], end[near])
    backward = move.log_prob(end[near], back_site, back_option)
    assert bool(backward.isfinite().all()), f"{move.name}: the reverse is illegal"
    return float((drawn[near].double() + (backward - forward[near]).double().clamp(max=0)).exp().sum())


def check_pairs(name: str, count: int, seed: int, only: str = "") -> int:
    """Balance between real molecules and random neighbours of theirs, |Aut| and isomorphism from NetworkX."""
    data = load(name, 400)
    valence = data.vocabulary.valence_table(torch.device("cpu")).long()
    moves = build_kernel(mine_moves(data.x, valence, fragments=40)).moves
    rng, checked = np.random.default_rng(seed), 0
    for move in moves:
        if move.name.startswith("repaint") or not move.name.startswith(only):
            continue
        done = 0
        for row in rng.permutation(len(data)):
            x = data.x[row]
            ends = all_from(move, x)[0]
            if not len(ends):
                continue
            y = ends[int(rng.integers(len(ends)))]
            there, back = flow(move, x, y), flow(move, y, x)
            ratio = (there / automorphisms(x)) / (back / automorphisms(y))
            smiles = to_smiles(torch.stack([x, y]), data.vocabulary)
            assert abs(ratio - 1) < 1e-5, f"{move.name}: {smiles} flows differ by a factor {ratio}"
            done += 1
            if done == count:
                break
        checked += done
    return checked
