"""Block moves with a library of pendant fragments mined from data: attach, remove and swap rings and groups.

A pendant fragment is one side of a bridge bond. To take one away exactly as it could have been put there, the side is
put in a canonical order and its exact code is looked up in the library: no hash decides, only equal codes do.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.samplers.factored import FactoredNeighbourhood, two_sided
from graph_ebm.moves.tables import GraphTables, permute, set_bond

__all__ = ["AttachFragment", "FragmentLibrary", "SwapFragment", "mine_fragments"]

MAX_FRAGMENT = 10  # atoms; 10 types of 5 bits and 45 bonds of 2 bits fit three exact 64-bit words
_MIX = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037)


class _Rooted(NamedTuple):
    order: Tensor  # (C, V) slots: the fragment's atoms in canonical order (root first), then the rest
    size: Tensor  # (C,) atoms in the fragment
    words: Tensor  # (C, 3) exact code, including the order of the bond to the anchor


def _mix(value: Tensor) -> Tensor:
    value = value * _MIX[0]
    value = value ^ (value >> 29)
    value = value * _MIX[1]
    return value ^ (value >> 32)


def _classes(tables: GraphTables, member: Tensor, root: Tensor) -> Tensor:
    """(C, V) int64 refinement classes of the members (Weisfeiler–Leman, rooted)."""
    rows = torch.arange(root.shape[0], device=root.device)
    label = _mix(tables.types + 1)
    label[rows, root] = _mix(label[rows, root] + _MIX[2])
    inside = tables.adjacency & member[:, :, None] & member[:, None, :]
    weight = (tables.bonds.long() + 1) * _MIX[3]
    for _ in range(4):
        passed = torch.where(inside, _mix(label[:, None, :] ^ weight), 0).sum(-1)
        label = _mix(label * _MIX[2] + passed)
    return label


def _encode(block: Tensor, order_to_anchor: Tensor) -> Tensor:
    """(C, 3) exact code of blocks (C, MAX, MAX) (types on the diagonal, 0 beyond the fragment)."""
    words = [torch.zeros_like(order_to_anchor), torch.zeros_like(order_to_anchor), order_to_anchor.clone()]
    for i in range(MAX_FRAGMENT):
        words[0] = words[0] * 32 + block[:, i, i]
    for count, (i, j) in enumerate(itertools.combinations(range(MAX_FRAGMENT), 2)):
        word = 1 if count < 30 else 2
        words[word] = words[word] * 4 + block[:, i, j]
    return torch.stack(words, dim=1)


def _block(x: Tensor, order: Tensor, size: Tensor) -> Tensor:
    """(C, MAX, MAX) int64 submatrix of the first ``size`` atoms of ``order``."""
    v = x.shape[-1]
    width = min(MAX_FRAGMENT, v)
    first = order[:, :width]
    block = x.gather(1, first[:, :, None].expand(-1, width, v)).gather(2, first[:, None, :].expand(-1, width, width))
    inside = torch.arange(width, device=x.device)[None, :] < size[:, None]
    block = block.long() * (inside[:, :, None] & inside[:, None, :])
    return torch.nn.functional.pad(block, (0, MAX_FRAGMENT - width, 0, MAX_FRAGMENT - width))


def _rooted(tables: GraphTables, anchor: Tensor, root: Tensor) -> _Rooted:
    """Canonical order and exact code of the side of ``root`` when the bond anchor–root is cut."""
    rows = torch.arange(root.shape[0], device=root.device)
    member = tables.side(anchor, root)
    label = _classes(tables, member, root) >> 2  # room for the two sentinels below
    label[rows, root] = torch.iinfo(torch.int64).min
    label = torch.where(member, label, torch.iinfo(torch.int64).max)
    order = label.argsort(dim=1, stable=True)
    size = member.sum(-1)
    words = _encode(_block(tables.x, order, size), tables.bonds[rows, anchor, root].long())
    return _Rooted(order, size, words)


def _key(words: Tensor) -> Tensor:
    return _mix(_mix(_mix(words[..., 0]) ^ words[..., 1]) ^ words[..., 2])


@dataclass(frozen=True, eq=False)
class FragmentLibrary:
    """T fragments. ``blocks`` (T, MAX+1, MAX+1) int8 padded with a zero row and column; ``sizes``, ``orders`` (to the
    anchor), ``weights``, ``log_automorphisms`` (T,); ``keys``/``words``/``owner``: every canonical code and its
    fragment, sorted by key."""

    blocks: Tensor
    sizes: Tensor
    orders: Tensor
    weights: Tensor
    log_automorphisms: Tensor
    keys: Tensor
    words: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device) -> FragmentLibrary:
        """The library on a device (itself when it is there already)."""
        if self.sizes.device == device:
            return self
        return FragmentLibrary(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def find(self, rooted: _Rooted) -> tuple[Tensor, Tensor]:
        """Fragment index (C,) of rooted sides and whether it is in the library."""
        slot = torch.searchsorted(self.keys, _key(rooted.words)).clamp_max(len(self.keys) - 1)
        known = (self.words[slot] == rooted.words).all(-1) & (rooted.size <= MAX_FRAGMENT)
        return self.owner[slot], known

    @classmethod
    def build(cls, blocks: Tensor, orders: Tensor, weights: Tensor) -> FragmentLibrary:
        """From blocks (T, MAX, MAX) int (root first, types on the diagonal), bond orders to the anchor and weights."""
        sizes = (blocks.diagonal(dim1=1, dim2=2) > 0).sum(-1)
        log_automorphisms, codes, owner = [], [], []
        for index in range(len(blocks)):
            size = int(sizes[index])
            anchored = torch.zeros(1, MAX_FRAGMENT + 1, MAX_FRAGMENT + 1, dtype=torch.int8)
            anchored[0, : MAX_FRAGMENT, : MAX_FRAGMENT] = blocks[index].to(torch.int8)
            members = torch.arange(MAX_FRAGMENT + 1)[None, :] < size
            labels = _classes(GraphTables(anchored, torch.zeros(64, dtype=torch.int64)), members, torch.tensor([0]))
            labels = labels[0, :size] >> 2
            groups: dict[int, list[int]] = {}
            for atom in range(1, size):
                groups.setdefault(int(labels[atom]), []).append(atom)
            classes = [groups[label] for label in sorted(groups)]
            same = 0
            variants = set()
            arranged = [
                (0, *itertools.chain.from_iterable(choice))
                for choice in itertools.product(*(itertools.permutations(group) for group in classes))
            ]
            reference = blocks[index][list(arranged[0])][:, list(arranged[0])].tolist()
            tensor = torch.zeros(len(arranged), MAX_FRAGMENT, MAX_FRAGMENT, dtype=torch.int64)
            for row, arrangement in enumerate(arranged):
                chosen = blocks[index][list(arrangement)][:, list(arrangement)]
                same += int(chosen.tolist() == reference)
                tensor[row, :size, :size] = chosen.long()
            for code in _encode(tensor, orders[index].long().expand(len(arranged))).tolist():
                variants.add(tuple(code))
            log_automorphisms.append(math.log(same))
            codes += sorted(variants)
            owner += [index] * len(variants)
        words = torch.tensor(codes, dtype=torch.int64)
        keys = _key(words)
        order = keys.argsort()
        keys = keys[order]
        if (keys[1:] == keys[:-1]).any():  # 64-bit keys of at most thousands of codes; exactness is worth the check
            raise RuntimeError("two fragment codes share a lookup key; drop one fragment from the library")
        padded = torch.nn.functional.pad(blocks.to(torch.int8), (0, 1, 0, 1))
        return cls(
            padded, sizes, orders.long(), weights.float() / weights.float().sum(), torch.tensor(log_automorphisms),
            keys, words[order], torch.tensor(owner)[order],
        )


def mine_fragments(
    x: Tensor, valence: Tensor, *, most: int = 150, smallest: int = 1, largest: int = MAX_FRAGMENT, batch: int = 2048
) -> FragmentLibrary | None:
    """The most frequent pendant fragments of data x (B, V, V); None when fewer than two are found.

    Weights are square roots of the frequencies.
    """
    counts: dict[tuple[int, ...], int] = {}
    sample: dict[tuple[int, ...], Tensor] = {}
    for start in range(0, len(x), batch):
        part = GraphTables(x[start : start + batch], valence)
        fits = part.bridges & (part.side_size >= smallest) & (part.side_size <= largest)
        chain, anchor, root = fits.nonzero(as_tuple=True)
        for piece in range(0, len(chain), 4 * batch):
            c, a, b = (t[piece : piece + 4 * batch] for t in (chain, anchor, root))
            tables = GraphTables(part.x[c], valence)
            rooted = _rooted(tables, a, b)
            blocks = _block(tables.x, rooted.order, rooted.size)
            unique, inverse, number = rooted.words.unique(dim=0, return_inverse=True, return_counts=True)
            first = torch.full((len(unique),), len(inverse), dtype=torch.long)
            first.scatter_reduce_(0, inverse, torch.arange(len(inverse)), "amin")
            for words, count, row in zip(unique.tolist(), number.tolist(), first.tolist(), strict=True):
                key = tuple(words)
                counts[key] = counts.get(key, 0) + count
                sample.setdefault(key, torch.cat([blocks[row].flatten(), tables.bonds[row, a[row], b[row]].long()[None]]))
    if len(counts) < 2:
        return None
    chosen = sorted(counts, key=lambda key: (-counts[key], key))
    # several codes can stand for one fragment (ties in the canonical order): keep one of each
    kept: list[tuple[int, ...]] = []
    blocks_kept: list[Tensor] = []
    totals: list[float] = []
    seen: dict[tuple[int, ...], int] = {}
    for key in chosen:
        if key in seen:
            totals[seen[key]] += counts[key]
            continue
        if len(kept) >= most:
            continue
        block = sample[key][:-1].reshape(MAX_FRAGMENT, MAX_FRAGMENT)
        single = FragmentLibrary.build(block[None], sample[key][-1:], torch.ones(1))
        for words in single.words.tolist():
            seen[tuple(words)] = len(kept)
        kept.append(key)
        blocks_kept.append(block)
        totals.append(float(counts[key]))
    orders = torch.stack([sample[key][-1] for key in kept])
    return FragmentLibrary.build(torch.stack(blocks_kept), orders, torch.tensor(totals).sqrt())


def _without(tables: GraphTables, anchor: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x without the side of root: (state, atoms left (C,), new slot of the anchor (C,))."""
    v = tables.x.shape[-1]
    member = tables.side(anchor, root)
    key = torch.where(tables.present, member.long(), 2)
    order = key.argsort(dim=1, stable=True)
    left = tables.n_atoms - member.sum(-1)
    inside = torch.arange(v, device=tables.x.device)[None, :] < left[:, None]
    x = permute(tables.x, order) * (inside[:, :, None] & inside[:, None, :])
    slot = (order == anchor[:, None]).to(torch.int8).argmax(-1)
    return x.to(tables.x.dtype), left, slot


@dataclass(frozen=True, eq=False)
class _FragmentMove(FactoredNeighbourhood):
    valence: Tensor
    library: FragmentLibrary

    def tables(self, x: Tensor) -> GraphTables:
        return GraphTables(x, self.valence.to(x.device))

    def _attach(self, x: Tensor, n_atoms: Tensor, anchor: Tensor, fragment: Tensor) -> Tensor:
        library = self.library.to(x.device)
        v = x.shape[-1]
        index = torch.arange(v, device=x.device)[None, :] - n_atoms[:, None]
        index = torch.where((index >= 0) & (index < MAX_FRAGMENT), index, MAX_FRAGMENT)
        y = x + library.blocks[fragment[:, None, None], index[:, :, None], index[:, None, :]]
        slot = n_atoms.clamp_max(v - 1)
        safe = torch.where(anchor == slot, (slot + 1) % v, slot) if v > 1 else slot
        return set_bond(y, anchor, safe, library.orders[fragment])


class AttachFragment(_FragmentMove):
    """Attach a fragment of two or more atoms to an anchor, or remove one.

    Sites: V anchors, then V·V directed bridges anchor→root. Options: the fragment; 0 to remove.
    """

    name = "attach-fragment"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        room = (t.n_atoms <= x.shape[-1] - 2)[:, None]
        pendant = t.bridges & (t.side_size >= 2) & (t.side_size <= MAX_FRAGMENT)
        return two_sided(((t.free > 0) & room).float(), pendant.flatten(1).float())

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v, library = self.tables(x), x.shape[-1], self.library.to(x.device)
        attaching = site < v
        free = t.free.gather(1, (site % v)[:, None])
        fits = (library.orders[None, :] <= free) & (library.sizes[None, :] <= v - t.n_atoms[:, None])
        weights = library.weights[None, :] * (fits & (library.sizes >= 2)[None, :] & attaching[:, None])
        bridge = (site - v).clamp_min(0)
        _, known = library.find(_rooted(t, bridge // v, bridge % v))
        removable = torch.zeros_like(weights)
        removable[:, 0] = (known & ~attaching).float()
        return weights + removable

    def log_multiplicity(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        library = self.library.to(x.device)
        return torch.where(site < x.shape[-1], library.log_automorphisms[option], 0.0)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        attaching = site < v
        grown = self._attach(x, t.n_atoms, site % v, option)
        bridge = (site - v).clamp_min(0)
        shrunk, _, _ = _without(t, bridge // v, bridge % v)
        return torch.where(attaching[:, None, None], grown, shrunk)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        attaching = site < v
        root = t.n_atoms.clamp_max(v - 1)
        bridge = (site - v).clamp_min(0)
        fragment, _ = self.library.to(x.device).find(_rooted(t, bridge // v, bridge % v))
        _, _, slot = _without(t, bridge // v, bridge % v)
        back_site = torch.where(attaching, v + (site % v) * v + root, slot)
        return back_site, torch.where(attaching, torch.zeros_like(option), fragment)


class SwapFragment(_FragmentMove):
    """Replace one pendant fragment by another at the same anchor. Sites: directed bridges; options: the new fragment."""

    name = "swap-fragment"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        return (t.bridges & (t.side_size <= MAX_FRAGMENT)).flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v, library = self.tables(x), x.shape[-1], self.library.to(x.device)
        anchor = site // v
        rooted = _rooted(t, anchor, site % v)
        current, known = library.find(rooted)
        order = t.bonds.flatten(1).gather(1, site[:, None]).long()
        free = t.free.gather(1, anchor[:, None]) + order
        room = v - t.n_atoms[:, None] + rooted.size[:, None]
        fits = (library.orders[None, :] <= free) & (library.sizes[None, :] <= room) & known[:, None]
        return (library.weights[None, :] * fits).scatter(1, current[:, None], 0.0)

    def log_multiplicity(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        return self.library.to(x.device).log_automorphisms[option]

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        shrunk, left, slot = _without(t, site // v, site % v)
        return self._attach(shrunk, left, slot, option)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        anchor, root = site // v, site % v
        fragment, _ = self.library.to(x.device).find(_rooted(t, anchor, root))
        _, left, slot = _without(t, anchor, root)
        return slot * v + left.clamp_max(v - 1), fragment
