"""Models of data at several noise levels: energies E(x | σ), and scores s(x | σ) or s(x) without an energy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import CapabilityError, SettingError, SpaceError
from discrete_ebm.spaces import Space

__all__ = ["NoisyEnergy", "ScoreField", "ScoreNetwork", "check_levels", "noise_conditional_mlp", "noise_levels"]


def noise_levels(high: float, low: float, n: int) -> tuple[float, ...]:
    """``n`` standard deviations from ``high`` down to ``low``, each the same factor below the one before.

    Source: Song & Ermon 2019, arXiv:1907.05600, section 4.1 (their levels are 1 to 0.01 in 10).
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 or not 0 < low <= high < math.inf:
        raise SettingError(f"`high`, `low`, `n` must be high >= low > 0, n >= 1; got {high!r}, {low!r}, {n!r}.")
    if n == 1:
        return (float(high),)
    return tuple(high * (low / high) ** (i / (n - 1)) for i in range(n))


def check_levels(sigmas: Any) -> tuple[float, ...]:
    """``sigmas`` as numbers above 0, the largest first.

    Raises:
        SettingError: none, or one that is not positive and finite.
    """
    given: Any = sigmas.detach().flatten().tolist() if isinstance(sigmas, Tensor) else sigmas
    if isinstance(given, (int, float)):
        given = [given]
    right = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    if not right or not all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < math.inf
                            for one in given):  # fmt: skip
        raise SettingError(f"`sigmas` must be one or more standard deviations above 0; got {sigmas!r}. "
                           "Try noise_levels(1.0, 0.05, 10).")
    return tuple(sorted((float(one) for one in given), reverse=True))


class NoisyEnergy(Energy):
    """E(x | σ): one network for the data blurred by Gaussian noise of several standard deviations.

    As an energy it is that of the least noisy level, E(x | σ_min), so it is sampled and evaluated as any other.

    Args:
        fn: ``fn(encoding, sigma) -> (C,)`` energies in nats, with ``sigma`` (C,) in the encoding's dtype.
        space: of x, :class:`Real`.
        sigmas: the levels.
    """

    def __init__(self, fn: Callable[[Tensor, Tensor], Tensor], space: Space, sigmas: Sequence[float]) -> None:
        super().__init__(_real(space))
        self.fn, self.sigmas = _called(fn), check_levels(sigmas)

    def at(self, encoding: Tensor, sigma: Tensor) -> Tensor:
        """(C,) energies, each state at its own level ``sigma`` (C,)."""
        return self.fn(encoding, sigma)

    def forward(self, encoding: Any) -> Tensor:
        return self.at(encoding, _level(self.sigmas[-1], encoding))

    def given(self, sigma: float) -> NoisyEnergy:
        """The energy at one level; its parameters are this one's."""
        return NoisyEnergy(self.fn, self.space, (sigma,))


class ScoreField(nn.Module):
    """∇ log p(x) as a field, without an energy: ``field(encoding) -> (C, *shape)``.

    The unadjusted kernels (`langevin`, `sgld`, `underdamped`) move along it; what weighs states by their energy (accept
    steps, likelihoods, annealed importance sampling) refuses it. A field of a network need not be the gradient of
    anything: no density belongs to it then.
    """

    space: Space

    def state_energy(self, x: Tensor) -> Tensor:
        """Refused.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError("`energy` must give an energy here; got a score alone. Sample it with 'langevin', 'sgld' "
                              "or 'underdamped', or train an energy with the same objective.")


class ScoreNetwork(ScoreField):
    """s(x), or s(x | σ) at several noise levels, by a network. As a field it is that of the least noisy level.

    Args:
        fn: ``fn(encoding) -> (C, *shape)``, or with ``sigmas`` ``fn(encoding, sigma) -> (C, *shape)``.
        space: of x, :class:`Real`. sigmas: the levels; None for data as they are.
    Source: Song & Ermon 2019, arXiv:1907.05600.
    """

    def __init__(self, fn: Callable[..., Tensor], space: Space, sigmas: Sequence[float] | None = None) -> None:
        super().__init__()
        self.space, self.fn = _real(space), _called(fn)
        self.sigmas = None if sigmas is None else check_levels(sigmas)

    def at(self, encoding: Tensor, sigma: Tensor) -> Tensor:
        """(C, *shape) scores, each state at its own level ``sigma`` (C,)."""
        return self.fn(encoding, sigma)

    def forward(self, encoding: Tensor) -> Tensor:
        if self.sigmas is None:
            return self.fn(encoding)
        return self.at(encoding, _level(self.sigmas[-1], encoding))

    def given(self, sigma: float) -> ScoreNetwork:
        """The field at one level; its parameters are this one's.

        Raises:
            CapabilityError: it was built without levels.
        """
        if self.sigmas is None:
            raise CapabilityError("`model` must have noise levels for given(sigma); got one without. "
                                  "Build it with sigmas=noise_levels(1.0, 0.05, 10).")
        return ScoreNetwork(self.fn, self.space, (sigma,))


class _LevelMLP(nn.Module):
    """x and log σ in, one number (an energy) or a vector over σ (a score) out."""

    def __init__(self, space: Space, hidden: Sequence[int], outputs: int, conditional: bool, seed: int) -> None:
        super().__init__()
        self.shape, self.outputs, self.conditional = space.shape, outputs, conditional
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([space.n_sites + conditional, *hidden, outputs]):
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
            with torch.no_grad():
                for part in (layer.weight, layer.bias):
                    part.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layers += [layer, nn.SiLU()]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, encoding: Tensor, sigma: Tensor | None = None) -> Tensor:
        flat = encoding.flatten(1)
        if sigma is None or not self.conditional:
            out = self.network(flat)
            return out[:, 0] if self.outputs == 1 else out.reshape(encoding.shape)
        out = self.network(torch.cat([flat, sigma.log()[:, None]], dim=1))
        return out[:, 0] if self.outputs == 1 else (out / sigma[:, None]).reshape(encoding.shape)


def noise_conditional_mlp(space: Space, sigmas: Sequence[float] | None, hidden: Sequence[int] = (128, 128), *,
                          energy: bool = True, seed: int = 0) -> NoisyEnergy | ScoreNetwork:
    """A perceptron of x and log σ: an energy E(x | σ), or with ``energy=False`` a score s(x | σ) = net(x, log σ)/σ.

    Args:
        space: :class:`Real`; give an energy bounds, or it may have no normalising constant. sigmas: the levels, None
            (scores only) for data as they are. hidden: widths. seed: of the initial weights.
    Source: the division by σ: Song & Ermon 2020, arXiv:2006.09011, technique 3.
    """
    _real(space)
    if energy and sigmas is None:
        raise SettingError("`sigmas` must be given for an energy of several levels; got None. "
                           "Without levels use de.energies.MLPEnergy.")
    outputs = 1 if energy else space.n_sites
    if not energy and outputs == 1:
        raise SpaceError(f"`space` must have at least two sites for a score by this perceptron; got {space!r}. "
                         "Pass your own network to ScoreNetwork.")
    network = _LevelMLP(space, hidden, outputs, sigmas is not None, seed)
    if energy:
        return NoisyEnergy(network, space, cast(Sequence[float], sigmas))
    return ScoreNetwork(network, space, sigmas)


def _level(sigma: float, encoding: Tensor) -> Tensor:
    return torch.full(encoding.shape[:1], sigma, dtype=encoding.dtype, device=encoding.device)


def _real(space: Any) -> Space:
    if not isinstance(space, Space) or space.name != "Real":
        raise SpaceError(f"`space` must be Real, noise is added to x; got {space!r}. Try de.Real(2, low=-4, high=4).")
    return space


def _called(fn: Any) -> Any:
    if not callable(fn):
        raise CapabilityError(f"`fn` must be callable; got {type(fn).__name__}. Pass a function or a torch module.")
    return fn
