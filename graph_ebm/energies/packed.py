"""Integer molecules without their padding: the real atoms in one list, neighbours per bond order.

Message passing over packed atoms does no work for empty slots, absent bonds and the few bond orders an atom lacks; a
QM9 state has 9 of them real, a ZINC state about 23 of 38 slots and 25 of 703 pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _fast
from .cycles import node_cycle_counts

__all__ = ["PackedMolecules", "neighbour_sum", "pack", "pack_torch", "segment_sum"]


class OrderList(NamedTuple):
    """Neighbours over bonds of one order: ``rows`` (R,) atoms, ``pointer`` (R + 1,) and ``cols`` CSR, where the
    columns are positions in ``rows``, so that the matrix is square and symmetric."""

    rows: Tensor
    pointer: Tensor
    cols: Tensor


class PackedMolecules(NamedTuple):
    """C molecules with M atoms in all.

    ``pointer`` (C + 1,): molecule c owns atoms pointer[c]:pointer[c + 1]. ``codes`` (M, 9): type 1..K, sum of bond
    orders, degree, then the clipped numbers of rings of 3..8 atoms through the atom (0 without rings). ``orders``:
    neighbour lists for bond orders 1, 2, 3; the first lists every atom as a row.
    """

    pointer: Tensor
    codes: Tensor
    orders: tuple[OrderList, OrderList, OrderList]


def pack(x: Tensor, ring_buckets: int, rings: bool = True) -> PackedMolecules:
    """Pack states (C, V, V) int8. ``ring_buckets``: ring numbers are clipped to ring_buckets − 1."""
    if not (_fast.AVAILABLE and x.device.type == "cpu"):
        return pack_torch(x, ring_buckets, rings)
    n_mol, n_max = x.shape[0], x.shape[1]
    state = x.detach().contiguous()
    entries = int(state.count_nonzero())  # atoms + bonds from both ends: bounds every list below
    ring_cap = max(64, 4 * n_max) if rings else 0
    pointer = torch.empty(n_mol + 1, dtype=torch.int64)
    codes = torch.empty(entries, 9, dtype=torch.int64)
    rows, cols = torch.empty(3, entries, dtype=torch.int64), torch.empty(3, entries, dtype=torch.int64)
    row_pointer, sizes = torch.empty(3, entries + 1, dtype=torch.int64), torch.empty(3, 2, dtype=torch.int64)
    buffers = [part.numpy() for part in (pointer, codes, rows, row_pointer, cols, sizes)]
    while _fast.pack(state.numpy(), ring_cap, ring_buckets, *buffers) != 0:
        ring_cap *= 4
    used = sizes.tolist()
    lists = [OrderList(rows[r, :m], row_pointer[r, : m + 1], cols[r, :e]) for r, (m, e) in enumerate(used)]
    return PackedMolecules(pointer, codes[: used[0][0]], (lists[0], lists[1], lists[2]))


def pack_torch(x: Tensor, ring_buckets: int, rings: bool = True) -> PackedMolecules:
    """The same as :func:`pack` by tensor operations on any device; sizes are data dependent."""
    n_mol, n_max = x.shape[0], x.shape[1]
    types = x.diagonal(dim1=1, dim2=2).long()
    orders = x.long() - torch.diag_embed(types)
    present = types > 0
    pointer = torch.zeros(n_mol + 1, dtype=torch.int64, device=x.device)
    pointer[1:] = present.sum(1).cumsum(0)
    number = present.reshape(-1).cumsum(0).view(n_mol, n_max) - 1  # packed position of each slot
    columns = [types[present], orders.sum(-1)[present], (orders > 0).sum(-1)[present]]
    if rings:
        columns += list(node_cycle_counts(x)[present].clamp(max=ring_buckets - 1).T)
    else:
        columns += [torch.zeros_like(columns[0])] * 6
    lists = []
    for order in (1, 2, 3):
        c, i, j = (orders == order).nonzero(as_tuple=True)
        source, target = number[c, i], number[c, j]
        degree = torch.bincount(source, minlength=len(columns[0]))
        rows = torch.arange(len(degree), device=x.device) if order == 1 else degree.nonzero().flatten()
        place = torch.zeros_like(degree).index_put_((rows,), torch.arange(len(rows), device=x.device))
        ends = torch.zeros(len(rows) + 1, dtype=torch.int64, device=x.device)
        ends[1:] = degree[rows].cumsum(0)
        lists.append(OrderList(rows, ends, place[target]))
    return PackedMolecules(pointer, torch.stack(columns, 1), (lists[0], lists[1], lists[2]))


def _bag(h: Tensor, pointer: Tensor, cols: Tensor) -> Tensor:
    # the fastest gather-and-sum torch has; its own backward is not, hence the Functions below
    return F.embedding_bag(cols, h, pointer, mode="sum", include_last_offset=True)


class _NeighbourSum(torch.autograd.Function):
    """A h for a symmetric 0/1 matrix A in CSR form; its gradient is A again."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, pointer: Tensor, cols: Tensor) -> Tensor:
        ctx.save_for_backward(pointer, cols)
        return _bag(h, pointer, cols)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _NeighbourSum.apply(grads[0], *ctx.saved_tensors), None, None


def neighbour_sum(h: Tensor, neighbours: OrderList) -> Tensor:
    """(R, H): sum of the neighbours' rows of ``h`` (R, H), both in the order of ``neighbours.rows``."""
    return _NeighbourSum.apply(h, neighbours.pointer, neighbours.cols)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, pointer: Tensor) -> Tensor:
        ctx.save_for_backward(pointer)
        return _bag(h, pointer, torch.arange(len(h), device=h.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (pointer,) = ctx.saved_tensors
        return grads[0].repeat_interleave(pointer.diff(), 0), None


def segment_sum(h: Tensor, pointer: Tensor) -> Tensor:
    """(C, H): sum of each molecule's rows of ``h`` (M, H)."""
    return _SegmentSum.apply(h, pointer)
