"""Neighbourhoods too large for one table: a site is drawn first, then one of its options, both masked and renormalised.

Same idea and same acceptor as :mod:`discrete_ebm.samplers.informed`; the proposal law is
q(site, option | x) = w(site | x)/Σ w · v(option | x, site)/Σ v, and the reverse is scored at y by the same two tables.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.samplers.informed import Proposal

__all__ = ["FactoredNeighbourhood", "draw_index", "propose_factored", "two_sided"]


class FactoredNeighbourhood(ABC):
    """S sites with O options each at every state, and an exact reverse for every legal (site, option).

    Weights are non-negative numbers (not logs); 0 = illegal. A site may turn out to have no legal option: the chain
    then stays, which is an ordinary rejection (never a redraw).
    """

    name: str

    @abstractmethod
    def site_weights(self, x: Tensor, context: Any = None) -> Tensor:
        """(C, S) weights of the sites at states x (C, *shape)."""

    @abstractmethod
    def option_weights(self, x: Tensor, site: Tensor, context: Any = None) -> Tensor:
        """(C, O) weights of the options at one site (C,) per chain."""

    @abstractmethod
    def apply(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        """New states; what it returns where the move is illegal does not matter, but it must not raise there."""

    @abstractmethod
    def reverse(self, x: Tensor, site: Tensor, option: Tensor, y: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """(site, option) at y that lead back to x."""

    def log_multiplicity(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor | None:
        """(C,) log of the number of labelled ways this (site, option) stands for, where that is not 1."""
        return None

    def draw_context(self, x: Tensor, generator: torch.Generator) -> Any:
        """Auxiliary draw before the move, with a law that is the same at x and at every y it can lead to."""
        return None

    def log_prob(self, x: Tensor, site: Tensor, option: Tensor, context: Any = None) -> Tensor:
        """(C,) log q(site, option | x), −inf where illegal."""
        sites = self.site_weights(x, context)
        options = self.option_weights(x, site, context)
        log_q = _log_share(sites, site) + _log_share(options, option)
        extra = self.log_multiplicity(x, site, option, context)
        return log_q if extra is None else log_q + extra


def _log_share(weights: Tensor, index: Tensor) -> Tensor:
    total = weights.sum(-1)
    chosen = weights.gather(-1, index[:, None])[:, 0]
    share = torch.where(total > 0, chosen / total.clamp_min(torch.finfo(weights.dtype).tiny), torch.zeros_like(chosen))
    return share.log()


def draw_index(weights: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One index per row with probability ∝ weights (C, S): ``(index (C,), any weight > 0 (C,))``.

    Inverse of the cumulative sum with a strict comparison, so an index of weight 0 is never drawn.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    uniform = torch.rand(total.shape, generator=generator, device=weights.device, dtype=weights.dtype)
    # u·total may round up to total; just below it keeps the index inside the support
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return index.clamp_max(weights.shape[-1] - 1), total > 0


def two_sided(first: Tensor, second: Tensor) -> Tensor:
    """Site weights of a move and its opposite side by side, half of the probability to each side that has any."""
    halves = []
    for weights in (first, second):
        total = weights.sum(-1, keepdim=True)
        halves.append(weights / total.clamp_min(torch.finfo(weights.dtype).tiny))
    return torch.cat(halves, dim=-1)


def propose_factored(
    neighbourhood: FactoredNeighbourhood, x: Tensor, *, generator: torch.Generator
) -> Proposal:
    """Draw site and option at x, apply, and score the way back at y. Chains without a legal move stay."""
    context = neighbourhood.draw_context(x, generator)
    sites = neighbourhood.site_weights(x, context)
    site, any_site = draw_index(sites, generator=generator)
    options = neighbourhood.option_weights(x, site, context)
    option, any_option = draw_index(options, generator=generator)
    possible = any_site & any_option
    log_forward = _log_share(sites, site) + _log_share(options, option)
    extra = neighbourhood.log_multiplicity(x, site, option, context)
    if extra is not None:
        log_forward = log_forward + extra
    y = neighbourhood.apply(x, site, option, context)
    y = torch.where(possible.reshape(-1, *[1] * (x.dim() - 1)), y, x)
    back_site, back_option = neighbourhood.reverse(x, site, option, y, context)
    back_site = torch.where(possible, back_site, torch.zeros_like(back_site))
    back_option = torch.where(possible, back_option, torch.zeros_like(back_option))
    log_backward = neighbourhood.log_prob(y, back_site, back_option, context)
    ratio = torch.where(possible, log_backward - log_forward, torch.full_like(log_forward, -math.inf))
    return Proposal(y, site * options.shape[-1] + option, ratio, possible)
