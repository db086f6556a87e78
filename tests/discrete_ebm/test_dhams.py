"""The momentum sampler obeys generalised detailed balance point by point, and its chain of x has the exact law.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly over at most 30.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats

from discrete_ebm import samplers
from discrete_ebm.energies import Ising, from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import dhams
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Real, Spin
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference
from tests.cases import Case
from tests.factorised import LEVELS, assert_rows, clamp_of, float32_log, product_proposal, restrict
from tests.statistical import level

EACH = 1e-7 / 30
CASES = {case.name: case for case in cases.all_cases()}


# -- the reference --------------------------------------------------------------------------------------------------


def coordinates(case: Case) -> np.ndarray:
    """(N, K, D) φ of every value of every site."""
    n, k = len(case.radices), max(case.radices)
    if case.name in ("potts", "net-ragged"):
        return np.broadcast_to(np.eye(k) / np.sqrt(2), (n, k, k))
    levels = LEVELS if "ordinal" in case.name else np.arange(k, dtype=float)
    return np.broadcast_to(levels[:, None], (n, k, 1))


def mirrored(p: np.ndarray, current: int) -> np.ndarray:
    """R(v | current): how much of the mirror image of interval v lies in the interval of the current value."""
    edges = np.concatenate([[0.0], np.cumsum(p)])
    low, high = edges[current], edges[current + 1]
    cover = [max(0.0, min(high, 1 - edges[v]) - max(low, 1 - edges[v + 1])) for v in range(len(p))]
    return np.array(cover) / sum(cover)


def proposal_law(case: Case, deltas: np.ndarray, beta: float, u: np.ndarray, delta: float, share: float,
                 free: list[int] | None = None) -> np.ndarray:
    """(S, N, K): p_i(v) ∝ exp(−β Δ − |z − φ_v|²/2δ²), z = φ(x) + δu, and its over-relaxed form; ``u`` (S, N, D)."""
    index, phi = reference.states(case.radices), coordinates(case)
    law = np.zeros(deltas.shape)
    for s, row in enumerate(index):
        for i, k in enumerate(case.radices):
            z = phi[i, row[i]] + delta * u[s, i]
            weight = np.exp(-beta * deltas[s, i, :k] - ((z - phi[i, :k]) ** 2).sum(1) / (2 * delta**2))
            p = weight / weight.sum()
            law[s, i, :k] = (1 - share) * p + share * mirrored(p, row[i]) if share else p
    return restrict(law, case.radices, free)


# -- the shipped code, one (x, u) → (y, u′) at a time ---------------------------------------------------------------


def shipped(case: Case, kernel: Any, x: np.ndarray, y: np.ndarray, u: torch.Tensor, beta: float,
            free: list[int] | None = None, accept: bool = True) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """(Q(y | x, u), acceptance, momentum after) of moves from rows x to rows y with momentum u (M, N, D)."""
    wanted = case.space.to_index(case.x(y))
    seen: dict[str, torch.Tensor] = {}

    def draw(weights: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        seen["q"] = weights.softmax(-1).gather(2, wanted[..., None]).prod(1)[:, 0]
        return wanted

    def decide(log_alpha: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        seen["alpha"] = log_alpha.clamp(max=0).exp()
        return torch.full_like(log_alpha, accept, dtype=torch.bool), seen["alpha"]

    generator, clamp = torch.Generator(), clamp_of(case, free)
    state = kernel.init(case.energy, case.x(x), generator=generator, clamp=clamp)
    with (mock.patch.object(dhams, "draw_sites", draw), mock.patch.object(dhams, "metropolis_hastings", decide),
          mock.patch.object(dhams, "refreshed", return_value=u)):
        moved, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    assert u.dtype == torch.float64
    return seen["q"].numpy(), seen["alpha"].numpy(), moved.cache["momentum"]


def _moments(case: Case, n: int, seed: int) -> torch.Tensor:
    width = coordinates(case).shape[2]
    return torch.randn(n, len(case.radices), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _log_normal(u: torch.Tensor) -> np.ndarray:
    return -0.5 * u.square().sum((1, 2)).numpy()


def _balance_gap(case: Case, kernel: Any, beta: float, free: list[int] | None = None) -> float:
    """Largest |π(x,u) Q α − π(y,u′) Q′ α′| and |u″ + u| over all pairs (x, y), for 3 momenta each."""
    n, worst = len(case.table), 0.0
    target = reference.boltzmann(case.table, beta)
    x, y = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    for seed in range(3):
        u = _moments(case, n * n, seed)
        q, alpha, turned = shipped(case, kernel, x, y, u, beta, free)
        q_back, alpha_back, returned = shipped(case, kernel, y, x, -turned, beta, free)
        # clamped moves have q = 0 on both sides
        there = target[x] * np.exp(_log_normal(u)) * q * alpha
        back = target[y] * np.exp(_log_normal(turned)) * q_back * alpha_back
        worst = max(worst, float(np.abs(there - back).max()), float((returned + u).abs().max()))
    return worst


@pytest.mark.parametrize("settings", [
    {"over_relaxation": 0.0, "gradient_correction": 0.0}, {"over_relaxation": 0.0}, {}, {"over_relaxation": 0.95,
                                                                                        "step_size": 2.0}],
    ids=["vanilla", "corrected", "default", "over-relaxed"])
@pytest.mark.parametrize("name", ["net-binary", "net-spin", "net-ragged", "net-ordinal", "ising-dense", "potts"])
def test_every_move_has_the_generalised_balance_and_undoes_itself(name: str, settings: dict) -> None:
    """π(x,u) K(y,u′|x,u) = π(y,u′) K(x,−u|y,−u′) to 1e-10, and the momentum comes back as −u."""
    kernel = samplers.create("dhams", **settings)
    for beta in (0.5, 2.0):
        assert _balance_gap(CASES[name], kernel, beta) <= 1e-10


def test_clamped_moves_too() -> None:
    assert _balance_gap(CASES["net-ragged"], samplers.create("dhams"), 1.0, [0, 2]) <= 1e-10


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["net-spin", "net-ragged", "net-ordinal", "ising-dense"])
def test_proposals_and_acceptances_are_the_references(name: str, share: float) -> None:
    case, beta, n = CASES[name], 1.3, len(CASES[name].table)
    exact = name == "ising-dense"
    deltas = case.exact if exact else case.taylor
    kernel = samplers.create("dhams", over_relaxation=share, step_size=0.8, gradient_correction=0.0)
    delta = float32_log(0.8)
    u = _moments(case, n, 4)
    index, phi = reference.states(case.radices), coordinates(case)
    matrix = product_proposal(proposal_law(case, deltas, beta, u.numpy(), delta, share), case.radices)
    target = reference.boltzmann(case.table, beta)
    here = np.stack([phi[i, index[:, i]] for i in range(index.shape[1])], 1)  # (S, N, D)
    for y in range(n):
        q, alpha, turned = shipped(case, kernel, np.arange(n), np.full(n, y), u, beta)
        assert np.abs(q - matrix[:, y]).max() <= 1e-10
        wanted = (here[y] - here) / delta - u.numpy()
        assert np.abs(turned.numpy() - wanted).max() <= 1e-10
        for x in range(n):
            back = proposal_law(case, deltas, beta, np.broadcast_to(-wanted[x], u.shape), delta, share)[y]
            q_back = np.prod([back[i, index[x, i]] for i in range(index.shape[1])])
            kinetic = 0.5 * (u[x].square().sum().item() - (wanted[x] ** 2).sum())
            ratio = target[y] * np.exp(kinetic) * q_back / (target[x] * q[x])
            assert alpha[x] == pytest.approx(min(1.0, ratio), abs=1e-10)


def test_the_map_of_the_momentum_keeps_volume() -> None:
    """u′ + u is the same for every u, given x and y: a reflection and a shift."""
    case, kernel = CASES["net-ordinal"], samplers.create("dhams")
    x, y = np.repeat(np.arange(9), 9), np.tile(np.arange(9), 9)
    sums = [shipped(case, kernel, x, y, _moments(case, 81, seed), 1.0)[2] + _moments(case, 81, seed)
            for seed in (1, 2)]
    assert float((sums[0] - sums[1]).abs().max()) <= 1e-10


def test_a_rejection_turns_the_momentum_round() -> None:
    case, kernel = CASES["net-ordinal"], samplers.create("dhams")
    u = _moments(case, 9, 1)
    assert torch.equal(shipped(case, kernel, np.arange(9), np.arange(9)[::-1], u, 1.0, accept=False)[2], -u)


def test_over_relaxation_keeps_its_digits_where_probabilities_underflow() -> None:
    """Two values, e^−400 apart: staying and leaving to rounding, in float32 (Metropolised Gibbs in closed form)."""
    table = torch.tensor([[[-400.0, 0.0]]])
    leave = dhams.over_relaxed(table, torch.zeros(1, 1, dtype=torch.int64), 0.5)
    assert leave.flatten()[1].item() == pytest.approx(0.0, abs=1e-6)
    enter = dhams.over_relaxed(table, torch.ones(1, 1, dtype=torch.int64), 0.5)
    assert enter.flatten()[0].item() == pytest.approx(-400.0, abs=1e-3)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_over_relaxation_keeps_its_law_and_is_reversible_under_it(share: float) -> None:
    rng = np.random.default_rng(0)
    for k in (2, 3, 5):
        log_p = torch.tensor(np.log(rng.dirichlet(np.ones(k), 20)))
        p = log_p.exp().numpy()
        table = torch.stack([dhams.over_relaxed(log_p[:, None], torch.full((20, 1), v), share)[:, 0].exp()
                             for v in range(k)], 1).numpy()
        flow = p[:, :, None] * table
        assert np.abs(table.sum(2) - 1).max() <= 1e-12
        assert np.abs(flow - flow.transpose(0, 2, 1)).max() <= 1e-12
        if k == 2:  # Metropolised Gibbs (Liu 1996)
            leave = (1 - share) * p[:, 1] + share * np.minimum(1, p[:, 1] / p[:, 0])
            assert np.abs(table[:, 0, 1] - leave).max() <= 1e-12


@pytest.mark.parametrize("space", [Binary(5), Spin(5), Categorical(4, [2, 3, 4, 2]), Ordinal(4, [-1.0, 0.0, 0.5, 3.0]),
                                   Product({"a": Spin(2), "b": Categorical(2, 3), "c": Ordinal(2, [0.0, 2.0])})],
                         ids=lambda space: space.name)
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_independent_sites_are_sampled_without_rejection(space: Any, share: float, seed: int) -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def linear(e: Any) -> torch.Tensor:
        parts = e.values() if isinstance(e, dict) else [e]
        flat = torch.cat([part.flatten(1) for part in parts], 1).double()
        return flat @ weight[: flat.shape[1]]

    energy, generator = from_callable(linear, space), torch.Generator().manual_seed(seed)
    kernel = samplers.create("dhams", over_relaxation=share)
    state = kernel.init(energy, space.random(200, generator), generator=generator)
    for _ in range(10):
        state, info = kernel.step(energy, state, generator=generator, beta=1.5)
        assert float(info.acceptance.min()) >= 1 - 1e-5
        assert int(info.hamming.sum()) > 0


# -- as run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_without_persistence_x_moves_by_the_integrated_matrix_row_by_row(share: float, seed: int) -> None:
    """Two coupled spins, ε = 0: the reference integrates over both momenta on a grid of 121 × 121, ±7."""
    energy_table = reference.ising(reference.states([2, 2]), np.array([[0, 0.9], [0.9, 0]]), np.array([0.4, -0.2]))
    coupling, field = torch.tensor([[0, 0.9], [0.9, 0]]).double(), torch.tensor([0.4, -0.2]).double()
    case = Case("two-spins", Ising(coupling, field), (2, 2), energy_table)
    beta, delta, index = 1.2, float32_log(0.9), reference.states([2, 2])
    target = reference.boltzmann(case.table, beta)
    grid = np.linspace(-7, 7, 121)
    matrix = np.zeros((4, 4))

    def site_law(row: np.ndarray, s: int, u: np.ndarray) -> np.ndarray:
        """(G, N, 2) proposal law from state s under momenta u (G, N)."""
        z = row + delta * u
        log_w = -beta * case.exact[s][None] - (z[..., None] - np.array([0.0, 1.0])) ** 2 / (2 * delta**2)
        p = np.exp(log_w - log_w.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        if share:
            for i in range(2):
                a, b = p[:, i, row[i]].copy(), p[:, i, 1 - row[i]].copy()
                p[:, i, 1 - row[i]] = (1 - share) * b + share * np.minimum(1, b / a)
                p[:, i, row[i]] = 1 - p[:, i, 1 - row[i]]
        return p

    u = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    density = np.exp(-0.5 * (u**2).sum(1)) / (2 * np.pi) * (grid[1] - grid[0]) ** 2
    for x in range(4):
        forward = site_law(index[x], x, u)
        for y in range(4):
            q = forward[:, 0, index[y, 0]] * forward[:, 1, index[y, 1]]
            turned = (index[y] - index[x]) / delta - u
            backward = site_law(index[y], y, -turned)
            q_back = backward[:, 0, index[x, 0]] * backward[:, 1, index[x, 1]]
            kinetic = np.exp(0.5 * (u**2).sum(1) - 0.5 * (turned**2).sum(1))
            matrix[x, y] = (density * q * np.minimum(1, target[y] * kinetic * q_back / (target[x] * q))).sum()
    matrix[np.diag_indices(4)] = 0
    matrix[np.diag_indices(4)] = 1 - matrix.sum(1)
    assert reference.balance_error(matrix, target) <= 1e-4  # the grid's own error
    kernel = samplers.create("dhams", persistence=0.0, over_relaxation=share, step_size=0.9, gradient_correction=0.0)
    assert_rows(case, kernel, [matrix], [beta], seed, false_fail=EACH)


@pytest.mark.parametrize("name", ["ising-dense", "net-ragged"])
def test_momenta_stay_normal_and_say_nothing_about_x(name: str, seed: int) -> None:
    """30,000 exact draws, 6 steps: Kolmogorov–Smirnov for each component, in all chains and in each half of the x."""
    case, n = CASES[name], 30_000
    law = reference.boltzmann(case.table, 2.0)
    start = np.random.default_rng(seed).choice(len(law), n, p=law)
    kernel, generator = samplers.create("dhams"), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(start), generator=generator)
    for _ in range(6):
        state, _ = kernel.step(case.energy, state, generator=generator, beta=2.0)
    index, momentum = case.space.to_index(state.x), state.cache["momentum"]
    low = index[:, 0] == 0
    p_values = [stats.kstest(part, "norm").pvalue
                for rows in (momentum, momentum[low], momentum[~low])
                for part in rows.flatten(1).t().numpy()]
    assert min(p_values) > level(EACH) / len(p_values)


def test_it_conforms_on_ragged_categories_with_strong_persistence(seed: int) -> None:
    targets = [target for target in default_targets("Categorical", 1) if target.name == "Categorical coupled"]
    assert check_sampler("dhams", seed=seed, targets=targets, persistence=0.95, over_relaxation=0.9, step_size=1.5,
                         exact_deltas=False).passed


# -- planted bugs ---------------------------------------------------------------------------------------------------


def _momentum_kept_on_rejection() -> Any:
    original = dhams.select

    def kept(accepted: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return original(accepted, new, -old if new.dim() == 3 and new.shape[-1] == 1 else old)

    return mock.patch.object(dhams, "select", kept)


MUTANTS: dict[str, Callable[[], Any]] = {
    "hastings and kinetic terms dropped": lambda: mock.patch.object(
        dhams, "metropolis_log_alpha", lambda delta, beta, ratio: -beta * delta),
    "distances in another unit than the momentum": lambda: mock.patch.object(
        dhams._Coordinates, "along", lambda self, index, momentum: 2 * _ALONG(self, index, momentum)),
}
_ALONG, _SLOPE = dhams._Coordinates.along, dhams._Coordinates.slope


def _slopes_added() -> Any:
    """G(y) + G(x) in place of the difference: the way back does not undo it."""
    calls: list[int] = []

    def signed(self: Any, index: torch.Tensor, deltas: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return _SLOPE(self, index, deltas, beta) * (-1) ** (len(calls) + 1)

    return mock.patch.object(dhams._Coordinates, "slope", signed)


def test_dropped_terms_break_the_balance() -> None:
    with MUTANTS["hastings and kinetic terms dropped"]():
        assert _balance_gap(CASES["net-ordinal"], samplers.create("dhams"), 1.0) > 1e-4


def test_a_correction_that_is_no_difference_of_the_states_breaks_the_balance() -> None:
    with _slopes_added():
        assert _balance_gap(CASES["net-ordinal"], samplers.create("dhams"), 1.0) > 1e-4


def test_a_proposal_in_the_wrong_unit_is_not_the_reference() -> None:
    case, kernel = CASES["net-spin"], samplers.create("dhams", over_relaxation=0.0)
    u, x = _moments(case, 16, 0), np.arange(16)
    with MUTANTS["distances in another unit than the momentum"]():
        q = shipped(case, kernel, x, x[::-1].copy(), u, 1.0)[0]
    law = proposal_law(case, case.taylor, 1.0, u.numpy(), float32_log(0.7), 0.0)
    assert np.abs(q - product_proposal(law, case.radices)[x, x[::-1]]).max() > 1e-3


def test_a_momentum_kept_on_rejection_is_found() -> None:
    case, kernel = CASES["net-ordinal"], samplers.create("dhams")
    u = _moments(case, 9, 1)
    with _momentum_kept_on_rejection():
        assert torch.equal(shipped(case, kernel, np.arange(9), np.arange(9)[::-1], u, 1.0, accept=False)[2], u)


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", ["hastings", "refresh"])
def test_the_conformance_suite_finds_it_too(mutant: str) -> None:
    def shrinking(momentum: torch.Tensor, persistence: float, *, generator: torch.Generator) -> torch.Tensor:
        return persistence * momentum + (1 - persistence) * torch.randn(momentum.shape, generator=generator)

    planted = (MUTANTS["hastings and kinetic terms dropped"]() if mutant == "hastings"
               else mock.patch.object(dhams, "refreshed", shrinking))
    targets = [target for target in default_targets("Binary", 0) if target.name == "Binary coupled"]
    with planted, pytest.raises(ConformanceError, match=r"law|movement"):
        check_sampler("dhams", targets=targets)


# -- numbers and settings -------------------------------------------------------------------------------------------


def test_huge_energy_differences_do_not_freeze_or_break_a_chain(seed: int) -> None:
    energy = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    generator = torch.Generator().manual_seed(seed)
    for share in (0.0, 0.5):
        kernel = samplers.create("dhams", over_relaxation=share)
        state = kernel.init(energy, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
        for _ in range(60):
            state, info = kernel.step(energy, state, generator=generator)
            assert info.acceptance.isfinite().all()
            assert state.cache["momentum"].isfinite().all()
        assert bool((state.x == 1).all())


def test_forbidden_states_are_never_entered_but_left(seed: int) -> None:
    energy = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, e.sum(1)), Binary(4))
    generator, kernel = torch.Generator().manual_seed(seed), samplers.create("dhams")
    state = kernel.init(energy, torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]] * 50).to(torch.int8), generator=generator)
    for _ in range(40):
        state, info = kernel.step(energy, state, generator=generator)
        assert int(info.non_finite) == 0
    assert state.energy.isfinite().all()


def test_no_chains_and_one_chain() -> None:
    case, kernel, generator = CASES["net-ragged"], samplers.create("dhams"), torch.Generator()
    for n in (0, 1):
        state = kernel.init(case.energy, case.x(np.zeros(n, int)), generator=generator)
        state, _ = kernel.step(case.energy, state, generator=generator)
        assert state.cache["momentum"].shape == (n, 3, 3)


@pytest.mark.parametrize("settings", [
    {"step_size": 0.0}, {"persistence": 1.0}, {"persistence": -0.1}, {"over_relaxation": 1.0},
    {"over_relaxation": True}, {"gradient_correction": -1.0}, {"gradient_correction": float("inf")},
    {"exact_deltas": "yes"}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must"):
        samplers.create("dhams", **settings)


def test_real_states_are_refused_in_a_sentence() -> None:
    with pytest.raises(CapabilityError, match="langevin"):
        samplers.create("dhams").init(from_callable(lambda e: e.sum(1), Real(3)), torch.zeros(2, 3),
                                      generator=torch.Generator())
