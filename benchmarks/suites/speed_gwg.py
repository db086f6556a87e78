"""One step of Gibbs-with-Gradients on deep energies, in units of one forward and backward pass of the network."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import markdown
from benchmarks.common import Context
from discrete_ebm import samplers
from discrete_ebm.energies import MLPEnergy, from_callable
from discrete_ebm.spaces import Binary

TITLE = "Speed: Gibbs-with-Gradients on deep energies."
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"threads": 1, "side": 28, "hidden": 256, "channels": 64, "blocks": 8, "batches": [1, 100], "rounds": 21,
             "release": "", "ebmkit": ""},
    "small": {"threads": 1, "side": 4, "hidden": 8, "channels": 2, "blocks": 2, "batches": [1, 3], "rounds": 3,
              "release": "", "ebmkit": ""},
}  # fmt: skip
EXTENDABLE = ("release", "ebmkit")
# imported by the release for its data and pictures, not to sample
_PLOTTING = ("torchvision", "torchvision.transforms", "torchvision.datasets", "tqdm", "matplotlib", "matplotlib.pyplot",
             "sklearn", "sklearn.datasets", "igraph")


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside a short cut; ``stride`` 2 halves the side."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        self.short = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        return silu(self.second(silu(self.first(x))) + self.short(x))


class ResNet(nn.Module):
    """A small ResNet of the discrete-EBM literature: ``blocks`` residual blocks, of which two halve the side."""

    def __init__(self, side: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.side = side
        self.start = nn.Conv2d(1, channels, 3, 1, 1)
        self.blocks = nn.Sequential(*(Residual(channels, 2 if n < 2 else 1) for n in range(blocks)))
        self.end = nn.Linear(channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.blocks(self.start(pixels.view(-1, 1, self.side, self.side)))
        return self.end(features.mean((2, 3))).squeeze(-1)


def run(ctx: Context) -> None:
    """Each network at each batch size: the compiled step, the reference step and, where they are, the peers."""
    space = Binary(ctx.side**2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed)  # torch initialises layers from its global state
        resnet = ResNet(ctx.side, ctx.channels, ctx.blocks)
    networks = {f"MLP {space.n_sites}-{ctx.hidden}-1": MLPEnergy(space, (ctx.hidden,), seed=ctx.seed),
                "ResNet": from_callable(resnet, space)}
    for name, energy in networks.items():
        for batch in ctx.batches:
            for form in ("fused", "reference", "release", "ebmkit"):
                folder = {"release": ctx.release, "ebmkit": ctx.ebmkit}.get(form, "")
                ctx.part(f"{name}, batch {batch}, {form}",
                         partial(measure, energy, batch, form, ctx.rounds, ctx.seed, folder))


def measure(energy: Any, batch: int, form: str, rounds: int, seed: int, folder: str) -> dict[str, Any]:
    """Processor seconds of a step and of a pass through the network, taken in turn; the median of their ratios."""
    generator = torch.Generator().manual_seed(seed)
    x = energy.space.random(batch, generator)
    encoding = energy.space.encode(x)

    def through() -> None:
        leaf = encoding.detach().requires_grad_()
        torch.autograd.grad(energy(leaf).sum(), leaf)

    if form in ("release", "ebmkit"):
        made = (released_step if form == "release" else ebmkit_step)(energy, x, folder)
        if isinstance(made, str):
            return {"missing": made}
        step = made
    else:
        step = own_step(energy, x, form, generator)
    for work in (through, step):
        for _ in range(3):  # compiles, fills caches
            work()
    once = seconds(through, 1)
    times = max(1, min(50, round(0.02 / max(once, 1e-6))))
    pairs = [(seconds(through, times), seconds(step, times)) for _ in range(rounds)]
    ratios = sorted(own / network for network, own in pairs)
    return {
        "step": statistics.median(own for _, own in pairs), "network": statistics.median(base for base, _ in pairs),
        "ratio": statistics.median(ratios), "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4], "batch": batch,
    }  # fmt: skip


def own_step(energy: Any, x: Tensor, form: str, generator: torch.Generator) -> Callable[[], None]:
    """A step of our kernel, from where the last one ended."""
    kernel = samplers.create("gwg", implementation=form, exact_deltas=False)
    state = [kernel.init(energy, x, generator=generator)]

    def step() -> None:
        state[0], _ = kernel.step(energy, state[0], generator=generator)

    return step


def released_step(energy: Any, x: Tensor, release: str) -> Callable[[], None] | str:
    """A step of ``samplers.DiffSampler`` of the authors' release, a folder that the caller has; or why there is none.

    It wants log p of float states and takes gradients at both ends of a step. Our networks stand in for theirs.
    """
    file = Path(release) / "samplers.py"
    if not release or not file.is_file():
        return "not given: --set release='\"/path/to/GWG_release\"' (github.com/wgrathwohl/GWG_release)"
    absent = [name for name in _PLOTTING if importlib.util.find_spec(name.partition(".")[0]) is None]
    try:
        with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in absent}), mock.patch.object(
                sys, "path", [release, *sys.path]):
            module = importlib.import_module("samplers")
    except ImportError as cause:
        return f"it cannot be imported: {cause}"
    sampler = module.DiffSampler(x.shape[1], n_steps=1, approx=True, fixed_proposal=False, temp=2.0)
    at = [energy.space.encode(x)]

    def step() -> None:
        at[0] = sampler.step(at[0].detach(), lambda states: -energy(states)).detach()

    return step


def ebmkit_step(energy: Any, x: Tensor, folder: str) -> Callable[[], None] | str:
    """A step of ``ebm.samplers.GibbsWithGradients`` on our network, from a folder that has the package; or why not.

    It needs nothing but torch, so it runs in this process, on the same torch.
    """
    if not (Path(folder) / "ebm" / "__init__.py").is_file() or not folder:
        return "not given: --set ebmkit='\"/folder/with/ebm\"' (pip install --no-deps --target /folder/with/ebm ebmkit)"
    try:
        with mock.patch.object(sys, "path", [folder, *sys.path]):
            module = importlib.import_module("ebm.samplers")
    except ImportError as cause:
        return f"it cannot be imported: {cause}"
    sampler, at = module.GibbsWithGradients(), [energy.space.encode(x)]

    def step() -> None:
        at[0] = sampler.step(energy, at[0]).detach()

    return step


def seconds(work: Callable[[], None], times: int) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def tables(records: list[dict[str, Any]]) -> str:
    """Milliseconds, and the ratio with its quartiles."""
    columns: list[markdown.Column] = [
        ("step, s", "step", ".6f"), ("network, s", "network", ".6f"), ("ratio", "ratio", ".2f"),
        ("lower quartile", "ratio_low", ".2f"), ("upper quartile", "ratio_high", ".2f"),
    ]  # fmt: skip
    table = markdown.by_part(records, columns, "what", lambda name: True)
    text = ("Processor seconds of one step of `gwg` and of one forward and backward pass of the network (gradient with "
            "respect to the input alone), taken in turn; the ratio is the median over rounds.")
    return markdown.page(records, TITLE, text, table)
