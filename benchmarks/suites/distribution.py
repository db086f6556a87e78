"""Parts that the QM9 and the drug-like suite share: the curve over steps of a model, floors and null models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from benchmarks.common import Context
from benchmarks.measure import Judge, smiles_of
from benchmarks.sampling import ZeroEnergy, curve, perturb
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.moves import MolecularKernel


def curve_parts(
    ctx: Context, name: str, energy: Any, kernel: MolecularKernel, start: Tensor, steps: Sequence[int],
    measure: Callable[[list[str | None]], dict[str, Any]], suite: str | None = None,
) -> None:  # fmt: skip
    """One part ``name/steps`` for each checkpoint, written as soon as it is measured; states lie with ``suite``."""
    space = energy.space
    if all(f"{name}/{at}" in ctx.record["parts"] for at in steps):
        return
    safe = name.replace(" ", "-").replace("/", "-")
    for at, x, tally in curve(energy, kernel, start, steps, seed=ctx.seed, chunk=ctx.chunk,
                              folder=ctx.folder(suite) / "samples", name=safe):  # fmt: skip
        samples = x

        def figures(samples: Tensor = samples, tally: Any = tally) -> dict[str, Any]:
            return measure(smiles_of(samples, space)) | {"cost": tally.figures(len(samples))}

        ctx.part(f"{name}/{at}", figures)
        if ctx.progress:
            print(f"  {name}, {at} steps: {ctx.record['seconds'][f'{name}/{at}']:.0f} s to measure", flush=True)


def model_parts(ctx: Context, name: str, model: MolecularModel, steps: Sequence[int], judge: Judge) -> None:
    """The curve of a model over fresh chains, every one from a single carbon atom."""
    start = single_atoms(model.space, ctx.n, ctx.device)
    curve_parts(ctx, name, model.energy, model.kernel, start, steps, judge)


def walk_parts(ctx: Context, kernel: MolecularKernel, molecules: MoleculeSet, judge: Judge) -> None:
    """The random walk over the same moves, E = 0, from single carbon atoms."""
    energy = ZeroEnergy(molecules.space).to(ctx.device)
    curve_parts(ctx, "random walk (E = 0)", energy, kernel, single_atoms(molecules.space, ctx.n, ctx.device),
                ctx.walk_steps, judge)  # fmt: skip


def floor_part(ctx: Context, molecules: MoleculeSet, judge: Judge) -> None:
    """Training molecules as samples: what a perfect generator of this many samples would score."""
    ctx.part("training molecules", lambda: judge(list(molecules.smiles)[: ctx.n]))


def perturbed_parts(ctx: Context, kernel: MolecularKernel, molecules: MoleculeSet, judge: Judge) -> None:
    """Training molecules after k accepted moves of the random walk."""
    for k in ctx.perturb:

        def figures(k: int = k) -> dict[str, Any]:
            x, short = perturb(kernel, molecules.space, molecules.x[: ctx.n].to(ctx.device), k, seed=ctx.seed,
                               chunk=ctx.chunk)  # fmt: skip
            return judge(smiles_of(x, molecules.space)) | {"chains_with_fewer_moves": short}

        ctx.part(f"training molecules + {k} random moves", figures)


def train_settings(ctx: Context, molecules: MoleculeSet, **more: Any) -> dict[str, Any]:
    """The keywords of ``graph_ebm.train`` for this run, also the request that a kept model must match."""
    return {"minutes": ctx.minutes, "seed": ctx.seed, "threads": ctx.threads, "device": ctx.device} | ctx.train | more


def request(molecules: MoleculeSet, keywords: dict[str, Any]) -> dict[str, Any]:
    """What identifies a training: its keywords and its molecules."""
    digest = hashlib.sha256("\n".join(molecules.smiles).encode()).hexdigest()[:16]
    return {"molecules": len(molecules), "digest": digest, **keywords}
