"""Endless mini-batches of a data set, shared out among the processes of a training."""

from __future__ import annotations

from typing import Any

import torch

from discrete_ebm.errors import CheckpointError, DataError, SettingError
from discrete_ebm.packing import generator_state, set_generator

__all__ = ["Batches"]


class Batches:
    """Endless mini-batches: every row once per epoch, in a new order each time; whole data when it is smaller.

    With several processes, each takes its share of one common order: together they see what one process with batches of
    ``n_ranks * batch_size`` rows would see, and ``generator`` must be in the same state in all of them.
    """

    def __init__(
        self, data: Any, batch_size: int, generator: torch.Generator, *, rank: int = 0, n_ranks: int = 1
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise SettingError(f"`batch_size` must be a whole number of at least 1; got {batch_size!r}.")
        if len(data) == 0:
            raise DataError("`data` must hold at least one row; got none. Look at the filters before this.")
        if len(data) < n_ranks:
            raise DataError(f"`data` must hold a row for each of {n_ranks} processes; got {len(data)}. Start fewer.")
        self.data, self.rank, self.n_ranks = data, rank, n_ranks
        self.batch_size = min(batch_size, len(data) // n_ranks)
        self.generator = generator
        self.order = torch.empty(0, dtype=torch.int64, device=generator.device)
        self.position = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        together = self.batch_size * self.n_ranks
        if self.position + together > len(self.order):  # the rest of an epoch opens the next one
            rest = self.order[self.position :]
            fresh = torch.randperm(len(self.data), generator=self.generator, device=self.generator.device)
            self.order, self.position = torch.cat([rest, fresh]), 0
        rows = self.order[self.position : self.position + together]
        self.position += together
        return self.data[rows[self.rank :: self.n_ranks]]

    def state_dict(self) -> dict[str, Any]:
        """The rows that are left of this epoch, in their order; what follows is the generator's."""
        found = {"left": self.order[self.position :], "rows": len(self.data)}
        return found if self.n_ranks == 1 else {**found, "generator": generator_state(self.generator)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        if state["rows"] != len(self.data):
            raise CheckpointError(
                f"`data` must be what the run began with, {state['rows']} rows; got {len(self.data)}. Give the same."
            )
        self.order, self.position = state["left"].to(self.order), 0
        if self.n_ranks > 1:  # else it is the training's own, which is put back with it
            set_generator(self.generator, state["generator"])
