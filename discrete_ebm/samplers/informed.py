"""Informed proposals, written once: pick a move from a neighbourhood with probability ∝ prior · g(exp(−β Δ)).

Gibbs-with-Gradients is this on single-site changes; molecule edits are this on graphs. A neighbourhood says which
moves there are, what each leads to and which move leads back; this file draws, scores both directions and accepts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha
from discrete_ebm.samplers.balancing import log_balancing

__all__ = ["Neighbourhood", "Proposal", "draw_move", "draw_moves", "propose", "screen", "wide_scores"]

_LIMIT = 1e6  # nats: beyond it a weight means "always" or "never", and within it float64 still tells 1e-10 apart


class Neighbourhood(ABC):
    """M candidate moves at every state, each with its exact reverse.

    M is fixed; moves that are illegal at a state have prior −inf there. For every legal move m at x:
    ``reverse(x, m, apply(x, m))`` is legal at ``apply(x, m)`` and leads back to x (up to a relabelling that the target
    does not see).
    """

    name: str = "neighbourhood"

    @abstractmethod
    def log_prior(self, x: Tensor, context: Any = None, clamp: Tensor | None = None) -> Tensor:
        """(C, M) log weights of the moves before the energy is looked at; −inf = illegal or clamped."""

    @abstractmethod
    def apply(self, x: Tensor, move: Tensor, context: Any = None) -> Tensor:
        """New states (C, *shape) for moves (C,); ``x`` is not modified."""

    @abstractmethod
    def reverse(self, x: Tensor, move: Tensor, y: Tensor, context: Any = None) -> Tensor:
        """Index (C,) of the move at ``y`` that leads back to ``x``."""

    def draw_context(self, x: Tensor, generator: torch.Generator) -> Any:
        """Auxiliary draw made before the move (e.g. a cycle to repaint); its law must be the same at x and y."""
        return None

    def scores(self, x: Tensor, deltas: Tensor | None, beta: Tensor, balancing: str, context: Any = None,
               clamp: Tensor | None = None) -> Tensor:
        """(C, M) unnormalised log proposal probabilities: log prior + log g(exp(−β Δ)); ``deltas`` None = no scores."""
        log_weight = self.log_prior(x, context, clamp)
        if deltas is None:
            return log_weight
        informed = log_weight + log_balancing(balancing)(-beta[:, None] * deltas)
        return torch.where(log_weight == -torch.inf, log_weight, informed)


class Proposal(NamedTuple):
    """Proposed states ``y``, the ``move`` (C,) that led there, log q(x|y) − log q(y|x) (C,), and ``possible`` (C,).

    ``deltas_y`` (C, M) are the deltas at ``y``, for the caller to keep where the proposal is accepted.
    """

    y: Tensor
    move: Tensor
    log_q_ratio: Tensor
    possible: Tensor
    deltas_y: Tensor | None = None


def draw_move(logits: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One index per row with probability softmax(logits): ``(move (C,), any legal (C,) bool)``.

    Gumbel-max through exponentials at float32 or better: −inf is never drawn, no 2²⁴ category limit, no host sync.
    """
    work = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    noise = torch.empty_like(work).exponential_(generator=generator).log()
    move = (work - noise).argmax(dim=-1)
    possible = work.gather(-1, move[:, None])[:, 0] > -torch.inf
    return move, possible


def draw_moves(logits: Tensor, n: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``n`` indices per row, independent, each with probability softmax(logits): ``(moves (C, n), any legal (C,))``.

    By inversion of the running sum in float64 with a strict comparison, so that −inf is never drawn and one row of
    M logits costs M + n log M. A running sum that a device rounds up over a weight of 0 must still be refused by the
    caller, who sees log q = −inf there.
    """
    work = logits.double()
    top = work.amax(dim=-1, keepdim=True)
    possible = top > -torch.inf
    cumulative = torch.where(possible, (work - top).exp(), torch.zeros_like(work)).cumsum(-1)
    total = cumulative[:, -1:]
    uniform = torch.rand((work.shape[0], n), generator=generator, device=work.device, dtype=work.dtype)
    # u·total may round up to total; just below it stays inside the support
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).clamp_max(work.shape[1] - 1), possible[:, 0]


def wide_scores(
    neighbourhood: Neighbourhood, x: Tensor, deltas: Tensor, beta: Tensor, balancing: str, clamp: Tensor | None
) -> Tensor:
    """(C, M) float64 scores within ±10⁶ nats, −inf = illegal: for proposals that add up many log probabilities.

    Where moves are drawn one after the other, the likely ones are used up first and the rest is renormalised: their
    scores must keep their digits although they are far below the largest (forbidden states stand at ∓10³⁰).
    """
    scores = neighbourhood.scores(x, deltas.double(), beta.double(), balancing, None, clamp)
    return scores.clamp(-_LIMIT, _LIMIT).masked_fill(scores == -torch.inf, -torch.inf)


def propose(
    neighbourhood: Neighbourhood,
    x: Tensor,
    *,
    beta: Tensor,
    generator: torch.Generator,
    deltas_at: Any = None,
    balancing: str = "sqrt",
    clamp: Tensor | None = None,
    deltas_x: Tensor | None = None,
) -> Proposal:
    """Draw a move from x and take the reverse probability at y.

    ``deltas_at(x)`` gives (C, M) energy changes (exact or estimated) or is None for an uninformed proposal; with
    ``deltas_x`` given (kept from the step before) it is called once, at y. Chains without a legal move stay
    (``possible`` False, y = x).
    """
    context = neighbourhood.draw_context(x, generator)
    if deltas_x is None and deltas_at is not None:
        deltas_x = deltas_at(x)
    forward = neighbourhood.scores(x, deltas_x, beta, balancing, context, clamp)
    move, possible = draw_move(forward, generator=generator)
    y = neighbourhood.apply(x, move, context)
    y = torch.where(possible.reshape(-1, *[1] * (x.dim() - 1)), y, x)
    deltas_y = deltas_at(y) if deltas_at is not None else None
    backward = neighbourhood.scores(y, deltas_y, beta, balancing, context, clamp)
    back = neighbourhood.reverse(x, move, y, context)
    log_forward = forward.gather(-1, move[:, None])[:, 0] - forward.logsumexp(-1)
    log_backward = backward.gather(-1, back[:, None])[:, 0] - backward.logsumexp(-1)
    ratio = torch.where(possible, log_backward - log_forward, torch.zeros_like(log_forward))
    return Proposal(y, move, ratio, possible, deltas_y)


def screen(
    surrogate_delta: Tensor, proposal: Proposal, *, beta: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """First stage of delayed acceptance: ``(promoted (C,) bool, stage-one acceptance (C,))``.

    A promoted proposal is then accepted with min(1, exp(−β(ΔE − ΔE_surrogate))). The two stages together keep
    exp(−βE) exactly whatever the surrogate is; a good one saves most evaluations of the energy.

    Source: Christen & Fox 2005, "Markov chain Monte Carlo using an approximation".
    """
    log_alpha = metropolis_log_alpha(surrogate_delta, beta, proposal.log_q_ratio)
    promoted, acceptance = metropolis_hastings(log_alpha, generator=generator)
    return promoted & proposal.possible, acceptance
