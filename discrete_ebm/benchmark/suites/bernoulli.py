"""Independent bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import Case, law_parts, run_cases, sampling_page
from discrete_ebm.energies import Ising
from discrete_ebm.spaces import Binary

TITLE = "Bernoulli: independent bits, log odds from N(0, 1)."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"sizes": [40], "n_chains": 16, "n_steps": 120, "burn_in": 60, "law_chains": 64, "law_steps": 150,
              "limit": None, "least_steps": 0, "samplers": [],
              "left_out": ["tempered-transitions"]},
    "full": {"sizes": [100, 1000, 10000], "n_chains": 32, "n_steps": 4000, "burn_in": 500, "law_chains": 256,
             "law_steps": 3000, "limit": 120.0, "least_steps": 200, "samplers": [], "left_out": []},
}  # fmt: skip


def independent(n: int, seed: int) -> Ising:
    """n bits with log odds drawn from N(0, 1)."""
    field = torch.randn(n, generator=torch.Generator().manual_seed(seed)) / 2  # of spins: half the log odds
    return Ising.sparse(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), field, space=Binary(n))


def _case(n: int, ctx: Record) -> Case:
    field = independent(n, ctx.seed).field.detach().double()
    exact = float(-(field * field.tanh()).sum())

    def start(seed: int) -> Any:
        uniform = torch.rand(ctx.n_chains, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (uniform < (2 * field).sigmoid()).to(torch.int8).to(ctx.device)

    return Case(f"{n} bits", lambda: independent(n, ctx.seed), start, lambda seed: (exact, 0.0, "the exact mean"))


def cases(ctx: Record) -> Iterator[Case]:
    for n in ctx.sizes:
        yield _case(n, ctx)


def run(ctx: Record) -> None:
    law_parts(ctx, "8 bits", independent(8, ctx.seed))
    run_cases(ctx, cases(ctx))


def tables(records: Sequence[dict[str, Any]]) -> str:
    return sampling_page(records, TITLE)


def figure(record: dict[str, Any]) -> Any:
    return figures.bars(record)
