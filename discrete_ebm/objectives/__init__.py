"""Objectives turn data and negatives into a loss; see :mod:`discrete_ebm.objectives.base`."""

from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.contrastive import CD, PCD, BankState, contrast, draw_negatives
from discrete_ebm.objectives.registry import ObjectiveSpec, create, names, register, spec

__all__ = [
    "CD",
    "PCD",
    "BankState",
    "Objective",
    "ObjectiveOutput",
    "ObjectiveSpec",
    "ObjectiveState",
    "contrast",
    "create",
    "draw_negatives",
    "names",
    "register",
    "spec",
]
