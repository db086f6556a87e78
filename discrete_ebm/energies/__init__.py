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
from discrete_ebm.energies.boltzmann import BoltzmannMachine
from discrete_ebm.energies.categorical_rbm import CategoricalRBM
from discrete_ebm.energies.class_gaussians import ClassGaussians
from discrete_ebm.energies.classifier import ClassEnergy, ClassifierEnergy, JointEnergy, UncertaintyEnergy
from discrete_ebm.energies.compose import Exclusion, Mixture, SumEnergy, Tilted, conjunction, disjunction, negation
from discrete_ebm.energies.conditional import ConditionalEnergy, Given
from discrete_ebm.energies.deep_boltzmann import DeepBoltzmannMachine
from discrete_ebm.energies.factor_graph import FactorGraph
from discrete_ebm.energies.fhmm import FactorialHMM
from discrete_ebm.energies.gaussian_rbm import GaussianBernoulliRBM
from discrete_ebm.energies.general_potts import GeneralPotts
from discrete_ebm.energies.graph_problems import IndependentSet, MaxCut
from discrete_ebm.energies.hidden import HiddenUnits, VisibleMarginal
from discrete_ebm.energies.image_classifier import ImageClassifier
from discrete_ebm.energies.ising import Ising
from discrete_ebm.energies.labelled_rbm import LabelledRBM
from discrete_ebm.energies.mean_field import MeanField
from discrete_ebm.energies.mlp import MLPEnergy
from discrete_ebm.energies.noise_levels import NoisyEnergy, ScoreNetwork, noise_conditional_mlp, noise_levels
from discrete_ebm.energies.potts import Potts
from discrete_ebm.energies.product_of_experts import ProductOfExperts
from discrete_ebm.energies.rbm import BernoulliRBM
from discrete_ebm.energies.resnet import ResNetEnergy
from discrete_ebm.energies.transformer import TransformerEnergy

__all__ = [
    "BernoulliRBM",
    "BoltzmannMachine",
    "CategoricalRBM",
    "ClassEnergy",
    "ClassGaussians",
    "ClassifierEnergy",
    "ConditionalEnergy",
    "DeepBoltzmannMachine",
    "Energy",
    "Exclusion",
    "FactorGraph",
    "FactorialHMM",
    "GaussianBernoulliRBM",
    "GeneralPotts",
    "Given",
    "HasBlocks",
    "HasConditionals",
    "HasFlipDeltas",
    "HasGraph",
    "HasStateEnergy",
    "HasSurrogate",
    "HiddenUnits",
    "ImageClassifier",
    "IndependentSet",
    "Ising",
    "JointEnergy",
    "LabelledRBM",
    "MLPEnergy",
    "MaxCut",
    "MeanField",
    "Mixture",
    "NoisyEnergy",
    "Potts",
    "ProductOfExperts",
    "ResNetEnergy",
    "ScoreNetwork",
    "SumEnergy",
    "Tilted",
    "TransformerEnergy",
    "UncertaintyEnergy",
    "VisibleMarginal",
    "as_energy",
    "conjunction",
    "disjunction",
    "energy_and_gradient",
    "evaluate_energy",
    "from_callable",
    "from_log_prob",
    "negation",
    "noise_conditional_mlp",
    "noise_levels",
]
