"""What objectives ask of an energy and of data, checked once, before the first update."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_and_gradient
from discrete_ebm.errors import CapabilityError, DataError, SettingError, SpaceError

__all__ = ["check_training_data", "finite_number", "fraction", "need_differentiable", "need_discrete", "need_real",
           "need_states", "need_two_values", "whole_number"]  # fmt: skip

_log = logging.getLogger("discrete_ebm")


def need_states(name: str, data: Any) -> Tensor:
    """``data`` if it is a tensor of at least one state; :class:`DataError` otherwise."""
    if not isinstance(data, Tensor):
        raise DataError(f"`data` must be a tensor of states for objective {name!r}; got {type(data).__name__}. "
                        "Use an objective made for that collection.")
    if not len(data):
        raise DataError(f"`data` must hold at least one row for objective {name!r}; got none.")
    return data


def need_discrete(name: str, energy: Any) -> Any:
    """The energy's space if it is made of discrete sites; :class:`SpaceError` otherwise."""
    space = energy.space
    if not space.is_discrete:
        raise SpaceError(f"`energy.space` must be discrete for objective {name!r}; got {space!r}. "
                         "Use 'pcd' with sampler='langevin'.")
    _ = space.n_values  # a discrete space that is not made of sites says so itself
    return space


def need_two_values(name: str, energy: Any) -> None:
    """:class:`SpaceError` unless every site has two values."""
    space = need_discrete(name, energy)
    if space.k_max != 2:
        raise SpaceError(f"`energy.space` must have two values a site for objective {name!r}; got {space!r} with up to "
                         f"{space.k_max}. Use 'pseudo-likelihood' or 'concrete-score-matching'.")


def need_differentiable(name: str, energy: Any, data: Tensor) -> None:
    """:class:`CapabilityError` unless the energy's gradient in its encoding exists (one row is tried)."""
    try:
        energy_and_gradient(energy, data[:1])
    except CapabilityError as cause:
        raise CapabilityError(f"`energy` must be differentiable in its encoding for objective {name!r}; got "
                              f"{type(energy).__name__}, which is not. Use 'pseudo-likelihood', which needs no "
                              "gradient of the state.") from cause


def whole_number(name: str, value: Any, least: int = 1) -> None:
    """:class:`SettingError` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(f"`{name}` must be a whole number of at least {least}; got {value!r}.")


def finite_number(name: str, value: Any, *, above: float | None = None) -> None:
    """:class:`SettingError` unless ``value`` is finite and not negative (or above ``above``)."""
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not right or (value <= above if above is not None else value < 0):
        what = "not negative" if above is None else f"above {above:g}"
        raise SettingError(f"`{name}` must be finite and {what}; got {value!r}.")


def fraction(name: str, value: Any, way_out: str = "") -> None:
    """:class:`SettingError` unless 0 <= value < 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise SettingError(f"`{name}` must be at least 0 and below 1; got {value!r}. {way_out}".rstrip())


def check_training_data(space: Any, data: Any, batch_size: int) -> None:
    """Refuse data that teaches nothing; say in the log "discrete_ebm" what is unusual about the rest.

    Sites that never change are common (borders of images) and not refused: their likeliest field is infinite, so
    parameters there grow slowly and without end unless something holds them.

    Raises:
        DataError: more than one row, and all of them the same.
    """
    if not isinstance(data, Tensor) or not space.is_discrete:
        return
    constant = (data == data[:1]).all(0)
    if len(data) > 1 and bool(constant.all()):
        raise DataError(f"`data` must hold at least two different rows; got {len(data)} rows, all the same. "
                        "Look at how it was made.")
    n = int(constant.sum())
    if len(data) > 1 and n:
        first = torch.nonzero(constant.flatten())[0].item()
        _log.warning("`data` has %d of %d sites that never change (the first is site %d): their likeliest parameters "
                     "are infinite. Hold them with weight_decay or a penalty, or leave those sites out.",
                     n, constant.numel(), first)  # fmt: skip
    if len(data) < batch_size:
        _log.warning("`batch_size` is %d and `data` has %d rows: every update uses all of them.", batch_size, len(data))


def need_real(name: str, energy: Any) -> Any:
    """The energy's space if it is :class:`Real`; :class:`SpaceError` otherwise."""
    space = energy.space
    if space.name != "Real":
        raise SpaceError(f"`energy.space` must be Real for objective {name!r}; got {space!r}. "
                         "On discrete spaces use 'concrete-score-matching', 'pseudo-likelihood' or 'cnce'.")
    return space
