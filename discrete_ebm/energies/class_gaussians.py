"""One full-covariance Gaussian for each class: an informed start for chains, and the plain density to compare with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.energies.arguments import positive
from discrete_ebm.energies.classifier import ClassEnergy, check_labels
from discrete_ebm.errors import CapabilityError, DataError, SettingError, SpaceError
from discrete_ebm.spaces import Encoding, Real, Space

__all__ = ["ClassGaussians"]


class ClassGaussians(ClassEnergy):
    r"""E(x, y) = −log π_y − log N(x; μ_y, Σ_y): a normalised mixture, and by Bayes' rule a (quadratic) classifier.

    The density is that over all of ℝᴺ: log Z = 0 where the space has no bounds, and below 0 by the mass beyond them
    where it has. ``weights`` (Y,) π, ``mean`` (Y, N), ``factor`` (Y, N, N) Cholesky factors are buffers, not learned.

    Args:
        space: a Real of N sites. weights, mean, factor: as above; factors lower triangular, positive diagonal.
    Source: Yang & Ji 2021, "JEM++: Improved techniques for training JEM", arXiv:2109.09032, section 4.2, the start of
        chains; centre-wise Gaussians there are these of :meth:`fit`.
    """

    def __init__(self, space: Space, weights: Tensor, mean: Tensor, factor: Tensor) -> None:
        super().__init__(space)
        if not isinstance(space, Real):
            raise SpaceError(f"`space` must be Real for Gaussians; got {space!r}. Use MeanField for discrete sites.")
        n, n_classes = space.n_sites, len(weights)
        if n_classes < 1 or mean.shape != (n_classes, n) or factor.shape != (n_classes, n, n):
            raise SettingError(f"`weights`, `mean`, `factor` must have shapes (Y,), (Y, {n}), (Y, {n}, {n}); got "
                               f"{tuple(weights.shape)}, {tuple(mean.shape)}, {tuple(factor.shape)}. Use fit(...).")
        self.n_classes = n_classes
        self.register_buffer("weights", weights.clone())
        self.register_buffer("mean", mean.clone())
        self.register_buffer("factor", factor.clone())

    weights: Tensor
    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(cls, space: Space, x: Any, label: Any = None, n_classes: int | None = None, *, ridge: float = 1e-3,
            shrink: float = 10.0) -> ClassGaussians:
        """Means, covariances and frequencies of the classes of states x (B, *shape).

        Args:
            label: (B,) labels, −1 for none (such rows count in the covariance of all); None = one Gaussian of all rows.
            n_classes: Y; None = the largest label and one.
            ridge: added to every variance, in squared units of x; pixels that never change need it.
            shrink: the covariance of a class counts as many rows as it has, that of all rows as ``shrink`` rows: with
                few labels a class's own would be singular.
        Raises:
            DataError: a class without rows.
        """
        rows = space.validate(x).flatten(1).double()
        positive("ridge", ridge, "Try 1e-3.")
        positive("shrink", shrink, "Try 10.")
        y = torch.zeros(len(rows), dtype=torch.int64) if label is None else check_labels(
            "label", label, 2**31 if n_classes is None else n_classes, missing=True)
        y = y.to(rows.device)
        if len(y) != len(rows) or not len(rows):
            raise DataError(f"`label` must have one entry for each of {len(rows)} rows; got {len(y)}.")
        total = n_classes if n_classes is not None else int(y.max()) + 1
        counts = torch.bincount(y[y >= 0], minlength=total)
        if total < 1 or bool((counts == 0).any()):
            raise DataError("`label` must hold every class at least once for a Gaussian each; got none of class "
                            f"{torch.nonzero(counts == 0).flatten().tolist()}. Label some, or start chains 'random'.")
        overall = torch.cov(rows.t(), correction=0).reshape(space.n_sites, space.n_sites)
        means, factors = [], []
        for c in range(total):
            own = rows[y == c]
            means.append(own.mean(0))
            away = own - means[-1]
            covariance = (away.t() @ away + shrink * overall) / (len(own) + shrink)
            factors.append(torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)).to(covariance)))
        dtype = torch.get_default_dtype()
        return cls(space, (counts / counts.sum()).to(dtype), torch.stack(means).to(dtype),
                   torch.stack(factors).to(dtype))

    def class_energies(self, encoding: Encoding) -> Tensor:
        flat = encoding.flatten(1)
        away = flat[None] - self.mean[:, None]  # (Y, C, N)
        white = torch.linalg.solve_triangular(self.factor, away.transpose(1, 2), upper=False)  # (Y, N, C)
        half_log_det = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * flat.shape[1] * math.log(2 * math.pi) + half_log_det - self.weights.log()
        return (0.5 * white.square().sum(1) + constant[:, None]).t()

    def log_z(self, beta: float = 1.0) -> float:
        """0: the density is normalised. A base for annealed importance sampling, therefore, where nothing is cut off.

        Raises:
            CapabilityError: the space has bounds, or beta is not 1.
        """
        if beta != 1.0 or getattr(self.space, "low", None) is not None or getattr(self.space, "high", None) is not None:
            raise CapabilityError(f"`log_z` must be asked at beta 1 and without bounds; got beta {beta:g} on "
                                  f"{self.space!r}, where the mass beyond the bounds is not known.")
        return 0.0

    def sample(self, n: int | None = None, *, generator: torch.Generator, label: Any = None) -> Tensor:
        """``n`` states (n, *shape), or one for each given label (C,); moved to the bounds where they lie beyond."""
        if label is None:
            if n is None:
                raise SettingError("`n` must be given where `label` is not; got neither.")
            label = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        y = check_labels("label", label, self.n_classes, self.mean.device)
        noise = torch.randn(len(y), self.space.n_sites, generator=generator, device=self.mean.device,
                            dtype=self.mean.dtype)
        drawn = self.mean[y]
        for c in range(self.n_classes):
            own = y == c
            drawn[own] += noise[own] @ self.factor[c].t()
        drawn = drawn.reshape(-1, *self.space.shape)
        for bound, clip in ((getattr(self.space, "low", None), torch.maximum),
                            (getattr(self.space, "high", None), torch.minimum)):
            drawn = drawn if bound is None else clip(drawn, bound.to(drawn))
        return drawn
