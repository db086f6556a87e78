"""Energies of molecules: local count tables, message passing, transformer, and their compositions."""

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
