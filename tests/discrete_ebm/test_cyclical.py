"""Every step of the cyclical sampler is its matrix and keeps the target by itself; tuning happens in a burn-in only.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly over at most 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import cyclical
from discrete_ebm.spaces import Binary, Real
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference
from tests.cases import Case
from tests.factorised import assert_rows, product_proposal, restrict, shipped_matrix, squared_distances

EACH = 1e-7 / 10
CASES = {case.name: case for case in cases.all_cases()}


def acs_matrix(case: Case, deltas: np.ndarray, beta: float, alpha: float, balance: float,
               free: list[int] | None = None) -> np.ndarray:
    """q_i(v) ∝ exp(b (−β Δ) − d²/2α), then Metropolis–Hastings."""
    weight = np.exp(-balance * beta * np.nan_to_num(deltas) - squared_distances(case) / (2 * alpha))
    q = product_proposal(restrict(weight, case.radices, free), case.radices)
    return reference.metropolis(q, reference.boltzmann(case.table, beta))


def paper_schedule(alpha_max: float, alpha_min: float, balance_max: float, cycle: int) -> list[tuple[float, float]]:
    """(α_k, b_k) before tuning, as float32 keeps them."""
    out = []
    alphas = [max(alpha_min, alpha_max * (1 + math.cos(math.pi * k / cycle)) / 2) for k in range(cycle)]
    for alpha in alphas:
        share = (alpha - min(alphas)) / (alpha_max - min(alphas))
        log_alpha = np.float32(np.log(alpha_max)) + np.float32(np.log(alpha / alpha_max))
        out.append((float(np.exp(np.float64(np.float32(log_alpha)))),
                    float(np.float32(0.5 + (balance_max - 0.5) * share))))
    return out


@pytest.mark.parametrize("name", ["net-binary", "net-spin", "net-ragged", "net-ordinal", "ising-dense"])
def test_every_step_of_the_cycle_is_its_matrix_and_keeps_the_target_by_itself(name: str) -> None:
    case = CASES[name]
    kernel = samplers.create("acs", cycle=5, exact_deltas=False)
    for beta in (0.3, 2.0):
        target = reference.boltzmann(case.table, beta)
        for k, (alpha, balance) in enumerate(paper_schedule(2.0, 0.2, 0.95, 5)):
            wanted = acs_matrix(case, case.taylor, beta, alpha, balance)
            for at_step in (k, k + 15):
                matrix = shipped_matrix(case, kernel, beta, at_step=at_step)
                assert np.abs(matrix - wanted).max() <= 1e-10
            assert reference.stationarity_error(matrix, target) <= 1e-10
            assert reference.balance_error(matrix, target) <= 1e-10


def test_a_clamped_step_is_the_matrix_of_the_free_sites() -> None:
    case = CASES["net-ordinal"]
    alpha, balance = paper_schedule(2.0, 0.2, 0.95, 8)[3]
    matrix = shipped_matrix(case, samplers.create("acs"), 2.0, [1], at_step=3)
    assert np.abs(matrix - acs_matrix(case, case.taylor, 2.0, alpha, balance, [1])).max() <= 1e-10


def test_with_a_cycle_of_one_and_b_a_half_it_is_dmala() -> None:
    case = CASES["net-ragged"]
    one = shipped_matrix(case, samplers.create("acs", cycle=1, balance_max=0.5, step_size=0.7))
    assert np.abs(one - shipped_matrix(case, samplers.create("dmala", step_size=0.7))).max() <= 1e-12


def test_the_shipped_draws_are_the_matrix_row_by_row(seed: int) -> None:
    case, betas = CASES["net-ragged"], (0.3, 2.0)
    alpha, balance = paper_schedule(2.0, 0.2, 0.95, 8)[0]
    matrices = [acs_matrix(case, case.taylor, beta, alpha, balance) for beta in betas]
    assert_rows(case, samplers.create("acs"), matrices, betas, seed, false_fail=EACH)


def test_it_conforms_with_a_long_first_step(seed: int) -> None:
    targets = [target for target in default_targets("Categorical", 1) if target.depth == "full"]
    assert check_sampler("acs", seed=seed, targets=targets, step_size=20.0, cycle=3, exact_deltas=False).passed


# -- tuning ---------------------------------------------------------------------------------------------------------


def test_tuning_reaches_its_target_and_is_then_only_read(seed: int) -> None:
    case = cases.ising_lattice((2, 4))
    kernel, generator = samplers.create("acs", cycle=6), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.space.random(200, generator), generator=generator)
    tuned = kernel.tune(case.energy, state, generator=generator, n_probe=6)
    assert int(tuned.step) % 6 == 0
    balance = tuned.cache["balance"][0]
    assert bool((balance[1:] <= balance[:-1]).all())
    assert bool(((balance >= 0.5) & (balance <= 0.95 + 1e-6)).all())
    assert bool((tuned.cache["log_shape"].diff(dim=1) <= 0).all())
    kept = {name: part.clone() for name, part in tuned.cache.items() if name != "deltas"}
    rates = []
    for _ in range(12):
        tuned, info = kernel.step(case.energy, tuned, generator=generator)
        rates.append(float(info.acceptance.mean()))
    assert np.mean(rates) >= 0.35  # the goal is 0.5 at both ends of the cycle
    assert all(torch.equal(tuned.cache[name], part) for name, part in kept.items())


def test_a_tuned_schedule_keeps_the_target_at_every_step(seed: int) -> None:
    case = CASES["net-ordinal"]
    kernel, generator = samplers.create("acs", cycle=3), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.space.random(50, generator), generator=generator)
    tuned = kernel.tune(case.energy, state, generator=generator, n_probe=3)
    shared = {name: tuned.cache[name][:1] for name in ("log_scale", "log_shape", "balance")}
    target = reference.boltzmann(case.table, 1.0)
    for k in range(3):
        matrix = shipped_matrix(case, kernel, 1.0, cache=shared, at_step=k)
        log_alpha = shared["log_scale"] + shared["log_shape"][:, k]
        wanted = acs_matrix(case, case.taylor, 1.0, float(log_alpha.double().exp()), float(shared["balance"][0, k]))
        assert np.abs(matrix - wanted).max() <= 1e-10
        assert reference.balance_error(matrix, target) <= 1e-10


def test_tuning_no_chains_is_not_an_error() -> None:
    case, kernel, generator = CASES["net-ragged"], samplers.create("acs"), torch.Generator()
    state = kernel.init(case.energy, case.x(np.arange(0)), generator=generator)
    assert kernel.tune(case.energy, state, generator=generator).x.shape == (0, 3)


# -- planted bugs ---------------------------------------------------------------------------------------------------


def _stale() -> Any:
    original = cyclical.factorised_step

    def stale(energy: Any, state: Any, weights: Any, **options: Any) -> Any:
        return original(energy, state, lambda index, deltas: weights(index, state.cache["deltas"]), **options)

    return mock.patch.object(cyclical, "factorised_step", stale)


def _balance_on_the_way_out_only() -> Any:
    """The way back scored at b = ½, as in a code that stores one global balancing."""
    original = cyclical.factorised_step

    def lopsided(energy: Any, state: Any, weights: Any, **options: Any) -> Any:
        calls: list[int] = []

        def once(index: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return weights(index, deltas if len(calls) == 1 else deltas * 0.5)

        return original(energy, state, once, **options)

    return mock.patch.object(cyclical, "factorised_step", lopsided)


MUTANTS: dict[str, Callable[[], Any]] = {
    "reverse scored with the table of x": _stale,
    "balancing on the way out only": _balance_on_the_way_out_only,
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_breaks_the_balance(mutant: str) -> None:
    case = CASES["net-ordinal"]
    target = reference.boltzmann(case.table, 1.0)
    with MUTANTS[mutant]():
        assert reference.balance_error(shipped_matrix(case, samplers.create("acs")), target) > 1e-3


@pytest.mark.mutants
def test_the_conformance_suite_finds_it_too() -> None:
    targets = [target for target in default_targets("Binary", 0) if target.depth == "full"]
    with MUTANTS["balancing on the way out only"](), pytest.raises(ConformanceError, match="law"):
        check_sampler("acs", targets=targets)


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {"step_size": 0.0}, {"min_step_size": 0.0}, {"step_size": 0.1, "min_step_size": 0.2}, {"balance_max": 0.4},
    {"balance_max": True}, {"cycle": 0}, {"cycle": 2.0}, {"exact_deltas": "yes"}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must"):
        samplers.create("acs", **settings)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    with pytest.raises(CapabilityError, match="langevin"):
        samplers.create("acs").init(from_callable(lambda e: e.sum(1), Real(3)), torch.zeros(2, 3),
                                    generator=torch.Generator())


def test_huge_energy_differences_do_not_freeze_or_break_a_chain(seed: int) -> None:
    energy = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    kernel, generator = samplers.create("acs"), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
    for _ in range(20):
        state, info = kernel.step(energy, state, generator=generator)
        assert info.acceptance.isfinite().all()
    assert bool((state.x == 1).all())
