"""The compiled step of a binary RBM: its law from the definition, and the energy, odds and changes that it reports."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import BernoulliRBM
from discrete_ebm.samplers import block_gibbs
from tests.statistical import chi_square, level

pytest.importorskip("numba")


def machine(n_visible: int, n_hidden: int, dtype: torch.dtype, scale: float = 1.0) -> BernoulliRBM:
    generator = torch.Generator().manual_seed(4)
    weight = scale * torch.randn(n_visible, n_hidden, generator=generator, dtype=dtype)
    return BernoulliRBM(n_visible, n_hidden, weight=weight,
                        visible_bias=torch.randn(n_visible, generator=generator, dtype=dtype),
                        hidden_bias=torch.randn(n_hidden, generator=generator, dtype=dtype))


def stepped(energy: BernoulliRBM, x: torch.Tensor, seed: int, steps: int = 1) -> tuple:
    kernel, generator = samplers.create("block-gibbs", implementation="fused"), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, x, generator=generator)
    for _ in range(steps):
        before = state
        state, info = kernel.step(energy, state, generator=generator)
    return before, state, info


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 2), (70, 130), (5, 4500), (6, 0)])
def test_energy_odds_and_changes_are_those_of_the_state(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """More hidden units than one product of factors holds, fewer than a block, none at all."""
    energy = machine(*shape, dtype, scale=3 / shape[0])
    before, state, info = stepped(energy, energy.space.random(67, torch.Generator().manual_seed(0)), seed=1, steps=3)
    close = {"rtol": 3e-6, "atol": 3e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-11}
    torch.testing.assert_close(state.energy, energy(energy.space.encode(state.x).to(dtype)).detach(), **close)
    torch.testing.assert_close(state.cache["hidden_odds"], energy.hidden_logits(state.x).detach(), **close)
    assert torch.equal(info.hamming, (state.x != before.x).flatten(1).sum(1))
    assert bool((info.hamming > 0).any())


def test_one_step_has_the_law_of_the_definition(seed: int) -> None:
    """P(y | x) = Σ_h p(h | x) p(y | h) for every y, from every x, by plain sums over h."""
    energy, n = machine(3, 2, torch.float32), 20_000
    weight, b, c = (p.detach().double().numpy() for p in (energy.weight, energy.visible_bias, energy.hidden_bias))

    def given(odds: np.ndarray, draw: np.ndarray) -> float:
        return float(np.prod(1 / (1 + np.exp(np.where(draw == 1, -odds, odds)))))

    states = [np.array(bits) for bits in product((0, 1), repeat=3)]
    budget = level(1e-9)
    for x in states:
        law = np.array([sum(given(c + x @ weight, h) * given(b + weight @ h, y)
                            for h in map(np.array, product((0, 1), repeat=2))) for y in states])
        _, state, _ = stepped(energy, torch.from_numpy(np.tile(x, (n, 1))).to(torch.int8), seed)
        counts = np.bincount(state.x.long().numpy() @ np.array([4, 2, 1]), minlength=8)
        p, _ = chi_square(counts, law)
        assert p > budget / len(states), (x, counts / n, law)


def test_what_is_not_finite_is_left_to_the_reference_which_counts_it() -> None:
    energy = machine(4, 3, torch.float32)
    kernel, generator = samplers.create("block-gibbs"), torch.Generator().manual_seed(0)
    state = kernel.init(energy, energy.space.random(8, generator), generator=generator)
    with torch.no_grad():
        energy.visible_bias[2] = torch.nan
    assert block_gibbs._by_compiled_passes(energy, state, state.cache["hidden_odds"], generator) is None
    after, info = kernel.step(energy, state, generator=generator)
    assert int(info.non_finite) == 8
    assert torch.equal(after.x, state.x)
