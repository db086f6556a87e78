"""Objectives on reals against densities that are known exactly: 8 Gaussians, rings, checkerboard, moons.

Every objective trains the same perceptron on the same draws for the same processor time of one thread; the energy that
results is normalised on the box by the midpoint rule and compared with the truth: KL(truth ‖ model), total variation,
and the relative error of the score, all by quadrature. Beside it: one update of each objective against the plain
denoising update written out, and the same for torchebm and ebmkit in an environment of theirs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from benchmarks.peers.scores import in_turns, plain_update
from benchmarks.peers.speed_peers import run_peer
from discrete_ebm.datasets import densities
from discrete_ebm.energies import noise_conditional_mlp, noise_levels
from discrete_ebm.errors import EBMError
from discrete_ebm.objectives import model_score
from discrete_ebm.trainer import Batches, Trainer

TITLE = "Densities."
LEVELS = noise_levels(1.0, 0.08, 6)
LANGEVIN = {"sampler": de.samplers.create("langevin", step_size=0.02)}
SLOW, FAST = 8e-3, 2e-2  # Adam's first steps: at 4e-3 NCE stayed at .5 nats on 8 Gaussians, at 2e-2 CD diverged
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "explicit score (truth known)": ("explicit-score-matching", {}, SLOW),
    "implicit score": ("implicit-score-matching", {}, SLOW),
    "sliced score": ("sliced-score-matching", {}, SLOW),
    "denoising, σ = 0.1": ("denoising-score-matching", {"sigma": 0.1}, SLOW),
    "denoising, σ = 0.1, pairs": ("denoising-score-matching", {"sigma": 0.1, "antithetic": True}, SLOW),
    "denoising, 6 levels": ("multi-scale-score-matching", {}, FAST),
    "NCE, Gaussian noise": ("nce", {"noise": "gaussian", "n_samples": 2}, FAST),
    "NCE, uniform noise": ("nce", {"noise": "uniform", "n_samples": 2}, FAST),
    "CD, 5 steps": ("cd", {**LANGEVIN, "n_steps": 5}, SLOW),
    "PCD, 5 steps": ("pcd", {**LANGEVIN, "n_steps": 5, "restart": 0.05}, SLOW),
    "improved CD, 5 steps": ("improved-cd", {**LANGEVIN, "n_steps": 5}, SLOW),
    "short run, 20 steps": ("short-run", {**LANGEVIN, "n_steps": 20}, SLOW),
    "reconstruction, 5 steps": ("reconstruction", {"sigma": 0.3}, SLOW),
}
TIMED: dict[str, dict[str, Any]] = {
    "implicit-score-matching": {},
    "sliced-score-matching": {},
    "denoising-score-matching": {"sigma": 0.1},
    "nce": {},
    "pcd": {**LANGEVIN, "restart": 0.05},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "densities": densities.names(), "methods": list(METHODS), "cpu_seconds": 3.0, "rows": 20_000,
             "batch": 128, "width": 64, "grid": 120, "updates": 10, "turns": 15,
             "peers_python": sys.executable},
    "small": {"threads": 1, "densities": ["moons"], "methods": ["implicit score", "NCE, uniform noise"],
              "cpu_seconds": 0.2, "rows": 500, "batch": 50, "width": 16, "grid": 20, "updates": 2,
              "turns": 2, "peers_python": sys.executable},
}  # fmt: skip
EXTENDABLE = ("peers_python", "methods", "densities")


def run(ctx: Context) -> None:
    """Every density with every objective, then the time of updates."""
    for name in ctx.densities:
        for method in ctx.methods:
            objective, settings, lr = METHODS[method]
            if name == "checkerboard" and objective == "explicit-score-matching":
                continue  # it has no score
            ctx.part(f"{name}: {method}", lambda name=name, objective=objective, settings=settings, lr=lr: (
                fitted_law(ctx, name, objective, settings, lr)))  # fmt: skip
    for objective in TIMED if ctx.turns else ():
        ctx.part(f"update: {objective}", lambda objective=objective: own_update(ctx, objective))
        for peer in ("torchebm", "ebmkit"):
            problem = {"peer": peer, "objective": objective, "batch": ctx.batch, "width": ctx.width,
                       "updates": ctx.updates, "turns": ctx.turns}  # fmt: skip
            ctx.part(f"update: {objective}, {peer}", lambda problem=problem: peer_update(problem, ctx))
    ctx.note("Updates of peers are measured in their own process beside the same plain update; ratios are compared.")


def model_of(objective: str, space: Any, width: int, seed: int) -> Any:
    """The perceptron 2 - width - width - 1 with SiLU; one input more, log σ, where there are several levels."""
    if objective == "multi-scale-score-matching":
        return noise_conditional_mlp(space, LEVELS, (width, width), seed=seed)
    return de.energies.MLPEnergy(space, (width, width), seed=seed)


def train(ctx: Any, name: str, objective: str, settings: dict[str, Any], lr: float) -> tuple[Any, int, float]:
    """The trained energy, its updates and processor seconds."""
    truth = densities.create(name)
    data = truth.sample(ctx.rows, seed=ctx.seed)
    own = {"score": truth.score} if objective == "explicit-score-matching" else {}
    energy = model_of(objective, truth.space, ctx.width, ctx.seed)
    generator = torch.Generator().manual_seed(ctx.seed)
    trainer = Trainer(energy, de.objectives.create(objective, **settings, **own), data, generator=generator,
                      n_iterations=10**9, lr=lr, warmup=20, decay="linear", ema=None, max_seconds=ctx.cpu_seconds,
                      clock="processor")  # fmt: skip
    trainer.run(Batches(data, ctx.batch, generator))
    return energy, trainer.iteration, trainer.seconds


def fitted_law(ctx: Any, name: str, objective: str, settings: dict[str, Any], lr: float) -> dict[str, Any]:
    """What one training reached, or why it did not end."""
    try:
        energy, updates, seconds = train(ctx, name, objective, settings, lr)
    except EBMError as cause:
        return {"failed": str(cause)[:200]}
    return judged(energy, densities.create(name), ctx.grid) | {"updates": updates, "cpu_seconds": seconds}


def judged(energy: Any, truth: densities.Density, grid: int) -> dict[str, Any]:
    """KL(truth ‖ model) and (model ‖ truth), total variation, E_p|s − s*|²/E_p|s*|²: by quadrature."""
    model, law = de.evaluate.quadrature(energy, grid), de.evaluate.quadrature(truth, grid)
    found: dict[str, Any] = {"kl": law.kl(model), "tv": law.total_variation(model), "log_z_error": model.error}
    reverse = model.kl(law)
    found["reverse_kl"] = reverse if math.isfinite(reverse) else None
    if not isinstance(truth, densities.Checkerboard):
        score = model_score(energy, law.points.float())[0].detach().double()
        target = truth.score(law.points)
        off = law.expectation((score - target).square().sum(1)) / law.expectation(target.square().sum(1))
        found["score_error"] = float(off)
    return found


def own_update(ctx: Any, objective: str) -> dict[str, Any]:
    """One update by the objective alone (as the peers'), and one by the whole guarded trainer, over the plain one."""
    space = de.Real(2, low=-4.0, high=4.0)
    x = space.random(ctx.batch, torch.Generator().manual_seed(0)) / 2
    one = de.objectives.create(objective, **TIMED[objective])

    def alone() -> Callable[[], None]:
        energy, generator = model_of(objective, space, ctx.width, 0), torch.Generator().manual_seed(0)
        state = one.init(energy, x, generator=generator)
        optimizer = torch.optim.Adam(energy.parameters(), lr=1e-3)

        def update() -> None:
            optimizer.zero_grad(set_to_none=True)
            one.loss(energy, x, state, generator=generator).loss.backward()
            optimizer.step()

        return update

    def whole() -> Callable[[], None]:
        energy, generator = model_of(objective, space, ctx.width, 0), torch.Generator().manual_seed(0)
        trainer = Trainer(energy, one, x, generator=generator, n_iterations=10**9, ema=None)

        def update() -> None:
            trainer.update(x)

        return update

    plain = plain_update(ctx.width, x)
    found = in_turns(alone(), plain, ctx.updates, ctx.turns)
    guarded = in_turns(whole(), plain, ctx.updates, ctx.turns)
    return found | {"trainer_ms": guarded["update_ms"], "trainer_ratio": guarded["ratio"]}


def peer_update(problem: dict[str, Any], ctx: Any) -> dict[str, Any]:
    if problem["peer"] == "torchebm" and problem["objective"] == "nce":
        return {"missing": "no such objective"}
    found = run_peer("scores.py", problem, python=ctx.peers_python, threads=ctx.threads)
    dropped = ("per_ns", "per_cpu_ns", "seconds", "cpu_seconds", "updates")
    return {name: value for name, value in found.items() if name not in dropped}


def tables(records: list[dict[str, Any]]) -> str:
    """KL by method and density, then score errors, then times."""
    parts = [record["parts"] for record in records]
    names = list(dict.fromkeys(key.split(": ")[0] for one in parts for key in one if not key.startswith("update")))
    methods = list(dict.fromkeys(key.split(": ")[1] for one in parts for key in one if not key.startswith("update")))

    def cell(name: str, method: str, quantity: str, form: str) -> str:
        found = [one.get(f"{name}: {method}", {}).get(quantity) for one in parts]
        return markdown.spread(found, form) if any(value is not None for value in found) else "–"

    def block(quantity: str, form: str) -> str:
        rows = [[method, *(cell(name, method, quantity, form) for name in names)] for method in methods]
        return markdown.markdown(("objective", *names), rows)

    columns: list[markdown.Column] = [("update, ms", "update_ms", ".2f"), ("over the plain update", "ratio", ".3f"),
                                      ("whole trainer, ms", "trainer_ms", ".2f")]  # fmt: skip
    timed = [{**record, "parts": {key.removeprefix("update: "): value for key, value in record["parts"].items()
                                  if key.startswith("update: ") and "missing" not in value}}
             for record in records]  # fmt: skip
    text = (f"KL(truth ‖ model) in nats after {records[0]['settings']['cpu_seconds']:g} s of processor time, by "
            f"quadrature.\n\n{block('kl', '.4f')}\n\nRelative squared error of the score, E|s − s*|²/E|s*|².\n\n"
            f"{block('score_error', '.4f')}\n\nUpdates made.\n\n{block('updates', '.0f')}\n\nOne update, processor "
            "time, medians of turns.\n\n")  # fmt: skip
    return markdown.page(timed, TITLE, text, markdown.by_part(timed, columns, "objective"))


def figure(seed: int, path: str, cpu_seconds: float | None = None) -> None:
    """Truth and what some objectives made of it, trained anew: ``python -m benchmarks.suites.densities SEED FILE``."""
    from types import SimpleNamespace

    from matplotlib.figure import Figure

    settings = SETTINGS["full"] | ({} if cpu_seconds is None else {"cpu_seconds": cpu_seconds})
    ctx = SimpleNamespace(seed=seed, **settings)
    shown = ["implicit score", "denoising, σ = 0.1, pairs", "denoising, 6 levels", "NCE, uniform noise", "CD, 5 steps",
             "PCD, 5 steps", "improved CD, 5 steps"]  # fmt: skip
    canvas = Figure(figsize=(2 * (len(shown) + 1), 8.6), layout="constrained")
    axes = canvas.subplots(4, len(shown) + 1)
    for row, name in zip(axes, densities.names(), strict=True):
        truth = de.evaluate.quadrature(densities.create(name), ctx.grid)
        _picture(row[0], truth.log_density, ctx.grid, float(truth.log_density.exp().max()), "truth" if row is axes[0]
                 else "", name)  # fmt: skip
        for axis, method in zip(row[1:], shown, strict=True):
            energy, _, _ = train(ctx, name, *METHODS[method])
            law = de.evaluate.quadrature(energy, ctx.grid)
            _picture(axis, law.log_density, ctx.grid, float(truth.log_density.exp().max()),
                     method if row is axes[0] else "", f"KL {truth.kl(law):.3f}")  # fmt: skip
    canvas.savefig(path, dpi=70)


def _picture(axis: Any, log_density: Tensor, grid: int, top: float, title: str, below: str) -> None:
    axis.imshow(log_density.exp().reshape(grid, grid).t(), origin="lower", vmin=0, vmax=top, cmap="magma")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(below, fontsize=9)


if __name__ == "__main__":
    figure(int(sys.argv[1]), sys.argv[2], *(float(value) for value in sys.argv[3:]))
