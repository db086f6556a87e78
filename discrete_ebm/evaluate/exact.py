"""Exact answers by enumeration, for spaces small enough: the yardstick that everything else is measured against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import as_energy, evaluate_energy
from discrete_ebm.errors import NonFiniteEnergyError, SettingError
from discrete_ebm.spaces import Space

__all__ = ["ExactResult", "exact"]


@dataclass(frozen=True)
class ExactResult:
    """The whole law p(x) = exp(−beta·E(x)) / Z on a small space; all sums in float64, tensors on the CPU.

    ``states`` (n_states, *shape); ``energies`` (n_states,) float64, nats at beta = 1; ``probabilities`` (n_states,)
    float64; ``log_z`` log Σ_x exp(−beta·E(x)).
    """

    space: Space
    beta: float
    states: Tensor
    energies: Tensor
    probabilities: Tensor
    log_z: float

    @cached_property
    def mean_energy(self) -> float:
        """Σ_x p(x) E(x); states of infinite energy have no weight."""
        weighted = torch.where(self.probabilities > 0, self.probabilities * self.energies, 0.0)
        return float(weighted.sum())

    @cached_property
    def entropy(self) -> float:
        """−Σ_x p(x) log p(x), in nats."""
        return float(-torch.special.xlogy(self.probabilities, self.probabilities).sum())

    @cached_property
    def marginals(self) -> Tensor:
        """(N, K) float64 p(x_i = v), in index order; padding is 0."""
        index = self.space.to_index(self.states)
        k = self.space.k_max
        return torch.stack([torch.bincount(column, weights=self.probabilities, minlength=k) for column in index.t()])

    def kl(self, other: ExactResult) -> float:
        """KL(this ‖ other) in nats; inf where the other forbids what this allows."""
        ratio = -self.beta * self.energies - self.log_z + other.beta * other.energies + other.log_z
        return float(torch.where(self.probabilities > 0, self.probabilities * ratio, 0.0).sum())

    def sample(self, n: int, seed: int | torch.Generator = 0, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent exact draws (n, *shape), on the CPU; give a seed or a CPU generator."""
        source = generator if generator is not None else seed
        source = source if isinstance(source, torch.Generator) else torch.Generator().manual_seed(source)
        if source.device.type != "cpu":
            raise SettingError(f"`generator` must be on the CPU; got {source.device}. Move the draws afterwards.")
        cumulative = self.probabilities.cumsum(0)
        # scaled by the last sum rather than by 1, so that rounding never falls off the end or onto a zero weight
        target = torch.rand(n, generator=source, dtype=torch.float64) * cumulative[-1]
        row = torch.searchsorted(cumulative, target, right=True)
        last = int(self.probabilities.nonzero()[-1])
        return self.states[row.clamp(max=last)]


def exact(energy: Any, beta: float = 1.0, *, chunk_size: int = 65_536) -> ExactResult:
    """Enumerate every state: log Z, probabilities, marginals, exact draws.

    Args:
        energy: on a discrete space of at most 2²² states.
        beta: inverse temperature, a finite number.
        chunk_size: states evaluated at a time.
    Raises:
        SpaceError: the space is too large or not discrete.
        NonFiniteEnergyError: an energy is NaN or −inf, or all are +inf (a single +inf is a forbidden state).
    """
    space = as_energy(energy).space
    beta = float(beta)
    if not math.isfinite(beta):
        raise SettingError(f"`beta` must be a finite number; got {beta}. Try 1.0.")
    if chunk_size < 1:
        raise SettingError(f"`chunk_size` must be at least 1; got {chunk_size}. Try 65536.")
    states = space.enumerate()
    device = _device(energy)
    with torch.no_grad():
        energies = torch.cat([evaluate_energy(energy, part.to(device)).to("cpu", torch.float64)
                              for part in states.split(chunk_size)])
    bad = energies.isnan() | (energies == -math.inf)
    if bool(bad.any()) or bool((energies == math.inf).all()):
        which = states[bad][:1].tolist() if bool(bad.any()) else "every state"
        raise NonFiniteEnergyError(f"`energy` must be finite, or +inf for forbidden states; got "
                                   f"{int(bad.sum())} NaN or −inf of {len(states)}, the first at {which}. "
                                   "Check the energy's parameters.")
    # 0 · inf would be NaN at beta = 0, where forbidden states stay forbidden
    weights = torch.where(energies == math.inf, -math.inf, -beta * energies)
    log_z = weights.logsumexp(0)
    return ExactResult(space, beta, states, energies, (weights - log_z).exp(), float(log_z))


def _device(energy: Any) -> torch.device:
    """Where the energy's parameters are."""
    for tensors in ("parameters", "buffers"):
        for tensor in getattr(energy, tensors, lambda: ())():
            return tensor.device
    return torch.device("cpu")
