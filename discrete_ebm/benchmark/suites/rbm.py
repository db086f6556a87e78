"""A trained restricted Boltzmann machine: squared MMD to a long block-Gibbs run, and efficiency."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from discrete_ebm import checkpoint, datasets
from discrete_ebm.benchmark import figures
from discrete_ebm.benchmark.contenders import Contender, part_seed
from discrete_ebm.benchmark.measure import attempt, clock_of
from discrete_ebm.benchmark.record import Record
from discrete_ebm.benchmark.sampling import (
    SIGMAS,
    Case,
    chosen,
    law_parts,
    long_run,
    rows_of,
    run_cases,
    sampling_page,
    wrong_laws,
)
from discrete_ebm.benchmark.tables import markdown
from discrete_ebm.chains import advance, sample
from discrete_ebm.energies import BernoulliRBM
from discrete_ebm.evaluate import exact
from discrete_ebm.evaluate.mmd import squared_mmd
from discrete_ebm.fitting import fit
from discrete_ebm.objectives import PCD

TITLE = "RBM: trained by persistent contrastive divergence."
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"side": 3, "hidden": 8, "iterations": 600, "data": "bars", "n_chains": 16, "n_steps": 100,
              "burn_in": 40, "start_steps": 100, "law_chains": 64, "law_steps": 150, "mmd_chains": 100,
              "mmd_steps": [1, 10, 60], "reference_chains": 200, "reference_steps": 300, "exact_deltas": "auto",
              "limit": None, "least_steps": 0, "samplers": [],
              "left_out": ["tempered-transitions"]},
    "full": {"side": 28, "hidden": 500, "iterations": 3000, "data": "strokes", "n_chains": 32, "n_steps": 2000,
             "burn_in": 500, "start_steps": 2000, "law_chains": 256, "law_steps": 3000, "mmd_chains": 100,
             "mmd_steps": [100, 300, 1000, 3000], "reference_chains": 500, "reference_steps": 10_000,
             "exact_deltas": False, "limit": 300.0, "least_steps": 200, "samplers": [], "left_out": []},
}  # fmt: skip


def strokes(side: int, n: int, seed: int) -> Tensor:
    """(n, side, side) int8 pictures of two to four thick line segments: a stand-in for handwriting, made anywhere."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(n, 4, 2, 2, generator=generator) * side - 0.5  # to the border: no site is always 0
    drawn = torch.arange(4) < torch.randint(2, 5, (n, 1), generator=generator)
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()  # (P, 2)
    picture = torch.zeros(n, side * side, dtype=torch.bool)
    for i in range(4):
        a, b = ends[:, i, 0], ends[:, i, 1]
        along = ((grid - a[:, None]) * (b - a)[:, None]).sum(-1) / (b - a).square().sum(-1)[:, None].clamp(min=1e-6)
        nearest = a[:, None] + along.clamp(0, 1)[..., None] * (b - a)[:, None]
        picture |= ((grid - nearest).square().sum(-1) < 1.5) & drawn[:, i : i + 1]
    return picture.reshape(n, side, side).to(torch.int8)


def pictures(ctx: Record) -> Tensor:
    """(n, N) training states."""
    if ctx.data == "bars":
        return datasets.bars_and_stripes(ctx.side).flatten(1)
    return strokes(ctx.side, 10_000, part_seed(ctx.seed, "data")).flatten(1)


def model(ctx: Record) -> BernoulliRBM:
    """The trained machine, from the run's folder where it is there already."""
    asked = json.dumps([ctx.side, ctx.hidden, ctx.iterations, ctx.data, ctx.seed])
    path = ctx.path.parent / f"rbm-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        data = pictures(ctx)
        mean = data.double().mean(0).clamp(0.02, 0.98)
        energy = BernoulliRBM(data.shape[1], ctx.hidden, visible_bias=mean.logit().float(),
                              seed=part_seed(ctx.seed, "weights"))
        fitted = fit(energy, data, PCD(sampler="block-gibbs", n_steps=5), n_iterations=ctx.iterations, batch_size=100,
                     lr=0.01 if ctx.data == "bars" else 1e-3, decay="linear", seed=part_seed(ctx.seed, "training"),
                     progress=False)
        checkpoint.make_folder(path.parent)
        checkpoint.save(fitted.energy, path)
    return checkpoint.load(path)


def _case(ctx: Record) -> Case:
    def start(seed: int) -> Any:
        return long_run(model(ctx), "block-gibbs", ctx.n_chains, ctx.start_steps, seed)[2].to(ctx.device)

    def reference(seed: int) -> tuple[float, float, str]:
        energy = model(ctx)
        if energy.space.n_states <= 2**16:
            return exact(energy).mean_energy, 0.0, "the exact mean (enumeration)"
        mean, error, _ = long_run(energy, "block-gibbs", ctx.reference_chains, ctx.start_steps, seed)
        return mean, error, f"{ctx.start_steps} steps of block-gibbs"

    return Case(f"{ctx.side**2} visible, {ctx.hidden} hidden", lambda: model(ctx), start, reference,
                {"exact_deltas": ctx.exact_deltas})


def cases(ctx: Record) -> Iterator[Case]:
    yield _case(ctx)


def run(ctx: Record) -> None:
    law_parts(ctx, "9 visible, 6 hidden", _small(ctx.seed))
    run_cases(ctx, cases(ctx))
    if not ctx.record.get("done mmd"):
        _all_distances(ctx)
        ctx.record["done mmd"] = True
        ctx.save()


def _small(seed: int) -> BernoulliRBM:
    """An untrained machine with couplings that matter."""
    generator = torch.Generator().manual_seed(seed)
    return BernoulliRBM(9, 6, scale=0.8, seed=generator, visible_bias=torch.randn(9, generator=generator) / 2)


def _all_distances(ctx: Record) -> None:
    energy = model(ctx).to(ctx.device)
    long = [sample(energy, "block-gibbs", ctx.reference_chains, ctx.reference_steps,
                   burn_in=ctx.reference_steps - 1, seed=part_seed(ctx.seed, f"long run {i}")).last for i in range(2)]
    ctx.part("mmd floor", lambda: dict(zip(("mmd", "error"), squared_mmd(long[1][: ctx.mmd_chains], long[0]),
                                           strict=True)))
    mean = pictures(ctx).double().mean(0)
    uniform = torch.rand(ctx.mmd_chains, len(mean), dtype=torch.float64,
                         generator=torch.Generator().manual_seed(part_seed(ctx.seed, "mmd start")))
    start = (uniform < mean).to(torch.int8).reshape(-1, *energy.space.shape).to(ctx.device)
    for one in chosen(ctx, energy):
        ctx.part(f"mmd/{one.label}", partial(_points, ctx, energy, one, start, long[0]))


def _points(ctx: Record, energy: BernoulliRBM, one: Contender, start: Tensor, long: Tensor) -> dict[str, Any]:
    return {"exact": one.exact} | attempt(lambda: {"points": _distances(ctx, energy, one, start, long)})


def _distances(ctx: Record, energy: BernoulliRBM, one: Contender, start: Tensor, long: Tensor) -> list[dict[str, Any]]:
    """Squared MMD at every checkpoint; the scale is adapted until the first, and the steps until then count too."""
    kernel = one.create(exact_deltas=ctx.exact_deltas)
    seed, points = part_seed(ctx.seed, f"mmd/{one.label}"), []
    clock, spent, done = clock_of(ctx.device), 0.0, ctx.mmd_steps[0]
    generator = torch.Generator(start.device).manual_seed(seed)
    began = clock()
    first = sample(energy, kernel, None, done, burn_in=done - 1, seed=generator, x0=start)
    spent += clock() - began
    state, calls = first.state, first.energy_calls + first.gradient_calls
    for steps in ctx.mmd_steps:
        if steps > done:
            if ctx.limit is not None and spent / done * (steps - done) > ctx.limit:
                break
            began = clock()
            state, totals = advance(kernel, energy, state, steps - done, generator=generator)
            spent, done = spent + clock() - began, steps
            calls += totals.energy_calls + totals.gradient_calls
        value, error = squared_mmd(state.x, long)
        points.append({"steps": steps, "evaluations": calls, "seconds": spent, "mmd": value, "error": error})
    return points


def tables(records: Sequence[dict[str, Any]]) -> str:
    return sampling_page(records, TITLE, *(_distance_table(record) for record in records))


def _distance_table(record: dict[str, Any]) -> str:
    rows = rows_of(record, "mmd")
    if not rows:
        return ""
    floor, wrong = record["parts"]["mmd floor"], wrong_laws([record])
    steps = list(dict.fromkeys(point["steps"] for part in rows.values() for point in part.get("points", [])))
    lines, mixed = [], []
    for label, part in rows.items():
        points = {point["steps"]: point for point in part.get("points", [])}
        last = list(points.values())[-1] if points else None
        near = last is not None and last["mmd"] <= SIGMAS / 2 * last["error"]
        if last is not None and near and label not in wrong:
            mixed.append((last["seconds"], label))
        word = "biased (law)" if label in wrong else "within chance" if near else "not there yet"
        word = part.get("failed", word)
        lines.append([label, *(f"{points[s]['mmd']:+.2e} ± {points[s]['error']:.1e}" if s in points else "-"
                               for s in steps), f"{last['seconds']:.3g}" if last else "-", word])
    won = (f"Within chance of the law after all steps in the least time: **{min(mixed)[1]}**." if mixed
           else "No kernel is within chance of the law.")
    n_long = record["settings"]["reference_chains"]
    return (f"**Squared MMD to {n_long} long block-Gibbs chains, seed {record['seed']}.** Unbiased, so it may be "
            f"negative; ± one standard error. A second such set: {floor['mmd']:+.2e} ± {floor['error']:.1e}. {won}\n\n"
            + markdown(["kernel", *(f"after {s} steps" for s in steps), "seconds", "standing"], lines))


def figure(record: dict[str, Any]) -> Any:
    return figures.distances(record)
