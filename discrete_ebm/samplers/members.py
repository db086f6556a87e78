"""What kernels made of kernels share: how members are named, take their turns and keep what is theirs.

What a member knows about x (a cached gradient, say) is worthless once another member has moved x, so nothing of that
kind is kept between turns: before its turn a member is started anew where the chain stands, which costs what its
``init`` costs (about two more energies, or one and a gradient, a turn; nothing for those that say ``caches_x = False``,
such as Gibbs and Metropolis). What a chain's past decides (``Kernel.history``: a scale, a momentum) is kept, under the
member's number or name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers import registry
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo

__all__ = ["Member", "Several", "as_kernel", "as_kernels", "joined", "kept_cache", "turn"]

Member = Any  # a Kernel, a registered name, or (name, {setting: value})


def as_kernel(setting: str, member: Member) -> Kernel:
    if isinstance(member, Kernel):
        return member
    if isinstance(member, str):
        return registry.create(member)
    if (isinstance(member, Sequence) and len(member) == 2 and isinstance(member[0], str)
            and isinstance(member[1], Mapping)):
        return registry.create(member[0], **member[1])
    raise SettingError(f"`{setting}` must be made of kernels, registered names or (name, settings) pairs; got "
                       f"{member!r}. Try ('gwg', {{'balancing': 'barker'}}).")


def as_kernels(kernels: Any) -> tuple[Kernel, ...]:
    if isinstance(kernels, (str, Mapping)) or not isinstance(kernels, Sequence) or not kernels:
        raise SettingError(f"`kernels` must be a non-empty list of kernels or names; got {kernels!r}. "
                           "Try ['gibbs', 'gwg'].")
    return tuple(as_kernel("kernels", member) for member in kernels)


def kept_cache(member: Kernel, prefix: str, cache: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a member's own cache is kept between its turns, under ``prefix``."""
    return {f"{prefix}.{name}": value for name, value in cache.items() if name in member.history}


def turn(member: Kernel, prefix: str, energy: Any, state: ChainState, generator: torch.Generator,
          beta: float | Tensor, clamp: Tensor | None) -> tuple[ChainState, StepInfo]:
    """One step of a member from where the chain stands. The state that comes back has the member's own cache."""
    named = ((name.removeprefix(f"{prefix}."), value) for name, value in state.cache.items()
             if name.startswith(f"{prefix}."))
    own = {name: value for name, value in named if name in member.history}
    if not member.caches_x:
        return member.step(energy, state._replace(cache=own), generator=generator, beta=beta, clamp=clamp)
    fresh = member.init(energy, state.x, generator=generator, clamp=clamp)
    began = ChainState(fresh.x, fresh.energy, {**fresh.cache, **own}, state.step)
    after, info = member.step(energy, began, generator=generator, beta=beta, clamp=clamp)
    # a start evaluates the energy, and once more with its gradient or deltas
    return after, info._replace(energy_calls=info.energy_calls + 2.0,
                                gradient_calls=info.gradient_calls + (info.gradient_calls > 0))


def joined(infos: Sequence[StepInfo], before: Tensor, after: Tensor) -> StepInfo:
    """What several turns one after the other did: mean acceptance, whether any was accepted, sites changed in all."""
    return StepInfo(
        acceptance=torch.stack([info.acceptance for info in infos]).mean(0),
        accepted=torch.stack([info.accepted for info in infos]).any(0),
        hamming=(after != before).flatten(1).sum(1),
        energy_calls=sum(info.energy_calls for info in infos),
        gradient_calls=sum(info.gradient_calls for info in infos),
        non_finite=torch.stack([info.non_finite for info in infos]).sum(),
    )


class Several(Kernel):
    """Exactness and history of a kernel with members; ``_members`` are they, by the names their entries have."""

    caches_x: ClassVar[bool] = False

    @abstractmethod
    def _members(self) -> list[tuple[str, Kernel]]:
        """Every member, under the name or number that its entries in the cache begin with."""

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether every member is."""
        return all(member.exact for _, member in self._members())

    @property
    def history(self) -> frozenset[str]:  # type: ignore[override]
        """The members' entries, each under its member's number or name."""
        return frozenset(f"{prefix}.{name}" for prefix, member in self._members() for name in member.history)

    def _begin(self, energy: Any, x0: Tensor, generator: torch.Generator, clamp: Tensor | None) -> ChainState:
        """Every member is started once, so that what one of them refuses is refused before any step."""
        kept: dict[str, Tensor] = {}
        for prefix, member in self._members():
            state = member.init(energy, x0, generator=generator, clamp=clamp)
            kept |= kept_cache(member, prefix, state.cache)
        return ChainState(state.x, state.energy, kept, torch.zeros((), dtype=torch.int64))
