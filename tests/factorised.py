"""Kernels that change all sites at once: their matrices in plain NumPy, and the shipped code run as a matrix.

The references are written from the papers and share no code with the package. :func:`shipped_matrix` replaces only the
random draws of a shipped kernel: every proposal from every state is put in turn where the draw would be, and the
acceptance ratio is read where it would be compared. What comes out must be the reference to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from discrete_ebm.samplers import factorised
from tests import reference, statistical
from tests.cases import Case

LEVELS = np.array([-1.0, 0.5, 2.0])  # values of the ordinal case


# -- references -----------------------------------------------------------------------------------------------------


def squared_distances(case: Case) -> np.ndarray:
    """(S, N, K): squared difference of values on the ordinal case, else 1 for a change."""
    index = reference.states(case.radices)
    k = max(case.radices)
    if "ordinal" in case.name:
        return (LEVELS[None, None, :] - LEVELS[index][..., None]) ** 2
    return (np.arange(k)[None, None, :] != index[..., None]).astype(float)


def restrict(law: np.ndarray, radices: Sequence[int], free: Sequence[int] | None) -> np.ndarray:
    """Site laws (S, N, K) with nothing at padding, normalised; a site that is not free keeps its value."""
    index = reference.states(radices)
    law = law.copy()
    for i, k in enumerate(radices):
        law[:, i, k:] = 0
        law[:, i] /= law[:, i].sum(1, keepdims=True)
        if free is not None and i not in free:
            law[:, i] = np.arange(law.shape[2]) == index[:, i, None]
    return law


def product_proposal(law: np.ndarray, radices: Sequence[int]) -> np.ndarray:
    """Q(x, y) = Π_i law_i(y_i | x) from site laws (S, N, K)."""
    index = reference.states(radices)
    matrix = np.ones((len(index), len(index)))
    for i in range(index.shape[1]):
        matrix *= law[:, i][:, index[:, i]]
    return matrix


def float32_log(value: Any) -> np.ndarray:
    """What a number is after it was kept as a float32 logarithm."""
    return np.exp(np.float64(np.float32(np.log(value))))


def langevin_law(case: Case, deltas: np.ndarray, beta: float, step: Any, balancing: str,
                 free: Sequence[int] | None = None) -> np.ndarray:
    """Site laws of Zhang, Liu & Liu 2022: ∝ g(exp(−β Δ)) exp(−d²/2α); ``step`` α a number or (N,)."""
    t = np.exp(-beta * np.nan_to_num(deltas))
    alpha = np.broadcast_to(np.asarray(step, float), (len(case.radices),))
    weight = reference.BALANCING[balancing](t) * np.exp(-squared_distances(case) / (2 * alpha[None, :, None]))
    return restrict(weight, case.radices, free)


def dmala(case: Case, deltas: np.ndarray, beta: float, step: Any, balancing: str,
          free: Sequence[int] | None = None) -> np.ndarray:
    """The matrix of one DMALA step."""
    q = product_proposal(langevin_law(case, deltas, beta, step, balancing, free), case.radices)
    return reference.metropolis(q, reference.boltzmann(case.table, beta))


# -- the shipped code -----------------------------------------------------------------------------------------------


def shipped_matrix(case: Case, kernel: Any, beta: float = 1.0, free: Sequence[int] | None = None,
                   cache: dict[str, torch.Tensor] | None = None, at_step: int = 0) -> np.ndarray:
    """(S, S) transition matrix of the shipped ``step``, by putting every proposal in the place of the draw.

    ``cache``: entries of the state's cache to set first, one row that all chains share.
    """
    n = len(case.table)
    source, target = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    wanted = case.space.to_index(case.x(target))
    seen: dict[str, torch.Tensor] = {}

    def draw(weights: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        seen["law"] = weights.softmax(-1)
        return wanted

    def accept(log_alpha: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        seen["alpha"] = log_alpha.clamp(max=0).exp()
        return torch.ones_like(log_alpha, dtype=torch.bool), seen["alpha"]

    generator = torch.Generator()
    clamp = clamp_of(case, free)
    state = kernel.init(case.energy, case.x(source), generator=generator, clamp=clamp)
    shared = {name: part.expand(n * n, *part.shape[1:]) for name, part in (cache or {}).items()}
    state = state._replace(cache={**state.cache, **shared}, step=torch.tensor(at_step))
    with mock.patch.object(factorised, "draw_sites", draw), mock.patch.object(factorised, "metropolis_hastings",
                                                                              accept):
        moved, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    assert seen["law"].dtype == torch.float64
    chance = seen["law"].gather(2, wanted[..., None]).prod(1)[:, 0].numpy()
    reached = chance > 0
    assert (case.rows(moved.x)[reached] == target[reached]).all()
    if kernel.exact:
        chance = chance * seen["alpha"].nan_to_num(nan=-1e9).numpy()
    matrix = np.where(reached, chance, 0.0).reshape(n, n)
    matrix[np.diag_indices(n)] = 0
    matrix[np.diag_indices(n)] = 1 - matrix.sum(1)
    return matrix


def clamp_of(case: Case, free: Sequence[int] | None) -> torch.Tensor | None:
    """The clamp that leaves exactly the ``free`` sites."""
    if free is None:
        return None
    return torch.tensor([i not in free for i in range(len(case.radices))]).reshape(case.space.shape)


def row_counts(case: Case, kernel: Any, n: int, betas: Sequence[float], seed: int,
               free: Sequence[int] | None = None) -> np.ndarray:
    """Counts (len(betas)·S, S) of one step from every state, all betas in one batch, one per chain."""
    n_states = len(case.table)
    rows = np.tile(np.repeat(np.arange(n_states), n), len(betas))
    beta = torch.tensor(betas).repeat_interleave(n_states * n)
    generator, clamp = torch.Generator().manual_seed(seed), clamp_of(case, free)
    state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    which = np.repeat(np.arange(len(betas)), n_states * n)
    counts = np.bincount((which * n_states + rows) * n_states + case.rows(state.x),
                         minlength=len(betas) * n_states**2)
    return counts.reshape(-1, n_states)


def assert_rows(case: Case, kernel: Any, matrices: Sequence[np.ndarray], betas: Sequence[float], seed: int, *,
                false_fail: float, n: int = 20_000, must_see: float = 0.048,
                free: Sequence[int] | None = None) -> None:
    """The shipped code, with its own draws, is these matrices row by row: 20,000 chains a row see 0.048 in TV."""
    counts = row_counts(case, kernel, n, betas, seed, free)
    statistical.assert_rows_match(counts, np.concatenate(list(matrices)), false_fail=false_fail, must_see=must_see)
