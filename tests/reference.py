"""Samplers as exact matrices, in plain NumPy, written from the papers. Shares no code with the package.

States are rows of value indices in lexicographic order (first site slowest), as ``itertools.product`` gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

# -- states and energies ------------------------------------------------------------------------------------------


def states(radices: Sequence[int]) -> np.ndarray:
    """(S, N) all index rows."""
    return np.array(list(itertools.product(*(range(k) for k in radices))), dtype=int)


def ising(index: np.ndarray, coupling: np.ndarray, field: np.ndarray) -> np.ndarray:
    """E = −Σ_{i<j} J_ij s_i s_j − Σ h_i s_i, s = ±1."""
    s = 2.0 * index - 1.0
    energy = np.zeros(len(s))
    for i in range(s.shape[1]):
        energy -= field[i] * s[:, i]
        for j in range(i + 1, s.shape[1]):
            energy -= coupling[i, j] * s[:, i] * s[:, j]
    return energy


def potts(index: np.ndarray, coupling: np.ndarray, field: np.ndarray) -> np.ndarray:
    """E = −Σ_{i<j} J_ij [x_i = x_j] − Σ h_i(x_i)."""
    energy = np.zeros(len(index))
    for i in range(index.shape[1]):
        energy -= field[i, index[:, i]]
        for j in range(i + 1, index.shape[1]):
            energy -= coupling[i, j] * (index[:, i] == index[:, j])
    return energy


def rbm(index: np.ndarray, weight: np.ndarray, visible: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """−log Σ_h exp(b·v + c·h + vᵀWh), by summing over all hidden states."""
    total = np.zeros(len(index))
    for h in itertools.product((0, 1), repeat=len(hidden)):
        h = np.array(h, float)
        total += np.exp(index @ visible + hidden @ h + (index @ weight) @ h)
    return -np.log(total)


def one_hidden_layer(features: np.ndarray, w1: np.ndarray, b1: np.ndarray, w2: np.ndarray) -> tuple[np.ndarray,
                                                                                                  np.ndarray]:
    """E = w2·tanh(W1 f + b1) and dE/df, for features (S, F)."""
    act = np.tanh(features @ w1.T + b1)
    return act @ w2, ((1 - act**2) * w2) @ w1


def boltzmann(energy: np.ndarray, beta: float) -> np.ndarray:
    weight = np.exp(-beta * (energy - energy.min()))
    return weight / weight.sum()


# -- ΔE of single-site changes --------------------------------------------------------------------------------------


def row_number(radices: Sequence[int]) -> dict[tuple[int, ...], int]:
    return {tuple(row): number for number, row in enumerate(states(radices).tolist())}


def exact_deltas(energy: np.ndarray, radices: Sequence[int]) -> np.ndarray:
    """(S, N, K) E(x with x_i = v) − E(x); NaN at padding."""
    rows, number = states(radices), row_number(radices)
    out = np.full((len(rows), len(radices), max(radices)), np.nan)
    for s, row in enumerate(rows):
        for i, k in enumerate(radices):
            for v in range(k):
                other = row.copy()
                other[i] = v
                out[s, i, v] = energy[number[tuple(other)]] - energy[s]
    return out


def taylor_numeric(index: np.ndarray, gradient: np.ndarray, values: np.ndarray, radices: Sequence[int]) -> np.ndarray:
    """First order: (value_v − value_{x_i}) · ∂E/∂x_i; ``values`` (K,) are the encodings of the indices."""
    out = np.full((len(index), len(radices), max(radices)), np.nan)
    for s, row in enumerate(index):
        for i, k in enumerate(radices):
            for v in range(k):
                out[s, i, v] = (values[v] - values[row[i]]) * gradient[s, i]
    return out


def taylor_one_hot(index: np.ndarray, gradient: np.ndarray, radices: Sequence[int]) -> np.ndarray:
    """First order: ∂E/∂e_{i,v} − ∂E/∂e_{i,x_i}; ``gradient`` (S, N, K)."""
    out = np.full((len(index), len(radices), max(radices)), np.nan)
    for s, row in enumerate(index):
        for i, k in enumerate(radices):
            for v in range(k):
                out[s, i, v] = gradient[s, i, v] - gradient[s, i, row[i]]
    return out


# -- Gibbs ----------------------------------------------------------------------------------------------------------


def block_update(energy: np.ndarray, radices: Sequence[int], beta: float, block: Sequence[int]) -> np.ndarray:
    """Draw the sites of ``block`` from their joint law given the rest (Geman & Geman 1984). One site: heat bath."""
    rows = states(radices)
    rest = [i for i in range(len(radices)) if i not in set(block)]
    same = (rows[:, None, rest] == rows[None, :, rest]).all(-1)
    weight = np.where(same, boltzmann(energy, beta)[None, :], 0.0)
    return weight / weight.sum(1, keepdims=True)


def gibbs_raster(energy: np.ndarray, radices: Sequence[int], beta: float,
                 blocks: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """One sweep: blocks (by default single sites) in order."""
    matrix = np.eye(len(energy))
    for block in blocks if blocks is not None else [[i] for i in range(len(radices))]:
        matrix = matrix @ block_update(energy, radices, beta, block)
    return matrix


def gibbs_random(energy: np.ndarray, radices: Sequence[int], beta: float, free: Sequence[int] | None = None,
                 ) -> np.ndarray:
    """N updates of a site chosen uniformly; a site that is not free is left alone."""
    n = len(radices)
    one = sum(block_update(energy, radices, beta, [i]) if free is None or i in free else np.eye(len(energy))
              for i in range(n)) / n
    return np.linalg.matrix_power(one, n)


def rbm_alternation(weight: np.ndarray, visible: np.ndarray, hidden: np.ndarray, beta: float,
                    free: Sequence[int] | None = None) -> np.ndarray:
    """h ~ p_β(h | v), v′ ~ p_β(v′ | h, clamped v), then Metropolis–Hastings towards exp(−βF) (Hastings 1970)."""
    v = states([2] * len(visible))
    h = states([2] * len(hidden)).astype(float)
    joint = np.exp(beta * (v @ visible)[:, None] + beta * (h @ hidden)[None, :] + beta * v @ weight @ h.T)
    kept = [i for i in range(len(visible)) if free is not None and i not in free]
    same = (v[:, None, kept] == v[None, :, kept]).all(-1).astype(float)  # (v, v′) agree on the clamped visibles
    hidden_given = joint / joint.sum(1, keepdims=True)  # (v, h)
    proposal = np.einsum("vh,vw,wh->vw", hidden_given / (same @ joint), same, joint)
    return metropolis(proposal, boltzmann(rbm(v, weight, visible, hidden), beta))


# -- Metropolis–Hastings and Gibbs-with-Gradients -------------------------------------------------------------------


def metropolis(proposal: np.ndarray, target: np.ndarray, laziness: float = 0.0) -> np.ndarray:
    """P(x, y) = (1 − laziness) q(x, y) min(1, π(y) q(y, x) / π(x) q(x, y)), the rest stays (Hastings 1970)."""
    matrix = np.zeros_like(proposal)
    for x, y in zip(*np.nonzero(proposal), strict=True):
        if x != y:
            ratio = target[y] * proposal[y, x] / (target[x] * proposal[x, y])
            matrix[x, y] = (1 - laziness) * proposal[x, y] * min(1.0, ratio)
    matrix[np.diag_indices(len(matrix))] = 1 - matrix.sum(1)
    return matrix


BALANCING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sqrt": np.sqrt,
    "barker": lambda t: t / (1 + t),
    "min": lambda t: np.minimum(1, t),
    "max": lambda t: np.maximum(1, t),
}


def informed_proposal(deltas: np.ndarray, radices: Sequence[int], beta: float, balancing: str,
                      free: Sequence[int] | None = None) -> np.ndarray:
    """q(x, y) ∝ g(exp(−β Δ)) over single-site changes (Zanella 2020; Grathwohl et al. 2021, eq. 6 for g = √)."""
    rows, number = states(radices), row_number(radices)
    q = np.zeros((len(rows), len(rows)))
    for s, row in enumerate(rows):
        for i, k in enumerate(radices):
            for v in range(k):
                if v != row[i] and (free is None or i in free):
                    other = row.copy()
                    other[i] = v
                    q[s, number[tuple(other)]] = BALANCING[balancing](np.exp(-beta * deltas[s, i, v]))
    total = q.sum(1, keepdims=True)
    return np.divide(q, total, out=np.zeros_like(q), where=total > 0)


def gwg(energy: np.ndarray, deltas: np.ndarray, radices: Sequence[int], beta: float, balancing: str,
        laziness: float, free: Sequence[int] | None = None) -> np.ndarray:
    """One Gibbs-with-Gradients step (eqs. 3 and 6), accepted with probability times 1 − laziness."""
    q = informed_proposal(deltas, radices, beta, balancing, free)
    return metropolis(q, boltzmann(energy, beta), laziness)


# -- what to ask of a matrix ----------------------------------------------------------------------------------------


def stationarity_error(matrix: np.ndarray, target: np.ndarray) -> float:
    return float(np.abs(target @ matrix - target).max())


def balance_error(matrix: np.ndarray, target: np.ndarray) -> float:
    flow = target[:, None] * matrix
    return float(np.abs(flow - flow.T).max())


def second_eigenvalue(matrix: np.ndarray) -> float:
    """|λ₂|: 1 means states that are never reached, or a period."""
    return float(np.sort(np.abs(np.linalg.eigvals(matrix)))[-2]) if len(matrix) > 1 else 0.0
