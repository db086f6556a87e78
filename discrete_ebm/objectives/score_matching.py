r"""Score matching: fit ∇ log p instead of p, so that the normalising constant never appears.

s(x) = −∇E(x), or the output of a score network; both are trained by the same objectives. Explicit: against a known
score. Implicit: by parts, with the exact trace of ∇s. Sliced: the trace along random directions. Denoising: against
the score of data blurred by noise, at one level or several (:mod:`discrete_ebm.objectives.score_multiscale`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.energies.base import energy_dtype
from discrete_ebm.energies.noise_levels import ScoreField
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.needs import finite_number, need_differentiable, need_real, need_states, whole_number
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.samplers.hamiltonian import normal_like

__all__ = ["DenoisingScoreMatching", "ExplicitScoreMatching", "ImplicitScoreMatching", "SlicedScoreMatching",
           "directions", "exact_trace", "mean_square", "model_score", "sliced_trace"]  # fmt: skip

DIRECTIONS = ("rademacher", "gaussian", "sphere")
MAX_NUMBERS = 4_194_304  # of a block of Jacobian rows, 16 MiB in float32


def model_score(model: Any, x: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s = ∇ log p of an energy or a score network at states x (B, *shape), with a graph to parameters and to x.

    Args:
        sigma: (B,) noise levels of a model that has several; None for x itself.
    Returns:
        (B, *shape) scores, and the leaf (B, *shape) that they depend on.
    Raises:
        CapabilityError: the energy is not differentiable in its encoding. ShapeError: a score of another shape.
    """
    encoding = model.space.encode_as(x, energy_dtype(model))
    leaf = encoding.detach().requires_grad_()
    if sigma is not None:
        sigma = sigma.to(leaf.dtype)
    value = model(leaf) if sigma is None else model.at(leaf, sigma)
    if isinstance(model, ScoreField):
        if value.shape != leaf.shape:
            raise ShapeError(f"`score(encoding)` must return one number a site, shape {tuple(leaf.shape)}; got "
                             f"{tuple(value.shape)}. Reshape the network's output.")  # fmt: skip
        return value, leaf
    slope = None
    if value.requires_grad:
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True, allow_unused=True)
    if slope is None:
        raise CapabilityError(f"`energy` must be differentiable in its encoding; got {type(model).__name__}, which is "
                              "not. Use 'nce' or 'pcd' with a sampler that needs no gradient.")  # fmt: skip
    return -slope, leaf


def exact_trace(score: Tensor, leaf: Tensor) -> Tensor:
    """(B,) Σ_i ∂s_i/∂x_i by one batched backward pass through the score's graph (blocks of rows in large spaces)."""
    n_rows, n_sites = len(score), leaf[0].numel()
    if not score.requires_grad:
        return score.new_zeros(n_rows)
    block = max(1, min(n_sites, MAX_NUMBERS // max(1, leaf.numel())))
    total = score.new_zeros(n_rows)
    basis = torch.eye(n_sites, dtype=score.dtype, device=score.device).reshape(n_sites, 1, *score.shape[1:])
    for first in range(0, n_sites, block):  # one turn unless rows of the Jacobian fill the memory
        some = basis[first : first + block].expand(-1, *score.shape)
        (rows,) = torch.autograd.grad(score, leaf, some, create_graph=True, is_grads_batched=True, allow_unused=True)
        if rows is None:
            return total
        total = total + (rows * some).flatten(2).sum((0, 2))
    return total


def sliced_trace(score: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
    """(B, M) vᵀ(∇s)v for directions v (M, B, *shape), by one batched backward pass."""
    if not score.requires_grad:
        return score.new_zeros(len(score), len(v))
    if len(v) == 1:  # the batching costs more than it saves
        (rows,) = torch.autograd.grad(score, leaf, v[0], create_graph=True, allow_unused=True)
        rows = None if rows is None else rows[None]
    else:
        (rows,) = torch.autograd.grad(score, leaf, v, create_graph=True, is_grads_batched=True, allow_unused=True)
    if rows is None:
        return score.new_zeros(len(score), len(v))
    return (rows * v).flatten(2).sum(2).t()


def directions(kind: str, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """(n, B, *shape) random directions with E[v vᵀ] = I, for states like (B, *shape)."""
    size = (n, *like.shape)
    if kind == "rademacher":
        signs = torch.randint(2, size, generator=generator, device=like.device)
        return (2 * signs - 1).to(like.dtype)
    v = torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)
    if kind == "sphere":
        flat = v.flatten(2)
        return (flat * (flat.shape[2] ** 0.5 / flat.norm(dim=2, keepdim=True))).view(size)
    return v


def mean_square(values: Tensor) -> Tensor:
    """() ½ Σ over sites of values², mean over rows."""
    return values.square().sum() / (2 * len(values))


@dataclass(frozen=True)
class _ScoreMatching(Objective):
    def _start(self, name: str, model: Any, data: Any) -> Tensor:
        need_real(name, model)
        data = need_states(name, data)
        if not isinstance(model, ScoreField):
            need_differentiable(name, model, data)
        return data


@dataclass(frozen=True)
class ExplicitScoreMatching(_ScoreMatching):
    """½ mean |s(x) − s*(x)|², s* known: the Fisher divergence itself. For tests, and to copy a law into a network.

    Args:
        score: s*, ``score(x) -> (B, *shape)``, e.g. ``density.score`` of a known law.
    Source: Hyvärinen 2005, "Estimation of non-normalized statistical models by score matching", eq. 2.
    """

    score: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise SettingError(f"`score` must be a function of states, score(x) -> (B, *shape); got {self.score!r}. "
                               "Where it is not known use 'implicit-score-matching'.")  # fmt: skip

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        data = self._start("explicit-score-matching", energy, data)
        target = self.score(data[:1]) if self.score is not None else None
        if not isinstance(target, Tensor) or target.shape != data[:1].shape:
            raise ShapeError(f"`score(x)` must return a tensor of the shape of x, {tuple(data[:1].shape)}; got "
                             f"{tuple(target.shape) if isinstance(target, Tensor) else target!r}.")  # fmt: skip
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        found, leaf = model_score(energy, batch)
        target = self.score(leaf.detach()) if self.score is not None else leaf
        return ObjectiveOutput(mean_square(found - target.detach().to(found.dtype)))


@dataclass(frozen=True)
class ImplicitScoreMatching(_ScoreMatching):
    r"""mean [Σ_i ∂s_i/∂x_i + ½ |s|²]: explicit score matching less ½E|∇ log p|², which no parameter changes.

    The trace is exact: all its second derivatives come from one batched backward pass, N times the cost of one. Right
    for densities that are smooth and vanish at the borders; where p jumps (a checkerboard) integration by parts leaves
    a term at the jump that this leaves out.

    Source: Hyvärinen 2005, eq. 4, theorem 1.
    """

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        data = self._start("implicit-score-matching", energy, data)
        _need_curvature("implicit-score-matching", energy, data, exact_trace)
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        found, leaf = model_score(energy, batch)
        trace = exact_trace(found, leaf).mean()
        return ObjectiveOutput(trace + mean_square(found), {"trace": trace.detach()})


@dataclass(frozen=True)
class SlicedScoreMatching(_ScoreMatching):
    r"""mean [vᵀ(∇s)v + ½ (vᵀs)²] over random directions v with E[vvᵀ] = I; the same minimum as the implicit form.

    Args:
        n_projections: M directions a row; 1 as published.
        variance_reduced: ½|s|² in place of ½(vᵀs)², its mean over v: less noise at no cost.
        directions: "rademacher" (signs: only off-diagonal entries are noise in the trace), "gaussian", "sphere".
    Source: Song, Garg, Shi & Ermon 2019, arXiv:1905.07088, eq. 7 and 8 (SSM and SSM-VR).
    """

    n_projections: int = 1
    variance_reduced: bool = True
    directions: str = "rademacher"

    def __post_init__(self) -> None:
        whole_number("n_projections", self.n_projections)
        if not isinstance(self.variance_reduced, bool):
            raise SettingError(f"`variance_reduced` must be True or False; got {self.variance_reduced!r}.")
        if self.directions not in DIRECTIONS:
            raise SettingError(f"`directions` must be one of {', '.join(DIRECTIONS)}; got {self.directions!r}. "
                               "Use 'rademacher'.")  # fmt: skip

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        data = self._start("sliced-score-matching", energy, data)
        _need_curvature("sliced-score-matching", energy, data, _along_ones)
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        found, leaf = model_score(energy, batch)
        v = directions(self.directions, self.n_projections, leaf, generator)
        trace = sliced_trace(found, leaf, v).mean()
        if self.variance_reduced:
            square = mean_square(found)
        else:
            square = (v * found).flatten(2).sum(2).square().mean() / 2
        return ObjectiveOutput(trace + square, {"trace": trace.detach()})


@dataclass(frozen=True)
class DenoisingScoreMatching(_ScoreMatching):
    r"""½ mean |σ s(x + σξ) + ξ|², ξ ~ N(0, 1): s becomes the score of the data blurred by N(0, σ²).

    That is σ² times Vincent's loss, so that its size does not depend on σ. What is learned is p * N(0, σ²), not p: σ
    is a bias to choose, against a noise that grows as σ falls. Data may jump or lie on a curve: blurred, they do not.

    Args:
        sigma: σ, in units of x; small beside the data's finest structure.
        antithetic: each ξ with −ξ. The noise of the loss's gradient is ξ·s/σ to first order in σ, and goes in pairs;
            twice the cost. For small σ.
    Source: Vincent 2011, "A connection between score matching and denoising autoencoders", eq. 11; the pairs are the
        first-order control variate of Wang et al. 2020, arXiv:2002.07501.
    """

    sigma: float = 0.1
    antithetic: bool = False

    def __post_init__(self) -> None:
        finite_number("sigma", self.sigma, above=0.0)
        if not isinstance(self.antithetic, bool):
            raise SettingError(f"`antithetic` must be True or False; got {self.antithetic!r}.")

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        self._start("denoising-score-matching", energy, data)
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        noise = normal_like(batch, generator)
        if self.antithetic:
            batch, noise = torch.cat([batch, batch]), torch.cat([noise, -noise])
        found, _ = model_score(energy, torch.add(batch, noise, alpha=self.sigma))
        return ObjectiveOutput(mean_square(torch.add(noise.to(found.dtype), found, alpha=self.sigma)))


def _along_ones(score: Tensor, leaf: Tensor) -> Tensor:
    return sliced_trace(score, leaf, torch.ones_like(leaf)[None])


def _need_curvature(name: str, model: Any, data: Tensor, trace: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Refuse a model whose second derivatives no parameter reaches: with ReLU the trace is 0 (or a constant), and the
    loss then has its minimum at s = 0."""
    trained = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    if not trained:
        return
    total = trace(*model_score(model, data[:8])).sum()
    found = torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else ()
    if not any(part is not None and bool((part != 0).any()) for part in found):
        raise CapabilityError(f"`energy` must have second derivatives in x that its parameters change for {name!r}; "
                              "got none on 8 rows of data. Use SiLU, Softplus or Tanh instead of ReLU, or "
                              "'denoising-score-matching'.")  # fmt: skip


for _row in (
    ObjectiveSpec(
        "explicit-score-matching",
        ExplicitScoreMatching,
        "the score of a known law",
        "Hyvärinen 2005",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="1 and its gradient",
        use_when="Tests, and copying a known law into a network.",
    ),
    ObjectiveSpec(
        "implicit-score-matching",
        ImplicitScoreMatching,
        "the score of the data, exact trace",
        "Hyvärinen 2005",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="1 and N + 1 gradients",
        use_when="Smooth densities of a few variables: exact, nothing to set.",
    ),
    ObjectiveSpec(
        "sliced-score-matching",
        SlicedScoreMatching,
        "the score of the data along random directions",
        "Song et al. 2019",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="1 and M + 1 gradients",
        use_when="Smooth densities of many variables; nothing to set but M.",
    ),
    ObjectiveSpec(
        "denoising-score-matching",
        DenoisingScoreMatching,
        "the score of data blurred at one level",
        "Vincent 2011",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="1 and 1 gradient",
        use_when="The cheapest; learns the blurred density, also where the data lie on a surface or jump.",
    ),
):
    register(_row)
