"""Energies of molecules: local count tables, message passing, transformer, and their compositions."""

from .base import GraphEnergy, energy_from_dict
from .local import LocalEnergy
from .relational import RelationalEnergy

__all__ = ["GraphEnergy", "LocalEnergy", "RelationalEnergy", "energy_from_dict"]
