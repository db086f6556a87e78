"""JEM beside the same network as a plain classifier: accuracy, calibration, attacks, outsiders, few labels, divergence.

With ``--data DIR`` the labelled digits of DIR/mnist10k_train.npz at 14×14 (8,000 training rows, 2,000 held out) and
outsiders from DIR/omniglot_small1_28.npz; without it the packaged 8×8 digits. Pixels run from −1 to 1, so an L∞ radius
of 0.2 is a tenth of their range. All models have the same network, initial weights, number of updates,
schedule and average of weights; the classifiers are JEM with ``x_weight=0``, without
and with its data noise. Times are processor seconds of one thread.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import discrete_ebm as de
from benchmarks import markdown
from benchmarks.common import Context
from discrete_ebm import checkpoint
from discrete_ebm.errors import EBMError, RecoveryWarning
from discrete_ebm.evaluate import hybrid_plots
from discrete_ebm.objectives import JEM, LabelledStates
from discrete_ebm.samplers.sgld import SGLD
from discrete_ebm.trainer import Batches, Trainer

TITLE = "JEM: a classifier and the density of its inputs as one model."
EXTENDABLE = ("kinds", "weights")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {
        "threads": 1, "hidden": [256, 256], "iterations": 4000, "batch": 64, "lr": 3e-3, "x_weight": 1.0, "rows": None,
        "labels": 100, "few_iterations": 2000, "restarts": 20, "short": 200,
        "radii": [0.0, 0.05, 0.1, 0.2, 0.3], "weights": [], "kinds": [], "attacked": 500,
    },
    "small": {
        "threads": 1, "hidden": [16], "iterations": 20, "batch": 16, "lr": 3e-3, "x_weight": 1.0, "rows": 200,
        "labels": 20, "few_iterations": 10, "restarts": 2, "short": 5,
        "radii": [0.0, 0.2], "weights": [0.1], "kinds": ["joint", "class"], "attacked": 30,
    },
}  # fmt: skip


def run(ctx: Context) -> None:
    """Fill the record."""
    torch.set_num_threads(ctx.threads)
    train, x, y, outside = images(ctx)
    folder = ctx.folder()
    folder.mkdir(parents=True, exist_ok=True)

    def whole(name: str, objective: JEM, data: LabelledStates, iterations: int) -> None:
        def compute() -> dict[str, Any]:
            energy, cost = learn(ctx, objective, data, iterations)
            checkpoint.save(energy, folder / f"{name.replace(' ', '_').replace(',', '')}.safetensors")
            return {**cost, **judged(ctx, energy, x, y, outside)}

        ctx.part(name, compute)

    whole("classifier", JEM(x_weight=0.0, noise=0.0), train, ctx.iterations)
    whole("classifier, noise as JEM", JEM(x_weight=0.0), train, ctx.iterations)
    whole("JEM", recipe(ctx), train, ctx.iterations)
    few = train.hide_labels(ctx.labels, ctx.seed)
    alone = LabelledStates(train.space, few.labelled.x, few.labelled.y, train.n_classes)
    whole(f"{ctx.labels} labels: classifier", JEM(x_weight=0.0, noise=0.0), alone, ctx.few_iterations)
    whole(f"{ctx.labels} labels: JEM with the rest", recipe(ctx, labelled_batch=ctx.batch), few, ctx.few_iterations)
    ctx.part("pictures", lambda: pictures(ctx, folder, train, x, y))
    ctx.part("short runs", lambda: short_runs(ctx, train))
    for kind in ctx.kinds:
        whole(f"JEM, {kind} chains", recipe(ctx, chains=kind), train, ctx.iterations)
    for weight in ctx.weights:
        whole(f"JEM, weight {weight:g} of log p(x)", recipe(ctx, x_weight=weight), train, ctx.iterations)


def recipe(ctx: Context, **changes: Any) -> JEM:
    """The settings of this suite over JEM's own defaults."""
    return JEM(**({"x_weight": ctx.x_weight} | changes))


def images(ctx: Context) -> tuple[LabelledStates, Tensor, Tensor, dict[str, Tensor]]:
    """(training rows, held-out x, y, outsiders by name), pixels from −1 to 1."""
    if ctx.data is None:
        digits = de.datasets.get("digits", levels=17, seed=0)
        x, y = (torch.cat([first, second]) for first, second in (
            (digits.train, digits.valid), (digits.labels["train"], digits.labels["valid"])))
        x = x.float() / 16 * 2 - 1
        n_train = len(digits.train)
    else:
        with np.load(Path(ctx.data) / "mnist10k_train.npz") as found:
            x, y = halved(torch.from_numpy(found["x"])), torch.from_numpy(found["y"]).long()
        n_train = 8000
    space = de.Real(tuple(x.shape[1:]), low=-1.0, high=1.0)
    rows = slice(0, n_train if ctx.rows is None else ctx.rows)
    held, label = x[n_train:], y[n_train:]
    if ctx.rows is not None:
        held, label = held[: ctx.rows], label[: ctx.rows]
    generator = torch.Generator().manual_seed(10_000 + ctx.seed)
    pairs = torch.randperm(len(held), generator=generator)
    outside = {"uniform noise": space.random(len(held), generator),
               "means of two digits": (held + held[pairs]) / 2}  # fmt: skip
    if ctx.data is not None:
        with np.load(Path(ctx.data) / "omniglot_small1_28.npz") as found:
            outside = {"Omniglot": halved(torch.from_numpy(found["x"]))[: len(held)], **outside}
    return LabelledStates(space, x[rows], y[rows], 10), held, label, outside


def halved(bytes_: Tensor) -> Tensor:
    """(n, 28, 28) of 0..255 as (n, 14, 14) from −1 to 1: means of 2×2 pixels."""
    return bytes_.float().reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255 * 2 - 1


def learn(ctx: Context, objective: JEM, data: LabelledStates, iterations: int) -> tuple[Any, dict[str, Any]]:
    """(averaged energy, what it cost); a return to a good state is counted, a failure is an error of the suite."""
    energy = new_energy(ctx, data, ctx.seed)
    generator = torch.Generator().manual_seed(ctx.seed)
    trainer = Trainer(energy, objective, data, generator=generator, n_iterations=iterations, lr=ctx.lr, decay="linear",
                      clock="processor")  # fmt: skip
    trainer.run(Batches(data, ctx.batch, generator), progress=ctx.progress)
    gaps = trainer.history.get("gap", [])
    return trainer.ema, {"processor_seconds": trainer.seconds, "updates": trainer.iteration,
                         "returns": len(trainer.events), "gap": float(np.mean(gaps[-100:])) if gaps else None,
                         "parameters": sum(p.numel() for p in energy.parameters()),
                         "chains": None if trainer.negatives is None else trainer.negatives[:20].tolist()}  # fmt: skip


def new_energy(ctx: Context, data: LabelledStates, seed: int) -> Any:
    network = de.energies.ImageClassifier(data.space, data.n_classes, ctx.hidden, seed=seed)
    return de.energies.ClassifierEnergy(network, data.space)


def judged(ctx: Context, energy: Any, x: Tensor, y: Tensor, outside: dict[str, Tensor]) -> dict[str, Any]:
    """Everything that is measured of one model, on held-out rows."""
    began = time.process_time()
    found = de.evaluate.judge_hybrid(energy, x, y, outside, attacks={"linf": 0.2, "l2": 1.0}, n_attacked=ctx.attacked)
    one = found.calibration
    curve = de.evaluate.robust_accuracy(energy, x[: ctx.attacked], y[: ctx.attacked], list(ctx.radii))
    steps = SGLD(step_size=0.1, noise=0.01)
    moved = de.evaluate.robust_accuracy(energy, x[: ctx.attacked], y[: ctx.attacked], 0.2,
                                        refine=de.evaluate.Refinement(steps, 10))  # fmt: skip
    return {
        "accuracy": one.accuracy, "ece": one.ece, "confidence": one.confidence, "nll": one.nll, "brier": one.brier,
        "bins": {"count": one.bin_counts.tolist(), "accuracy": one.bin_accuracy.tolist(),
                 "confidence": one.bin_confidence.tolist()},
        "robust": {"linf": found.robust["linf 0.2"], "l2": found.robust["l2 1"], "refined": moved.accuracy,
                   "clean refined": moved.clean},
        "curve": {f"{one.epsilon:g}": one.accuracy for one in curve},
        "auroc": {name: {score: area.value for score, area in scores.items()}
                  for name, scores in found.outsiders.items()},
        "judging_seconds": time.process_time() - began,
    }  # fmt: skip


def short_runs(ctx: Context, train: LabelledStates) -> dict[str, Any]:
    """How many of ``restarts`` short trainings, each of its own seed, went back to an earlier state or failed."""
    returned, failed, gaps = 0, 0, []
    for seed in range(ctx.restarts):
        energy = new_energy(ctx, train, seed)
        generator = torch.Generator().manual_seed(seed)
        trainer = Trainer(energy, recipe(ctx), train, generator=generator, n_iterations=ctx.short, lr=ctx.lr,
                          decay="constant", ema=None)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecoveryWarning)
            try:
                trainer.run(Batches(train, ctx.batch, generator))
            except EBMError:
                failed += 1
        returned += bool(trainer.events)
        gaps.append(max(abs(gap) for gap in trainer.history["gap"]))
    return {"runs": ctx.restarts, "updates": ctx.short, "returned": returned, "failed": failed,
            "largest_gap": max(gaps)}  # fmt: skip


def pictures(ctx: Context, folder: Path, train: LabelledStates, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Reliability, robustness, log p(x) by class, and draws by class, beside a Gaussian for each class."""
    both = {name: checkpoint.load(folder / f"{name}.safetensors") for name in ("classifier", "JEM")}
    one = {name: de.evaluate.calibration(de.evaluate.label_log_probabilities(energy, x), y)
           for name, energy in both.items()}  # fmt: skip
    hybrid_plots.reliability(one, path=folder / "reliability.png")
    gaussians = de.energies.ClassGaussians.fit(train.space, train.x, train.y, train.n_classes)
    groups = {name: de.evaluate.class_log_densities(energy, x, y)
              for name, energy in ({"Gaussians": gaussians} | both).items()}  # fmt: skip
    hybrid_plots.log_density_histograms(groups, path=folder / "log_densities.png")
    attacks = {name: ctx.record["parts"][name]["curve"] for name in both}
    hybrid_plots.curves({name: (list(map(float, found)), list(found.values())) for name, found in attacks.items()},
                        x_label="L∞ radius (pixels from −1 to 1)", y_label="accuracy", title="PGD, 20 steps",
                        path=folder / "robustness.png")  # fmt: skip
    labels = torch.arange(train.n_classes).repeat_interleave(10)
    generator = torch.Generator().manual_seed(ctx.seed)
    start = gaussians.sample(generator=generator, label=labels)
    drawn = de.sample(both["JEM"].given(labels), recipe(ctx).sampler, n_chains=len(labels), n_steps=200, burn_in=199,
                      x0=start, seed=generator).last  # fmt: skip
    hybrid_plots.image_grid(start, 10, low=-1, high=1, path=folder / "starts.png")
    hybrid_plots.image_grid(drawn, 10, low=-1, high=1, path=folder / "draws.png")
    hit = (both["JEM"].label_log_probabilities(drawn).argmax(1) == labels).double().mean()
    quadratic = de.evaluate.calibration(de.evaluate.label_log_probabilities(gaussians, x), y)
    return {"folder": str(folder), "own_class": float(hit), "gaussians_accuracy": quadratic.accuracy}


def tables(records: list[dict[str, Any]]) -> str:
    """Models against figures; outsiders; short runs."""
    main = [("accuracy", "accuracy", ".2%"), ("ECE", "ece", ".3f"), ("PGD-20 L∞ 0.2", "robust.linf", ".1%"),
            ("PGD-20 L2 1", "robust.l2", ".1%"), ("L∞ 0.2, refined", "robust.refined", ".1%"),
            ("clean, refined", "robust.clean refined", ".1%"), ("NLL, nats", "nll", ".3f"),
            ("processor s", "processor_seconds", ".0f"), ("returns", "returns", ".0f"),
            ("gap", "gap", "+.2f")]  # fmt: skip
    sets = dict.fromkeys(name for record in records for part in record["parts"].values() for name in
                         (part.get("auroc") or {}))  # fmt: skip
    outside = [(f"{name}, {score}", f"auroc.{name}.{score}", ".3f") for name in sets
               for score in ("log p(x)", "max softmax", "gradient norm")]  # fmt: skip
    runs = [("runs", "runs", ".0f"), ("updates each", "updates", ".0f"), ("went back", "returned", ".0f"),
            ("failed", "failed", ".0f"), ("largest gap, nats", "largest_gap", ".2f")]  # fmt: skip
    return markdown.page(
        records, TITLE,
        markdown.by_part(records, main, "model", _is_model),
        markdown.by_part(records, outside, "AUROC against", _is_model),
        markdown.by_part(records, runs, "stability", lambda part: part == "short runs"),
    )  # fmt: skip


def _is_model(part: str) -> bool:
    return part not in ("short runs", "pictures")
