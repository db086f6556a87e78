"""Measuring a model."""

from discrete_ebm.evaluate.ais import AISResult, Bracket, ais, bracket, raise_log_likelihood
from discrete_ebm.evaluate.exact import ExactLaw, ExactResult, SummedResult, exact
from discrete_ebm.evaluate.imputation import Imputation, imputation_accuracy
from discrete_ebm.evaluate.likelihood import LogLikelihood, log_likelihood
from discrete_ebm.evaluate.mmd import hamming_kernel, squared_mmd
from discrete_ebm.evaluate.optimum import Optimum, optimum
from discrete_ebm.evaluate.pseudo import pseudo_log_likelihood
from discrete_ebm.evaluate.quadrature import GridLaw, quadrature
from discrete_ebm.evaluate.ranks import Auroc, auroc, out_of_distribution
from discrete_ebm.evaluate.square_ising import CRITICAL_COUPLING, kaufman_energy, kaufman_log_z, onsager_energy
from discrete_ebm.evaluate.stein import SteinDiscrepancy, kernel_stein_discrepancy
from discrete_ebm.evaluate.two_sample import (
    ClassifierTest,
    MomentGap,
    Neighbours,
    classifier_two_sample_test,
    compare_moments,
    nearest_neighbours,
)

__all__ = [
    "CRITICAL_COUPLING",
    "AISResult",
    "Auroc",
    "Bracket",
    "ClassifierTest",
    "ExactLaw",
    "ExactResult",
    "GridLaw",
    "Imputation",
    "LogLikelihood",
    "MomentGap",
    "Neighbours",
    "Optimum",
    "SteinDiscrepancy",
    "SummedResult",
    "ais",
    "auroc",
    "bracket",
    "classifier_two_sample_test",
    "compare_moments",
    "exact",
    "hamming_kernel",
    "imputation_accuracy",
    "kaufman_energy",
    "kaufman_log_z",
    "kernel_stein_discrepancy",
    "log_likelihood",
    "nearest_neighbours",
    "onsager_energy",
    "optimum",
    "out_of_distribution",
    "pseudo_log_likelihood",
    "quadrature",
    "raise_log_likelihood",
    "squared_mmd",
]
