"""A trained molecular energy with what its sampler needs: kept in a folder, loaded from it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discrete_ebm import checkpoint
from discrete_ebm.errors import CheckpointError, EBMError
from graph_ebm.energies import GraphEnergy
from graph_ebm.moves import MolecularKernel, MoveSettings, build_kernel
from graph_ebm.space import MolecularSpace

__all__ = ["MolecularModel", "load_model", "single_atoms"]


@dataclass
class MolecularModel:
    """A trained energy with what its sampler needs.

    ``energy`` (averaged parameters), ``space``, ``moves`` (mined from the training data), ``history`` (equal-length
    lists: seconds, stage, gap, acceptance by move, distance of fresh chains, …), ``settings``, ``interrupted``.
    """

    energy: GraphEnergy
    space: MolecularSpace
    moves: MoveSettings
    history: dict[str, list[Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    chains: Tensor | None = None

    @property
    def kernel(self) -> MolecularKernel:
        """The molecular kernel with the moves of this model."""
        device = next((p.device for p in self.energy.parameters()), torch.device("cpu"))
        return build_kernel(self.moves if device.type == "cpu" else self.moves.to(device))

    def to(self, device: str | torch.device) -> MolecularModel:
        """The model with its energy on a device; this one stays where it is."""
        here = next((p.device for p in self.energy.parameters()), torch.device("cpu"))
        return self if here == torch.device(device) else replace(self, energy=copy.deepcopy(self.energy).to(device))

    def save(self, folder: str | Path) -> Path:
        """Write model.safetensors (parameters and moves) and config.json; each appears whole or not at all."""
        folder = checkpoint.make_folder(folder)
        tensors = {f"energy.{name}": value for name, value in self.energy.state_dict().items()}
        tensors |= {f"moves.{name}": value for name, value in self.moves.tensors().items()}
        config = {
            "kind": "graph_ebm.MolecularModel",
            "schema": 1,
            "space": self.space.to_dict(),
            "energy": self.energy.to_dict(),
            "settings": self.settings,
        }
        checkpoint.save_tensors(tensors, folder / "model.safetensors", config)
        checkpoint.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        return folder


def load_model(folder: str | Path) -> MolecularModel:
    """Load what :meth:`MolecularModel.save` (or a ``graph-ebm train`` / ``optimize`` run) wrote.

    Raises:
        CheckpointError: the folder has no readable model.
    """
    tensors, config = checkpoint.load_tensors(Path(folder) / "model.safetensors")
    if config.get("kind") != "graph_ebm.MolecularModel" or config.get("schema") != 1:
        raise CheckpointError(
            f"{folder} must hold a molecular model of schema 1; got {config.get('kind')!r}, schema "
            f"{config.get('schema')!r}. Train it again with this version."
        )
    parts = {
        prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in ("energy.", "moves.")
    }
    try:
        energy = GraphEnergy.from_dict(config["energy"])
        energy.load_state_dict(parts["energy."])
        moves = MoveSettings.from_tensors(parts["moves."])
    except (EBMError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as cause:
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise CheckpointError(
            f"{folder} must hold a model that this version can build; got {type(cause).__name__}: {reason} "
            "Train it again with this version."
        ) from cause
    return MolecularModel(energy, energy.space, moves, settings=config.get("settings", {}))


def single_atoms(space: MolecularSpace, n: int, device: torch.device | str = "cpu") -> Tensor:
    """n states (n, V, V) of one carbon atom each (of the first type where the vocabulary has no carbon)."""
    x = torch.zeros(n, space.max_atoms, space.max_atoms, dtype=torch.int8, device=device)
    types = space.vocabulary.types
    x[:, 0, 0] = types.index(("C", 0)) + 1 if ("C", 0) in types else 1
    return x
