"""How two sets of molecules differ: histograms of atoms, bonds, rings and sizes, and distances between samples.

Histograms count *things*, not molecules: shares of all atoms, all bonds, all rings; only ``size`` counts molecules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from rdkit import Chem

from discrete_ebm.errors import SettingError
from graph_ebm.metrics.validity import molecules_of

HISTOGRAMS = ("atoms", "bonds", "rings", "size")
_LARGEST_RING = 9  # larger rings share one bin
_BONDS = {
    Chem.BondType.SINGLE: "single",
    Chem.BondType.DOUBLE: "double",
    Chem.BondType.TRIPLE: "triple",
    Chem.BondType.AROMATIC: "aromatic",
}


def histograms(smiles: Iterable[str]) -> dict[str, Counter[str]]:
    """Counts of atom types (element and charge), bonds (aromatic apart), ring sizes (SSSR, 9 and more together), sizes.

    Args:
        smiles: checked SMILES.

    Returns:
        One counter for each name in ``HISTOGRAMS``; empty counters for an empty list.
    """
    found: dict[str, Counter[str]] = {name: Counter() for name in HISTOGRAMS}
    for mol in molecules_of(smiles):
        for atom in mol.GetAtoms():
            charge = atom.GetFormalCharge()
            sign = "" if charge == 0 else ("+" if charge > 0 else "-") * abs(charge)
            found["atoms"][atom.GetSymbol() + sign] += 1
        for bond in mol.GetBonds():
            found["bonds"][_BONDS.get(bond.GetBondType(), "other")] += 1
        for ring in mol.GetRingInfo().AtomRings():
            found["rings"][str(len(ring)) if len(ring) < _LARGEST_RING else f"{_LARGEST_RING}+"] += 1
        found["size"][str(mol.GetNumHeavyAtoms())] += 1
    return found


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts as shares of their sum; an empty mapping stays empty."""
    total = sum(counts.values())
    return {key: value / total for key, value in counts.items()} if total else {}


def total_variation(a: Mapping[str, int], b: Mapping[str, int]) -> float | None:
    """Half the sum of absolute differences of two histograms' shares: 0 equal, 1 disjoint; None if one is empty."""
    p, q = shares(a), shares(b)
    if not p or not q:
        return None
    return 0.5 * sum(abs(p.get(key, 0.0) - q.get(key, 0.0)) for key in p.keys() | q.keys())


def wasserstein(a: ArrayLike, b: ArrayLike) -> float | None:
    """Wasserstein-1 distance of two samples of numbers, in the unit of the numbers; None if one is empty.

    The area between the two empirical distribution functions. NaN must be taken out before.

    Raises:
        SettingError: a value is NaN or infinite.
    """
    x, y = np.sort(np.asarray(a, dtype=np.float64).ravel()), np.sort(np.asarray(b, dtype=np.float64).ravel())
    if len(x) == 0 or len(y) == 0:
        return None
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise SettingError("`a` and `b` must hold finite numbers; got NaN or infinity. Take them out and count them.")
    both = np.sort(np.concatenate([x, y]))
    below_x = np.searchsorted(x, both[:-1], side="right") / len(x)
    below_y = np.searchsorted(y, both[:-1], side="right") / len(y)
    return float(np.sum(np.abs(below_x - below_y) * np.diff(both)))
