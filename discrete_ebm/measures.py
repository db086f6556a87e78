"""Samples of a model beside data: every figure of ``discrete_ebm.evaluate`` that fits, each with its error bar.

A figure that does not fit a model, or would take too long, is left out with the reason in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import HasConditionals, HasFlipDeltas
from discrete_ebm.errors import EBMError
from discrete_ebm.evaluate.imputation import Imputation, imputation_accuracy
from discrete_ebm.evaluate.mmd import squared_mmd
from discrete_ebm.evaluate.pseudo import pseudo_log_likelihood
from discrete_ebm.evaluate.stein import kernel_stein_discrepancy
from discrete_ebm.evaluate.two_sample import (
    Neighbours,
    classifier_two_sample_test,
    compare_moments,
    features,
    nearest_neighbours,
)
from discrete_ebm.spaces import Product

__all__ = ["Measured", "measure"]

_EVALUATIONS = 400_000  # energies that a figure without closed forms may take
_ROWS = 1000  # of data in figures that look at pairs of rows
_IMPUTED, _STEPS = 32, 60


class Measured:
    """``record``: name -> figures, or {"why_not": reason}; and what pictures are made of, None where left out.

    ``neighbours`` of the samples among training rows; ``imputation`` of ``imputed`` rows; ``moments``: features' means
    and covariances of data and samples, each (F,) or (F, F).
    """

    def __init__(self) -> None:
        self.record: dict[str, dict[str, Any]] = {}
        self.neighbours: Neighbours | None = None
        self.imputation: Imputation | None = None
        self.imputed: Tensor | None = None
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, figures: Callable[[], dict[str, Any]]) -> None:
        """Run one figure; a refusal of the library is kept as its reason."""
        try:
            self.record[name] = figures()
        except EBMError as cause:
            self.record[name] = {"why_not": str(cause)}


def measure(energy: Any, space: Any, samples: Tensor, rows: Tensor, train: Tensor | None, *, seed: int = 0,
            held_out: bool = True) -> Measured:  # fmt: skip
    """Every figure for samples (A, *shape) and data rows (B, *shape), both on ``space``.

    Args:
        energy: the model; where its space is another one than ``space`` (hidden units), figures that need its values
            at data rows are left out.
        train: training rows, for neighbours and for the yardstick of two sets of data. held_out: ``rows`` are others.
    """
    found = Measured()
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator)[:_ROWS]]
    own = energy.space == space
    if own:
        found.add("pseudo_log_likelihood", lambda: _pseudo(energy, rows))
        found.add("ksd", lambda: _stein(energy, rows, seed))
    found.add("mmd", lambda: _mmd(samples, rows, train if held_out else None, generator))
    found.add("classifier", lambda: _classifier(space, samples, rows, seed))
    found.add("moments", lambda: _moments(found, space, samples, rows))
    if own:
        found.add("imputation", lambda: _imputation(found, energy, rows, train, seed))
    if train is not None:
        found.add("neighbours", lambda: _neighbours(found, space, samples, train, rows if held_out else None))
    return found


def _cost(energy: Any) -> int:
    """Energies that all single-site changes of one row take: one pass with a closed form."""
    space = energy.space
    closed = isinstance(energy, (HasFlipDeltas, HasConditionals))
    return 1 if closed else int((space.n_values - 1).sum())


def _pseudo(energy: Any, rows: Tensor) -> dict[str, Any]:
    some = rows[: max(10, _EVALUATIONS // (4 * _cost(energy)))]
    value = pseudo_log_likelihood(energy, some)
    return {"nats": value.nats, "bits_per_dim": value.bits_per_dim, "error": value.std_error, "rows": len(some)}


def _stein(energy: Any, rows: Tensor, seed: int) -> dict[str, Any]:
    sites = max(1, energy.space.n_sites)
    some = rows[: max(10, min(300, int((_EVALUATIONS * 500 / sites) ** 0.5), _EVALUATIONS // (4 * _cost(energy))))]
    value = kernel_stein_discrepancy(energy, some, seed=seed)
    return {"value": value.value, "error": value.error, "p_value": value.p_value, "rows": value.n}


def _mmd(samples: Tensor, rows: Tensor, train: Tensor | None, generator: torch.Generator) -> dict[str, Any]:
    value, error = squared_mmd(samples, rows)
    found = {"value": value, "error": error, "samples": len(samples), "rows": len(rows)}
    if train is not None and len(train) > 2:
        some = train[torch.randperm(len(train), generator=generator)[: len(samples)]]
        found["data_value"], found["data_error"] = squared_mmd(some, rows)
    return found


def _classifier(space: Any, samples: Tensor, rows: Tensor, seed: int) -> dict[str, Any]:
    value = classifier_two_sample_test(space, samples, rows, seed=seed)
    return {"accuracy": value.accuracy, "error": value.error, "p_value": value.p_value, "auroc": value.auroc,
            "rows": value.n_test}  # fmt: skip


def _moments(found: Measured, space: Any, samples: Tensor, rows: Tensor) -> dict[str, Any]:
    gaps = compare_moments(space, samples, rows)
    a, b = features(space, rows).cpu(), features(space, samples).cpu()
    found.moments = {"marginals": (a.mean(0), b.mean(0)), "covariances": (a.T.cov(), b.T.cov())}
    return {f"{name}_{what}": getattr(gap, what) for name, gap in gaps.items()
            for what in ("rms", "rms_by_chance", "largest_z")}  # fmt: skip


def _imputation(found: Measured, energy: Any, rows: Tensor, train: Tensor | None, seed: int) -> dict[str, Any]:
    some = rows[:_IMPUTED]
    value = imputation_accuracy(energy, some, 0.5, n_steps=_STEPS, seed=seed)
    found.imputation, found.imputed = value, some
    figures = {"accuracy": value.accuracy, "error": value.error, "draw_accuracy": value.draw_accuracy,
               "log_loss": value.log_loss, "rows": len(some), "hidden_sites": value.n_hidden}  # fmt: skip
    if train is not None:  # what the commonest value of each site would score, without looking at the others
        commonest = energy.space.to_index(train).mode(0).values
        right = energy.space.to_index(some) == commonest
        figures["by_marginals"] = float(right[value.hidden.reshape(right.shape).cpu()].double().mean())
    return figures


def _neighbours(found: Measured, space: Any, samples: Tensor, train: Tensor, rows: Tensor | None) -> dict[str, Any]:
    value = nearest_neighbours(space, samples, train, rows)
    found.neighbours = value
    figures = {"median_distance": float(value.distance.median()), "copies": value.copies, "train_rows": len(train)}
    if rows is not None and not math.isnan(value.z):
        held = nearest_neighbours(space, rows, train)
        figures |= {"copies_held_out": value.copies_held_out, "z": value.z,
                    "median_distance_held_out": float(held.distance.median())}  # fmt: skip
    return figures


def visible_part(energy: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """(space of the data, states of the model -> states of the data): hidden units that are sites are cut off."""
    shape = getattr(energy, "visible_shape", None)
    space = energy.space
    if shape is None or isinstance(space, Product) or space.n_sites == math.prod(shape):
        return space, lambda x: x
    n = math.prod(shape)
    return type(space)(shape), lambda x: x.reshape(len(x), -1)[:, :n].reshape(len(x), *shape)
