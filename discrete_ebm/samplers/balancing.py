"""Balancing functions g with g(t) = t·g(1/t), as functions of log t. Source: Zanella 2020, arXiv:1711.07424."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError

__all__ = ["BALANCING", "log_balancing"]

BALANCING: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": lambda log_t: 0.5 * log_t,
    "barker": torch.nn.functional.logsigmoid,  # t / (1 + t)
    "min": lambda log_t: log_t.clamp(max=0),  # min(1, t)
    "max": lambda log_t: log_t.clamp(min=0),  # max(1, t)
}


def log_balancing(name: str) -> Callable[[Tensor], Tensor]:
    """log g as a function of log t; raises :class:`SettingError` for an unknown name."""
    if name not in BALANCING:
        raise SettingError(f"`balancing` must be one of {', '.join(sorted(BALANCING))}; got {name!r}.")
    return BALANCING[name]
