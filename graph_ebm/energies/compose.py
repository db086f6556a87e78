"""Molecular energies made of parts: local + network, and experts combined with a base."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.energies.compose import expert_factors
from discrete_ebm.errors import SettingError, SpaceError
from graph_ebm.space import GraphEncoding, MolecularSpace

from .base import GraphEnergy, energy_from_dict
from .local import LocalEnergy, local_sum

__all__ = ["ComposedEnergy", "EBMWarning", "MolecularEnergy"]


class EBMWarning(UserWarning):
    """Something is allowed but probably not what was meant."""


class MolecularEnergy(GraphEnergy):
    """E = local + network: what ``graph_ebm.train`` fits.

    The local part doubles as the surrogate for delayed acceptance: it costs a tenth of the network or less.

    Args:
        space: the molecules.
        local: a LocalEnergy, ``True`` for one with default settings, ``None`` for none.
        network: a RelationalEnergy, TransformerEnergy or any GraphEnergy; None for the local energy alone.
    Raises:
        SettingError: neither part is given. SpaceError: a part has another space.
    """

    def __init__(
        self, space: MolecularSpace, local: GraphEnergy | bool | None = True, network: GraphEnergy | None = None
    ) -> None:
        super().__init__(space)
        self.local = LocalEnergy(space) if local is True else (local or None)
        self.network = network
        parts = self._parts()
        if not parts:
            raise SettingError("`local` and `network` must not both be None. Leave out local for the default one.")
        for part in parts:
            if part.space != space:
                raise SpaceError(f"`local`, `network` must have the space {space!r}; got {part.space!r}. Rebuild it.")

    def _parts(self) -> list[GraphEnergy]:
        return [part for part in (self.local, self.network) if part is not None]

    def config(self) -> dict[str, Any]:
        parts = {"local": self.local, "network": self.network}
        return super().config() | {name: None if part is None else part.config() for name, part in parts.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], space: MolecularSpace) -> MolecularEnergy:
        built = {name: None if part is None else energy_from_dict(part, space) for name, part in config.items()}
        return cls(space, **built)

    def forward(self, encoding: GraphEncoding) -> Tensor:
        return _sum([part(encoding) for part in self._parts()])

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of states (C, V, V) int8; differentiable in the parameters."""
        return _sum([part.state_energy(x) for part in self._parts()])

    def surrogate(self, x: Tensor) -> Tensor:
        """The local energy (C,); 0 without a local part."""
        return super().surrogate(x) if self.local is None else self.local.surrogate(x)


class ComposedEnergy(GraphEnergy):
    r"""E(x) = Σ_m (w_m / T_m) E_m(x) − w_0 E_0(x): a product of experts.

    Experts trained on parts of one data set each hold the whole p(x); their plain sum counts it once per expert. With
    the unconditional expert as ``base`` and ``base_weight`` (number of experts − 1) it is counted once. Negative
    weights negate (NOT).

    Args:
        experts: energies, or a dict name -> energy; names default to expert-1, expert-2, ...
        weights: one per expert, default 1.
        base: E_0, subtracted.
        base_weight: w_0; default Σ w_m / T_m − 1, so that the weights add up to one model. 0 without a base.
        temperatures: T_m > 0, one per expert, default 1; above 1 flattens an expert.
        space: the space of the composed model; default the first expert's. Every expert must know all of its types in
            the same order.
    Raises:
        SpaceError: vocabularies are incompatible. SettingError: wrong weights, temperatures or names.
    Warns:
        EBMWarning: vocabularies or largest sizes differ: an expert is then asked about molecules it was not built for.
    """

    def __init__(
        self,
        experts: Sequence[GraphEnergy] | Mapping[str, GraphEnergy],
        weights: Sequence[float] | None = None,
        base: GraphEnergy | None = None,
        base_weight: float | None = None,
        temperatures: Sequence[float] | None = None,
        space: MolecularSpace | None = None,
    ) -> None:
        named = experts if isinstance(experts, Mapping) else {f"expert-{i}": e for i, e in enumerate(experts, start=1)}
        if not named:
            raise SettingError("`experts` must hold at least one energy; got none. Pass [energy, ...].")
        if "base" in named:
            raise SettingError("expert names must not be 'base'; got one. Pass it as base=... or rename it.")
        members = [*named.values()] + ([] if base is None else [base])
        for member in members:
            if not isinstance(member, GraphEnergy):
                raise SettingError(f"`experts` must be molecular energies; got {type(member).__name__}. Train some.")
        super().__init__(members[0].space if space is None else space)
        _compare_spaces(self.space, members)
        self.names = tuple(named)
        self.experts = nn.ModuleList(named.values())
        self.base = base
        factors, self.base_weight = expert_factors(len(named), weights, temperatures, base is not None, base_weight)
        self.factors = tuple(factors)
        self.weights = (1.0,) * len(named) if weights is None else tuple(map(float, weights))
        self.temperatures = (1.0,) * len(named) if temperatures is None else tuple(map(float, temperatures))

    def _named(self) -> list[tuple[str, Any]]:
        return list(zip(self.names, self.experts, strict=True))

    def _terms(self) -> list[tuple[float, GraphEnergy]]:
        terms: list[tuple[float, Any]] = list(zip(self.factors, self.experts, strict=True))
        if self.base is not None:
            terms.append((-self.base_weight, self.base))
        return [term for term in terms if term[0] != 0] or terms[:1]

    def reweighted(self, weights: Sequence[float], base_weight: float | None = None) -> ComposedEnergy:
        """The same experts (shared, not copied) with other weights, for annealing them; the base weight follows."""
        named = dict(self._named())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EBMWarning)  # said when these experts were first composed
            return ComposedEnergy(named, weights, self.base, base_weight, self.temperatures, self.space)

    def config(self) -> dict[str, Any]:
        return super().config() | {
            "names": list(self.names),  # their order: a file may sort the keys of the next
            "experts": {name: expert.to_dict() for name, expert in self._named()},
            "weights": list(self.weights),
            "base": None if self.base is None else self.base.to_dict(),
            "base_weight": self.base_weight,
            "temperatures": list(self.temperatures),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], space: MolecularSpace) -> ComposedEnergy:
        settings = dict(config)
        parts = settings.pop("experts")
        experts = {name: GraphEnergy.from_dict(parts[name]) for name in settings.pop("names", list(parts))}
        base = settings.pop("base")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EBMWarning)  # said when these experts were first composed
            return cls(experts, base=None if base is None else GraphEnergy.from_dict(base), space=space, **settings)

    def forward(self, encoding: GraphEncoding) -> Tensor:
        return _sum([factor * member(_fit(encoding, member)) for factor, member in self._terms()])

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of states (C, V, V) int8; differentiable in the parameters."""
        return _sum([factor * member.state_energy(x) for factor, member in self._terms()])

    def surrogate(self, x: Tensor) -> Tensor:
        """The same combination of the members' surrogates, (C,)."""
        terms = self._terms()
        parts = [(factor, m.local if isinstance(m, MolecularEnergy) else m) for factor, m in terms]
        local = [(factor, part) for factor, part in parts if isinstance(part, LocalEnergy)]
        if len(local) == len(terms):
            return local_sum(local, x)
        return _sum([factor * member.surrogate(x) for factor, member in terms])

    def expert_energies(self, x: Tensor) -> dict[str, Tensor]:
        """Each expert's own energy (C,), without weight or temperature; the base under ``"base"``."""
        found = {name: expert.state_energy(x) for name, expert in self._named()}
        return found if self.base is None else found | {"base": self.base.state_energy(x)}


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _fit(encoding: GraphEncoding, member: GraphEnergy) -> GraphEncoding:
    """``encoding`` with the member's number of type columns (the extra ones are of types that never occur)."""
    missing = member.space.vocabulary.size + 1 - encoding.nodes.shape[-1]
    return encoding if missing == 0 else GraphEncoding(nn.functional.pad(encoding.nodes, (0, missing)), encoding.bonds)


def _compare_spaces(space: MolecularSpace, members: Sequence[GraphEnergy]) -> None:
    """SpaceError unless every member reads the states of ``space``; EBMWarning where it was built for other ones."""
    types = space.vocabulary.types
    for member in members:
        known = member.space.vocabulary.types
        if known[: len(types)] != types:
            raise SpaceError(
                f"experts must know the atom types {', '.join(space.vocabulary.names)} in this order; got "
                f"{', '.join(member.space.vocabulary.names)}. Train them with one vocabulary (vocabulary=...)."
            )
        if member.space.max_atoms < space.max_atoms:
            raise SpaceError(
                f"experts must take molecules of {space.max_atoms} atoms; got one for at most "
                f"{member.space.max_atoms}. Compose on the smallest: space=MolecularSpace(vocabulary, "
                f"{min(m.space.max_atoms for m in members)})."
            )
    if any(member.space.vocabulary != space.vocabulary for member in members):
        warnings.warn(
            "the experts' vocabularies differ: the composed model uses the types of its own space only.",
            EBMWarning,
            stacklevel=3,
        )
    sizes = sorted({member.space.max_atoms for member in members})
    if len(sizes) > 1:
        warnings.warn(
            f"the experts' largest sizes differ ({', '.join(map(str, sizes))} atoms): energies of sizes that an expert "
            "has not seen mean little.",
            EBMWarning,
            stacklevel=3,
        )
