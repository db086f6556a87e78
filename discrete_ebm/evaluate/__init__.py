"""Measuring a model."""

from discrete_ebm.evaluate.adversarial import Refinement, Robustness, pgd, robust_accuracy
from discrete_ebm.evaluate.ais import AISResult, Bracket, ais, bracket, raise_log_likelihood
from discrete_ebm.evaluate.calibration import Calibration, calibration, fit_temperature
from discrete_ebm.evaluate.exact import ExactLaw, ExactResult, SummedResult, exact
from discrete_ebm.evaluate.hybrid import (
    Hybrid,
    class_log_densities,
    judge_hybrid,
    label_log_probabilities,
    outsider_scores,
)
from discrete_ebm.evaluate.hybrid_plots import curves, image_grid, log_density_histograms, reliability
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
    "Calibration",
    "ClassifierTest",
    "ExactLaw",
    "ExactResult",
    "GridLaw",
    "Hybrid",
    "Imputation",
    "LogLikelihood",
    "MomentGap",
    "Neighbours",
    "Optimum",
    "Refinement",
    "Robustness",
    "SteinDiscrepancy",
    "SummedResult",
    "ais",
    "auroc",
    "bracket",
    "calibration",
    "class_log_densities",
    "classifier_two_sample_test",
    "compare_moments",
    "curves",
    "exact",
    "fit_temperature",
    "hamming_kernel",
    "image_grid",
    "imputation_accuracy",
    "judge_hybrid",
    "kaufman_energy",
    "kaufman_log_z",
    "kernel_stein_discrepancy",
    "label_log_probabilities",
    "log_density_histograms",
    "log_likelihood",
    "nearest_neighbours",
    "onsager_energy",
    "optimum",
    "out_of_distribution",
    "outsider_scores",
    "pgd",
    "pseudo_log_likelihood",
    "quadrature",
    "raise_log_likelihood",
    "reliability",
    "robust_accuracy",
    "squared_mmd",
]
