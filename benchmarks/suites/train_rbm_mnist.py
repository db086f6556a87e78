"""Bernoulli RBMs on statically binarised MNIST: log-likelihood of the validation split after a given processor time.

log Z is exact with few hidden units; else annealing brackets it, forward from the base-rate RBM and in reverse from the
training's own chains after more steps.
"""

from __future__ import annotations

from typing import Any

import torch

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from benchmarks.suites.train_common import bracketed, need_folder, train

TITLE = "RBMs on static MNIST"
_RUNS = [
    {"hidden": 16, "seconds": 60, "lr": 0.2, "chains": 100, "steps": 1, "seeds": [0, 1, 2]},
    {"hidden": 500, "seconds": 360, "lr": 0.25, "chains": 100, "steps": 1, "seeds": [0]},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "batch": 100, "warmup": 100, "runs": _RUNS, "ais_chains": 100, "ais_steps": 1500,
             "more_steps": 300, "rows": 10_000},
    "small": {"threads": 1, "batch": 100, "warmup": 5, "ais_chains": 10, "ais_steps": 50, "more_steps": 10, "rows": 500,
              "runs": [{**run, "hidden": hidden, "seconds": 1} for run, hidden in zip(_RUNS, (8, 30), strict=True)]},
}  # fmt: skip
EXTENDABLE = ("runs",)
EXACT = 20  # hidden units up to which log Z is a sum


def run(ctx: Context) -> None:
    """Each RBM that this seed is to be trained for."""
    data = de.datasets.static_mnist(need_folder(ctx, "static MNIST")).flat()
    for one in ctx.runs:
        if ctx.seed in one["seeds"]:
            ctx.part(f"{one['hidden']} hidden, {one['seconds']} s",
                     lambda one=one: measure(ctx, data, one))


def recipe(data: torch.Tensor, hidden: int, chains: int, steps: int, seed: int) -> tuple[Any, Any]:
    """The RBM at its start, visible biases from the data, and centred PCD through its layers."""
    mean = data.float().mean(0).clamp(0.01, 0.99)
    energy = de.energies.BernoulliRBM(data.shape[1], hidden, visible_bias=mean.logit(), seed=seed)
    return energy, de.objectives.PCD(sampler="block-gibbs", n_steps=steps, bank_size=chains, start="marginal",
                                     centre="data")  # fmt: skip


def measure(ctx: Context, data: Any, one: dict[str, Any]) -> dict[str, Any]:
    """Train one RBM and find its likelihood."""
    energy, objective = recipe(data.train, one["hidden"], one["chains"], one["steps"], ctx.seed)
    trainer, cost = train(ctx, f"{one['hidden']} hidden", energy, objective, data.train, seconds=one["seconds"],
                          batch=ctx.batch, optimizer="sgd", lr=one["lr"], decay="linear", warmup=ctx.warmup,
                          ema=None)  # fmt: skip
    parts = {"valid": data.valid[: ctx.rows], "train": data.train[: ctx.rows]}
    if one["hidden"] <= EXACT:
        law = de.evaluate.exact(energy)
        found: dict[str, Any] = {"log_z": law.log_z, "width": 0.0}
        for part, rows in parts.items():
            own = de.evaluate.log_likelihood(energy, rows, law)
            found |= {part: own.nats, f"{part}_error": own.std_error}
        return cost | found
    chains = trainer.state.chains[: ctx.ais_chains]
    starts = de.sample(energy, "block-gibbs", x0=chains, n_steps=ctx.more_steps, burn_in=ctx.more_steps - 1,
                       seed=ctx.seed + 1).last  # fmt: skip
    return cost | bracketed(energy, parts, chains=len(starts), steps=ctx.ais_steps, seed=ctx.seed, starts=starts,
                            data=data.train)  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """A row an RBM."""
    columns: list[markdown.Column] = [
        ("valid, nats", "valid", ".2f"), ("by the reverse run", "valid_low", ".2f"), ("bracket", "width", ".2f"),
        ("train, nats", "train", ".2f"), ("updates", "updates", ".0f"), ("ms an update", "ms_per_update", ".2f"),
        ("processor s", "cpu_seconds", ".0f"), ("peak MiB", "peak_mib", ".0f"), ("s of AIS", "ais_cpu_seconds", ".0f"),
    ]  # fmt: skip
    settings = records[0]["settings"]
    text = (f"Centred PCD through the layers, plain gradient descent whose step falls linearly to 0 with the processor "
            f"time, batch {settings['batch']}; seconds are of one thread. Mean log-likelihood of {settings['rows']} "
            f"rows of each split, log Z exact up to {EXACT} hidden units, else by {settings['ais_steps']} rungs of "
            "annealing; the test split is not used.")  # fmt: skip
    return markdown.page(records, TITLE, text, markdown.by_part(records, columns, "RBM"))
