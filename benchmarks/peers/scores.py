"""One training update of torchebm or ebmkit beside the plain one, in turns; ``python scores.py problem.npz``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def network(width: int) -> nn.Sequential:
    """The shape of benchmarks/suites/densities.py: 2 - width - width - 1, SiLU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1),
                         nn.Flatten(0))  # fmt: skip


def plain_update(width: int, x: Tensor) -> Callable[[], None]:
    """Denoising score matching written out: what every update here is compared with."""
    net = network(width)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def update() -> None:
        noise = torch.randn_like(x)
        y = (x + 0.1 * noise).requires_grad_()
        (slope,) = torch.autograd.grad(net(y).sum(), y, create_graph=True)
        optimizer.zero_grad(set_to_none=True)
        (0.5 * (0.1 * -slope + noise).square().sum(1).mean()).backward()
        optimizer.step()

    return update


def torchebm_loss(objective: str, net: nn.Module) -> tuple[Callable[[Tensor], Any], list[nn.Parameter]]:
    from torchebm.core import BaseModel
    from torchebm.losses import ContrastiveDivergence, DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
    from torchebm.samplers import LangevinDynamics

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model = Wrapped()
    if objective == "pcd":
        sampler = LangevinDynamics(model, step_size=0.02, clamp=(-4.0, 4.0))
        loss = ContrastiveDivergence(model, sampler, k_steps=10, persistent=True, buffer_size=1000)
        return lambda x: loss(x)[0], list(model.parameters())
    built = {
        "implicit-score-matching": lambda: ScoreMatching(model, hessian_method="exact"),
        "sliced-score-matching": lambda: SlicedScoreMatching(model, n_projections=1, projection_type="rademacher"),
        "denoising-score-matching": lambda: DenoisingScoreMatching(model, noise_scale=0.1),
    }[objective]()
    return built, list(model.parameters())


def ebmkit_loss(objective: str, net: nn.Module) -> tuple[Callable[[Tensor], Any], list[nn.Parameter]]:
    from ebm.buffer import ReplayBuffer
    from ebm.losses import (
        ContrastiveDivergence,
        DenoisingScoreMatching,
        ExactScoreMatching,
        NoiseContrastiveEstimation,
        SlicedScoreMatching,
    )
    from ebm.samplers import LangevinDynamics

    if objective == "pcd":
        sampler = LangevinDynamics(step_size=0.02, steps=10, clamp=(-4.0, 4.0))
        built: nn.Module = ContrastiveDivergence(sampler, ReplayBuffer(1000, (2,)))
    else:
        built = {
            "implicit-score-matching": ExactScoreMatching,
            "sliced-score-matching": SlicedScoreMatching,
            "denoising-score-matching": lambda: DenoisingScoreMatching(0.1),
            "nce": NoiseContrastiveEstimation,
        }[objective]()
    return lambda x: built(net, x).loss, [*net.parameters(), *built.parameters()]


def in_turns(work: Callable[[], None], plain: Callable[[], None], updates: int, turns: int) -> dict[str, float]:
    """Milliseconds of an update and of a plain one, in processor time, and their ratio: medians over turns."""
    found = []
    for _ in range(turns + 1):
        times = []
        for one in (plain, work):
            began = time.process_time()
            for _ in range(updates):
                one()
            times.append((time.process_time() - began) / updates * 1e3)
        found.append((*times, times[1] / times[0]))
    medians = map(statistics.median, zip(*found[1:], strict=True))  # the first turn fills caches
    return dict(zip(("plain_ms", "update_ms", "ratio"), medians, strict=True))


def main(path: str) -> None:
    problem = np.load(path)
    peer, width = str(problem["peer"]), int(problem["width"])
    x = torch.randn(int(problem["batch"]), 2)
    net = network(width)
    loss, parameters = (torchebm_loss if peer == "torchebm" else ebmkit_loss)(str(problem["objective"]), net)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(x).backward()
        optimizer.step()

    found = in_turns(update, plain_update(width, x), int(problem["updates"]), int(problem["turns"]))
    print(json.dumps(found | {"seconds": 1.0, "cpu_seconds": 1.0, "updates": 0, "version": version(peer)}))


if __name__ == "__main__":
    main(sys.argv[1])
