"""Energies of molecules: local count tables, message passing, transformer, and their compositions."""

from typing import Any

from discrete_ebm.checkpoint import register_energy

from .base import GraphEnergy, energy_from_dict
from .compose import ComposedEnergy, EBMWarning, MolecularEnergy
from .local import LocalEnergy
from .relational import RelationalEnergy
from .transformer import TransformerEnergy

__all__ = [
    "ComposedEnergy",
    "EBMWarning",
    "GraphEnergy",
    "LocalEnergy",
    "MolecularEnergy",
    "RelationalEnergy",
    "TransformerEnergy",
    "energy_from_dict",
]


def _build(config: dict[str, Any], tensors: dict[str, Any]) -> GraphEnergy:
    """From a saved description; sizes follow from it, so the saved ``tensors`` are not needed."""
    return GraphEnergy.from_dict({"space": config["space"], "energy": config["energy"]})


for _kind in GraphEnergy.kinds.values():
    register_energy(_kind, GraphEnergy.to_dict, _build)
