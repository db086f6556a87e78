"""Several sweeps in one step: what ``sweeps=`` of the Gibbs kernels means, whatever does the sweeping."""

from __future__ import annotations

from collections.abc import Callable

import torch

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import ChainState, StepInfo

__all__ = ["check_sweeps", "repeated"]


def check_sweeps(value: object) -> None:
    """Raise :class:`SettingError` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingError(f"`sweeps` must be a whole number of at least 1; got {value!r}. It is sweeps per step.")


def repeated(sweep: Callable[[ChainState], tuple[ChainState, StepInfo]], state: ChainState,
             n_sweeps: int) -> tuple[ChainState, StepInfo]:
    """``n_sweeps`` transitions reported as one step: changes from first to last, mean acceptance, summed costs."""
    last, info = sweep(state)
    if n_sweeps == 1:
        return last, info
    infos = [info]
    for _ in range(n_sweeps - 1):
        last, info = sweep(last)
        infos.append(info)
    merged = StepInfo(
        acceptance=torch.stack([part.acceptance for part in infos]).mean(0),
        accepted=torch.stack([part.accepted for part in infos]).any(0),
        hamming=(last.x != state.x).flatten(1).sum(1),
        energy_calls=sum(part.energy_calls for part in infos),
        gradient_calls=sum(part.gradient_calls for part in infos),
        non_finite=torch.stack([part.non_finite for part in infos]).sum(0),
    )
    return last._replace(step=state.step + 1), merged
