"""Block Gibbs by enumeration: b sites at once from their joint law given the rest, whether they interact or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.heat_bath import HeatBath
from discrete_ebm.samplers.patterns import BlockDraw, check_block_settings, check_size
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import require_discrete, start

__all__ = ["EnumeratedGibbs", "site_blocks"]


@dataclass(frozen=True)
class EnumeratedGibbs(Kernel):
    r"""Heat-bath Gibbs on blocks of b sites; one step is a sweep of blocks. Rejection-free.

    All joint values v of a block are enumerated and one is drawn with probability ∝ exp(−β E(x with x_B = v)), so that
    sites which hold each other back move together. A non-finite energy is never entered and is counted.

    Args:
        block_size: b; blocks of a raster sweep that do not come out even, and spaces of fewer sites, have fewer.
        scan: "raster" takes the sites in their order, b at a time (those that are clamped in every chain are left out
            on the CPU); "random" makes ⌈N/b⌉ updates, each of b free sites chosen uniformly and independently for each
            chain.
        conditionals: "auto" adds up ``conditional_logits`` (raster) or ``flip_deltas`` (from 4 values a site) of the
            energy where it has them, K^{b−1} of them for a block; False evaluates the energy of all K^b states; True
            uses whatever closed form there is. All have the same law. A closed form must be finite: for an energy that
            forbids states by +inf choose False.
        max_states: refuse blocks with more joint values than this.
    Invariant law: exp(−βE); a random scan is reversible, a raster sweep is not. Cost: ⌈N/b⌉·K^b energy evaluations (the
    current state's is known), or ⌈N/b⌉·K^{b−1} tables in closed form and one evaluation.
    Source: Geman & Geman 1984; blocks: Jensen, Kjærulff & Kong 1995, "Blocking Gibbs sampling in very large
        probabilistic expert systems".
    """

    caches_x: ClassVar[bool] = False

    block_size: int = 2
    scan: str = "raster"
    conditionals: bool | str = "auto"
    max_states: int = 4096

    def __post_init__(self) -> None:
        check_block_settings(self.block_size, self.scan, self.conditionals, self.max_states)

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); one evaluation of the energy.

        Raises:
            SettingError: a block has more than ``max_states`` joint values.
        """
        require_discrete("enumerated-gibbs", energy.space)
        check_size(energy.space, self.block_size, self.block_size, self.max_states)
        x, energies = start(energy, x0)
        return ChainState(x, energies, {}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One sweep of all C chains."""
        bath = HeatBath(energy, state, beta, clamp)
        for sites, radices in site_blocks(bath, clamp, self.block_size, self.scan, generator):
            BlockDraw.make(bath, sites, radices, self.block_size).redraw(None, generator, self.conditionals)
        return bath.finish()


def site_blocks(bath: HeatBath, clamp: Tensor | None, size: int, scan: str,
                generator: torch.Generator) -> list[tuple[Tensor, tuple[int, ...]]]:
    """The blocks of one sweep: sites (S,) shared by all chains, or (C, S) for a random scan, and their largest k."""
    n_sites, device = bath.n_sites, bath.x.device
    if scan == "raster":
        sites, n_values = torch.arange(n_sites, device=device), bath.space.n_values
        if clamp is not None and clamp.device.type == "cpu":  # to look at a clamp on a device would be to wait for it
            free = ~clamp.reshape(-1, n_sites).all(0)
            sites, n_values = sites.masked_select(free), n_values.masked_select(free)
        parts = zip(sites.split(size), n_values.split(size), strict=True)
        return [(part, tuple(radices.tolist())) for part, radices in parts if len(radices)]
    blocks, radices = [], (bath.space.k_max,) * min(size, n_sites)
    for _ in range(-(-n_sites // size)):
        order = torch.empty(bath.n_chains, n_sites, device=device).exponential_(generator=generator)
        if bath.free is not None:
            order = order.masked_fill(~bath.free, torch.inf)  # clamped sites only where there are no others left
        blocks.append((order.topk(len(radices), dim=1, largest=False).indices, radices))
    return blocks


register(SamplerSpec(
    name="enumerated-gibbs",
    build=EnumeratedGibbs,
    summary="heat-bath sweep of blocks of sites, all joint values of a block enumerated",
    source="Geman & Geman 1984; Jensen, Kjærulff & Kong 1995",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    use_when="A few sites are strongly coupled among themselves, so that single-site changes are nearly all refused.",
))
