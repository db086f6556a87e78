"""How well first-order and surrogate scores rank molecular edits, and what scoring a shortlist of edits buys.

    python benchmarks/suites/taylor.py [--run DIR | --minutes 1] [--molecules 200] [--seconds 5] [--json FILE]

A trained model is read from the folder of a training run, or trained for a minute on the packaged QM9 sample. The first
table is per move: Spearman correlation of the estimate with the exact energy change, pooled and within a molecule, and
standard deviations in nats. The second compares kernels on the same model from the same states: accepted edits per
evaluation of the energy and per second of processor time (other load on the machine then counts little), and how much
of the energy a chain forgets (1 − its autocorrelation, which edits that are undone at once do not raise) at equal cost:
after 20 evaluations, and after a third of the processor time, both per chain. One thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import graph_ebm as ge
from discrete_ebm.samplers.base import Kernel
from graph_ebm.model import load_model
from graph_ebm.moves import MoveSettings, build_kernel
from graph_ebm.moves.shortlist import ShortlistKernel
from graph_ebm.moves.taylor import rank_correlation_by_move
from graph_ebm.training import train


def kernels(settings: MoveSettings, tries: list[int]) -> dict[str, Kernel]:
    """The kernels to compare, by name."""
    base = build_kernel(settings)
    found: dict[str, Kernel] = {
        "one try": build_kernel(settings, delayed=False),
        "one try, delayed acceptance": base,
    }
    for scored_by in ("energy", "surrogate"):
        for k in tries:
            found[f"{k} tries by {scored_by}"] = ShortlistKernel(base, n_tries=k, scored_by=scored_by)
    return found


EVALUATIONS = 20


def forgotten(trace: Tensor, lag: float) -> float:
    """1 − autocorrelation of a trace (S, C) at a lag in steps (at least 1), over all chains; nan beyond the trace."""
    steps = max(1, round(lag))
    if steps >= len(trace) - 1:
        return float("nan")
    centred = trace - trace.mean()
    return 1 - float((centred[steps:] * centred[:-steps]).mean() / (centred**2).mean())


def race(energy: Any, x: Tensor, kernel: Kernel, seconds: float, seed: int, fewest: int = 150) -> dict[str, float]:
    """Run a kernel for about ``seconds`` of processor time from states x."""
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, x, generator=generator)
    for _ in range(5):
        state, _ = kernel.step(energy, state, generator=generator)
    accepted, calls, energies = 0.0, 0.0, []
    start = time.process_time()
    while len(energies) < fewest or time.process_time() - start < seconds:
        state, info = kernel.step(energy, state, generator=generator)
        accepted += float(info.accepted.double().mean())
        calls += info.energy_calls
        energies.append(state.energy)
    spent, n = time.process_time() - start, len(energies)
    trace = torch.stack(energies).double()
    return {
        "steps": n,
        "accepted per step": accepted / n,
        "evaluations per step": calls / n,
        "accepted per evaluation": accepted / max(calls, 1e-9),
        "accepted per second": accepted * len(x) / spent,
        f"forgotten in {EVALUATIONS} evaluations": forgotten(trace, EVALUATIONS * n / calls),
        f"forgotten in {1e3 * seconds / 3 / len(x):.0f} ms": forgotten(trace, seconds / 3 * n / spent),
    }


def table(rows: dict[str, dict[str, Any]], title: str) -> None:
    """Print rows of numbers."""
    columns = list(next(iter(rows.values())))
    print(f"{title:<30}" + "".join(f"{column:>{max(10, len(column) + 2)}}" for column in columns))
    for name, row in rows.items():
        cells = (f"{row[column]:.3g}" if isinstance(row[column], float) else str(row[column]) for column in columns)
        print(f"{name:<30}" + "".join(f"{cell:>{max(10, len(c) + 2)}}" for c, cell in zip(columns, cells, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a training run")
    parser.add_argument("--minutes", type=float, default=1.0, help="training time where no --run is given")
    parser.add_argument("--molecules", type=int, default=200, help="molecules to draw proposals from")
    parser.add_argument("--tries", type=int, default=20, help="proposals per molecule and move")
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--shortlists", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="processor time per kernel")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.run is None:
        model = train(ge.datasets.load("qm9-sample"), minutes=settings.minutes, seed=settings.seed, progress=False)
    else:
        model = load_model(settings.run)
    report(model.energy, model.moves, settings, sampled(model, settings))


def sampled(model: Any, settings: argparse.Namespace) -> Tensor:
    """States of the model: chains from single atoms, long enough to leave the start far behind."""
    generator = torch.Generator().manual_seed(settings.seed)
    kernel = build_kernel(model.moves)
    x = model.space.random(max(settings.chains, settings.molecules), generator)
    state = kernel.init(model.energy, x, generator=generator)
    for _ in range(1500):
        state, _ = kernel.step(model.energy, state, generator=generator)
    return state.x


def report(energy: Any, moves: MoveSettings, settings: argparse.Namespace, x: Tensor) -> None:
    """Measure, print and write."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    ranks = rank_correlation_by_move(
        energy, x[: settings.molecules], build_kernel(moves), generator=generator, tries=settings.tries
    )
    ranking = {name: row._asdict() for name, row in ranks.items()}
    table(ranking, "move")
    print()
    speed = {
        name: race(energy, x[: settings.chains], kernel, settings.seconds, settings.seed + 2)
        for name, kernel in kernels(moves, settings.shortlists).items()
    }
    table(speed, "kernel")
    result = {
        "states": "drawn from the model",
        "slots": x.shape[-1],
        "mean atoms": float((x.diagonal(dim1=1, dim2=2) > 0).sum(1).double().mean()),
        "torch": torch.__version__,
        "settings": {name: str(value) for name, value in vars(settings).items()},
        "ranking": ranking,
        "kernels": speed,
    }
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
