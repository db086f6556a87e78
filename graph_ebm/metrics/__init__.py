"""Measuring sets of molecules: validity, diversity, novelty, distributions; see :func:`evaluate`."""

from graph_ebm.metrics.distributions import HISTOGRAMS, histograms, shares, total_variation, wasserstein
from graph_ebm.metrics.evaluation import (
    DEFAULT_PROPERTIES,
    Evaluation,
    Figure,
    PropertyComparison,
    compare_properties,
    evaluate,
    null_table,
)
from graph_ebm.metrics.similarity import (
    fingerprints,
    internal_diversity,
    nearest,
    nearest_neighbour_similarity,
    scaffolds,
)
from graph_ebm.metrics.validity import CheckedSamples, check_sample, check_samples

__all__ = [
    "DEFAULT_PROPERTIES",
    "HISTOGRAMS",
    "CheckedSamples",
    "Evaluation",
    "Figure",
    "PropertyComparison",
    "check_sample",
    "check_samples",
    "compare_properties",
    "evaluate",
    "fingerprints",
    "histograms",
    "internal_diversity",
    "nearest",
    "nearest_neighbour_similarity",
    "null_table",
    "scaffolds",
    "shares",
    "total_variation",
    "wasserstein",
]
