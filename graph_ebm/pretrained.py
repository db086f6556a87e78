"""The model that ships inside the package: an unconditional base for drug-like molecules.

``zinc-base``: trained with ``graph-ebm train --data zinc-sample`` on the packaged 20,000 molecules; its config.json
holds seed, time and settings, and ``benchmarks/README.md`` the command that made it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from discrete_ebm.errors import RegistryError
from graph_ebm.model import MolecularModel, load_model
from graph_ebm.space import MolecularSpace

__all__ = ["load", "matching", "names"]

_FOLDER = Path(str(resources.files("graph_ebm"))) / "models"


def names() -> list[str]:
    """Names of the packaged models."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/model.safetensors"))


def load(name: str) -> MolecularModel:
    """A packaged model; RegistryError lists the names there are."""
    if name not in names():
        raise RegistryError(f"Unknown packaged model {name!r}. Available: {', '.join(names()) or 'none'}.")
    return load_model(_FOLDER / name)


def matching(space: MolecularSpace) -> tuple[str, MolecularModel] | None:
    """The packaged model of exactly this space, with its name; None when there is none."""
    for name in names():
        model = load(name)
        if model.space == space:
            return name, model
    return None
