"""Energies made of energies: sums (AND), scaling and negation (NOT, tempering), mixtures (OR), property tilts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import (
    CallableEnergy,
    Energy,
    HasConditionals,
    HasFlipDeltas,
    HasGraph,
    HasSurrogate,
    as_energy,
    energy_dtype,
    evaluate_energy,
)
from discrete_ebm.energies.pairwise import colour_classes
from discrete_ebm.errors import SettingError, SpaceError
from discrete_ebm.spaces import Encoding, Space, map_encoding

__all__ = ["Mixture", "SumEnergy", "Tilted"]


class SumEnergy(Energy):
    """E(x) = Σ_m w_m E_m(x): a product of experts, p ∝ Π_m p_m^{w_m}.

    Exact capabilities (flip deltas, conditionals, edges, blocks) are there when every member has them. A plain sum of
    two models of the same data counts what they share twice: use ``e1 + e2 - base``.

    Args:
        energies: members on equal spaces; nested sums are flattened.
        weights: one number each, default 1; negative ones negate.
    """

    def __init__(self, energies: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        weights = _weights(energies, weights)
        flat: list[tuple[float, Any]] = []
        for weight, energy in zip(weights, energies, strict=True):
            nested = isinstance(energy, SumEnergy)
            flat += [(weight * w, e) for w, e in zip(energy.weights, energy.members, strict=True)] if nested else [
                (weight, energy)]
        super().__init__(_common_space([energy for _, energy in flat]))
        self.members = nn.ModuleList([_module(energy) for _, energy in flat])
        self.weights = tuple(weight for weight, _ in flat)
        self._coloured: tuple[Tensor, list[Tensor]] | None = None
        members = list(self.members)
        # Offered on the instance only when every member can, because protocols look for the attribute.
        if all(isinstance(member, HasFlipDeltas) for member in members):
            self.flip_deltas = self._flip_deltas
        if all(isinstance(member, HasConditionals) for member in members):
            self.conditional_logits = self._conditional_logits
        if all(isinstance(member, HasGraph) for member in members):
            self.edges, self.blocks = self._edges, self._blocks
        if any(isinstance(member, HasSurrogate) for member in members):
            self.surrogate = self._surrogate

    def forward(self, encoding: Encoding) -> Tensor:
        return self._total([_call(member, encoding) for member in self.members])

    def state_energy(self, x: Tensor) -> Tensor:
        """(C,) by each member's fastest way."""
        return self._total([evaluate_energy(member, x) for member in self.members])

    def member_energies(self, x: Tensor) -> Tensor:
        """(C, members) each member's own energy, without its weight."""
        return torch.stack([evaluate_energy(member, x) for member in self.members], dim=1)

    def _total(self, parts: list[Tensor]) -> Tensor:
        return sum((weight * part for weight, part in zip(self.weights[1:], parts[1:], strict=True)),
                   start=self.weights[0] * parts[0])

    def _able(self) -> list[Any]:
        """Members, typed as having whatever capability the constructor found in all of them."""
        return list(self.members)

    def _flip_deltas(self, x: Tensor) -> Tensor:
        return self._total([member.flip_deltas(x) for member in self._able()])

    def _conditional_logits(self, x: Tensor, sites: Tensor) -> Tensor:
        return self._total([member.conditional_logits(x, sites) for member in self._able()])

    def _edges(self) -> Tensor:
        """Edges of any member, each once."""
        joined = torch.cat([member.edges() for member in self._able()], dim=1)
        return joined.sort(dim=0).values.unique(dim=1)

    def _blocks(self) -> list[Tensor]:
        edges = self._edges()
        if self._coloured is None or not torch.equal(self._coloured[0], edges.cpu()):
            self._coloured = edges.cpu(), colour_classes(self.space.n_sites, edges.cpu())
        return [sites.to(edges.device) for sites in self._coloured[1]]

    def _surrogate(self, x: Tensor) -> Tensor:
        """Cheap where a member has a surrogate, exact for the others."""
        return self._total([member.surrogate(x) if isinstance(member, HasSurrogate) else evaluate_energy(member, x)
                            for member in self.members])


class Mixture(Energy):
    """p(x) ∝ Σ_m w_m exp(−E_m(x)): likely where any member finds it likely (OR).

    Members' normalising constants count: give ``weights`` ∝ π_m / Z_m for mixture proportions π_m.

    Args:
        energies: members on equal spaces.
        weights: positive, one each, default 1.
    """

    def __init__(self, energies: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        weights = _weights(energies, weights)
        if min(weights) <= 0:
            raise SettingError(f"`weights` must be positive in a mixture; got {weights}. Drop the members with 0.")
        super().__init__(_common_space(energies))
        self.members = nn.ModuleList([_module(energy) for energy in energies])
        self.weights = tuple(weights)
        if all(isinstance(member, HasFlipDeltas) for member in self.members):
            self.flip_deltas = self._flip_deltas

    def _mix(self, energies: Tensor) -> Tensor:
        """−log Σ_m w_m exp(−E_m) over the last dimension."""
        log_weights = energies.new_tensor([math.log(weight) for weight in self.weights])
        return -(log_weights - energies).logsumexp(-1)

    def forward(self, encoding: Encoding) -> Tensor:
        return self._mix(torch.stack([_call(member, encoding) for member in self.members], dim=-1))

    def state_energy(self, x: Tensor) -> Tensor:
        """(C,) by each member's fastest way."""
        return self._mix(self.member_energies(x))

    def member_energies(self, x: Tensor) -> Tensor:
        """(C, members) each member's own energy."""
        return torch.stack([evaluate_energy(member, x) for member in self.members], dim=-1)

    def _flip_deltas(self, x: Tensor) -> Tensor:
        here, members = self.member_energies(x), list[Any](self.members)
        deltas = torch.stack([member.flip_deltas(x) for member in members], dim=-1)
        return self._mix(here[:, None, None] + deltas) - self._mix(here)[:, None, None]


class Tilted(Energy):
    """E(x) − strength·f(x): p tilted towards large values of a property, p(x)·exp(strength·f(x)).

    Args:
        energy: the base.
        prop: f, ``f(encoding) -> (C,)``, differentiable where gradients should see it; or of states, see below.
        strength: per unit of f, in nats.
        of_states: f takes states (C, *shape) and is not differentiable: gradients then see the base alone, which a
            kernel that accepts and rejects stays exact with.
    """

    def __init__(self, energy: Any, prop: Callable[[Any], Tensor], strength: float, *, of_states: bool = False) -> None:
        super().__init__(as_energy(energy).space)
        if not callable(prop):
            raise SettingError(f"`prop` must be callable, prop(encoding) -> (C,); got {prop!r}. Pass a function.")
        self.base = _module(energy)
        self.prop = prop
        self.strength = float(strength)
        self.of_states = of_states

    def forward(self, encoding: Encoding) -> Tensor:
        if not self.of_states:
            return self.base(encoding) - self.strength * self.prop(encoding)
        with torch.no_grad():
            value = self.prop(self.space.decode(map_encoding(torch.detach, encoding)))
        return _call(self.base, encoding) - self.strength * value

    def state_energy(self, x: Tensor) -> Tensor:
        """(C,) by the base's fastest way."""
        seen = x if self.of_states else self.space.encode_as(x, energy_dtype(self))
        return evaluate_energy(self.base, x) - self.strength * self.prop(seen)


def _weights(energies: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    if len(energies) == 0:
        raise SettingError("`energies` must have at least one member; got none. Pass [energy, ...].")
    numbers = [1.0] * len(energies) if weights is None else [float(weight) for weight in weights]
    if len(numbers) != len(energies) or not all(math.isfinite(number) for number in numbers):
        raise SettingError(f"`weights` must be one finite number for each of {len(energies)} energies; got {numbers}. "
                           "Leave it out for 1 each.")
    return numbers


def _common_space(energies: Sequence[Any]) -> Space:
    spaces = [as_energy(energy).space for energy in energies]
    for space in spaces[1:]:
        if space != spaces[0]:
            raise SpaceError(f"`energies` must share one space; got {spaces[0]!r} and {space!r}. "
                             "Build both on the same space; Binary and Spin are different encodings.")
    return spaces[0]


def _module(energy: Any) -> nn.Module:
    return energy if isinstance(energy, nn.Module) else CallableEnergy(energy, energy.space)


def _call(member: nn.Module, encoding: Encoding) -> Tensor:
    """A member's energy with the encoding in the dtype of its own parameters."""
    dtype = energy_dtype(member)
    return member(encoding if dtype is None else map_encoding(lambda part: part.to(dtype), encoding))
