"""The one acceptor of the library: Metropolis–Hastings in log space."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["metropolis_hastings", "metropolis_log_alpha", "select"]


def metropolis_log_alpha(delta_energy: Tensor, beta: Tensor, log_q_ratio: Tensor) -> Tensor:
    r"""log α = −β ΔE + log q(x|x′) − log q(x′|x), shapes (C,).

    β multiplies ΔE alone: tempering the Hastings correction changes the target (netket #2250). A state of infinite
    energy is never entered; a NaN stays NaN so that the caller can count it (it is never accepted).

    Source: Hastings 1970.
    """
    return -beta * delta_energy + log_q_ratio


def metropolis_hastings(log_alpha: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw accept/reject for (C,) log ratios: ``(accepted bool, acceptance probability)``.

    The uniform is compared in log space as −Exponential(1), at float32 or better: `rand` can return exactly 0 and in
    half precision does so often, which would bend the law.
    """
    work = log_alpha if log_alpha.dtype in (torch.float32, torch.float64) else log_alpha.float()
    threshold = -torch.empty_like(work).exponential_(generator=generator)
    accepted = work >= threshold  # False for NaN
    acceptance = work.clamp(max=0).exp()
    return accepted, torch.where(work.isnan(), torch.zeros_like(acceptance), acceptance)


def select(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` where accepted, else ``old``; ``accepted`` (C,) is broadcast over the trailing dimensions."""
    return torch.where(accepted.reshape(-1, *[1] * (new.dim() - 1)), new, old)
