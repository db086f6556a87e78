r"""JEM: train a classifier and the density of its inputs as one model.

With E(x, y) = −f(x)[y], log p(x, y) = log p(x) + log p(y | x), so the joint log-likelihood of a labelled row and the
factored one are the same number; what differs between recipes is the weight of the two terms, which rows have a label,
and how negatives are drawn:

* ``chains="marginal"``: x from p(x), by steps on E(x) = −logsumexp f(x). The published default.
* ``chains="joint"``: pairs from p(x, y): each update draws y from p(y | x), then moves x at that label.
* ``chains="class"``: every chain has its class for life (a buffer per class) and moves on E(x, y). Then log p(x | y) is
  trained, with the classes' frequencies from the data instead of the model's.

Source: Grathwohl et al. 2020, arXiv:1912.03263, eq. 7 and algorithm 1. Stabilisers: Yang & Ji 2021, "JEM++",
arXiv:2109.09032 (clipped steps, an informed start); Yang, Su & Ji 2023, "Towards bridging the performance gaps of joint
energy-based models" (SADA-JEM), arXiv:2209.07959 (flat minima by SAM; no augmentation in the term of p(x)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from discrete_ebm.chain_bank import ChainBank
from discrete_ebm.chain_inputs import resolve_sampler
from discrete_ebm.chains import StepTotals
from discrete_ebm.energies.base import energy_dtype
from discrete_ebm.energies.class_gaussians import ClassGaussians
from discrete_ebm.energies.classifier import ClassEnergy
from discrete_ebm.errors import CapabilityError, CheckpointError, DataError, SettingError, SpaceError
from discrete_ebm.objectives.base import ObjectiveOutput, ObjectiveState
from discrete_ebm.objectives.contrastive import BankState, MarkovObjective, draw_negatives
from discrete_ebm.objectives.labelled import LabelledStates
from discrete_ebm.objectives.needs import finite_number, fraction, whole_number
from discrete_ebm.objectives.registry import ObjectiveSpec, register
from discrete_ebm.samplers.base import Kernel
from discrete_ebm.samplers.sgld import SGLD
from discrete_ebm.spaces import Real

__all__ = ["JEM", "JEMState", "jem_loss", "sharpness_aware"]

CHAINS = ("marginal", "joint", "class")
STARTS = ("gaussian", "random", "data")
_SAMPLER = SGLD(step_size=0.2, noise=0.02)  # calmer than the published step of 1; docs/jem.md has both
Augment = Callable[[Tensor, torch.Generator], Tensor]


class JEMState(BankState):
    """Chains with a label each, where their fresh starts come from, and the rows that have labels."""

    def __init__(self, bank: ChainBank, labels: Tensor, gaussians: ClassGaussians | None,
                 labelled: LabelledStates) -> None:
        super().__init__(bank)
        self.labels = labels  # (size,) int64
        self.gaussians, self.labelled = gaussians, labelled

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "labels": self.labels.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        found = state.get("labels")
        if found is None or found.shape != self.labels.shape:
            got = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise CheckpointError(f"`state['labels']` must have shape {tuple(self.labels.shape)}, one a chain; got "
                                  f"{got}. Resume with the objective that was saved.")
        super().load_state_dict(state)
        self.labels.copy_(found)


def jem_loss(
    energies: Tensor,
    label: Tensor,
    negative_energies: Tensor | None,
    negative_label: Tensor | None = None,
    *,
    x_weight: float = 1.0,
    y_weight: float = 1.0,
    by_class: bool = False,
    penalty: float = 0.0,
) -> ObjectiveOutput:
    r"""x_weight · (mean E(x⁺) − mean E(x⁻)) + y_weight · mean −log p(y | x⁺) + penalty · (mean E² of both).

    The mean of −log p(y | x) is over rows with a label. With both weights 1 and x⁻ from p(x), the gradient is that of
    −log p(x, y) (of −log p(x) for rows without a label). ``by_class``: the first bracket is mean E(x⁺, y⁺) − mean
    E(x⁻, y⁻) instead, with E(x⁺) for rows without a label: the gradient of −log p(x | y) where y⁻ has the frequencies
    of the data's labels.

    Args:
        energies: (B, Y) E(x, y) of data. label: (B,), −1 for none.
        negative_energies: (C, Y) of the model's draws; None = no bracket. negative_label: (C,) for ``by_class``.
    """
    log_p = (-energies).log_softmax(-1)
    known = label >= 0
    picked = label.clamp(min=0)[:, None]
    surprise = -log_p.gather(1, picked).squeeze(1) * known
    n_known = known.sum().clamp(min=1)
    cross_entropy = surprise.sum() / n_known
    right = ((log_p.argmax(-1) == label) & known).sum() / n_known
    terms = {"cross_entropy": cross_entropy.detach(), "accuracy": right.to(energies.dtype)}
    loss = y_weight * cross_entropy
    if negative_energies is None:
        return ObjectiveOutput(loss, terms)
    marginal = -(-energies).logsumexp(-1)
    negative_marginal = -(-negative_energies).logsumexp(-1)
    positive, negative = marginal, negative_marginal
    if by_class:
        if negative_label is None:
            raise SettingError("`negative_label` must be given with by_class=True; got None.")
        positive = marginal + surprise  # E(x, y) = E(x) − log p(y | x)
        negative = negative_energies.gather(1, negative_label[:, None]).squeeze(1)
    gap = negative.mean() - positive.mean()
    loss = loss - x_weight * gap
    if penalty:
        loss = loss + penalty * (marginal.square().mean() + negative_marginal.square().mean())
    terms |= {
        "positive_energy": positive.mean().detach(),
        "negative_energy": negative.mean().detach(),
        "gap": gap.detach(),
        "spread": marginal.detach().std(correction=0),
    }
    return ObjectiveOutput(loss, terms)


def sharpness_aware(energy: nn.Module, evaluate: Callable[[], ObjectiveOutput], rho: float) -> ObjectiveOutput:
    r"""The output at θ + ρ g/‖g‖, g the gradient at θ, as one whose derivative at θ is the gradient there.

    Parameters are moved and moved back, to the bit, also where ``evaluate`` raises; the price is a second gradient.
    The same random numbers must be used by both calls of ``evaluate``.
    Source: Foret et al. 2021, "Sharpness-aware minimization", arXiv:2010.01412, eqs. 2 and 3.
    """
    own = [p for p in energy.parameters() if p.requires_grad]
    first = torch.autograd.grad(evaluate().loss, own, allow_unused=True)
    length = torch.stack([g.square().sum() for g in first if g is not None]).sum().sqrt()
    before = [p.detach().clone() for p in own]
    try:
        with torch.no_grad():
            for p, g in zip(own, first, strict=True):
                if g is not None:
                    p.add_(g * (rho / length.clamp(min=1e-30)))  # a gradient of exactly 0 moves nothing
        output = evaluate()
        found = torch.autograd.grad(output.loss, own, allow_unused=True)
    finally:
        with torch.no_grad():
            for p, old in zip(own, before, strict=True):
                p.copy_(old)
    change = sum(((p - p.detach()) * g).sum() for p, g in zip(own, found, strict=True) if g is not None)
    return ObjectiveOutput(output.loss.detach() + change, output.terms, output.negatives)


@dataclass(frozen=True)
class JEM(MarkovObjective):
    """Train a :class:`~discrete_ebm.energies.ClassifierEnergy` on :class:`LabelledStates`; see the module.

    Args:
        sampler: the kernel that moves negatives; SGLD by default, nearly a descent. n_steps: its steps an update; the
            published values (step 1, noise .01, 20 steps) are for deep networks.
        bank_size: chains that are kept between updates. restart: probability that a drawn chain starts anew.
        x_weight: of −log p(x); 0 is an ordinary classifier, without chains. y_weight: of −log p(y | x); 0 leaves an
            energy that never sees labels.
        chains: "marginal", "joint" or "class".
        start: of chains, first and anew: "gaussian" (of each class, in the data's mean and covariance), "random"
            states, or "data" rows (restarts are then "gaussian" on reals and random elsewhere).
        labelled_batch: −log p(y | x) on this many labelled rows drawn anew each update, for data of which few have
            labels; None = on the labelled rows of the batch.
        noise: standard deviation of what is added to data, anew each update, then moved back to the bounds. The
            default is for pixels from −1 to 1 and buys robustness; .03 (published) keeps the density sharp.
        augment: (x, generator) -> x, in the term of p(y | x) only: p(x) must not learn augmented images.
        sam: radius of sharpness-aware minimisation, 0 = off; doubles the cost of the gradient, not of the chains.
        penalty, max_steps, gradient_penalty, data_noise (discrete sites): see :class:`MarkovObjective`.
    Source: Grathwohl et al. 2020, "Your classifier is secretly an energy based model", arXiv:1912.03263, algorithm 1.
    """

    sampler: str | Kernel = _SAMPLER
    n_steps: int = 3
    bank_size: int = 1000
    restart: float = field(default=0.05, kw_only=True)
    x_weight: float = field(default=1.0, kw_only=True)
    y_weight: float = field(default=1.0, kw_only=True)
    chains: str = field(default="marginal", kw_only=True)
    start: str = field(default="gaussian", kw_only=True)
    labelled_batch: int | None = field(default=None, kw_only=True)
    noise: float = field(default=0.3, kw_only=True)
    augment: Augment | None = field(default=None, kw_only=True)
    sam: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("bank_size", self.bank_size)
        fraction("restart", self.restart, "Use 0.05.")
        for name in ("x_weight", "y_weight", "noise", "sam"):
            finite_number(name, getattr(self, name))
        if self.x_weight == 0 and self.y_weight == 0:
            raise SettingError("`x_weight` and `y_weight` must not both be 0; got nothing to train.")
        if self.chains not in CHAINS:
            raise SettingError(f"`chains` must be one of {', '.join(CHAINS)}; got {self.chains!r}. Use 'marginal'.")
        if self.start not in STARTS:
            raise SettingError(f"`start` must be one of {', '.join(STARTS)}; got {self.start!r}. Use 'gaussian'.")
        if self.labelled_batch is not None:
            whole_number("labelled_batch", self.labelled_batch)
        if self.centre is not None:
            raise SettingError(f"`centre` must be None for JEM; got {self.centre!r}. It is for RBMs.")

    def init(self, energy: Any, data: Any, *, generator: torch.Generator) -> ObjectiveState:
        if not isinstance(energy, ClassEnergy):
            raise CapabilityError(f"`energy` must be a sum over classes for JEM; got {type(energy).__name__}. Wrap the "
                                  "network: de.energies.ClassifierEnergy(network, space).")
        if not isinstance(data, LabelledStates):
            raise DataError(f"`data` must be LabelledStates for JEM; got {type(data).__name__}. Use "
                            "de.objectives.LabelledStates(space, x, y, n_classes), with −1 for rows without a label.")
        if data.space != energy.space or data.n_classes != energy.n_classes:
            raise SpaceError(f"`data` must be of the energy's space and classes, {energy.space!r} and "
                             f"{energy.n_classes}; got {data.space!r} and {data.n_classes}.")
        data = data.to(generator.device)
        labelled = data.labelled
        if self.y_weight and not len(labelled):
            raise DataError("`data` must have a labelled row for log p(y | x); got none. Use y_weight=0, or PCD.")
        if self.chains == "class" and not len(labelled):
            raise DataError("`data` must have labels for chains='class'; got none. Use chains='marginal'.")
        if not self.x_weight:
            return JEMState(ChainBank(energy.space, 1, generator=generator), torch.zeros(1, dtype=torch.int64), None,
                            labelled)
        gaussians = self._gaussians(energy, data, labelled)
        labels = _classes(labelled, energy.n_classes, self.bank_size, generator)
        x0 = None
        if self.start == "gaussian" and gaussians is not None:
            x0 = gaussians.sample(generator=generator, label=labels)
        elif self.start == "data":
            rows = torch.randint(len(data), (self.bank_size,), generator=generator, device=generator.device)
            if self.chains == "class":
                rows = torch.randint(len(labelled), (self.bank_size,), generator=generator, device=generator.device)
                labels = labelled.y[rows]
            x0 = labelled.x[rows] if self.chains == "class" else data.x[rows]
        state = JEMState(ChainBank(energy.space, self.bank_size, x0, generator=generator), labels, gaussians, labelled)
        self._prepare(energy, data.x, state, generator)
        return state

    def _gaussians(self, energy: ClassEnergy, data: LabelledStates, labelled: LabelledStates) -> ClassGaussians | None:
        if self.start == "random" or not isinstance(energy.space, Real):
            if self.start == "gaussian":
                raise SpaceError(f"`start` 'gaussian' must be on Real; got {energy.space!r}. Use start='random'.")
            return None
        counts = torch.bincount(labelled.y, minlength=energy.n_classes)
        if bool((counts > 0).all()):  # covariances shrink towards that of all rows, where labels are few
            found = ClassGaussians.fit(energy.space, data.x, data.y, energy.n_classes)
        elif self.chains == "class":
            raise DataError("`data` must label every class for chains='class' with start='gaussian'; got "
                            f"{counts.tolist()} labels of each. Use start='random'.")
        else:  # one for all
            one, n = ClassGaussians.fit(energy.space, data.x), energy.n_classes
            found = ClassGaussians(energy.space, torch.full((n,), 1 / n), one.mean.expand(n, -1),
                                   one.factor.expand(n, -1, -1))
        return found.to(data.x.device, energy_dtype(energy) or torch.float32)

    def loss(self, energy: Any, batch: Any, state: ObjectiveState, *, generator: torch.Generator) -> ObjectiveOutput:
        if not isinstance(state, JEMState):
            raise SettingError(f"`state` must be what JEM.init returned; got {type(state).__name__}.")
        batch = batch.to(generator.device)
        negatives, labels, totals = self._negatives(energy, len(batch), state, generator)
        x, y = self._disturbed(energy, batch.x, state, generator), batch.y
        own_rows: tuple[Tensor, Tensor] | None = None  # rows of −log p(y | x) where they are not the batch itself
        if self.labelled_batch is not None:
            rows = torch.randint(len(state.labelled), (self.labelled_batch,), generator=generator,
                                 device=generator.device)
            own_rows = (self._disturbed(energy, state.labelled.x[rows], state, generator), state.labelled.y[rows])
        if self.augment is not None:
            at, label = (batch.x, y) if own_rows is None else (own_rows[0], own_rows[1])
            own_rows = (self.augment(at, generator), label)

        def evaluate() -> ObjectiveOutput:
            return self._evaluate(energy, x, y, own_rows, negatives, labels)

        output = sharpness_aware(energy, evaluate, self.sam) if self.sam else evaluate()
        output.negatives = negatives
        if totals is not None:
            output.terms["acceptance"] = totals.accepted.mean() / totals.n_steps
            if self.max_steps is not None:
                state.see(output.terms["gap"], output.terms["spread"])
                output.terms["steps"] = torch.full_like(output.terms["gap"], totals.n_steps)
        return output

    def _evaluate(self, energy: ClassEnergy, x: Tensor, y: Tensor, own_rows: tuple[Tensor, Tensor] | None,
                  negatives: Tensor | None, labels: Tensor | None) -> ObjectiveOutput:
        """The loss at the present parameters; the same random numbers each time."""
        from discrete_ebm.objectives.contrastive import slope_penalty

        dtype = energy_dtype(energy)
        joined = x if negatives is None else torch.cat([x, negatives.to(x.dtype)])
        energies = energy.class_energies(energy.space.encode_as(joined, dtype))
        negative_energies = None if negatives is None else energies[len(x):]
        output = jem_loss(energies[: len(x)], y, negative_energies, labels, x_weight=self.x_weight,
                          y_weight=0.0 if own_rows is not None else self.y_weight, by_class=self.chains == "class",
                          penalty=self.penalty)
        if own_rows is not None:
            found = -energy.label_log_probabilities(own_rows[0])
            more = jem_loss(found, own_rows[1], None, y_weight=self.y_weight)
            output.loss = output.loss + more.loss
            output.terms |= more.terms
        if self.gradient_penalty:
            slope = slope_penalty(energy, x)
            output.loss = output.loss + self.gradient_penalty * slope
            output.terms["slope"] = slope.detach()
        return output

    def _negatives(self, energy: ClassEnergy, n: int, state: JEMState, generator: torch.Generator
                   ) -> tuple[Tensor | None, Tensor | None, StepTotals | None]:
        """(states, labels) of chains after their steps, written back to the bank."""
        if not self.x_weight:
            return None, None, None
        rows, x = state.bank.draw(min(n, len(state.bank)), generator)
        labels = state.labels[rows]
        if self.restart:
            anew = torch.rand(len(rows), generator=generator, device=x.device) < self.restart
            fresh = (energy.space.random(len(rows), generator) if state.gaussians is None
                     else state.gaussians.sample(generator=generator, label=labels).to(x.dtype))
            x = torch.where(anew.reshape(-1, *[1] * (x.dim() - 1)), fresh, x)
            state.bank.ages[rows] *= ~anew
        target: Any = energy
        if self.chains != "marginal":
            if self.chains == "joint":
                with torch.no_grad():
                    log_p = (-energy.class_energies(energy.space.encode_as(x, energy_dtype(energy)))).log_softmax(-1)
                labels = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(1)
                state.labels[rows] = labels
            target = energy.given(labels)
        kernel = resolve_sampler(self.sampler, energy.space)
        negatives, totals = draw_negatives(kernel, target, x, self._steps(state), generator=generator)
        state.bank.write(rows, negatives)
        return negatives, labels, totals

    def _disturbed(self, energy: Any, x: Tensor, state: JEMState, generator: torch.Generator) -> Tensor:
        x = self._noisy(energy, x, state, generator)
        if not self.noise or not isinstance(energy.space, Real):
            return x
        x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        low, high = energy.space.low, energy.space.high
        x = x if low is None else torch.maximum(x, low.to(x))
        return x if high is None else torch.minimum(x, high.to(x))


def _classes(labelled: LabelledStates, n_classes: int, size: int, generator: torch.Generator) -> Tensor:
    """(size,) labels with the frequencies of the data's, uniform where it has none."""
    counts = torch.bincount(labelled.y, minlength=n_classes).double()
    law = counts if float(counts.sum()) else torch.ones_like(counts)
    return torch.multinomial(law.to(generator.device), size, replacement=True, generator=generator)


register(
    ObjectiveSpec(
        "jem",
        JEM,
        "a classifier and the density of its inputs as one model",
        "Grathwohl et al. 2020",
        needs_sampler=True,
        spaces="a classifier's",
        task="labelled",
        cost="data, negatives and labelled rows once, and n_steps of the sampler",
        use_when="Labels, and calm answers far from the data: robustness, out-of-distribution, rows without labels.",
    )
)
