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

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.factored import FactoredNeighbourhood, two_sided
from graph_ebm.moves.tables import GraphTables, permute, set_bond

__all__ = ["AttachFragment", "FragmentLibrary", "SwapFragment", "mine_fragments"]

MAX_FRAGMENT = 10  # atoms; 10 types of 5 bits and 45 bonds of 2 bits fit three exact 64-bit words
MAX_TYPES = 31  # of those 5 bits
_MIX = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037)


class _Rooted(NamedTuple):
    block: Tensor  # (C, MAX, MAX) int64, the fragment in canonical order (root first)
    size: Tensor  # (C,) atoms in the fragment
    words: Tensor  # (C, 3) exact code, including the order of the bond to the anchor


def _mix(value: Tensor) -> Tensor:
    value = value * _MIX[0]
    value = value ^ (value >> 29)
    value = value * _MIX[1]
    return value ^ (value >> 32)


def _classes(block: Tensor) -> Tensor:
    """(C, MAX) int64 refinement classes of the atoms of rooted blocks (C, MAX, MAX), root first (Weisfeiler–Leman)."""
    types = block.diagonal(dim1=1, dim2=2)
    label = _mix(types + 1)
    label[:, 0] = _mix(label[:, 0] + _MIX[2])
    bonds = block - torch.diag_embed(types)
    inside = bonds > 0
    weight = (bonds + 1) * _MIX[3]
    for _ in range(4):
        passed = torch.where(inside, _mix(label[:, None, :] ^ weight), 0).sum(-1)
        label = _mix(label * _MIX[2] + passed)
    return label


def _encode(block: Tensor, order_to_anchor: Tensor) -> Tensor:
    """(C, 3) exact code of blocks (C, MAX, MAX) (types on the diagonal, 0 beyond the fragment)."""
    device = block.device
    types = block.diagonal(dim1=1, dim2=2) << (5 * torch.arange(MAX_FRAGMENT, device=device))
    i, j = torch.triu_indices(MAX_FRAGMENT, MAX_FRAGMENT, 1, device=device)
    bonds = block[:, i, j]
    low = (bonds[:, :30] << (2 * torch.arange(30, device=device))).sum(-1)
    high = (bonds[:, 30:] << (2 * torch.arange(15, device=device))).sum(-1)
    return torch.stack([types.sum(-1), low, high * 4 + order_to_anchor], dim=1)


def _block(x: Tensor, order: Tensor, size: Tensor) -> Tensor:
    """(C, MAX, MAX) int64 submatrix of the first ``size`` atoms of ``order``."""
    v = x.shape[-1]
    width = min(MAX_FRAGMENT, v)
    first = order[:, :width]
    block = x.gather(1, first[:, :, None].expand(-1, width, v)).gather(2, first[:, None, :].expand(-1, width, width))
    inside = torch.arange(width, device=x.device)[None, :] < size[:, None]
    block = block.long() * (inside[:, :, None] & inside[:, None, :])
    return torch.nn.functional.pad(block, (0, MAX_FRAGMENT - width, 0, MAX_FRAGMENT - width))


def _arrange(block: Tensor) -> Tensor:
    """(C, MAX) canonical order of a rooted block's atoms: root, then by class, ties by place, empty rows last."""
    label = _classes(block) >> 2  # room for the two sentinels
    label[:, 0] = torch.iinfo(torch.int64).min
    label = torch.where(block.diagonal(dim1=1, dim2=2) > 0, label, torch.iinfo(torch.int64).max)
    return label.argsort(dim=1, stable=True)


def _rooted(tables: GraphTables, anchor: Tensor, root: Tensor) -> _Rooted:
    """Canonical block and exact code of the side of ``root`` when the bond anchor–root is cut."""

    def compute() -> _Rooted:
        rows = torch.arange(root.shape[0], device=root.device)
        member = _side(tables, anchor, root)
        key = 1 - member.long()
        key[rows, root] = -1
        size = member.sum(-1)
        block = _block(tables.x, key.argsort(dim=1, stable=True), size)
        block = permute(block, _arrange(block))
        return _Rooted(block, size, _encode(block, tables.bonds[rows, anchor, root].long()))

    return tables.once("rooted", anchor, root, compute)


def _side(tables: GraphTables, anchor: Tensor, root: Tensor) -> Tensor:
    return tables.once("side", anchor, root, lambda: tables.side(anchor, root))


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
            labels = _classes(blocks[index][None].long())[0, :size] >> 2
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
            padded,
            sizes,
            orders.long(),
            weights.float() / weights.float().sum(),
            torch.tensor(log_automorphisms),
            keys,
            words[order],
            torch.tensor(owner)[order],
        )


def mine_fragments(
    x: Tensor, valence: Tensor, *, most: int = 150, smallest: int = 1, largest: int = MAX_FRAGMENT, batch: int = 2048
) -> FragmentLibrary | None:
    """The most frequent pendant fragments of data x (B, V, V); None when fewer than two are found.

    Weights are square roots of the frequencies.

    Raises:
        SettingError: more atom types than an exact code can tell apart.
    """
    if len(valence) > MAX_TYPES + 1:
        raise SettingError(
            f"`valence` must have at most {MAX_TYPES} atom types for fragment moves; got {len(valence) - 1}. "
            "Use mine_moves(..., fragments=0)."
        )
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
            blocks = rooted.block
            unique, inverse, number = rooted.words.unique(dim=0, return_inverse=True, return_counts=True)
            first = torch.full((len(unique),), len(inverse), dtype=torch.long)
            first.scatter_reduce_(0, inverse, torch.arange(len(inverse)), "amin")
            for words, count, row in zip(unique.tolist(), number.tolist(), first.tolist(), strict=True):
                key = tuple(words)
                counts[key] = counts.get(key, 0) + count
                order = tables.bonds[row, a[row], b[row]].long()
                sample.setdefault(key, torch.cat([blocks[row].flatten(), order[None]]))
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
    return tables.once("without", anchor, root, lambda: _cut(tables, anchor, root))


def _cut(tables: GraphTables, anchor: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    v = tables.x.shape[-1]
    member = _side(tables, anchor, root)
    key = torch.where(tables.present, member.long(), 2)
    order = key.argsort(dim=1, stable=True)
    left = tables.n_atoms - member.sum(-1)
    inside = torch.arange(v, device=tables.x.device)[None, :] < left[:, None]
    x = permute(tables.x, order) * (inside[:, :, None] & inside[:, None, :])
    slot = (order == anchor[:, None]).to(torch.int8).argmax(-1)
    return x.to(tables.x.dtype), left, slot


def _behind(tables: GraphTables, anchor: Tensor, root: Tensor) -> Tensor:
    """(C, V) bool: slots from the first one of root's side on; the atoms that stay are moved up into them."""
    return _side(tables, anchor, root).cummax(dim=1).values


@dataclass(frozen=True, eq=False)
class _FragmentMove(FactoredNeighbourhood):
    valence: Tensor
    library: FragmentLibrary

    def tables(self, x: Tensor) -> GraphTables:
        return GraphTables.of(x, self.valence if self.valence.device == x.device else self.valence.to(x.device))

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

    def _ends(self, t: GraphTables, site: Tensor) -> tuple[Tensor, Tensor]:
        v = t.x.shape[-1]
        bridge = (site - v).clamp_min(0)
        return t.once("ends", site, site, lambda: (bridge // v, bridge % v))

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
        anchor, root = self._ends(t, site)
        _, known = library.find(_rooted(t, anchor, root))
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
        shrunk, _, _ = _without(t, *self._ends(t, site))
        return torch.where(attaching[:, None, None], grown, shrunk)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        attaching = site < v
        anchor, root = self._ends(t, site)
        fragment, _ = self.library.to(x.device).find(_rooted(t, anchor, root))
        _, _, slot = _without(t, anchor, root)
        back_site = torch.where(attaching, v + (site % v) * v + t.n_atoms.clamp_max(v - 1), slot)
        return back_site, torch.where(attaching, torch.zeros_like(option), fragment)

    def displaced(self, x: Tensor, site: Tensor, option: Tensor) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        new = torch.arange(v, device=x.device)[None, :] >= t.n_atoms[:, None]
        return torch.where((site < v)[:, None], new, _behind(t, *self._ends(t, site)))


class SwapFragment(_FragmentMove):
    """Replace one pendant fragment by another at the same anchor.

    Sites: directed bridges; options: the new fragment.
    """

    name = "swap-fragment"

    def _ends(self, t: GraphTables, site: Tensor) -> tuple[Tensor, Tensor]:
        v = t.x.shape[-1]
        return t.once("ends", site, site, lambda: (site // v, site % v))

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        return (t.bridges & (t.side_size <= MAX_FRAGMENT)).flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v, library = self.tables(x), x.shape[-1], self.library.to(x.device)
        anchor, root = self._ends(t, site)
        rooted = _rooted(t, anchor, root)
        current, known = library.find(rooted)
        order = t.bonds.flatten(1).gather(1, site[:, None]).long()
        free = t.free.gather(1, anchor[:, None]) + order
        room = v - t.n_atoms[:, None] + rooted.size[:, None]
        fits = (library.orders[None, :] <= free) & (library.sizes[None, :] <= room) & known[:, None]
        return (library.weights[None, :] * fits).scatter(1, current[:, None], 0.0)

    def log_multiplicity(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        return self.library.to(x.device).log_automorphisms[option]

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        shrunk, left, slot = _without(t, *self._ends(t, site))
        return self._attach(shrunk, left, slot, option)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        anchor, root = self._ends(t, site)
        fragment, _ = self.library.to(x.device).find(_rooted(t, anchor, root))
        _, left, slot = _without(t, anchor, root)
        return slot * v + left.clamp_max(v - 1), fragment

    def displaced(self, x: Tensor, site: Tensor, option: Tensor) -> Tensor:
        t = self.tables(x)
        return _behind(t, *self._ends(t, site))
