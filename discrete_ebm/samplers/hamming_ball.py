"""The Hamming ball sampler: a block moves anywhere within a ball around an auxiliary point near it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.base import ChainState, Kernel, StepInfo
from discrete_ebm.samplers.enumerated_gibbs import site_blocks
from discrete_ebm.samplers.heat_bath import HeatBath
from discrete_ebm.samplers.patterns import BlockDraw, check_block_settings, check_size
from discrete_ebm.samplers.registry import SamplerSpec, register
from discrete_ebm.samplers.single_site import require_discrete, start

__all__ = ["HammingBall"]


@dataclass(frozen=True)
class HammingBall(Kernel):
    r"""Auxiliary-variable Gibbs on blocks of b sites; one step is a sweep of blocks. Rejection-free.

    For a block B: draw u uniformly from the values that differ from x_B in at most m free sites, then the new values v
    of the block with probability ∝ exp(−β E(x with x_B = v)) from those that differ from *u* in at most m free sites.
    The ball is as large around u as around x (also where sites have different numbers of values), so p(u | x) is the
    same number on the whole ball and the second draw is exact Gibbs on p(x) p(u | x). A block can change in up to 2m
    sites at once, for the price of Σ_{j≤m} C(b, j)(K−1)^j energies instead of K^b.

    Args:
        block_size: b, the sites of a block; fewer in what is left over and in smaller spaces. Larger blocks give more
            different moves for one ball, at a cost linear in b for m = 1.
        radius: m ≥ 1; from m = b on this is :class:`~discrete_ebm.samplers.EnumeratedGibbs`.
        scan, conditionals, max_states: as for :class:`~discrete_ebm.samplers.EnumeratedGibbs`; with m = 1 one closed
            form at u gives the whole ball.
    Invariant law: exp(−βE); a random scan is reversible, a raster sweep is not. Cost: ⌈N/b⌉ balls of energies, or
    ⌈N/b⌉·Σ_{j<m} C(b, j)(K−1)^j tables in closed form and one evaluation.
    Source: Titsias & Yau 2017, "The Hamming Ball Sampler".
    """

    caches_x: ClassVar[bool] = False

    block_size: int = 10
    radius: int = 1
    scan: str = "raster"
    conditionals: bool | str = "auto"
    max_states: int = 4096

    def __post_init__(self) -> None:
        check_block_settings(self.block_size, self.scan, self.conditionals, self.max_states)
        if isinstance(self.radius, bool) or not isinstance(self.radius, int) or self.radius < 1:
            raise SettingError(f"`radius` must be a whole number of at least 1; got {self.radius!r}.")

    @torch.no_grad()
    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        """State at a copy of ``x0`` (C, *shape); one evaluation of the energy.

        Raises:
            SettingError: a ball has more than ``max_states`` states.
        """
        require_discrete("hamming-ball", energy.space)
        check_size(energy.space, self.block_size, self.radius, self.max_states)
        x, energies = start(energy, x0)
        return ChainState(x, energies, {}, torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        """One sweep of all C chains."""
        bath = HeatBath(energy, state, beta, clamp)
        for sites, radices in site_blocks(bath, clamp, self.block_size, self.scan, generator):
            block = BlockDraw.make(bath, sites, radices, self.radius)
            block.redraw(block.uniform(generator), generator, self.conditionals)
        return bath.finish()


register(SamplerSpec(
    name="hamming-ball",
    build=HammingBall,
    summary="sweep of blocks, each drawn within a Hamming ball around an auxiliary point",
    source="Titsias & Yau 2017",
    spaces=frozenset({"Binary", "Spin", "Categorical", "Ordinal", "Product"}),
    needs_gradient=False,
    exact=True,
    reversible=False,
    use_when="As `enumerated-gibbs`, for blocks too large to enumerate.",
))
