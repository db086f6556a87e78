"""Small data sets made on the spot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from discrete_ebm.chains import sample
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.energies.ising import Ising
from discrete_ebm.errors import SettingError

__all__ = ["bars_and_stripes", "ising"]

_EXACT_SITES = 16  # up to here draws are exact, by enumeration
_SWEEPS = 500


def bars_and_stripes(side: int) -> Tensor:
    """All different (n, side, side) int8 images in {0, 1} made of whole rows or of whole columns; n = 2^(side+1) − 2.

    Source: MacKay 2003, "Information Theory, Inference, and Learning Algorithms", section 43.
    """
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 16:
        raise SettingError(f"`side` must be a whole number from 1 to 16; got {side!r}.")
    code = torch.arange(2**side)[:, None] >> torch.arange(side) & 1
    stripes = code[:, :, None].expand(-1, -1, side)
    return torch.cat([stripes, stripes.transpose(1, 2)]).to(torch.int8).unique(dim=0)


def ising(shape: int | Sequence[int], coupling: float, n: int, field: float = 0.0, seed: int = 0) -> Tensor:
    """(n, *shape) int8 spins in {−1, +1} of a periodic lattice.

    Up to 16 sites the draws are exact and independent; above, each is the end of its own chain of 500 checkerboard
    sweeps from a random start, which is enough well below the critical coupling 0.4407 and only there.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise SettingError(f"`n` must be a whole number of at least 1; got {n!r}.")
    energy = Ising.lattice(shape, coupling, field)
    if energy.space.n_sites <= _EXACT_SITES:
        states = energy.space.enumerate()
        with torch.no_grad():
            law = torch.softmax(-evaluate_energy(energy, states).double(), 0)
        return states[torch.multinomial(law, n, replacement=True, generator=torch.Generator().manual_seed(seed))]
    return sample(energy, "block-gibbs", n_chains=n, n_steps=_SWEEPS, burn_in=_SWEEPS - 1, seed=seed).last
