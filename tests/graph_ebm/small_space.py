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


def labelled_code(x: np.ndarray) -> np.ndarray:
    """(B,) number below 4**10 of each state (B, V, V): its upper triangle read in base 4."""
    i, j = np.triu_indices(V)
    return x[:, i, j].astype(np.int64) @ 4 ** np.arange(len(i) - 1, -1, -1)


def canonical(x: np.ndarray) -> np.ndarray:
    """Smallest code (B,) of states (B, V, V) over all relabellings of the slots; equal codes = the same molecule."""
    orders = itertools.permutations(range(V))
    return np.min([labelled_code(x[:, order][:, :, order]) for order in orders], axis=0)


@lru_cache(maxsize=1)
def molecules() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(states (M, V, V) int8, one per molecule; codes (M,) sorted; number of automorphisms (M,))."""
    found = []
    for n in range(1, V + 1):
        types = np.array(list(itertools.product((1, 2, 3), repeat=n)))
        pairs = list(itertools.combinations(range(n), 2))
        orders = np.array(list(itertools.product(range(4), repeat=len(pairs))), dtype=np.int64)
        orders = orders.reshape(4 ** len(pairs), len(pairs))
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


@lru_cache(maxsize=1)
def _rows() -> np.ndarray:
    """Row of :func:`molecules` by labelled code; −1 where the code is no molecule, or one with a gap in its slots."""
    x = molecules()[0].numpy()
    rows = np.full(4 ** (V * (V + 1) // 2), -1)
    for order in itertools.permutations(range(V)):
        y = x[:, order][:, :, order]
        present = y.diagonal(axis1=1, axis2=2) > 0
        compact = (present[:, 1:] <= present[:, :-1]).all(1)
        rows[labelled_code(y[compact])] = np.flatnonzero(compact)
    return rows


def index_of(x: torch.Tensor) -> np.ndarray:
    """Row of each state (B, V, V) in :func:`molecules`.

    Raises:
        AssertionError: a state is not symmetric, compact, connected and within the valence table.
    """
    y = x.numpy()
    inside = (y >= 0).all(axis=(1, 2)) & (y <= 3).all(axis=(1, 2)) & (y == y.transpose(0, 2, 1)).all(axis=(1, 2))
    index = _rows()[labelled_code(np.where(inside[:, None, None], y, 0))]
    if (index < 0).any():
        raise AssertionError(f"a move left the space: {y[index < 0][:3].tolist()}")
    return index


def relabelled(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same molecules (B, V, V), the atoms of each in a random order."""
    key = torch.rand(x.shape[:2], generator=generator) + (x.diagonal(dim1=1, dim2=2) == 0) * 2.0
    order = key.argsort(dim=1)
    rows = x.gather(1, order[:, :, None].expand(x.shape))
    return rows.gather(2, order[:, None, :].expand(x.shape))


class Clamped:
    """The molecules that agree with ``reference`` (V, V) on ``clamp`` (V, V) bool.

    The first ``kept`` atoms are told apart. ``x`` (M, V, V) one labelled state each, ``free`` (M,) its row in
    :func:`molecules`, ``automorphisms`` (M,) those that leave every kept atom in its place.
    """

    def __init__(self, reference: torch.Tensor, clamp: torch.Tensor, kept: int) -> None:
        self.clamp, self.kept = clamp, kept
        self._orders = [(*range(kept), *rest) for rest in itertools.permutations(range(kept, V))]
        x = molecules()[0].numpy()
        every = np.concatenate([x[:, order][:, :, order] for order in itertools.permutations(range(V))])
        every = every[np.unique(labelled_code(every), return_index=True)[1]]
        present = every.diagonal(axis1=1, axis2=2) > 0
        compact = (present[:, 1:] <= present[:, :-1]).all(1)
        agrees = ((every == reference.numpy()) | ~clamp.numpy()).all(axis=(1, 2))
        labelled = every[compact & agrees]
        self._codes, first, copies = np.unique(self._code(labelled), return_index=True, return_counts=True)
        self.x = torch.tensor(labelled[first])
        self.free = index_of(self.x)
        size = (labelled[first].diagonal(axis1=1, axis2=2) > 0).sum(-1)
        self.automorphisms = np.array([math.factorial(max(0, n - kept)) for n in size]) // copies

    def _code(self, x: np.ndarray) -> np.ndarray:
        return np.min([labelled_code(x[:, order][:, :, order]) for order in self._orders], axis=0)

    def index_of(self, x: torch.Tensor) -> np.ndarray:
        """Row of each state; raises AssertionError for one that is no molecule or breaks the clamp."""
        index_of(x)
        code = self._code(x.numpy())
        row = np.searchsorted(self._codes, code).clip(max=len(self._codes) - 1)
        assert (self._codes[row] == code).all(), "a clamped entry changed"
        return row
