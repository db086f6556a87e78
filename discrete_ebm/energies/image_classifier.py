"""A small network for images: logits for :class:`ClassifierEnergy`, smooth and without normalisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from discrete_ebm.energies.arguments import seeded, whole
from discrete_ebm.energies.resnet import _Block as ResidualBlock
from discrete_ebm.errors import SettingError, ShapeError, SpaceError
from discrete_ebm.spaces import Binary, Ordinal, Real, Space, Spin

__all__ = ["ImageClassifier"]


class ImageClassifier(nn.Module):
    """3×3 convolutions that halve the sides, residual blocks, dense layers, SiLU between: smooth, no batch norm.

    Args:
        space: one pixel a site: (height, width), (colours, height, width), or without ``channels`` any shape.
        n_classes: Y.
        hidden: widths of the dense layers. channels: of the convolutions, () for none.
        blocks: residual blocks after the convolutions, those of :class:`ResNetEnergy`; the mean over positions follows.
        seed: of the initial weights, an int or a generator; the global random state is not touched.
    """

    def __init__(self, space: Space, n_classes: int, hidden: Sequence[int] = (256, 256), *,
                 channels: Sequence[int] = (), blocks: int = 0, seed: int | torch.Generator = 0) -> None:
        super().__init__()
        if not isinstance(space, (Real, Binary, Spin, Ordinal)):
            raise SpaceError(f"`space` must have one number a site; got {space!r}. Use a network of your own.")
        whole("n_classes", n_classes, 2)
        for width in (*hidden, *channels):
            whole("hidden and channels", width, 1, "Try (256, 256).")
        whole("blocks", blocks, 0, "Try 4.")
        if blocks and not channels:
            raise SettingError(f"`blocks` must be 0 without `channels`; got {blocks}. Give channels=(64,).")
        if channels and (len(space.shape) not in (2, 3) or min(space.shape[-2:]) < 2 ** len(channels)):
            raise ShapeError(f"`space` must have shape ([colours,] height, width) with sides of at least "
                             f"{2 ** len(channels)} for {len(channels)} convolutions; got {space.shape}.")
        self.settings = {"hidden": list(hidden), "channels": list(channels), "blocks": blocks}
        planes = space.shape[0] if len(space.shape) == 3 else 1
        self.image = (planes, *space.shape[-2:]) if channels else (space.n_sites,)

        def build() -> nn.Sequential:
            layers: list[nn.Module] = []
            size = list(space.shape[-2:])
            for before, after in itertools.pairwise((planes, *channels)):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
                size = [(side + 1) // 2 for side in size]
            width = channels[-1] * math.prod(size) if channels else space.n_sites
            if blocks:
                layers += [*(ResidualBlock(channels[-1], 1) for _ in range(blocks)), nn.AdaptiveAvgPool2d(1)]
                width = channels[-1]
            layers.append(nn.Flatten())
            for before, after in itertools.pairwise((width, *hidden, n_classes)):
                layers += [nn.Linear(before, after), nn.SiLU()]
            return nn.Sequential(*layers[:-1])

        self.layers = seeded(build, seed)

    def forward(self, encoding: Tensor) -> Tensor:
        """(C, Y) logits."""
        return self.layers(encoding.reshape(len(encoding), *self.image))
