"""Measuring a model."""

from discrete_ebm.evaluate.exact import ExactResult, exact

__all__ = ["ExactResult", "exact"]
