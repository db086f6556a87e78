"""Persistent chains: the replay buffer of PCD, in which every chain keeps its identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from discrete_ebm.errors import CheckpointError, SettingError, ShapeError

__all__ = ["ChainBank"]


class ChainBank:
    """``size`` chains that outlive an update: drawn without replacement, written back to the same rows.

    Attributes:
        x: (size, *shape) states, in the space's dtype.
        ages: (size,) int64, how often each chain was written since it was (re)started.
    """

    def __init__(
        self, space: Any, size: int, x0: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Start the chains.

        Args:
            space: where the chains live.
            size: number of chains.
            x0: (n, *shape) starting states, repeated in order where n < size; None = random, with ``generator``.
            generator: for random starts; the bank is on its device.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SettingError(f"`size` must be a whole number of at least 1; got {size!r}.")
        self.space = space
        if x0 is None:
            if generator is None:
                raise SettingError("`generator` must be given for random starts; got None. Pass it, or x0.")
            self.x = space.random(size, generator)
        else:
            x0 = space.validate(x0)
            if not 1 <= x0.shape[0] <= size:
                raise ShapeError(f"`x0` must hold 1 to {size} (= size) states; got {x0.shape[0]}. Pass x0[:{size}].")
            self.x = x0[torch.arange(size, device=x0.device) % x0.shape[0]].clone()
        self.ages = torch.zeros(size, dtype=torch.int64, device=self.x.device)

    def __len__(self) -> int:
        return self.x.shape[0]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``(rows (n,) int64, x (n, *shape))``: n different chains, uniformly; the states are copies."""
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(self):
            raise SettingError(f"`n` must be 1 to {len(self)}, the size of the bank; got {n!r}. Use a larger bank.")
        rows = torch.randperm(len(self), generator=generator, device=self.x.device)[:n]
        return rows, self.x[rows]

    def write(self, rows: Tensor, x: Tensor) -> None:
        """Put chains back where they came from and make them one write older. ``rows`` must differ from each other."""
        if x.shape != (len(rows), *self.x.shape[1:]):
            raise ShapeError(
                f"`x` must have shape ({len(rows)}, {', '.join(map(str, self.x.shape[1:]))}), one state per "
                f"row; got {tuple(x.shape)}. Write back what `draw` gave."
            )
        self.x[rows] = x.detach().to(self.x.dtype)
        self.ages[rows] += 1

    def restart(self, rows: Tensor, x: Tensor) -> None:
        """Replace chains by new starting states; their age becomes 0."""
        self.write(rows, x)
        self.ages[rows] = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of ``x`` and ``ages``."""
        return {"x": self.x.clone(), "ages": self.ages.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave; size, shape and dtype must agree."""
        for name, own in (("x", self.x), ("ages", self.ages)):
            if name not in state or state[name].shape != own.shape or state[name].dtype != own.dtype:
                got = "nothing" if name not in state else f"{tuple(state[name].shape)} {state[name].dtype}"
                raise CheckpointError(
                    f"`state[{name!r}]` must be {tuple(own.shape)} {own.dtype} to fit this bank; got {got}. "
                    "Make the bank with the saved size and space."
                )
        self.x.copy_(state["x"])
        self.ages.copy_(state["ages"])
