"""Objectives turn data and negatives into a loss; see :mod:`discrete_ebm.objectives.base` and docs/objectives.md."""

from discrete_ebm.objectives.answers import Answers, best_of_chain, chain_answers, table_answers
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.contrastive import CD, PCD, BankState, ShortRun, contrast, draw_negatives
from discrete_ebm.objectives.hidden import Completed
from discrete_ebm.objectives.improved_contrast import ImprovedCD
from discrete_ebm.objectives.jem import JEM, jem_loss
from discrete_ebm.objectives.labelled import LabelledStates, as_reals
from discrete_ebm.objectives.nce import NCE, GaussianNoise, NoiseLaw, UniformNoise
from discrete_ebm.objectives.noise_contrast import ConditionalNCE, EnergyDiscrepancy
from discrete_ebm.objectives.pseudo_likelihood import PseudoLikelihood
from discrete_ebm.objectives.ratios import ConcreteScoreMatching, GuidedRatioMatching, ProbabilityFlow, RatioMatching
from discrete_ebm.objectives.reconstruction import Reconstruction
from discrete_ebm.objectives.registry import ObjectiveSpec, create, names, register, spec
from discrete_ebm.objectives.score_matching import (
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
    model_score,
)
from discrete_ebm.objectives.score_multiscale import MultiScaleScoreMatching, annealed_langevin
from discrete_ebm.objectives.structured import StructuredLoss, StructuredPrediction, losses, predict
from discrete_ebm.objectives.tempered import TemperedPCD

__all__ = [
    "CD",
    "JEM",
    "NCE",
    "PCD",
    "Answers",
    "BankState",
    "Completed",
    "ConcreteScoreMatching",
    "ConditionalNCE",
    "DenoisingScoreMatching",
    "EnergyDiscrepancy",
    "ExplicitScoreMatching",
    "GaussianNoise",
    "GuidedRatioMatching",
    "ImplicitScoreMatching",
    "ImprovedCD",
    "LabelledStates",
    "MultiScaleScoreMatching",
    "NoiseLaw",
    "Objective",
    "ObjectiveOutput",
    "ObjectiveSpec",
    "ObjectiveState",
    "ProbabilityFlow",
    "PseudoLikelihood",
    "RatioMatching",
    "Reconstruction",
    "ShortRun",
    "SlicedScoreMatching",
    "StructuredLoss",
    "StructuredPrediction",
    "TemperedPCD",
    "UniformNoise",
    "annealed_langevin",
    "as_reals",
    "best_of_chain",
    "chain_answers",
    "contrast",
    "create",
    "draw_negatives",
    "jem_loss",
    "losses",
    "model_score",
    "names",
    "predict",
    "register",
    "spec",
    "table_answers",
]
