"""Informed proposals: the drawn law, both directions, and neighbourhoods that lead back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from discrete_ebm.errors import ConformanceError, SettingError
from discrete_ebm.samplers.balancing import BALANCING, log_balancing
from discrete_ebm.samplers.informed import Proposal, draw_move, propose, screen
from discrete_ebm.samplers.single_site import SingleSite
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Spin
from discrete_ebm.testing import matrix_from_neighbourhood
from tests import reference, statistical

SPACES = [Binary(3), Spin((2, 2)), Categorical(3, [2, 4, 3]), Ordinal(2, [0.0, 0.5, 3.0]), Categorical(1, 2),
          Product({"a": Spin(2), "b": Categorical(1, 3)})]


@pytest.mark.parametrize("name", sorted(BALANCING))
def test_balancing_functions_are_balanced(name: str) -> None:
    log_t = torch.linspace(-60, 60, 241, dtype=torch.float64)
    g = log_balancing(name)
    torch.testing.assert_close(g(log_t), log_t + g(-log_t))
    theirs = np.log(reference.BALANCING[name](np.exp(log_t.numpy())))
    np.testing.assert_allclose(g(log_t).numpy(), theirs, rtol=1e-12, atol=1e-12)


def test_an_unknown_balancing_function_is_refused() -> None:
    with pytest.raises(SettingError, match="barker"):
        log_balancing("cube")


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_single_site_moves_reach_each_neighbour_once_and_lead_back(space: object) -> None:
    states = space.enumerate()
    hood = SingleSite(space)
    prior = hood.log_prior(states)
    index = space.to_index(states)
    wanted = int((space.n_values - 1).sum())
    assert ((prior == 0).sum(1) == wanted).all()
    seen: list[set] = [set() for _ in states]
    for m in range(prior.shape[1]):
        at = (prior[:, m] == 0).nonzero()[:, 0]
        if not len(at):
            continue
        move = torch.full_like(at, m)
        y = hood.apply(states[at], move)
        space.validate(y)
        assert ((space.to_index(y) != index[at]).sum(1) == 1).all()
        back = hood.reverse(states[at], move, y)
        assert torch.equal(hood.apply(y, back), states[at])
        assert (hood.log_prior(y).gather(1, back[:, None]) == 0).all()
        for row, state in zip(at.tolist(), space.to_index(y).tolist(), strict=True):
            seen[row].add(tuple(state))
    assert all(len(row) == wanted for row in seen)


def test_draws_have_the_softmax_law_and_never_a_masked_move(seed: int) -> None:
    """100,000 draws of one row with −inf in it, false-fail 1e-8; a total variation of 0.02 is seen."""
    logits = torch.tensor([0.3, -torch.inf, 2.0, -1.0, -torch.inf, 0.0])
    move, possible = draw_move(logits.expand(100_000, -1), generator=torch.Generator().manual_seed(seed))
    assert possible.all()
    statistical.assert_law(np.bincount(move, minlength=6), logits.double().softmax(0).numpy(), false_fail=1e-8,
                           must_see=0.021)


def test_a_row_without_a_legal_move_says_so() -> None:
    _, possible = draw_move(torch.tensor([[-torch.inf, -torch.inf], [0.0, -torch.inf]]), generator=torch.Generator())
    assert possible.tolist() == [False, True]


def test_half_precision_logits_are_drawn_in_float32(seed: int) -> None:
    logits = torch.tensor([0.0, -30.0], dtype=torch.bfloat16).expand(1_000_000, -1)
    move, _ = draw_move(logits, generator=torch.Generator().manual_seed(seed))
    assert (move == 0).all()


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(sorted(BALANCING)), st.floats(0.1, 3.0))
def test_the_log_ratio_is_the_references(seed: int, balancing: str, beta: float) -> None:
    """Random energies on a ragged space: log q(x|y) − log q(y|x) to 1e-10 in float64."""
    space, radices = Categorical(3, [2, 3, 2]), (2, 3, 2)
    states, rng = space.enumerate(), np.random.default_rng(seed)
    table = rng.normal(size=12)
    deltas = reference.exact_deltas(table, radices)
    shipped = torch.tensor(np.nan_to_num(deltas)).flatten(1)
    number = reference.row_number(radices)

    def deltas_at(x: Tensor) -> Tensor:
        return shipped[[number[tuple(row)] for row in x.tolist()]]

    generator = torch.Generator().manual_seed(seed)
    proposal = propose(SingleSite(space), states, beta=torch.full((12,), beta, dtype=torch.float64),
                       generator=generator, deltas_at=deltas_at, balancing=balancing)
    q = reference.informed_proposal(deltas, radices, beta, balancing)
    y = [number[tuple(row)] for row in proposal.y.tolist()]
    wanted = [np.log(q[t, s] / q[s, t]) for s, t in enumerate(y)]
    np.testing.assert_allclose(proposal.log_q_ratio.numpy(), wanted, atol=1e-10)
    torch.testing.assert_close(proposal.deltas_y, deltas_at(proposal.y))


def test_kept_deltas_give_the_same_proposal_and_are_not_asked_for_again(seed: int) -> None:
    space, calls = Binary(4), []

    def deltas_at(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.double() * 0.7 - 0.2

    x = space.enumerate()
    beta = torch.ones(16, dtype=torch.float64)
    one, two = (propose(SingleSite(space), x, beta=beta, generator=torch.Generator().manual_seed(seed),
                        deltas_at=deltas_at, deltas_x=kept) for kept in (None, x.double() * 0.7 - 0.2))
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.log_q_ratio, two.log_q_ratio)
    assert len(calls) == 3


def test_an_uninformed_proposal_is_uniform_over_legal_moves() -> None:
    space = Categorical(3, [2, 3, 2])
    states = space.enumerate()
    matrix, q = matrix_from_neighbourhood(SingleSite(space), states, torch.zeros(12, dtype=torch.float64))
    assert torch.allclose(q[q > 0], torch.tensor(0.25, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.t())


def test_the_matrix_helper_notices_a_reverse_that_does_not_lead_back() -> None:
    class Lost(SingleSite):
        def reverse(self, x: Tensor, move: Tensor, y: Tensor, context: object = None) -> Tensor:
            return (move + 1) % self.space.n_sites

    space = Binary(3)
    with pytest.raises(ConformanceError, match="lead back"):
        matrix_from_neighbourhood(Lost(space), space.enumerate(), torch.zeros(8))
    with pytest.raises(ConformanceError, match="closed"):
        matrix_from_neighbourhood(SingleSite(space), space.enumerate()[:5], torch.zeros(5))


def test_a_chain_with_everything_clamped_stays_without_nan(seed: int) -> None:
    space = Spin(3)
    x, clamp = space.enumerate(), torch.ones(3, dtype=torch.bool)
    proposal = propose(SingleSite(space), x, beta=torch.ones(8), generator=torch.Generator().manual_seed(seed),
                       deltas_at=lambda x: torch.zeros(len(x), 3), clamp=clamp)
    assert torch.equal(proposal.y, x)
    assert not proposal.possible.any()
    assert torch.equal(proposal.log_q_ratio, torch.zeros(8))


@pytest.mark.parametrize("error", [0.0, 0.7, 3.0])
def test_delayed_acceptance_keeps_the_target_whatever_the_surrogate(error: float, seed: int) -> None:
    """60,000 exact draws, 8 steps with a surrogate that is wrong by ``error``; false-fail 1e-8, sees 0.027."""
    rng, n = np.random.default_rng(3), 60_000
    table, wrong = torch.tensor(rng.normal(size=8)), torch.tensor(rng.normal(size=8) * error)
    space, place = Binary(3), torch.tensor([4, 2, 1])
    law = reference.boltzmann(table.numpy(), 1.5)
    x = space.enumerate()[np.random.default_rng(seed).choice(8, n, p=law)]
    generator, beta = torch.Generator().manual_seed(seed), torch.full((n,), 1.5, dtype=torch.float64)
    for _ in range(8):
        proposal = propose(SingleSite(space), x, beta=beta, generator=generator)
        here, there = ((rows.long() @ place) for rows in (x, proposal.y))
        cheap = (table + wrong)[there] - (table + wrong)[here]
        promoted, _ = screen(cheap, proposal, beta=beta, generator=generator)
        left = (table[there] - table[here]) - cheap
        accepted = promoted & (-torch.empty_like(left).exponential_(generator=generator) <= -beta * left)
        x = torch.where(accepted[:, None], proposal.y, x)
    counts = np.bincount((x.long() @ place).numpy(), minlength=8)
    statistical.assert_law(counts, law, false_fail=1e-8, must_see=0.027)


def test_screening_promotes_nothing_without_a_move() -> None:
    possible = torch.tensor([False, True])
    nothing = Proposal(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.zeros(2), possible)
    promoted, _ = screen(torch.full((2,), -5.0), nothing, beta=torch.ones(2), generator=torch.Generator())
    assert promoted.tolist() == [False, True]
