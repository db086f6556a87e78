"""Problems on graphs whose best answers are the lowest energies of an Ising model: independent sets and cuts.

A problem holds an :class:`~discrete_ebm.energies.Ising` energy, so every sampler (compiled sweeps included) and
``de.anneal`` take it, and says what a state is worth in the problem's own terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.energies.ising import Ising
from discrete_ebm.errors import SettingError
from discrete_ebm.spaces import Binary, Spin

__all__ = ["IndependentSet", "MaxCut"]

DENSE_SHARE = 0.1  # of all pairs: from here informed kernels gain by a matrix (measured at N = 750)
DENSE_SITES = 4096


@dataclass(frozen=True, eq=False)
class IndependentSet:
    r"""E(x) = −Σ_i x_i + λ Σ_{ij ∈ edges} x_i x_j + const on bits: −(size) plus λ for each edge inside the set.

    For λ > 1 the lowest energies are the maximum independent sets: taking one end of each inner edge out never costs.

    Args:
        edges: (2, E) pairs of nodes, each once, or a networkx graph (nodes are numbered in its order).
        n_nodes: N; by default the graph's, or the largest number + 1.
        penalty: λ, above 1; near 1 lets chains pass through sets with an inner edge.
        dtype: of the couplings. float64 by default: the energies of ±1 spins are thousands on a dense graph, and
            float32 would not tell 1 from a λ of 1.0001 in their differences. Heat baths need only local fields, which
            float32 holds; their compiled sweeps are three times faster with it.
        dense: whether the couplings are a matrix; None = on dense graphs, where informed kernels gain (1.5× at
            density 0.15) and heat baths lose.
    Attributes:
        energy: the Ising model on Binary(N) that is −size + λ·(inner edges) − ``offset``.
    Source: Sun et al. 2023, "Revisiting sampling for combinatorial optimization", section 4 (λ = 1.0001).
    """

    edges: Any
    n_nodes: int | None = None
    penalty: float = 1.0001
    dtype: torch.dtype = torch.float64
    dense: bool | None = None
    energy: Ising = field(init=False)
    offset: float = field(init=False)

    def __post_init__(self) -> None:
        edges, n = _graph(self.edges, self.n_nodes)
        if not (self.penalty > 1 and math.isfinite(self.penalty)):
            raise SettingError(f"`penalty` must be above 1, or the best states need not be independent; got "
                               f"{self.penalty!r}. Try 1.0001.")
        degree = torch.bincount(edges.flatten(), minlength=n).double()
        linear = (0.5 - self.penalty * degree / 4).to(self.dtype)  # x = (1 + s) / 2
        coupling = torch.full((edges.shape[1],), -self.penalty / 4, dtype=self.dtype)
        _freeze(self, edges, n, _ising(edges, coupling, linear, Binary(n), self.dense))
        object.__setattr__(self, "offset", self.penalty * edges.shape[1] / 4 - n / 2)

    def value(self, x: Tensor) -> Tensor:
        """(C,) int64 number of nodes in the set, whether or not it is independent."""
        return x.flatten(1).long().sum(-1)

    def inner_edges(self, x: Tensor) -> Tensor:
        """(C,) int64 edges with both ends in the set; counted one by one, not taken from an energy."""
        flat = x.flatten(1).long()
        return (flat[:, self.edges[0]] * flat[:, self.edges[1]]).sum(-1)

    def is_feasible(self, x: Tensor) -> Tensor:
        """(C,) bool: no edge inside."""
        return self.inner_edges(x) == 0

    def energies(self, x: Tensor) -> Tensor:
        """(C,) float64 −size + λ·(inner edges)."""
        with torch.no_grad():
            return evaluate_energy(self.energy, x).double() + self.offset

    def repair(self, x: Tensor) -> Tensor:
        """States (C, N) made independent, then maximal: nodes with the most inner edges leave, free nodes join.

        Never smaller than size − inner edges; free nodes join in order of how few free neighbours they have.
        """
        x = x.clone().reshape(x.shape[0], -1)
        while True:
            conflicts = self._neighbours(x) * x
            worst, node = conflicts.max(-1)
            if not bool((worst > 0).any()):
                break
            x.scatter_(1, node[:, None], torch.where(worst > 0, 0, x.gather(1, node[:, None])[:, 0])[:, None].to(x))
        while True:
            free = (self._neighbours(x) == 0) & (x == 0)
            if not bool(free.any()):
                return x
            crowd = torch.where(free, self._neighbours(free), torch.iinfo(torch.int64).max)
            node = crowd.argmin(-1)
            joins = free.any(-1)
            x.scatter_(1, node[:, None], torch.where(joins, 1, x.gather(1, node[:, None])[:, 0])[:, None].to(x))

    def _neighbours(self, x: Tensor) -> Tensor:
        """(C, N) int64 neighbours of each node that are in the set."""
        i, j = self.edges
        flat = x.long()
        return torch.zeros_like(flat).index_add(1, i, flat[:, j]).index_add(1, j, flat[:, i])


@dataclass(frozen=True, eq=False)
class MaxCut:
    r"""E(s) = −Σ_{ij} w_ij [s_i ≠ s_j] + const on spins: minus the weight of the edges between the two sides.

    Args:
        edges: (2, E) pairs of nodes, each once, or a networkx graph.
        n_nodes: N; by default the graph's, or the largest number + 1.
        weights: w, a number or (E,).
        dtype, dense: as of :class:`IndependentSet`; float32 is exact for whole weights.
    Attributes:
        energy: the Ising model on Spin(N) that is −cut − ``offset``; J = −w/2.
    Source: Barahona et al. 1988, "An application of combinatorial optimization to statistical physics", eq. 2.
    """

    edges: Any
    n_nodes: int | None = None
    weights: Any = 1.0
    dtype: torch.dtype = torch.float32
    dense: bool | None = None
    energy: Ising = field(init=False)
    offset: float = field(init=False)

    def __post_init__(self) -> None:
        edges, n = _graph(self.edges, self.n_nodes)
        weights = torch.as_tensor(self.weights, dtype=torch.float64)
        if weights.dim() > 1 or (weights.dim() and len(weights) != edges.shape[1]):
            raise SettingError(f"`weights` must be a number or have shape ({edges.shape[1]},), one for each edge; got "
                               f"shape {tuple(weights.shape)}. Give them in the order of `edges`.")
        weights = weights.expand(edges.shape[1]).clone()
        object.__setattr__(self, "weights", weights)
        _freeze(self, edges, n, _ising(edges, (-weights / 2).to(self.dtype), torch.zeros(n, dtype=self.dtype),
                                       Spin(n), self.dense))
        object.__setattr__(self, "offset", -float(weights.sum()) / 2)

    def value(self, x: Tensor) -> Tensor:
        """(C,) float64 weight of the edges between the sides; counted one by one, not taken from an energy."""
        flat = x.flatten(1)
        return ((flat[:, self.edges[0]] != flat[:, self.edges[1]]).double() * self.weights).sum(-1)

    def is_feasible(self, x: Tensor) -> Tensor:
        """(C,) bool: every division is a cut, so spins suffice."""
        return (x.flatten(1).abs() == 1).all(-1)

    def energies(self, x: Tensor) -> Tensor:
        """(C,) float64 minus the cut."""
        with torch.no_grad():
            return evaluate_energy(self.energy, x).double() + self.offset

    def repair(self, x: Tensor) -> Tensor:
        """States (C, N) as they are: nothing is infeasible."""
        return x.reshape(x.shape[0], -1).clone()


def _graph(edges: Any, n_nodes: int | None) -> tuple[Tensor, int]:
    """(2, E) int64 edges and N, from an edge list or a networkx graph. Ising's own checks follow."""
    if isinstance(edges, nx.Graph):
        if edges.is_directed() or edges.is_multigraph():
            raise SettingError("`edges` must be an undirected simple graph; got "
                               f"{type(edges).__name__}. Use networkx.Graph(graph).")
        number = {node: i for i, node in enumerate(edges)}
        pairs = [(number[a], number[b]) for a, b in edges.edges]
        n_nodes = len(number) if n_nodes is None else n_nodes
        edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()
    pairs_tensor = torch.as_tensor(edges)
    if pairs_tensor.dim() != 2 or pairs_tensor.shape[0] != 2:
        raise SettingError(f"`edges` must be a graph or have shape (2, E); got {tuple(pairs_tensor.shape)}.")
    if n_nodes is None:
        n_nodes = int(pairs_tensor.max()) + 1 if pairs_tensor.numel() else 0
    if isinstance(n_nodes, bool) or not isinstance(n_nodes, int) or n_nodes < 1:
        raise SettingError(f"`n_nodes` must be a whole number of at least 1; got {n_nodes!r}.")
    if pairs_tensor.numel() and not 0 <= int(pairs_tensor.min()) <= int(pairs_tensor.max()) < n_nodes:
        raise SettingError(f"`edges` must name nodes 0 to {n_nodes - 1}; got {int(pairs_tensor.min())} to "
                           f"{int(pairs_tensor.max())}. Raise n_nodes or renumber.")
    return pairs_tensor.long().contiguous(), n_nodes


def _ising(edges: Tensor, coupling: Tensor, linear: Tensor, space: Any, dense: bool | None) -> Ising:
    """Dense where the graph is, else sparse; the law is the same. Loops and repeated edges are refused here."""
    sparse = Ising.sparse(edges, coupling, linear, space=space)
    n = space.n_sites
    if dense is None:
        dense = n <= DENSE_SITES and 2 * edges.shape[1] > DENSE_SHARE * n * (n - 1)
    if dense:
        return Ising(sparse.coupling_matrix().detach(), linear, space=space)
    return sparse


def _freeze(problem: Any, edges: Tensor, n_nodes: int, energy: Ising) -> None:
    """Set the fields of a frozen problem; its couplings are given, not learned."""
    object.__setattr__(problem, "edges", edges)
    object.__setattr__(problem, "n_nodes", n_nodes)
    object.__setattr__(problem, "energy", energy.requires_grad_(False))
