"""What a training says while it runs: log.csv, TensorBoard, and pictures of its chains."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discrete_ebm import checkpoint, pictures
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import CapabilityError

__all__ = ["RunLog"]

_ROWS = 500  # of training and validation data whose energies are compared


class RunLog:
    """A callback for ``de.fit``: every ``every`` updates a line of means since the last one.

    Files, in ``folder``: ``log.csv`` (a line is written at once, so ``tail -f`` follows it), ``tensorboard/`` and
    ``pictures/update-*.png``. Besides what the trainer logs there is ``validation_gap``: mean energy of validation rows
    less that of training rows, nats. It is near 0 while the model generalises and grows as it overfits (Hinton 2012,
    "A practical guide to training RBMs", section 6.1).

    Args:
        folder: of the run. every: updates between lines. train, valid: states, or None.
        n_pictures: updates between pictures; 0 = none. tensorboard: write TensorBoard's files too.
        at_start: called once, before the first line: the folder is there then.
    Raises:
        CapabilityError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, every: int, *, train: Tensor | None = None, valid: Tensor | None = None,
                 n_pictures: int = 0, tensorboard: bool = False,
                 at_start: Callable[[], None] | None = None) -> None:  # fmt: skip
        self.folder, self.every, self.n_pictures = folder, every, n_pictures
        self.train, self.valid = (None if part is None else part[:_ROWS] for part in (train, valid))
        self.sums: dict[str, float] = {}
        self.count = 0
        self.columns: list[str] = []
        self.at_start = at_start
        self.board = _writer(folder / "tensorboard") if tensorboard else None

    def __call__(self, trainer: Any, terms: dict[str, float]) -> None:
        """Add an update; write what is due."""
        if getattr(getattr(trainer, "processes", None), "rank", 0):
            return
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.at_start is not None:
            self.at_start()
            self.at_start = None
        last = trainer.iteration >= trainer.n_iterations
        if trainer.iteration % self.every == 0 or last:
            self._write(trainer)
        if self.n_pictures and (trainer.iteration % self.n_pictures == 0 or last):
            self._draw(trainer)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self.board is not None:
            self.board.close()

    def _write(self, trainer: Any) -> None:
        row = {"iteration": trainer.iteration, **{name: total / self.count for name, total in self.sums.items()},
               "lr": trainer.optimizer.param_groups[0]["lr"], "seconds": trainer.seconds}  # fmt: skip
        if self.train is not None and self.valid is not None and len(self.valid):
            row["validation_gap"] = _mean(trainer.energy, self.valid) - _mean(trainer.energy, self.train)
        self.sums, self.count = {}, 0
        if self.board is not None:
            for name, value in row.items():
                if name != "iteration" and math.isfinite(value):
                    self.board.add_scalar(name, value, trainer.iteration)
        path = self.folder / "log.csv"
        if not self.columns:
            self._begin(path, list(row), trainer.iteration)
        with path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow([_short(row.get(name, math.nan)) for name in self.columns])

    def _begin(self, path: Path, columns: list[str], iteration: int) -> None:
        """The header; lines of an earlier session up to here stay, later ones (it went on without us) go."""
        kept: list[list[str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                old = list(csv.reader(stream))
            if old and old[0][:1] == ["iteration"]:
                columns = old[0] + [name for name in columns if name not in old[0]]
                known = [line for line in old[1:] if line and line[0].isdigit() and int(line[0]) < iteration]
                kept = [line + ["nan"] * (len(columns) - len(line)) for line in known]
        self.columns = columns
        checkpoint.make_folder(self.folder)
        with checkpoint.atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([columns, *kept])

    def _draw(self, trainer: Any) -> None:
        x = trainer.state.chains if trainer.state.chains is not None else trainer.negatives
        if x is None:
            return
        image = pictures.grid_of(trainer.energy.space, x)
        folder = checkpoint.make_folder(self.folder / "pictures")
        path = folder / f"update-{trainer.iteration:07d}.png"
        path.write_bytes(pictures.png(image, max(1, 800 // max(image.shape[:2]))))
        if self.board is not None:
            self.board.add_image("chains", image, trainer.iteration, dataformats="HW" if image.ndim == 2 else "HWC")


@torch.no_grad()
def _mean(energy: Any, x: Tensor) -> float:
    device = next((t.device for t in [*energy.parameters(), *energy.buffers()]), torch.device("cpu"))
    return float(evaluate_energy(energy, x.to(device)).double().mean())


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.8g}"


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as cause:
        raise CapabilityError("`tensorboard` must be installed for its logs; it is not. Run pip install tensorboard, "
                              "or leave --tensorboard out: log.csv is always written.") from cause  # fmt: skip
    return SummaryWriter(str(folder))
