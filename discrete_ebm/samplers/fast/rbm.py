"""Layers of binary units drawn by compiled code, and the whole step of a binary RBM."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.samplers.fast.dispatch import step_seeds
from discrete_ebm.samplers.fast.threads import run_jobs

__all__ = ["RbmStep", "bernoulli_layer", "rbm_step"]

ROWS = 64  # rows of one job, which share random streams


def bernoulli_layer(logits: Tensor, beta: Tensor | None, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """(C, M) of ``dtype``, 1 with probability σ(beta · logits); ``logits`` float32 or float64 on the CPU, beta (C,)."""
    from discrete_ebm.samplers.fast import _rbm as compiled

    values = logits.detach().contiguous().numpy()
    scale = (torch.ones(1) if beta is None else beta).to(logits.dtype).contiguous().numpy()
    result = torch.empty(logits.shape, dtype=dtype)
    out, seeds = result.numpy(), step_seeds(generator)

    def job(number: int) -> None:
        rows = slice(ROWS * number, min(len(values), ROWS * (number + 1)))
        own = scale if len(scale) == 1 else scale[rows]
        compiled.bernoulli(values[rows], own, seeds[0], seeds[1], number, out[rows])

    run_jobs(job, -(-len(values) // ROWS), cost=1.5 * ROWS * values.shape[1])
    return result


class RbmStep(NamedTuple):
    """``x`` (C, *shape) int8, ``odds`` (C, H) of its hidden units, ``energy`` (C,), ``changed`` (C,) int64 units."""

    x: Tensor
    odds: Tensor
    energy: Tensor
    changed: Tensor


def rbm_step(energy: Any, x: Tensor, odds: Tensor, generator: torch.Generator) -> RbmStep | None:
    """h ~ p(h | x), y ~ p(y | h) of a ``BernoulliRBM`` at beta 1, with the hidden log odds and the energy at y.

    Biases, sums, changes and the energy are found in the passes that draw: beside them there are two matrix products.

    Args:
        x: (C, *shape) int8 on the CPU. odds: (C, H) hidden log odds at x, float32 or float64 as the weights.
    Returns:
        None where a number is not finite: the caller's other way says of which chains.
    """
    from discrete_ebm.samplers.fast import _rbm as compiled

    weight, n_chains = energy.weight.detach(), len(x)
    visible_bias, hidden_bias = (b.detach().contiguous().numpy() for b in (energy.visible_bias, energy.hidden_bias))
    hidden = bernoulli_layer(odds, None, generator, weight.dtype)
    logits = torch.mm(hidden, weight.t()).numpy()
    seeds = step_seeds(generator)
    y, floats = torch.empty(x.shape, dtype=x.dtype), torch.empty(logits.shape, dtype=weight.dtype)
    old, new, dense = x.contiguous().view(n_chains, -1).numpy(), y.view(n_chains, -1).numpy(), floats.numpy()
    fields, softplus, totals = np.empty(n_chains), np.empty(n_chains), np.empty((2, n_chains))
    changed = np.empty(n_chains, np.int64)

    def draw(number: int) -> None:
        rows = slice(ROWS * number, min(n_chains, ROWS * (number + 1)))
        compiled.visible(logits[rows], visible_bias, seeds[0], seeds[1], number, old[rows], new[rows], dense[rows],
                         fields[rows], totals[0, rows], changed[rows])

    run_jobs(draw, -(-n_chains // ROWS), cost=1.7 * ROWS * logits.shape[1])
    after = torch.mm(floats, weight)
    sums = after.numpy()

    def judge(number: int) -> None:
        rows = slice(ROWS * number, min(n_chains, ROWS * (number + 1)))
        compiled.free_energy(sums[rows], hidden_bias, softplus[rows], totals[1, rows])

    run_jobs(judge, -(-n_chains // ROWS), cost=0.7 * ROWS * sums.shape[1])
    if not np.isfinite(totals.sum() + softplus.sum() + fields.sum()):
        return None
    return RbmStep(y, after, torch.from_numpy(-fields - softplus).to(weight.dtype), torch.from_numpy(changed))
