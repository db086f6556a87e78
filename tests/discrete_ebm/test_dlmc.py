"""DLMC is the matrix of its paper in both forms and keeps the target; the unadjusted one is biased, and says so.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly over at most 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import dlmc, factorised
from discrete_ebm.spaces import Binary, Real
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference
from tests.cases import Case
from tests.factorised import assert_rows, float32_log, product_proposal, restrict, shipped_matrix

BETAS = (0.3, 1.0, 2.0)
EACH = 1e-7 / 10
CASES = {case.name: case for case in cases.all_cases()}
TAU = float32_log(0.3)


def jump_law(case: Case, deltas: np.ndarray, beta: float, tau: float, balancing: str, solver: str,
             free: list[int] | None = None) -> np.ndarray:
    """Site laws (S, N, K) after time τ, value by value, in plain probabilities."""
    index = reference.states(case.radices)
    law = np.zeros((len(index), len(case.radices), max(case.radices)))
    for s, row in enumerate(index):
        for i, k in enumerate(case.radices):
            t = np.exp(-beta * deltas[s, i, :k])
            nu, rate = t / t.sum(), reference.BALANCING[balancing](t)
            p = nu * (1 - np.exp(-tau * rate / nu)) if solver == "interpolate" else np.minimum(tau * rate, nu)
            p[row[i]] = 0
            p[row[i]] = 1 - p.sum()
            law[s, i, :k] = p
    return restrict(law, case.radices, free)


def dlmc_matrix(case: Case, deltas: np.ndarray, beta: float, tau: float, balancing: str, solver: str,
                free: list[int] | None = None) -> np.ndarray:
    q = product_proposal(jump_law(case, deltas, beta, tau, balancing, solver, free), case.radices)
    return reference.metropolis(q, reference.boltzmann(case.table, beta))


def _deltas(case: Case, exact: bool) -> np.ndarray:
    return case.exact if exact else case.taylor  # type: ignore[return-value]


PAIRS = [(name, exact) for name, case in CASES.items() for exact in (True, False)
         if (hasattr(case.energy, "flip_deltas") if exact else case.taylor is not None)]


@pytest.mark.parametrize("solver", ["interpolate", "euler"])
@pytest.mark.parametrize("balancing", ["sqrt", "barker", "min", "max"])
@pytest.mark.parametrize(("name", "exact"), PAIRS)
def test_dlmc_is_the_papers_matrix_to_rounding_and_keeps_the_target(name: str, exact: bool, balancing: str,
                                                                   solver: str) -> None:
    case = CASES[name]
    kernel = samplers.create("dlmc", balancing=balancing, solver=solver, exact_deltas=exact)
    for beta in BETAS:
        wanted = dlmc_matrix(case, _deltas(case, exact), beta, TAU, balancing, solver)
        target = reference.boltzmann(case.table, beta)
        assert reference.stationarity_error(wanted, target) <= 1e-12
        matrix = shipped_matrix(case, kernel, beta)
        assert np.abs(matrix - wanted).max() <= 1e-10
        assert reference.stationarity_error(matrix, target) <= 1e-10
        assert reference.balance_error(matrix, target) <= 1e-10


@pytest.mark.parametrize("balancing", ["sqrt", "barker", "min", "max"])
def test_with_two_values_the_interpolation_solves_the_frozen_sites_master_equation(balancing: str) -> None:
    for log_t in (-1.3, 0.0, 2.1):
        g = [float(reference.BALANCING[balancing](np.exp(sign * log_t))) for sign in (1, -1)]
        wanted = expm(0.7 * np.array([[-g[0], g[0]], [g[1], -g[1]]]))[0]
        table = torch.tensor([[[0.0, log_t]]], dtype=torch.float64)
        law = dlmc.jump_weights(table, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool),
                                torch.tensor([np.log(0.7)]), balancing, "interpolate")
        assert np.abs(law[0, 0].exp().numpy() - wanted).max() <= 1e-12


@pytest.mark.parametrize("solver", ["interpolate", "euler"])
def test_site_laws_sum_to_one_for_tiny_and_huge_times_and_energies(solver: str) -> None:
    log_t = torch.tensor([0.0, 1e-3, 700.0, -700.0, 5e4, -1e30]).double()
    table = torch.stack([torch.zeros_like(log_t), log_t, -log_t], dim=1)[None]
    for log_tau in (-200.0, -10.0, 0.0, 10.0, 200.0):
        for balancing in ("sqrt", "barker", "min", "max"):
            law = dlmc.jump_weights(table, torch.zeros(1, 6, dtype=torch.int64), torch.ones(6, 3, dtype=torch.bool),
                                    torch.tensor([log_tau]).double(), balancing, solver)
            assert not bool(law.isnan().any())
            assert torch.allclose(law.exp().sum(-1), torch.ones(1, 6, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("name", ["net-ragged", "net-ordinal"])
def test_a_clamped_dlmc_is_the_matrix_of_the_free_sites(name: str) -> None:
    case = CASES[name]
    free = [0, 2] if len(case.radices) > 2 else [1]
    matrix = shipped_matrix(case, samplers.create("dlmc"), 2.0, free)
    wanted = dlmc_matrix(case, _deltas(case, False), 2.0, TAU, "sqrt", "interpolate", free)
    assert np.abs(matrix - wanted).max() <= 1e-10


@pytest.mark.parametrize(("name", "solver"), [("net-ragged", "interpolate"), ("net-spin", "euler")])
def test_the_shipped_draws_are_the_matrix_row_by_row(name: str, solver: str, seed: int) -> None:
    case, betas = CASES[name], (0.3, 2.0)
    matrices = [dlmc_matrix(case, _deltas(case, False), beta, TAU, "sqrt", solver) for beta in betas]
    assert_rows(case, samplers.create("dlmc", solver=solver), matrices, betas, seed, false_fail=EACH)


def test_the_euler_form_conforms_on_ordinals(seed: int) -> None:
    targets = [target for target in default_targets("Ordinal", 1) if target.depth == "full"]
    assert check_sampler("dlmc", seed=seed, targets=targets, solver="euler", balancing="barker", time=2.0).passed


def _true_law(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(matrix.T)
    law = np.real(vectors[:, np.argmax(np.real(values))])
    return law / law.sum()


@pytest.mark.parametrize("solver", ["interpolate", "euler"])
@pytest.mark.parametrize("name", ["ising-dense", "net-ragged"])
def test_the_bias_of_the_unadjusted_form_shrinks_with_the_time_when_deltas_are_exact(name: str, solver: str) -> None:
    """In the limit of short times it is the jump process itself, whatever the energy, given its exact rates."""
    case = CASES[name]
    target = reference.boltzmann(case.table, 1.0)
    gaps = []
    for tau in (0.3, 0.1, 0.03, 0.01):
        law = product_proposal(jump_law(case, case.exact, 1.0, float32_log(tau), "sqrt", solver), case.radices)
        if name == "ising-dense":
            kernel = samplers.create("dlmc-unadjusted", time=tau, solver=solver)
            assert np.abs(shipped_matrix(case, kernel) - law).max() <= 1e-10
        gaps.append(0.5 * np.abs(_true_law(law) - target).sum())
    assert gaps[0] > 0.003
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


def test_the_unadjusted_form_says_that_it_is_biased() -> None:
    assert samplers.spec("dlmc-unadjusted").exact is False
    assert samplers.create("dlmc-unadjusted").exact is False


# -- planted bugs ---------------------------------------------------------------------------------------------------


def _stale() -> Any:
    original = dlmc.factorised_step

    def stale(energy: Any, state: Any, weights: Any, **options: Any) -> Any:
        return original(energy, state, lambda index, deltas: weights(index, state.cache["deltas"]), **options)

    return mock.patch.object(dlmc, "factorised_step", stale)


def _weights_with(change: Callable[..., Any]) -> Any:
    original = dlmc.jump_weights
    return mock.patch.object(dlmc, "jump_weights", lambda *args: change(original, *args))


MUTANTS: dict[str, Callable[[], Any]] = {
    "reverse scored with the table of x": _stale,
    "hastings term dropped": lambda: mock.patch.object(
        factorised, "metropolis_log_alpha", lambda delta, beta, ratio: -beta * delta),
    "unbalanced rates": lambda: mock.patch.object(dlmc, "log_balancing", return_value=lambda log_t: log_t),
    "beta ignored in the rates": lambda: mock.patch.object(
        dlmc, "beta_column", lambda beta, energy: torch.ones_like(energy)),
    "padding counted in the stationary law": lambda: _weights_with(
        lambda original, log_t, index, legal, *rest: original(log_t, index, torch.ones_like(legal), *rest)),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_changes_the_matrix(mutant: str) -> None:
    case = cases.net("ragged")
    kernel = samplers.create("dlmc")
    wanted = dlmc_matrix(case, _deltas(case, False), 2.0, TAU, "sqrt", "interpolate")
    assert np.abs(shipped_matrix(case, kernel, 2.0) - wanted).max() <= 1e-10
    with MUTANTS[mutant]():
        assert np.abs(shipped_matrix(case, kernel, 2.0) - wanted).max() > 1e-3


@pytest.mark.mutants
def test_the_conformance_suite_finds_a_dropped_correction() -> None:
    targets = [target for target in default_targets("Binary", 0) if target.depth == "full"]
    with MUTANTS["hastings term dropped"](), pytest.raises(ConformanceError, match="law"):
        check_sampler("dlmc", targets=targets)


# -- numbers and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["interpolate", "euler"])
@pytest.mark.parametrize("balancing", ["sqrt", "barker", "min", "max"])
def test_huge_energy_differences_do_not_freeze_or_break_a_chain(balancing: str, solver: str, seed: int) -> None:
    energy = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    kernel = samplers.create("dlmc", balancing=balancing, solver=solver)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
    for _ in range(200):
        state, info = kernel.step(energy, state, generator=generator)
        assert info.acceptance.isfinite().all()
    assert bool((state.x == 1).all())


@pytest.mark.parametrize("settings", [{"time": 0.0}, {"time": float("inf")}, {"solver": "runge"},
                                      {"balancing": "cube"}, {"exact_deltas": 3.5}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    for name in ("dlmc", "dlmc-unadjusted"):
        with pytest.raises(SettingError, match="must"):
            samplers.create(name, **settings)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    linear = from_callable(lambda e: e.sum(1), Binary(3))
    with pytest.raises(CapabilityError, match="flip_deltas"):
        samplers.create("dlmc", exact_deltas=True).init(linear, torch.zeros(2, 3), generator=torch.Generator())
    with pytest.raises(CapabilityError, match="langevin"):
        samplers.create("dlmc").init(from_callable(lambda e: e.sum(1), Real(3)), torch.zeros(2, 3),
                                     generator=torch.Generator())
