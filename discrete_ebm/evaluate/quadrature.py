r"""Exact answers in few real variables: log Z, KL, total variation, moments and cell masses by the midpoint rule.

For a density that is smooth and vanishes at the borders the rule is exact to rounding once the grid resolves it; for
one that jumps along grid lines too. ``error`` compares log Z with that of half the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import as_one_law, energy_device, evaluate_energy
from discrete_ebm.errors import NonFiniteEnergyError, SettingError, SpaceError

__all__ = ["GridLaw", "quadrature"]

LARGEST = 2**24


@dataclass(frozen=True)
class GridLaw:
    """A density on the midpoints of a grid over a box.

    ``points`` (G, *shape) float64, the first site slowest; ``log_density`` (G,) normalised, −inf where 0; ``log_z``
    nats; ``error`` of it, nats: against the grid of every other point (an upper bound where the density is smooth);
    ``volume`` of a cell; ``sides`` cells along each site.
    """

    points: Tensor
    log_density: Tensor
    log_z: float
    error: float
    volume: float
    sides: tuple[int, ...]

    @property
    def mass(self) -> Tensor:
        """(G,) probability of each cell."""
        return self.log_density.exp() * self.volume

    def kl(self, other: GridLaw) -> float:
        """KL(self ‖ other), nats; infinite where the other has no mass and this has."""
        self._same(other)
        here = self.mass
        terms = torch.where(here > 0, here * (self.log_density - other.log_density), 0.0)
        return float(terms.sum())

    def total_variation(self, other: GridLaw) -> float:
        """½ Σ |p − q|, between 0 and 1."""
        self._same(other)
        return float((self.mass - other.mass).abs().sum() / 2)

    def expectation(self, values: Tensor) -> Tensor:
        """E[f] from f at the points, (G, ...) -> (...)."""
        mass = self.mass.reshape(-1, *[1] * (values.dim() - 1))
        return torch.where(mass > 0, mass * values.double(), 0.0).sum(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (N,) and covariance (N, N)."""
        flat = self.points.flatten(1)
        mean = self.expectation(flat)
        return mean, ((flat - mean) * self.mass[:, None]).t() @ (flat - mean)

    def cells(self, n: int) -> Tensor:
        """Mass of an n × … × n partition of the box, flattened; n divides the sides."""
        if any(side % n for side in self.sides):
            raise SettingError(f"`n` must divide the {self.sides[0]} points along each site; got {n}.")
        shape = [size for side in self.sides for size in (n, side // n)]
        return self.mass.reshape(shape).sum(tuple(range(1, len(shape), 2))).flatten()

    def sample_total_variation(self, x: Tensor, n: int = 20) -> tuple[float, float]:
        """½ Σ |p − counts| over an n × … × n partition for draws x (C, *shape), and what as many exact independent
        draws would give on average: Σ √(2p(1 − p)/πC)/2. Draws outside of the box count as wrong."""
        law, width = self.cells(n), self._width() * torch.tensor(self.sides) / n
        cell = ((x.flatten(1).double().cpu() - self._corner()) / width).floor().long()
        inside = ((cell >= 0) & (cell < n)).all(1)
        place = torch.zeros(len(cell), dtype=torch.int64)
        for column in cell.clamp(0, n - 1).t():
            place = place * n + column
        counts = torch.bincount(place[inside], minlength=len(law)).double() / len(x)
        found = ((law - counts).abs().sum() + (1 - counts.sum())) / 2
        floor = (2 * law * (1 - law) / (math.pi * len(x))).sqrt().sum() / 2
        return float(found), float(floor)

    def _corner(self) -> Tensor:
        return self.points[0].flatten() - self._width() / 2

    def _width(self) -> Tensor:
        span = self.points[-1].flatten() - self.points[0].flatten()
        return span / (torch.tensor(self.sides).double() - 1)

    def _same(self, other: GridLaw) -> None:
        if self.points.shape != other.points.shape or not bool((self.points == other.points).all()):
            raise SettingError("`other` must be on the same grid; got another box or number of points. Use the same "
                               "`n`, `low` and `high` for both.")  # fmt: skip


@torch.no_grad()
def quadrature(energy: Any, n: int = 200, *, low: float | None = None, high: float | None = None,
               chunk: int = 65_536) -> GridLaw:
    """The law exp(−E)/Z of one to three real variables, on n midpoints along each.

    Args:
        energy: on Real. n: at least 4; a multiple of 4 keeps squares of a checkerboard whole.
        low, high: the box; None = the bounds of the space. The law is that of the box.
        chunk: points evaluated at once.
    Raises:
        SpaceError: another space, no box, or too many points. NonFiniteEnergyError: NaN or −inf.
    """
    energy = as_one_law(energy)
    space = energy.space
    if space.name != "Real":
        raise SpaceError(f"`energy.space` must be Real; got {space!r}. Use de.evaluate.exact on discrete spaces.")
    if isinstance(n, bool) or not isinstance(n, int) or n < 4 or n % 2 or n**space.n_sites > LARGEST:
        raise SpaceError(f"`n` must be an even whole number of at least 4 with n^{space.n_sites} of at most {LARGEST} "
                         f"points; got {n!r}. Beyond three sites use de.evaluate.ais.")  # fmt: skip
    sides = []
    for name, given, own in (("low", low, space.low), ("high", high, space.high)):
        if given is None and own is None:
            raise SpaceError(f"`{name}` must be given for {space!r}, which has no bound there. Take a box that holds "
                             "all but a negligible part of the mass.")  # fmt: skip
        sides.append(own.flatten().double() if given is None else torch.full((space.n_sites,), float(given)).double())
    corner, width = sides[0], (sides[1] - sides[0]) / n
    if not bool((width > 0).all()):
        raise SettingError(f"`low` must be below `high`; got {low!r} and {high!r}.")
    middle = torch.arange(n, dtype=torch.float64) + 0.5
    axes = [corner[i] + width[i] * middle for i in range(space.n_sites)]
    points = torch.cartesian_prod(*axes).reshape(-1, *space.shape)
    device = energy_device(energy) or torch.device("cpu")
    kept = [evaluate_energy(energy, part.to(device)).double().cpu() for part in points.split(chunk)]
    energies = torch.cat(kept)
    if bool((energies.isnan() | (energies == -torch.inf)).any()):
        raise NonFiniteEnergyError("`energy` must be a number or +inf on the box; got NaN or −inf. Look at the model, "
                                   "or take a smaller box.")  # fmt: skip
    volume = float(width.prod())
    log_z = float((-energies).logsumexp(0)) + math.log(volume)
    block = (-energies).reshape([n] * space.n_sites)
    every_other = block[tuple([slice(0, None, 2)] * space.n_sites)].flatten()
    coarse = float(every_other.logsumexp(0)) + math.log(volume * 2**space.n_sites)
    return GridLaw(points, -energies - log_z, log_z, abs(coarse - log_z), volume, (n,) * space.n_sites)
