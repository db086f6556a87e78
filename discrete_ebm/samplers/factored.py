"""Neighbourhoods too large for one table: a site is drawn first, then one of its options, both masked and renormalised.

Same idea and same acceptor as :mod:`discrete_ebm.samplers.informed`; the proposal law is
q(site, option | x) = w(site | x)/Σ w · v(option | x, site)/Σ v, and the reverse is scored at y by the same two tables.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

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

    def displaced(self, x: Tensor, site: Tensor, option: Tensor) -> Tensor | None:
        """(C, V) bool slots whose occupant this edit adds, takes away or moves to another slot; None = never any."""
        return None

    def draw_context(self, x: Tensor, generator: torch.Generator) -> Any:
        """Auxiliary draw before the move: None or a NamedTuple of (C, …) tensors.

        Its law must be the same at x and at every y that the move can lead to.
        """
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
    neighbourhood: FactoredNeighbourhood, x: Tensor, *, generator: torch.Generator, fixed: Tensor | None = None
) -> Proposal:
    """Draw site and option at x, apply, and score the way back at y. Chains without a legal move stay.

    ``fixed`` (C, V) bool: slots whose occupant must stay; a proposal that displaces one is impossible (not redrawn).

    On the CPU, chains that turn out to have no legal site or option are dropped from the work that follows (looking is
    free there); the law is the same either way.
    """
    context = neighbourhood.draw_context(x, generator)
    sites = neighbourhood.site_weights(x, context)
    site, any_site = draw_index(sites, generator=generator)
    log_forward = _log_share(sites, site)
    live = _Live(x, site, log_forward, context).keep(any_site)
    options = neighbourhood.option_weights(live.x, live.site, live.context)
    option, any_option = draw_index(options, generator=generator)
    n_options = options.shape[-1]
    live = live._replace(log_q=live.log_q + _log_share(options, option), option=option).keep(any_option)
    extra = neighbourhood.log_multiplicity(live.x, live.site, live.option, live.context)
    log_q = live.log_q if extra is None else live.log_q + extra
    y = neighbourhood.apply(live.x, live.site, live.option, live.context)
    possible = torch.ones_like(live.site, dtype=torch.bool) if live.rows is not None else live.legal
    y = torch.where(possible.reshape(-1, *[1] * (x.dim() - 1)), y, live.x)
    back_site, back_option = neighbourhood.reverse(live.x, live.site, live.option, y, live.context)
    back_site = torch.where(possible, back_site, torch.zeros_like(back_site))
    back_option = torch.where(possible, back_option, torch.zeros_like(back_option))
    log_backward = neighbourhood.log_prob(y, back_site, back_option, live.context)
    if fixed is not None and (displaced := neighbourhood.displaced(live.x, live.site, live.option)) is not None:
        possible = possible & ~(displaced & (fixed if live.rows is None else fixed[live.rows])).any(-1)
    # running sums of a device may round up over a weight of 0: what they drew there is refused, not scored by 0/0
    possible = possible & (log_q > -math.inf)
    ratio = torch.where(possible, log_backward - log_q, torch.full_like(log_q, -math.inf))
    move = live.site * n_options + live.option
    if live.rows is None:
        return Proposal(y, move, ratio, possible)
    rows = live.rows
    return Proposal(
        x.index_put((rows,), y),
        torch.zeros_like(site).index_put((rows,), move),
        torch.full_like(log_forward, -math.inf).index_put((rows,), ratio),
        torch.zeros_like(any_site).index_put((rows,), possible),
    )


class _Live(NamedTuple):
    """Chains still in play: on the CPU only those rows (``rows``), elsewhere all of them with a mask (``legal``)."""

    x: Tensor
    site: Tensor
    log_q: Tensor
    context: Any
    option: Any = None  # Tensors (C,) once they are known
    rows: Any = None
    legal: Any = None

    def keep(self, able: Tensor) -> _Live:
        if self.x.device.type != "cpu":
            return self._replace(legal=able if self.legal is None else self.legal & able)
        if bool(able.all()):
            return self._replace(rows=torch.arange(len(able)) if self.rows is None else self.rows)
        index = able.nonzero()[:, 0]
        context = self.context
        if context is not None:
            context = type(context)(*(part[index] for part in context))
        return _Live(
            self.x[index],
            self.site[index],
            self.log_q[index],
            context,
            None if self.option is None else self.option[index],
            index if self.rows is None else self.rows[index],
        )
