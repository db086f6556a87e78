"""Informed kernels with their random draws replaced by every possible draw: the shipped arithmetic as a matrix.

``follow`` runs a shipped kernel once for every state and every script of draws, records the probability it gives to the
draws and the log ratio it hands to the acceptor, and adds them up. Nothing random is left, so the matrix is exact.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.samplers import gwg, locally_balanced, path_auxiliary
from tests.cases import Case


def clamp_of(case: Case, free: Sequence[int] | None) -> Tensor | None:
    """The mask that leaves only ``free`` sites to move."""
    if free is None:
        return None
    return torch.tensor([i not in free for i in range(len(case.radices))]).reshape(case.space.shape)


def follow(kernel: Any, case: Case, beta: float, n: int, free: Sequence[int] | None = None) -> np.ndarray:
    """(S, S) law of one step of ``kernel`` with ``n`` draws (its number of flips, its length of path).

    That draws are made with the probability the kernel says is not seen here, but that those add up to 1 is.
    """
    width = 1 if case.space.k_max == 2 else case.space.k_max
    n_sites, n_states = len(case.radices), len(case.table)
    at_once = isinstance(kernel, path_auxiliary.PathAuxiliary) and kernel.fast and not kernel.replacement
    scripts = [s for s in itertools.product(range(n_sites * width), repeat=n)
               if not at_once or len({m // width for m in s}) == n]
    if isinstance(kernel, gwg.GibbsWithGradients):  # only a site's first draw says its value: one script for the rest
        scripts = [s for s in scripts if all(m % width == 0 for t, m in enumerate(s)
                                             if m // width in {earlier // width for earlier in s[:t]})]
    script = torch.tensor(scripts).reshape(len(scripts), n).repeat(n_states, 1)
    rows = np.repeat(np.arange(n_states), len(scripts))
    turn, log_q, log_alpha = itertools.count(), [], []

    def one(logits: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        move = script[:, next(turn)]
        return move, torch.ones_like(move, dtype=torch.bool)

    def several(logits: Tensor, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert count == n
        return script, torch.ones(len(script), dtype=torch.bool)

    def in_order(scores: Tensor, wide: int, count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        assert (wide, count) == (width, n)
        return script // width, script % width, torch.ones_like(script, dtype=torch.bool)

    def judge(ratio: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_alpha.append(ratio)
        return torch.ones_like(ratio, dtype=torch.bool), ratio.exp()

    def spied(original: Any) -> Any:
        def call(*arguments: Any) -> Tensor:
            log_q.append(original(*arguments))
            return log_q[-1]
        return call

    def all_turns(self: Any, log_scale: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full(log_scale.shape, n)

    pas = path_auxiliary.PathAuxiliary
    patches: list[tuple[Any, str, Any]] = [
        (path_auxiliary, "draw_move", one), (locally_balanced, "draw_move", one), (gwg, "draw_moves", several),
        (path_auxiliary, "_draw_in_order", in_order), (pas, "_draw_length", all_turns),
        (gwg, "round_either_way", lambda value, *, generator: torch.full(value.shape, n)),
        *((module, name, spied(getattr(module, name))) for module, name in (
            (path_auxiliary, "_log_prob_in_order"), (path_auxiliary, "_log_prob_of"), (gwg, "_log_prob_of_draws"))),
        *((module, "metropolis_hastings", judge) for module in (path_auxiliary, gwg, locally_balanced)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, fake in patches:
            stack.enter_context(mock.patch.object(owner, name, fake))
        x0, generator, clamp = case.x(rows), torch.Generator(), clamp_of(case, free)
        state = kernel.init(case.energy, x0, generator=generator, clamp=clamp)
        if isinstance(kernel, locally_balanced.LocallyBalanced):
            beta_of_chains = torch.full((len(rows),), beta, dtype=torch.float64)
            scores = locally_balanced.SingleSite(case.space).scores(
                x0, state.cache["deltas"], beta_of_chains, kernel.balancing, None, clamp)
            log_q.append(scores.log_softmax(-1).gather(1, script)[:, 0])
        after, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    stepwise = isinstance(kernel, path_auxiliary.PathAuxiliary) and not at_once
    log_forward = torch.stack(log_q[:n]).sum(0) if stepwise else log_q[0]
    assert log_forward.dtype == torch.float64
    drawn = (log_forward > -torch.inf).numpy()
    chance = (log_forward.exp() * log_alpha[0].clamp(max=0).exp()).numpy()[drawn]
    assert not np.isnan(chance).any()
    matrix = np.zeros((n_states, n_states))
    np.add.at(matrix, (rows[drawn], case.rows(after.x)[drawn]), chance)
    total = np.zeros(n_states)
    np.add.at(total, rows[drawn], log_forward.exp().numpy()[drawn])
    assert np.abs(total - 1).max() <= 1e-12, "the draws' probabilities do not add up to 1"
    matrix[np.diag_indices(n_states)] += 1 - matrix.sum(1)
    return matrix
