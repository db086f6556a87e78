"""A classifier and density in one model, judged as both: accuracy, calibration, attacks, outsiders, uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.base import energy_and_gradient, energy_device, evaluate_energy
from discrete_ebm.energies.classifier import ClassEnergy, check_labels
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError
from discrete_ebm.evaluate.adversarial import robust_accuracy
from discrete_ebm.evaluate.calibration import Calibration, calibration
from discrete_ebm.evaluate.ranks import Auroc, auroc

__all__ = ["SCORES", "Hybrid", "class_log_densities", "judge_hybrid", "label_log_probabilities", "outsider_scores"]

SCORES = ("log p(x)", "max softmax", "entropy", "gradient norm")


@dataclass(frozen=True, eq=False)
class Hybrid:
    """``calibration`` with the accuracy; ``robust``: norm and epsilon -> accuracy under attack; ``outsiders``: set ->
    score -> :class:`Auroc` of telling it from the rows inside, 1 = always, ½ = by chance."""

    calibration: Calibration
    robust: Mapping[str, float] = field(default_factory=dict)
    outsiders: Mapping[str, Mapping[str, Auroc]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [str(self.calibration)]
        lines += [f"accuracy under attack, {name}: {value:.3f}" for name, value in self.robust.items()]
        for name, found in self.outsiders.items():
            scores = ", ".join(f"{score} {area.value:.3f}" for score, area in found.items())
            lines.append(f"AUROC against {name}: {scores}")
        return "\n".join(lines)


def judge_hybrid(energy: ClassEnergy, x: Any, label: Any, outsiders: Mapping[str, Any] | None = None, *,
                 attacks: Mapping[str, float] | None = None, n_attacked: int = 1000, n_steps: int = 20,
                 n_bins: int = 15, seed: int = 0) -> Hybrid:
    """Accuracy and calibration on rows, accuracy under attack on the first of them, and outsiders told by each score.

    Args:
        x: states (B, *shape) that were not trained on. label: (B,).
        outsiders: name -> states of something else.
        attacks: norm -> epsilon in units of x, e.g. ``{"linf": 0.2, "l2": 1.0}``; by :func:`pgd` with ``n_steps``.
    """
    log_p = label_log_probabilities(energy, x)
    rows = energy.space.validate(x)
    y = check_labels("label", label, energy.n_classes)
    robust = {f"{norm} {epsilon:g}": robust_accuracy(energy, rows[:n_attacked], y[:n_attacked], epsilon, norm=norm,
                                                     n_steps=n_steps, seed=seed).accuracy
              for norm, epsilon in (attacks or {}).items()}
    found: dict[str, dict[str, Auroc]] = {}
    inside = outsider_scores(energy, rows) if outsiders else {}
    for name, other in (outsiders or {}).items():
        scores = outsider_scores(energy, other)
        found[name] = {score: auroc(scores[score], inside[score]) for score in scores}
    return Hybrid(calibration(log_p, y, n_bins), robust, found)


@torch.no_grad()
def label_log_probabilities(energy: Any, x: Any, *, chunk_size: int = 2000) -> Tensor:
    """(B, Y) float64 log p(y | x) on the CPU, of a classifier's energy or a labelled RBM, in pieces."""
    ask = getattr(energy, "label_log_probabilities", None)
    if ask is None:
        raise CapabilityError(f"`energy` must say log p(y | x); got {type(energy).__name__}. Use a ClassifierEnergy.")
    space = energy.space if isinstance(energy, ClassEnergy) else energy.space.spaces["visible"]
    rows = space.validate(x)
    if not len(rows):
        raise ShapeError("`x` must have at least one row; got none.")
    device = energy_device(energy) or rows.device
    return torch.cat([ask(part.to(device)).to("cpu", torch.float64) for part in rows.split(chunk_size)])


def outsider_scores(energy: ClassEnergy, x: Any, *, chunk_size: int = 2000) -> dict[str, Tensor]:
    r"""Scores (B,) that are high for what the model does not know.

    "log p(x)": E(x), the density up to a constant. "max softmax": 1 − max_y p(y | x). "entropy": of p(y | x), nats.
    "gradient norm": ‖∇E(x)‖, large where density changes fast: a point of high density without mass around it is
    atypical (the "approximate mass" of the source is minus it).

    Source: Hendrycks & Gimpel 2017, arXiv:1610.02136; Grathwohl et al. 2020, arXiv:1912.03263, section 5.3 and eq. 8.
    """
    if not isinstance(energy, ClassEnergy):
        raise CapabilityError(f"`energy` must be a classifier's; got {type(energy).__name__}. For an energy of x alone "
                              "use out_of_distribution.")
    rows = energy.space.validate(x)
    if not len(rows):
        raise ShapeError("`x` must have at least one row; got none.")
    device = energy_device(energy) or rows.device
    found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    for part in rows.to(device).split(chunk_size):
        value, slope = energy_and_gradient(energy, part)
        with torch.no_grad():
            log_p = energy.label_log_probabilities(part).double()
        found["log p(x)"].append(value.double())
        found["max softmax"].append(1 - log_p.max(1).values.exp())
        found["entropy"].append(-(log_p.exp() * log_p).sum(1))
        found["gradient norm"].append(torch.linalg.vector_norm(slope.flatten(1).double(), dim=1))
    return {name: torch.cat(parts).cpu() for name, parts in found.items()}


@torch.no_grad()
def class_log_densities(energy: ClassEnergy, x: Any, label: Any, *, chunk_size: int = 2000) -> list[Tensor]:
    """For each class, −E(x) of its rows (n_y,): log p(x) up to one constant, for histograms by class."""
    rows = energy.space.validate(x)
    y = check_labels("label", label, energy.n_classes)
    if len(y) != len(rows):
        raise SettingError(f"`label` must have one entry for each of {len(rows)} rows; got {len(y)}.")
    device = energy_device(energy) or rows.device
    parts = [evaluate_energy(energy, part.to(device)).to("cpu", torch.float64) for part in rows.split(chunk_size)]
    values = -torch.cat(parts)
    return [values[y == c] for c in range(energy.n_classes)]
