"""A plain multilayer perceptron as an energy, on any space."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import SettingError
from discrete_ebm.spaces import Encoding, Product, Real, Space

__all__ = ["MLPEnergy", "flatten_encoding"]


def flatten_encoding(encoding: Encoding) -> Tensor:
    """(C, F): every tensor of an encoding flattened after the chain dimension and joined."""
    if isinstance(encoding, Tensor):
        return encoding.flatten(1) if encoding.dim() > 1 else encoding[:, None]
    parts = encoding.values() if isinstance(encoding, dict) else encoding
    return torch.cat([flatten_encoding(part) for part in parts], dim=1)


class MLPEnergy(Energy):
    """Fully connected network on the flattened encoding, one output; smooth activations give useful gradients.

    Args:
        space: any space; categories enter one-hot.
        hidden: widths of the hidden layers, of any depth; () is a linear energy.
        activation: a factory of activation modules.
        confine: adds ½·confine·|encoding|². None means 1 where the space has unbounded real sites (without it
            exp(−E) could not be normalised) and 0 elsewhere.
        seed: of the initial weights, an int or a generator; the global random state is not touched.
    """

    def __init__(self, space: Space, hidden: Sequence[int] = (64, 64), *,
                 activation: Callable[[], nn.Module] = nn.SiLU, confine: float | None = None,
                 seed: int | torch.Generator = 0) -> None:
        super().__init__(space)
        widths = list(hidden) if not isinstance(hidden, int) else [hidden]
        if any(not isinstance(width, int) or width < 1 for width in widths):
            raise SettingError(f"`hidden` must be positive layer widths; got {hidden!r}. Try (64, 64).")
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        probe = space.random(1, torch.Generator().manual_seed(0))
        sizes = [flatten_encoding(space.encode(probe)).shape[1], *widths, 1]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [_linear(fan_in, fan_out, generator), activation()]
        self.network = nn.Sequential(*layers[:-1])
        self.confine = float(_unbounded(space)) if confine is None else float(confine)

    def forward(self, encoding: Encoding) -> Tensor:
        flat = flatten_encoding(encoding)
        energy = self.network(flat).squeeze(-1)
        return energy + 0.5 * self.confine * flat.square().sum(-1) if self.confine else energy


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's default law of initial weights, drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, device=generator.device)
    bound = fan_in**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _unbounded(space: Space) -> bool:
    if isinstance(space, Product):
        return any(_unbounded(member) for member in space.spaces.values())
    return isinstance(space, Real) and (space.low is None or space.high is None)
