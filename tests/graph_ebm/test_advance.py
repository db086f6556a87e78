"""Chains that advance side by side keep the law, the seed and what belongs to each chain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graph_ebm.advance import LEAST_CHAINS, advance_chains
from tests.graph_ebm.exact_moves import TableEnergy, kernel, noisy, random_energy, target
from tests.graph_ebm.small_space import index_of, molecules, relabelled
from tests.statistical import assert_law

FALSE_FAIL = 1e-6  # of each statistical test below


def chains(rows: np.ndarray, seed: int, *, delayed: bool = True):
    """(kernel, energy, state, generator) with chains at the given molecules."""
    table = random_energy()
    energy = TableEnergy(table, noisy(table) if delayed else None)
    generator = torch.Generator().manual_seed(seed)
    k = kernel(delayed=delayed)
    x = relabelled(molecules()[0][torch.tensor(rows)], generator)
    return k, energy, k.init(energy, x, generator=generator), generator


@pytest.mark.parametrize("workers", [1, 3])
def test_the_law_is_kept(workers: int, seed: int) -> None:
    """16,000 independent exact starts, 40 steps; sees a total variation of 0.1."""
    law = target(random_energy())
    rows = np.random.default_rng(seed).choice(len(law), size=16_000, p=law)
    k, energy, state, generator = chains(rows, seed)
    done = advance_chains(k, energy, state, 40, generator=generator, workers=workers)
    ends = index_of(done.state.x)
    assert_law(np.bincount(ends, minlength=len(law)), law, false_fail=FALSE_FAIL, must_see=0.1)
    assert (ends != rows).mean() > 0.5, "the chains hardly moved: keeping the law would prove nothing"
    assert torch.equal(done.state.energy, energy.state_energy(done.state.x)), "energies belong to other chains"
    assert torch.equal(done.state.cache["surrogate"], energy.surrogate(done.state.x))
    assert sum(done.tried.values()) == 16_000 * 40
    assert all(0 <= done.accepted[name] <= done.tried[name] for name in k.names)
    assert done.energy_calls <= 16_000 * 40


def test_a_wrong_law_would_be_seen(seed: int) -> None:
    """The same check from starts at twice the temperature fails: it can."""
    law = target(random_energy())
    rows = np.random.default_rng(seed).choice(len(law), size=16_000, p=target(random_energy(), 0.5))
    k, energy, state, generator = chains(rows, seed)
    ends = index_of(advance_chains(k, energy, state, 1, generator=generator, workers=1).state.x)
    with pytest.raises(AssertionError, match="law differs"):
        assert_law(np.bincount(ends, minlength=len(law)), law, false_fail=FALSE_FAIL, must_see=0.1)


def test_parts_are_independent(seed: int) -> None:
    """Equal starts in two workers do not repeat each other's moves."""
    k, energy, state, generator = chains(np.full(2 * LEAST_CHAINS, 40), seed)
    done = advance_chains(k, energy, state, 30, generator=generator, workers=2)
    first, second = done.state.x.split(LEAST_CHAINS)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_seed_and_workers_give_the_same_bits(workers: int) -> None:
    def run(seed: int):
        k, energy, state, generator = chains(np.arange(150), seed)
        return advance_chains(k, energy, state, 15, generator=generator, workers=workers)

    one, two, other = run(3), run(3), run(4)
    assert torch.equal(one.state.x, two.state.x)
    assert torch.equal(one.state.energy, two.state.energy)
    assert (one.tried, one.accepted, one.energy_calls) == (two.tried, two.accepted, two.energy_calls)
    assert not torch.equal(one.state.x, other.state.x)


def test_two_calls_with_one_generator_differ() -> None:
    k, energy, state, generator = chains(np.arange(100), 0)
    one = advance_chains(k, energy, state, 10, generator=generator, workers=1)
    two = advance_chains(k, energy, state, 10, generator=generator, workers=1)
    assert not torch.equal(one.state.x, two.state.x)
    assert int(one.state.step) == int(state.step) + 10


def test_chains_are_not_cut_thinner_than_pays(monkeypatch) -> None:
    import graph_ebm.advance as module

    made = []

    class Pool(module.ThreadPoolExecutor):
        def __init__(self, n):
            made.append(n)
            super().__init__(n)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    for n, workers in ((LEAST_CHAINS, 8), (2 * LEAST_CHAINS - 1, 8), (3 * LEAST_CHAINS + 5, 8)):
        k, energy, state, generator = chains(np.arange(n) % 500, 0)
        done = advance_chains(k, energy, state, 2, generator=generator, workers=workers)
        assert done.state.x.shape == state.x.shape
    assert made == [3], "one pool, of three parts"


@pytest.mark.parametrize("workers", [1, 2])
def test_torchs_thread_count_is_restored_also_after_an_error(workers: int) -> None:
    class Broken(TableEnergy):
        def state_energy(self, x):
            if self.calls > 0:
                raise RuntimeError("broken")
            return super().state_energy(x)

    k, energy, state, generator = chains(np.arange(200), 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        advance_chains(k, energy, state, 2, generator=generator, workers=workers)
        assert torch.get_num_threads() == 2
        broken = Broken(random_energy())
        broken.surrogate = energy.surrogate
        broken.calls = 1
        with pytest.raises(RuntimeError, match="broken"):
            advance_chains(k, broken, state, 30, generator=generator, workers=workers)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_chain_has_its_own_beta(workers: int) -> None:
    """beta 0 in the first half: its energies rise to those of the free walk, the cold half stays below it."""
    k, energy, state, generator = chains(np.full(400, int(random_energy().argmin())), 0, delayed=False)
    beta = torch.cat([torch.zeros(200), torch.full((200,), 50.0)])
    done = advance_chains(k, energy, state, 60, generator=generator, beta=beta, workers=workers)
    hot, cold = done.state.energy.split(200)
    assert hot.mean() > random_energy().min() + 2
    assert cold.max() <= random_energy().min() + 0.5
    # one number for all, as a tensor of no or of one entry
    for one in (torch.tensor(50.0), torch.tensor([50.0])):
        done = advance_chains(k, energy, state, 5, generator=generator, beta=one, workers=workers)
        assert done.state.energy.max() <= random_energy().min() + 0.5


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["per chain", "shared", "one row"])
def test_each_chain_keeps_its_own_clamp(workers: int, form: str) -> None:
    k, energy, state, generator = chains(np.arange(100, 300), 0)
    clamp = torch.zeros(200, 4, 4, dtype=torch.bool)
    clamp[:, :2, :2] = True
    if form == "per chain":
        clamp[::2] = False  # the even chains are free
    given = {"per chain": clamp, "shared": clamp[0], "one row": clamp[:1]}[form]
    done = advance_chains(k, energy, state, 40, generator=generator, clamp=given, workers=workers)
    changed = (done.state.x != state.x)[:, :2, :2].flatten(1).any(1)
    assert not changed[1::2].any()
    assert changed[::2].any() == (form == "per chain")
    assert (done.state.x != state.x).flatten(1).any(1)[1::2].any(), "clamped chains still move elsewhere"
