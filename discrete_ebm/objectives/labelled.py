"""States with labels, some or all of them: what JEM trains on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.classifier import check_labels
from discrete_ebm.errors import DataError, ShapeError, SpaceError
from discrete_ebm.spaces import Real, Space

__all__ = ["LabelledStates", "as_reals"]


class LabelledStates:
    """States ``x`` (n, *shape) of a space and labels ``y`` (n,) from 0 to Y − 1, −1 where there is none.

    Args:
        space: of x. x: states. y: labels; None = none at all. n_classes: Y.
    Raises:
        ShapeError, SpaceError: images out of the space's range, of another shape or with the colours last.
        DataError: no rows. SettingError: a label that is no class.
    """

    def __init__(self, space: Space, x: Any, y: Any, n_classes: int) -> None:
        x = torch.as_tensor(x)
        _look(space, x)
        self.space, self.n_classes = space, n_classes
        self.x = space.validate(x)
        labels = torch.full((len(self.x),), -1) if y is None else y
        self.y = check_labels("y", labels, n_classes, self.x.device, missing=True)
        if len(self.x) == 0:
            raise DataError("`x` must hold at least one row; got none. Look at the filters before this.")
        if len(self.y) != len(self.x):
            raise ShapeError(f"`y` must have one label for each of {len(self.x)} rows; got {len(self.y)}. Use −1 for "
                             "rows without a label.")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> LabelledStates:
        """Some rows, not checked again."""
        part = object.__new__(LabelledStates)
        part.space, part.n_classes = self.space, self.n_classes
        part.x, part.y = self.x[rows], self.y[rows]
        return part

    def to(self, device: str | torch.device) -> LabelledStates:
        """The same on another device."""
        part = self[:]
        part.x, part.y = self.x.to(device), self.y.to(device)
        return part

    @property
    def labelled(self) -> LabelledStates:
        """The rows that have a label."""
        return self[self.y >= 0]

    def hide_labels(self, n_kept: int, seed: int = 0) -> LabelledStates:
        """The same rows with only ``n_kept`` labels, as equally many of each class as there are.

        Raises:
            DataError: fewer labelled rows than that.
        """
        generator = torch.Generator().manual_seed(seed)
        y = self.y.cpu()
        order = torch.randperm(len(y), generator=generator)
        order = order[y[order] >= 0]
        if not 0 <= n_kept <= len(order):
            raise DataError(f"`n_kept` must be 0 to {len(order)}, the labelled rows; got {n_kept!r}.")
        labels = y[order]
        nth = torch.zeros_like(labels)  # how many of its class came before a row
        for c in range(self.n_classes):
            own = labels == c
            nth[own] = torch.arange(int(own.sum()))
        kept = order[nth.argsort(stable=True)[:n_kept]]
        part = self[:]
        part.y = torch.full_like(self.y, -1)
        kept = kept.to(self.y.device)
        part.y[kept] = self.y[kept]
        return part


def as_reals(space: Space, x: Tensor) -> tuple[Real, Tensor]:
    """The same states on a Real: the values of a site, in their order, spread evenly from −1 to 1.

    Bits and levels of grey become numbers that a gradient can move; Real states stay as they are.

    Raises:
        SpaceError: not sites of one number of values each.
    """
    if isinstance(space, Real):
        return space, space.validate(x)
    if not space.is_discrete or len(set(space.n_values.tolist())) != 1:
        raise SpaceError(f"`space` must have one number of values for all sites; got {space!r}. Use states on a Real.")
    index = space.to_index(space.validate(x)).reshape(-1, *space.shape)
    return Real(space.shape, low=-1.0, high=1.0), index.to(torch.float32) / (space.k_max - 1) * 2 - 1


def _look(space: Space, x: Tensor) -> None:
    """Say what is likely wrong with images before the space says what it got."""
    shape = space.shape
    if len(shape) == 3 and x.dim() == 4 and tuple(x.shape[1:]) == (*shape[1:], shape[0]) != shape:
        raise ShapeError(f"`x` must have the colours first, shape (n, {', '.join(map(str, shape))}); got "
                         f"{tuple(x.shape)}, colours last. Use x.permute(0, 3, 1, 2).")
    if isinstance(space, Real) and space.low is not None and space.high is not None and x.numel() and (
        not x.is_complex() and float(x.max()) > 1.5 * float(space.high.max()) and float(x.min()) >= 0
        and float(x.max()) <= 255 and float(space.high.max()) <= 1
    ):
        raise SpaceError(f"`x` must be between {float(space.low.min()):g} and {float(space.high.max()):g}; got values "
                         f"from {float(x.min()):g} to {float(x.max()):g}, as of bytes. Use low + x / 255 * (high − "
                         "low).")
