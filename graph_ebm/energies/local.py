"""The local energy: a table entry for every atom, bond, angle, ring and whole-molecule count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graph_ebm.space import GraphEncoding, MolecularSpace

from . import _fast
from .base import GraphEnergy, bond_orders, check_states, presence, relaxed_adjacency
from .cycles import relaxed_cycles
from .features import (
    CHARGED,
    COMPOSITION,
    CYCLOMATIC,
    DEGREES,
    DOUBLE,
    NET,
    RING_BUCKETS,
    SUMS,
    TRIPLE,
    CountLayout,
    count_indices,
    soft_one_hot,
)

__all__ = ["LocalEnergy", "local_sum"]

DONORS = frozenset({"N", "O", "S", "Se", "P"})


class LocalEnergy(GraphEnergy):
    r"""E(x) = Σ_f w_f · count_f(x): linear in the count features of ``features.CountLayout``.

    Starts at zero everywhere. ``state_energy`` is a table look-up per atom, bond, angle and ring; it is its own
    surrogate. ``forward`` interpolates the tables smoothly in order sums, degrees and counts and is multilinear in
    types and bonds, so it equals ``state_energy`` on one-hot input. Between states, the ring tables other than
    ``ring_count`` (which ring atoms and bonds, aromatic-like rings) stay at their values at the nearest integer
    state: they have no derivative.

    Args:
        space: the molecules; its vocabulary gives K and the charges.
        angles: include (end, centre, end) triples; 12,600 entries at K = 14.
        rings: include the ring tables, which need a ring search (half of the cost).
    Shapes: ``weight`` (F,) float32; ``table(name)`` a view of one table.
    """

    def __init__(self, space: MolecularSpace, angles: bool = True, rings: bool = True) -> None:
        super().__init__(space)
        vocabulary = space.vocabulary
        donors = tuple((e in DONORS and c <= 0) or (e == "C" and c < 0) for e, c in vocabulary.types)
        self.layout = CountLayout(vocabulary.size, space.max_atoms, vocabulary.charges, donors, angles, rings)
        self.weight = nn.Parameter(torch.zeros(self.layout.size))

    def config(self) -> dict[str, Any]:
        return super().config() | {"angles": self.layout.angles, "rings": self.layout.rings}

    def table(self, name: str) -> Tensor:
        """One weight table by name (see ``features``), sharing memory with ``weight``."""
        return self.layout.view(self.weight, name)

    def feature_counts(self, x: Tensor) -> Tensor:
        """How often each table entry is used: (C, F) float. For analysis; energies never build it."""
        check_states(x, self.space)
        index, pointer = count_indices(x, self.layout)
        flat = index + self.layout.size * _owners(pointer)
        size = len(x) * self.layout.size
        return torch.bincount(flat, minlength=size).view(len(x), -1).to(self.weight.dtype)

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of states (C, V, V) int8; differentiable in ``weight``."""
        check_states(x, self.space)
        index, pointer = count_indices(x, self.layout)
        return _TableSum.apply(self.weight, index, pointer)

    def surrogate(self, x: Tensor) -> Tensor:
        """The energy itself: it is cheap."""
        return self.state_energy(x)

    def forward(self, encoding: GraphEncoding) -> Tensor:
        nodes, bonds = encoding.nodes[..., 1:], encoding.bonds[..., 1:]
        k = nodes.shape[-1]
        present, adjacency = presence(encoding), relaxed_adjacency(encoding)
        table = self.table

        # -- atoms: type x order sum x degree
        sums = soft_one_hot(bond_orders(encoding).sum(-1), SUMS)
        degrees = soft_one_hot(adjacency.sum(-1), DEGREES)
        energy = torch.einsum("cvk,cvs,cvd,ksd->c", nodes, sums, degrees, table("atom"))

        # -- bonds and angles: multilinear; each bond is met from both ends, hence the halves
        types = torch.arange(k, device=nodes.device)
        pair = _pair(types[:, None], types)
        ends = torch.einsum("cik,cijo,cjl->cklo", nodes, bonds, nodes)
        energy = energy + 0.5 * torch.einsum("cklo,klo->c", ends, table("bond")[pair])
        if self.layout.angles:
            codes = torch.arange(3 * k, device=nodes.device)
            angle = table("angle")[:, _pair(codes[:, None], codes)]  # (K, 3K, 3K)
            around = torch.einsum("cijo,cjl->ciol", bonds, nodes).flatten(-2)  # (C, V, 3K)
            scores = torch.einsum("cim,kmn,cin->cik", around, angle, around)
            own = torch.einsum("cim,km->cik", around, angle.diagonal(dim1=1, dim2=2))
            energy = energy + 0.5 * ((scores - own) * nodes).sum((1, 2))

        # -- whole-molecule counts
        n_atoms, n_bonds = present.sum(-1), adjacency.sum((1, 2)) / 2
        charges = torch.tensor(self.layout.charges, dtype=nodes.dtype, device=nodes.device)
        half = NET // 2
        net = soft_one_hot((nodes @ charges).sum(-1) + half, NET, clip_below=True)
        charged = soft_one_hot((nodes @ (charges != 0).to(nodes.dtype)).sum(-1), CHARGED)
        composition = soft_one_hot(nodes.sum(1), COMPOSITION + 1)[..., 1:]
        energy = energy + soft_one_hot(n_atoms, self.layout.max_atoms + 1) @ table("size")
        energy = energy + torch.einsum("ckm,km->c", composition, table("composition"))
        energy = energy + torch.einsum("ca,cb,ab->c", net, charged, table("charge"))
        energy = energy + soft_one_hot(n_bonds - n_atoms + 1, CYCLOMATIC, clip_below=True) @ table("cyclomatic")
        energy = energy + soft_one_hot(bonds[..., 1].sum((1, 2)) / 2, DOUBLE) @ table("double")
        energy = energy + soft_one_hot(bonds[..., 2].sum((1, 2)) / 2, TRIPLE) @ table("triple")

        if self.layout.rings:
            with torch.no_grad():
                x = self.space.decode(encoding)
                index, pointer = count_indices(x, self.layout)
                fixed = index >= self.layout.offsets["ring_kind"]
                owner = _owners(pointer)[fixed]
            _, totals = relaxed_cycles(adjacency, x)
            energy = energy + torch.einsum("csb,sb->c", soft_one_hot(totals, RING_BUCKETS), table("ring_count"))
            energy = energy.index_add(0, owner, self.weight[index[fixed]])
        return energy


def local_sum(terms: Sequence[tuple[float, LocalEnergy]], x: Tensor) -> Tensor:
    """Σ factor · local energy, (C,): one feature pass and one table when all layouts are equal."""
    layout = terms[0][1].layout
    if any(local.layout != layout for _, local in terms):
        return torch.stack([factor * local.state_energy(x) for factor, local in terms]).sum(0)
    check_states(x, terms[0][1].space)
    weight = torch.stack([factor * local.weight for factor, local in terms]).sum(0)
    return _TableSum.apply(weight, *count_indices(x, layout))


def _pair(a: Tensor, b: Tensor) -> Tensor:
    """Index of the unordered pair {a, b} in a packed lower triangle."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return high * (high + 1) // 2 + low


def _owners(pointer: Tensor) -> Tensor:
    """(M,) molecule of each entry of a CSR list."""
    n_mol = len(pointer) - 1
    return torch.repeat_interleave(torch.arange(n_mol, device=pointer.device), pointer.diff())


class _TableSum(torch.autograd.Function):
    """Sum of ``weight[index]`` per molecule; the gradient is a histogram, so no (M,)-long tape is kept."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, pointer: Tensor) -> Tensor:
        ctx.save_for_backward(index, pointer)
        ctx.size = len(weight)
        out = torch.zeros(len(pointer) - 1, dtype=weight.dtype, device=weight.device)
        if _fast.AVAILABLE and weight.device.type == "cpu":
            _fast.bag_sum(weight.detach().numpy(), index.numpy(), pointer.numpy(), out.numpy())
            return out
        return out.index_add_(0, _owners(pointer), weight[index])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        index, pointer = ctx.saved_tensors
        out = torch.zeros(ctx.size, dtype=grad.dtype, device=grad.device)
        if _fast.AVAILABLE and grad.device.type == "cpu":
            _fast.bag_sum_backward(grad.contiguous().numpy(), index.numpy(), pointer.numpy(), out.numpy())
        else:
            out.index_add_(0, index, grad[_owners(pointer)])
        return out, None, None
