"""Energies made of energies: sums (AND), mixtures (OR), negation (NOT), weights and temperatures, property tilts."""

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

__all__ = ["Exclusion", "Mixture", "SumEnergy", "Tilted", "conjunction", "disjunction", "expert_factors", "negation"]


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
    """p(x) ∝ Σ_m w_m exp(−E_m(x)/T_m): likely where any member finds it likely (OR).

    Members' normalising constants count: give ``weights`` ∝ π_m / Z_m for mixture proportions π_m, or let
    :func:`disjunction` do so.

    Args:
        energies: members on equal spaces.
        weights: positive, one each, default 1.
        temperatures: T_m above 0, one each, default 1.
        log_weights: the same as logs, where exp would overflow; in place of ``weights``.
    """

    def __init__(self, energies: Sequence[Any], weights: Sequence[float] | None = None,
                 temperatures: Sequence[float] | None = None, *, log_weights: Sequence[float] | None = None) -> None:
        if log_weights is None:
            weights = _weights(energies, weights)
            if min(weights) <= 0:
                raise SettingError(f"`weights` must be positive in a mixture; got {weights}. Drop the members with 0.")
            log_weights = [math.log(weight) for weight in weights]
        elif weights is not None:
            raise SettingError("`weights` must be None where `log_weights` is given; got both. Give one of them.")
        super().__init__(_common_space(energies))
        self.members = nn.ModuleList([_module(energy) for energy in energies])
        self.log_weights = tuple(_weights(energies, log_weights, "log_weights"))
        self.temperatures = tuple(_temperatures(energies, temperatures))
        if all(isinstance(member, HasFlipDeltas) for member in self.members):
            self.flip_deltas = self._flip_deltas

    def _mix(self, energies: Tensor) -> Tensor:
        """−log Σ_m w_m exp(−E_m/T_m) over the last dimension."""
        return -self._scores(energies).logsumexp(-1)

    def _scores(self, energies: Tensor) -> Tensor:
        return energies.new_tensor(self.log_weights) - energies / energies.new_tensor(self.temperatures)

    @property
    def weights(self) -> tuple[float, ...]:
        """w_m; may overflow where ``log_weights`` does not."""
        return tuple(math.exp(number) if number < 700 else math.inf for number in self.log_weights)

    def responsibilities(self, x: Tensor) -> Tensor:
        """(C, members) probability that a state came from each member, rows sum to 1."""
        return self._scores(self.member_energies(x)).softmax(-1)

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


class Exclusion(Energy):
    """E(x) = E₊(x) + strength · log(1 + exp(level − E₋(x))): likely for one energy and *not* for another (NOT).

    The factor (1 + e^(level − E₋))^−strength is at most 1, so that the law is normalisable wherever that of E₊ is. With
    p₋ = e^−E₋/Z₋ it halves a state (strength 1) where p₋ = e^−level/Z₋, is nearly 1 where p₋ is far below that, and far
    above it is p₋^−strength up to a constant, as in E₊ − strength·E₋.

    Args:
        energy: E₊. other: E₋, on an equal space. strength: above 0. level: of E₋, nats.
    """

    def __init__(self, energy: Any, other: Any, strength: float = 1.0, level: float = 0.0) -> None:
        if not (0 < strength < math.inf and math.isfinite(level)):
            raise SettingError(f"`strength` must be above 0 and `level` finite; got {strength!r} and {level!r}. "
                               "Try strength=1.0.")
        super().__init__(_common_space([energy, other]))
        self.members = nn.ModuleList([_module(energy), _module(other)])
        self.strength, self.level = float(strength), float(level)
        if all(isinstance(member, HasFlipDeltas) for member in self.members):
            self.flip_deltas = self._flip_deltas

    def _penalty(self, energies: Tensor) -> Tensor:
        return self.strength * nn.functional.softplus(self.level - energies)

    def forward(self, encoding: Encoding) -> Tensor:
        wanted, other = self.members
        return _call(wanted, encoding) + self._penalty(_call(other, encoding))

    def state_energy(self, x: Tensor) -> Tensor:
        """(C,) by each member's fastest way."""
        wanted, other = self.members
        return evaluate_energy(wanted, x) + self._penalty(evaluate_energy(other, x))

    def _flip_deltas(self, x: Tensor) -> Tensor:
        wanted, other = list[Any](self.members)
        here = evaluate_energy(other, x)
        there = here[:, None, None] + other.flip_deltas(x)
        return wanted.flip_deltas(x) + self._penalty(there) - self._penalty(here)[:, None, None]


def conjunction(energies: Sequence[Any], weights: Sequence[float] | None = None,
                temperatures: Sequence[float] | None = None, *, base: Any = None,
                base_weight: float | None = None) -> SumEnergy:
    """AND: E = Σ_m (w_m/T_m) E_m − w₀ E₀, so p ∝ Π_m p_m^{w_m/T_m} / p₀^{w₀}, on any space.

    Experts that were trained on parts of one data set each hold the whole p(x); ``base``, the model of the whole, takes
    out what is counted more than once. The sum *is* the law: every exact kernel draws from it. (Adding the scores of
    blurred laws, as diffusion models do, is another law: docs/composition.md.)

    Args:
        energies: on equal spaces. weights: default 1; negative ones negate. temperatures: T_m above 0, default 1.
        base: E₀. base_weight: w₀, default Σ w_m/T_m − 1.
    """
    factors, taken = expert_factors(len(energies), weights, temperatures, base is not None, base_weight)
    return SumEnergy([*energies] + ([] if base is None else [base]), factors + ([] if base is None else [-taken]))


def disjunction(energies: Sequence[Any], proportions: Sequence[float] | None = None,
                temperatures: Sequence[float] | None = None, *, log_z: Sequence[float] | None = None) -> Mixture:
    """OR: p = Σ_m π_m p_m, with p_m ∝ exp(−E_m/T_m), on any space.

    Args:
        energies: on equal spaces. proportions: π_m above 0, default equal. temperatures: T_m, default 1.
        log_z: log ∫exp(−E_m/T_m) of each member, nats, e.g. from ``de.evaluate.exact``, ``quadrature`` or ``ais``.
            None takes all of them for 0: energies are then compared as they are, and π_m are *not* proportions.
    """
    shares = _weights(energies, proportions, "proportions")
    if min(shares) <= 0:
        raise SettingError(f"`proportions` must be positive; got {shares}. Drop the members with 0.")
    known = [0.0] * len(energies) if log_z is None else _weights(energies, log_z, "log_z")
    return Mixture(energies, temperatures=temperatures,
                   log_weights=[math.log(share) - z for share, z in zip(shares, known, strict=True)])


def negation(energy: Any, other: Any, strength: float = 1.0, *, level: float | None = None) -> Energy:
    """NOT: likely for ``energy`` and unlikely for ``other``.

    Args:
        strength: above 0. level: None for E₊ − strength·E₋, p₊/p₋^strength: simple, but in unbounded spaces it may have
            no normalising constant, and in large ones it runs to where p₋ vanishes rather than to where p₊ is high. A
            number, in nats of E₋, for :class:`Exclusion`, whose factor stays below 1.
    """
    if not 0 < strength < math.inf:
        raise SettingError(f"`strength` must be above 0 and finite; got {strength!r}. Try 1.0.")
    return SumEnergy([energy, other], [1.0, -strength]) if level is None else Exclusion(energy, other, strength, level)


def expert_factors(n: int, weights: Sequence[float] | None, temperatures: Sequence[float] | None, has_base: bool,
                   base_weight: float | None) -> tuple[list[float], float]:
    """w_m/T_m of ``n`` experts, and w₀: Σ w_m/T_m − 1 where there is a base and no other number is given."""
    experts = range(n)
    factors = [w / t for w, t in zip(_weights(experts, weights), _temperatures(experts, temperatures), strict=True)]
    if not has_base:
        return factors, 0.0
    taken = float(sum(factors) - 1 if base_weight is None else base_weight)
    if not math.isfinite(taken):
        raise SettingError(f"`base_weight` must be finite; got {base_weight!r}. Leave it out for the sum less 1.")
    return factors, taken


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


def _weights(energies: Sequence[Any], weights: Sequence[float] | None, name: str = "weights") -> list[float]:
    if len(energies) == 0:
        raise SettingError("`energies` must have at least one member; got none. Pass [energy, ...].")
    numbers = [1.0] * len(energies) if weights is None else [float(weight) for weight in weights]
    if len(numbers) != len(energies) or not all(math.isfinite(number) for number in numbers):
        raise SettingError(f"`{name}` must be one finite number for each of {len(energies)} energies; got {numbers}. "
                           "Leave it out for the default.")
    return numbers


def _temperatures(energies: Sequence[Any], temperatures: Sequence[float] | None) -> list[float]:
    numbers = _weights(energies, temperatures, "temperatures")
    if min(numbers) <= 0:
        raise SettingError(f"`temperatures` must be positive; got {numbers}. 1 changes nothing, above 1 flattens.")
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
