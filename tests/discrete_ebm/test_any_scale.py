"""The any-scale sampler is its matrix, given its auxiliary draw too, and keeps the target whatever its curvature is.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly over at most 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import any_scale, factorised
from discrete_ebm.spaces import Binary, Product, Real
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference
from tests.cases import Case
from tests.factorised import (
    LEVELS,
    assert_rows,
    float32_log,
    product_proposal,
    restrict,
    shipped_matrix,
    squared_distances,
)

BETAS = (0.3, 1.0, 2.0)
EACH = 1e-7 / 10
CASES = {case.name: case for case in cases.all_cases()}
ALPHA = float32_log(0.4)
AUTO = 0.5 + 0.5 * ALPHA / (1 + ALPHA)


_ENCODINGS: dict[str, np.ndarray] = {}


def encodings(case: Case) -> np.ndarray:
    """(S, N, K, F) the whole encoding of each state with site i set to value v, flattened."""
    if case.name not in _ENCODINGS:
        _ENCODINGS[case.name] = _encodings(case)
    return _ENCODINGS[case.name]


def _encodings(case: Case) -> np.ndarray:
    index = reference.states(case.radices)
    n, k = len(case.radices), max(case.radices)
    spins = case.name in ("ising-dense", "net-spin", "ising-lattice-2x2", "free")
    levels = LEVELS if "ordinal" in case.name else np.array([-1.0, 1.0]) if spins else np.array([0.0, 1.0])
    out = []
    for row in index:
        for i in range(n):
            for v in range(k):
                other = row.copy()
                other[i] = min(v, case.radices[i] - 1)
                one_hot = case.name in ("potts", "net-ragged")
                out.append((other[:, None] == np.arange(k)).astype(float).ravel() if one_hot else levels[other])
    return np.array(out).reshape(len(index), n, k, -1)


def any_scale_law(case: Case, deltas: np.ndarray, beta: float, alpha: float, exponent: float,
                  factor: np.ndarray | None = None, z: np.ndarray | None = None,
                  free: list[int] | None = None) -> np.ndarray:
    """Site laws (S, N, K), given the auxiliary draw z where there is a factor L (F, r)."""
    log_weight = -exponent * beta * np.nan_to_num(deltas) - squared_distances(case) / (2 * alpha)
    if factor is not None:
        scaled = np.sqrt(exponent * beta) * factor
        phi = encodings(case)
        here = np.stack([phi[s, 0, row[0]] for s, row in enumerate(reference.states(case.radices))])
        change = phi - here[:, None, None]
        residual = z - here @ scaled
        log_weight += np.einsum("snkf,fr,sr->snk", change, scaled, residual)
        log_weight -= 0.5 * ((change @ scaled) ** 2).sum(-1)
    return restrict(np.exp(log_weight), case.radices, free)


def any_scale_matrix(case: Case, deltas: np.ndarray, beta: float, alpha: float, exponent: float,
                     free: list[int] | None = None) -> np.ndarray:
    q = product_proposal(any_scale_law(case, deltas, beta, alpha, exponent, free=free), case.radices)
    return reference.metropolis(q, reference.boltzmann(case.table, beta))


@pytest.mark.parametrize("exponent", [0.5, 0.7, 1.0, "auto"])
@pytest.mark.parametrize("name", ["net-binary", "net-spin", "net-ragged", "net-ordinal", "ising-dense", "rbm"])
def test_without_curvature_it_is_the_papers_matrix_to_rounding_and_keeps_the_target(name: str, exponent: Any) -> None:
    case = CASES[name]
    kernel = samplers.create("any-scale", exponent=exponent, exact_deltas=False)
    power = AUTO if exponent == "auto" else float(np.float32(exponent))
    for beta in BETAS:
        target = reference.boltzmann(case.table, beta)
        wanted = any_scale_matrix(case, case.taylor, beta, ALPHA, power)
        matrix = shipped_matrix(case, kernel, beta)
        assert reference.stationarity_error(wanted, target) <= 1e-12
        assert np.abs(matrix - wanted).max() <= 1e-10
        assert reference.balance_error(matrix, target) <= 1e-10


def test_a_clamped_one_is_the_matrix_of_the_free_sites() -> None:
    case = CASES["net-ragged"]
    matrix = shipped_matrix(case, samplers.create("any-scale", exponent=1.0), 2.0, [0, 2])
    assert np.abs(matrix - any_scale_matrix(case, case.taylor, 2.0, ALPHA, 1.0, [0, 2])).max() <= 1e-10


def _factor(case: Case, kernel: Any) -> np.ndarray:
    return kernel.init(case.energy, case.x(np.arange(1)), generator=torch.Generator()).cache["factor"][0].numpy()


def _given(z: np.ndarray) -> Any:
    """The auxiliary draw replaced by one value for all chains."""
    return mock.patch.object(any_scale, "draw_auxiliary",
                             lambda mean, generator: torch.tensor(z).expand(mean.shape).to(mean.dtype))


def _flows(case: Case, kernel: Any, beta: float, z: np.ndarray, factor: np.ndarray, exponent: float) -> np.ndarray:
    """π(x) N(z; mean(x), I) P(y | x, z) of the shipped code: symmetric where each step is reversible."""
    phi = encodings(case)
    here = np.stack([phi[s, 0, row[0]] for s, row in enumerate(reference.states(case.radices))])
    mean = np.sqrt(exponent * beta) * here @ factor
    with _given(z):
        matrix = shipped_matrix(case, kernel, beta)
    weight = reference.boltzmann(case.table, beta) * np.exp(-0.5 * ((z - mean) ** 2).sum(1))
    return weight[:, None] * matrix


@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("name", ["net-binary", "net-spin", "net-ragged", "net-ordinal", "ising-dense", "potts"])
def test_with_curvature_every_auxiliary_draw_is_balanced_and_proposes_what_it_should(name: str, rank: int) -> None:
    case = CASES[name]
    exact = name == "potts"
    deltas = case.exact if exact else case.taylor
    kernel = samplers.create("any-scale", exponent=0.75, rank=rank, exact_deltas=exact)
    factor = _factor(case, kernel)
    assert factor.shape[1] == rank
    rng = np.random.default_rng(5)
    for beta in (0.5, 2.0):
        for _ in range(3):
            z = 2 * rng.normal(size=rank)
            flow = _flows(case, kernel, beta, z, factor, 0.75)
            off = flow - np.diag(np.diag(flow))
            assert np.abs(off - off.T).max() <= 1e-10
            law = any_scale_law(case, deltas, beta, ALPHA, 0.75, factor, z)
            with _given(z), mock.patch.object(factorised, "mask_sites", wraps=factorised.mask_sites) as masked:
                state = kernel.init(case.energy, case.x(np.arange(len(case.table))), generator=torch.Generator())
                kernel.step(case.energy, state, generator=torch.Generator(), beta=beta)
            table, index = masked.call_args_list[0].args[1:3]
            seen = factorised.mask_sites(case.space, table, index, None).softmax(-1)
            assert np.abs(seen.numpy() - law).max() <= 1e-10


@pytest.mark.parametrize("name", ["ising-dense", "net-binary", "net-ragged", "net-ordinal"])
def test_the_curvature_is_the_positive_part_of_minus_the_hessian_at_the_centre(name: str) -> None:
    case = CASES[name]
    space = case.space
    counts = torch.tensor(case.radices)
    if name == "net-ragged":
        centre = (torch.arange(3) < counts[:, None]) / counts[:, None].double()
    else:
        centre = torch.full(space.shape, {"ising-dense": 0.0, "net-binary": 0.5, "net-ordinal": LEVELS.mean()}[name],
                            dtype=torch.float64)
    flat = centre.flatten().double()
    hessian = torch.autograd.functional.hessian(lambda v: case.energy(v.reshape(1, *centre.shape))[0], flat).numpy()
    values, vectors = np.linalg.eigh(-hessian)
    for rank in (1, 2)[: len(flat) - 1]:
        kept = np.clip(values[::-1][:rank], 0, None)
        wanted = (vectors[:, ::-1][:, :rank] * kept) @ vectors[:, ::-1][:, :rank].T
        factor = any_scale.curvature_factor(case.energy, rank, torch.device("cpu")).numpy()
        assert np.abs(factor @ factor.T - wanted).max() <= 1e-9
    whole = any_scale.curvature_factor(case.energy, len(flat), torch.device("cpu")).numpy()
    shifted = -hessian + max(0.0, -values.min()) * np.eye(len(flat))
    assert np.abs(whole @ whole.T - shifted).max() <= 1e-9


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("exact", [True, False])
def test_a_quadratic_energy_with_its_whole_curvature_is_sampled_without_rejection(beta: float, exact: bool,
                                                                                 seed: int) -> None:
    case = CASES["ising-dense"]
    kernel = samplers.create("any-scale", exponent=1.0, rank=4, step_size=1e12, exact_deltas=exact)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.space.random(400, generator), generator=generator)
    for _ in range(20):
        state, info = kernel.step(case.energy, state, generator=generator, beta=beta)
        assert float(info.acceptance.min()) >= 1 - 1e-6
        assert int(info.hamming.sum()) > 0


@pytest.mark.parametrize("name", ["net-ragged", "ising-dense"])
def test_the_shipped_draws_are_the_matrix_row_by_row(name: str, seed: int) -> None:
    case, betas = CASES[name], (0.3, 2.0)
    exact = name == "ising-dense"
    matrices = [any_scale_matrix(case, case.exact if exact else case.taylor, beta, ALPHA, AUTO) for beta in betas]
    assert_rows(case, samplers.create("any-scale"), matrices, betas, seed, false_fail=EACH)


def test_the_auxiliary_draw_is_integrated_over_as_it_should_be_row_by_row(seed: int) -> None:
    """Rank 1: the reference matrix by quadrature over z (801 points, ±8 around every mean)."""
    case, beta = CASES["ising-dense"], 1.5
    kernel = samplers.create("any-scale", exponent=0.75, rank=1)
    factor = _factor(case, kernel)
    phi = encodings(case)
    here = np.stack([phi[s, 0, row[0]] for s, row in enumerate(reference.states(case.radices))])
    mean = (np.sqrt(0.75 * beta) * here @ factor)[:, 0]
    grid = np.linspace(mean.min() - 8, mean.max() + 8, 801)
    target = reference.boltzmann(case.table, beta)
    matrix = np.zeros((16, 16))
    for z in grid:
        q = product_proposal(any_scale_law(case, case.exact, beta, ALPHA, 0.75, factor, np.array([z])), case.radices)
        density = np.exp(-0.5 * (z - mean) ** 2) / np.sqrt(2 * np.pi)
        joint = target * density
        ratio = np.minimum(1, joint[None, :] * q.T / (joint[:, None] * q))
        matrix += (grid[1] - grid[0]) * density[:, None] * q * ratio
    matrix[np.diag_indices(16)] = 0
    matrix[np.diag_indices(16)] = 1 - matrix.sum(1)
    assert reference.balance_error(matrix, target) <= 1e-10
    assert_rows(case, kernel, [matrix], [beta], seed, false_fail=EACH)


def test_curvature_conforms_on_ordinals(seed: int) -> None:
    targets = [target for target in default_targets("Ordinal", 1) if target.depth == "full"]
    assert check_sampler("any-scale", seed=seed, targets=targets, rank=2, step_size=2.0).passed


# -- planted bugs ---------------------------------------------------------------------------------------------------


MUTANTS: dict[str, Callable[[], Any]] = {
    "auxiliary density left out": lambda: mock.patch.object(
        any_scale._Quadratic, "log_ratio", lambda self, index, proposed: torch.zeros(index.shape[0])),
    "auxiliary drawn anew for the way back": lambda: mock.patch.object(
        any_scale._Quadratic, "log_ratio", lambda self, index, proposed: 0.5 * (
            (self.z - self._project(proposed)) ** 2 - (self.z - self._project(index)) ** 2).sum(1)),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_breaks_the_balance(mutant: str) -> None:
    case = CASES["net-spin"]
    kernel = samplers.create("any-scale", exponent=0.75, rank=2)
    factor, z = _factor(case, kernel), np.array([0.7, -1.1])
    with MUTANTS[mutant]():
        flow = _flows(case, kernel, 1.0, z, factor, 0.75)
    off = flow - np.diag(np.diag(flow))
    assert np.abs(off - off.T).max() > 1e-4


@pytest.mark.mutants
def test_the_conformance_suite_finds_it_too() -> None:
    targets = [target for target in default_targets("Spin", 0) if target.name == "Spin Ising"]
    with MUTANTS["auxiliary density left out"](), pytest.raises(ConformanceError, match="law"):
        check_sampler("any-scale", targets=targets, rank=4, step_size=5.0, exponent=1.0)


# -- settings -------------------------------------------------------------------------------------------------------


def test_tune_lengthens_the_steps_of_a_smooth_energy_and_then_leaves_them(seed: int) -> None:
    energy = from_callable(lambda e: 0.1 * e.sum(1), Binary(20))
    kernel, generator = samplers.create("any-scale", exponent=0.5), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, Binary(20).random(32, generator), generator=generator)
    first, _ = kernel.step(energy, state, generator=generator)
    tuned = kernel.tune(energy, state, generator=generator, n_probe=5)
    assert bool((tuned.cache["log_scale"] > first.cache["log_scale"]).all())
    assert bool(((tuned.cache["exponent"] >= 0.5) & (tuned.cache["exponent"] <= 1)).all())
    later, _ = kernel.step(energy, tuned, generator=generator)
    assert all(torch.equal(later.cache[key], tuned.cache[key]) for key in ("log_scale", "exponent"))


@pytest.mark.parametrize("settings", [{"step_size": -1.0}, {"exponent": 0.4}, {"exponent": 1.1}, {"exponent": True},
                                      {"exponent": "best"}, {"rank": -1}, {"rank": 1.5}, {"exact_deltas": None}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must"):
        samplers.create("any-scale", **settings)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    product = Product({"a": Binary(2), "b": Binary(1)})
    energy = from_callable(lambda e: e["a"].sum(1) + e["b"].sum(1), product)
    with pytest.raises(CapabilityError, match="rank"):
        samplers.create("any-scale", rank=1).init(energy, product.enumerate(), generator=torch.Generator())
    with pytest.raises(CapabilityError, match="langevin"):
        samplers.create("any-scale").init(from_callable(lambda e: e.sum(1), Real(3)), torch.zeros(2, 3),
                                          generator=torch.Generator())


def test_a_linear_energy_has_no_curvature_and_is_sampled_all_the_same() -> None:
    energy = from_callable(lambda e: e.sum(1), Binary(3))
    kernel = samplers.create("any-scale", rank=2)
    state = kernel.init(energy, Binary(3).enumerate(), generator=torch.Generator())
    assert not bool(state.cache["factor"].any())
    kernel.step(energy, state, generator=torch.Generator())
