"""Swendsen–Wang: bonds are drawn given the state, then every cluster of bonded sites is drawn anew as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo, beta_column
from discrete_ebm.samplers.clusters import (
    PairTerms,
    check_compiled,
    cluster_sum,
    components,
    draw_bonds,
    pair_terms,
    satisfied,
)
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import at_least_float32, free_sites, keep_finite, start

__all__ = ["SwendsenWang"]


@dataclass(frozen=True)
class SwendsenWang(Kernel):
    r"""Bonds given sites, then sites given bonds: one step draws every cluster's value from its exact conditional law.

    Ising: an edge with J s s′ > 0 is bonded with probability 1 − exp(−2β|J|), whatever the sign of J; a cluster is then
    turned over or not with odds exp(β Σ of its fields). Potts with J ≥ 0 everywhere: equal neighbours are bonded with
    1 − exp(−βJ), and a cluster takes value v with probability ∝ exp(β Σ_i h_i(v)). Potts with a negative coupling:
    the values are paired at random and each site may change to its value's partner; within a pair that is an Ising
    model of coupling J/2, of either sign. A cluster that holds a clamped site stays as it is.

    Args:
        compiled: "auto" finds the clusters with compiled code on the CPU where numba is installed, True demands it,
            False uses tensors; the results are the same to the bit.
    Invariant law: exp(−βE); reversible; rejection-free. Cost: E + N·K random numbers and one energy evaluation.
    Made for ferromagnets near their critical point. Frustrated models (spin glasses) freeze into one cluster.
    Source: Swendsen & Wang 1987, "Nonuniversal critical dynamics", eqs. 1–3; Edwards & Sokal 1988; pairs of values:
        Wang, Swendsen & Kotecký 1989, "Antiferromagnetic Potts models".
    """

    compiled: bool | str = "auto"

    def __post_init__(self) -> None:
        check_compiled(self.compiled)

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); one evaluation of the energy.

        Raises:
            CapabilityError: the energy is not Ising, Potts or a sum of them.
        """
        pair_terms(energy, "swendsen-wang")
        x, energies = start(energy, x0)
        return ChainState(x, energies, {}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """New bonds and new values of all clusters, in all C chains."""
        space, n_chains = energy.space, state.x.shape[0]
        terms, index = pair_terms(energy, "swendsen-wang"), space.to_index(state.x)
        column = beta_column(beta, state.energy)
        partner = _partners(index, terms, generator)
        bonds = draw_bonds(satisfied(index, partner, terms), column, terms, generator)
        label = components(terms.edges, bonds, space.n_sites, compiled=self.compiled)
        value = _redraw(index, partner, label, column, terms, generator)
        free = free_sites(space, clamp, n_chains)
        if free is not None:
            held = cluster_sum(label, (~free).long()).gather(1, label) > 0
            value = torch.where(held, index, value)
        x = space.from_index(value)
        x, energies, kept = keep_finite(x, at_least_float32(evaluate_energy(energy, x)), state)
        info = StepInfo(
            acceptance=kept.to(energies.dtype),
            accepted=kept,
            hamming=(x != state.x).flatten(1).sum(1),
            energy_calls=1.0,
            gradient_calls=0.0,
            non_finite=(~kept).sum(),
        )
        return ChainState(x, energies, {}, state.step + 1), info


def _partners(index: Tensor, terms: PairTerms, generator: torch.Generator) -> Tensor:
    """(C, N) the value that each site's value is paired with: the other one of two, else by a random matching of the K
    values, one for each chain (with odd K one value is its own partner)."""
    n_chains, k = index.shape[0], terms.field.shape[1]
    if k == 2:
        return 1 - index
    order = torch.empty(n_chains, k, device=index.device).exponential_(generator=generator).argsort(dim=1)
    pairs = order[:, :k - k % 2].unflatten(1, (k // 2, 2)).flip(2).flatten(1)
    partner = torch.empty_like(order).scatter_(1, order, torch.cat([pairs, order[:, k - k % 2:]], dim=1))
    return partner.gather(1, index)


def _redraw(index: Tensor, partner: Tensor, label: Tensor, beta: Tensor, terms: PairTerms,
            generator: torch.Generator) -> Tensor:
    """(C, N) values after each cluster chose among its candidates, with probability ∝ exp(β · its total field).

    Candidates: all K values where no coupling is negative (a cluster then has one value), else staying and changing to
    the partner. One value at a time, by racing exponentials: memory of one state, not of K of them.
    """
    k = terms.field.shape[1]
    any_value = (terms.weight >= 0).all()  # a tensor: to ask it would be to wait for the device
    field = terms.field.expand(index.shape[0], -1, -1)
    best = torch.full(index.shape, -torch.inf, dtype=terms.field.dtype, device=index.device)
    value = index
    for v in range(k):
        other = (index, partner)[v] if v < 2 else index
        if k > 2:
            other = torch.where(any_value, torch.full_like(index, v), other)
        total = cluster_sum(label, field.gather(2, other[..., None])[..., 0])
        score = beta[:, None] * total - torch.empty_like(total).exponential_(generator=generator).log()
        if v >= 2:
            score = torch.where(any_value, score, torch.full_like(score, -torch.inf))
        better = score > best
        best = torch.where(better, score, best)
        value = torch.where(better.gather(1, label), other, value)
    return value


register(SamplerSpec(
    name="swendsen-wang",
    build=SwendsenWang,
    summary="all clusters of an Ising or Potts model redrawn at once",
    source="Swendsen & Wang 1987",
    spaces=frozenset({"Binary", "Spin", "Categorical"}),
    needs_gradient=False,
    exact=True,
    reversible=True,
    use_when="Ising and Potts models near a critical point, where single sites take ages; weak fields only.",
))
