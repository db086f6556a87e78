"""Energy-based models of molecules: real molecules in, new and better molecules out. Other graphs: `networks`.

Names are loaded when first used, so that ``import graph_ebm`` is quick and needs neither torch nor RDKit by itself.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_NAMES: dict[str, str] = {
    "MolecularSpace": "graph_ebm.space",
    "GraphEncoding": "graph_ebm.space",
    "Vocabulary": "graph_ebm.vocabulary",
    "MoleculeSet": "graph_ebm.graphs",
    "Rejections": "graph_ebm.chem.parse",
    "from_smiles": "graph_ebm.graphs",
    "to_smiles": "graph_ebm.graphs",
    "to_pyg": "graph_ebm.pyg",
    "from_pyg": "graph_ebm.pyg",
    "train": "graph_ebm.training",
    "load_model": "graph_ebm.model",
    "generate": "graph_ebm.generate",
    "optimize": "graph_ebm.optimize",
    "evaluate": "graph_ebm.metrics",
}
_MODULES = ("datasets", "energies", "moves", "networks", "properties", "scoring")

__all__ = ["__version__", *_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"graph_ebm.{name}")
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'graph_ebm' has no attribute {name!r}. Available: {', '.join(sorted(__all__))}.")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``graph_ebm.generate`` the function after somebody imports from the sub-module of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NAMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
