"""How long chains remember: the autocorrelation function by FFT, and the integrated autocorrelation time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from discrete_ebm.diagnostics.blocks import Block, Metric, blocks, check_draws, per_quantity, place_of, warn
from discrete_ebm.diagnostics.convergence import autocovariance, correlations, mean_ess
from discrete_ebm.errors import SettingError

__all__ = ["autocorrelation", "autocorrelation_time"]

_LARGEST = 1 << 28  # numbers of a result, 2 GiB
_WINDOWS = ("geyer", "sokal")
_ENOUGH = 50  # autocorrelation times a chain should last for its time to be believed


def autocorrelation(draws: Tensor, max_lag: int | None = None) -> Tensor:
    """Autocorrelation ρ(t) of each chain and quantity at lags t = 0..max_lag, around the chain's own mean.

    Args:
        draws: (S, C, *quantities), any real dtype and device.
        max_lag: in kept draws, at most S − 1; None: all of them.
    Returns:
        (max_lag + 1, C, *quantities) float64, 1 at lag 0; the biased estimate (sums over S − t products divided by S),
        as in ArviZ. nan, with a :class:`DiagnosticWarning`, for a chain in which the quantity never moved.
    Raises:
        ShapeError: fewer than two dimensions. SettingError: ``max_lag`` outside 0..S − 1, or a result above 2 GiB.
    Cost: one FFT of length 2S for each chain and quantity.
    """
    check_draws(draws)
    n_draws, n_chains = draws.shape[:2]
    lags = n_draws - 1 if max_lag is None else max_lag
    if isinstance(lags, bool) or not isinstance(lags, int) or not 0 <= lags < max(n_draws, 1):
        raise SettingError(f"`max_lag` must be a whole number from 0 to S - 1 = {n_draws - 1}; got {max_lag!r}. "
                           "Keep more draws, or leave it out.")
    n = math.prod(draws.shape[2:])
    if (lags + 1) * n_chains * n > _LARGEST:
        raise SettingError(f"`max_lag` must leave at most {_LARGEST} numbers in the result; got {lags} lags of "
                           f"{n_chains} chains and {n} quantities. Lower max_lag, or look at fewer quantities.")
    result = torch.full((lags + 1, n_chains, n), math.nan, dtype=torch.float64, device=place_of(draws))
    silent = torch.zeros(n_chains, dtype=torch.int64, device=result.device)
    for where, block in blocks(draws):
        still = ~(block != block[:, :, :1]).any(-1)  # (Q, C); NaN counts as moving and stays NaN
        covariance = autocovariance(block)[..., : lags + 1]
        rho = torch.where(still[..., None], math.nan, covariance / covariance[..., :1])
        result[:, :, where] = rho.permute(2, 1, 0)
        silent += still.sum(0)
    if bool(silent.any()):
        warn(f"`autocorrelation` is nan for {int(silent.sum())} of {n_chains * n} pairs of a chain and a quantity that "
             f"never changed (most in chain {int(silent.argmax())}). Run longer, lower beta, or change the sampler.")
    return result.reshape(lags + 1, n_chains, *draws.shape[2:])


def autocorrelation_time(draws: Tensor, window: str = "geyer", c: float = 5.0) -> Tensor:
    """Integrated autocorrelation time τ = 1 + 2 Σ_t ρ(t) of each quantity, in kept draws: S·C draws are worth S·C/τ.

    All chains enter one estimate, and their disagreement counts as correlation, so τ is that of the sampler, not of
    a mode in which a chain sits.

    Args:
        draws: (S, C, *quantities), any real dtype and device.
        window: where the sum stops. "geyer": the initial positive monotone sequence, on half-chains, so that τ is
            exactly S·C / ``ess(draws, kind="mean")`` (S even, no half-chain frozen); for reversible kernels. "sokal":
            the first lag M with M >= c·τ(M), on whole chains; for any kernel.
        c: Sokal's window in units of τ; 5 loses about exp(−10) of an exponential decay's sum.
    Returns:
        (*quantities) float64; at least 1 / log10(S·C). inf, with a :class:`DiagnosticWarning`, where no chain moved.
        A warning too where chains are shorter than 50 τ: then τ is likely too small.
    Raises:
        ShapeError: fewer than two dimensions. SettingError: an unknown window, c <= 0.
    Source: Geyer 1992, section 3.3; Sokal 1997, "Monte Carlo methods in statistical mechanics", eq. 3.19 (there with
    τ/2), in the convention of emcee.
    """
    if window not in _WINDOWS:
        raise SettingError(f"`window` must be one of {', '.join(_WINDOWS)}; got {window!r}. Try 'geyer'.")
    if isinstance(c, bool) or not isinstance(c, (int, float)) or not 0 < c < math.inf:
        raise SettingError(f"`c` must be a number above 0; got {c!r}. Try 5.0.")
    metric = Metric(_geyer if window == "geyer" else lambda block: _sokal(block, c), math.inf, math.inf, math.inf)
    tau = per_quantity(draws, {"tau": metric}, "autocorrelation_time")["tau"]
    short = int((tau.isfinite() & (draws.shape[0] < _ENOUGH * tau)).sum())
    if short:
        worst = float(tau[tau.isfinite()].max())
        warn(f"`autocorrelation_time` is likely too small for {short} of {tau.numel()} quantities: chains should last "
             f"{_ENOUGH} tau; got {draws.shape[0]} draws and tau = {worst:.3g} for the slowest. Run longer.")
    return tau


def _geyer(block: Block) -> Tensor:
    return block.split.shape[1] * block.split.shape[2] / mean_ess(block)


def _sokal(block: Block, c: float) -> Tensor:
    _, n_chains, n_draws = block.values.shape
    rho = correlations(block.values)
    tau = 2 * rho.cumsum(-1) - 1  # τ(M) at every window M
    inside = torch.arange(n_draws, device=rho.device) >= c * tau
    inside[:, -1] = True
    inside[:, 0] = False
    chosen = tau.gather(1, inside.to(torch.int8).argmax(-1)[:, None])[:, 0]
    return chosen.clamp(min=1 / math.log10(n_chains * n_draws))
