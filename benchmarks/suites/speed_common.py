"""What the speed suites share: timing our own kernels, and the table of ratios."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks import markdown
from discrete_ebm import samplers

__all__ = ["own", "tables_of", "with_ratios"]


def own(energy: Any, name: str, *, chains: int, seed: int, beta: float, steps: int, repeats: int = 3,
        **settings: Any) -> dict[str, Any]:
    """Site updates per nanosecond of one of our kernels: the best of ``repeats`` runs of ``steps`` steps."""
    kernel, generator = samplers.create(name, **settings), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, energy.space.random(chains, generator), generator=generator)
    for _ in range(2):  # compiles, fills caches
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            state, _ = kernel.step(energy, state, generator=generator, beta=beta)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    updates = energy.space.n_sites * chains * steps * settings.get("sweeps", 1)
    return {"seconds": min(walls), "cpu_seconds": min(cpus), "updates": updates, "chains": chains,
            "per_ns": updates / min(walls) / 1e9, "per_cpu_ns": updates / min(cpus) / 1e9}  # fmt: skip


def with_ratios(parts: dict[str, Any], peer: str) -> dict[str, float]:
    """How many times as fast as the part ``peer`` each other part is, by processor time.

    On one thread that is what a quiet machine's clock would say; a busy one's says nothing.
    """
    base = parts.get(peer, {}).get("per_cpu_ns")
    if not base:
        return {}
    return {name: part["per_cpu_ns"] / base for name, part in parts.items()
            if part.get("per_cpu_ns") and name != peer}


def tables_of(records: list[dict[str, Any]], title: str, text: str) -> str:
    """One row a part: updates per nanosecond of wall clock and of processor time."""
    columns: list[markdown.Column] = [
        ("updates / ns", "per_ns", ".4f"), ("updates / ns of processor time", "per_cpu_ns", ".4f"),
        ("seconds", "seconds", ".3f"),
    ]  # fmt: skip
    table = markdown.by_part(records, columns, "what", lambda name: not name.startswith("ratio"))
    return markdown.page(records, title, text, table)
