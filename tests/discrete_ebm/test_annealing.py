"""Simulated annealing: the schedule is the one asked for, the best state the best seen, reheating happens when due."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.annealing import anneal
from discrete_ebm.energies import Ising
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import SettingError, ShapeError
from discrete_ebm.samplers.annealing import SimulatedAnnealing
from discrete_ebm.samplers.base import ChainState
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference


def _glass(n: int = 10) -> Ising:
    coupling = np.triu(np.random.default_rng(3).normal(0, 1, (n, n)), 1)
    return Ising(torch.tensor(coupling + coupling.T), 0.1).requires_grad_(False)


def _run(kernel: SimulatedAnnealing, energy: Ising, n_chains: int, n_steps: int, seed: int = 0) -> list[ChainState]:
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, energy.space.random(n_chains, generator), generator=generator)
    states = [state]
    for _ in range(n_steps):
        state, _ = kernel.step(energy, state, generator=generator)
        states.append(state)
    return states


def test_it_finds_the_ground_state_of_a_small_glass(seed: int) -> None:
    """Each of 32 chains finds it with probability far above one half; all failing has less than 1e-9."""
    energy = _glass()
    lowest = float(evaluate_energy(energy, energy.space.enumerate()).min())
    found = anneal(energy, "gibbs", n_chains=32, n_steps=100, seed=seed)
    assert found.best_energy == pytest.approx(lowest, abs=1e-9)
    assert float(evaluate_energy(energy, found.best_x[None])) == pytest.approx(lowest, abs=1e-9)
    assert (found.energy < lowest + 1e-9).double().mean() > 0.3
    assert found.x.shape == (32, 10)
    assert found.chains.acceptance_rate == 1.0


def test_the_best_is_the_best_of_all_states_seen() -> None:
    energy = _glass(6)
    states = _run(SimulatedAnnealing("metropolis", n_steps=30, end=2.0), energy, 16, 40)
    seen = torch.stack([state.energy for state in states])
    for step, state in enumerate(states):
        best, at = seen[: step + 1].min(0)
        assert torch.equal(state.cache["best_energy"], best)
        rows = torch.stack([states[int(k)].x[c] for c, k in enumerate(at)])
        assert torch.equal(evaluate_energy(energy, state.cache["best_x"]), evaluate_energy(energy, rows))


@pytest.mark.parametrize(("settings", "wanted"), [
    ({"schedule": "linear", "start": 1.0, "end": 3.0}, [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
    ({"schedule": "geometric", "start": 1.0, "end": 16.0}, [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]),
    ({"schedule": (0.0, 4.0, 5.0)}, [0.0, 2.0, 4.0, 4.5, 5.0, 5.0]),
])
def test_the_schedule_is_the_one_asked_for(settings: dict, wanted: list[float]) -> None:
    kernel = SimulatedAnnealing(n_steps=5, **settings)
    np.testing.assert_allclose(kernel.multiplier(torch.arange(6)).numpy(), wanted, rtol=1e-12)


def test_a_step_is_the_inner_kernels_at_the_betas_of_the_schedule() -> None:
    """The same bits as the inner kernel, driven by hand, with a beta of each chain's own on top."""
    energy, betas = _glass(5), torch.tensor([0.5, 1.0, 2.0])
    kernel, inner = SimulatedAnnealing("gwg", n_steps=4, schedule=(0.2, 1.0)), samplers.create("gwg")
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    x = energy.space.random(3, torch.Generator().manual_seed(1))
    left, right = (k.init(energy, x, generator=g) for k, g in ((kernel, one), (inner, two)))
    for step in range(6):
        left, _ = kernel.step(energy, left, generator=one, beta=betas)
        b = 0.2 + 0.8 * min(step, 3) / 3
        right, _ = inner.step(energy, right, generator=two, beta=betas.double() * b)
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.cache["own_deltas"], right.cache["deltas"])


def test_cycles_start_the_schedule_again() -> None:
    states = _run(SimulatedAnnealing(n_steps=6, cycles=2), _glass(4), 2, 8)
    assert [int(state.cache["position"][0]) for state in states] == [0, 1, 2, 0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(("n_steps", "cycles"), [(10, 3), (10, 6), (7, 5), (11, 4), (12, 4), (5, 5)])
def test_every_cycle_is_run_to_its_end_within_the_run(n_steps: int, cycles: int) -> None:
    kernel = SimulatedAnnealing(n_steps=n_steps, cycles=cycles, schedule="linear", start=0.0, end=1.0)
    states = _run(kernel, _glass(4), 1, n_steps + 3)
    shares = [float(kernel.multiplier(state.cache["position"])) for state in states[:-1]]  # that each step was made at
    assert shares.count(0.0) == cycles
    if n_steps >= 2 * cycles:
        assert sum(a < 1 and b == 1 for a, b in itertools.pairwise(shares)) == cycles
        assert set(shares[n_steps - 1:]) == {1.0}


def test_a_wandering_chain_is_heated_up_again() -> None:
    flat = Ising(torch.zeros(3, 3)).requires_grad_(False)
    states = _run(SimulatedAnnealing(n_steps=101, wander_steps=20, reheat_to=0.1), flat, 2, 45)
    assert int(states[19].cache["position"][0]) == 19
    assert int(states[20].cache["position"][0]) == 10
    assert int(states[40].cache["position"][0]) == 10
    assert states[45].cache["reheats"].tolist() == [2, 2]
    busy = _run(SimulatedAnnealing(n_steps=101, wander_steps=20, wander_change=0.0, end=0.2), _glass(), 2, 45)
    assert busy[45].cache["reheats"].tolist() == [0, 0]
    never = _run(SimulatedAnnealing(n_steps=101), flat, 2, 45)
    assert never[45].cache["reheats"].tolist() == [0, 0]


def test_only_feasible_states_count_as_best() -> None:
    energy = _glass(6)

    def balanced(x: torch.Tensor) -> torch.Tensor:
        return x.sum(1) == 0

    found = anneal(energy, n_chains=32, n_steps=60, end=2.0, feasible=balanced, seed=1)
    allowed = energy.space.enumerate()
    allowed = allowed[balanced(allowed)]
    assert bool(balanced(found.x[found.energy.isfinite()]).all())
    assert found.best_energy == pytest.approx(float(evaluate_energy(energy, allowed).min()), abs=1e-9)
    nowhere = anneal(energy, n_chains=3, n_steps=5, feasible=lambda x: torch.zeros(len(x), dtype=torch.bool))
    assert nowhere.energy.tolist() == [math.inf] * 3
    with pytest.raises(ShapeError, match="feasible"):
        anneal(energy, n_chains=3, n_steps=5, feasible=lambda x: x)


def test_clamped_sites_keep_their_values() -> None:
    energy = _glass(6)
    clamp = torch.tensor([True, False, True, False, False, False])
    x0 = torch.ones(4, 6, dtype=torch.int8)
    found = anneal(energy, n_steps=30, x0=x0, clamp=clamp)
    assert bool((found.x[:, clamp] == 1).all())
    states = energy.space.enumerate()
    states = states[(states[:, clamp] == 1).all(1)]
    assert found.best_energy == pytest.approx(float(evaluate_energy(energy, states).min()), abs=1e-9)


def test_it_says_that_it_is_no_sampler_and_keeps_the_other_promises(seed: int) -> None:
    assert not samplers.spec("simulated-annealing").exact
    assert not SimulatedAnnealing.exact
    targets = [t for t in default_targets("Spin", 0) if t.name == "Spin coupled"]
    assert check_sampler("simulated-annealing", seed=seed, targets=targets, n_steps=20).passed


def test_its_states_are_colder_than_the_target() -> None:
    """The bias is real: at the end of a schedule to β = 4 the mean energy is far below that at β = 1."""
    case = cases.ising_dense()
    states = _run(SimulatedAnnealing(n_steps=50, end=4.0), case.energy, 4000, 50)
    mean = float(reference.boltzmann(case.table, 1.0) @ case.table)
    cold = float(reference.boltzmann(case.table, 4.0) @ case.table)
    assert float(states[-1].energy.mean()) < (mean + cold) / 2


def test_a_run_can_be_saved_and_resumed() -> None:
    energy = _glass(6)
    kernel = SimulatedAnnealing("gwg", n_steps=40, wander_steps=3)
    whole = _run(kernel, energy, 8, 20)[-1]
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(energy, energy.space.random(8, generator), generator=generator)
    for _ in range(20):
        state = ChainState(state.x.clone(), state.energy.clone(), {k: v.clone() for k, v in state.cache.items()},
                           state.step.clone())
        state, _ = SimulatedAnnealing("gwg", n_steps=40, wander_steps=3).step(energy, state, generator=generator)
    assert all(torch.equal(whole.cache[name], part) for name, part in state.cache.items())


@pytest.mark.parametrize(("settings", "word"), [
    ({"inner": 3}, "inner"), ({"n_steps": 0}, "n_steps"), ({"schedule": "cosine"}, "schedule"),
    ({"schedule": (1.0,)}, "schedule"), ({"schedule": (1.0, -1.0)}, "schedule"), ({"schedule": 3}, "schedule"),
    ({"start": 0.0}, "start"), ({"end": math.inf}, "end"), ({"cycles": 0}, "cycles"),
    ({"cycles": 5, "n_steps": 4}, "cycles"), ({"wander_steps": -1}, "wander_steps"),
    ({"wander_change": -1.0}, "wander_change"), ({"reheat_to": 1.0}, "reheat_to"), ({"feasible": 1}, "feasible"),
])
def test_wrong_settings_are_refused_with_a_sentence(settings: dict, word: str) -> None:
    with pytest.raises(SettingError, match=f"`{word}` must"):
        SimulatedAnnealing(**settings)
