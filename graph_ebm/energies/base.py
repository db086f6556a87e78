"""What every molecular energy shares: a MolecularSpace, three ways in, and a plain-JSON description of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import SettingError, ShapeError, SpaceError
from graph_ebm.space import GraphEncoding, MolecularSpace

__all__ = ["GraphEnergy", "bond_orders", "check_states", "energy_from_dict", "presence", "relaxed_adjacency"]


class GraphEnergy(Energy):
    """An energy of molecules, permutation invariant, in nats at beta = 1.

    Three ways in: ``forward(GraphEncoding) -> (C,)`` is differentiable in nodes and bonds, absent bonds included;
    ``state_energy(x) -> (C,)`` takes integer states (C, V, V) int8 and is the fast one, differentiable in the
    parameters; ``surrogate(x) -> (C,)`` is a cheap approximation. Both full ways agree to rounding on one-hot input.
    """

    space: MolecularSpace
    kinds: ClassVar[dict[str, type[GraphEnergy]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        GraphEnergy.kinds[cls.__name__] = cls

    def __init__(self, space: MolecularSpace) -> None:
        if not isinstance(space, MolecularSpace):
            raise SpaceError(
                f"`space` must be a MolecularSpace; got {type(space).__name__}. "
                "Use MolecularSpace(Vocabulary.build(smiles), max_atoms=38)."
            )
        super().__init__(space)

    def state_energy(self, x: Tensor) -> Tensor:
        """Energies (C,) of integer states (C, V, V) int8."""
        check_states(x, self.space)
        return self.forward(self.space.encode_as(x, next(self.parameters()).dtype))

    def surrogate(self, x: Tensor) -> Tensor:
        """A cheap approximation of the energy, (C,). Zero unless a class has a better one: that is always valid."""
        return torch.zeros(len(x), dtype=next(self.parameters()).dtype, device=x.device)

    def config(self) -> dict[str, Any]:
        """Settings as plain JSON types, without the space; ``energy_from_dict`` rebuilds the module from them."""
        return {"kind": type(self).__name__}

    @classmethod
    def from_config(cls, config: dict[str, Any], space: MolecularSpace) -> GraphEnergy:
        """Inverse of :meth:`config`, without ``kind``; parameters are freshly initialised."""
        return cls(space, **config)

    def to_dict(self) -> dict[str, Any]:
        """The space and the settings as plain JSON types; the weights are in ``state_dict()``."""
        return {"space": self.space.to_dict(), "energy": self.config()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> GraphEnergy:
        """Inverse of :meth:`to_dict` for any kind, with fresh weights: follow with ``load_state_dict``."""
        if not isinstance(data, Mapping) or set(data) != {"space", "energy"}:
            raise SettingError(f"`data` must be a dict with `space` and `energy`; got {data!r}. Write it by to_dict().")
        return energy_from_dict(data["energy"], MolecularSpace.from_dict(data["space"]))


def energy_from_dict(config: dict[str, Any], space: MolecularSpace) -> GraphEnergy:
    """Build the energy that ``config`` (from :meth:`GraphEnergy.config`) describes, with fresh parameters.

    Raises:
        SettingError: unknown ``kind`` or settings that it does not take.
    """
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in GraphEnergy.kinds:
        raise SettingError(
            f"`kind` must be one of {', '.join(sorted(GraphEnergy.kinds))}; got {kind!r}. "
            "Write the configuration with `energy.config()`."
        )
    try:
        return GraphEnergy.kinds[kind].from_config(settings, space)
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            f"the settings of {kind} must be those of its constructor; got {settings} ({error}). "
            "Write the configuration with `energy.config()`."
        ) from error


def check_states(x: Tensor, space: MolecularSpace) -> None:
    """ShapeError unless ``x`` is (C, V, V) int8 with V at most the space's; values are not read."""
    square = x.dim() == 3 and x.shape[1] == x.shape[2] and x.shape[1] <= space.max_atoms
    if not square or x.dtype != torch.int8:
        raise ShapeError(
            f"`x` must be int8 states of shape (C, V, V) with V <= {space.max_atoms}; got shape {tuple(x.shape)} "
            f"({x.dtype}). Make states with graph_ebm.from_smiles(...)."
        )


def presence(encoding: GraphEncoding) -> Tensor:
    """(C, V) float: how much of an atom each slot holds, 1 − (absent column)."""
    return 1 - encoding.nodes[..., 0]


def relaxed_adjacency(encoding: GraphEncoding) -> Tensor:
    """(C, V, V) float: how much of a bond of any order each pair has."""
    return encoding.bonds[..., 1:].sum(-1)


def bond_orders(encoding: GraphEncoding) -> Tensor:
    """(C, V, V) float bond orders."""
    return encoding.bonds[..., 1] + 2 * encoding.bonds[..., 2] + 3 * encoding.bonds[..., 3]
