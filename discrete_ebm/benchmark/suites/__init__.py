"""The suites by name. A suite is a module with ``TITLE``, ``SUMMARY``, ``SETTINGS`` (``small`` and ``full``),
``run(record)``, ``tables(records)`` and ``figure(record)``."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from discrete_ebm.errors import SettingError

__all__ = ["SUITES", "suite"]

SUITES = {  # one line each: the help text of the command, which must not import torch
    "ising": "square lattice across its critical point; energies against Kaufman's and Onsager's exact ones",
    "potts": "square lattice with 4 to 256 categories",
    "fhmm": "factorial hidden Markov model: posterior of hidden bits, with exact answers where they are few",
    "rbm": "restricted Boltzmann machine: unbiased squared MMD to a long block-Gibbs run, with error bars",
    "bernoulli": "independent bits: the easiest law, where every figure has an exact value",
    "mis": "maximum independent set on random graphs, by annealed kernels; exact optimum on small ones",
    "maxcut": "maximum cut on random graphs (ER, BA), by annealed kernels; exact optimum on small ones",
}


def suite(name: str) -> Any:
    """The module of a suite.

    Raises:
        SettingError: an unknown name, with the nearest.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SettingError(f"SUITE must be one of {', '.join(SUITES)}; got {name!r}.{hint}")
    return import_module(f"discrete_ebm.benchmark.suites.{name}")
