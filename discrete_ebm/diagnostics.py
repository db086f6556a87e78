"""How far chains can be trusted: rank-normalised bulk ESS and split R-hat, for many quantities at once.

The formulas are those of the paper below and agree with ArviZ. The library differs where discrete chains make the usual
numbers flatter: a quantity that never moved, or that strictly alternates, has no ESS (nan, with a warning).
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from discrete_ebm.errors import ShapeError

__all__ = ["DiagnosticWarning", "ess", "rhat"]

_CHUNK = 1 << 22  # numbers worked on at once: bounds memory at about 0.3 GiB whatever the number of sites
_SHORTEST = 4  # draws per chain below which nothing can be said
_SHORTEST_PERIOD = 8  # draws per chain from which strict alternation is no accident


class DiagnosticWarning(UserWarning):
    """A diagnostic could not be computed for some quantities."""


def ess(draws: Tensor) -> Tensor:
    """Effective sample size of the mean of each quantity: rank-normalised, bulk, over all chains.

    Args:
        draws: (S, C, *quantities), any real dtype: S draws of C chains.
    Returns:
        (*quantities) float64. nan, with a :class:`DiagnosticWarning`, where no chain moved, where every chain repeats
        with period two, where a draw is not finite, or with fewer than 4 draws. Where some half-chains never moved the
        figure is at most the number of draws in those that did. Anti-correlated chains may exceed S*C.
    Raises:
        ShapeError: fewer than two dimensions.
    Source: Vehtari et al. 2021, arXiv:1903.08008, section 4; Geyer 1992 for the truncation.
    """
    return _per_quantity(draws, _ess_chunk, "ess", across_nan=True)


def rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat: the larger of bulk and folded (tail); 1 = the half-chains agree.

    Args:
        draws: (S, C, *quantities), any real dtype. One chain is enough: its halves are compared.
    Returns:
        (*quantities) float64. inf where each chain is frozen, but not all at the same value; nan, with a
        :class:`DiagnosticWarning`, in the cases of :func:`ess`.
    Raises:
        ShapeError: fewer than two dimensions.
    Source: Vehtari et al. 2021, arXiv:1903.08008, eqs. 1-4 and 14.
    """
    return _per_quantity(draws, _rhat_chunk, "rhat", across_nan=False)


def _per_quantity(draws: Tensor, chunk_function, what: str, *, across_nan: bool) -> Tensor:
    if draws.dim() < 2:
        raise ShapeError(
            f"`draws` must have shape (S, C, ...): draws, chains; got {tuple(draws.shape)}. "
            "Use draws[:, None] for one chain."
        )
    n_draws, n_chains = draws.shape[:2]
    quantities = draws.shape[2:]
    flat = draws.reshape(n_draws, n_chains, -1)
    n_quantities = flat.shape[2]
    result = torch.full((n_quantities,), math.nan, dtype=torch.float64)
    if n_draws < _SHORTEST:
        _warn(f"`{what}` needs at least {_SHORTEST} draws per chain; got {n_draws}. Raise n_steps or lower thin.")
        return result.reshape(quantities)
    width = max(1, _CHUNK // max(1, n_draws * n_chains))
    frozen = alternating = not_finite = 0
    for start in range(0, n_quantities, width):
        block = flat[:, :, start : start + width].detach().to(device="cpu", dtype=torch.float64).permute(2, 1, 0)
        finite = block.isfinite().all(-1).all(-1)
        block = torch.where(finite[:, None, None], block, torch.zeros_like(block)).contiguous()  # (Q, C, S)
        per_chain = (block == block[:, :, :1]).all(-1).all(-1)
        constant = per_chain & (block == block[:, :1, :1]).all(-1).all(-1)
        periodic = torch.zeros_like(constant)
        if n_draws >= _SHORTEST_PERIOD:
            periodic = (block[:, :, 2:] == block[:, :, :-2]).all(-1).all(-1) & ~per_chain
        silent = constant | periodic | ~finite | (per_chain if across_nan else constant)
        values = torch.full((block.shape[0],), math.nan, dtype=torch.float64)
        if not across_nan:
            values[per_chain & ~constant] = math.inf
        todo = ~silent & ~per_chain
        if bool(todo.any()):
            values[todo] = chunk_function(_split(block[todo]))
        values[silent] = math.nan
        result[start : start + width] = values
        frozen += int((silent & per_chain & finite).sum())
        alternating += int((periodic & finite).sum())
        not_finite += int((~finite).sum())
    for count, reason in (
        (frozen, "never changed in any chain"),
        (alternating, "repeat with period two in every chain"),
        (not_finite, "hold values that are not finite"),
    ):
        if count:
            _warn(f"`{what}` is nan for {count} of {n_quantities} quantities that {reason}.")
    return result.reshape(quantities)


def _warn(message: str) -> None:
    warnings.warn(message, DiagnosticWarning, stacklevel=4)


def _split(block: Tensor) -> Tensor:
    """(Q, C, S) to half-chains (Q, 2C, S // 2); the middle draw of an odd S is left out."""
    half = block.shape[-1] // 2
    return torch.cat([block[..., :half], block[..., -half:]], dim=1)


def _normal_scores(block: Tensor) -> Tensor:
    """Rank-normalise each quantity over all its draws, ties sharing their average rank (arXiv:1903.08008, eq. 14)."""
    flat = block.reshape(block.shape[0], -1)
    ordered = flat.sort(dim=-1).values
    below = torch.searchsorted(ordered, flat, right=False)
    up_to = torch.searchsorted(ordered, flat, right=True)
    average_rank = (below + up_to + 1).to(torch.float64) / 2
    return torch.special.ndtri((average_rank - 0.375) / (flat.shape[-1] + 0.25)).reshape(block.shape)


def _autocovariance(z: Tensor) -> Tensor:
    """Mean over half-chains of the biased autocovariance at every lag: (Q, L, S) to (Q, S)."""
    n_draws = z.shape[-1]
    size = 1 << (2 * n_draws - 1).bit_length()
    spectrum = torch.fft.rfft(z - z.mean(-1, keepdim=True), n=size)
    power = (spectrum.real**2 + spectrum.imag**2).mean(1)
    return torch.fft.irfft(power, n=size)[:, :n_draws] / n_draws


def _ess_chunk(split: Tensor) -> Tensor:
    """(Q, L, S) half-chains, none of the quantities constant, to (Q,)."""
    n_halves, n_draws = split.shape[1:]
    total = n_halves * n_draws
    z = _normal_scores(split)
    covariance = _autocovariance(z)
    within = covariance[:, 0] * n_draws / (n_draws - 1.0)
    variance = covariance[:, 0] + z.mean(-1).var(-1)  # L >= 2 always, chains were split
    rho = 1 - (within[:, None] - covariance) / variance[:, None]
    rho[:, 0] = 1.0
    # Geyer: pairs P_k = rho_2k + rho_2k+1 are positive and decreasing; stop at the first that is not positive.
    last_pair = max(0, math.ceil((n_draws - 4) / 2))  # beyond it the lags have almost no data
    pairs = rho[:, 0 : 2 * last_pair + 1 : 2] + rho[:, 1 : 2 * last_pair + 2 : 2]
    stops = pairs <= 0
    stops[:, last_pair] = True
    end = stops.to(torch.int8).argmax(-1)  # first pair that is left out, (Q,)
    kept = torch.arange(last_pair + 1)[None, :] < end[:, None]
    monotone = pairs.cummin(-1).values
    tail_even = rho.gather(1, (2 * end)[:, None])[:, 0]
    tail_pair = pairs.gather(1, end[:, None])[:, 0]
    tail = torch.where((tail_even > 0) | (tail_pair >= 0), tail_even, torch.zeros_like(tail_even))
    tau = -1 + 2 * torch.where(kept, monotone, torch.zeros_like(monotone)).sum(-1) + tail
    value = total / tau.clamp(min=1 / math.log10(total))
    # A frozen half-chain can agree with the others by luck; it still carries no information.
    moving = (split != split[:, :, :1]).any(-1).sum(-1)
    return torch.where(moving < n_halves, torch.minimum(value, moving.to(value.dtype) * n_draws), value)


def _rhat_chunk(split: Tensor) -> Tensor:
    """(Q, L, S) half-chains, none of the quantities constant, to (Q,)."""
    bulk = _plain_rhat(_normal_scores(split))
    flat = split.reshape(split.shape[0], -1)
    ordered = flat.sort(dim=-1).values
    middle = flat.shape[1] // 2
    median = ordered[:, middle] if flat.shape[1] % 2 else (ordered[:, middle - 1] + ordered[:, middle]) / 2
    folded = (split - median[:, None, None]).abs()
    tail = _plain_rhat(_normal_scores(folded))
    same = (folded == folded[:, :1, :1]).all(-1).all(-1)  # e.g. spins with median 0: nothing to compare
    return torch.where(same | ~(tail > bulk), bulk, tail)


def _plain_rhat(z: Tensor) -> Tensor:
    n_draws = z.shape[-1]
    between = n_draws * z.mean(-1).var(-1)
    within = z.var(-1).mean(-1)
    return torch.sqrt((between / within + n_draws - 1) / n_draws)
