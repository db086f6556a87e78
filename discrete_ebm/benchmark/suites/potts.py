"""The square-lattice Potts model from 4 to 256 categories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import Case, law_parts, long_run, run_cases, sampling_page
from discrete_ebm.energies import Potts

TITLE = "Potts: square lattice, number of categories."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"side": 4, "categories": [3, 8], "relative": 0.9, "n_chains": 16, "n_steps": 100, "burn_in": 40,
              "start_steps": 60, "law_chains": 64, "law_steps": 150, "limit": None, "least_steps": 0, "samplers": [],
              "left_out": ["tempered-transitions"]},
    "full": {"side": 30, "categories": [4, 16, 64, 256], "relative": 0.9, "n_chains": 32, "n_steps": 4000,
             "burn_in": 500, "start_steps": 2000, "law_chains": 256, "law_steps": 3000, "limit": 300.0,
             "least_steps": 200, "samplers": [], "left_out": []},
}  # fmt: skip


def _case(k: int, ctx: Record) -> Case:
    # 0.9 of the critical coupling: the transition is of first order for k > 4 and nothing mixes at it
    coupling = ctx.relative * math.log(1 + math.sqrt(k))

    def energy() -> Potts:
        return Potts.lattice((ctx.side, ctx.side), coupling, k)

    def start(seed: int) -> Any:
        return long_run(energy(), "swendsen-wang", ctx.n_chains, ctx.start_steps // 2 + 1, seed)[2].to(ctx.device)

    def reference(seed: int) -> tuple[float, float, str]:
        mean, error, _ = long_run(energy(), "swendsen-wang", ctx.n_chains, ctx.start_steps, seed)
        return mean, error, f"{ctx.start_steps} steps of swendsen-wang"

    return Case(f"{ctx.side}x{ctx.side}, K {k}", energy, start, reference)


def cases(ctx: Record) -> Iterator[Case]:
    for k in ctx.categories:
        yield _case(k, ctx)


def run(ctx: Record) -> None:
    law_parts(ctx, "2x3, K 3", Potts.lattice((2, 3), 0.9, 3, [0.0, 0.2, -0.1]))
    run_cases(ctx, cases(ctx))


def tables(records: Sequence[dict[str, Any]]) -> str:
    return sampling_page(records, TITLE)


def figure(record: dict[str, Any]) -> Any:
    return figures.sweep(record, "number of categories K")
