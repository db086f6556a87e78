"""Energies of molecules: local count tables, message passing, transformer, and their compositions."""

from .base import GraphEnergy, energy_from_dict
from .local import LocalEnergy

__all__ = ["GraphEnergy", "LocalEnergy", "energy_from_dict"]
