"""Small trainings of every objective and sampler, and a digest of all that they leave: for runs that are cut.

Run as a program, it resumes runs in a process of its own: ``python -m tests.resume_cases FOLDER UPDATES CASE...``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

import discrete_ebm as de
from discrete_ebm.packing import generator_state, pack
from discrete_ebm.testing_targets import PairwiseFeatures

SPACES = {"Spin": de.Spin((2, 2)), "Binary": de.Binary(4), "Categorical": de.Categorical(3, [2, 3, 2]),
          "Product": de.Product({"a": de.Binary(2), "b": de.Categorical(1, 3)}), "Real": de.Real(3)}  # fmt: skip
CHAINS = ("cd", "pcd")
SETTINGS: dict[str, dict[str, Any]] = {"pcd": {"bank_size": 12}, "structured": {"answer": (4, 5)},
                                       "improved-cd": {"bank_size": 12},
                                       "explicit-score-matching": {"score": torch.neg}}  # fmt: skip


def cases(every: bool) -> list[str]:
    """``objective/sampler`` for every sampler of this package, ``objective/`` for the other objectives.

    ``every``: each sampler with both CD and PCD, else with one of the two in turn.
    """
    samplers = [name for name in de.samplers.names() if de.samplers.spec(name).spaces & set(SPACES)]
    # those that learn from rows with labels resume in their own tests
    others = [n for n in de.objectives.names() if n not in CHAINS and de.objectives.spec(n).task != "labelled"]
    pairs = [(sampler, CHAINS if every else CHAINS[i % 2 :][:1]) for i, sampler in enumerate(samplers)]
    real = {n for n in others if de.objectives.spec(n).spaces == "Real"}
    alone = [f"{n}/langevin" if n in real else f"{n}/" for n in others]
    return [f"{objective}/{sampler}" for sampler, those in pairs for objective in those] + alone


def energy_of(sampler: str) -> Any:
    """A small energy with parameters, of a kind that the sampler moves."""
    kinds = de.samplers.spec(sampler).spaces if sampler else {"Binary"}
    kind = next(kind for kind in SPACES if kind in kinds)
    if sampler in ("swendsen-wang", "wolff"):
        return de.energies.Ising.lattice((2, 2), 0.2)
    if kind == "Real":
        return de.energies.MLPEnergy(SPACES[kind], (4,), confine=1.0, seed=1)
    if sampler == "block-gibbs" or not sampler:
        return de.energies.BernoulliRBM(6, 3, scale=0.3, seed=1)
    return PairwiseFeatures(SPACES[kind], seed=1)


def run(case: str, folder: Path, n_iterations: int, *, stop: int | None = None, resume: bool = False) -> str:
    """Train, save every 50 updates and at the end, stop after ``stop``; the digest of all that a run is made of."""
    objective, sampler = case.split("/")
    energy = energy_of(sampler)
    data = energy.space.random(30, torch.Generator().manual_seed(2))
    chains = bool(sampler) and de.objectives.spec(objective).needs_sampler
    settings = {**SETTINGS.get(objective, {}), **({"sampler": sampler, "n_steps": 2} if chains else {})}
    seen: list[Any] = []

    def keep(trainer: Any, terms: dict[str, float]) -> bool:
        seen[:] = [trainer]
        return trainer.iteration == stop

    fitted = de.fit(energy, data, de.objectives.create(objective, **settings), n_iterations, 8, 0.02, 5,
                    folder / case.replace("/", "-"), progress=False, decay="linear", ema=0.9, checkpoint_every=50,
                    resume=resume, callbacks=[keep])  # fmt: skip
    (trainer,) = seen
    history = {name: column for name, column in fitted.history.items() if name != "seconds"}
    return digest({
        "energy": energy.state_dict(), "ema": fitted.ema.state_dict(), "optimizer": trainer.optimizer.state_dict(),
        "chains": trainer.state.state_dict(), "generator": generator_state(trainer.generator),
        "data": trainer.batches.state_dict(), "history": history, "negatives": trainer.negatives,
        "watch": trainer.watch.state_dict(),
    })  # fmt: skip


def digest(state: Any) -> str:
    """SHA-256 of every bit of a nested state."""
    skeleton, tensors = pack(state)
    found = hashlib.sha256(json.dumps(skeleton, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, updates, *chosen = sys.argv[1:]
    print(json.dumps({case: run(case, Path(folder), int(updates), resume=True) for case in chosen}))
