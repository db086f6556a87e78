"""Count features of molecules: which entries of a weight table a molecule adds up.

A molecule's local energy is a sum of table entries, one per atom, bond, bond angle, ring and whole-molecule count.
:class:`CountLayout` says where each table lies in one flat weight vector; :func:`count_indices` lists, for a batch of
integer states, the entries they touch, so that an energy is one gather and a segment sum.

Tables (K atom types, V atoms; counts beyond a table's end share its last entry):

=============  ======================================================================================================
size           number of atoms 0..V
composition    per type present: its number 1..12
atom           type x sum of bond orders 0..6 (this is the hydrogen count) x degree 0..6
bond           unordered pair of types x order 1..3
angle          centre type x unordered pair of (order, type) at its ends
cyclomatic     bonds − atoms + 1, clipped to 0..10: independent rings of a connected molecule
charge         net charge −3..3 x number of charged atoms 0..6
double         number of double bonds 0..12
triple         number of triple bonds 0..4
ring_count     ring size 3..8 x number of such rings 0..4
ring_kind      per ring: size x double bonds in it 0..4 x atoms with a multiple bond 0..8
ring_atom      per ring atom: size x (has a multiple bond?) x type
aromatic       number of aromatic-like rings 0..7: six atoms all with a multiple bond and two or three double bonds in
               the ring, or five atoms of which four have and the fifth is a lone-pair donor
=============  ======================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import _fast
from .cycles import enumerate_cycles

__all__ = ["CountLayout", "count_indices", "count_indices_torch", "soft_one_hot"]

COMPOSITION, SUMS, DEGREES, CYCLOMATIC, NET, CHARGED, DOUBLE, TRIPLE = 12, 7, 7, 11, 7, 7, 13, 5
RING_BUCKETS, KIND_DOUBLE, KIND_UNSATURATED, AROMATIC = 5, 5, 9, 8


@dataclass(frozen=True)
class CountLayout:
    """Where each count table lies in the flat weight vector.

    Args:
        n_types: K, atom types 1..K.
        max_atoms: V, largest molecule with a size entry of its own.
        charges: formal charge of each type (K); all 0 when empty.
        donors: whether each type (K) can give a lone pair to a five-ring; all but type 1 when empty.
        angles: include the angle table.
        rings: include the four ring tables (they need a ring search).
    """

    n_types: int
    max_atoms: int
    charges: tuple[int, ...] = ()
    donors: tuple[bool, ...] = ()
    angles: bool = True
    rings: bool = True
    shapes: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)
    offsets: dict[str, int] = field(init=False, repr=False, compare=False)
    size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        k = self.n_types
        object.__setattr__(self, "charges", tuple(self.charges) or (0,) * k)
        object.__setattr__(self, "donors", tuple(self.donors) or (False,) + (True,) * (k - 1))
        shapes: dict[str, tuple[int, ...]] = {
            "size": (self.max_atoms + 1,),
            "composition": (k, COMPOSITION),
            "atom": (k, SUMS, DEGREES),
            "bond": (k * (k + 1) // 2, 3),
            "angle": (k, 3 * k * (3 * k + 1) // 2 if self.angles else 0),
            "cyclomatic": (CYCLOMATIC,),
            "charge": (NET, CHARGED),
            "double": (DOUBLE,),
            "triple": (TRIPLE,),
        }
        if self.rings:
            shapes |= {
                "ring_count": (6, RING_BUCKETS),
                "ring_kind": (6, KIND_DOUBLE, KIND_UNSATURATED),
                "ring_atom": (6, 2, k),
                "aromatic": (AROMATIC,),
            }
        offsets, total = {}, 0
        for name, shape in shapes.items():
            offsets[name] = total
            total += int(torch.Size(shape).numel())
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "size", total)

    @property
    def table_names(self) -> tuple[str, ...]:
        """Names of the tables, in the order of the weight vector."""
        return tuple(self.shapes)

    def view(self, weight: Tensor, name: str) -> Tensor:
        """The table ``name`` of a flat ``weight`` (F,), shaped as in ``shapes``; shares memory."""
        shape = self.shapes[name]
        return weight.narrow(0, self.offsets[name], int(torch.Size(shape).numel())).view(shape)

    def packed_offsets(self) -> tuple[int, ...]:
        """Offsets in the order the compiled kernel takes them (0 for absent tables)."""
        names = ("size", "composition", "atom", "bond", "angle", "cyclomatic", "charge", "double", "triple")
        rings = ("ring_count", "ring_kind", "ring_atom", "aromatic")
        return tuple(self.offsets.get(name, 0) for name in names + rings)

    def packed_buckets(self) -> tuple[int, ...]:
        """Table sizes in the order the compiled kernel takes them."""
        atoms = (self.max_atoms + 1, COMPOSITION, SUMS, DEGREES, CYCLOMATIC, NET, CHARGED, DOUBLE, TRIPLE)
        return (*atoms, RING_BUCKETS, KIND_DOUBLE, KIND_UNSATURATED, AROMATIC)


def count_indices(x: Tensor, layout: CountLayout) -> tuple[Tensor, Tensor]:
    """Weight-table entries that each molecule touches, with repetition.

    Args:
        x: (C, V, V) int8 states, atoms compact.
        layout: the tables.
    Returns:
        (index (M,) int64 into the weight vector, grouped by molecule; pointer (C + 1,) int64: molecule c owns
        index[pointer[c]:pointer[c + 1]]).
    Cost: about 1 µs per 9-atom and 3 µs per 25-atom molecule compiled; some 20 times that without numba.
    """
    if not (_fast.AVAILABLE and x.device.type == "cpu"):
        return count_indices_torch(x, layout)
    n_mol, n_max = x.shape[0], x.shape[1]
    charges = torch.tensor((0, *layout.charges)).numpy()
    donors = torch.tensor((False, *layout.donors)).numpy()
    ring_cap = max(64, 4 * n_max) if layout.rings else 0
    capacity = max(1, n_mol) * (64 + 6 * n_max)
    pointer = torch.empty(n_mol + 1, dtype=torch.int64)
    state = x.detach().contiguous().numpy()
    while True:
        index = torch.empty(capacity, dtype=torch.int64)
        status = _fast.emit(
            state,
            layout.n_types,
            charges,
            donors,
            layout.packed_offsets(),
            layout.packed_buckets(),
            layout.angles,
            ring_cap,
            index.numpy(),
            pointer.numpy(),
        )
        if status >= 0:
            return index[:status], pointer
        capacity, ring_cap = (2 * capacity, ring_cap) if status == -1 else (capacity, 4 * ring_cap)


def count_indices_torch(x: Tensor, layout: CountLayout) -> tuple[Tensor, Tensor]:
    """The same as :func:`count_indices` by tensor operations on any device (order within a molecule differs)."""
    n_mol, n_max, k = x.shape[0], x.shape[1], layout.n_types
    at = layout.offsets
    device = x.device
    types = x.diagonal(dim1=1, dim2=2).long()  # (C, V)
    orders = x.long() - torch.diag_embed(types)
    present, bonded = types > 0, orders > 0
    n_atoms, n_bonds = present.sum(1), bonded.sum((1, 2)) // 2
    order_sum, degree = orders.sum(-1), bonded.sum(-1)
    owner: list[Tensor] = []
    index: list[Tensor] = []

    def emit(molecule: Tensor, value: Tensor) -> None:
        owner.append(molecule)
        index.append(value)

    every = torch.arange(n_mol, device=device)
    emit(every, at["size"] + n_atoms.clamp(max=layout.max_atoms))
    c, i = present.nonzero(as_tuple=True)
    t = types[c, i] - 1
    atom = (t * SUMS + order_sum[c, i].clamp(max=SUMS - 1)) * DEGREES + degree[c, i].clamp(max=DEGREES - 1)
    emit(c, at["atom"] + atom)
    histogram = torch.zeros(n_mol, k, dtype=torch.int64, device=device).index_put_((c, t), torch.ones_like(t), True)
    cc, tt = histogram.nonzero(as_tuple=True)
    emit(cc, at["composition"] + tt * COMPOSITION + histogram[cc, tt].clamp(max=COMPOSITION) - 1)

    c, i, j = bonded.nonzero(as_tuple=True)
    o, ti, tj = orders[c, i, j], types[c, i] - 1, types[c, j] - 1
    low, high = torch.minimum(ti, tj), torch.maximum(ti, tj)
    once = i < j
    emit(c[once], (at["bond"] + (high * (high + 1) // 2 + low) * 3 + o - 1)[once])
    if layout.angles:
        codes = 3 * k
        code = (o - 1) * k + tj
        source = c * n_max + i
        count = torch.bincount(source, minlength=n_mol * n_max)[source]
        first = torch.searchsorted(source, source)  # nonzero lists edges by source
        left = torch.repeat_interleave(torch.arange(len(source), device=device), count)
        right = first[left] + torch.arange(len(left), device=device) - (count.cumsum(0) - count)[left]
        keep = right < left
        left, right = left[keep], right[keep]
        low, high = torch.minimum(code[left], code[right]), torch.maximum(code[left], code[right])
        emit(c[left], at["angle"] + ti[left] * (codes * (codes + 1) // 2) + high * (high + 1) // 2 + low)

    charge = torch.tensor((0, *layout.charges), device=device)[types]
    half = NET // 2
    emit(every, at["cyclomatic"] + (n_bonds - n_atoms + 1).clamp(0, CYCLOMATIC - 1))
    net = charge.sum(1).clamp(-half, half) + half
    emit(every, at["charge"] + net * CHARGED + (charge != 0).sum(1).clamp(max=CHARGED - 1))
    emit(every, at["double"] + ((orders == 2).sum((1, 2)) // 2).clamp(max=DOUBLE - 1))
    emit(every, at["triple"] + ((orders == 3).sum((1, 2)) // 2).clamp(max=TRIPLE - 1))

    if layout.rings:
        multiple = ((orders > 1).any(-1)).reshape(-1)
        donor = torch.tensor((False, *layout.donors), device=device)[types].reshape(-1) & (order_sum.reshape(-1) <= 3)
        flat_types, flat_orders = types.reshape(-1), orders.reshape(-1)
        aromatic = torch.zeros(n_mol, dtype=torch.int64, device=device)
        for s, rings in enumerate(enumerate_cycles(x)):
            molecule = rings[:, 0] // n_max
            emit(every, at["ring_count"] + s * RING_BUCKETS + torch.bincount(molecule, minlength=n_mol).clamp(max=4))
            in_ring = flat_orders[rings * n_max + rings.roll(-1, 1) % n_max]
            n_double = (in_ring == 2).sum(1)
            unsaturated = multiple[rings]
            n_unsat = unsaturated.sum(1)
            kind = (s * KIND_DOUBLE + n_double.clamp(max=KIND_DOUBLE - 1)) * KIND_UNSATURATED
            emit(molecule, at["ring_kind"] + kind + n_unsat.clamp(max=KIND_UNSATURATED - 1))
            ring_atom = (2 * s + unsaturated.long()) * k + flat_types[rings] - 1
            emit(molecule.repeat_interleave(rings.shape[1]), at["ring_atom"] + ring_atom.reshape(-1))
            if s == 2:
                fifth = (donor[rings] & ~unsaturated).any(1)
                aromatic += torch.bincount(molecule[(n_unsat == 4) & (n_double >= 1) & fifth], minlength=n_mol)
            if s == 3:
                aromatic += torch.bincount(molecule[(n_unsat == 6) & (n_double >= 2)], minlength=n_mol)
        emit(every, at["aromatic"] + aromatic.clamp(max=AROMATIC - 1))

    owners, indices = torch.cat(owner), torch.cat(index)
    order = owners.argsort(stable=True)
    pointer = torch.zeros(n_mol + 1, dtype=torch.int64, device=device)
    pointer[1:] = torch.bincount(owners, minlength=n_mol).cumsum(0)
    return indices[order], pointer


def soft_one_hot(value: Tensor, size: int, clip_below: bool = False) -> Tensor:
    """Smooth one-hot of a real number: exact at integers, once differentiable everywhere.

    Keys' cubic (Catmull-Rom) kernel, so that the slope of an interpolated table at an integer k is
    (w[k+1] − w[k−1]) / 2: a first-order estimate sees both neighbours. Beyond its last entry the table is constant.
    Below its first it goes on as a straight line, so that the slope at a count of 0 is w[1] − w[0]; with
    ``clip_below`` (quantities that can be negative) it is constant there too.

    Args:
        value: (...,) float.
        size: number of entries.
        clip_below: hold the first entry below 0.
    Returns:
        (..., size), same dtype.
    Source: Keys 1981, IEEE ASSP 29:1153, with a = -1/2.
    """
    grid = torch.arange(-2, size + 2, device=value.device, dtype=value.dtype)
    u = (value.clamp(-1, size).unsqueeze(-1) - grid).abs()
    near = (1.5 * u - 2.5) * u * u + 1
    far = ((-0.5 * u + 2.5) * u - 4) * u + 2
    wide = torch.where(u < 1, near, torch.where(u < 2, far, torch.zeros_like(u)))
    inside = wide[..., 2:-2]
    below2, below1, above = wide[..., :1], wide[..., 1:2], wide[..., -2:].sum(-1, keepdim=True)
    if clip_below or size == 1:
        low = [inside[..., :1] + below2 + below1, inside[..., 1:]]
    else:
        low = [inside[..., :1] + 2 * below1 + 3 * below2, inside[..., 1:2] - below1 - 2 * below2, inside[..., 2:]]
    whole = torch.cat(low, -1)
    return torch.cat([whole[..., :-1], whole[..., -1:] + above], -1)
