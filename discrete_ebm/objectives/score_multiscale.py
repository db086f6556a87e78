r"""Denoising at many noise levels: noise-conditional energies and scores, single energies, annealed Langevin draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chain_inputs import make_generator, whole
from discrete_ebm.chains import sample
from discrete_ebm.energies.base import energy_device
from discrete_ebm.energies.noise_levels import NoisyEnergy, ScoreNetwork, check_levels, noise_levels
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.objectives.base import ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.needs import finite_number
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.objectives.score_matching import _ScoreMatching, mean_square, model_score
from discrete_ebm.samplers.hamiltonian import normal_like
from discrete_ebm.samplers.langevin import Langevin

__all__ = ["MultiScaleScoreMatching", "annealed_langevin"]


@dataclass(frozen=True)
class MultiScaleScoreMatching(_ScoreMatching):
    r"""Denoising at several levels; every row of a batch draws its own σ.

    A model with levels (:class:`NoisyEnergy`, :class:`ScoreNetwork` with ``sigmas``) learns s(x | σ) for each of its
    own: ½ mean |σ s(x + σξ | σ) + ξ|², which is σ² times the denoising loss of that level (Song & Ermon 2019).

    One energy E(x) without levels is fitted to all at once, with σ₀ in the target's place: ½ mean |(σ₀²/σ) s(x + σξ)
    + ξ|² (MDSM, Li, Chen & Sommer 2019). Its −∇E points from a blurred state to the mean of the data that it may come
    from, over σ₀²: a good descent from far away, and *not* the score of any one blurred law, so exp(−E) is a law at no
    stated temperature. Draw from it by annealing; for a density use a model with levels.

    Args:
        sigmas: levels for an energy without its own; None = 0.05 to 1.2 in 10, the range of the source. A model
            with levels must be left None: it says its own.
        reference: σ₀, only of the single energy; 0.1 as in the source.
    Source: Song & Ermon 2019, arXiv:1907.05600, eq. 5 and 6; Li, Chen & Sommer 2019, arXiv:1910.07762, eq. 8.
    """

    sigmas: tuple[float, ...] | None = None
    reference: float = 0.1

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", check_levels(self.sigmas))
        finite_number("reference", self.reference, above=0.0)

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        self._start("multi-scale-score-matching", energy, data)
        if _levels_of(energy) is not None and self.sigmas is not None:
            raise SettingError(f"`sigmas` must be None for a model with levels of its own; got {self.sigmas} beside "
                               f"{_levels_of(energy)}. Leave it out.")  # fmt: skip
        return ObjectiveState()

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        own = _levels_of(energy)
        levels = own or self.sigmas or noise_levels(1.2, 0.05, 10)
        table = torch.tensor(levels, dtype=batch.dtype, device=batch.device)
        sigma = table[torch.randint(len(levels), (len(batch),), generator=generator, device=batch.device)]
        noise, column = normal_like(batch, generator), sigma.reshape(-1, *[1] * (batch.dim() - 1))
        found, _ = model_score(energy, torch.addcmul(batch, column, noise), None if own is None else sigma)
        factor = (column if own is not None else self.reference**2 / column).to(found.dtype)
        return ObjectiveOutput(mean_square(torch.addcmul(noise.to(found.dtype), factor, found)))


def annealed_langevin(model: Any, n_chains: int = 100, n_steps: int = 100, step: float = 0.1, *,
                      x0: Tensor | None = None, denoise: bool = True, seed: int | torch.Generator = 0) -> Tensor:
    """States (C, *shape) from a model with noise levels: Langevin at each level, the noisiest first.

    Each level is an ordinary run of the kernel `langevin` through :func:`discrete_ebm.sample`, started where the last
    one ended, with steps in proportion to σ². **Biased**, also where every score is exact: each level is left before
    its law is reached, and the last one is the data's law blurred by its σ.

    Args:
        model: a :class:`NoisyEnergy` or a :class:`ScoreNetwork` with levels.
        n_chains: C. n_steps: at each level.
        step: ε/σ² of every level. (The source's ε is half of this library's: x′ = x + ½αs + √α z there.)
        x0: starting states; None = N(0, σ₁²) about 0, or uniform in a bounded space.
        denoise: end with x + σ² s(x | σ), the mean of what a state of the last level came from.
        seed: an int or a generator.
    Raises:
        CapabilityError: the model has no levels. SettingError: a number out of its range.
    Source: Song & Ermon 2019, arXiv:1907.05600, algorithm 1; the last step: Jolicoeur-Martineau et al. 2020,
        arXiv:2009.05475.
    """
    if _levels_of(model) is None:
        raise CapabilityError(f"`model` must have noise levels; got {type(model).__name__}. Use a NoisyEnergy or a "
                              "ScoreNetwork with sigmas, or de.sample.")  # fmt: skip
    whole("n_chains", n_chains, 1)
    whole("n_steps", n_steps, 1)
    finite_number("step", step, above=0.0)
    levels, space = model.sigmas, model.space
    device = energy_device(model) or torch.device("cpu")
    generator = make_generator(seed, device)
    if x0 is None:
        x = space.random(n_chains, generator)
        x = x * levels[0] if space.low is None and space.high is None else x
    else:
        x = space.validate(x0).to(device)
    kernel = Langevin(step_size=step)
    for sigma in levels:
        at = model.given(sigma)
        run = sample(at, replace(kernel, step_size=step * sigma**2), n_chains=len(x), n_steps=n_steps,
                     burn_in=n_steps - 1, x0=x, seed=generator)  # fmt: skip
        x = run.last
    if denoise:
        with torch.enable_grad():
            found, _ = model_score(at, x)
        x = torch.add(x, found.detach().to(x.dtype), alpha=levels[-1] ** 2)
        low, high = space.low, space.high
        x = x if low is None else torch.maximum(x, low.to(x))
        x = x if high is None else torch.minimum(x, high.to(x))
    return x


def _levels_of(model: Any) -> tuple[float, ...] | None:
    return model.sigmas if isinstance(model, (NoisyEnergy, ScoreNetwork)) else None


register(
    ObjectiveSpec(
        "multi-scale-score-matching",
        MultiScaleScoreMatching,
        "the score of data blurred at several levels",
        "Song & Ermon 2019; Li et al. 2019",
        needs_sampler=False,
        spaces="Real",
        needs_gradient=True,
        cost="1 and 1 gradient",
        use_when="Far modes, and drawing by annealed Langevin; energies and scores with noise levels.",
    )
)
