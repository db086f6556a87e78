"""Small energies as the package sees them, each beside its NumPy twin from :mod:`tests.reference`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from discrete_ebm.energies import BernoulliRBM, Ising, Potts, from_callable
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Space, Spin
from tests import reference


@dataclass(frozen=True)
class Case:
    """``energy``: float64; ``table`` (S,) its energies by NumPy; ``taylor``: first-order deltas (S, N, K) by NumPy."""

    name: str
    energy: Any
    radices: tuple[int, ...]
    table: np.ndarray
    taylor: np.ndarray | None = None
    rbm: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def space(self) -> Space:
        return self.energy.space

    @property
    def exact(self) -> np.ndarray:
        return reference.exact_deltas(self.table, self.radices)

    def rows(self, x: Tensor) -> np.ndarray:
        """(C,) row number of states, by counting in mixed radix."""
        index = x.reshape(x.shape[0], -1).numpy().astype(int)
        if isinstance(self.space, Spin):
            index = (index + 1) // 2
        code = np.zeros(len(index), dtype=int)
        for i, k in enumerate(self.radices):
            code = code * k + index[:, i]
        return code

    def x(self, rows: np.ndarray) -> Tensor:
        """States of row numbers."""
        index = reference.states(self.radices)[rows]
        values = 2 * index - 1 if isinstance(self.space, Spin) else index
        return torch.tensor(values.reshape(len(rows), *self.space.shape)).to(self.space.dtype)


class Net(nn.Module):
    """E = w2·tanh(W1 f + b1): not quadratic, so that the Taylor estimate is really wrong."""

    def __init__(self, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray) -> None:
        super().__init__()
        self.w1, self.b1, self.w2 = (nn.Parameter(torch.tensor(part)) for part in (w1, b1, w2))

    def forward(self, encoding: Tensor) -> Tensor:
        return torch.tanh(encoding.flatten(1) @ self.w1.t() + self.b1) @ self.w2


def ising_dense(n: int = 4) -> Case:
    rng = np.random.default_rng(1)
    coupling = np.triu(rng.normal(0, 0.5, (n, n)), 1)
    coupling[0, 2] = coupling[1, 3] = 0  # so that a block of two sites exists
    coupling, field = coupling + coupling.T, rng.normal(0, 0.3, n)
    index = reference.states([2] * n)
    s = 2.0 * index - 1
    taylor = reference.taylor_numeric(index, -(s @ coupling + field), np.array([-1.0, 1.0]), [2] * n)
    energy = Ising(torch.tensor(coupling), torch.tensor(field))
    return Case("ising-dense", energy, (2,) * n, reference.ising(index, coupling, field), taylor)


def ising_lattice(shape: tuple[int, int] = (2, 2), coupling: float = 0.44, field: float = 0.2) -> Case:
    rows, columns = shape
    n = rows * columns
    matrix = np.zeros((n, n))
    for r in range(rows):  # open borders, so that each pair is met once
        for c in range(columns):
            for r2, c2 in ((r + 1, c), (r, c + 1)):
                if r2 < rows and c2 < columns:
                    matrix[r * columns + c, r2 * columns + c2] = matrix[r2 * columns + c2, r * columns + c] = coupling
    energy = Ising.lattice(shape, coupling, field, periodic=False).double()
    with torch.no_grad():  # the numbers themselves in float64, not their float32 roundings
        energy.coupling.fill_(coupling)
        energy.field.fill_(field)
    table = reference.ising(reference.states([2] * n), matrix, np.full(n, field))
    return Case(f"ising-lattice-{rows}x{columns}", energy, (2,) * n, table)


def potts() -> Case:
    rng = np.random.default_rng(2)
    field = rng.normal(0, 0.6, (2, 3))
    coupling = np.array([[0, 0.8], [0.8, 0]])
    energy = Potts(torch.tensor(coupling), 3, torch.tensor(field))
    return Case("potts", energy, (3, 3), reference.potts(reference.states([3, 3]), coupling, field))


def rbm() -> Case:
    rng = np.random.default_rng(3)
    weight, visible, hidden = rng.normal(0, 1.0, (3, 2)), rng.normal(0, 0.5, 3), rng.normal(0, 0.5, 2)
    index = reference.states([2] * 3)
    gradient = -visible - 1 / (1 + np.exp(-(index @ weight + hidden))) @ weight.T
    energy = BernoulliRBM(3, 2, weight=torch.tensor(weight), visible_bias=torch.tensor(visible),
                          hidden_bias=torch.tensor(hidden))
    taylor = reference.taylor_numeric(index, gradient, np.array([0.0, 1.0]), [2] * 3)
    return Case("rbm", energy, (2, 2, 2), reference.rbm(index, weight, visible, hidden), taylor,
                (weight, visible, hidden))


def net(kind: str) -> Case:
    """A small network on a binary, spin, ragged categorical or ordinal space."""
    levels = np.array([-1.0, 0.5, 2.0])
    space, radices = {
        "binary": (Binary(4), (2, 2, 2, 2)),
        "spin": (Spin((2, 2)), (2, 2, 2, 2)),
        "ragged": (Categorical(3, [2, 3, 2]), (2, 3, 2)),
        "ordinal": (Ordinal(2, levels.tolist()), (3, 3)),
    }[kind]
    index = reference.states(radices)
    one_hot = kind == "ragged"
    if one_hot:
        features = (index[..., None] == np.arange(max(radices))).astype(float).reshape(len(index), -1)
    else:
        features = {"binary": index * 1.0, "spin": 2.0 * index - 1, "ordinal": levels[index]}[kind]
    rng = np.random.default_rng(4)
    w1, b1, w2 = rng.normal(0, 0.9, (5, features.shape[1])), rng.normal(0, 0.3, 5), rng.normal(0, 1.0, 5)
    table, gradient = reference.one_hidden_layer(features, w1, b1, w2)
    if one_hot:
        taylor = reference.taylor_one_hot(index, gradient.reshape(len(index), len(radices), -1), radices)
    else:
        values = {"binary": np.array([0.0, 1.0]), "spin": np.array([-1.0, 1.0]), "ordinal": levels}[kind]
        taylor = reference.taylor_numeric(index, gradient, values, radices)
    return Case(f"net-{kind}", from_callable(Net(w1, b1, w2), space), radices, table, taylor)


def free(n: int = 3) -> Case:
    """h = 0, J = 0: every state as likely as every other."""
    energy = Ising(torch.zeros(n, n, dtype=torch.float64))
    return Case("free", energy, (2,) * n, np.zeros(2**n), np.zeros((2**n, n, 2)))


def all_cases() -> list[Case]:
    return [ising_dense(), ising_lattice(), potts(), rbm(), *(net(k) for k in ("binary", "spin", "ragged", "ordinal")),
            free()]
