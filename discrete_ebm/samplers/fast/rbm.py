"""Layers of binary units drawn by compiled code."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_ebm.samplers.fast.dispatch import step_seeds
from discrete_ebm.samplers.fast.threads import run_jobs

__all__ = ["bernoulli_layer"]

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
