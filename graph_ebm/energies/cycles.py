"""Rings of molecular graphs: exact cycle counts of integer states, closed walks of relaxed ones.

Message passing cannot count rings, so they are given to the energies as features. A *cycle* is a simple closed path
of 3 to 8 atoms; fused systems count their envelopes too (bicyclobutane: two 3-cycles and one 4-cycle).

Exact counts exist for integer states only (a search, no derivative). Relaxed bonds get the trace of non-backtracking
closed walks, a polynomial in the adjacency matrix; :func:`relaxed_cycles` joins the two so that the value is exact at
every integer state and a derivative exists around it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _fast

__all__ = ["RING_SIZES", "closed_walks", "cycle_counts", "enumerate_cycles", "node_cycle_counts", "relaxed_cycles"]

RING_SIZES = (3, 4, 5, 6, 7, 8)


def _adjacency(x: Tensor) -> Tensor:
    """(C, V, V) bool: which pairs of slots are bonded."""
    bonded = x > 0
    bonded.diagonal(dim1=1, dim2=2).fill_(False)
    return bonded


def enumerate_cycles(x: Tensor, max_size: int = 8) -> list[Tensor]:
    """List every cycle of 3..max_size atoms once, with tensor operations on any device.

    Paths grow from their lowest atom through higher ones and are kept only while simple; cost is proportional to the
    number of such paths (about 10 per atom for drug-like molecules). Sizes are data dependent, so a GPU is waited for.

    Args:
        x: (C, V, V) integer states, atoms compact.
        max_size: largest cycle listed.
    Returns:
        one (M_s, s) int64 tensor for s = 3..max_size: slots in ring order, numbered c * V + i over the batch.
    """
    n_mol, n_max = x.shape[0], x.shape[1]
    bonded = _adjacency(x)
    for _ in range(4):  # prune leaves: fewer paths, same cycles
        inner = bonded.sum(-1) > 1
        bonded = bonded & inner[:, :, None] & inner[:, None, :]
    molecule, i, j = bonded.nonzero(as_tuple=True)
    source, target = molecule * n_max + i, molecule * n_max + j
    degree = torch.bincount(source, minlength=n_mol * n_max)
    first = degree.cumsum(0) - degree
    flat = bonded.reshape(-1)
    paths = torch.stack([source, target], 1)[target > source]
    found = []
    for _ in range(3, max_size + 1):
        tip = paths[:, -1]
        count = degree[tip]
        parent = torch.repeat_interleave(torch.arange(len(paths), device=x.device), count)
        within = torch.arange(len(parent), device=x.device) - (count.cumsum(0) - count)[parent]
        new = target[first[tip][parent] + within]
        grown = torch.cat([paths[parent], new[:, None]], 1)
        simple = (new > grown[:, 0]) & (grown[:, :-1] != new[:, None]).all(1)
        paths = grown[simple]
        closes = flat[paths[:, -1] * n_max + paths[:, 0] % n_max] & (paths[:, 1] < paths[:, -1])
        found.append(paths[closes])
    return found


def _ring_cap(n_max: int) -> int:
    return max(64, 4 * n_max)


def node_cycle_counts(x: Tensor) -> Tensor:
    """Exact number of cycles of 3..8 atoms through each atom.

    Args:
        x: (C, V, V) int8 states.
    Returns:
        (C, V, 6) int64, last axis = ring sizes 3..8.
    """
    n_mol, n_max = x.shape[0], x.shape[1]
    if _fast.AVAILABLE and x.device.type == "cpu":
        cap = _ring_cap(n_max)
        while True:
            out = torch.zeros(n_mol, n_max, 6, dtype=torch.int64)
            if _fast.node_cycles(x.numpy(), cap, out.numpy()) == 0:
                return out
            cap *= 4
    out = torch.zeros(6, n_mol * n_max, dtype=torch.int64, device=x.device)
    for row, rings in zip(out, enumerate_cycles(x), strict=True):
        atoms = rings.reshape(-1)
        row.index_add_(0, atoms, torch.ones_like(atoms))
    return out.T.reshape(n_mol, n_max, 6)


def cycle_counts(x: Tensor) -> Tensor:
    """Exact number of cycles of 3..8 atoms of each molecule, (C, 6) int64. ``x``: (C, V, V) int8."""
    sizes = torch.tensor(RING_SIZES, device=x.device)
    return node_cycle_counts(x).sum(1) // sizes


def closed_walks(adjacency: Tensor, max_size: int = 8) -> tuple[Tensor, Tensor]:
    """Non-backtracking closed walks of 3..max_size steps, differentiable in a relaxed adjacency matrix.

    p_1 = A, p_2 = A² − D, p_k = p_{k−1} A − p_{k−2} (D − I) count non-backtracking walks between two atoms. D holds the
    row sums of A∘A: equal to degrees at 0/1, and without a spurious slope at absent bonds. Totals leave out walks with
    a tail by N_k = tr p_k − tr((D − I) p_{k−2}) + N_{k−2}.

    For sizes 3, 4, 5 the results are the cycle counts; from 6 on, walks over two small rings that touch are included.

    Args:
        adjacency: (C, V, V) float, symmetric, zero diagonal.
        max_size: longest walk.
    Returns:
        (nodes (C, V, S), totals (C, S)) for sizes 3..max_size: p_k's diagonal / 2 (tails included), N_k / (2k).
    Source: Alon, Benjamini, Lubetzky, Sodin 2007 (recursion of p_k); Stark and Terras 1996 (tailless closed walks).
    """
    squared = (adjacency * adjacency).sum(-1)  # (C, V)
    extra = (squared - 1).unsqueeze(-2)  # scales columns: p (D - I)
    older, walk = adjacency, adjacency @ adjacency - torch.diag_embed(squared)
    nodes, totals = [], []
    diagonals = [torch.zeros_like(squared), torch.zeros_like(squared)]
    tailless = [torch.zeros_like(squared[:, 0]), torch.zeros_like(squared[:, 0])]
    for size in range(3, max_size + 1):
        older, walk = walk, walk @ adjacency - older * extra
        diagonal = walk.diagonal(dim1=-2, dim2=-1)
        tailless.append(diagonal.sum(-1) - ((squared - 1) * diagonals[-2]).sum(-1) + tailless[-2])
        diagonals.append(diagonal)
        nodes.append(diagonal / 2)
        totals.append(tailless[-1] / (2 * size))
    return torch.stack(nodes, -1), torch.stack(totals, -1)


def relaxed_cycles(adjacency: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Ring counts that are exact at integer states and vary smoothly around them.

    value(A) = exact(x) + walks(A) − walks(A at x), x being the integer state nearest to A: at A = x the walks cancel.

    Args:
        adjacency: (C, V, V) float relaxed adjacency.
        x: (C, V, V) int8 nearest state.
    Returns:
        (nodes (C, V, 6), totals (C, 6)) of the adjacency's dtype.
    """
    exact = node_cycle_counts(x).to(adjacency.dtype)
    sizes = torch.tensor(RING_SIZES, device=x.device, dtype=adjacency.dtype)
    totals = exact.sum(1) / sizes
    at_state = torch.equal(adjacency, _adjacency(x).to(adjacency.dtype))
    if at_state and not (adjacency.requires_grad and torch.is_grad_enabled()):
        return exact, totals
    node_walks, total_walks = closed_walks(adjacency)
    if at_state:  # the usual case: a gradient at a state
        return exact + (node_walks - node_walks.detach()), totals + (total_walks - total_walks.detach())
    with torch.no_grad():
        node_base, total_base = closed_walks(_adjacency(x).to(adjacency.dtype))
    return exact + (node_walks - node_base), totals + (total_walks - total_base)
