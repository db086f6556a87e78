"""Joint changes of a block of sites: which there are, what each weighs, and one drawn in proportion.

A pattern is an offset for every site of the block; it takes value v of a site with k values to (v + offset) mod k. The
patterns with at most m offsets that are not 0 are the Hamming ball of radius m around the block's values; with m the
size of the block they are all its joint values. How many are legal depends on the sites alone, never on their values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.energies.base import HasConditionals, HasFlipDeltas, evaluate_energy
from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.heat_bath import HeatBath
from discrete_ebm.samplers.informed import draw_move
from discrete_ebm.samplers.single_site import at_least_float32, tempered

__all__ = ["BlockDraw", "check_block_settings", "check_size", "count_patterns"]

_ROOM = 2**24  # sites of states that are evaluated at once


class Patterns(NamedTuple):
    """T patterns of S sites, those with fewer changes first; row 0 changes nothing.

    ``offsets`` (T, S). Every other row is its ``parent`` (T,) with one more change, at position ``last`` (T,).
    ``parents`` (P,) are the rows that have children, ``slot`` (T,) each row's parent as a position in ``parents``, and
    ``levels`` the first row of each number of changes, and T.
    """

    offsets: Tensor
    parent: Tensor
    last: Tensor
    parents: Tensor
    slot: Tensor
    levels: tuple[int, ...]


def count_patterns(n_values: Sequence[int], radius: int) -> int:
    """How many patterns with at most ``radius`` changes there are on sites with these numbers of values."""
    by_changes = [1] + [0] * radius  # elementary symmetric polynomials of k − 1
    for k in n_values:
        for w in range(radius, 0, -1):
            by_changes[w] += by_changes[w - 1] * (k - 1)
    return sum(by_changes)


@lru_cache(maxsize=256)
def _patterns(n_values: tuple[int, ...], radius: int, device: torch.device) -> Patterns:
    rows: list[tuple[int, ...]] = []
    levels = []
    for changes in range(min(radius, len(n_values)) + 1):
        levels.append(len(rows))
        for sites in itertools.combinations(range(len(n_values)), changes):
            for values in itertools.product(*(range(1, n_values[i]) for i in sites)):
                row = [0] * len(n_values)
                for i, value in zip(sites, values, strict=True):
                    row[i] = value
                rows.append(tuple(row))
    number = {row: t for t, row in enumerate(rows)}
    last = [max((i for i, offset in enumerate(row) if offset), default=0) for row in rows]
    parent = [number[(*row[:i], 0, *row[i + 1:])] for row, i in zip(rows, last, strict=True)]
    parents = sorted(set(parent[1:])) or [0]
    position = {t: p for p, t in enumerate(parents)}
    slot = [position[t] for t in parent]
    parts = [torch.tensor(part, dtype=torch.int64, device=device) for part in (rows, parent, last, parents, slot)]
    return Patterns(parts[0], parts[1], parts[2], parts[3], parts[4], (*levels, len(rows)))


def check_block_settings(block_size: Any, scan: Any, conditionals: Any, max_states: Any) -> None:
    """Raise :class:`SettingError` for a wrong setting of a kernel that redraws blocks of sites."""
    for name, value in (("block_size", block_size), ("max_states", max_states)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
    if scan not in ("raster", "random"):
        raise SettingError(f"`scan` must be 'raster' or 'random'; got {scan!r}.")
    if not (isinstance(conditionals, bool) or conditionals == "auto"):
        raise SettingError(f"`conditionals` must be 'auto', True or False; got {conditionals!r}.")


def check_size(space: Any, block_size: int, radius: int, max_states: int) -> None:
    """Raise :class:`SettingError` when the largest block of ``space`` has more than ``max_states`` patterns."""
    largest = space.n_values.sort(descending=True).values[:block_size].tolist()
    n_states = count_patterns(largest, min(radius, len(largest)))
    if n_states > max_states:
        shown = str(n_states) if n_states < 10**12 else f"{math.log10(n_states):.0f} digits"
        raise SettingError(
            f"`block_size` must leave at most max_states = {max_states} joint values to look at; got {shown} for "
            f"{len(largest)} sites of up to {space.k_max} values, radius {min(radius, len(largest))}. "
            "Lower block_size, or raise max_states where there is time and memory for them."
        )


class BlockDraw(NamedTuple):
    """One block of sites of each chain, and its patterns.

    ``sites``: (S,) shared by all chains, or (C, S). ``n_values``: the same shape. ``legal``: (C, T) or (1, T) bool.
    """

    bath: HeatBath
    sites: Tensor
    n_values: Tensor
    patterns: Patterns
    legal: Tensor

    @classmethod
    def make(cls, bath: HeatBath, sites: Tensor, radices: tuple[int, ...], radius: int) -> BlockDraw:
        """``sites`` (S,) or (C, S) as above; ``radices`` (S,) how many values the patterns are made for, k or more."""
        patterns = _patterns(radices, min(radius, len(radices)), bath.x.device)
        n_values = bath.legal.sum(1)[sites]
        legal = (patterns.offsets < n_values[..., None, :]).all(-1).reshape(-1, len(patterns.offsets))
        if bath.free is not None:
            free = bath.at(bath.free, sites)
            legal = legal & ((patterns.offsets == 0) | free[:, None]).all(-1)
        return cls(bath, sites, n_values, patterns, legal)

    def uniform(self, generator: torch.Generator) -> Tensor:
        """(C, S) values of a pattern drawn uniformly from the legal ones, applied to the block as it is."""
        n_chains, n_patterns = self.bath.n_chains, len(self.patterns.offsets)
        logits = torch.zeros(n_chains, n_patterns, device=self.sites.device).masked_fill(~self.legal, -torch.inf)
        pick, _ = draw_move(logits, generator=generator)  # the empty pattern is always legal
        return (self.bath.at(self.bath.index, self.sites) + self.patterns.offsets[pick]) % self.n_values

    def redraw(self, centre: Tensor | None, generator: torch.Generator, closed_form: bool | str) -> None:
        """Draw the block from its law given the rest, among the legal patterns around ``centre`` (C, S), and write it.

        ``centre`` None: the block's own values, whose energy is known if the bath's is.
        """
        bath, current = self.bath, self.bath.at(self.bath.index, self.sites)
        around = current if centre is None else centre
        values = (around[:, None] + self.patterns.offsets) % self.n_values[..., None, :]  # (C, T, S)
        table = self._closed_form(values, closed_form)
        energies = None
        if table is None:
            energies = self._evaluate(values, known=centre is None)
            table = -energies
        weights, bad = tempered(table, bath.beta[:, None], self.legal)
        pick, possible = draw_move(weights, generator=generator)
        drawn = values.gather(1, pick[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]
        bath.write(self.sites, torch.where(possible[:, None], drawn, current))
        bath.broken = bath.broken | bad
        bath.known = energies is not None
        if energies is not None:
            bath.energies = torch.where(possible, energies.gather(1, pick[:, None])[:, 0], bath.energies)

    def _states(self, values: Tensor) -> Tensor:
        """(C·t, *shape) states with the block at ``values`` (C, t, S), all those of a chain one after the other."""
        bath, (n_chains, t, size) = self.bath, values.shape
        codes = bath.values[values, self.sites[..., None, :]]
        states = bath.x.reshape(n_chains, 1, bath.n_sites).expand(-1, t, -1).clone()
        states.scatter_(2, self.sites.reshape(-1, 1, size).expand(n_chains, t, -1), codes)
        return states.reshape(n_chains * t, *bath.x.shape[1:])

    def _parts(self, values: Tensor) -> list[Tensor]:
        return list(values.split(max(1, _ROOM // max(1, self.bath.n_chains * self.bath.n_sites)), dim=1))

    def _evaluate(self, values: Tensor, known: bool) -> Tensor:
        """(C, T) energies of the patterns' states; the first is the bath's own where that is known."""
        bath = self.bath
        first = [bath.energies[:, None]] if known and bath.known else []
        values = values[:, len(first):]
        found = [at_least_float32(evaluate_energy(bath.energy, self._states(part))).reshape(part.shape[:2])
                 for part in self._parts(values) if part.shape[1]]
        bath.calls += values.shape[1]
        return torch.cat([*first, *found], dim=1)

    def _closed_form(self, values: Tensor, closed_form: bool | str) -> Tensor | None:
        """(C, T) log weights at β = 1 up to a number per chain, by adding up changes of one site; None = evaluate.

        Conditionals are used for a shared block. Flip deltas cover every site where only the block's are wanted; they
        are taken when one table of them stands for at least 4 patterns.
        """
        energy, rows = self.bath.energy, self.patterns
        conditionals = isinstance(energy, HasConditionals) and self.sites.dim() == 1
        worth = closed_form is True or len(rows.offsets) >= 4 * len(rows.parents)
        if closed_form is False or not (conditionals or (isinstance(energy, HasFlipDeltas) and worth)):
            return None
        n_chains, size, k = self.bath.n_chains, values.shape[2], self.bath.space.k_max
        tables = [self._one_site_weights(self._states(part), conditionals).reshape(*part.shape, k)
                  for part in self._parts(values[:, rows.parents])]
        table = torch.cat(tables, dim=1).flatten(1)
        place = (rows.slot * size + rows.last) * k  # (T,)
        new = values.gather(2, rows.last[None, :, None].expand(n_chains, -1, 1))[..., 0]
        old = values[:, 0][:, rows.last]
        gain = table.gather(1, place + new) - table.gather(1, place + old)
        total = torch.zeros_like(gain)
        for low, high in itertools.pairwise(rows.levels[1:]):  # a parent has one change fewer than its children
            total[:, low:high] = total[:, rows.parent[low:high]] + gain[:, low:high]
        return total

    def _one_site_weights(self, states: Tensor, conditionals: bool) -> Tensor:
        """(B, S, K) log weights of every value of each of the block's sites at states (B, *shape)."""
        energy, sites = self.bath.energy, self.sites
        if conditionals:
            return at_least_float32(energy.conditional_logits(states, sites))
        deltas = at_least_float32(energy.flip_deltas(states))
        if sites.dim() == 1:
            return -deltas[:, sites]
        own = sites.repeat_interleave(len(states) // max(1, len(sites)), dim=0)
        return -deltas.gather(1, own[..., None].expand(-1, -1, deltas.shape[2]))
