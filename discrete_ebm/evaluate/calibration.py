"""Whether a classifier's probabilities are frequencies: reliability, expected calibration error, temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.classifier import check_labels
from discrete_ebm.errors import NonFiniteEnergyError, SettingError, ShapeError

__all__ = ["Calibration", "calibration", "fit_temperature"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Of n predictions. ``accuracy``; ``confidence``: mean of max p; ``ece`` = Σ_b n_b/n · |accuracy_b − confidence_b|
    and ``largest``, the greatest of those gaps; ``brier`` = mean Σ_y (p_y − [y right])²; ``nll`` nats a row.

    By bin, for a reliability diagram: ``edges`` (n_bins + 1,), ``bin_counts``, ``bin_accuracy``, ``bin_confidence``
    (n_bins,), NaN where a bin is empty."""

    accuracy: float
    confidence: float
    ece: float
    largest: float
    brier: float
    nll: float
    edges: Tensor
    bin_counts: Tensor
    bin_accuracy: Tensor
    bin_confidence: Tensor

    def __str__(self) -> str:
        return (f"accuracy {self.accuracy:.4f}, confidence {self.confidence:.4f}, ECE {self.ece:.4f} "
                f"({int(self.bin_counts.sum())} rows, {len(self.bin_counts)} bins)")


def calibration(log_probabilities: Any, label: Any, n_bins: int = 15, *, equal_counts: bool = False) -> Calibration:
    """Compare the confidence max_y p(y | x) with how often it is right.

    Args:
        log_probabilities: (B, Y) log p(y | x), normalised. label: (B,).
        n_bins: of confidence, (k/n, (k + 1)/n] as in the source. The ECE of a perfectly calibrated classifier is above
            0 by the noise of its bins, about √(n_bins / B) · ½: compare at equal B and n_bins.
        equal_counts: bins of equally many rows instead of equal width ("adaptive" ECE); ties stay in order.
    Raises:
        ShapeError, NonFiniteEnergyError, SettingError: not log probabilities, or no labels of them.
    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, eqs. 2–5.
    """
    log_p, y = _checked(log_probabilities, label)
    if isinstance(n_bins, bool) or not isinstance(n_bins, int) or n_bins < 1:
        raise SettingError(f"`n_bins` must be a whole number of at least 1; got {n_bins!r}. Try 15.")
    p = log_p.exp()
    confidence, guess = p.max(1)
    right = (guess == y).double()
    n = len(y)
    if equal_counts:
        place = torch.empty(n, dtype=torch.int64)
        place[confidence.argsort(stable=True)] = torch.arange(n) * n_bins // n
        ordered = confidence.sort().values
        inner = ordered[(torch.arange(1, n_bins) * n // n_bins).clamp(max=n - 1)]
        edges = torch.cat([torch.zeros(1).double(), inner, torch.ones(1).double()])
    else:
        place = ((confidence * n_bins).ceil().long() - 1).clamp(0, n_bins - 1)
        edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    counts = torch.bincount(place, minlength=n_bins).double()
    accuracy_in = torch.zeros(n_bins).double().index_add_(0, place, right) / counts
    confidence_in = torch.zeros(n_bins).double().index_add_(0, place, confidence) / counts
    gaps = (accuracy_in - confidence_in).abs().nan_to_num(0.0)
    truth = torch.zeros_like(p).scatter_(1, y[:, None], 1.0)
    return Calibration(
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        ece=float((counts / n * gaps).sum()),
        largest=float(gaps.max()),
        brier=float((p - truth).square().sum(1).mean()),
        nll=float(-log_p.gather(1, y[:, None]).mean()),
        edges=edges,
        bin_counts=counts.long(),
        bin_accuracy=accuracy_in,
        bin_confidence=confidence_in,
    )


def fit_temperature(log_probabilities: Any, label: Any, *, low: float = 0.05, high: float = 20.0) -> float:
    """T of softmax(log p / T) that is likeliest on held-out rows; fit it on rows that are not the ones you judge.

    The likelihood is concave in 1/T, so a bisection of its slope finds the one optimum between ``low`` and ``high``.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    log_p, y = _checked(log_probabilities, label)
    if not 0 < low < high < math.inf:
        raise SettingError(f"`low` and `high` must be 0 < low < high; got {low!r}, {high!r}.")
    log_p = log_p.clamp(min=-1e4)  # a class of probability 0 has weight 0 at every T
    own = log_p.gather(1, y[:, None]).squeeze(1)

    def slope(b: float) -> float:  # of the mean log likelihood in b = 1/T
        law = (b * log_p).softmax(1)
        return float((own - (law * log_p).sum(1)).mean())

    least, most = 1 / high, 1 / low
    for _ in range(60):
        middle = math.sqrt(least * most)
        least, most = (middle, most) if slope(middle) > 0 else (least, middle)
    return 1 / math.sqrt(least * most)


def _checked(log_probabilities: Any, label: Any) -> tuple[Tensor, Tensor]:
    log_p = torch.as_tensor(log_probabilities).detach().to("cpu", torch.float64)
    if log_p.dim() != 2 or log_p.shape[1] < 2 or not len(log_p):
        raise ShapeError(f"`log_probabilities` must have shape (B, Y), B at least 1, Y at least 2; got "
                         f"{tuple(log_p.shape)}. Give a column for each class.")
    total = log_p.logsumexp(1)
    if bool(log_p.isnan().any()) or not bool((total.abs() < 1e-3).all()):
        raise NonFiniteEnergyError("`log_probabilities` must be normalised, Σ_y p(y | x) = 1; got rows that are not. "
                                   "Use logits.log_softmax(-1), or energy.label_log_probabilities(x).")
    y = check_labels("label", label, log_p.shape[1]).cpu()
    if len(y) != len(log_p):
        raise ShapeError(f"`label` must have one entry for each of {len(log_p)} rows; got {len(y)}.")
    return log_p, y
