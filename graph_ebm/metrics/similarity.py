"""Fingerprint comparisons: internal diversity, nearest neighbours, scaffolds.

Fingerprint: Morgan, radius 2, 1,024 bits, as in MOSES (Polykovskiy et al. 2020, arXiv:1811.12823).
Pairwise Tanimoto similarities come from matrix products of the bit matrices, in chunks, so 10,000 x 10,000 pairs need
seconds and some tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from graph_ebm.metrics.validity import molecules_of

N_BITS = 1_024
RADIUS = 2
_CHUNK_ROWS = 256
_CHUNK_COLUMNS = 8_192


def fingerprints(smiles: Iterable[str]) -> np.ndarray:
    """Morgan-2 bits of checked SMILES.

    Returns:
        (n, 1024) float32 of 0 and 1; (0, 1024) for an empty list.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=N_BITS)
    rows = [generator.GetFingerprintAsNumPy(mol) for mol in molecules_of(smiles)]
    if not rows:
        return np.zeros((0, N_BITS), dtype=np.float32)
    return np.stack(rows).astype(np.float32)


def _blocks(a: np.ndarray, b: np.ndarray):
    """Yield (row slice, column slice, Tanimoto block float32) over all pairs of rows of ``a`` and ``b``."""
    size_a, size_b = a.sum(1), b.sum(1)
    for i in range(0, len(a), _CHUNK_ROWS):
        rows = slice(i, i + _CHUNK_ROWS)
        for j in range(0, len(b), _CHUNK_COLUMNS):
            columns = slice(j, j + _CHUNK_COLUMNS)
            shared = a[rows] @ b[columns].T
            union = size_a[rows, None] + size_b[None, columns] - shared
            yield rows, columns, shared / np.maximum(union, 1.0)


def internal_diversity(bits: np.ndarray) -> float | None:
    """1 - mean Tanimoto similarity over all ordered pairs, each molecule with itself included (IntDiv1 of MOSES).

    Args:
        bits: (n, 1024) fingerprints.

    Returns:
        A number in [0, 1); None for no molecules, 0.0 for one.
    """
    if len(bits) == 0:
        return None
    total = sum(float(block.sum(dtype=np.float64)) for _, _, block in _blocks(bits, bits))
    return 1.0 - total / len(bits) ** 2


def nearest(bits: np.ndarray, reference_bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most similar reference molecule of each molecule.

    Args:
        bits: (n, 1024) fingerprints. reference_bits: (m, 1024).

    Returns:
        (index (n,) int64, similarity (n,) float32); index -1 and similarity 0 where the reference is empty.
    """
    best = np.zeros(len(bits), dtype=np.float32)
    index = np.full(len(bits), -1, dtype=np.int64)
    for rows, columns, block in _blocks(bits, reference_bits):
        column = block.argmax(1)
        value = block[np.arange(len(column)), column]
        better = (value > best[rows]) | (index[rows] < 0)
        best[rows] = np.where(better, value, best[rows])
        index[rows] = np.where(better, column + columns.start, index[rows])
    return index, best


def nearest_neighbour_similarity(bits: np.ndarray, reference_bits: np.ndarray) -> float | None:
    """Mean similarity of the samples to their nearest reference molecule (SNN of MOSES); None if one is empty."""
    if len(bits) == 0 or len(reference_bits) == 0:
        return None
    return float(nearest(bits, reference_bits)[1].mean(dtype=np.float64))


def scaffolds(smiles: Sequence[str]) -> list[str]:
    """Bemis-Murcko scaffold of each checked SMILES; an empty string for a molecule without rings."""
    return [
        Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol), isomericSmiles=False) for mol in molecules_of(smiles)
    ]
