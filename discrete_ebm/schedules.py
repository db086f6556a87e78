"""How the step size falls while a training goes on: a share of ``lr`` for each share of the way.

A function of progress alone, by updates or by the clock, so that a resumed training, or one that went back to an
earlier state, is where it would have been. The shapes are torch's own schedulers' (a test compares them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from discrete_ebm.errors import SettingError

__all__ = ["SHAPES", "Schedule", "as_schedule"]

SHAPES = ("constant", "linear", "cosine", "step")


@dataclass(frozen=True)
class Schedule:
    """The factor on the step size.

    Args:
        shape: "constant"; "linear" (torch's LinearLR) or "cosine" (CosineAnnealingLR) from 1 to ``end``; or "step"
            (MultiStepLR), times ``factor`` at each share of the way in ``at``.
        end: where "linear" and "cosine" end, 0 to 1. at, factor: of "step".
    """

    shape: str = "constant"
    end: float = 0.0
    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise SettingError(f"`decay` must be one of {', '.join(SHAPES)}; got {self.shape!r}.")
        if not 0 <= self.end <= 1:
            raise SettingError(f"`decay_end` must be a share from 0 to 1; got {self.end!r}. 0 is usual.")
        if not all(0 < share < 1 for share in self.at):
            raise SettingError(f"`decay_at` must be shares between 0 and 1; got {self.at!r}. Try [0.5, 0.75].")
        if not 0 < self.factor <= 1:
            raise SettingError(f"`decay_factor` must be above 0 and at most 1; got {self.factor!r}. Try 0.1.")

    def __call__(self, progress: float) -> float:
        """The factor at ``progress``, 0 to 1 of the way."""
        if self.shape == "linear":
            return 1 - (1 - self.end) * progress
        if self.shape == "cosine":
            return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2
        if self.shape == "step":
            return self.factor ** sum(progress >= share for share in self.at)
        return 1.0


def as_schedule(decay: Schedule | str) -> Schedule:
    """A schedule by its shape's name, or the one given; :class:`SettingError` for anything else."""
    return decay if isinstance(decay, Schedule) else Schedule(str(decay))
