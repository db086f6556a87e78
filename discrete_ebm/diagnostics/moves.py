"""What the states themselves say: how far chains jump, which sites never moved, how often replicas change places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.diagnostics import blocks as _blocks
from discrete_ebm.diagnostics.blocks import check_draws, place_of
from discrete_ebm.errors import CapabilityError, ShapeError
from discrete_ebm.spaces import Ordinal, Product, Real, Space

__all__ = ["frozen", "squared_jump", "swap_rates"]


def squared_jump(x: Tensor, space: Space) -> Tensor:
    """Expected squared jump distance between consecutive draws, for each chain: larger is better, 0 = frozen.

    Nominal sites (Binary, Spin, Categorical) count 1 where they differ (Hamming distance), whatever their codes;
    Ordinal sites the squared difference of their values, Real sites of their states, in squared units of those. In a
    Product each member follows its own rule and the members are summed. Spaces of other makers: Hamming for integer
    states, squares for floats.

    Args:
        x: (S, C, *shape) states of ``space``.
    Returns:
        (C,) float64, mean over the S − 1 pairs of consecutive kept draws; nan with fewer than two draws.
    Raises:
        ShapeError: ``x`` is not (S, C, *shape).
    Source: Pasarica and Gelman 2010, "Adaptively scaling the Metropolis algorithm using expected squared jumped
    distance", eq. 1.
    """
    check_draws(x)
    if tuple(x.shape[2:]) != tuple(space.shape):
        raise ShapeError(f"`x` must have shape (S, C, {', '.join(map(str, space.shape))}) for {space!r}; got "
                         f"{tuple(x.shape)}. Pass chains.x.")
    n_draws, n_chains = x.shape[:2]
    flat, place = x.detach().reshape(n_draws, n_chains, -1), place_of(x)
    total = torch.zeros(n_chains, dtype=torch.float64, device=place)
    for member, sites in _members(space):
        part = flat[:, :, sites]
        width = max(1, _blocks.CHUNK // max(1, n_chains))
        for sub in part.split(width, dim=2):
            rows = max(1, _blocks.CHUNK // max(1, n_chains * sub.shape[2]))
            for start in range(0, n_draws - 1, rows):
                total += _jump(sub[start : start + rows + 1].to(place), member)
    return total / (n_draws - 1) if n_draws > 1 else torch.full_like(total, torch.nan)


def _members(space: Space, start: int = 0) -> Iterator[tuple[Space, slice]]:
    """The members of a space that is not a Product, with their places in the flattened state."""
    if not isinstance(space, Product):
        yield space, slice(start, start + space.n_sites)
        return
    for member, size in zip(space.spaces.values(), space.sizes, strict=True):
        yield from _members(member, start)
        start += size


def _jump(x: Tensor, space: Space) -> Tensor:
    """(C,) summed over the pairs of consecutive draws of x (s, C, n)."""
    if isinstance(space, Ordinal):
        x = space.values.to(x.device)[x.long()]
    elif not isinstance(space, Real) and (space.is_discrete or not x.is_floating_point()):
        return (x[1:] != x[:-1]).sum((0, 2)).to(torch.float64)
    return (x[1:].to(torch.float64) - x[:-1].to(torch.float64)).square().sum((0, 2))


def frozen(draws: Tensor) -> Tensor:
    """Which quantities never changed, chain by chain: (C, *quantities) bool from draws (S, C, *quantities).

    ``frozen(chains.x).flatten(1).float().mean(1)`` is the fraction of sites at which each chain stands still. With one
    draw everything counts as frozen.

    Raises:
        ShapeError: fewer than two dimensions.
    """
    check_draws(draws)
    still = torch.ones(draws.shape[1:], dtype=torch.bool, device=draws.device)
    rows = max(1, _blocks.CHUNK // max(1, still.numel()))
    for part in draws.detach().split(rows):
        still &= (part == draws[:1]).all(0)
    return still


def swap_rates(cache: Mapping[str, Any]) -> Tensor:
    """Fraction of swaps accepted between neighbouring replicas, from a tempering kernel's ``state.cache``.

    Returns:
        (C, T − 1) float64 over all steps since the kernel's ``init`` (or since its ladder was last adapted), burn-in
        included; first the pair with the chain at its own beta, then along the ladder; nan where no swap was tried.
    Raises:
        CapabilityError: the kernel keeps no replicas.
    """
    accepted, tried = (need(cache, name, "swap rates") for name in ("swap_accepted", "swap_tried"))
    place = place_of(tried)
    return accepted.to(place).to(torch.float64) / tried.to(place).to(torch.float64)


def need(cache: Mapping[str, Any], name: str, what: str) -> Tensor:
    """``cache[name]``, or a sentence that says which samplers have it."""
    if name not in cache:
        raise CapabilityError(f"`chains` must come from a tempering sampler to have {what}; got a state without "
                              f"{name!r}. Use sampler='parallel-tempering'.")
    return cache[name]
