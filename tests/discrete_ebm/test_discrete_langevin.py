"""DMALA is the matrix of its paper and keeps the target; DULA is its proposal, biased, and says so.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly over at most 20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import discrete_langevin, factorised
from discrete_ebm.spaces import Binary, Categorical, Product, Real
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference
from tests.cases import Case
from tests.factorised import assert_rows, dmala, float32_log, langevin_law, product_proposal, shipped_matrix

BETAS = (0.3, 1.0, 2.0)
EACH = 1e-7 / 20
CASES = {case.name: case for case in cases.all_cases()}
ALPHA = float32_log(0.4)


def _kinds(case: Case) -> list[tuple[bool, np.ndarray]]:
    """(exact_deltas, the deltas it stands for) where the case has them."""
    kinds = [(True, case.exact)] if hasattr(case.energy, "flip_deltas") else []
    return kinds + ([(False, case.taylor)] if case.taylor is not None else [])


PAIRS = [(name, exact) for name, case in CASES.items() for exact, _ in _kinds(case)]


@pytest.mark.parametrize("balancing", ["sqrt", "barker", "min", "max"])
@pytest.mark.parametrize(("name", "exact"), PAIRS)
def test_dmala_is_the_papers_matrix_to_rounding_and_keeps_the_target(name: str, exact: bool, balancing: str) -> None:
    case = CASES[name]
    kernel = samplers.create("dmala", balancing=balancing, exact_deltas=exact)
    for beta in BETAS:
        wanted = dmala(case, dict(_kinds(case))[exact], beta, ALPHA, balancing)
        target = reference.boltzmann(case.table, beta)
        assert reference.stationarity_error(wanted, target) <= 1e-12
        assert reference.balance_error(wanted, target) <= 1e-12
        matrix = shipped_matrix(case, kernel, beta)
        assert np.abs(matrix - wanted).max() <= 1e-10
        assert reference.stationarity_error(matrix, target) <= 1e-10
        assert reference.balance_error(matrix, target) <= 1e-10


@pytest.mark.parametrize("name", ["net-ragged", "net-ordinal", "ising-lattice-2x2"])
def test_a_clamped_dmala_is_the_matrix_of_the_free_sites(name: str) -> None:
    case = CASES[name]
    exact, deltas = _kinds(case)[0]
    free = [0, 2] if len(case.radices) > 2 else [1]
    matrix = shipped_matrix(case, samplers.create("dmala", exact_deltas=exact), 2.0, free)
    assert np.abs(matrix - dmala(case, deltas, 2.0, ALPHA, "sqrt", free)).max() <= 1e-10


@pytest.mark.parametrize("name", ["net-spin", "net-ragged", "net-ordinal"])
def test_a_preconditioned_dmala_has_its_own_step_at_each_site(name: str) -> None:
    case = CASES[name]
    factors = [0.25, 3.0, 1.5, 0.7][: len(case.radices)]
    kernel = samplers.create("dmala", precondition=factors, step_size=0.6)
    wanted = dmala(case, case.taylor, 1.0, float32_log(0.6) * float32_log(factors), "sqrt")
    assert np.abs(shipped_matrix(case, kernel) - wanted).max() <= 1e-10


@pytest.mark.parametrize(("name", "exact"), [("net-binary", False), ("ising-lattice-2x2", True),
                                             ("net-ragged", False), ("net-ordinal", False)])
def test_the_shipped_draws_are_the_matrix_row_by_row(name: str, exact: bool, seed: int) -> None:
    case, betas = CASES[name], (0.3, 2.0)
    matrices = [dmala(case, dict(_kinds(case))[exact], beta, ALPHA, "sqrt") for beta in betas]
    assert_rows(case, samplers.create("dmala", exact_deltas=exact), matrices, betas, seed, false_fail=EACH)


def test_clamped_draws_are_the_matrix_row_by_row(seed: int) -> None:
    case, betas, free = CASES["net-ragged"], (0.3, 2.0), [0, 2]
    matrices = [dmala(case, case.taylor, beta, ALPHA, "sqrt", free) for beta in betas]
    assert_rows(case, samplers.create("dmala"), matrices, betas, seed + 1, false_fail=EACH, free=free)


@pytest.mark.parametrize("settings", [{"precondition": "estimate", "exact_deltas": False}, {"balancing": "barker"}])
def test_settings_conform_on_ragged_categories(settings: dict, seed: int) -> None:
    targets = [target for target in default_targets("Categorical", 1) if target.depth == "full"]
    assert check_sampler("dmala", seed=seed, targets=targets, **settings).passed


# -- DULA ---------------------------------------------------------------------------------------------------------


def _fixed_point(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(matrix.T)
    law = np.real(vectors[:, np.argmax(np.real(values))])
    return law / law.sum()


def _dula_law(case: Case, step: float) -> np.ndarray:
    """The law that DULA really has, from its shipped proposal."""
    return _fixed_point(shipped_matrix(case, samplers.create("dula", step_size=step, exact_deltas=False)))


@pytest.mark.parametrize("name", ["ising-dense", "net-binary", "net-ragged"])
def test_dula_is_the_papers_proposal(name: str) -> None:
    case = CASES[name]
    law = langevin_law(case, case.taylor, 0.7, ALPHA, "sqrt")
    matrix = shipped_matrix(case, samplers.create("dula", exact_deltas=False), 0.7)
    assert np.abs(matrix - product_proposal(law, case.radices)).max() <= 1e-10


def test_the_bias_of_dula_is_there_and_shrinks_with_the_step_on_a_quadratic_energy() -> None:
    case = CASES["ising-dense"]
    target = reference.boltzmann(case.table, 1.0)
    gaps = [0.5 * np.abs(_dula_law(case, step) - target).sum() for step in (2.0, 0.5, 0.2, 0.1, 0.05)]
    assert gaps[0] > 0.02
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * gaps[0]


def test_dula_as_run_has_its_biased_law(seed: int) -> None:
    """60,000 chains of 60 steps from exact draws; TV to the biased law within noise, to the target far outside it."""
    case, n = CASES["ising-dense"], 60_000
    target, biased = reference.boltzmann(case.table, 1.0), _dula_law(case, 2.0)
    kernel, generator = samplers.create("dula", step_size=2.0, exact_deltas=False), torch.Generator().manual_seed(seed)
    start = np.random.default_rng(seed).choice(16, n, p=target)
    state = kernel.init(case.energy, case.x(start), generator=generator)
    for _ in range(60):
        state, info = kernel.step(case.energy, state, generator=generator)
    assert bool(info.accepted.all())
    seen = np.bincount(case.rows(state.x), minlength=16) / n
    # TV of 16 cells: mean below ½·√(16/n) = 0.0082; it exceeds that by t with chance exp(−2nt²) (bounded differences)
    assert 0.5 * np.abs(seen - biased).sum() <= 0.0082 + np.sqrt(np.log(1 / EACH) / (2 * n))
    assert 0.5 * np.abs(target - biased).sum() > 0.0082 + 2 * np.sqrt(np.log(1 / EACH) / (2 * n))


def test_dula_says_that_it_is_biased() -> None:
    assert samplers.spec("dula").exact is False
    assert samplers.create("dula").exact is False


# -- planted bugs ---------------------------------------------------------------------------------------------------


@contextmanager
def _reverse_at_the_old_table() -> Iterator[None]:
    """The published path samplers' bug: reverse weights from the gradient at x."""
    original = discrete_langevin.factorised_step

    def stale(energy: Any, state: Any, weights: Any, **options: Any) -> Any:
        return original(energy, state, lambda index, deltas: weights(index, state.cache["deltas"]), **options)

    with mock.patch.object(discrete_langevin, "factorised_step", stale):
        yield


@contextmanager
def _patched(module: Any, name: str, value: Any) -> Iterator[None]:
    with mock.patch.object(module, name, value):
        yield


MUTANTS: dict[str, Callable[[], Any]] = {
    "reverse scored with the table of x": _reverse_at_the_old_table,
    "hastings term dropped": lambda: _patched(
        factorised, "metropolis_log_alpha", lambda delta, beta, ratio: -beta * delta),
    "beta on the hastings term": lambda: _patched(
        factorised, "metropolis_log_alpha", lambda delta, beta, ratio: beta * (ratio - delta)),
    "distance not squared": lambda: _patched(
        discrete_langevin, "site_distance",
        lambda *args: factorised.site_distance(*args).sqrt()),
    "labels as numbers": lambda: _patched(
        discrete_langevin, "site_distance",
        lambda space, index, dtype: (torch.arange(space.k_max) - index[..., None]).square().to(dtype)),
    "beta ignored in the drift": lambda: _patched(
        discrete_langevin, "beta_column", lambda beta, energy: torch.ones_like(energy)),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_changes_the_matrix(mutant: str) -> None:
    case = cases.potts() if mutant == "labels as numbers" else cases.net("ordinal")
    kernel = samplers.create("dmala")
    wanted = dmala(case, _kinds(case)[0][1], 2.0, ALPHA, "sqrt")
    assert np.abs(shipped_matrix(case, kernel, 2.0) - wanted).max() <= 1e-10
    with MUTANTS[mutant]():
        assert np.abs(shipped_matrix(case, kernel, 2.0) - wanted).max() > 1e-3


@pytest.mark.mutants
@pytest.mark.parametrize(("mutant", "check"), [("reverse scored with the table of x", "law"),
                                               ("hastings term dropped", "law")])
def test_the_conformance_suite_finds_it_too(mutant: str, check: str) -> None:
    targets = [target for target in default_targets("Binary", 0) if target.depth == "full"]
    with MUTANTS[mutant](), pytest.raises(ConformanceError, match=check):
        check_sampler("dmala", targets=targets, exact_deltas=False)


@pytest.mark.parametrize(("name", "check"), [("clamp", "clamped sites stay"), ("padding", "must hold only|out of")])
def test_a_dropped_mask_is_found(name: str, check: str) -> None:
    original = factorised.mask_sites

    def unmasked(space: Any, weights: torch.Tensor, index: torch.Tensor, free: Any) -> torch.Tensor:
        return original(space, weights, index, None) if name == "clamp" else weights

    targets = [target for target in default_targets("Categorical", 0) if target.name == "Categorical coupled"]
    with mock.patch.object(factorised, "mask_sites", unmasked), pytest.raises(Exception, match=check):
        check_sampler("dmala", targets=targets)


# -- numbers and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dmala", "dula"])
@pytest.mark.parametrize("balancing", ["sqrt", "barker", "min", "max"])
def test_huge_energy_differences_do_not_freeze_or_break_a_chain(name: str, balancing: str, seed: int) -> None:
    """exp(400) overflows float32: published code gets inf/inf there and stands still without a word."""
    energy = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    kernel, generator = samplers.create(name, balancing=balancing), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
    for _ in range(400 if balancing in ("min", "barker") else 30):  # bounded weights still pay exp(−1/2α) a site
        state, info = kernel.step(energy, state, generator=generator)
        assert info.acceptance.isfinite().all()
    ones = float((state.x == 1).double().mean())
    assert ones == 1.0 if name == "dmala" else ones > 0.6  # unadjusted "max" keeps stepping back with e^(−1/2α)


def test_forbidden_states_are_never_entered_but_left(seed: int) -> None:
    energy = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, e.sum(1)), Binary(4))
    generator = torch.Generator().manual_seed(seed)
    for name in ("dmala", "dula"):
        kernel = samplers.create(name)
        state = kernel.init(energy, torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]] * 50).to(torch.int8), generator=generator)
        for _ in range(40):
            state, info = kernel.step(energy, state, generator=generator)
            assert int(info.non_finite) == 0
        assert state.energy.isfinite().all()


def test_one_gradient_a_step() -> None:
    calls = []

    def fn(e: torch.Tensor) -> torch.Tensor:
        calls.append(e.shape)
        return (e * e).sum(1)

    energy, kernel, generator = from_callable(fn, Binary(4)), samplers.create("dmala"), torch.Generator()
    state = kernel.init(energy, torch.zeros(3, 4, dtype=torch.int8), generator=generator)
    calls.clear()
    for _ in range(5):
        state, info = kernel.step(energy, state, generator=generator)
    assert len(calls) == 5
    assert (info.energy_calls, info.gradient_calls) == (1.0, 1.0)


def test_distances_are_squared_values_on_ordinal_sites_and_changes_elsewhere() -> None:
    space = Product({"a": Binary(1), "b": Categorical(1, 3), "c": cases.net("ordinal").space})
    table = factorised.site_distance(space, torch.tensor([[1, 2, 0, 1]]), torch.float64)
    assert table.tolist() == [[[1, 0, 1], [1, 1, 0], [0, 2.25, 9], [2.25, 0, 2.25]]]


def test_no_chains_and_one_chain() -> None:
    case, kernel, generator = CASES["net-ragged"], samplers.create("dmala"), torch.Generator()
    for n in (0, 1):
        state = kernel.init(case.energy, case.x(np.zeros(n, int)), generator=generator)
        state, info = kernel.step(case.energy, state, generator=generator)
        assert state.x.shape == (n, 3)
        assert info.acceptance.shape == (n,)


def test_tune_finds_long_steps_where_changes_cost_little_and_then_leaves_them(seed: int) -> None:
    weight = torch.tensor([0.1, 0.1, 4.0, 4.0])
    energy = from_callable(lambda e: (e * weight).sum(1), Binary(4))
    kernel, generator = samplers.create("dmala", precondition="estimate"), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, Binary(4).random(16, generator), generator=generator)
    state = kernel.tune(energy, state, generator=generator, n_steps=20)
    factors = state.cache["log_precondition"]
    assert factors.shape == (16, 4)
    assert bool((factors[:, :2] > factors[:, 2:]).all())
    later, _ = kernel.step(energy, state, generator=generator)
    assert torch.equal(later.cache["log_precondition"], factors)
    assert torch.equal(later.cache["log_scale"], state.cache["log_scale"])


@pytest.mark.parametrize("settings", [
    {"step_size": 0.0}, {"step_size": float("nan")}, {"step_size": True}, {"balancing": "cube"},
    {"exact_deltas": "maybe"}, {"precondition": [1.0, -1.0]}, {"precondition": []}, {"precondition": "guess"}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    for name in ("dula", "dmala"):
        with pytest.raises(SettingError, match="must"):
            samplers.create(name, **settings)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    linear = from_callable(lambda e: e.sum(1), Binary(3))
    with pytest.raises(SettingError, match="3 factors"):
        samplers.create("dmala", precondition=[1.0]).init(linear, torch.zeros(2, 3), generator=torch.Generator())
    with pytest.raises(CapabilityError, match="flip_deltas"):
        samplers.create("dmala", exact_deltas=True).init(linear, torch.zeros(2, 3), generator=torch.Generator())
    real = from_callable(lambda e: e.sum(1), Real(3))
    for name in ("dula", "dmala"):
        with pytest.raises(CapabilityError, match="langevin"):
            samplers.create(name).init(real, torch.zeros(2, 3), generator=torch.Generator())
