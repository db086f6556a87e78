"""Processor time and memory of a training update: an RBM and a deep energy, beside other packages; ResNet-64."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from benchmarks.peers.speed_peers import run_peer
from discrete_ebm.trainer import Batches, Trainer

TITLE = "Time of a training update"
_RBM = ("scikit-learn", "rbms", "learnergy", "ebmkit")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "visible": 784, "hidden": 500, "width": 256, "batch": 100, "rows": 5000, "updates": 50,
             "deep_updates": 10, "rounds": 3, "resnet": {"side": 28, "channels": 64, "steps": [1, 3], "rounds": 2,
                                                         "recipe_steps": 40, "recipe_updates": 50_000},
             "peers_python": sys.executable},
    "small": {"threads": 1, "visible": 20, "hidden": 10, "width": 8, "batch": 10, "rows": 200, "updates": 5,
              "deep_updates": 2, "rounds": 2, "resnet": {"side": 8, "channels": 4, "steps": [1, 2], "rounds": 1,
                                                         "recipe_steps": 40, "recipe_updates": 50_000},
              "peers_python": sys.executable},
}  # fmt: skip
EXTENDABLE = ("peers_python",)


def run(ctx: Context) -> None:
    """Ours and each package in turn, each in a process of its own; then ResNet-64 here."""
    data = (np.random.default_rng(ctx.seed).random((ctx.rows, ctx.visible)) < 0.13).astype(np.int8)
    common = {"data": data, "batch": ctx.batch, "rounds": ctx.rounds}
    rbm = common | {"model": "rbm", "hidden": ctx.hidden, "steps": 1, "updates": ctx.updates}
    deep = common | {"model": "mlp", "hidden": ctx.width, "steps": 10, "updates": ctx.deep_updates, "centre": 0}
    jobs = [("RBM", "discrete_ebm", rbm | {"centre": 0}), ("RBM", "discrete_ebm, centred", rbm | {"centre": 1})]
    jobs += [("RBM", name, rbm | {"centre": 0}) for name in _RBM]
    jobs += [("RBM", "rbms, centred", rbm | {"centre": 1})]
    jobs += [("deep", name, deep) for name in ("discrete_ebm", "ebmkit")]
    for model, name, problem in jobs:
        package = name.split(",")[0]
        python = sys.executable if package == "discrete_ebm" else ctx.peers_python
        ctx.part(f"{model}: {name}", lambda problem=problem, package=package, python=python: run_peer(
            "training_peers.py", problem | {"package": package}, python=python, threads=ctx.threads))
    ctx.part("ResNet-64", lambda: resnet(ctx.resnet, ctx.batch, ctx.seed))


def resnet(settings: dict[str, Any], batch: int, seed: int) -> dict[str, Any]:
    """Seconds of an update at two numbers of sampling steps, and those of the recipe on the line through them."""
    space = de.Binary((settings["side"], settings["side"]))
    generator = torch.Generator().manual_seed(seed)
    data = space.random(2 * batch, generator)
    found: dict[int, float] = {}
    for steps in settings["steps"]:
        network = de.energies.ResNetEnergy(space, settings["channels"], seed=seed)
        energy = network + de.energies.MeanField.fit(space, data)
        trainer = Trainer(energy, de.objectives.PCD(sampler="gwg", n_steps=steps, bank_size=batch), data,
                          generator=generator, n_iterations=100, lr=1e-4)  # fmt: skip
        batches = Batches(data, batch, generator)
        trainer.update(next(batches))
        times = []
        for _ in range(settings["rounds"]):
            began = time.process_time()
            trainer.update(next(batches))
            times.append(time.process_time() - began)
        found[steps] = float(np.median(times))
    low, high = settings["steps"]
    step = (found[high] - found[low]) / (high - low)
    update = found[low] + step * (settings["recipe_steps"] - low)
    return {"seconds": found, "step_seconds": step, "rest_seconds": found[low] - low * step, "update_seconds": update,
            "hours": update * settings["recipe_updates"] / 3600}  # fmt: skip


def tables(records: list[dict[str, Any]]) -> str:
    """A row a package, with its time in units of ours."""
    for record in records:
        own = {model: record["parts"].get(f"{model}: discrete_ebm", {}).get("ms") for model in ("RBM", "deep")}
        for name, part in record["parts"].items():
            base = own.get(name.partition(":")[0])
            if base and part.get("ms"):
                part["ratio"] = part["ms"] / base
    columns: list[markdown.Column] = [
        ("ms an update", "ms", ".2f"), ("fastest round", "ms_low", ".2f"), ("slowest", "ms_high", ".2f"),
        ("times ours", "ratio", ".2f"), ("peak MiB", "peak_mib", ".0f"), ("before training", "before_mib", ".0f"),
        ("version", "version", ""), ("what is measured", "note", ""),
    ]  # fmt: skip
    table = markdown.by_part(records, columns, "package", lambda name: not name.startswith("ResNet"))
    deep: list[markdown.Column] = [
        ("s a GWG step", "step_seconds", ".2f"), ("s of the rest of an update", "rest_seconds", ".2f"),
        ("s an update of the recipe", "update_seconds", ".1f"), ("hours of the recipe", "hours", ".0f"),
    ]  # fmt: skip
    settings = records[0]["settings"]
    text = (f"RBM of {settings['visible']} visible and {settings['hidden']} hidden units, one Gibbs step; deep: a "
            f"perceptron of three layers of {settings['width']} and ten GWG steps; batch {settings['batch']}. Median "
            f"processor milliseconds of {settings['rounds']} rounds.")  # fmt: skip
    net = (f"ResNet-64 at batch {settings['batch']}: {settings['resnet']['recipe_steps']} GWG steps an update, "
           f"{settings['resnet']['recipe_updates']} updates.")  # fmt: skip
    other = markdown.by_part(records, deep, "network", lambda name: name.startswith("ResNet"))
    return markdown.page(records, TITLE, text, table, net, other)
