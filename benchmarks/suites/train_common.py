"""What the training suites share: training by processor time that goes on where it stopped, and likelihoods."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import discrete_ebm as de
from benchmarks.common import Context
from discrete_ebm.errors import DataError
from discrete_ebm.fitting import data_digest
from discrete_ebm.step_folders import Checkpoints
from discrete_ebm.trainer import Batches, Trainer

__all__ = ["NEVER", "bracketed", "need_folder", "peak_memory", "train"]

NEVER = 2**40  # updates: the clock ends a training


def need_folder(ctx: Context, what: str) -> Any:
    """``--data``, without which there is nothing to measure."""
    if ctx.data is None:
        raise DataError(f"`--data` must name the folder with {what} for the suite {ctx.suite}; got nothing.")
    return ctx.data


def peak_memory() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(ctx: Context, name: str, energy: Any, objective: Any, data: Tensor, *, seconds: float | None = None,
          updates: int | None = None, batch: int = 100, callbacks: Sequence[Any] = (),
          **settings: Any) -> tuple[Trainer, dict[str, Any]]:
    """Train on ``data`` for ``seconds`` of processor time, or ``updates``; resumed from its checkpoints.

    Returns:
        the trainer, and what the training cost.
    """
    generator = torch.Generator().manual_seed(1_000_003 * (ctx.seed + 1))
    batches = Batches(data, batch, generator)
    folder = ctx.folder() / re.sub("[^a-z0-9.]+", "-", name.lower())
    config = {"objective": repr(objective), "seconds": seconds, "updates": updates, "batch": batch,
              "data": data_digest(data), **settings}  # fmt: skip
    trainer = Trainer(energy, objective, data, generator=generator, n_iterations=updates or NEVER,
                      max_seconds=seconds, clock="processor", checkpoints=Checkpoints(folder), config=config,
                      **settings)  # fmt: skip
    trainer.resume(batches)
    if not trainer.run(batches, callbacks, progress=ctx.progress, label=name):
        raise KeyboardInterrupt
    spent = trainer.history["seconds"][-1]
    return trainer, {"updates": trainer.iteration, "cpu_seconds": spent,
                     "ms_per_update": 1e3 * spent / trainer.iteration, "events": len(trainer.events),
                     "peak_mib": peak_memory()}  # fmt: skip


@torch.no_grad()
def bracketed(energy: Any, parts: dict[str, Tensor], *, chains: int, steps: int, seed: int,
              starts: Tensor | None = None, data: Tensor | None = None, **options: Any) -> dict[str, Any]:
    """Log-likelihoods of ``parts`` between forward and reverse AIS: "valid" is the forward figure, as papers print."""
    began = time.process_time()
    found = de.evaluate.bracket(energy, chains, steps, seed, starts=starts, data=data, **options)
    result: dict[str, Any] = {"log_z": [found.lower, found.upper], "width": found.width,
                              "log_z_error": [found.forward.std_error, found.reverse.std_error],
                              "ess": [found.forward.ess, found.reverse.ess]}  # fmt: skip
    for part, rows in parts.items():
        low, high = found.log_likelihood(rows)
        result |= {part: de.evaluate.log_likelihood(energy, rows, found.forward).nats, f"{part}_low": low.nats,
                   f"{part}_high": high.nats, f"{part}_error": high.std_error}  # fmt: skip
    return result | {"ais_cpu_seconds": time.process_time() - began}
