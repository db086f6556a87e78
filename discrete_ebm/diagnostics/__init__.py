"""How far chains can be trusted: effective sample sizes, standard errors, R-hat, autocorrelation, jumps, swaps.

Every function takes draws (S, C, *quantities) on any device, treats each quantity alone and works through them in
parts, so that memory stays bounded; ``chains.ess()``, ``chains.summary()`` and so on call these. The formulas are
ArviZ's, to rounding. They differ only where discrete chains make the usual numbers flatter: a quantity that never moved
has an ESS of 0 and an unbounded error, with a :class:`DiagnosticWarning` that names the chains.
"""

from __future__ import annotations

from discrete_ebm.diagnostics.autocorrelation import autocorrelation, autocorrelation_time
from discrete_ebm.diagnostics.blocks import DiagnosticWarning
from discrete_ebm.diagnostics.convergence import ess, mcse, rhat
from discrete_ebm.diagnostics.moves import frozen, squared_jump, swap_rates
from discrete_ebm.diagnostics.table import Summary, summarize

__all__ = [
    "DiagnosticWarning",
    "Summary",
    "autocorrelation",
    "autocorrelation_time",
    "ess",
    "frozen",
    "mcse",
    "rhat",
    "squared_jump",
    "summarize",
    "swap_rates",
]
