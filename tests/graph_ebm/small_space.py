"""Every molecule of up to four heavy atoms of C, N, O: enumerated by brute force, sharing no code with the moves."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import torch

VALENCE = (0, 4, 3, 2)  # absent, C, N, O
V = 4


def _connected(bonds: np.ndarray) -> np.ndarray:
    reach = (bonds > 0) | np.eye(bonds.shape[-1], dtype=bool)
    for _ in range(3):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    return reach.all(axis=(-1, -2))


def canonical(x: np.ndarray) -> np.ndarray:
    """Smallest code (B,) of states (B, V, V) over all relabellings of the slots; equal codes = the same molecule."""
    best = None
    for order in itertools.permutations(range(V)):
        y = x[:, order][:, :, order].astype(np.int64)
        code = np.zeros(len(x), dtype=np.int64)
        for i in range(V):
            for j in range(i, V):
                code = code * 4 + y[:, i, j]
        best = code if best is None else np.minimum(best, code)
    return best


@lru_cache(maxsize=1)
def molecules() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(states (M, V, V) int8, one per molecule; codes (M,) sorted; number of automorphisms (M,))."""
    found = []
    for n in range(1, V + 1):
        types = np.array(list(itertools.product((1, 2, 3), repeat=n)))
        pairs = list(itertools.combinations(range(n), 2))
        orders = np.array(list(itertools.product(range(4), repeat=len(pairs))), dtype=np.int64).reshape(4 ** len(pairs), len(pairs))
        bonds = np.zeros((len(orders), n, n), dtype=np.int64)
        for column, (i, j) in enumerate(pairs):
            bonds[:, i, j] = bonds[:, j, i] = orders[:, column]
        bonds = bonds[_connected(bonds)]
        load = bonds.sum(-1)
        for kinds in types:
            fits = (load <= np.array(VALENCE)[kinds]).all(-1)
            block = np.zeros((fits.sum(), V, V), dtype=np.int64)
            block[:, :n, :n] = bonds[fits] + np.diag(kinds)
            found.append(block)
    labelled = np.concatenate(found)
    codes, first, copies = np.unique(canonical(labelled), return_index=True, return_counts=True)
    x = labelled[first]
    size = (x.diagonal(axis1=1, axis2=2) > 0).sum(-1)
    automorphisms = np.array([math.factorial(n) for n in size]) // copies
    return torch.tensor(x, dtype=torch.int8), codes, automorphisms


def index_of(x: torch.Tensor) -> np.ndarray:
    """Row of each state (B, V, V) in :func:`molecules`; raises when a state is not a valid molecule."""
    codes = molecules()[1]
    code = canonical(x.numpy())
    index = np.searchsorted(codes, code).clip(max=len(codes) - 1)
    if (codes[index] != code).any():
        raise AssertionError(f"a move left the space: {x[torch.tensor(codes[index] != code)][:3]}")
    return index
