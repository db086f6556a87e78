"""Draws in parts: one walk over the quantities that bounds memory, sets aside what never moved, and warns once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from discrete_ebm.chain_inputs import listed
from discrete_ebm.errors import ShapeError, SpaceError

__all__ = ["Block", "DiagnosticWarning", "Metric", "blocks", "check_draws", "per_quantity", "warn"]

CHUNK = 1 << 21  # numbers worked on at once: see `blocks`
SHORTEST = 4  # draws per chain below which nothing can be said
SHORTEST_PERIOD = 8  # draws per chain from which strict alternation is no accident
_WAY_OUT = (
    "Free clamped sites, start elsewhere (x0), lower beta, run longer, or choose a sampler that moves more "
    "(de.samplers.names())."
)


class DiagnosticWarning(UserWarning):
    """A diagnostic could not be computed for some quantities, or rests on chains that hardly moved."""


class Metric(NamedTuple):
    """One figure per quantity: ``function`` of a :class:`Block` gives (Q,), and what stands in where nothing can be
    estimated: ``constant`` (no chain moved, all agree), ``stuck`` (no chain moved, they differ), ``periodic``."""

    function: Callable[[Block], Tensor]
    constant: float
    stuck: float
    periodic: float
    always: bool = False  # the function is defined for quantities that never moved, too


class Block:
    """Some quantities, with the pieces that several figures share. ``values`` (Q, C, S) float64, contiguous."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @cached_property
    def split(self) -> Tensor:
        """(Q, 2C, S // 2) half-chains; the middle draw of an odd S is left out."""
        half = self.values.shape[-1] // 2
        return torch.cat([self.values[..., :half], self.values[..., -half:]], dim=1)

    @cached_property
    def scores(self) -> Tensor:
        """Rank-normalised half-chains (Q, 2C, S // 2)."""
        return normal_scores(self.split)

    @cached_property
    def ordered(self) -> Tensor:
        """(Q, C·S) all draws in increasing order."""
        return self.values.flatten(1).sort(dim=-1).values

    @cached_property
    def mean(self) -> Tensor:
        """(Q,)"""
        return self.values.mean((1, 2))

    @cached_property
    def squares(self) -> Tensor:
        """(Q, C, S) squared distance from the mean over all chains."""
        return (self.values - self.mean[:, None, None]).square()

    @cached_property
    def moving(self) -> Tensor:
        """(Q,) number of half-chains in which the quantity took more than one value."""
        return (self.split != self.split[:, :, :1]).any(-1).sum(-1)


def normal_scores(block: Tensor) -> Tensor:
    """Rank-normalise each quantity over all its draws, ties sharing their average rank (arXiv:1903.08008, eq. 14)."""
    flat = block.reshape(block.shape[0], -1)
    ordered = flat.sort(dim=-1).values
    below = torch.searchsorted(ordered, flat, right=False)
    up_to = torch.searchsorted(ordered, flat, right=True)
    average_rank = (below + up_to + 1).to(torch.float64) / 2
    return torch.special.ndtri((average_rank - 0.375) / (flat.shape[-1] + 0.25)).reshape(block.shape)


def check_draws(draws: Tensor) -> None:
    """Refuse what is not (S, C, ...) of numbers."""
    if not isinstance(draws, Tensor) or draws.dim() < 2:
        got = tuple(draws.shape) if isinstance(draws, Tensor) else type(draws).__name__
        raise ShapeError(
            f"`draws` must be a tensor of shape (S, C, ...): draws, chains; got {got}. Use draws[:, None] for one."
        )
    if draws.is_complex():
        raise SpaceError(f"`draws` must hold real numbers; got {draws.dtype}. Look at draws.real and draws.imag.")


def place_of(draws: Tensor) -> torch.device:
    """Where to compute: with the draws, or on the CPU where their device has no float64."""
    return torch.device("cpu") if draws.device.type == "mps" else draws.device


def blocks(draws: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Parts (Q, C, S) float64 of draws (S, C, *quantities), with the quantities they hold.

    Bound: a part has max(2²¹, C·S) numbers and the figures of this package use at most 25 float64 per number of it,
    so beside the draws they need max(0.4 GB, 200 bytes · C · S), whatever the number of quantities.
    """
    n_draws, n_chains = draws.shape[:2]
    flat = draws.detach().reshape(n_draws, n_chains, -1)
    width = max(1, CHUNK // max(1, n_draws * n_chains))
    place = place_of(draws)
    for start in range(0, flat.shape[2], width):
        part = flat[:, :, start : start + width].to(place)
        yield slice(start, start + width), part.permute(2, 1, 0).to(torch.float64).contiguous()


class _Tally:
    """What was set aside, for the warnings."""

    def __init__(self, n_chains: int, place: torch.device) -> None:
        self.constant = self.stuck = self.periodic = self.not_finite = 0
        self.where: list[int] = []
        self.moved = torch.zeros(n_chains, dtype=torch.bool, device=place)
        self.frozen_pairs = torch.zeros(n_chains, dtype=torch.int64, device=place)
        self.finite = self.live = 0


def per_quantity(draws: Tensor, metrics: Mapping[str, Metric], what: str) -> dict[str, Tensor]:
    """Each metric for each quantity, (*quantities) float64, with warnings under the name ``what``."""
    check_draws(draws)
    n_draws, n_chains = draws.shape[:2]
    place, quantities = place_of(draws), draws.shape[2:]
    n = math.prod(quantities)
    result = {name: torch.full((n,), math.nan, dtype=torch.float64, device=place) for name in metrics}
    if n_chains < 1 or n_draws < SHORTEST:
        got = f"{n_draws} draws of {n_chains} chains"
        warn(f"`{what}` needs at least {SHORTEST} draws per chain of a chain or more; got {got}. "
             "Raise n_steps or lower thin.")
        return {name: column.reshape(quantities) for name, column in result.items()}
    tally = _Tally(n_chains, place)
    for where, block in blocks(draws):
        finite = block.isfinite().flatten(1).all(-1)
        if not bool(finite.all()):
            block = torch.where(finite[:, None, None], block, torch.zeros_like(block))
        still = (block == block[:, :, :1]).all(-1)  # (Q, C)
        frozen = still.all(-1) & finite
        constant = frozen & (block[:, :, 0] == block[:, :1, 0]).all(-1)
        periodic = torch.zeros_like(constant)
        if n_draws >= SHORTEST_PERIOD:
            periodic = (block[:, :, 2:] == block[:, :, :-2]).flatten(1).all(-1) & ~still.all(-1) & finite
        todo = finite & ~frozen & ~periodic
        everything = bool(todo.all())
        own = Block(block if everything else block[todo]) if bool(todo.any()) else None
        for name, metric in metrics.items():
            column = result[name][where]
            if metric.always:
                column[finite] = metric.function(own if everything and own else Block(block[finite]))
                continue
            column[frozen] = metric.stuck
            column[constant] = metric.constant
            column[periodic] = metric.periodic
            if own is not None:
                column[todo] = metric.function(own)
        _count(tally, where.start, constant, frozen & ~constant, periodic, finite, still)
    first = next(iter(metrics.values()))
    _complain(what, first, tally, n_draws, quantities)
    return {name: column.reshape(quantities) for name, column in result.items()}


def _count(tally: _Tally, start: int, constant: Tensor, stuck: Tensor, periodic: Tensor, finite: Tensor,
           still: Tensor) -> None:
    if len(tally.where) < 4 and bool(constant.any()):
        tally.where += (start + constant.nonzero()[:4, 0]).tolist()
    live = finite & ~constant & ~stuck
    tally.constant += int(constant.sum())
    tally.stuck += int(stuck.sum())
    tally.periodic += int(periodic.sum())
    tally.not_finite += int((~finite).sum())
    tally.finite += int(finite.sum())
    tally.live += int(live.sum())
    tally.moved |= (~still & finite[:, None]).any(0)
    tally.frozen_pairs += (still & live[:, None]).sum(0)


def _complain(what: str, metric: Metric, tally: _Tally, n_draws: int, quantities: torch.Size) -> None:
    n, asleep = math.prod(quantities), ~tally.moved
    n_chains, none_moved = len(asleep), bool(asleep.all()) and tally.finite > 0
    if tally.finite and bool(asleep.any()):
        value = metric.constant if not tally.stuck else metric.stuck
        result = f"`{what}` is {value:g}: " if none_moved else f"`{what}`: "
        effect = "" if none_moved else ", so they count for nothing"
        warn(f"{result}chains {listed(asleep)} of {n_chains} never changed in {n_draws} draws{effect}. {_WAY_OUT}")
    if tally.constant and not none_moved:
        spots = ", ".join(_spot(index, quantities) for index in tally.where[:4])
        more = ", ..." if tally.constant > 4 else ""
        warn(f"`{what}` is {metric.constant:g} for {tally.constant} of {n} quantities that never changed in any of "
             f"{n_chains} chains (at {spots}{more}). {_WAY_OUT}")
    if tally.stuck and not none_moved:
        warn(f"`{what}` is {metric.stuck:g} for {tally.stuck} of {n} quantities that never changed within a chain, "
             f"though the {n_chains} chains differ. {_WAY_OUT}")
    awake = int(tally.moved.sum())
    pairs = int(tally.frozen_pairs[tally.moved].sum())
    if tally.live > 1 and 2 * pairs > awake * tally.live:
        worst = torch.where(tally.moved, tally.frozen_pairs, -1).argmax()
        warn(f"`{what}`: {pairs / (awake * tally.live):.0%} of the pairs of a chain and a quantity never changed in "
             f"{n_draws} draws (most in chain {int(worst)}), so the figures rest on few moves. {_WAY_OUT}")
    if tally.periodic:
        warn(f"`{what}` is {metric.periodic:g} for {tally.periodic} of {n} quantities that repeat with period two in "
             "every chain. Use an odd thin or a lazy sampler.")
    if tally.not_finite:
        warn(f"`{what}` is nan for {tally.not_finite} of {n} quantities that hold values that are not finite. "
             "Leave those draws out.")


def _spot(index: int, quantities: torch.Size) -> str:
    """A flat index as the position that a user would write."""
    position = []
    for size in reversed(quantities):
        index, rest = divmod(index, size)
        position.append(rest)
    return "(" + ", ".join(map(str, reversed(position))) + ")"


def warn(message: str) -> None:
    """A :class:`DiagnosticWarning` at the caller of the package."""
    warnings.warn(message, DiagnosticWarning, stacklevel=5)
