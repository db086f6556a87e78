r"""Densities in the plane, normalised, with their scores and exact draws: the truth for objectives on reals.

A density is an energy, E = −log p with log Z = 0, on ``Real(2, low=-4, high=4)``. What lies outside of the box is less
than 1e-12 of the mass, and 0 for the checkerboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import SettingError
from discrete_ebm.spaces import Real

__all__ = ["Checkerboard", "Density", "GaussianMixture", "Rings", "checkerboard", "create", "eight_gaussians", "moons",
           "names", "rings"]  # fmt: skip

EDGE = 4.0


class Density(Energy):
    """E(x) = −log p(x) of a normalised density on reals; ``draw`` is exact, ``score`` is ∇ log p."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) log p at x (n, *shape), nats; −inf where p is 0."""
        raise NotImplementedError

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *shape) independent exact draws, float32."""
        raise NotImplementedError

    def forward(self, encoding: Any) -> Tensor:
        return -self.log_prob(encoding)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """:meth:`draw` from a seed."""
        return self.draw(n, torch.Generator().manual_seed(seed))

    def score(self, x: Tensor) -> Tensor:
        """(n, *shape) ∇ log p at x (n, *shape); detached."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_prob(leaf).sum(), leaf)
        return slope


class GaussianMixture(Density):
    r"""Σ_m w_m N(x; μ_m, std_m² I), in any number of variables.

    Args:
        means: (M, N). std: one number, or (M,). weights: (M,) above 0, normalised here; None for equal ones.
        edge: the space is Real(N, −edge, edge); None for no bounds. Draws that fall outside are replaced by new ones:
            keep all but a negligible part of the mass inside.
    """

    means: Tensor
    std: Tensor
    log_weights: Tensor

    def __init__(self, means: Any, std: Any, weights: Any = None, edge: float | None = EDGE) -> None:
        place = torch.as_tensor(means, dtype=torch.float64)
        if place.dim() != 2 or not len(place) or not bool(place.isfinite().all()):
            raise SettingError(f"`means` must be (M, N) finite numbers; got {tuple(place.shape)}. One row a part.")
        width = torch.as_tensor(std, dtype=torch.float64).expand(len(place)).clone()
        share = torch.ones(len(place)).double() if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if not bool((width > 0).all()) or share.shape != width.shape or not bool((share > 0).all()):
            raise SettingError(f"`std` and `weights` must be above 0, one for each of {len(place)} parts; got {std!r} "
                               f"and {weights!r}.")  # fmt: skip
        space = Real(place.shape[1]) if edge is None else Real(place.shape[1], low=-edge, high=edge)
        super().__init__(space)
        self.edge = edge
        self.register_buffer("means", place)
        self.register_buffer("std", width)
        self.register_buffer("log_weights", (share / share.sum()).log())

    def log_prob(self, x: Tensor) -> Tensor:
        means, std = self.means.to(x), self.std.to(x)
        square = (x[:, None, :] - means).square().sum(2)
        constant = self.log_weights.to(x) - means.shape[1] * (std.log() + math.log(2 * math.pi) / 2)
        return (constant - square / (2 * std.square())).logsumexp(1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        def some(count: int) -> Tensor:
            part = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
            z = torch.randn((count, self.means.shape[1]), generator=generator, device=self.means.device).double()
            return self.means[part] + self.std[part, None] * z

        return _within(some, n, self.edge).float()

    def blurred(self, sigma: float) -> GaussianMixture:
        """p * N(0, σ²): the law of its draws with noise."""
        edge = None if self.edge is None else self.edge + 8 * sigma
        return GaussianMixture(self.means, (self.std.square() + sigma**2).sqrt(), self.log_weights.exp(), edge)


class Rings(Density):
    r"""Points on concentric circles plus Gaussian noise: p(x) = Σ_k w_k exp(−(r² + r_k²)/2s²) I₀(r r_k/s²)/(2πs²).

    Args:
        radii: r_k. std: s. weights: None for circles as likely as they are long.
    """

    radii: Tensor
    log_weights: Tensor

    def __init__(self, radii: Sequence[float] = (1.0, 2.0, 3.0), std: float = 0.12,
                 weights: Sequence[float] | None = None) -> None:
        right = len(radii) > 0 and all(0 <= r < EDGE - 6 * std for r in radii)
        if not (std > 0 and right):
            raise SettingError(f"`radii` must be at least one number of 0 to {EDGE} less 6 standard deviations; got "
                               f"{radii!r} with std {std!r}.")  # fmt: skip
        super().__init__(Real(2, low=-EDGE, high=EDGE))
        share = torch.tensor(radii if weights is None else weights, dtype=torch.float64)
        if share.shape != (len(radii),) or not bool((share > 0).all()):
            raise SettingError(f"`weights` must be above 0, one for each of {len(radii)} radii; got {weights!r}.")
        self.std = float(std)
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64))
        self.register_buffer("log_weights", (share / share.sum()).log())

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.std**2
        radius = (x.square().sum(1, keepdim=True) + 1e-24).sqrt()  # a slope at the centre, where it is 0
        across = radius * self.radii.to(x) / variance
        bessel = torch.special.i0e(across).log()  # log I₀(z) − z
        inside = bessel - (radius - self.radii.to(x)).square() / (2 * variance)
        return (self.log_weights.to(x) + inside).logsumexp(1) - math.log(2 * math.pi * variance)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        def some(count: int) -> Tensor:
            ring = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
            angle = 2 * math.pi * torch.rand(count, generator=generator, device=self.radii.device).double()
            noise = torch.randn((count, 2), generator=generator, device=self.radii.device).double()
            return self.radii[ring, None] * torch.stack([angle.cos(), angle.sin()], 1) + self.std * noise

        return _within(some, n, EDGE).float()


class Checkerboard(Density):
    """Uniform on the squares of one colour, ``n`` × ``n`` over the box. p jumps: it has no score at the edges."""

    def __init__(self, n: int = 4) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 2 or n % 2:
            raise SettingError(f"`n` must be an even whole number of at least 2; got {n!r}. Try 4.")
        super().__init__(Real(2, low=-EDGE, high=EDGE))
        self.n, self.width = n, 2 * EDGE / n
        self.register_buffer("place", torch.zeros(()))  # where draws are made

    def log_prob(self, x: Tensor) -> Tensor:
        cell = ((x.detach() + EDGE) / self.width).floor().clamp(0, self.n - 1)
        inside = (x.detach().abs() <= EDGE).all(1) & (cell.sum(1) % 2 == 0)
        level = torch.full_like(x[:, 0], -math.log(2 * EDGE**2)) + 0 * x.sum(1)
        return torch.where(inside, level, -torch.inf)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        row = torch.randint(self.n, (n,), generator=generator, device=generator.device)
        column = 2 * torch.randint(self.n // 2, (n,), generator=generator, device=generator.device) + row % 2
        corner = torch.stack([row, column], 1).double()
        uniform = torch.rand((n, 2), generator=generator, device=generator.device, dtype=torch.float64)
        return (self.width * (corner + uniform) - EDGE).clamp(-EDGE, EDGE).float()


def eight_gaussians(radius: float = 2.2, std: float = 0.25) -> GaussianMixture:
    """Eight equal Gaussians on a circle."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def rings(radii: Sequence[float] = (1.0, 2.0, 3.0), std: float = 0.12) -> Rings:
    """Three circles with Gaussian noise."""
    return Rings(radii, std)


def checkerboard(n: int = 4) -> Checkerboard:
    """Eight of sixteen squares."""
    return Checkerboard(n)


def moons(std: float = 0.18, nodes: int = 128) -> GaussianMixture:
    """Two half circles that reach into each other, uniform along them, with Gaussian noise.

    The integral along each arc is a Gauss-Legendre sum of ``nodes`` terms, exact to rounding for the default noise.
    """
    at, weight = np.polynomial.legendre.leggauss(nodes)
    angle = math.pi / 2 * (at + 1)
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    means = 1.8 * np.concatenate([upper, -upper])
    return GaussianMixture(means, std, np.concatenate([weight, weight]))


_MAKERS: dict[str, Callable[[], Density]] = {
    "eight-gaussians": eight_gaussians,
    "rings": rings,
    "checkerboard": checkerboard,
    "moons": moons,
}


def names() -> list[str]:
    """Names of the densities."""
    return list(_MAKERS)


def create(name: str) -> Density:
    """A density by name, with its defaults."""
    if name not in _MAKERS:
        raise SettingError(f"`name` must be one of {', '.join(_MAKERS)}; got {name!r}.")
    return _MAKERS[name]()


def _within(some: Callable[[int], Tensor], n: int, edge: float | None) -> Tensor:
    """``n`` rows of ``some(count)`` that lie within the box."""
    found = some(n)
    while edge is not None:
        outside = (found.abs() > edge).any(1)
        count = int(outside.sum())
        if not count:
            break
        found[outside] = some(count)
    return found
