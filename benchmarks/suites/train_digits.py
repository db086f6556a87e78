"""Every objective and sampler on binarised digits at equal processor time: a perceptron on a mean-field base.

Each method trains the same network for the same time; annealing brackets log Z, forward from the base and in reverse
from chains of the trained model.
"""

from __future__ import annotations

from typing import Any

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from benchmarks.suites.train_common import bracketed, train

TITLE = "Objectives and samplers on binarised digits"
_WALKS: list[dict[str, Any]] = [
    {"sampler": "gwg", "n_steps": 2},
    {"sampler": "dmala", "n_steps": 2},
    {"sampler": "pas", "n_steps": 2},
    {"sampler": "gibbs", "n_steps": 1},
    {"sampler": "metropolis", "n_steps": 10},
    {"sampler": "dlmc", "n_steps": 2},
    {"sampler": "dula", "n_steps": 2},
]
_FROM = {"start": "marginal"}  # random bits are too far from the base for chains of few steps to come near
METHODS: list[dict[str, Any]] = [
    {"objective": "pseudo-likelihood", "sites": 8},
    {"objective": "pseudo-likelihood"},
    *({"objective": "pcd", **walk, **_FROM} for walk in _WALKS),
    {"objective": "energy-discrepancy"},
    {"objective": "cnce"},
    {"objective": "ratio-matching"},
    {"objective": "guided-ratio-matching"},
    {"objective": "probability-flow"},
    {"objective": "concrete-score-matching"},
    {"objective": "cd", **_WALKS[0]},
    {"objective": "cd", **_WALKS[3]},
    {"objective": "short-run", **_WALKS[0], **_FROM, "n_steps": 20},
    {"objective": "tempered-pcd", "sampler": "gwg", "n_steps": 2, "n_replicas": 4},
    {"objective": "pcd", "sampler": "gwg", "n_steps": 2},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "methods": METHODS, "seconds": 12, "hidden": [256, 256, 256], "lr": 0.001, "batch": 100,
             "warmup": 50, "weight_decay": 0.0, "ema": 0.999, "ais_chains": 100, "ais_steps": 400, "start_steps": 400,
             "split": "valid"},
    "small": {"threads": 1, "methods": [METHODS[0], METHODS[-3]], "seconds": 1, "hidden": [8], "lr": 0.001, "batch": 20,
              "warmup": 5, "weight_decay": 0.0, "ema": 0.9, "ais_chains": 5, "ais_steps": 20, "start_steps": 20,
              "split": "valid"},
}  # fmt: skip
EXTENDABLE = ("methods",)
_OPTIONS = ("lr", "optimizer", "decay", "batch", "seconds", "weight_decay", "ema")  # of the training, not the objective


def label(method: dict[str, Any]) -> str:
    """A name of a method from its settings."""
    rest = ", ".join(f"{key} {value}" for key, value in method.items() if key not in ("objective", "sampler"))
    walk = f" by {method['sampler']}" if "sampler" in method else ""
    return f"{method['objective']}{walk}" + (f" ({rest})" if rest else "")


def run(ctx: Context) -> None:
    """One part a method."""
    data = de.datasets.digits().flat()
    for method in ctx.methods:
        ctx.part(label(method), lambda method=method: measure(ctx, data, method))


def measure(ctx: Context, data: Any, method: dict[str, Any]) -> dict[str, Any]:
    """Train by one method; the likelihood of the averaged parameters."""
    base = de.energies.MeanField.fit(data.space, data.train)
    energy = de.energies.MLPEnergy(data.space, tuple(ctx.hidden), seed=ctx.seed) + base
    chosen = {name: method.get(name, ctx.settings.get(name)) for name in ("lr", "weight_decay", "ema")}
    own = {key: value for key, value in method.items() if key not in ("objective", *_OPTIONS)}
    objective = de.objectives.create(method["objective"], **own)
    try:
        trainer, cost = train(ctx, label(method), energy, objective, data.train, batch=method.get("batch", ctx.batch),
                              seconds=method.get("seconds", ctx.seconds), decay=method.get("decay", "linear"),
                              optimizer=method.get("optimizer", "adam"), warmup=ctx.warmup, **chosen)  # fmt: skip
    except (de.errors.DivergenceError, de.errors.NonFiniteEnergyError) as cause:
        return {"failed": str(cause)}
    averaged = trainer.energy if trainer.ema is None else trainer.ema
    parts = {ctx.split: getattr(data, ctx.split), "train": data.train}
    found = bracketed(averaged, parts, chains=ctx.ais_chains, steps=ctx.ais_steps, seed=ctx.seed, base=base,
                      sampler="gwg", start_steps=ctx.start_steps)  # fmt: skip
    return cost | found


def tables(records: list[dict[str, Any]]) -> str:
    """A row a method, the best first."""
    name = records[0]["settings"]["split"]
    columns: list[markdown.Column] = [
        (f"{name}, nats", name, ".2f"), ("by the reverse run", f"{name}_low", ".2f"), ("bracket", "width", ".2f"),
        ("train, nats", "train", ".2f"), ("updates", "updates", ".0f"), ("ms an update", "ms_per_update", ".1f"),
        ("returns", "events", ".0f"),
    ]  # fmt: skip
    settings = records[0]["settings"]
    text = (f"Perceptron {'-'.join(map(str, settings['hidden']))} (SiLU) plus a mean field fitted to the training "
            f"rows; Adam, lr {settings['lr']:g} falling linearly, batch {settings['batch']}, averaged parameters "
            f"({settings['ema']:g}), {settings['seconds']:g} processor seconds of one thread each. log Z by "
            f"{settings['ais_chains']} chains and {settings['ais_steps']} rungs each way.")  # fmt: skip
    best = _sorted(records, name)
    failed = [f"- {part}: {found['failed']}" for record in records for part, found in record["parts"].items()
              if "failed" in found]  # fmt: skip
    return markdown.page(best, TITLE, text, markdown.by_part(best, columns, "objective and sampler"), "\n".join(failed))


def _sorted(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The same records with the parts of the first in the order of their mean likelihood."""
    names = list(dict.fromkeys(part for record in records for part in record["parts"]))

    def mean(part: str) -> float:
        values = [record["parts"].get(part, {}).get(name) for record in records]
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers else -1e9

    order = sorted(names, key=mean, reverse=True)
    return [record | {"parts": {part: record["parts"][part] for part in order if part in record["parts"]}}
            for record in records]  # fmt: skip
