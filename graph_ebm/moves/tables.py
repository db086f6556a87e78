"""What every molecular move needs to know of a state, as tensor operations over chains.

State x (C, V, V) int8: diagonal = atom type (0 = no atom), off-diagonal = bond order; atoms fill the slots 0..n−1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from graph_ebm.moves import _fast

__all__ = ["GraphTables", "add_atom", "permute", "remove_atom", "set_bond", "set_type"]


class GraphTables:
    """Lazily computed tables of states ``x`` under a valence table (K+1,) (index 0 = absent, valence 0)."""

    _recent: ClassVar[threading.local] = threading.local()  # each sampling thread keeps its own

    def __init__(self, x: Tensor, valence: Tensor) -> None:
        self.x = x
        self.valence = valence
        self.memo: dict[tuple[str, int, int], tuple[tuple[Tensor, Tensor], Any]] = {}

    @classmethod
    def of(cls, x: Tensor, valence: Tensor) -> GraphTables:
        """Tables of x, shared between the calls that one proposal makes with the same tensor.

        The tensor itself is held, so its identity cannot be reused, and its version is compared, so a change in place
        is noticed. Tensors of ``torch.inference_mode`` have no version: theirs are computed anew.
        """
        if x.is_inference():
            return cls(x, valence)
        recent: list[tuple[int, GraphTables]] = getattr(cls._recent, "tables", [])
        for version, tables in recent:
            if tables.x is x and x._version == version and tables.valence is valence:
                return tables
        tables = cls(x, valence)
        cls._recent.tables = [(x._version, tables), *recent[:2]]
        return tables

    def once(self, name: str, a: Tensor, b: Tensor, compute: Callable[[], Any]) -> Any:
        """``compute()``, done once for the same pair of index tensors."""
        key = (name, id(a), id(b))
        if key not in self.memo:
            self.memo[key] = ((a, b), compute())
        return self.memo[key][1]

    @cached_property
    def types(self) -> Tensor:
        """(C, V) int64 atom types."""
        return self.x.diagonal(dim1=1, dim2=2).long()

    @cached_property
    def bonds(self) -> Tensor:
        """(C, V, V) int8 bond orders with a zero diagonal."""
        bonds = self.x.clone()
        bonds.diagonal(dim1=1, dim2=2).zero_()
        return bonds

    @cached_property
    def _bond_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        adjacency = torch.empty(self.x.shape, dtype=torch.bool)
        degree, order_sum = torch.empty((2, *self.x.shape[:2]), dtype=torch.int64)
        _fast.bonds(self.x.numpy(), adjacency.numpy(), degree.numpy(), order_sum.numpy())
        return adjacency, degree, order_sum

    @cached_property
    def adjacency(self) -> Tensor:
        """(C, V, V) bool."""
        if self.compiled:
            return self._bond_tables[0]
        return self.bonds > 0

    @cached_property
    def present(self) -> Tensor:
        """(C, V) bool."""
        return self.types > 0

    @cached_property
    def n_atoms(self) -> Tensor:
        """(C,) int64."""
        return self.present.sum(-1)

    @cached_property
    def degree(self) -> Tensor:
        """(C, V) int64."""
        if self.compiled:
            return self._bond_tables[1]
        return self.adjacency.sum(-1)

    @cached_property
    def order_sum(self) -> Tensor:
        """(C, V) int64 sum of bond orders."""
        if self.compiled:
            return self._bond_tables[2]
        return self.bonds.sum(-1)

    @cached_property
    def free(self) -> Tensor:
        """(C, V) int64 valence left (0 for absent atoms)."""
        return self.valence[self.types].long() - self.order_sum

    @cached_property
    def upper(self) -> Tensor:
        """(V, V) bool, i < j."""
        v = self.x.shape[-1]
        return torch.ones(v, v, dtype=torch.bool, device=self.x.device).triu(1)

    @cached_property
    def potentials(self) -> Tensor:
        """(C, V, V) float32 inverse of Laplacian + 11ᵀ/n (identity on absent slots).

        Effective resistances follow: an edge is a bridge if and only if its resistance is 1, and for a bridge u–v the
        side of v has n·(G_uu − G_uv) atoms. One batched inverse replaces a depth-first search per chain.
        """
        real = self.present.float()
        laplacian = torch.diag_embed(self.degree.float() + (1 - real)) - self.adjacency.float()
        ones = real[:, :, None] * real[:, None, :] / self.n_atoms.clamp_min(1)[:, None, None]
        # symmetric positive definite; _ex variants do not check for errors, so nothing waits for the device
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(laplacian + ones, check_errors=False).L)

    @property
    def compiled(self) -> bool:
        """Whether the compiled searches serve this state."""
        return _fast.AVAILABLE and self.x.device.type == "cpu" and self.x.is_contiguous()

    @cached_property
    def _bridges_and_sides(self) -> tuple[Tensor, Tensor]:
        bridge = torch.empty(self.x.shape, dtype=torch.bool)
        size = torch.empty(self.x.shape, dtype=torch.int64)
        _fast.bridges(self.x.numpy(), bridge.numpy(), size.numpy())
        return bridge, size

    @cached_property
    def bridges(self) -> Tensor:
        """(C, V, V) bool: bonds whose removal disconnects the molecule."""
        if self.compiled:
            return self._bridges_and_sides[0]
        g = self.potentials
        diagonal = g.diagonal(dim1=1, dim2=2)
        resistance = diagonal[:, :, None] + diagonal[:, None, :] - 2 * g
        # in a ring of k ≤ V atoms the resistance is at most 1 − 1/k, so half of that gap separates the two cases
        return self.adjacency & (resistance > 1 - 0.5 / self.x.shape[-1])

    @cached_property
    def side_size(self) -> Tensor:
        """(C, V, V) int64: for a bridge u–v, number of atoms on v's side (meaningless elsewhere)."""
        if self.compiled:
            return self._bridges_and_sides[1]
        g = self.potentials
        size = (g.diagonal(dim1=1, dim2=2)[:, :, None] - g) * self.n_atoms[:, None, None]
        return size.round().long()

    @cached_property
    def distance(self) -> Tensor:
        """(C, V, V) int64 shortest path length up to 7; 8 = farther or not connected."""
        if self.compiled:
            distance = torch.empty(self.x.shape, dtype=torch.int64)
            _fast.distances(self.x.numpy(), 8, distance.numpy())
            return distance
        a = self.adjacency.float()
        reach = a
        distance = torch.full_like(self.x, 8, dtype=torch.long)
        distance.masked_fill_(self.adjacency, 1)
        for length in range(2, 8):
            reach = torch.bmm(reach, a).clamp_max(1)
            distance = torch.where((reach > 0) & (distance == 8), length, distance)
        distance.diagonal(dim1=1, dim2=2).zero_()
        return distance

    def side(self, keep: Tensor, moved: Tensor) -> Tensor:
        """(C, V) bool: atoms reachable from ``moved`` (C,) when the bond keep–moved is cut."""
        if self.compiled:
            reached = torch.empty(self.x.shape[:2], dtype=torch.bool)
            _fast.sides(self.x.numpy(), keep.numpy(), moved.numpy(), reached.numpy())
            return reached
        rows = torch.arange(self.x.shape[0], device=self.x.device)
        a = self.adjacency.clone()
        a[rows, keep, moved] = False
        a[rows, moved, keep] = False
        a_float = a.float()
        reach = torch.zeros_like(self.present, dtype=torch.float32)
        reach[rows, moved] = 1
        on_cpu = self.x.device.type == "cpu"
        for _ in range(self.x.shape[-1] - 1):
            wider = torch.maximum(reach, torch.bmm(reach[:, None, :], a_float)[:, 0].clamp_max(1))
            if on_cpu and torch.equal(wider, reach):  # early stop only where looking costs no device sync
                break
            reach = wider
        return reach > 0

    def neighbours(self, site: Tensor) -> tuple[Tensor, Tensor]:
        """First and last neighbour (C,) of the atoms ``site`` (C,); equal for a terminal atom."""
        rows = torch.arange(self.x.shape[0], device=self.x.device)
        row = self.adjacency[rows, site].to(torch.int8)
        first = row.argmax(-1)
        last = row.shape[-1] - 1 - row.flip(-1).argmax(-1)
        return first, last


def set_type(x: Tensor, atom: Tensor, new: Tensor) -> Tensor:
    """Copy of x with the type of one atom per chain changed."""
    y = x.clone()
    rows = torch.arange(x.shape[0], device=x.device)
    y[rows, atom, atom] = new.to(x.dtype)
    return y


def set_bond(x: Tensor, i: Tensor, j: Tensor, order: Tensor) -> Tensor:
    """Copy of x with one bond per chain set (i ≠ j)."""
    y = x.clone()
    rows = torch.arange(x.shape[0], device=x.device)
    y[rows, i, j] = order.to(x.dtype)
    y[rows, j, i] = order.to(x.dtype)
    return y


def permute(x: Tensor, order: Tensor) -> Tensor:
    """Relabel: slot s of the result is atom ``order[c, s]`` of x."""
    c, v, _ = x.shape
    rows = x.gather(1, order[:, :, None].expand(c, v, v))
    return rows.gather(2, order[:, None, :].expand(c, v, v))


def add_atom(x: Tensor, n_atoms: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Copy of x with a new unbonded atom, and its slot (clamped to the last one where there is no room)."""
    slot = n_atoms.clamp_max(x.shape[-1] - 1)
    return set_type(x, slot, kind), slot


def remove_atom(x: Tensor, n_atoms: Tensor, atom: Tensor) -> Tensor:
    """Copy of x without one atom: the last atom takes its slot, so that atoms stay compact."""
    c, v, _ = x.shape
    rows = torch.arange(c, device=x.device)
    last = (n_atoms - 1).clamp_min(0)
    order = torch.arange(v, device=x.device).repeat(c, 1)
    order[rows, atom] = last
    order[rows, last] = atom
    y = permute(x, order)
    y[rows, last, :] = 0
    y[rows, :, last] = 0
    return y
