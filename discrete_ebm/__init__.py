"""Energy-based models of discrete and structured data: spaces, energies, samplers, training, evaluation.

    import discrete_ebm as de
    energy = de.energies.Ising.lattice((32, 32), coupling=0.44)
    chains = de.sample(energy, sampler="gwg", n_chains=64, n_steps=1000, burn_in=200, seed=0)

Public names are loaded when first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discrete_ebm import (
        adapters,
        datasets,
        diagnostics,
        distributed,
        energies,
        errors,
        evaluate,
        objectives,
        plots,
        samplers,
        spaces,
        testing,
    )
    from discrete_ebm.annealing import anneal
    from discrete_ebm.chain_bank import ChainBank
    from discrete_ebm.chains import sample
    from discrete_ebm.energies.base import Energy, from_callable, from_log_prob
    from discrete_ebm.errors import EBMError
    from discrete_ebm.fitting import fit
    from discrete_ebm.hidden_units import draw_hidden
    from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Real, Space, Spin

__version__ = "0.1.0"

__all__ = [
    "Binary",
    "Categorical",
    "ChainBank",
    "EBMError",
    "Energy",
    "Ordinal",
    "Product",
    "Real",
    "Space",
    "Spin",
    "adapters",
    "anneal",
    "datasets",
    "diagnostics",
    "distributed",
    "draw_hidden",
    "energies",
    "errors",
    "evaluate",
    "fit",
    "from_callable",
    "from_log_prob",
    "objectives",
    "plots",
    "sample",
    "samplers",
    "spaces",
    "testing",
]

_MODULES = frozenset(
    {
        "adapters",
        "datasets",
        "diagnostics",
        "distributed",
        "energies",
        "errors",
        "evaluate",
        "objectives",
        "plots",
        "samplers",
        "spaces",
        "testing",
    }
)

_HOMES = {
    "Binary": "spaces",
    "Categorical": "spaces",
    "ChainBank": "chain_bank",
    "EBMError": "errors",
    "Energy": "energies.base",
    "Ordinal": "spaces",
    "Product": "spaces",
    "Real": "spaces",
    "Space": "spaces",
    "Spin": "spaces",
    "anneal": "annealing",
    "draw_hidden": "hidden_units",
    "fit": "fitting",
    "from_callable": "energies.base",
    "from_log_prob": "energies.base",
    "sample": "chains",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"discrete_ebm.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"discrete_ebm.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'discrete_ebm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
