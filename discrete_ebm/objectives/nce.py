r"""Noise-contrastive estimation on real variables: data told from draws of a known law, with the constant learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.needs import finite_number, need_real, need_states, whole_number
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.samplers.single_site import at_least_float32

__all__ = ["NCE", "GaussianNoise", "NCEState", "NoiseLaw", "UniformNoise", "nce_loss"]


@runtime_checkable
class NoiseLaw(Protocol):
    """A law that can be drawn from and evaluated, e.g. a density of :mod:`discrete_ebm.datasets.densities`."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *shape) states."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) normalised log densities, nats."""


class GaussianNoise:
    """N(mean, widen² · covariance) of the data (n, *shape); a little is added to the covariance of constant sites."""

    def __init__(self, data: Tensor, widen: float = 1.0) -> None:
        flat = data.flatten(1).double()
        self.shape, self.mean = data.shape[1:], flat.mean(0)
        covariance = torch.cov(flat.t(), correction=0).reshape(flat.shape[1], -1)
        least = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12)
        covariance = covariance + least * torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        self.root = torch.linalg.cholesky(covariance) * widen
        self.dtype = data.dtype
        self.constant = self.root.diagonal().log().sum() + len(self.mean) * math.log(2 * math.pi) / 2

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn((n, len(self.mean)), generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return (self.mean + z @ self.root.t()).to(self.dtype).reshape(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(self.root, (x.flatten(1).double() - self.mean).t(), upper=False)
        return -0.5 * z.square().sum(0) - self.constant


class UniformNoise:
    """The uniform law between the bounds of a space."""

    def __init__(self, space: Any, device: torch.device) -> None:
        if space.low is None or space.high is None:
            raise SettingError(f"`noise` 'uniform' must have a space with both bounds; got {space!r}. Use 'gaussian', "
                               "or de.Real(shape, low=..., high=...).")  # fmt: skip
        self.space = space
        self.constant = (space.high - space.low).log().sum().to(device)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.space.random(n, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return -self.constant.expand(len(x))


class NCEState(ObjectiveState):
    """The noise, and the running log Z of the energy: −E(x) − log Z is what is told from the noise."""

    def __init__(self, noise: NoiseLaw, log_z: Tensor) -> None:
        self.noise, self.log_z = noise, log_z

    def state_dict(self) -> dict[str, Tensor]:
        return {"log_z": self.log_z}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.log_z = state["log_z"].clone()


def nce_loss(positive: Tensor, negative: Tensor, n_per_row: int) -> Tensor:
    """() mean log(1 + ν e^−G(x)) + ν mean log(1 + e^G(y)/ν) from G = log p − log q of data (B,) and noise (B·ν,)."""
    shift = math.log(n_per_row)
    return softplus(shift - positive).mean() + n_per_row * softplus(negative - shift).mean()


@dataclass(frozen=True)
class NCE(Objective):
    r"""Logistic regression of data against ν draws a row from a known law q: h = σ(−E(x) − log Z − log q(x) − log ν).

    log Z is a number that is learned beside the energy: by a damped Newton step of the same loss at every update, kept
    in the state and logged as "log_z". (The energy's own constant moves too, if it has one; what counts is E + log Z.)
    The minimum is at the truth for every ν and every q that is positive where the data are; how much data it takes is
    another matter: q must look like the data. Gaussian noise serves a few variables, images it does not.

    Args:
        noise: "gaussian" (mean and covariance of the data), "uniform" (between the bounds), or a :class:`NoiseLaw`.
        n_samples: ν, draws of noise for a row of data.
        widen: factor on the standard deviations of "gaussian".
        log_z_rate: of the Newton steps; 1 would follow each batch.
        penalty: weight of the energy magnitude, 1/nats; 0 because log Z takes up the constant.
    Source: Gutmann & Hyvärinen 2010, "Noise-contrastive estimation: a new estimation principle for unnormalized
        statistical models"; with ν draws: 2012, JMLR 13, eq. 8.
    """

    noise: str | NoiseLaw = "gaussian"
    n_samples: int = 1
    widen: float = field(default=1.0, kw_only=True)
    log_z_rate: float = field(default=0.1, kw_only=True)
    penalty: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        whole_number("n_samples", self.n_samples)
        finite_number("widen", self.widen, above=0.0)
        finite_number("log_z_rate", self.log_z_rate)
        finite_number("penalty", self.penalty)
        if self.log_z_rate > 1:
            raise SettingError(f"`log_z_rate` must be at most 1; got {self.log_z_rate!r}. Try 0.1.")
        if self.noise not in ("gaussian", "uniform") and (isinstance(self.noise, str)
                                                          or not isinstance(self.noise, NoiseLaw)):
            raise SettingError(f"`noise` must be 'gaussian', 'uniform' or have draw(n, generator) and log_prob(x); got "
                               f"{self.noise!r}. Use 'gaussian'.")  # fmt: skip

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> NCEState:
        space = need_real("nce", energy)
        data = need_states("nce", data)
        if self.noise == "gaussian":
            noise: NoiseLaw = GaussianNoise(data, self.widen)
        elif self.noise == "uniform":
            noise = UniformNoise(space, generator.device)
        else:
            noise = self.noise  # type: ignore[assignment]
        some = noise.draw(256, generator).to(data)
        if some.shape[1:] != data.shape[1:]:
            raise ShapeError(f"`noise` must draw states of shape {tuple(data.shape[1:])}; got {tuple(some.shape[1:])}.")
        with torch.no_grad():  # log Z by importance sampling, so that the regression starts near its threshold
            weights = -evaluate_energy(energy, some).double() - noise.log_prob(some).double()
        return NCEState(noise, weights.logsumexp(0) - math.log(len(some)))

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, NCEState):
            raise SettingError(f"`state` must be what NCE.init returned; got {type(state).__name__}.")
        noise = state.noise.draw(len(batch) * self.n_samples, generator).to(batch)
        rows = torch.cat([batch, noise])
        energies = at_least_float32(evaluate_energy(energy, rows))
        with torch.no_grad():
            ratio = state.noise.log_prob(rows).to(energies.dtype)
        logits = -energies - ratio - state.log_z.to(energies.dtype)
        loss = nce_loss(logits[: len(batch)], logits[len(batch) :], self.n_samples)
        with torch.no_grad():
            self._follow(state, logits.double(), len(batch))
        positive, negative = energies.detach().split([len(batch), len(noise)])
        terms = {"log_z": state.log_z, "positive_energy": positive.mean(), "negative_energy": negative.mean()}
        if self.penalty:
            loss = loss + self.penalty * energies.square().mean()
        return ObjectiveOutput(loss, terms, noise)

    def _follow(self, state: NCEState, logits: Tensor, n_rows: int) -> None:
        """One damped Newton step of the loss in log Z; its length at most 1 nat."""
        share = (logits - math.log(self.n_samples)).sigmoid()
        slope = (1 - share[:n_rows]).mean() - self.n_samples * share[n_rows:].mean()
        curve = (share * (1 - share))[:n_rows].mean() + self.n_samples * (share * (1 - share))[n_rows:].mean()
        state.log_z = state.log_z - self.log_z_rate * (slope / curve.clamp(min=1e-3)).clamp(-1, 1)


register(
    ObjectiveSpec(
        "nce",
        NCE,
        "data told from draws of a known law",
        "Gutmann & Hyvärinen 2010",
        needs_sampler=False,
        spaces="Real",
        cost="1 + ν",
        use_when="A few real variables: a normalised density, no chains and no gradients; kinks and jumps are welcome.",
    )
)
