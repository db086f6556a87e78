"""Repaint a ring: keep its atoms' places and outer bonds, change its bond orders (and types) as one block.

This is the route between saturated and aromatic rings: single edits would pass through many unlikely states.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.factored import FactoredNeighbourhood, draw_index
from graph_ebm.moves.tables import GraphTables

__all__ = ["RepaintRing", "RingPath", "RingPatterns", "mine_ring_patterns", "walk_ring"]


class RingPath(NamedTuple):
    """``atoms`` (C, k) slots around a ring; ``closed`` (C,) bool: the walk did come back to its start."""

    atoms: Tensor
    closed: Tensor


class RingPatterns(NamedTuple):
    """P patterns of a k-ring: ``types`` (P, k), 0 = keep the atom's type; ``orders`` (P, k), entry s between atoms s
    and s + 1; ``weights`` (P,). With every pattern all its rotations and reflections are present."""

    types: Tensor
    orders: Tensor
    weights: Tensor


def walk_ring(tables: GraphTables, size: int, generator: torch.Generator) -> RingPath:
    """A self-avoiding walk of ``size`` atoms from a random atom. Its law depends on the adjacency alone."""
    rows = torch.arange(tables.x.shape[0], device=tables.x.device)
    adjacency = tables.adjacency
    start, alive = draw_index(tables.present.float(), generator=generator)
    atoms, current = [start], start
    free = tables.present.clone()
    free[rows, start] = False
    for _ in range(size - 1):
        current, found = draw_index((adjacency[rows, current] & free).float(), generator=generator)
        alive = alive & found
        free[rows, current] = False
        atoms.append(current)
    return RingPath(torch.stack(atoms, dim=1), alive & adjacency[rows, current, start])


def _read(tables: GraphTables, path: Tensor) -> tuple[Tensor, Tensor]:
    """Types and orders (C, k) around a path."""
    v = tables.x.shape[-1]
    following = path.roll(-1, dims=1)
    orders = tables.bonds.flatten(1).gather(1, path * v + following).long()
    return tables.types.gather(1, path), orders


def _code(types: Tensor, orders: Tensor, n_types: int) -> Tensor:
    """Exact integer code of (types, orders) around a ring: no collisions, (K+1)·4 values per atom."""
    code = torch.zeros_like(types[..., 0])
    for s in range(types.shape[-1]):
        code = code * (n_types * 4) + types[..., s] * 4 + orders[..., s]
    return code


@dataclass(frozen=True, eq=False)
class RepaintRing(FactoredNeighbourhood):
    """Draw a ring of ``size`` atoms, then a new pattern for it among those that every atom's valence carries."""

    name: str
    valence: Tensor
    size: int
    patterns: RingPatterns

    def __post_init__(self) -> None:
        codes = _code(self.patterns.types.long(), self.patterns.orders.long(), len(self.valence))
        order = codes.argsort()
        object.__setattr__(self, "codes", codes[order])
        object.__setattr__(self, "pattern", RingPatterns(*(part[order] for part in self.patterns)))
        object.__setattr__(self, "keeps_types", bool((self.patterns.types == 0).all()))

    codes: Tensor = None  # type: ignore[assignment]
    pattern: RingPatterns = None  # type: ignore[assignment]
    keeps_types: bool = False

    def tables(self, x: Tensor) -> GraphTables:
        return GraphTables.of(x, self.valence if self.valence.device == x.device else self.valence.to(x.device))

    def draw_context(self, x: Tensor, generator: torch.Generator) -> RingPath:
        return walk_ring(self.tables(x), self.size, generator)

    def _current(self, x: Tensor, path: RingPath) -> tuple[Tensor, Tensor]:
        """Index of the ring's present pattern (C,) and whether it is one of the patterns."""
        types, orders = _read(self.tables(x), path.atoms)
        code = _code(torch.zeros_like(types) if self.keeps_types else types, orders, len(self.valence))
        codes = self.codes.to(x.device)
        index = torch.searchsorted(codes, code).clamp_max(len(codes) - 1)
        return index, codes[index] == code

    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        return (context.closed & self._current(x, context)[1]).float()[:, None]

    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        t = self.tables(x)
        types, orders = _read(t, context.atoms)
        outer = t.order_sum.gather(1, context.atoms) - orders - orders.roll(1, dims=1)  # bonds that leave the ring
        new_orders = self.pattern.orders.to(x.device).long()
        new_types = self.pattern.types.to(x.device).long()[None]
        load = outer[:, None, :] + (new_orders + new_orders.roll(1, dims=1))[None]
        capacity = t.valence[torch.where(new_types == 0, types[:, None, :], new_types)]
        weights = (load <= capacity).all(-1) * self.pattern.weights.to(x.device)
        current, _ = self._current(x, context)
        return weights.scatter(1, current[:, None], 0.0)

    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        rows = torch.arange(x.shape[0], device=x.device)
        new_types = self.pattern.types.to(x.device)[option].to(x.dtype)
        new_orders = self.pattern.orders.to(x.device)[option].to(x.dtype)
        y = x.clone()
        for s in range(self.size):
            here, there = context.atoms[:, s], context.atoms[:, (s + 1) % self.size]
            y[rows, here, here] = torch.where(new_types[:, s] == 0, x[rows, here, here], new_types[:, s])
            y[rows, here, there] = new_orders[:, s]
            y[rows, there, here] = new_orders[:, s]
        return y

    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        return site, self._current(x, context)[0]


def _symmetric(types: tuple[int, ...], orders: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All rotations and reflections of a ring pattern."""
    k, found = len(types), set()
    for shift in range(k):
        t = types[shift:] + types[:shift]
        o = orders[shift:] + orders[:shift]
        found.add((t, o))
        found.add((t[::-1], o[-2::-1] + o[-1:]))
    return found


def mine_ring_patterns(
    x: Tensor, valence: Tensor, size: int, *, with_types: bool, most: int = 400, walks: int = 8, seed: int = 0
) -> RingPatterns | None:
    """Patterns of the rings of ``size`` atoms in data x (B, V, V), by frequency; None when there are none.

    ``most`` bounds the number of patterns counted with rotations and reflections. Weights are square roots of the
    frequencies, so that rare patterns keep a fair share of the proposals.

    Raises:
        SettingError: a ring so large that its exact code does not fit 64 bits.
    """
    if (4 * len(valence)) ** size >= 2**63:
        raise SettingError(f"`size` must be smaller for {len(valence) - 1} atom types; got {size}. Use 5 and 6.")
    generator = torch.Generator().manual_seed(seed)
    counts: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    tables = GraphTables(x, valence)
    for _ in range(walks):
        path = walk_ring(tables, size, generator)
        types, orders = _read(tables, path.atoms)
        for t, o in zip(types[path.closed].tolist(), orders[path.closed].tolist(), strict=True):
            counts[min(_symmetric(tuple(t) if with_types else (0,) * size, tuple(o)))] += 1
    patterns: list[tuple[tuple[int, ...], tuple[int, ...], float]] = []
    for (t, o), count in counts.most_common():
        images = sorted(_symmetric(t, o))
        if len(patterns) + len(images) > most:
            break
        patterns += [(a, b, (count / len(images)) ** 0.5) for a, b in images]
    if len(patterns) < 2:
        return None
    weights = torch.tensor([w for _, _, w in patterns])
    return RingPatterns(
        torch.tensor([t for t, _, _ in patterns], dtype=torch.int8),
        torch.tensor([o for _, o, _ in patterns], dtype=torch.int8),
        weights / weights.sum(),
    )
