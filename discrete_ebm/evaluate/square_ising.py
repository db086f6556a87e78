"""Exact energies of the square-lattice Ising model without a field: finite tori (Kaufman) and the infinite lattice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError

__all__ = ["CRITICAL_COUPLING", "kaufman_energy", "kaufman_log_z", "onsager_energy"]

CRITICAL_COUPLING = 0.5 * math.log(1 + math.sqrt(2))


def kaufman_log_z(shape: Sequence[int], coupling: float) -> float:
    """log Z of E = −J Σ s s′ on an m × n torus at beta = 1, float64.

    Args:
        shape: (m, n), each at least 3 (a torus of side 2 has double bonds, ``Ising.lattice`` has single ones).
        coupling: J > 0, in nats (βJ of the usual notation).
    Raises:
        SettingError: another shape or coupling.
    Source: Kaufman 1949, "Crystal statistics II", eqs. 61–62; Ferdinand & Fisher 1969, eqs. 2.3–2.8.
    """
    return float(_log_z(_checked(shape, coupling), torch.tensor(float(coupling), dtype=torch.float64)))


def kaufman_energy(shape: Sequence[int], coupling: float) -> float:
    """Exact mean energy per spin, in nats, of the m × n torus at beta = 1: −J ∂ log Z/∂J / (m·n).

    Divide by J for the usual u in units of J. Arguments, errors and source: :func:`kaufman_log_z`.
    """
    sides = _checked(shape, coupling)
    with torch.enable_grad():
        k = torch.tensor(float(coupling), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(_log_z(sides, k), k)
    return -float(coupling) * float(slope) / (sides[0] * sides[1])


def onsager_energy(coupling: float) -> float:
    """Exact mean energy per spin, in nats, of the infinite square lattice at beta = 1.

    Args:
        coupling: J > 0, in nats.
    Source: Onsager 1944, eq. 116: u = −J coth 2J [1 + (2/π)(2 tanh² 2J − 1) K₁], K₁ by the arithmetic-geometric mean.
    """
    _checked((3, 3), coupling)
    twist = 2 * math.tanh(2 * coupling) ** 2 - 1
    # k = 2 sinh 2J / cosh² 2J has √(1 − k²) = |twist|; K₁ = π / (2 agm(1, √(1 − k²))), infinite at the critical point
    product = 0.0 if abs(twist) < 1e-15 else twist / _agm(1.0, abs(twist))
    return -coupling / math.tanh(2 * coupling) * (1 + product)


def _agm(a: float, b: float) -> float:
    while abs(a - b) > 1e-15 * a:
        a, b = (a + b) / 2, math.sqrt(a * b)
    return a


def _checked(shape: Sequence[int], coupling: float) -> tuple[int, int]:
    sides = tuple(shape)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 3 for s in sides):
        raise SettingError(f"`shape` must be two sides of at least 3; got {shape!r}. Enumerate smaller lattices with "
                           "de.evaluate.exact.")
    if not (isinstance(coupling, (int, float)) and math.isfinite(coupling) and coupling > 0):
        raise SettingError(f"`coupling` must be a finite number above 0; got {coupling!r}. Try 0.44.")
    return int(sides[0]), int(sides[1])


def _log_z(sides: tuple[int, int], k: Tensor) -> Tensor:
    m, n = sides
    # cosh γ_l = cosh 2K coth 2K − cos(π l/n); γ_0 = 2K + log tanh K changes its sign at the critical point
    rows = torch.arange(2 * n, dtype=torch.float64)
    cosh = torch.cosh(2 * k) / torch.tanh(2 * k) - torch.cos(math.pi * rows[1:] / n)
    gamma = torch.cat((2 * k[None] + torch.log(torch.tanh(k))[None], torch.acosh(cosh)))
    odd, even = m * gamma[1::2] / 2, m * gamma[0::2] / 2
    product_odd, product_even = _log_2cosh(odd).sum(), _log_2cosh(even).sum()
    # ½[Π 2cosh + Π 2sinh (odd) + Π 2cosh + Π 2sinh (even)], with Π 2sinh = Π 2cosh · Π tanh and all over the first
    ratio = torch.exp(product_even - product_odd)
    sums = 1 + torch.tanh(odd).prod() + ratio * (1 + torch.tanh(even).prod())
    return m * n / 2 * torch.log(2 * torch.sinh(2 * k)) + product_odd + torch.log(sums / 2)


def _log_2cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs()))
