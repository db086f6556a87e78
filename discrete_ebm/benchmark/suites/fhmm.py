"""The posterior of a factorial hidden Markov model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import Case, law_parts, long_run, run_cases, sampling_page
from discrete_ebm.energies import FactorialHMM

TITLE = "FHMM: hidden bits of a factorial hidden Markov model given its series."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"models": [[12, 3]], "n_chains": 16, "n_steps": 120, "burn_in": 60, "start_steps": 100, "law_chains": 64,
              "law_steps": 150, "limit": None, "least_steps": 0, "samplers": [],
              "left_out": ["tempered-transitions"]},
    "full": {"models": [[1000, 10], [200, 50]], "n_chains": 32, "n_steps": 4000, "burn_in": 500, "start_steps": 4000,
             "law_chains": 256, "law_steps": 3000, "limit": 300.0, "least_steps": 200, "samplers": [], "left_out": []},
}  # fmt: skip
EXACT = 12  # hidden chains for which exact draws and means are made


def _case(length: int, n_hidden: int, ctx: Record) -> Case:
    def energy() -> FactorialHMM:
        return FactorialHMM.random(length, n_hidden, seed=ctx.seed)

    def start(seed: int) -> Any:
        if n_hidden <= EXACT:
            draws = energy().exact_sample(ctx.n_chains, generator=torch.Generator().manual_seed(seed))
            return draws.to(ctx.device)
        return long_run(energy(), "chromatic", ctx.n_chains, ctx.start_steps, seed)[2].to(ctx.device)

    def reference(seed: int) -> tuple[float, float, str]:
        if n_hidden <= EXACT:
            return energy().mean_energy(), 0.0, "the exact mean (forward recursion)"
        mean, error, _ = long_run(energy(), "chromatic", ctx.n_chains, ctx.start_steps, seed)
        return mean, error, f"{ctx.start_steps} steps of chromatic"

    return Case(f"{length} steps of {n_hidden} bits", energy, start, reference)


def cases(ctx: Record) -> Iterator[Case]:
    for length, n_hidden in ctx.models:
        yield _case(length, n_hidden, ctx)


def run(ctx: Record) -> None:
    law_parts(ctx, "4 steps of 2 bits", FactorialHMM.random(4, 2, seed=ctx.seed))
    run_cases(ctx, cases(ctx))


def tables(records: Sequence[dict[str, Any]]) -> str:
    return sampling_page(records, TITLE)


def figure(record: dict[str, Any]) -> Any:
    return figures.bars(record)
