"""Energies: ``energy(encoding) -> (C,)`` in nats at beta = 1, low = likely."""

from discrete_ebm.energies.base import (
    Energy,
    HasBlocks,
    HasConditionals,
    HasFlipDeltas,
    HasGraph,
    HasStateEnergy,
    HasSurrogate,
    as_energy,
    energy_and_gradient,
    evaluate_energy,
    from_callable,
    from_log_prob,
)
from discrete_ebm.energies.compose import Mixture, SumEnergy, Tilted
from discrete_ebm.energies.fhmm import FactorialHMM
from discrete_ebm.energies.graph_problems import IndependentSet, MaxCut
from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.mlp import MLPEnergy
from discrete_ebm.energies.potts import Potts
from discrete_ebm.energies.rbm import BernoulliRBM

__all__ = [
    "BernoulliRBM",
    "Energy",
    "FactorialHMM",
    "HasBlocks",
    "HasConditionals",
    "HasFlipDeltas",
    "HasGraph",
    "HasStateEnergy",
    "HasSurrogate",
    "IndependentSet",
    "Ising",
    "MLPEnergy",
    "MaxCut",
    "Mixture",
    "Potts",
    "SumEnergy",
    "Tilted",
    "as_energy",
    "energy_and_gradient",
    "evaluate_energy",
    "from_callable",
    "from_log_prob",
]
