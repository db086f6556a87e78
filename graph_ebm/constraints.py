"""Hard constraints on molecules as energies: +∞ outside, where Metropolis–Hastings never goes; the rest stays exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm.chem.parse import read_one
from graph_ebm.chem.reader import Refusal
from graph_ebm.energies import GraphEnergy
from graph_ebm.graphs import to_smiles

__all__ = ["ConstrainedEnergy", "similar_to"]


class ConstrainedEnergy(GraphEnergy):
    """E(x) where ``allowed(smiles)`` holds, +∞ elsewhere; the energy itself is not evaluated there.

    Args:
        energy: a molecular energy. allowed: list of canonical SMILES -> list of bool.
    """

    def __init__(self, energy: GraphEnergy, allowed: Callable[[list[str]], list[bool]]) -> None:
        super().__init__(energy.space)
        self.energy = energy
        self.allowed = allowed

    def state_energy(self, x: Tensor) -> Tensor:
        """(C,) energies, +∞ where the constraint fails."""
        smiles = to_smiles(x.cpu(), self.space.vocabulary)
        inside = torch.tensor(self.allowed(smiles), dtype=torch.bool, device=x.device)
        values = self.energy.state_energy(x[inside])
        return torch.full((len(x),), torch.inf, dtype=values.dtype, device=x.device).masked_scatter(inside, values)

    def surrogate(self, x: Tensor) -> Tensor:
        return self.energy.surrogate(x)

    def forward(self, encoding: Any) -> Tensor:
        return self.state_energy(self.space.decode(encoding))

    def expert_energies(self, x: Tensor) -> dict[str, Tensor]:
        """Those of the energy inside, if it is a composition."""
        inner = getattr(self.energy, "expert_energies", None)
        return inner(x) if inner is not None else {}


def similar_to(smiles: str, least: float) -> Callable[[list[str]], list[bool]]:
    """Constraint: Tanimoto similarity to ``smiles`` (Morgan fingerprint, radius 2, 2048 bits) of at least ``least``.

    Raises:
        MoleculeError: the SMILES cannot be read. SettingError: ``least`` outside [0, 1].
    """
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    if not 0 <= least <= 1:
        raise SettingError(f"`similarity` must be between 0 and 1; got {least!r}.")
    graph = read_one(smiles)  # bounded and isolated; its SMILES has no stereo, like those of states
    if isinstance(graph, Refusal):
        raise MoleculeError(
            f"`like` must be a SMILES; got {str(smiles)[:80]!r} ({graph.detail or graph.reason}). "
            "Check its brackets and ring numbers."
        )
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    wanted = generator.GetFingerprint(Chem.MolFromSmiles(graph.smiles))

    def allowed(batch: list[str]) -> list[bool]:
        mols = [Chem.MolFromSmiles(s) for s in batch]  # None: RDKit cannot read back what it wrote; not allowed then
        prints = [generator.GetFingerprint(mol) for mol in mols if mol is not None]
        values = iter(DataStructs.BulkTanimotoSimilarity(wanted, prints))
        return [mol is not None and next(values) >= least for mol in mols]

    return allowed
