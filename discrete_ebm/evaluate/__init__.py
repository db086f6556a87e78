"""Measuring a model."""

from discrete_ebm.evaluate.exact import ExactResult, exact
from discrete_ebm.evaluate.optimum import Optimum, optimum
from discrete_ebm.evaluate.square_ising import CRITICAL_COUPLING, kaufman_energy, kaufman_log_z, onsager_energy

__all__ = [
    "CRITICAL_COUPLING",
    "ExactResult",
    "Optimum",
    "exact",
    "kaufman_energy",
    "kaufman_log_z",
    "onsager_energy",
    "optimum",
]
