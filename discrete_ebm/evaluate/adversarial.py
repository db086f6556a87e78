"""How a classifier stands up to small, chosen changes of its input: projected gradient descent in L∞ and L2 balls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chain_inputs import make_generator, resolve_sampler
from discrete_ebm.chains import advance
from discrete_ebm.energies.base import energy_device
from discrete_ebm.energies.classifier import ClassEnergy, check_labels
from discrete_ebm.errors import CapabilityError, NonFiniteEnergyError, SettingError, SpaceError
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.spaces import Real

__all__ = ["Refinement", "Robustness", "pgd", "robust_accuracy"]


@dataclass(frozen=True)
class Refinement:
    """Before it classifies, the model moves an input by ``n_steps`` of ``sampler`` on E(x), ``n_draws`` times, and
    averages p(y | x) over the ends: a step back towards where the data are.

    Source: Grathwohl et al. 2020, arXiv:1912.03263, section 5.4.
    """

    sampler: str | Kernel
    n_steps: int
    n_draws: int = 1

    def __post_init__(self) -> None:
        for name in ("n_steps", "n_draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")


@dataclass(frozen=True, eq=False)
class Robustness:
    """``accuracy`` under attack, ``error`` its binomial standard error, ``clean`` accuracy of the same rows; ``norm``,
    ``epsilon``; ``x`` (B, *shape) the attacked rows, ``broken`` (B,) bool which of the right ones became wrong."""

    accuracy: float
    error: float
    clean: float
    norm: str
    epsilon: float
    x: Tensor
    broken: Tensor

    def __str__(self) -> str:
        return (f"accuracy {self.accuracy:.3f} ± {self.error:.3f} at {self.norm} {self.epsilon:g} "
                f"(clean {self.clean:.3f})")


def pgd(energy: ClassEnergy, x: Any, label: Any, epsilon: float, *, norm: str = "linf", n_steps: int = 20,
        step_size: float | None = None, restarts: int = 1, refine: Refinement | None = None,
        seed: int | torch.Generator = 0) -> Tensor:
    r"""Rows within ``epsilon`` of x, and of the space's bounds, at which −log p(label | x) is large.

    Each step moves along the sign of the gradient (L∞) or along it (L2) and is brought back into ball and bounds; the
    start is uniform in the ball. Of all restarts, a row keeps the point where it is wrong, or else its largest loss.

    Args:
        x: states (B, *shape) of a Real; label: (B,). epsilon: radius, in units of x; 0 gives x back.
        norm: "linf" or "l2" (over all sites). step_size: 2.5 · epsilon / n_steps where None.
        restarts: starts a row, at least 1.
        refine: a defence that the attacker knows. Its gradient goes through ``n_draws`` ends of the chains, with the
            chain's own slope taken as 1 (back-propagating through all steps as identity): an attack that knows a way
            round that may be stronger.
    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", arXiv:1706.06083, eq. 2;
        Athalye, Carlini & Wagner 2018, arXiv:1802.00420, sections 4.1–4.2, for draws averaged and slopes replaced.
    """
    x, y, generator = _prepared(energy, x, label, seed)
    _radius(epsilon)
    if norm not in ("linf", "l2"):
        raise SettingError(f"`norm` must be 'linf' or 'l2'; got {norm!r}. Use 'linf'.")
    for name, value in (("n_steps", n_steps), ("restarts", restarts)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
    step = 2.5 * epsilon / n_steps if step_size is None else step_size
    if epsilon == 0:
        return x.clone()
    best, worst = x.clone(), torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for _ in range(restarts):
        at = _inside(energy, x, x + _start(x, epsilon, norm, generator), epsilon, norm)
        for _ in range(n_steps):
            _, slope = _loss(energy, at, y, refine, generator)
            at = _inside(energy, x, at + step * _direction(slope, norm), epsilon, norm)
        odds, _ = _loss(energy, at, y, refine, generator)
        score = odds.double() + 1e6 * (_log_p(energy, at, refine, generator).argmax(1) != y)
        better = score > worst
        best[better], worst[better] = at[better], score[better]
    return best


def robust_accuracy(energy: ClassEnergy, x: Any, label: Any, epsilon: float | Sequence[float] = 0.2, *,
                    norm: str = "linf", n_steps: int = 20, step_size: float | None = None, restarts: int = 1,
                    refine: Refinement | None = None, seed: int | torch.Generator = 0,
                    chunk_size: int = 2000) -> Any:
    """Accuracy on rows that :func:`pgd` has moved by at most ``epsilon``: a :class:`Robustness`, or a list of them.

    An accuracy under attack is an upper bound: a better attack may find more. A row counts as right only if it was
    right before the attack too. Other arguments as in :func:`pgd`.
    """
    if isinstance(epsilon, Sequence):
        return [robust_accuracy(energy, x, label, one, norm=norm, n_steps=n_steps, step_size=step_size,
                                restarts=restarts, refine=refine, seed=seed, chunk_size=chunk_size) for one in epsilon]
    x, y, generator = _prepared(energy, x, label, seed)
    parts, clean, right = [], [], []
    for rows, labels in zip(x.split(chunk_size), y.split(chunk_size), strict=True):
        before = _log_p(energy, rows, refine, generator).argmax(1) == labels
        moved = pgd(energy, rows, labels, epsilon, norm=norm, n_steps=n_steps, step_size=step_size, restarts=restarts,
                    refine=refine, seed=generator)
        parts.append(moved)
        clean.append(before)
        right.append(before & (_log_p(energy, moved, refine, generator).argmax(1) == labels))
    fine, stood = torch.cat(clean), torch.cat(right)
    share = float(stood.double().mean())
    return Robustness(share, math.sqrt(share * (1 - share) / len(stood)), float(fine.double().mean()), norm,
                      float(epsilon), torch.cat(parts), fine & ~stood)


# -- parts ------------------------------------------------------------------------------------------------------------


def _prepared(energy: Any, x: Any, label: Any, seed: Any) -> tuple[Tensor, Tensor, torch.Generator]:
    if not isinstance(energy, ClassEnergy):
        raise CapabilityError(f"`energy` must be a classifier's; got {type(energy).__name__}. Wrap the network: "
                              "de.energies.ClassifierEnergy(network, space).")
    if not isinstance(energy.space, Real):
        raise SpaceError(f"`energy.space` must be Real for attacks by gradients; got {energy.space!r}.")
    rows = energy.space.validate(x)
    device = energy_device(energy) or rows.device
    y = check_labels("label", label, energy.n_classes, device)
    if len(y) != len(rows) or not len(rows):
        raise SettingError(f"`label` must have one entry for each of {len(rows)} rows, at least 1; got {len(y)}.")
    return rows.to(device), y, make_generator(seed, device)


def _radius(epsilon: Any) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise SettingError(f"`epsilon` must be a finite number of at least 0, in units of x; got {epsilon!r}.")


def _refined(energy: ClassEnergy, x: Tensor, refine: Refinement | None, generator: torch.Generator) -> Tensor:
    """(n_draws · B, *shape) where the defence takes x to."""
    if refine is None:
        return x
    kernel = resolve_sampler(refine.sampler, energy.space)
    start = x.repeat(refine.n_draws, *[1] * (x.dim() - 1))
    with torch.no_grad():
        state = kernel.init(energy, start, generator=generator)
        return advance(kernel, energy, state, refine.n_steps, generator=generator)[0].x


def _log_p(energy: ClassEnergy, x: Tensor, refine: Refinement | None, generator: torch.Generator) -> Tensor:
    """(B, Y) log p(y | x), averaged over the draws of the defence."""
    with torch.no_grad():
        found = energy.label_log_probabilities(_refined(energy, x, refine, generator))
    n = 1 if refine is None else refine.n_draws
    return found.reshape(n, len(x), -1).logsumexp(0) - math.log(n)


def _loss(energy: ClassEnergy, x: Tensor, y: Tensor, refine: Refinement | None,
          generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B,) log odds against the label and their gradient (B, *shape).

    −log p(y | x) = log(1 + exp(odds)) has the same direction; of a confident classifier its own gradient is lost in
    rounding (1 − p is 0), which would look like robustness.
    """
    at = _refined(energy, x, refine, generator).detach().requires_grad_()
    n = 1 if refine is None else refine.n_draws
    with torch.enable_grad():
        log_p = energy.label_log_probabilities(at).reshape(n, len(x), -1).logsumexp(0) - math.log(n)
        own = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, y[:, None], True)
        odds = log_p.masked_fill(own, -math.inf).logsumexp(1) - log_p.gather(1, y[:, None]).squeeze(1)
        (slope,) = torch.autograd.grad(odds.sum(), at)
    slope = slope.reshape(n, *x.shape).sum(0)
    if not bool(slope.isfinite().all()):
        raise NonFiniteEnergyError("`energy` must have finite gradients under attack; got some that are not. "
                                   "Look at the logits of those rows.")
    return odds.detach(), slope.to(x.dtype)


def _start(x: Tensor, epsilon: float, norm: str, generator: torch.Generator) -> Tensor:
    """Uniform in the ball, (B, *shape)."""
    if norm == "linf":
        return epsilon * (2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1)
    direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    n = math.prod(x.shape[1:])
    radius = epsilon * torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype) ** (1 / n)
    return direction * (radius / _length(direction)).reshape(-1, *[1] * (x.dim() - 1))


def _direction(slope: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return slope.sign()
    return slope / _length(slope).clamp(min=1e-30).reshape(-1, *[1] * (slope.dim() - 1))


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _inside(energy: ClassEnergy, x: Tensor, at: Tensor, epsilon: float, norm: str) -> Tensor:
    """The nearest point of the ball around x, then of the bounds (which keeps it in the ball: x is within them)."""
    away = at - x
    if norm == "linf":
        away = away.clamp(-epsilon, epsilon)
    else:
        factor = (epsilon / _length(away).clamp(min=1e-30)).clamp(max=1.0)
        away = away * factor.reshape(-1, *[1] * (away.dim() - 1))
    at, low, high = x + away, energy.space.low, energy.space.high  # type: ignore[attr-defined]
    at = at if low is None else torch.maximum(at, low.to(at))
    return at if high is None else torch.minimum(at, high.to(at))
