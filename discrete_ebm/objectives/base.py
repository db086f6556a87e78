"""What an objective is: data and an energy in, a scalar loss out.

Like a kernel, an objective is a frozen record of settings. Whatever outlives an update (a chain bank) is made by
``init`` and handed back to ``loss``, so that one objective serves several trainings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Objective", "ObjectiveOutput", "ObjectiveState"]


@dataclass
class ObjectiveOutput:
    """One evaluation of an objective.

    ``loss``: () with a graph to the energy's parameters. ``terms``: () tensors to log, detached; "gap" (mean energy of
    the negatives minus that of the data, nats) and "acceptance" are watched by the guard where present. ``negatives``:
    (C, *shape) states, if there are any.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    negatives: Tensor | None = None


class ObjectiveState:
    """What an objective keeps between updates; this one keeps nothing."""

    def average(self, values: Tensor) -> Tensor:
        """The mean of ``values``, of one shape, over the processes that train together; here there is one.

        A trainer with several puts theirs in its place. For what a loss needs of the whole batch beside the mean over
        rows, which the averaged gradient sees to; every process must call it as often.
        """
        return values

    @property
    def chains(self) -> Tensor | None:
        """Persistent states (n, *shape), or None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What to save: tensors, numbers and text, in dicts and lists."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""


class Objective(ABC):
    """A loss for energies. Subclasses are frozen dataclasses of settings and are final."""

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        """What to keep between updates, made once before training; checks the settings against the energy."""
        return ObjectiveState()

    @abstractmethod
    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        """The loss on one batch of data (B, *shape). May change ``state``; never touches a parameter's ``.grad``."""
