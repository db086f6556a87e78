"""Which kernels a suite compares: everything in the registry that takes the energy, plug-ins included."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from discrete_ebm.energies.base import energy_device
from discrete_ebm.errors import EBMError, SettingError
from discrete_ebm.samplers import registry
from discrete_ebm.samplers.base import Kernel

__all__ = ["Contender", "contenders", "part_seed"]

NOT_COMPARED = frozenset({"alternate", "mixture", "repeat", "simulated-annealing", "sweep"})  # made of other kernels
BARKER = ("gwg", "pas", "dmala", "dlmc")  # also with t/(1+t), which the literature prefers below the critical point


@dataclass(frozen=True)
class Contender:
    """A registered sampler with settings. ``label`` names it in the tables; ``exact`` is what the registry says."""

    label: str
    name: str
    exact: bool
    settings: dict[str, Any] = field(default_factory=dict)

    def create(self, **more: Any) -> Kernel:
        """The kernel; of ``more`` only what this sampler knows."""
        known = inspect.signature(registry.spec(self.name).build).parameters
        return registry.create(self.name, **{key: value for key, value in more.items() if key in known},
                               **self.settings)


def contenders(energy: Any, wanted: Sequence[str] = (),
               left_out: Sequence[str] = ()) -> tuple[list[Contender], dict[str, str]]:
    """Kernels that take this energy, and why the others do not.

    Args:
        energy: tried with one step of two chains, so that a refusal costs nothing later.
        wanted: registered names; empty = all that are defined on the energy's space, without combinations of others.
        left_out: names that are not taken unless they are wanted.
    Returns:
        contenders in the order of their names, and {label: the kernel's own sentence} of those that refuse.
    Raises:
        RegistryError: an unknown name. SettingError: no kernel is left.
    """
    kinds = {energy.space.name} | {base.__name__ for base in type(energy.space).__mro__}
    names = sorted(dict.fromkeys(wanted)) or [
        name for name in registry.names()
        if name not in NOT_COMPARED and name not in left_out and registry.spec(name).spaces & kinds]
    found, refused = [], {}
    for name in names:
        row = registry.spec(name)
        options: list[tuple[str, dict[str, Any]]] = [(name, {})]
        if name in BARKER:
            options.append((f"{name} (barker)", {"balancing": "barker"}))
        for label, settings in options:
            contender = Contender(label, name, row.exact, settings)
            reason = _refusal(contender, energy) if row.spaces & kinds else f"not defined on {energy.space!r}"
            if reason is None:
                found.append(contender)
            else:
                refused[label] = reason
    if not found:
        raise SettingError(f"`sampler` must name a kernel that takes this suite's energy; got {', '.join(wanted)}: "
                           f"{next(iter(refused.values()), 'none is registered')} Leave it out for all.")
    return found, refused


def _refusal(contender: Contender, energy: Any) -> str | None:
    device = energy_device(energy) or torch.device("cpu")
    generator = torch.Generator(device).manual_seed(0)
    x = energy.space.random(2, torch.Generator().manual_seed(0)).to(device)
    try:
        kernel = contender.create()
        kernel.step(energy, kernel.init(energy, x, generator=generator), generator=generator)
    except EBMError as reason:
        return str(reason)
    return None


def part_seed(seed: int, name: str) -> int:
    """The seed of one part of a run: parts do not share random numbers, whichever were done before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7])
