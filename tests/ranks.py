"""What each of several processes does in tests/discrete_ebm/test_distributed.py, and how they are started.

As a program, in each process: ``python -m tests.ranks FOLDER PART...`` writes ``FOLDER/PART-RANK.safetensors``.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import discrete_ebm as de
from discrete_ebm import distributed
from discrete_ebm.errors import NonFiniteEnergyError, RankError
from discrete_ebm.fitting import generators
from discrete_ebm.objectives import CD, PCD
from discrete_ebm.packing import pack
from discrete_ebm.trainer import Batches, Trainer

ROOT = Path(__file__).resolve().parents[1]
ROWS, BATCH = 30, 4
OBJECTIVES: dict[str, Any] = {
    "pcd": PCD(sampler="gibbs", n_steps=2, bank_size=12, penalty=0.01),
    "layers": PCD(sampler="block-gibbs", n_steps=1, bank_size=12),
    "centred": CD(sampler="gibbs", n_steps=1, centre="data", centre_rate=0.3),
    "pseudo-likelihood": de.objectives.create("pseudo-likelihood"),
}


def make() -> tuple[Any, torch.Tensor]:
    """The same small RBM and data in every process."""
    energy = de.energies.BernoulliRBM(6, 3, scale=0.3, seed=1).double()
    return energy, energy.space.random(ROWS, torch.Generator().manual_seed(2))


class Running(nn.Module):
    """An energy with a running mean of what it is called with, which no two processes would agree on."""

    def __init__(self) -> None:
        super().__init__()
        self.space = de.Binary(6)
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return ((x - self.mean) ** 2) @ self.weight


def trainer(objective: Any, energy: Any = None, **options: Any) -> tuple[Trainer, Batches]:
    processes = distributed.current()
    rbm, data = make()
    energy = rbm if energy is None else energy
    own, order = generators(5, torch.device("cpu"), processes)
    batches = Batches(data, BATCH, order, rank=processes.rank, n_ranks=processes.n)
    settings = {"n_iterations": 20, "lr": 0.02, "warmup": 0, "clip": None, "processes": processes, **options}
    return Trainer(energy, objective, data, generator=own, **settings), batches


def gradients(folder: Path) -> dict[str, torch.Tensor]:
    """For each objective, what the first update saw and its gradients; the parameters after three."""
    found = {}
    for name, objective in OBJECTIVES.items():
        it, batches = trainer(objective)
        batch = next(batches)
        it.update(batch)
        found[f"{name}.batch"] = batch
        if it.negatives is not None:
            found[f"{name}.negatives"] = it.negatives
        found |= {f"{name}.gradient.{p}": value.grad for p, value in it.energy.named_parameters()}
        assert type(it.energy) is de.energies.BernoulliRBM  # nobody wrapped it
        assert not any(value._backward_hooks for value in it.energy.parameters())
        for _ in range(2):
            it.update(next(batches))
        found |= {f"{name}.after.{p}": value.detach() for p, value in it.energy.named_parameters()}
        found[f"{name}.generator"] = it.generator.get_state()
        if it.state.chains is not None:
            found[f"{name}.chains"] = it.state.chains
    it, batches = trainer(CD(sampler="gibbs"), Running())
    for _ in range(3):
        it.update(next(batches))
    found |= {f"running.after.{name}": value for name, value in it.energy.state_dict().items()}
    return {name: value.clone() for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Breaks(PCD):
    """PCD whose energies are not finite in process 1 at the updates ``at`` (counted over returns too)."""

    at: tuple[int, ...] = ()
    calls: list[int] = dataclasses.field(default_factory=list)

    def loss(self, energy, batch, state, *, generator):  # type: ignore[no-untyped-def]
        self.calls.append(1)
        if distributed.current().rank == 1 and len(self.calls) in self.at:
            raise NonFiniteEnergyError("`energy` of chain 3 must be finite; got nan.")
        return super().loss(energy, batch, state, generator=generator)


def faults(folder: Path) -> dict[str, torch.Tensor]:
    """One process meets a number that is not finite, then too often; then one fails otherwise."""
    found = {}
    it, batches = trainer(Breaks(sampler="gibbs", bank_size=12, at=(3,)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        it.run(batches)
    assert it.iteration == 20
    assert [event["cause"] for event in it.events] == ["Process 1: `energy` of chain 3 must be finite; got nan."]
    found |= {f"after.{name}": value.detach() for name, value in it.energy.named_parameters()}
    found["generator"] = it.generator.get_state()
    before = [p.detach().clone() for p in it.energy.parameters()]
    it, batches = trainer(Breaks(sampler="gibbs", bank_size=12, at=tuple(range(1, 9))))
    fresh = [p.detach().clone() for p in it.energy.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(de.errors.DivergenceError, match=r"Process 1: `energy` of chain 3.*3 times"):
            it.run(batches)
    assert all(torch.equal(a, b) for a, b in zip(fresh, it.energy.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, it.energy.parameters(), strict=True))

    def fails(trainer: Trainer, terms: dict[str, float]) -> None:
        if distributed.current().rank == 1 and trainer.iteration == 2:
            raise ZeroDivisionError("a callback of mine")

    it, batches = trainer(PCD(sampler="gibbs", bank_size=12))
    own = distributed.current().rank == 1
    kind, words = (ZeroDivisionError, "a callback of mine") if own else (RankError, "Process 1: ZeroDivisionError: a c")
    with pytest.raises(kind, match=words):
        it.run(batches, [fails])
    return found


def resumes(folder: Path) -> dict[str, torch.Tensor]:
    """The state at the end of a whole run, and of one that was cut after 3 of 6 updates and resumed."""

    def fit(name: str, n: int, resume: bool = False) -> dict[str, torch.Tensor]:
        energy, data = make()
        seen: list[Trainer] = []
        de.fit(energy, data, OBJECTIVES["pcd"], n, BATCH, 0.02, 5, folder / name, progress=False, checkpoint_every=3,
               resume=resume, callbacks=[lambda t, terms: seen.__setitem__(slice(None), [t])])  # fmt: skip
        (it,) = seen
        parts = {"model": energy.state_dict(), "ema": it.ema.state_dict(), "optimizer": it.optimizer.state_dict(),
                 "chains": it.state.state_dict(), "generator": it.generator.get_state(),
                 "order": it.batches.order[it.batches.position :].clone()}  # fmt: skip
        return {key: value.detach().clone().contiguous() for key, value in pack(parts)[1].items()}

    whole = fit("whole", 6)
    fit("cut", 3)
    halves = fit("cut", 6, resume=True)
    return {f"{kind}.{k}": v for kind, part in (("whole", whole), ("halves", halves)) for k, v in part.items()}


PARTS = {"gradients": gradients, "faults": faults, "resumes": resumes}


def environment(rank: int, n: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "DISCRETE_EBM_TIMEOUT": os.environ.get("DISCRETE_EBM_TIMEOUT", "600")}  # fmt: skip


def start(arguments: list[str], n: int = 2, **options: Any) -> list[subprocess.Popen]:
    """``python ARGUMENTS`` in n processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=options.get("cwd", ROOT), text=True, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**environment(rank, n, port), **options.get("env", {})},
        )
        for rank in range(n)
    ]  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    where, *parts = sys.argv[1:]
    for part in parts:
        save_file({k: v.contiguous() for k, v in PARTS[part](Path(where)).items()},
                  Path(where) / f"{part}-{distributed.current().rank}.safetensors")  # fmt: skip
