"""Effective sample sizes, Monte Carlo standard errors and R-hat, for many quantities at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.diagnostics.blocks import Block, Metric, normal_scores, per_quantity
from discrete_ebm.errors import CapabilityError, SettingError

__all__ = ["ess", "mcse", "rhat"]

_ESS_KINDS = ("bulk", "tail", "mean", "sd", "median", "quantile")
_MCSE_KINDS = ("mean", "sd", "median", "quantile")


def ess(draws: Tensor, kind: str = "bulk", prob: float | None = None) -> Tensor:
    """Effective sample size of each quantity, over all chains.

    Args:
        draws: (S, C, *quantities), any real dtype and device: S draws of C chains.
        kind: "bulk" (rank-normalised: the usual one), "tail" (the smaller of the ESS of two quantiles, 5 % and 95 %, or
            ``prob`` and 1 − ``prob``), "mean", "sd", "median" or "quantile" (at ``prob``): of that estimate.
        prob: between 0 and 1, for "quantile" and "tail".
    Returns:
        (*quantities) float64 on the draws' device. 0, with a :class:`DiagnosticWarning` that names the chains, where no
        chain moved or every chain repeats with period two; nan, with a warning, where a draw is not finite or with
        fewer than 4 draws. Where some half-chains never moved, bulk and mean are at most the number of draws in those
        that did (the one place below ArviZ). Anti-correlated chains may exceed S·C.
        Of discrete quantities with most mass at their largest value, no draw lies above the quantiles: then the
        event x < quantile is looked at, where ArviZ would count every draw as effective.
    Raises:
        ShapeError: fewer than two dimensions. SettingError: an unknown kind, or a ``prob`` outside (0, 1).
    Source: Vehtari et al. 2021, arXiv:1903.08008, sections 3 and 4; Geyer 1992 for the truncation.
    """
    return per_quantity(draws, {"ess": ess_metric(kind, prob)}, "ess")["ess"]


def mcse(draws: Tensor, kind: str = "mean", prob: float | None = None) -> Tensor:
    """Monte Carlo standard error of an estimate of each quantity, in the quantity's own units.

    Args:
        draws: (S, C, *quantities). kind: "mean", "sd", "median" or "quantile" (at ``prob``).
        prob: between 0 and 1, for "quantile". Quantiles need SciPy.
    Returns:
        (*quantities) float64: sd / sqrt(ESS) for the mean; inf, with a warning, where :func:`ess` is 0 (nothing bounds
        the error of chains that never moved); nan where it is nan.
    Raises:
        ShapeError, SettingError: as :func:`ess`. CapabilityError: SciPy is missing.
    Source: Vehtari et al. 2021, arXiv:1903.08008, section 4.3; Kenney and Keeping 1951 for the sd.
    """
    return per_quantity(draws, {"mcse": mcse_metric(kind, prob)}, "mcse")["mcse"]


def rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat: the larger of bulk and folded (tail); 1 = the half-chains agree.

    Args:
        draws: (S, C, *quantities), any real dtype and device. One chain is enough: its halves are compared.
    Returns:
        (*quantities) float64. inf where each chain is frozen, but not all at the same value; nan where all are, where
        every chain repeats with period two, where a draw is not finite, or with fewer than 4 draws; each with a
        :class:`DiagnosticWarning`.
    Raises:
        ShapeError: fewer than two dimensions.
    Source: Vehtari et al. 2021, arXiv:1903.08008, eqs. 1-4 and 14.
    """
    return per_quantity(draws, {"rhat": RHAT}, "rhat")["rhat"]


def ess_metric(kind: str = "bulk", prob: float | None = None) -> Metric:
    """The metric of :func:`ess`, its arguments checked."""
    prob = _check(kind, prob, _ESS_KINDS, ("quantile", "tail"), optional="tail")
    functions: dict[str, Callable[[Block], Tensor]] = {
        "bulk": lambda block: _capped(effective(block.scores), block),
        "mean": mean_ess,
        "sd": sd_ess,
        "tail": lambda block: tail_ess(block, 0.05 if prob is None else prob),
        "median": lambda block: quantile_ess(block, 0.5),
        "quantile": lambda block: quantile_ess(block, 0.5 if prob is None else prob),
    }
    return Metric(functions[kind], 0.0, 0.0, 0.0)


def mcse_metric(kind: str = "mean", prob: float | None = None) -> Metric:
    """The metric of :func:`mcse`, its arguments checked."""
    prob = _check(kind, prob, _MCSE_KINDS, ("quantile",))
    if kind == "mean":
        function: Callable[[Block], Tensor] = _mcse_mean
    elif kind == "sd":
        function = _mcse_sd
    else:
        beta = _scipy_beta()
        level = 0.5 if prob is None else prob
        function = lambda block: _mcse_quantile(block, level, beta)  # noqa: E731
    return Metric(function, math.inf, math.inf, math.inf)


def _check(kind: str, prob: float | None, kinds: tuple[str, ...], takers: tuple[str, ...],
           optional: str = "") -> float | None:
    if kind not in kinds:
        raise SettingError(f"`kind` must be one of {', '.join(kinds)}; got {kind!r}. Try {kinds[0]!r}.")
    if prob is None and kind in takers and kind != optional:
        raise SettingError(f"`prob` must be given for kind={kind!r}; got None. Try prob=0.9.")
    if prob is not None and kind not in takers:
        raise SettingError(f"`prob` must be left out for kind={kind!r}; got {prob!r}. Use kind='quantile'.")
    if prob is not None and (isinstance(prob, bool) or not isinstance(prob, (int, float)) or not 0 < prob < 1):
        raise SettingError(f"`prob` must be a number between 0 and 1; got {prob!r}. Try 0.9.")
    return prob


def _scipy_beta() -> Any:
    try:
        from scipy.stats import beta
    except ImportError as cause:
        raise CapabilityError(
            "`mcse` of a quantile needs scipy; it is not installed. Install it with: pip install scipy."
        ) from cause
    return beta


# -- effective sample size ------------------------------------------------------------------------------------------


def autocovariance(z: Tensor) -> Tensor:
    """Biased autocovariance of each row at every lag: (..., S) to (..., S)."""
    return _inverse_power(_power(z), z.shape[-1])


def _power(z: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(z - z.mean(-1, keepdim=True), n=_padded(z.shape[-1]))
    return spectrum.real.square_() + spectrum.imag.square_()


def _inverse_power(power: Tensor, n_draws: int) -> Tensor:
    return torch.fft.irfft(power, n=_padded(n_draws))[..., :n_draws] / n_draws


def _padded(n_draws: int) -> int:
    return 1 << (2 * n_draws - 1).bit_length()


def correlations(chains: Tensor) -> Tensor:
    """ρ at every lag from several chains, (Q, L, S) to (Q, S): disagreement between chains counts as correlation."""
    n_draws = chains.shape[-1]
    covariance = _inverse_power(_power(chains).mean(1), n_draws)
    within = covariance[:, 0] * n_draws / (n_draws - 1.0)
    variance = covariance[:, 0]
    if chains.shape[1] > 1:
        variance = variance + chains.mean(-1).var(-1)
    rho = 1 - (within[:, None] - covariance) / variance[:, None]
    rho[:, 0] = 1.0
    return rho


def effective(split: Tensor) -> Tensor:
    """Half-chains (Q, L, S), none of the quantities constant, to (Q,)."""
    n_halves, n_draws = split.shape[1:]
    total = n_halves * n_draws
    rho = correlations(split)
    # Geyer: pairs P_k = rho_2k + rho_2k+1 are positive and decreasing; stop at the first that is not positive.
    last_pair = max(0, math.ceil((n_draws - 4) / 2))  # beyond it the lags have almost no data
    pairs = rho[:, 0 : 2 * last_pair + 1 : 2] + rho[:, 1 : 2 * last_pair + 2 : 2]
    stops = pairs <= 0
    stops[:, last_pair] = True
    end = stops.to(torch.int8).argmax(-1)  # first pair that is left out, (Q,)
    kept = torch.arange(last_pair + 1, device=split.device)[None, :] < end[:, None]
    monotone = pairs.cummin(-1).values
    tail_even = rho.gather(1, (2 * end)[:, None])[:, 0]
    tail_pair = pairs.gather(1, end[:, None])[:, 0]
    tail = torch.where((tail_even > 0) | (tail_pair >= 0), tail_even, torch.zeros_like(tail_even))
    tau = -1 + 2 * torch.where(kept, monotone, torch.zeros_like(monotone)).sum(-1) + tail
    return total / tau.clamp(min=1 / math.log10(total))


def _capped(value: Tensor, block: Block) -> Tensor:
    """A frozen half-chain can agree with the others by luck; it still carries no information."""
    n_halves, n_draws = block.split.shape[1:]
    bound = block.moving.to(value.dtype) * n_draws
    return _or_none(torch.where(block.moving < n_halves, torch.minimum(value, bound), value), block)


def _or_none(value: Tensor, block: Block) -> Tensor:
    """0 where only the middle draw of an odd number differs: no half-chain holds it."""
    return torch.where(block.moving == 0, torch.zeros_like(value), value)


def mean_ess(block: Block) -> Tensor:
    """ESS of the mean."""
    return _capped(effective(block.split), block)


def sd_ess(block: Block) -> Tensor:
    """ESS of the standard deviation: that of (x − mean)²."""
    squares = Block(block.squares).split
    value = effective(squares)
    flat = squares.flatten(1)
    level = flat.amax(-1) - flat.amin(-1) < 1e-15
    # Two values in equal shares: the squares say nothing, and near equal shares their ESS is that of the mean.
    return torch.where(level, mean_ess(block), value) if bool(level.any()) else value


def tail_ess(block: Block, prob: float) -> Tensor:
    """The smaller ESS of two quantiles; a side on which nothing lies leaves the other to decide."""
    low, low_empty = _event_ess(block, prob)
    high, high_empty = _event_ess(block, 1 - prob)
    both = low_empty & high_empty
    total = float(block.split.shape[1] * block.split.shape[2])
    low = torch.where(low_empty & ~both, total, low)
    high = torch.where(high_empty & ~both, total, high)
    return torch.minimum(low, high)


def quantile_ess(block: Block, prob: float) -> Tensor:
    """ESS of the quantile at ``prob``."""
    return _event_ess(block, prob)[0]


def quantile(ordered: Tensor, prob: float) -> Tensor:
    """(Q,) quantiles of sorted rows (Q, n) by linear interpolation (type 7), in the order of operations of SciPy's
    mquantiles, because a rounding of the last bit moves tied draws across it."""
    n = ordered.shape[1]
    place = n * prob + (1 - prob)
    below = math.floor(min(max(place, 1), n - 1))
    share = min(max(place - below, 0.0), 1.0)
    return (1.0 - share) * ordered[:, below - 1] + share * ordered[:, below]


def _event_ess(block: Block, prob: float) -> tuple[Tensor, Tensor]:
    """ESS of the event x <= quantile, and whether it always holds (then that of x < quantile, at most S·C)."""
    limit = quantile(block.ordered, prob)[:, None, None]
    event = (block.split <= limit).to(torch.float64)
    # on the half-chains: the middle draw of an odd S may have been the only one beyond the quantile
    silent = event.flatten(1).amin(-1) == event.flatten(1).amax(-1)
    total = float(event.shape[1] * event.shape[2])
    if bool(silent.any()):
        strict = (block.split < limit).to(torch.float64)
        event = torch.where(silent[:, None, None], strict, event)
        still = event.flatten(1).amin(-1) == event.flatten(1).amax(-1)
        noise = torch.where(still[:, None, None], block.split, event)  # nothing at the edge: the quantity itself
        value = effective(noise)
        return _or_none(torch.where(silent, value.clamp(max=total), value), block), silent
    return effective(event), silent


# -- standard errors --------------------------------------------------------------------------------------------------


def _mcse_mean(block: Block) -> Tensor:
    return block.values.flatten(1).std(-1) / mean_ess(block).sqrt()


def _mcse_sd(block: Block) -> Tensor:
    flat = block.squares.flatten(1)
    variance = flat.mean(-1)
    spread = (flat.square().mean(-1) - variance.square()).clamp(min=0)
    return (spread / sd_ess(block) / variance / 4).sqrt()


def _mcse_quantile(block: Block, prob: float, beta: Any) -> Tensor:
    """Half the width of a central 68 % interval of the quantile, from the Beta law of its rank."""
    ordered = block.ordered
    n = ordered.shape[1]
    size = quantile_ess(block, prob).cpu().numpy()
    ends = []
    for level, round_to in ((0.1586553, math.floor), (0.8413447, math.ceil)):
        rank = beta.ppf(level, size * prob + 1, size * (1 - prob) + 1) * n - 1
        index = [round_to(min(max(float(value), 0), n - 1)) for value in rank]
        column = torch.tensor(index, device=ordered.device, dtype=torch.int64)
        ends.append(ordered.gather(1, column[:, None])[:, 0])
    return (ends[1] - ends[0]) / 2


# -- R-hat ------------------------------------------------------------------------------------------------------------


def _rhat(block: Block) -> Tensor:
    split = block.split
    bulk = _plain_rhat(block.scores)
    flat = split.flatten(1)
    ordered = block.ordered if flat.shape[1] == block.ordered.shape[1] else flat.sort(dim=-1).values
    middle = flat.shape[1] // 2  # the number of half-chain draws is even
    median = (ordered[:, middle - 1] + ordered[:, middle]) / 2
    folded = (split - median[:, None, None]).abs()
    tail = _plain_rhat(normal_scores(folded))
    same = (folded == folded[:, :1, :1]).flatten(1).all(-1)  # e.g. spins with median 0: nothing to compare
    return torch.where(same | ~(tail > bulk), bulk, tail)


def _plain_rhat(z: Tensor) -> Tensor:
    n_draws = z.shape[-1]
    between = n_draws * z.mean(-1).var(-1)
    within = z.var(-1).mean(-1)
    return torch.sqrt((between / within + n_draws - 1) / n_draws)


RHAT = Metric(_rhat, math.nan, math.inf, math.nan)
