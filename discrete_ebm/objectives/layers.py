r"""One update of contrastive divergence for a Bernoulli RBM whose layers are drawn in turn, without autograd.

The derivative of mean E(data) − mean E(negatives) is known, and nearly everything it needs the chains have computed:

    g_W = −⟨v h̄⟩_data + ⟨v h̄⟩_model,   g_b = −⟨v⟩_data + ⟨v⟩_model,   g_c = −⟨h̄⟩_data + ⟨h̄⟩_model,

h̄ the hidden means. With offsets μ, λ the centred g_W is that of v − μ and h̄ − λ. Data and the chains' old states go
through one matrix product, the last states' hidden log odds are the sampler's own, and both halves of g_W are one
product: 4 + 2k products of one batch by W for k steps (autograd and a kernel that starts anew: 7 + 2k).
Source: Hinton 2012, "A practical guide to training restricted Boltzmann machines", §§2 and 3; centring: Montavon &
Müller 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from discrete_ebm.chains import StepTotals, advance, raise_if_not_finite
from discrete_ebm.energies.rbm import BernoulliRBM
from discrete_ebm.objectives.base import ObjectiveOutput
from discrete_ebm.objectives.centring import Offsets
from discrete_ebm.samplers.base import ChainState
from discrete_ebm.samplers.block_gibbs import BlockGibbs

__all__ = ["contrast_layers", "fits_layers", "with_derivatives"]


def fits_layers(energy: Any, kernel: Any) -> bool:
    """Whether :func:`contrast_layers` can stand in for autograd: all of the energy is the RBM, and all of it learns."""
    return (
        type(energy) is BernoulliRBM
        and isinstance(kernel, BlockGibbs)
        and energy.weight.dtype in (torch.float32, torch.float64)
        and all(p.requires_grad for p in (energy.weight, energy.visible_bias, energy.hidden_bias))
        and energy.n_hidden > 0
    )


@torch.no_grad()
def contrast_layers(
    energy: BernoulliRBM,
    kernel: BlockGibbs,
    batch: Tensor,
    x: Tensor,
    n_steps: int,
    *,
    generator: torch.Generator,
    offsets: Offsets | None = None,
    rate: float = 0.01,
    average: bool = False,
) -> ObjectiveOutput:
    """Negatives after ``n_steps`` of ``kernel`` from x, and mean E(batch) − mean E(negatives) with its derivative.

    Args:
        batch: (B, *shape) data. x: (C, *shape) where the chains are; ``batch`` itself for CD.
        offsets: of centring, moved by ``rate`` towards the means of the batch (``average``: of batch and negatives)
            before they are used; None = the plain derivative.
    Raises:
        NonFiniteEnergyError: names the chains.
    """
    n_rows, dtype = len(batch), energy.weight.dtype
    both = (batch if x is batch else torch.cat([batch, x])).flatten(1).to(dtype)
    odds = torch.addmm(energy.hidden_bias, both, energy.weight)
    energies = -(both @ energy.visible_bias) - softplus(odds).sum(1)
    chains = slice(0, None) if x is batch else slice(n_rows, None)
    state = ChainState(x, energies[chains], {"hidden_odds": odds[chains]}, torch.zeros((), dtype=torch.int64))
    data, odds, positive = both[:n_rows], odds[:n_rows], energies[:n_rows]
    raise_if_not_finite(energy, state, StepTotals.zero(state.energy), "at the start of its steps")
    state, totals = advance(kernel, energy, state, n_steps, generator=generator)

    drawn, n_chains = state.x.reshape(len(x), -1).to(dtype), len(x)
    hidden, hidden_drawn = odds.sigmoid(), state.cache["hidden_odds"].sigmoid()
    v, v_drawn, h, h_drawn = data.mean(0), drawn.mean(0), hidden.mean(0), hidden_drawn.mean(0)
    visible_bias, hidden_bias = v_drawn - v, h_drawn - h
    if offsets is not None:
        share = n_chains / (n_rows + n_chains) if average else 0.0
        offsets.step(v.lerp(v_drawn, share), h.lerp(h_drawn, share), rate)
        data, drawn = data - offsets.visible, drawn - offsets.visible
        hidden, hidden_drawn = hidden - offsets.hidden, hidden_drawn - offsets.hidden
    weight = torch.cat([data, drawn]).t() @ torch.cat([hidden / -n_rows, hidden_drawn / n_chains])
    if offsets is not None:
        visible_bias = visible_bias - weight @ offsets.hidden
        hidden_bias = hidden_bias - weight.t() @ offsets.visible

    here, there = positive.mean(), state.energy.mean()
    gap = there - here
    terms = {
        "positive_energy": here,
        "negative_energy": there,
        "gap": gap,
        "spread": positive.std(correction=0),
    }
    if totals.n_steps:
        terms["acceptance"] = totals.accepted.mean() / totals.n_steps
        terms["hamming"] = totals.hamming.mean() / totals.n_steps
    parameters = (energy.weight, energy.visible_bias, energy.hidden_bias)
    loss = with_derivatives(-gap, parameters, (weight, visible_bias, hidden_bias))
    return ObjectiveOutput(loss, terms, state.x)


def with_derivatives(value: Tensor, parameters: Sequence[Tensor], derivatives: Sequence[Tensor]) -> Tensor:
    """() ``value`` as a scalar of the parameters whose derivatives are those given."""
    with torch.enable_grad():
        found: Tensor = _Given.apply(value, list(derivatives), *parameters)
    return found


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, derivatives: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.derivatives = derivatives
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer[0] * part for part in ctx.derivatives)
