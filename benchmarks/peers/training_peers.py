"""Seconds and memory of a training update; run by the interpreter that has the package: ``python training_peers.py
problem.npz``.

The problem: ``package``, ``model`` ("rbm" or "mlp"), data, sizes. Each package trains in the way it offers, without its
logging to files; what differs from persistent CD with one sampling step is said in ``note``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def main(path: str) -> None:
    """Medians over rounds of processor and wall seconds of an update."""
    problem = dict(np.load(path))
    package, model = str(problem["package"]), str(problem["model"])
    build = {"discrete_ebm": ours, "rbms": rbms, "learnergy": learnergy, "scikit-learn": scikit_learn,
             "ebmkit": ebmkit}[package]  # fmt: skip
    update, release, note = build(problem, model)
    n, rounds = int(problem["updates"]), int(problem["rounds"])
    before = _peak()
    update(max(2, n // 5))
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        update(n)
        walls.append((time.perf_counter() - wall) / n)
        cpus.append((time.process_time() - cpu) / n)
    print(json.dumps({
        "seconds": n * float(np.median(walls)), "cpu_seconds": n * float(np.median(cpus)), "updates": n,
        "ms": 1e3 * float(np.median(cpus)), "ms_low": 1e3 * min(cpus), "ms_high": 1e3 * max(cpus),
        "peak_mib": _peak(), "before_mib": before, "version": release, "note": note,
    }))  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Built = tuple[Callable[[int], None], str, str]


def ours(problem: dict[str, Any], model: str) -> Built:
    """The whole update of ``de.fit``: guard, averaged parameters and history included."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    import discrete_ebm as de
    from discrete_ebm.trainer import Batches, Trainer

    torch.set_num_threads(1)
    data = torch.from_numpy(problem["data"]).to(torch.int8)
    n_hidden, steps, batch = int(problem["hidden"]), int(problem["steps"]), int(problem["batch"])
    if model == "rbm":
        energy: Any = de.energies.BernoulliRBM(data.shape[1], n_hidden, seed=0)
        centre = "data" if problem["centre"] else None
        objective = de.objectives.PCD(sampler="block-gibbs", n_steps=steps, bank_size=batch, centre=centre)
        optimizer = "sgd"
    else:
        energy = de.energies.MLPEnergy(de.Binary(data.shape[1]), (n_hidden,) * 3, seed=0)
        objective, optimizer = de.objectives.PCD(sampler="gwg", n_steps=steps, bank_size=1000), "adam"
    generator = torch.Generator().manual_seed(0)
    trainer = Trainer(energy, objective, data, generator=generator, n_iterations=10**9, warmup=100, lr=1e-3,
                      optimizer=optimizer)  # fmt: skip
    batches = Batches(data, batch, generator)

    def update(n: int) -> None:
        for _ in range(n):
            trainer.update(next(batches))

    return update, de.__version__, "guard, averaged parameters and history included"


def rbms(problem: dict[str, Any], model: str) -> Built:
    """The loop of ``rbms.training.pcd.train`` without its HDF5 file."""
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.training.pcd import fit_batch_pcd

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.from_numpy(problem["data"]).float()
    n_hidden, steps, batch = int(problem["hidden"]), int(problem["steps"]), int(problem["batch"])
    params = BBRBM(0.01 * torch.randn(data.shape[1], n_hidden), torch.zeros(data.shape[1]), torch.zeros(n_hidden))
    weights, chains = torch.ones(len(data)), params.init_chains(batch)
    for tensor in params.parameters():
        tensor.grad = torch.zeros_like(tensor)
    optimizer = torch.optim.SGD(params.parameters(), lr=1e-3, maximize=True)

    def update(n: int) -> None:
        nonlocal chains
        with torch.no_grad():
            for _ in range(n):
                rows = torch.randperm(len(data))[:batch]
                optimizer.zero_grad(set_to_none=False)
                chains, _ = fit_batch_pcd((data[rows], weights[rows]), chains, params, steps, 1.0,
                                          centered=bool(problem["centre"]))  # fmt: skip
                optimizer.step()

    return update, version("rbms"), "its update alone, without the HDF5 file that its loop writes every time"


def learnergy(problem: dict[str, Any], model: str) -> Built:
    """The update of ``RBM.fit``; CD from the data, the package has no persistent chains."""
    import torch
    from learnergy.models.bernoulli import RBM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.from_numpy(problem["data"]).float()
    batch = int(problem["batch"])
    rbm = RBM(data.shape[1], int(problem["hidden"]), steps=int(problem["steps"]), learning_rate=1e-3)

    def update(n: int) -> None:
        for _ in range(n):
            samples = data[torch.randint(len(data), (batch,))]
            _, _, _, _, visible = rbm.gibbs_sampling(samples)
            cost = torch.mean(rbm.energy(samples)) - torch.mean(rbm.energy(visible.detach()))
            rbm.optimizer.zero_grad()
            cost.backward()
            rbm.optimizer.step()

    return update, version("learnergy"), "CD from the data (it has no PCD), without its pseudo-likelihood"


def scikit_learn(problem: dict[str, Any], model: str) -> Built:
    """``BernoulliRBM.fit`` in float32; its chains are hidden samples of the update before."""
    from sklearn.neural_network import BernoulliRBM

    data, batch = problem["data"].astype(np.float32), int(problem["batch"])

    def update(n: int) -> None:
        BernoulliRBM(int(problem["hidden"]), learning_rate=1e-3, batch_size=batch, n_iter=1,
                     random_state=0).fit(data[: n * batch])  # fmt: skip

    return update, version("scikit-learn"), "fit in float32; plain gradients, nothing watched or averaged"


def ebmkit(problem: dict[str, Any], model: str) -> Built:
    """Its Trainer with contrastive divergence from its replay buffer."""
    import ebm
    import torch
    from ebm.samplers.discrete import GibbsWithGradients
    from ebm.samplers.gibbs import GibbsSampler

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.from_numpy(problem["data"]).float()
    n_hidden, steps, batch, width = (int(problem["hidden"]), int(problem["steps"]), int(problem["batch"]),
                                     data.shape[1])  # fmt: skip

    def coin(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.bernoulli(torch.full(shape, 0.5))

    if model == "rbm":
        energy: Any = ebm.nets.RBM(width, n_hidden)
        sampler: Any = GibbsSampler(steps)
        optimizer = torch.optim.SGD(energy.parameters(), lr=1e-3)
    else:
        layers: list[torch.nn.Module] = []
        for fan_in in (width, n_hidden, n_hidden):
            layers += [torch.nn.Linear(fan_in, n_hidden), torch.nn.SiLU()]
        energy = torch.nn.Sequential(*layers, torch.nn.Linear(n_hidden, 1), torch.nn.Flatten(0))
        sampler, optimizer = GibbsWithGradients(steps), torch.optim.Adam(energy.parameters(), lr=1e-3)
    buffer = ebm.ReplayBuffer(1000, (width,), reinit_prob=0.0, init_fn=coin)
    trainer = ebm.Trainer(energy, ebm.ContrastiveDivergence(sampler, buffer=buffer), optimizer, ema_decay=0.999,
                          device="cpu")  # fmt: skip

    def update(n: int) -> None:
        trainer.fit(data, steps=n, batch_size=batch, verbose=False)

    return update, version("ebmkit"), "its trainer and replay buffer, averaged parameters included"


if __name__ == "__main__":
    main(sys.argv[1])
