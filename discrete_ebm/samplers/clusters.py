"""What Swendsen–Wang and Wolff share: pair couplings as bond rates, random bonds, and connected components.

Both work on value indices. A pair term adds w·[x_i = x_j] to log p at β = 1: w = J for Potts and w = 2J for Ising (up
to a constant). A bond may lie on an edge that is *satisfied*: its ends are equal where w > 0, and each is what the
other would become in the move where w < 0. It is there with probability 1 − exp(−β|w|).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.energies.compose import SumEnergy
from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.potts import Potts
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.samplers.fast.switch import fused_available, fused_enabled
from discrete_ebm.samplers.single_site import at_least_float32

numba: Any
try:
    numba = import_module("numba")
except ImportError:  # the tensor version serves every device
    numba = None

__all__ = [
    "COMPILED_AVAILABLE",
    "PairTerms",
    "check_compiled",
    "cluster_sum",
    "components",
    "draw_bonds",
    "pair_terms",
    "satisfied",
]

COMPILED_AVAILABLE = numba is not None


class PairTerms(NamedTuple):
    """log p(x) = Σ_e weight_e [x_i = x_j] + Σ_i field[i, x_i] + constant, at β = 1.

    ``edges`` (2, E) int64, a pair may be there more than once; ``weight`` (E,) and ``field`` (N, K), float32 or better.
    """

    edges: Tensor
    weight: Tensor
    field: Tensor


def pair_terms(energy: Any, kernel: str) -> PairTerms:
    """The couplings and fields of an Ising or a Potts model, or of a weighted sum of them. No host sync.

    Raises:
        CapabilityError: any other energy (a subclass may add terms that clusters would not see).
    """
    members = zip(energy.weights, energy.members, strict=True) if type(energy) is SumEnergy else [(1.0, energy)]
    parts = []
    for scale, member in members:
        if type(member) is not Ising and type(member) is not Potts:
            raise CapabilityError(
                f"`energy` must be energies.Ising, energies.Potts or a sum of them for `{kernel}`; got "
                f"{type(member).__name__}. Use sampler='block-gibbs' or 'gwg'."
            )
        field, coupling, edges = member.field.detach(), member.coupling.detach(), member.edge_index
        if type(member) is Ising:
            field, coupling = torch.stack((-field, field), dim=1), 2 * coupling
        if edges is None:
            edges = _all_pairs(field.shape[0], field.device)
            coupling = (coupling[edges[0], edges[1]] + coupling[edges[1], edges[0]]) / 2
        parts.append((edges, at_least_float32(scale * coupling), at_least_float32(scale * field)))
    if len(parts) == 1:
        return PairTerms(*parts[0])
    fields = [field for _, _, field in parts]
    return PairTerms(torch.cat([edges for edges, _, _ in parts], dim=1), torch.cat([weight for _, weight, _ in parts]),
                     sum(fields[1:], start=fields[0]))


@lru_cache(maxsize=8)
def _all_pairs(n_sites: int, device: torch.device) -> Tensor:
    """(2, N(N − 1)/2) every pair once, for dense couplings: to look for the zeros would be to wait for the device."""
    return torch.triu_indices(n_sites, n_sites, offset=1, device=device)


def satisfied(index: Tensor, other: Tensor, terms: PairTerms) -> Tensor:
    """(C, E) bool: edges that may carry a bond. ``other`` (C, N): what each site would become in the move."""
    i, j = terms.edges
    here, there = index[:, i], index[:, j]
    differ = (there == other[:, i]) & (here != there)
    return torch.where(terms.weight > 0, here == there, differ)


def draw_bonds(may: Tensor, beta: Tensor, terms: PairTerms, generator: torch.Generator) -> Tensor:
    """(C, E) bool bonds on edges that may have one, each with probability 1 − exp(−β|w|); ``beta`` (C,).

    An Exponential(1) is compared with β|w|: no probability is formed that could round to 0 or 1.
    """
    rate = beta[:, None] * terms.weight.abs()
    return may & (torch.empty_like(rate).exponential_(generator=generator) < rate)


def check_compiled(compiled: Any) -> None:
    """Refuse a value of the setting ``compiled`` that is not "auto", True or False, and True without numba."""
    if not (isinstance(compiled, bool) or compiled == "auto"):
        raise SettingError(f"`compiled` must be 'auto', True or False; got {compiled!r}.")
    if compiled is True and not COMPILED_AVAILABLE:
        raise SettingError("`compiled` must be 'auto' or False without numba; got True. Install numba.")


def components(edges: Tensor, bonds: Tensor, n_sites: int, *, compiled: bool | str = "auto") -> Tensor:
    """(C, N) int64: the smallest site of the connected component that each site is in, for C sets of bonds (C, E).

    ``compiled``: "auto" or True runs a compiled union–find for tensors on the CPU (where numba is installed, and for
    "auto" unless ``fast.set_fused(False)``), False the tensor version; they return the same numbers.
    """
    wanted = fused_enabled() if compiled == "auto" else compiled
    if wanted and COMPILED_AVAILABLE and bonds.device.type == "cpu":
        labels = torch.empty(bonds.shape[0], n_sites, dtype=torch.int64)
        _union_find(edges.numpy(), bonds.contiguous().numpy(), labels.numpy())
        return labels
    return _hook_and_jump(edges, bonds, n_sites)


def _hook_and_jump(edges: Tensor, bonds: Tensor, n_sites: int) -> Tensor:
    """Components by rounds of hooking every tree's root to its smallest neighbouring root, then flattening all trees.

    A root that has a smaller neighbour hooks. One that has none is hooked to, or its neighbours have gone to a smaller
    root and the next round hooks it there: so two rounds at least halve the trees that still grow, and a tree of depth
    2^m is flat after m jumps. Rounds and jumps are thus fixed by N alone; on the CPU, where looking is free, they end
    when nothing changes (unless ``fast.set_fused(False)`` asks for what a device would do).
    Source: Liu & Tarjan 2019, "Simple concurrent labeling algorithms for connected components", algorithm S.
    """
    n_chains = bonds.shape[0]
    may_look = bonds.device.type == "cpu" and (fused_enabled() or not fused_available())
    label = torch.arange(n_sites, device=bonds.device).expand(n_chains, n_sites)
    for live in tree_bounds(n_sites):
        before = label
        a, b = label[:, edges[0]], label[:, edges[1]]
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        # without a bond a root is told of itself, which changes nothing
        label = label.scatter_reduce(1, high, torch.where(bonds, low, high), "amin", include_self=True)
        for _ in range((live - 1).bit_length()):
            label = label.gather(1, label)
        if may_look and torch.equal(label, before):
            break
    return label


@lru_cache(maxsize=64)
def tree_bounds(n_sites: int) -> tuple[int, ...]:
    """How many trees can still be growing at the start of each round: N, N, N/2, N/2, … until fewer than two can."""
    bounds, live = [], n_sites
    while live > 1:
        bounds += [live, live]
        live //= 2
    return tuple(bounds)


def _jit(fn: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(cache=True, nogil=True)(fn) if numba is not None else fn


@_jit
def _union_find(edges, bonds, labels):  # pragma: no cover - compiled
    """Fill ``labels`` (C, N) with the smallest site of each component: union by smaller root, path halving."""
    for c in range(labels.shape[0]):
        parent = labels[c]
        for i in range(parent.shape[0]):
            parent[i] = i
        for e in range(edges.shape[1]):
            if bonds[c, e]:
                a, b = edges[0, e], edges[1, e]
                while parent[a] != a:
                    parent[a] = parent[parent[a]]
                    a = parent[a]
                while parent[b] != b:
                    parent[b] = parent[parent[b]]
                    b = parent[b]
                if a < b:
                    parent[b] = a
                elif b < a:
                    parent[a] = b
        for i in range(parent.shape[0]):  # a parent is never larger than its site, so one pass in order flattens
            parent[i] = parent[parent[i]]


def cluster_sum(label: Tensor, values: Tensor) -> Tensor:
    """(C, N) sum of ``values`` (C, N) over each cluster, in the place of its label; 0 elsewhere."""
    return torch.zeros_like(values).scatter_add(1, label, values)
