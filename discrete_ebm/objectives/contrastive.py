r"""Contrastive divergence: lower the energy of data, raise that of what the model draws.

The gradient of the negative log-likelihood is E_data[∇E] − E_model[∇E]. CD-k takes the model's draws from k steps that
start at the data (biased, calm); PCD from chains that live on between updates (nearly unbiased while they keep up);
short-run from fresh noise every time (learns a generator of k steps more than a density).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from discrete_ebm.chain_bank import ChainBank
from discrete_ebm.chain_inputs import resolve_sampler
from discrete_ebm.chains import StepTotals, advance, raise_if_not_finite
from discrete_ebm.energies.base import energy_dtype, evaluate_energy
from discrete_ebm.errors import CapabilityError, CheckpointError, SettingError
from discrete_ebm.objectives.base import Objective, ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.centring import Offsets, centred_loss, means, need_rbm
from discrete_ebm.objectives.layers import contrast_layers, fits_layers
from discrete_ebm.objectives.needs import finite_number, fraction, need_discrete, need_states, whole_number
from discrete_ebm.objectives.noise import Sitewise, site_frequencies
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.objectives.temperature import remember_temperature
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.block_gibbs import BlockGibbs
from discrete_ebm.spaces import Binary, Categorical, Encoding, Ordinal, Spin, map_encoding

__all__ = [
    "CD",
    "PCD",
    "BankState",
    "MarkovObjective",
    "MarkovState",
    "ShortRun",
    "contrast",
    "draw_negatives",
    "slope_penalty",
]

STARTS = ("random", "data", "marginal")
_BY_SITE = (Binary, Spin, Categorical, Ordinal)  # any value at any site: draws of each site by itself are states
_FORGET = 0.1  # weight of the newest update in the running gap that decides how many steps to take


def contrast(
    energy: Any, positives: Tensor, negatives: Tensor, penalty: float = 0.0, totals: StepTotals | None = None
) -> ObjectiveOutput:
    """mean E(positives) − mean E(negatives) + penalty · (mean E² of both), by one call of the energy.

    Args:
        positives: (B, *shape) data. negatives: (C, *shape) model draws, taken as constants.
        penalty: weight of the energy magnitude, 1/nats; it also pins the constant an energy is free to drift by.
        totals: of the steps that made the negatives, to log acceptance and distance.
    Source: Du & Mordatch 2019, arXiv:1903.08689, section 3.3, for the penalty.
    """
    values = evaluate_energy(energy, torch.cat([positives, negatives.to(positives.dtype)]))
    positive, negative = values.split([positives.shape[0], negatives.shape[0]])
    gap = negative.mean() - positive.mean()
    loss = -gap
    if penalty:
        loss = loss + penalty * (positive.square().mean() + negative.square().mean())
    terms = {
        "positive_energy": positive.mean().detach(),
        "negative_energy": negative.mean().detach(),
        "gap": gap.detach(),
        "spread": positive.detach().std(correction=0),
    }
    if totals is not None and totals.n_steps:
        terms["acceptance"] = totals.accepted.mean() / totals.n_steps
        terms["hamming"] = totals.hamming.mean() / totals.n_steps
    return ObjectiveOutput(loss, terms, negatives)


def draw_negatives(
    kernel: Kernel, energy: Any, x: Tensor, n_steps: int, *, generator: torch.Generator
) -> tuple[Tensor, StepTotals]:
    """States after ``n_steps`` steps from x (C, *shape), at beta = 1 and without gradients; x is not modified.

    Raises:
        NonFiniteEnergyError: names the chains.
    """
    with torch.no_grad():
        state = kernel.init(energy, x, generator=generator)  # what the kernel cached is stale after an update
        raise_if_not_finite(energy, state, StepTotals.zero(state.energy), "at the start of its steps")
        state, totals = advance(kernel, energy, state, n_steps, generator=generator)
    return state.x, totals


def slope_penalty(energy: Any, x: Tensor) -> Tensor:
    """() ½ mean |∇E|², the gradient in the encoding of states x (B, *shape), with a graph to the parameters.

    Raises:
        CapabilityError: the energy is not differentiable in its encoding.
    """
    leaves: list[Tensor] = []

    def leaf(part: Tensor) -> Tensor:
        leaves.append(part.detach().clone().requires_grad_())
        return leaves[-1]

    encoding: Encoding = map_encoding(leaf, energy.space.encode_as(x, energy_dtype(energy)))
    value = energy(encoding).sum()
    found = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True) if value.requires_grad else ()
    slopes = [part.square().sum() for part in found if part is not None]
    if not slopes:
        raise CapabilityError(
            f"`energy` must be differentiable in its encoding for `gradient_penalty`; got {type(energy).__name__}, "
            "which is not. Use gradient_penalty=0."
        )
    return torch.stack(slopes).sum() / (2 * len(x))


def _from_frequencies(space: Any, frequencies: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return space.from_index(torch.multinomial(frequencies, n, replacement=True, generator=generator).t())


class MarkovState(ObjectiveState):
    """What objectives with chains keep: the running gap that sets the number of steps, and the offsets of centring."""

    def __init__(self) -> None:
        self.gap: Tensor | None = None  # () running mean of the gap and () of the spread of data energies, nats
        self.spread: Tensor | None = None
        self.offsets: Offsets | None = None
        self.noise: Sitewise | None = None
        self.frequencies: Tensor | None = None

    def steps(self, n_steps: int, max_steps: int | None) -> int:
        """``n_steps`` times abs(gap)/spread where that is above 1, at most ``max_steps``; ``n_steps`` when None."""
        if max_steps is None or self.gap is None or self.spread is None:
            return n_steps
        gap, spread = torch.stack([self.gap.abs(), self.spread]).tolist()
        if not (math.isfinite(gap) and spread > 0):
            return max_steps
        return min(max_steps, max(n_steps, math.ceil(n_steps * gap / spread)))

    def centring(self) -> Offsets:
        """The offsets, which move by the batches of all processes."""
        if self.offsets is None:
            raise SettingError("`state` must be of an objective with `centre`; got one without. Use its own init.")
        self.offsets.average = self.average
        return self.offsets

    def see(self, gap: Tensor, spread: Tensor) -> None:
        """One update's gap () and spread of data energies (); no host sync."""
        gap, spread = self.average(torch.stack([gap, spread])).unbind()
        self.gap = gap if self.gap is None else self.gap.lerp(gap, _FORGET)
        self.spread = spread if self.spread is None else self.spread.lerp(spread, _FORGET)

    def state_dict(self) -> dict[str, Tensor]:
        found = {} if self.gap is None or self.spread is None else {"gap": self.gap, "spread": self.spread}
        if self.offsets is not None:
            found |= {"visible_offset": self.offsets.visible, "hidden_offset": self.offsets.hidden}
        return found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if "gap" in state and "spread" in state:
            self.gap, self.spread = state["gap"].clone(), state["spread"].clone()
        if self.offsets is not None:
            own = {"visible_offset": self.offsets.visible, "hidden_offset": self.offsets.hidden}
            for name, part in own.items():
                if name not in state or state[name].shape != part.shape:
                    got = "nothing" if name not in state else f"shape {tuple(state[name].shape)}"
                    raise CheckpointError(
                        f"`state[{name!r}]` must have shape {tuple(part.shape)} for `centre`; got {got}. "
                        "Resume with the objective and the energy that were saved."
                    )
            self.offsets = Offsets(state["visible_offset"].clone(), state["hidden_offset"].clone())


class BankState(MarkovState):
    """Persistent chains as an objective's memory, beside what all objectives with chains keep."""

    def __init__(self, bank: ChainBank) -> None:
        super().__init__()
        self.bank = bank

    @property
    def chains(self) -> Tensor:
        return self.bank.x

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.bank.state_dict(), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.bank.load_state_dict(state)
        super().load_state_dict(state)


@dataclass(frozen=True)
class MarkovObjective(Objective):
    """What CD, PCD, short-run and tempered PCD share: a sampler, and the stabilisers of docs/objectives.md.

    Args:
        sampler: a registered name or a kernel.
        n_steps: kernel steps per update (a step of a Gibbs kernel is a sweep).
        penalty: weight of the energy magnitude, 1/nats; 0 = none: it biases the fit, and a guard watches already.
        gradient_penalty: weight of ½ mean |∇E|² at data (p_control); 0 = none, it slows the start (design notes: −23.0
            nats with .01 against −20.9 without, after 30 s on digits).
        data_noise: probability that a site of a data row takes another value, anew each update; 0 = none, since for
            discrete data the model then learns the noisy law. (On images of continuous origin .01 to .03 is calm.)
        max_steps: the number of steps grows with abs(gap) over the spread of data energies, up to this; None = it does
            not, since few steps won at equal time (design notes: 2 steps −18.2, 20 steps −20.9 after 30 s on digits).
        centre: "data" or "average" (of data and negatives): centred gradients of an RBM; None = plain. "data" is
            the safe one: offsets from the model side can diverge.
        centre_rate: weight of the newest batch in the offsets' running means; .01 as in Melchior et al. 2016.
    """

    sampler: str | Kernel = "gwg"
    n_steps: int = 1
    penalty: float = field(default=0.0, kw_only=True)
    gradient_penalty: float = field(default=0.0, kw_only=True)
    data_noise: float = field(default=0.0, kw_only=True)
    max_steps: int | None = field(default=None, kw_only=True)
    centre: str | None = field(default=None, kw_only=True)
    centre_rate: float = field(default=0.01, kw_only=True)

    def __post_init__(self) -> None:
        whole_number("n_steps", self.n_steps)
        finite_number("penalty", self.penalty)
        finite_number("gradient_penalty", self.gradient_penalty)
        fraction("data_noise", self.data_noise, "Try 0.01.")
        if self.max_steps is not None:
            whole_number("max_steps", self.max_steps, self.n_steps)
        if self.centre not in (None, "data", "average"):
            raise SettingError(f"`centre` must be 'data', 'average' or None; got {self.centre!r}. Use 'data'.")
        finite_number("centre_rate", self.centre_rate, above=0.0)
        if self.centre_rate > 1:
            raise SettingError(f"`centre_rate` must be at most 1; got {self.centre_rate!r}. Try 0.01.")

    def _prepare(self, energy: Any, data: Any, state: MarkovState, generator: torch.Generator) -> None:
        """Check the settings against energy and data, and make what they need."""
        remember_temperature(energy, resolve_sampler(self.sampler, energy.space))
        if self.data_noise:
            space = need_discrete("data_noise", energy)
            state.noise = Sitewise("bernoulli", self.data_noise, space.n_values, generator.device)
        if self.gradient_penalty:
            slope_penalty(energy, need_states("gradient_penalty", data)[:1])
        if self.centre is not None:
            need_rbm(energy)
            state.offsets = Offsets(*means(energy, need_states("centre", data)))

    def _noisy(self, energy: Any, batch: Any, state: Any, generator: torch.Generator) -> Any:
        if not self.data_noise or not isinstance(state, MarkovState) or state.noise is None:
            return batch
        return energy.space.from_index(state.noise.perturb(energy.space.to_index(batch), generator))

    def _steps(self, state: Any) -> int:
        return state.steps(self.n_steps, self.max_steps) if isinstance(state, MarkovState) else self.n_steps

    def _contrast(
        self, energy: Any, batch: Any, x: Tensor, state: MarkovState | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """The loss with negatives that ``_steps`` steps from x make; an RBM drawn layer by layer needs no autograd."""
        kernel, n_steps = resolve_sampler(self.sampler, energy.space), self._steps(state)
        by_autograd = self.penalty or self.gradient_penalty or not fits_layers(energy, kernel)
        if by_autograd or not isinstance(kernel, BlockGibbs):
            negatives, totals = draw_negatives(kernel, energy, x, n_steps, generator=generator)
            return self._output(energy, batch, negatives, totals, state)
        offsets = state.centring() if state is not None and self.centre is not None else None
        output = contrast_layers(energy, kernel, batch, x, n_steps, generator=generator, offsets=offsets,
                                 rate=self.centre_rate, average=self.centre == "average")  # fmt: skip
        self._see(output, n_steps, state)
        return output

    def _see(self, output: ObjectiveOutput, n_steps: int, state: Any) -> None:
        """Remember what the number of steps of the next update depends on."""
        if isinstance(state, MarkovState) and self.max_steps is not None:
            state.see(output.terms["gap"], output.terms["spread"])
            output.terms["steps"] = torch.full_like(output.terms["gap"], n_steps)

    def _output(self, energy: Any, batch: Any, negatives: Tensor, totals: StepTotals, state: Any) -> ObjectiveOutput:
        """The loss with its stabilisers; what the state remembers moves on."""
        output = contrast(energy, batch, negatives, self.penalty, totals)
        if self.gradient_penalty:
            slope = slope_penalty(energy, batch)
            output.loss = output.loss + self.gradient_penalty * slope
            output.terms["slope"] = slope.detach()
        self._see(output, totals.n_steps, state)
        if isinstance(state, MarkovState) and self.centre is not None and state.offsets is not None:
            seen = torch.cat([batch, negatives.to(batch.dtype)]) if self.centre == "average" else batch
            offsets = state.centring()
            offsets.move(energy, seen, self.centre_rate)
            output.loss = centred_loss(energy, output.loss, offsets)
        return output


@dataclass(frozen=True)
class CD(MarkovObjective):
    """CD-k: negatives by ``n_steps`` kernel steps that start at the batch itself.

    Args:
        n_steps: k. Other arguments: see :class:`MarkovObjective`.
    Source: Hinton 2002, "Training products of experts by minimizing contrastive divergence".
    """

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> MarkovState:
        state = MarkovState()
        self._prepare(energy, data, state, generator)
        return state

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        batch = self._noisy(energy, batch, state, generator)
        return self._contrast(energy, batch, batch, state if isinstance(state, MarkovState) else None, generator)


@dataclass(frozen=True)
class PCD(MarkovObjective):
    """Persistent CD: negatives from a bank of chains that go on where the last update left them.

    Each update draws as many chains as the batch has rows (at most the bank), without replacement, moves them
    ``n_steps`` and writes them back to the same rows.

    Args:
        n_steps: kernel steps per update. Other arguments: see :class:`MarkovObjective`.
        bank_size: number of chains.
        restart: probability that a drawn chain first starts anew; 0 = never, as in the recipes for discrete energies
            (continuous ones use .05).
        start: where chains start, first and anew: "random" states, "data" rows, "marginal" draws of every site from
            its frequencies in the data, or "auto": "marginal" for states of Binary, Spin, Categorical and Ordinal
            spaces, else "random". (Perceptron on digits, two steps an update: from random bits the chains are left
            behind and energies run away; from the marginals −18.5 nats after 12 s.) Restarts are "random" where
            chains started from "data".
    Source: Tieleman 2008, "Training restricted Boltzmann machines using approximations to the likelihood gradient";
        restarts: Du & Mordatch 2019, arXiv:1903.08689.
    """

    n_steps: int = 10
    bank_size: int = 1000
    restart: float = field(default=0.0, kw_only=True)
    start: str = field(default="auto", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("bank_size", self.bank_size)
        fraction("restart", self.restart, "Use ShortRun for no memory at all.")
        _check_start(self.start, (*STARTS, "auto"))

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> BankState:
        resolve_sampler(self.sampler, energy.space)
        x0, frequencies, start = None, None, self.start
        if start == "auto":
            start = "marginal" if isinstance(data, Tensor) and type(energy.space) in _BY_SITE else "random"
        if start == "data":
            x0 = data[torch.randperm(len(data), generator=generator, device=generator.device)[: self.bank_size]]
        elif start == "marginal":
            need_discrete("start='marginal'", energy)
            frequencies = site_frequencies(energy.space, need_states("start='marginal'", data))
            x0 = _from_frequencies(energy.space, frequencies, self.bank_size, generator)
        state = BankState(ChainBank(energy.space, self.bank_size, x0, generator=generator))
        state.frequencies = frequencies
        self._prepare(energy, data, state, generator)
        return state

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, BankState):
            raise SettingError(f"`state` must be what PCD.init returned; got {type(state).__name__}.")
        rows, x = state.bank.draw(min(len(batch), len(state.bank)), generator)
        if self.restart:
            anew = torch.rand(len(rows), generator=generator, device=x.device) < self.restart
            if state.frequencies is None:
                fresh = energy.space.random(len(rows), generator)
            else:
                fresh = _from_frequencies(energy.space, state.frequencies, len(rows), generator)
            x = torch.where(anew.reshape(-1, *[1] * (x.dim() - 1)), fresh, x)
            state.bank.ages[rows] *= ~anew
        batch = self._noisy(energy, batch, state, generator)
        output = self._contrast(energy, batch, x, state, generator)
        assert output.negatives is not None
        state.bank.write(rows, output.negatives)
        return output


@dataclass(frozen=True)
class ShortRun(MarkovObjective):
    """Negatives by ``n_steps`` steps from fresh noise, every update anew; no bank to keep or to go stale.

    What is learned is the law of that short run as much as a density: sample with the same sampler, steps and start.

    Args:
        n_steps: kernel steps per update; 100 as in the source. Other arguments: see :class:`MarkovObjective`.
        start: "random" states, or "marginal" draws of every site from its frequencies in the data.
    Source: Nijkamp, Hill, Zhu & Wu 2019, arXiv:1904.09770, algorithm 1.
    """

    n_steps: int = 100
    start: str = field(default="random", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "data":
            raise SettingError("`start` must be 'random' or 'marginal' for a short run; got 'data'. That is CD.")
        _check_start(self.start)

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> MarkovState:
        state = MarkovState()
        self._prepare(energy, data, state, generator)
        if self.start == "marginal":
            need_discrete("start='marginal'", energy)
            state.frequencies = site_frequencies(energy.space, need_states("start='marginal'", data))
        return state

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, MarkovState):
            raise SettingError(f"`state` must be what ShortRun.init returned; got {type(state).__name__}.")
        batch = self._noisy(energy, batch, state, generator)
        if state.frequencies is None:
            x = energy.space.random(len(batch), generator)
        else:
            x = _from_frequencies(energy.space, state.frequencies, len(batch), generator)
        return self._contrast(energy, batch, x, state, generator)


def _check_start(start: Any, known: tuple[str, ...] = STARTS) -> None:
    if start not in known:
        raise SettingError(f"`start` must be one of {', '.join(known)}; got {start!r}. Use {known[-1]!r}.")


_COST = "data and negatives once, and n_steps of the sampler"
register(
    ObjectiveSpec(
        "cd",
        CD,
        "contrastive divergence from the data",
        "Hinton 2002",
        needs_sampler=True,
        cost=_COST,
        use_when="A calm start, and conditional models; the density away from the data stays wrong.",
    )
)
register(
    ObjectiveSpec(
        "pcd",
        PCD,
        "contrastive divergence from persistent chains",
        "Tieleman 2008",
        needs_sampler=True,
        cost=_COST,
        use_when="The standard for a density: maximum likelihood as long as the chains keep up.",
    )
)
register(
    ObjectiveSpec(
        "short-run",
        ShortRun,
        "contrastive divergence from fresh noise",
        "Nijkamp et al. 2019",
        needs_sampler=True,
        cost=_COST,
        use_when="Generating by a fixed number of steps; no chains to keep.",
    )
)
