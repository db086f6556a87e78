"""What :func:`discrete_ebm.sample` accepts: every check of its arguments, made once, before the first step."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_device
from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.samplers import registry
from discrete_ebm.samplers.auto import Choice, choose
from discrete_ebm.samplers.base import ChainState, Kernel
from discrete_ebm.samplers.registry import SamplerSpec

__all__ = [
    "automatic",
    "check_beta",
    "check_clamp",
    "check_device",
    "energy_device",
    "listed",
    "make_generator",
    "on_device",
    "resolve_device",
    "resolve_sampler",
    "starting_states",
    "whole",
]


_log = logging.getLogger("discrete_ebm")


def automatic(sampler: Any, energy: Any, device: torch.device | None = None) -> Choice | None:
    """What "auto" means for this energy, said to the log "discrete_ebm" (level INFO); None for any other sampler."""
    if not (isinstance(sampler, str) and sampler == "auto"):
        return None
    choice = choose(energy, device=device)
    _log.info("sampler: %s", choice)
    return choice


def resolve_sampler(sampler: str | Kernel, space: Any, energy: Any = None) -> Kernel:
    """A kernel from a name or a kernel, refused with a sentence where it is not defined on ``space``.

    "auto" needs the energy, whose capabilities decide.
    """
    choice = None if energy is None else automatic(sampler, energy)
    if choice is not None:
        sampler = choice.create()
    if isinstance(sampler, Kernel):
        kernel, row = sampler, _spec_of(sampler)
    elif isinstance(sampler, str):
        row = registry.spec(sampler)
        kernel = registry.create(sampler)
    else:
        raise SettingError(
            f"`sampler` must be a registered name or a Kernel; got {type(sampler).__name__}. "
            "Try sampler='gibbs' or sampler=de.samplers.create('gwg', balancing='barker')."
        )
    kinds = {space.name} | {base.__name__ for base in type(space).__mro__}
    if row is not None and row.spaces and not row.spaces & kinds:
        fitting = [name for name in registry.names() if registry.spec(name).spaces & {space.name}]
        way_out = f"For this space: {', '.join(fitting)}." if fitting else "No registered sampler lists this space."
        raise SettingError(
            f"`sampler` {row.name!r} must be used on {', '.join(sorted(row.spaces))}; got {space!r}. {way_out}"
        )
    return kernel


def _spec_of(kernel: Kernel) -> SamplerSpec | None:
    """The registry row that builds this kernel's class; None for a kernel that is not registered."""
    rows = (registry.spec(name) for name in registry.names())
    return next((row for row in rows if row.build is type(kernel)), None)


def make_generator(seed: int | torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on ``device`` from an int, or the given one if it is there; the global one is never touched."""
    if isinstance(seed, torch.Generator):
        if _named(seed.device) != _named(device):
            raise SettingError(
                f"`seed` must be a generator on {device}, where the chains are; got one on {seed.device}. "
                f"Make it with torch.Generator({str(device)!r})."
            )
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise SettingError(f"`seed` must be an integer of at most 63 bits or a torch.Generator; got {seed!r}.")
    return torch.Generator(device).manual_seed(seed)


def check_beta(beta: float | Tensor, n_chains: int, device: torch.device) -> float | Tensor:
    """``beta`` as a float or a (C,) tensor on the device; finite and not negative."""
    if isinstance(beta, bool) or not isinstance(beta, (int, float, Tensor)):
        raise SettingError(f"`beta` must be a number or a tensor of shape ({n_chains},); got {type(beta).__name__}.")
    if isinstance(beta, Tensor) and beta.dim():
        if beta.shape != (n_chains,):
            raise ShapeError(
                f"`beta` must be one number or have shape ({n_chains},), one per chain; "
                f"got {tuple(beta.shape)}. Match it to n_chains."
            )
        if not bool((beta.isfinite() & (beta >= 0)).all()):
            raise SettingError(
                f"`beta` must be finite and not negative; got {beta.tolist()}. "
                "To seek high energies, sample -1 * energy."
            )
        return beta.to(device)
    value = float(beta)
    if not (math.isfinite(value) and value >= 0):
        raise SettingError(
            f"`beta` must be finite and not negative; got {value}. To seek high energies, sample -1 * energy."
        )
    return value


def check_clamp(clamp: Tensor | None, x: Tensor, *, given_x0: bool) -> Tensor | None:
    """A bool mask of (*shape) or (C, *shape) on the device of x that leaves every chain a free site."""
    if clamp is None:
        return None
    shape = tuple(x.shape)
    clamp = torch.as_tensor(clamp)
    if tuple(clamp.shape) not in (shape, shape[1:]):
        raise ShapeError(
            f"`clamp` must have shape {shape[1:]} or {shape}; got {tuple(clamp.shape)}. "
            "One bool per site: True = the site is kept."
        )
    if clamp.dtype != torch.bool:
        raise SettingError(f"`clamp` must be bool, True = the site is kept; got {clamp.dtype}. Use clamp.bool().")
    if not given_x0:
        raise SettingError("`clamp` must come with `x0`, whose values the clamped sites keep; got x0=None. Pass x0.")
    whole = clamp.flatten(1) if clamp.shape == x.shape else clamp.flatten()[None]
    frozen = whole.all(dim=1)
    if bool(frozen.any()):
        which = "every site" if clamp.shape != x.shape else f"every site of chains {listed(frozen)}"
        raise SettingError(
            f"`clamp` must leave at least one free site in each chain; got {which} clamped. Set some entries to False."
        )
    return clamp.to(x.device)


def listed(mask: Tensor) -> str:
    """Indices of the True entries, at most eight of them."""
    which = mask.nonzero()[:, 0].tolist()
    return ", ".join(map(str, which[:8])) + (f" and {len(which) - 8} more" if len(which) > 8 else "")


def whole(name: str, value: Any, least: int) -> int:
    """``value`` if it is a whole number of at least ``least``; :class:`SettingError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(f"`{name}` must be a whole number of at least {least}; got {value!r}.")
    return value


def starting_states(
    space: Any, x0: Any, n_chains: int | None, generator: torch.Generator, device: torch.device
) -> Tensor:
    """States (C, *shape) on the device, validated."""
    if n_chains is not None:
        whole("n_chains", n_chains, 1)
    if x0 is None:
        return space.random(64 if n_chains is None else n_chains, generator)
    x = x0.x if isinstance(x0, ChainState) else x0
    x = x if isinstance(x, Tensor) else torch.as_tensor(x)
    if tuple(x.shape) == tuple(space.shape):
        x = x[None].expand(64 if n_chains is None else n_chains, *x.shape)
    x = space.validate(x)
    if x.shape[0] == 0 or (n_chains is not None and x.shape[0] != n_chains):
        raise ShapeError(
            f"`x0` must hold n_chains = {n_chains or 'at least 1'} states; got {x.shape[0]} (shape "
            f"{tuple(x.shape)}). Leave n_chains out to take the number from x0."
        )
    return x.to(device).contiguous()


def _named(device: torch.device) -> torch.device:
    """The device with its index, so that "cuda" and "cuda:0" compare equal."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def resolve_device(device: Any, energy: Any, seed: Any, x0: Any) -> torch.device:
    """Asked for; else where the energy is; else where the generator, else where x0 is; else the CPU."""
    if device is not None:
        return check_device(device)
    own = energy_device(energy)
    if own is not None:
        return own
    if isinstance(seed, torch.Generator):
        return seed.device
    x = x0.x if isinstance(x0, ChainState) else x0
    return x.device if isinstance(x, Tensor) else torch.device("cpu")


def check_device(device: str | torch.device) -> torch.device:
    """A device that exists here; raises :class:`SettingError` otherwise."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as cause:
        raise SettingError(f"`device` must be one that this machine has; got {device!r}. Try 'cpu'.") from cause
    return _named(place)


def on_device(energy: Any, device: torch.device) -> Any:
    """The energy, or a copy of it where it is on another device: the caller's own is not moved."""
    own = energy_device(energy)
    if own is None or _named(own) == _named(device):
        return energy
    return copy.deepcopy(energy).to(device)
