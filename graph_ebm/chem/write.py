"""States to RDKit molecules and SMILES; and other Kekulé forms of the same molecule."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from rdkit import Chem, rdBase

from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm.chem.valence import AtomType
from graph_ebm.vocabulary import Vocabulary

_ORDERS: Any = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
# RDKit 2025.09+ chooses a canonical form unless told not to; earlier releases have no such option.
_ANY_FORM = {"canonical": False} if "canonical" in (Chem.Kekulize.__doc__ or "") else {}


@lru_cache(maxsize=1024)
def _atom(atom_type: AtomType) -> Chem.Atom:
    """A template atom; RWMol.AddAtom copies it."""
    atom = Chem.Atom(atom_type[0])
    atom.SetFormalCharge(atom_type[1])
    return atom


def build_mol(types: Sequence[AtomType], bonds: np.ndarray) -> Chem.RWMol:
    """Unsanitised, kekulised RDKit molecule from n types and (n, n) bond orders."""
    molecule = Chem.RWMol()
    for atom_type in types:
        molecule.AddAtom(_atom(atom_type))
    rows, columns = np.nonzero(np.triu(bonds, 1))
    for i, j, order in zip(rows.tolist(), columns.tolist(), bonds[rows, columns].tolist(), strict=True):
        molecule.AddBond(i, j, _ORDERS[order])
    return molecule


def _state_mol(state: np.ndarray, vocabulary: Vocabulary) -> Chem.Mol | None:
    """Sanitised molecule of one state (V, V), or None where RDKit refuses it or there is no atom."""
    diagonal = state.diagonal()
    used = np.flatnonzero(diagonal)
    if len(used) == 0:
        return None
    types = [vocabulary.types[k - 1] for k in diagonal[used].tolist()]
    molecule = build_mol(types, state[np.ix_(used, used)])
    try:
        Chem.SanitizeMol(molecule)
    except Chem.MolSanitizeException:
        return None
    return molecule


def _states(x: torch.Tensor | np.ndarray) -> np.ndarray:
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise MoleculeError(f"`x` must have shape (C, V, V); got {array.shape}. Add a batch dimension with x[None].")
    return array.astype(np.int8, copy=False)


def _check(results: list, on_invalid: str) -> None:
    if on_invalid not in ("raise", "none"):
        raise SettingError(f'`on_invalid` must be "raise" or "none"; got {on_invalid!r}. "none" leaves None in place.')
    if on_invalid == "raise" and any(item is None for item in results):
        bad = [i for i, item in enumerate(results) if item is None]
        raise MoleculeError(
            f"each state must be a molecule that RDKit accepts; got {len(bad)} of {len(results)} that are not, first "
            f'at {bad[0]}. Pass on_invalid="none" to get None there.'
        )


def to_mols(x: torch.Tensor | np.ndarray, vocabulary: Vocabulary, on_invalid: str = "raise") -> list[Chem.Mol | None]:
    """RDKit molecules of states (C, V, V), sanitised; same order, ``on_invalid`` as in :func:`write_smiles`."""
    with rdBase.BlockLogs():
        molecules = [_state_mol(state, vocabulary) for state in _states(x)]
    _check(molecules, on_invalid)
    return molecules


def write_smiles(x: torch.Tensor | np.ndarray, vocabulary: Vocabulary, on_invalid: str = "raise") -> list[str | None]:
    """Canonical SMILES without stereo, one per state.

    Args:
        x: (C, V, V) integer states.
        vocabulary: its types.
        on_invalid: ``"raise"``, or ``"none"`` to put None where RDKit refuses a state or it has no atom.
    Returns:
        C strings; a state in several pieces gives a SMILES with dots.
    Raises:
        MoleculeError: a state is not a molecule and ``on_invalid="raise"``.
    """
    with rdBase.BlockLogs():
        molecules = [_state_mol(state, vocabulary) for state in _states(x)]
        smiles = [None if molecule is None else Chem.MolToSmiles(molecule) for molecule in molecules]
    _check(smiles, on_invalid)
    return smiles


def random_kekule(x: torch.Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> torch.Tensor:
    """The same molecules in randomly chosen Kekulé forms, atoms in place; (C, V, V) int8.

    RDKit kekulises each molecule after a random renumbering of its atoms: every form of a benzene ring is reached, but
    the forms of fused systems are not equally likely. Meant as augmentation, so that an energy learns that the forms
    of one molecule are equal.

    Args:
        x: states that RDKit accepts.
        vocabulary: their types.
        generator: CPU generator; advanced.
    """
    array = _states(x).copy()
    molecules = to_mols(array, vocabulary)
    with rdBase.BlockLogs():
        for state, molecule in zip(array, molecules, strict=True):
            assert molecule is not None
            if not any(bond.GetIsAromatic() for bond in molecule.GetBonds()):
                continue
            n = molecule.GetNumAtoms()
            order = torch.randperm(n, generator=generator).tolist()
            shuffled = Chem.RenumberAtoms(molecule, order)
            Chem.Kekulize(shuffled, clearAromaticFlags=True, **_ANY_FORM)
            orders = Chem.GetAdjacencyMatrix(shuffled, useBO=True).astype(np.int8)
            used = np.flatnonzero(state.diagonal())[order]
            types = state.diagonal().copy()
            state[np.ix_(used, used)] = orders
            np.fill_diagonal(state, types)
    return torch.from_numpy(array).to(x.device)
