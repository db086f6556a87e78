"""Moves of single atoms: change types, add and remove terminal atoms, insert and delete atoms in bonds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.samplers.factored import FactoredNeighbourhood, two_sided
from graph_ebm.moves.tables import GraphTables, add_atom, remove_atom, set_bond, set_type

__all__ = ["InsertAtom", "RetypeAtom", "RetypePair", "SwapTypes", "TerminalAtom"]


@dataclass(frozen=True, eq=False)
class _AtomMove(FactoredNeighbourhood):
    """``valence`` (K+1,) int64, index 0 = absent; ``type_weight`` (K+1,) float, 0 at index 0."""

    valence: Tensor
    type_weight: Tensor

    def tables(self, x: Tensor) -> GraphTables:
        return GraphTables.of(x, self.valence if self.valence.device == x.device else self.valence.to(x.device))

    def weights(self, x: Tensor) -> Tensor:
        return self.type_weight.to(x.device)


def _slots_of(x: Tensor, n_atoms: Tensor, adding: Tensor, atom: Tensor) -> Tensor:
    """(C, V) bool: the slot of a new atom, or those of a removed one and of the last one, which moves there."""
    slot = torch.arange(x.shape[-1], device=x.device)[None, :]
    new = slot == n_atoms[:, None]
    return torch.where(adding[:, None], new, (slot == atom[:, None]) | (slot == n_atoms[:, None] - 1))


class RetypeAtom(_AtomMove):
    """Change the type of one atom. Sites: atoms; options: types whose valence carries the bonds."""

    name = "retype"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        return self.tables(x).present.float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        used = t.order_sum.gather(1, site[:, None])
        fits = t.valence[None, :] >= used
        different = torch.arange(len(self.valence), device=x.device)[None, :] != t.types.gather(1, site[:, None])
        return self.weights(x)[None, :] * (fits & different)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        return set_type(x, site, option)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return site, self.tables(x).types.gather(1, site[:, None])[:, 0]


class RetypePair(_AtomMove):
    """Change the types of two bonded atoms at once (the way to charge pairs such as N⁺–O⁻)."""

    name = "retype-pair"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        return (t.adjacency & t.upper).flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        index = torch.arange(len(self.valence), device=x.device)[None, :]
        sides = []
        for atom in (site // v, site % v):
            used = t.order_sum.gather(1, atom[:, None])
            old = t.types.gather(1, atom[:, None])
            sides.append(self.weights(x)[None, :] * ((t.valence[None, :] >= used) & (index != old)))
        return (sides[0][:, :, None] * sides[1][:, None, :]).flatten(1)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        v, k = x.shape[-1], len(self.valence)
        return set_type(set_type(x, site // v, option // k), site % v, option % k)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        types, v = self.tables(x).types, x.shape[-1]
        first = types.gather(1, (site // v)[:, None])[:, 0]
        second = types.gather(1, (site % v)[:, None])[:, 0]
        return site, first * len(self.valence) + second


class SwapTypes(_AtomMove):
    """Exchange the types of two atoms of different type."""

    name = "swap-types"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        capacity = t.valence[t.types]
        fits = t.order_sum[:, :, None] <= capacity[:, None, :]  # atom i could carry j's type
        different = t.types[:, :, None] != t.types[:, None, :]
        both = t.present[:, :, None] & t.present[:, None, :] & t.upper
        return (fits & fits.transpose(1, 2) & different & both).flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        return torch.ones(x.shape[0], 1, device=x.device)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        types, v = self.tables(x).types, x.shape[-1]
        i, j = site // v, site % v
        first, second = types.gather(1, i[:, None])[:, 0], types.gather(1, j[:, None])[:, 0]
        return set_type(set_type(x, i, second), j, first)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return site, option


class TerminalAtom(_AtomMove):
    """Add a terminal atom to an anchor, or remove one.

    Sites: V anchors, then V terminal atoms. Options of an anchor: type·3 + order − 1; of a terminal atom: 0. The label
    of the new atom needs no factor: the base measure is labelled graphs / n!.
    """

    name = "terminal-atom"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        room = (t.n_atoms < x.shape[-1])[:, None]
        return two_sided(((t.free > 0) & room).float(), (t.degree == 1).float())

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        adding = (site < v)[:, None]
        free = t.free.gather(1, (site % v)[:, None])
        order = torch.arange(1, 4, device=x.device)
        fits = (t.valence[:, None] >= order[None, :])[None] & (order[None, None, :] <= free[:, :, None])
        # single bonds first: a share of 1, 1/2, 1/4 for orders 1, 2, 3 keeps most proposals plausible
        weights = (self.weights(x)[:, None] * 0.5 ** (order - 1)[None, :])[None] * fits
        weights = weights.flatten(1) * adding
        weights[:, 0] += (~adding[:, 0]).float()  # type 0 has weight 0, so entry 0 is free for "remove"
        return weights

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        grown, slot = add_atom(x, t.n_atoms, option // 3)
        anchor = site % v
        # where there is no room the slot may be the anchor itself; such rows are discarded by the caller
        other = torch.where(anchor == slot, (slot + 1) % v, slot) if v > 1 else slot
        grown = set_bond(grown, anchor, other, option % 3 + 1)
        shrunk = remove_atom(x, t.n_atoms, anchor)
        return torch.where((site < v)[:, None, None], grown, shrunk)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        adding, atom = site < v, site % v
        anchor, _ = t.neighbours(atom)
        kind, order = t.types[rows, atom], x[rows, atom, anchor].long()
        anchor_after = torch.where(anchor == t.n_atoms - 1, atom, anchor)  # the last atom took the free slot
        back_site = torch.where(adding, v + t.n_atoms.clamp_max(v - 1), anchor_after)
        back_option = torch.where(adding, torch.zeros_like(option), kind * 3 + order - 1)
        return back_site, back_option.clamp_min(0)

    def displaced(self, x: Tensor, site: Tensor, option: Tensor) -> Tensor:
        v = x.shape[-1]
        return _slots_of(x, self.tables(x).n_atoms, site < v, site % v)


class InsertAtom(_AtomMove):
    """Insert an atom into a bond (i–j of order r becomes i–k of order r and k–j of order 1), or contract one away.

    Sites: V·V directed bonds (a single bond only as i < j, since both directions are the same edit), then V atoms that
    can be contracted: two neighbours that are not bonded to each other, at least one single bond, and valence left at
    the end that takes the higher order. Options: the type of the new atom; 0 for a contraction.
    """

    name = "insert-atom"

    def _contractible(self, t: GraphTables) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(legal, strong end, weak end, order) each (C, V): ends of every degree-2 atom."""
        v = t.x.shape[-1]
        a = t.adjacency.to(torch.int8)
        first = a.argmax(-1)
        last = v - 1 - a.flip(-1).argmax(-1)
        order_first = t.bonds.gather(2, first[:, :, None])[:, :, 0].long()
        order_last = t.bonds.gather(2, last[:, :, None])[:, :, 0].long()
        swap = order_last > order_first
        strong = torch.where(swap, last, first)
        weak = torch.where(swap, first, last)
        order = torch.maximum(order_first, order_last)
        weakest = torch.minimum(order_first, order_last)
        chord = t.bonds.flatten(1).gather(1, strong * v + weak) > 0
        room = t.free.gather(1, weak) >= order - 1
        legal = (t.degree == 2) & (weakest == 1) & ~chord & room
        return legal, strong, weak, order

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        room = (t.n_atoms < x.shape[-1])[:, None, None]
        directed = t.adjacency & ((t.bonds > 1) | t.upper) & room
        return two_sided(directed.flatten(1).float(), self._contractible(t)[0].float())

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        inserting = site < v * v
        order = t.bonds.flatten(1).gather(1, site.clamp_max(v * v - 1)[:, None]).long()
        weights = self.weights(x)[None, :] * (t.valence[None, :] >= order + 1) * inserting[:, None]
        weights[:, 0] += (~inserting).float()
        return weights

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        bond = site.clamp_max(v * v - 1)
        i, j = bond // v, bond % v
        order = t.bonds[rows, i, j]
        grown, slot = add_atom(x, t.n_atoms, option)
        grown[rows, i, j] = 0
        grown[rows, j, i] = 0
        grown = set_bond(grown, i, slot, order)
        grown = set_bond(grown, slot, j, torch.ones_like(order))
        atom = (site - v * v).clamp_min(0)
        _, strong, weak, rank = self._contractible(t)
        joined = set_bond(x, strong[rows, atom], weak[rows, atom], rank[rows, atom])
        shrunk = remove_atom(joined, t.n_atoms, atom)
        return torch.where((site < v * v)[:, None, None], grown, shrunk)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        t, v = self.tables(x), x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        inserting = site < v * v
        atom = (site - v * v).clamp_min(0)
        _, strong, weak, order = self._contractible(t)
        last = t.n_atoms - 1
        i = torch.where(strong[rows, atom] == last, atom, strong[rows, atom])
        j = torch.where(weak[rows, atom] == last, atom, weak[rows, atom])
        single = order[rows, atom] == 1
        low, high = torch.minimum(i, j), torch.maximum(i, j)
        back_bond = torch.where(single, low * v + high, i * v + j)
        back_site = torch.where(inserting, v * v + t.n_atoms.clamp_max(v - 1), back_bond)
        back_option = torch.where(inserting, torch.zeros_like(option), t.types[rows, atom])
        return back_site, back_option

    def displaced(self, x: Tensor, site: Tensor, option: Tensor) -> Tensor:
        v = x.shape[-1]
        return _slots_of(x, self.tables(x).n_atoms, site < v * v, site - v * v)
