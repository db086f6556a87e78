"""Moves of bonds: change an order, close and open rings, shift an order along a path, re-attach a branch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.samplers.factored import FactoredNeighbourhood, two_sided
from graph_ebm.moves.tables import GraphTables, set_bond

__all__ = ["BondOrder", "Reattach", "RingBond", "ShiftBond"]

# Weight of closing a ring, by the ring's size 3, 4, 5, 6, 7, 8 and larger. Any positive numbers keep the law.
RING_WEIGHTS = (0.6, 0.6, 2.0, 3.0, 1.0, 0.4, 0.3)


@cache
def _ring_weights(device: torch.device) -> Tensor:
    """Weight of a closure by the distance of its ends, on a device (made once: a step copies nothing to it)."""
    return torch.tensor((0.0, 0.0, *RING_WEIGHTS), device=device)


@dataclass(frozen=True, eq=False)
class _BondMove(FactoredNeighbourhood):
    """``valence`` (K+1,) int64, index 0 = absent."""

    valence: Tensor

    def tables(self, x: Tensor) -> GraphTables:
        return GraphTables.of(x, self.valence if self.valence.device == x.device else self.valence.to(x.device))


class BondOrder(_BondMove):
    """Change the order of one bond. Sites: bonds i < j; options: new order − 1."""

    name = "bond-order"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        up = (t.free[:, :, None] > 0) & (t.free[:, None, :] > 0) & (t.bonds < 3)
        return (t.adjacency & t.upper & (up | (t.bonds > 1))).flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        free = torch.minimum(t.free.gather(1, (site // v)[:, None]), t.free.gather(1, (site % v)[:, None]))
        old = t.bonds.flatten(1).gather(1, site[:, None]).long()
        order = torch.arange(1, 4, device=x.device)[None, :]
        return ((order != old) & (order - old <= free)).float()

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        v = x.shape[-1]
        i, j = site // v, site % v
        j = torch.where(i == j, (j + 1) % v, j) if v > 1 else j
        return set_bond(x, i, j, option + 1)

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        old = x.flatten(1).gather(1, site[:, None])[:, 0].long()
        return site, (old - 1).clamp_min(0)


class RingBond(_BondMove):
    """Close a ring by bonding two atoms, or open one by removing a bond that is not a bridge.

    Sites: V·V pairs to close (weighted by the ring's size), then V·V bonds to open. Options: order − 1; 0 to open.
    """

    name = "ring-bond"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        able = (t.free > 0)[:, :, None] & (t.free > 0)[:, None, :] & t.upper & ~t.adjacency
        close = _ring_weights(x.device)[t.distance] * able
        return two_sided(close.flatten(1), (t.adjacency & t.upper & ~t.bridges).flatten(1).float())

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        pair, closing = site % (v * v), site < v * v
        free = torch.minimum(t.free.gather(1, (pair // v)[:, None]), t.free.gather(1, (pair % v)[:, None]))
        order = torch.arange(1, 4, device=x.device)[None, :]
        weights = (order <= free) * 0.5 ** (order - 1)
        opening = torch.zeros_like(weights)
        opening[:, 0] = 1
        return torch.where(closing[:, None], weights, opening)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        v = x.shape[-1]
        pair, closing = site % (v * v), site < v * v
        i, j = pair // v, pair % v
        j = torch.where(i == j, (j + 1) % v, j) if v > 1 else j
        return set_bond(x, i, j, torch.where(closing, option + 1, torch.zeros_like(option)))

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        v = x.shape[-1]
        pair, closing = site % (v * v), site < v * v
        old = x.flatten(1).gather(1, pair[:, None])[:, 0].long()
        back_option = torch.where(closing, torch.zeros_like(option), (old - 1).clamp_min(0))
        return torch.where(closing, site + v * v, pair), back_option


class ShiftBond(_BondMove):
    """Move one unit of order along a path: a=b–c becomes a–b=c. Sites: directed bonds b→c; options: the atom a."""

    name = "shift-bond"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        multiple = (t.bonds > 1).sum(-1)[:, :, None] - (t.bonds > 1).long()  # multiple bonds at b other than b–c
        legal = t.adjacency & (t.bonds < 3) & (t.free > 0)[:, None, :] & (multiple > 0)
        return legal.flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        donors = t.bonds[rows, site // v] > 1
        donors[rows, site % v] = False
        return donors.float()

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        v = x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        b, c = site // v, site % v
        y = x.clone()
        for end, step in ((option, -1), (c, 1)):
            y[rows, b, end] += step
            y[rows, end, b] += step
        return y

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        v = x.shape[-1]
        return (site // v) * v + option, site % v


class Reattach(_BondMove):
    """Move one end of a bond: i–j becomes i–k with the same order; the molecule stays connected.

    If i–j is a bridge, k lies on j's side (a branch is re-attached); otherwise k is any atom (a ring changes its
    size or place). Sites: directed bonds i→j; options: the atom k.
    """

    name = "reattach"

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        return self.tables(x).adjacency.flatten(1).float()

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t, v = self.tables(x), x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        i, j = site // v, site % v
        order = t.bonds[rows, i, j].long()
        side = t.side(i, j)
        bridge = ~side[rows, i]
        legal = t.present & (t.free >= order[:, None]) & ~t.adjacency[rows, i] & (side | ~bridge[:, None])
        legal[rows, i] = False
        legal[rows, j] = False
        return legal.float()

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        v = x.shape[-1]
        rows = torch.arange(x.shape[0], device=x.device)
        i, j = site // v, site % v
        order = x[rows, i, j]
        y = x.clone()
        y[rows, i, j] = 0
        y[rows, j, i] = 0
        y[rows, i, option] = order
        y[rows, option, i] = order
        return y

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        v = x.shape[-1]
        return (site // v) * v + option, site % v
