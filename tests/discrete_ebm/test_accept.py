"""The one acceptor: Hastings' ratio in log space, NaN never accepted, no uniform that is exactly zero."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha, select
from tests.statistical import level


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_beta_multiplies_the_energy_and_not_the_correction() -> None:
    log_alpha = metropolis_log_alpha(torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([0.5]))
    assert log_alpha.item() == pytest.approx(-5.5)


@pytest.mark.parametrize("chance", [0.01, 0.3, 0.9])
def test_acceptance_has_the_probability_it_reports(chance: float, seed: int) -> None:
    """Exact binomial test on 200,000 draws at 1e-8; a gap of 0.007 is seen."""
    n = 200_000
    accepted, reported = metropolis_hastings(torch.full((n,), math.log(chance)), generator=_generator(seed))
    assert stats.binomtest(int(accepted.sum()), n, chance).pvalue > level(1e-8)
    torch.testing.assert_close(reported, torch.full((n,), chance))


def test_certain_impossible_and_undefined_ratios() -> None:
    log_alpha = torch.tensor([0.0, 5.0, math.inf, -math.inf, math.nan]).repeat(10_000, 1).flatten()
    accepted, reported = metropolis_hastings(log_alpha, generator=_generator())
    accepted, reported = accepted.view(-1, 5), reported.view(-1, 5)
    assert accepted[:, :3].all()
    assert not accepted[:, 3:].any()
    assert torch.equal(reported[0], torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))


def test_a_hopeless_proposal_is_never_accepted_in_half_precision() -> None:
    """bfloat16 uniforms are 0 in 0.2 % of draws, which would accept anything."""
    log_alpha = torch.full((1_000_000,), -60.0, dtype=torch.bfloat16)
    accepted, _ = metropolis_hastings(log_alpha, generator=_generator())
    assert not accepted.any()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 3), st.integers(1, 5))
def test_select_takes_rows(extra: int, chains: int) -> None:
    shape = (chains, *[2] * extra)
    new, old = torch.ones(shape), torch.zeros(shape)
    accepted = torch.arange(chains) % 2 == 0
    chosen = select(accepted, new, old)
    assert chosen.shape == new.shape
    assert torch.equal(chosen.flatten(1).bool().all(1) if extra else chosen.bool(), accepted)
