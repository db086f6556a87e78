r"""Multiple-try Metropolis: look at K candidates, take one in proportion to its weight, accept exactly.

For a step x → y proposed by m and undone by m′ let r = exp(−β ΔE)·q(m′|y)/q(m|x). The weight of a candidate is
w(x, y) = g(r) with a balancing function g(t) = t·g(1/t), so that π(x)·q(m|x)·w(x, y) is the same in both directions.
One step draws K candidates from q(·|x), picks y with probability ∝ w(x, y), draws K − 1 reference states from q(·|y),
adds x to them, and accepts with min(1, Σ w(x, candidates)/Σ w(y, references)). K = 1 is Metropolis–Hastings.

Auxiliary draws of a proposal (its context, such as a ring to repaint) are part of m: every candidate and every
reference has its own, the way back of the chosen candidate uses the chosen one's.

What it buys: per step at most K times a Metropolis–Hastings step, so on hardware that is already busy it never pays in
evaluations of the energy (Pozza & Zanella 2024, arXiv:2410.23174); it pays where a batch of K costs little more than
one, and where a cheap energy scores the candidates (see :class:`graph_ebm.moves.shortlist.ShortlistKernel`).

Source: Liu, Liang & Wong 2000; free choice of weights: Pandolfi, Bartolucci & Friel 2010; locally balanced weights:
Chang, Lee, Luo, Sang & Zhou 2022 and Gagnon, Maire & Zanella 2023, arXiv:2211.11613. g: Zanella 2020, arXiv:1711.07424.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers.accept import metropolis_hastings, select
from discrete_ebm.samplers.balancing import log_balancing
from discrete_ebm.samplers.informed import Proposal, draw_move

__all__ = ["MultipleTry", "check_tries", "multiple_try"]

Propose = Callable[[Tensor, Tensor], Proposal]
Evaluate = Callable[[Tensor], Tensor]


class MultipleTry(NamedTuple):
    """What one multiple-try step did to C chains.

    ``x`` and ``energy`` (C,): where the chains stand now; ``chosen``: the candidate that was picked (x where there was
    none); ``accepted`` (C,) bool; ``acceptance`` (C,) its probability given the candidates and references;
    ``calls``: evaluations of the energy per chain; ``non_finite`` () int64: candidates and references whose energy was
    nan or −∞. Those have weight 0, as have states of energy +∞ (a hard constraint at work, not a fault).
    """

    x: Tensor
    energy: Tensor
    chosen: Tensor
    accepted: Tensor
    acceptance: Tensor
    calls: float
    non_finite: Tensor


def check_tries(n_tries: int) -> int:
    """``n_tries`` itself, an int of at least 1.

    Raises:
        SettingError: it is anything else.
    """
    if isinstance(n_tries, bool) or not isinstance(n_tries, int) or n_tries < 1:
        raise SettingError(f"`n_tries` must be an int of at least 1; got {n_tries!r}. 1 is Metropolis-Hastings.")
    return n_tries


class _Weighed(NamedTuple):
    """B proposals with their energies: ``log_weight`` and ``log_back`` (log g of r and of 1/r), each (B,)."""

    y: Tensor
    energy: Tensor
    log_weight: Tensor
    log_back: Tensor
    evaluated: int
    non_finite: Tensor


def _weigh(
    proposal: Proposal, evaluate: Evaluate, energy_x: Tensor, beta: Tensor, log_g: Callable[[Tensor], Tensor]
) -> _Weighed:
    """Energies and weights of proposals; illegal ones and those of non-finite energy have weight 0."""
    legal = proposal.possible & (proposal.log_q_ratio > -torch.inf)
    energy_y, evaluated = _energies(proposal.y, evaluate, legal, energy_x)
    finite = energy_y.isfinite()
    log_r = _log_ratio(proposal.log_q_ratio.to(energy_x.dtype), beta, energy_y - energy_x)
    # a chain that starts at infinite energy has r = inf for every way out: a large number says the same without nan
    most = torch.finfo(log_r.dtype).max / 8
    log_r = log_r.nan_to_num(nan=0.0).clamp(-most, most)
    log_weight = torch.where(legal & finite, log_g(log_r), -torch.inf)
    faults = legal & (energy_y.isnan() | (energy_y == -torch.inf))
    return _Weighed(proposal.y, energy_y, log_weight, log_g(-log_r), evaluated, faults.sum())


def _log_ratio(log_q_ratio: Tensor, beta: Tensor, delta: Tensor) -> Tensor:
    """log r of the proposals: β multiplies the energy alone."""
    return log_q_ratio - beta * delta


def _energies(y: Tensor, evaluate: Evaluate, wanted: Tensor, fallback: Tensor) -> tuple[Tensor, int]:
    """Energies of the wanted rows and how many were evaluated; on the CPU only those (looking is free there)."""
    if y.device.type != "cpu":
        return torch.where(wanted, evaluate(y).to(fallback.dtype), fallback), len(y)
    rows = wanted.nonzero()[:, 0]
    if len(rows) == 0:
        return fallback.clone(), 0
    return fallback.index_put((rows,), evaluate(y[rows]).to(fallback.dtype)), len(rows)


def _reference_total(log_back: Tensor, log_weights: Tensor) -> Tensor:
    """log Σ of the weights at y: K − 1 reference states (C, K−1) and x itself (C,)."""
    return torch.cat([log_back[:, None], log_weights], dim=1).logsumexp(1)


@torch.no_grad()
def multiple_try(
    propose: Propose,
    evaluate: Evaluate,
    x: Tensor,
    energy: Tensor,
    *,
    beta: Tensor,
    n_tries: int,
    generator: torch.Generator,
    balancing: str = "barker",
) -> MultipleTry:
    """One multiple-try step of C chains that leaves exp(−β E) invariant.

    Args:
        propose: ``propose(x (B, *shape), chain (B,)) -> Proposal`` draws one proposal for every row, independently;
            ``chain`` is the chain that each row belongs to. ``log_q_ratio`` must be exact, ``possible`` False for what
            may not happen (never a redraw).
        evaluate: energies (B,) of states (B, *shape), nats at beta = 1.
        x: states (C, *shape).
        energy: their energies (C,), as ``evaluate`` gives them.
        beta: (C,) inverse temperatures.
        n_tries: K, candidates per chain.
        generator: source of the choices made here.
        balancing: name of g: "barker", "sqrt", "min" or "max". With bounded g ("barker", "min") one freak candidate
            cannot make all others impossible.
    Returns:
        MultipleTry.
    Raises:
        SettingError: unknown balancing function, or ``n_tries`` below 1.
    """
    log_g, c = log_balancing(balancing), len(x)
    check_tries(n_tries)
    if energy.dtype not in (torch.float32, torch.float64):  # sums of weights need more than half precision
        wide = multiple_try(
            propose, evaluate, x, energy.float(), beta=beta.float(), n_tries=n_tries, generator=generator,
            balancing=balancing,
        )
        return wide._replace(energy=wide.energy.to(energy.dtype))
    chains = torch.arange(c, device=x.device)
    owner = chains.repeat_interleave(n_tries)
    tried = _weigh(propose(x[owner], owner), evaluate, energy[owner], beta[owner], log_g)
    log_weights = tried.log_weight.view(c, n_tries)
    pick, possible = draw_move(log_weights, generator=generator)
    chosen = chains * n_tries + pick
    y = select(possible, tried.y[chosen], x)
    energy_y = torch.where(possible, tried.energy[chosen], energy)

    # chains without a candidate need no references; leaving them out is free where looking is
    live = possible.nonzero()[:, 0] if x.device.type == "cpu" else chains
    owner = live.repeat_interleave(n_tries - 1)
    if len(owner):
        around = _weigh(propose(y[owner], owner), evaluate, energy_y[owner], beta[owner], log_g)
        references, evaluated, non_finite = around.log_weight, around.evaluated, around.non_finite
    else:
        references, evaluated, non_finite = log_weights.new_empty(0), 0, torch.zeros_like(tried.non_finite)
    total_y = _reference_total(tried.log_back[chosen[live]], references.view(len(live), n_tries - 1))
    log_alpha = torch.full_like(energy, -torch.inf)
    log_alpha[live] = log_weights[live].logsumexp(1) - total_y
    accepted, acceptance = metropolis_hastings(log_alpha, generator=generator)
    accepted = accepted & possible
    return MultipleTry(
        x=select(accepted, y, x),
        energy=torch.where(accepted, energy_y, energy),
        chosen=y,
        accepted=accepted,
        acceptance=torch.where(possible, acceptance, 0.0),
        calls=(tried.evaluated + evaluated) / max(c, 1),
        non_finite=tried.non_finite + non_finite,
    )
