"""What a fused kernel needs to know of an energy, as NumPy arrays, kept while the parameters hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.potts import Potts

__all__ = ["Lattice", "Plan", "plan_of"]

LARGEST = 1e30  # sums of parameters beyond this may overflow in float32: the reference then watches each energy


@dataclass(frozen=True)
class Lattice:
    """A chessboard of one coupling and one field; ``rings``: rows, columns closed."""

    height: int
    width: int
    rings: tuple[bool, bool]
    coupling: float
    field: float
    n_bonds: int


@dataclass
class Plan:
    """Parameters of an Ising or Potts energy. ``reason``: why no fused kernel takes it, or None.

    Sparse: ``indptr`` (N + 1) int64, ``indices`` (2E) int32, ``weights`` (2E). Dense: ``matrix`` (N, N), symmetric
    with zero diagonal. ``field`` (N,) or (N, K). ``orders``: visiting orders by name, (N,) int32.
    """

    kind: str
    coupling: Tensor
    field: Any
    stamp: tuple[int, int]
    snapshot: tuple[Tensor, ...]
    reason: str | None = None
    lattice: Lattice | None = None
    indptr: Any = None
    indices: Any = None
    weights: Any = None
    matrix: Any = None
    orders: dict[str, Any] = field(default_factory=dict)

    def order(self, n_sites: int, blocks: Callable[[], list[Tensor]] | None) -> Any:
        """(N,) int32: sites in the order of a sweep; ``blocks`` None = as they are numbered."""
        name = "raster" if blocks is None else "blocks"
        if name not in self.orders:
            sites = torch.arange(n_sites) if blocks is None else torch.cat(blocks())
            self.orders[name] = sites.to("cpu", torch.int32).numpy()
        return self.orders[name]


_PLANS: WeakKeyDictionary[Any, Plan] = WeakKeyDictionary()


def plan_of(energy: Any) -> Plan:
    """The plan of an Ising or Potts energy on the CPU; made anew when a parameter holds other numbers.

    Parameters are compared by value: ``.data`` can be written to without a trace. That is a small share of a sweep.
    """
    plan = _PLANS.get(energy)
    edges = energy.edge_index
    stamp = (0, 0) if edges is None or edges.is_inference() else (edges.data_ptr(), edges._version)
    fresh = plan is not None and plan.stamp == stamp and (edges is None or not edges.is_inference())
    now = (energy.coupling.detach(), energy.field.detach())
    if plan is not None and fresh and all(map(_same, plan.snapshot, now)):
        return plan
    made = _make(energy, stamp, *now)
    if plan is not None and fresh and edges is not None:  # the graph is the same
        made.orders = plan.orders
    _PLANS[energy] = made
    return made


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)  # torch.equal is true across dtypes


def _make(energy: Any, stamp: tuple[int, int], coupling: Tensor, field: Tensor) -> Plan:
    kind = "potts" if isinstance(energy, Potts) else "ising"
    plan = Plan(kind, coupling, None, stamp, (coupling.clone(), field.clone()))
    if coupling.dtype not in (torch.float32, torch.float64):
        plan.reason = f"parameters are {coupling.dtype}, not float32 or float64"
        return plan
    bound = float(coupling.abs().sum(dtype=torch.float64) + field.abs().sum(dtype=torch.float64))
    if not bound <= LARGEST:
        plan.reason = "parameters are not finite, or so large that energies may overflow"
        return plan
    plan.field = field.to(coupling.dtype).contiguous().numpy().copy()
    if energy.edge_index is None:
        matrix = ((coupling + coupling.t()) / 2).fill_diagonal_(0).contiguous()
        if kind == "ising":
            plan.matrix = matrix.numpy()
            return plan
        edges = torch.triu(matrix, diagonal=1).nonzero().t()
        plan.indptr, plan.indices, plan.weights = _rows(energy.space.n_sites, edges, matrix[edges[0], edges[1]])
        return plan
    plan.indptr, plan.indices, plan.weights = _rows(energy.space.n_sites, energy.edge_index, coupling)
    if type(energy) is Ising:
        plan.lattice = _lattice(energy, coupling, field)
    return plan


def _rows(n_sites: int, edges: Tensor, weight: Tensor) -> tuple[Any, Any, Any]:
    """Compressed rows of the symmetric coupling matrix."""
    ends, others = torch.cat([edges[0], edges[1]]), torch.cat([edges[1], edges[0]])
    order = torch.argsort(ends, stable=True)
    degree = torch.bincount(ends, minlength=n_sites)
    indptr = np.zeros(n_sites + 1, np.int64)
    np.cumsum(degree.numpy(), out=indptr[1:])
    return indptr, others[order].to(torch.int32).numpy(), torch.cat([weight, weight])[order].numpy()


def _lattice(energy: Ising, coupling: Tensor, field: Tensor) -> Lattice | None:
    """The chessboard that the energy is, or None: another dimension, an odd ring, couplings or fields that differ."""
    if energy._lattice is None or len(energy._lattice[0]) > 2:
        return None
    shape, periodic = energy._lattice
    height, width = (1, *shape)[-2:]
    rings = tuple(periodic and side > 2 for side in (height, width))  # a side of 2 has one bond, closed or not
    if any(ring and side % 2 for ring, side in zip(rings, (height, width), strict=True)) or not len(coupling):
        return None
    if not bool((coupling == coupling[0]).all() & (field == field[0]).all()):
        return None
    return Lattice(height, width, (rings[0], rings[1]), float(coupling[0]), float(field[0]), len(coupling))
