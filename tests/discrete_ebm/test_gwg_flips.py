"""Gibbs-with-Gradients with several flips is its matrix, which keeps the target; one flip is the kernel it always was.

False failures: every statistical assertion here belongs to one family with budget 1e-7, split evenly (Bonferroni).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import ConformanceError, SettingError
from discrete_ebm.samplers import gwg
from discrete_ebm.samplers.gwg import round_either_way, set_sites
from discrete_ebm.samplers.informed import draw_moves
from discrete_ebm.spaces import Binary, Categorical
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference, scripted, statistical
from tests.cases import Case

CASES = {case.name: case for case in cases.all_cases()}
FAMILY = 1e-7
TAYLOR = ["ising-dense", "rbm", "net-binary", "net-spin", "net-ragged", "net-ordinal"]


def several_flips(case: Case, deltas: np.ndarray, beta: float, n: int, balancing: str = "sqrt", laziness: float = 0.01,
                  free: list[int] | None = None) -> np.ndarray:
    """The matrix, by going through all sequences of n sites and all new values of the sites in them.

    With draws (i_1 … i_n) of sites and one new value for each distinct site, a proposal has probability
    Π_t q(i_t) Π_{i ∈ distinct} q(value | i); the same draws of sites and the old values lead back.
    """
    rows, number = reference.states(case.radices), reference.row_number(case.radices)
    g = np.zeros((len(rows), len(case.radices), max(case.radices)))
    for s, row in enumerate(rows):
        for i, k in enumerate(case.radices):
            for v in range(k):
                if v != row[i] and (free is None or i in free):
                    g[s, i, v] = reference.BALANCING[balancing](np.exp(-beta * deltas[s, i, v]))
    site = g.sum(2) / g.sum((1, 2))[:, None]
    value = np.divide(g, g.sum(2, keepdims=True), out=np.zeros_like(g), where=g.sum(2, keepdims=True) > 0)
    law = reference.boltzmann(case.table, beta)
    matrix = np.zeros((len(rows), len(rows)))
    sites = range(len(case.radices)) if free is None else free
    for s, row in enumerate(rows):
        for draws in itertools.product(sites, repeat=n):
            distinct = sorted(set(draws))
            choices = [[v for v in range(case.radices[i]) if v != row[i]] for i in distinct]
            for new in itertools.product(*choices):
                other = row.copy()
                other[distinct] = new
                t = number[tuple(other)]
                there = np.prod(site[s, list(draws)]) * np.prod([value[s, i, v] for i, v in zip(distinct, new,
                                                                                              strict=True)])
                back = np.prod(site[t, list(draws)]) * np.prod([value[t, i, row[i]] for i in distinct])
                matrix[s, t] += (1 - laziness) * min(there, law[t] * back / law[s])
    matrix[np.diag_indices(len(rows))] += 1 - matrix.sum(1)
    return matrix


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", TAYLOR)
def test_the_matrix_keeps_the_target_and_the_shipped_arithmetic_is_that_matrix(name: str, n: int) -> None:
    case = CASES[name]
    for balancing, beta, free in (("sqrt", 1.0, None), ("barker", 2.0, None), ("min", 0.3, [0, 1]), ("max", 2.0, None)):
        wanted = several_flips(case, case.taylor, beta, n, balancing, free=free)
        target = reference.boltzmann(case.table, beta)
        assert reference.stationarity_error(wanted, target) <= 1e-12
        assert reference.balance_error(wanted, target) <= 1e-12
        kernel = samplers.create("gwg", n_flips=n, max_flips=n, balancing=balancing, exact_deltas=False)
        ours = scripted.follow(kernel, case, beta, n, free)
        assert np.abs(ours - wanted).max() <= 1e-10
        assert reference.stationarity_error(ours, target) <= 1e-10
        assert reference.balance_error(ours, target) <= 1e-10


@pytest.mark.parametrize("name", ["ising-lattice-2x2", "potts", "rbm"])
def test_exact_deltas_too(name: str) -> None:
    case = CASES[name]
    kernel = samplers.create("gwg", n_flips=2, max_flips=2, exact_deltas=True)
    assert np.abs(scripted.follow(kernel, case, 0.7, 2) - several_flips(case, case.exact, 0.7, 2)).max() <= 1e-10


def test_one_draw_is_the_plain_kernel() -> None:
    for name in ("net-binary", "net-ragged"):
        case = CASES[name]
        plain = reference.gwg(case.table, case.taylor, case.radices, 1.3, "sqrt", 0.01)
        assert np.abs(several_flips(case, case.taylor, 1.3, 1) - plain).max() <= 1e-12


def test_one_flip_has_nothing_to_adapt_and_several_have() -> None:
    case = CASES["net-binary"]
    for n, cached in ((1, {"deltas"}), (1.0, {"deltas"}), (2.5, {"deltas", "log_scale"})):
        kernel = samplers.create("gwg", n_flips=n)
        state = kernel.init(case.energy, case.x(np.arange(5)), generator=torch.Generator())
        assert set(state.cache) == cached
    assert state.cache["log_scale"].dtype == torch.float32
    assert state.cache["log_scale"].exp().tolist() == pytest.approx([2.5] * 5)
    assert kernel.target_acceptance == 0.574
    assert kernel.scale_bounds == (1.0, 64.0)


@pytest.mark.parametrize(("name", "n_flips", "balancing"), [
    ("net-ragged", 2.5, "barker"), pytest.param("net-binary", 2, "sqrt", marks=pytest.mark.slow),
    pytest.param("net-ordinal", 2, "max", marks=pytest.mark.slow)])
def test_the_shipped_code_is_the_matrix_row_by_row(name: str, n_flips: float, balancing: str, seed: int) -> None:
    """20,000 chains a row and beta, both betas in one batch; a broken number of flips is a mixture of its two."""
    case, n, betas = CASES[name], 20_000, (0.3, 2.0)
    n_states = len(case.table)
    rows = np.tile(np.repeat(np.arange(n_states), n), 2)
    generator = torch.Generator().manual_seed(seed)
    kernel = samplers.create("gwg", n_flips=n_flips, max_flips=3, balancing=balancing, exact_deltas=False)
    state = kernel.init(case.energy, case.x(rows), generator=generator)
    beta = torch.tensor(betas).repeat_interleave(n_states * n)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta)
    which = np.repeat(np.arange(2), n_states * n)
    counts = np.bincount((which * n_states + rows) * n_states + case.rows(state.x), minlength=2 * n_states**2)
    low, share = int(n_flips), n_flips - int(n_flips)
    matrices = [(1 - share) * several_flips(case, case.taylor, b, low, balancing)
                + (share * several_flips(case, case.taylor, b, low + 1, balancing) if share else 0) for b in betas]
    statistical.assert_rows_match(counts.reshape(-1, n_states), np.concatenate(matrices),
                                  false_fail=FAMILY / 20, must_see=0.046)


@pytest.mark.parametrize("space", ["Binary", *(pytest.param(space, marks=pytest.mark.slow) for space in (
    "Spin", "Categorical", "Ordinal", "Product"))])
def test_conformance(space: str, seed: int) -> None:
    """False-fail budget 1e-7 each."""
    targets = default_targets(space, seed)
    targets = targets[:1] if space == "Binary" else targets
    assert check_sampler("gwg", seed=seed, targets=targets, n_flips=2.5, max_flips=4).passed


def test_the_law_does_not_depend_on_what_the_scale_is_as_long_as_it_stands_still(seed: int) -> None:
    """Chains with scales from 1 to 6: exact draws stay exact."""
    case, n = CASES["net-ragged"], 60_000
    law = reference.boltzmann(case.table, 1.0)
    start = np.random.default_rng(seed).choice(len(law), n, p=law)
    kernel, generator = samplers.create("gwg", n_flips=2, max_flips=6), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(start), generator=generator)
    state.cache["log_scale"].copy_(torch.linspace(0, np.log(6.0), n))
    for _ in range(5):
        state, info = kernel.step(case.energy, state, generator=generator)
    statistical.assert_law(np.bincount(case.rows(state.x), minlength=len(law)), law, false_fail=FAMILY / 20,
                           must_see=0.03)
    assert info.energy_calls == 1.0


# -- the pieces -------------------------------------------------------------------------------------------------------


def test_moves_are_drawn_from_their_law_and_never_where_it_is_0(seed: int) -> None:
    logits = torch.tensor([0.3, -torch.inf, -1.2, 2.0, -torch.inf, -745.0])
    generator = torch.Generator().manual_seed(seed)
    move, possible = draw_moves(logits.expand(50_000, 6), 4, generator=generator)
    assert possible.all()
    law = torch.softmax(logits.double(), 0).numpy()
    statistical.assert_law(np.bincount(move.flatten().numpy(), minlength=6), law, false_fail=FAMILY / 20,
                           must_see=0.02)
    pairs = np.bincount((move[:, 0] * 6 + move[:, 1]).numpy(), minlength=36)
    statistical.assert_law(pairs, np.outer(law, law).ravel(), false_fail=FAMILY / 20, must_see=0.03)
    _, none = draw_moves(torch.full((2, 3), -torch.inf), 4, generator=generator)
    assert not none.any()


def test_a_broken_number_is_rounded_either_way(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = round_either_way(torch.full((1000,), 3.0), generator=generator)
    assert (whole == 3).all()
    broken = round_either_way(torch.full((100_000,), 2.25), generator=generator)
    statistical.assert_law(np.bincount(broken.numpy(), minlength=4), np.array([0, 0, 0.75, 0.25]),
                           false_fail=FAMILY / 20, must_see=0.02)


def test_sites_are_set_where_they_are_chosen() -> None:
    index = torch.tensor([[5, 6, 7], [5, 6, 7]])
    site, value = torch.tensor([[0, 0, 2], [1, 1, 1]]), torch.tensor([[1, 2, 3], [1, 2, 3]])
    chosen = torch.tensor([[False, True, True], [True, False, False]])
    assert set_sites(index, site, value, chosen).tolist() == [[2, 6, 3], [5, 1, 7]]
    assert index.tolist() == [[5, 6, 7]] * 2


def test_one_gradient_a_step_however_many_flips() -> None:
    calls = []

    def fn(e: Tensor) -> Tensor:
        calls.append(len(e))
        return (e * e).sum(1)

    energy, kernel, generator = from_callable(fn, Binary(6)), samplers.create("gwg", n_flips=4), torch.Generator()
    state = kernel.init(energy, torch.zeros(3, 6, dtype=torch.int8), generator=generator)
    calls.clear()
    for _ in range(5):
        state, _ = kernel.step(energy, state, generator=generator)
    assert calls == [3] * 5


def test_huge_differences_forbidden_states_and_no_chains(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steep = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    walls = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, 0.0) + e.sum(1), Binary(5))
    for balancing in ("sqrt", "barker", "min", "max"):
        kernel = samplers.create("gwg", n_flips=3, balancing=balancing)
        state = kernel.init(steep, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
        for _ in range(60):
            state, info = kernel.step(steep, state, generator=generator)
            assert info.acceptance.isfinite().all()
        assert (state.x == 1).all(), balancing
        state = kernel.init(walls, torch.zeros(50, 5, dtype=torch.int8), generator=generator)
        for _ in range(10):
            state, info = kernel.step(walls, state, generator=generator)
            assert state.energy.isfinite().all()
            assert int(info.non_finite) == 0
    state = kernel.init(steep, torch.zeros(0, 5, dtype=torch.int8), generator=generator)
    state, info = kernel.step(steep, state, generator=generator)
    assert info.hamming.shape == (0,)


@pytest.mark.parametrize("settings", [{"n_flips": 0}, {"n_flips": 0.5}, {"n_flips": "two"}, {"n_flips": True},
                                      {"n_flips": float("nan")}, {"max_flips": 0}, {"max_flips": 2.0},
                                      {"n_flips": 5, "max_flips": 4}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must be"):
        samplers.create("gwg", **settings)


# -- the checks can fail ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def proposal_from_the_start() -> Iterator[None]:
    """The published `fixed_proposal`: the way back is scored by the deltas at the old state (but for the masks)."""
    first: list[Tensor] = []
    original = gwg.wide_scores

    def stale(neighbourhood: Any, x: Tensor, deltas: Tensor, *rest: Any) -> Tensor:
        first.append(deltas)
        return original(neighbourhood, x, first[0] if len(first) % 2 == 0 else deltas, *rest)

    def fresh(neighbourhood: Any, x: Tensor, deltas: Tensor, *rest: Any) -> Tensor:
        if len(first) == 2:
            first.clear()
        return stale(neighbourhood, x, deltas, *rest)

    with mock.patch.object(gwg, "wide_scores", fresh):
        yield


@contextlib.contextmanager
def values_of_duplicates_counted() -> Iterator[None]:
    """Every draw's value is scored, also those of a site that was drawn before; back, with the old value each time."""
    original = gwg._log_prob_of_draws
    with mock.patch.object(gwg, "_log_prob_of_draws",
                           lambda scores, width, site, slot, used, first: original(scores, width, site, slot, used,
                                                                                   used)):
        yield


@contextlib.contextmanager
def duplicates_counted_once() -> Iterator[None]:
    """A site drawn twice scored as if it had been drawn once: the probability of a set, which it is not."""
    original = gwg._log_prob_of_draws

    def once(scores: Tensor, width: int, site: Tensor, slot: Tensor, used: Tensor, first: Tensor) -> Tensor:
        return original(scores, width, site, slot, first, first)

    with mock.patch.object(gwg, "_log_prob_of_draws", once):
        yield


@contextlib.contextmanager
def flips_that_follow_the_state() -> Iterator[None]:
    """The number of flips grows with the slope at the state: nothing in the ratio makes up for it."""
    slope: list[Tensor] = []
    original = samplers.GibbsWithGradients._step_several

    def watch(self: Any, energy: Any, neighbourhood: Any, state: Any, *rest: Any) -> Any:
        slope[:] = [state.energy]
        return original(self, energy, neighbourhood, state, *rest)

    def eager(value: Tensor, *, generator: torch.Generator) -> Tensor:
        return 1 + (slope[0] > 0).long()

    with (mock.patch.object(samplers.GibbsWithGradients, "_step_several", watch),
          mock.patch.object(gwg, "round_either_way", eager)):
        yield


@contextlib.contextmanager
def unused_draws_scored() -> Iterator[None]:
    """The mask of draws beyond the number of flips missing on the way back."""
    original, turn = gwg._log_prob_of_draws, itertools.count()

    def careless(scores: Tensor, width: int, site: Tensor, slot: Tensor, used: Tensor, first: Tensor) -> Tensor:
        used = torch.ones_like(used) if next(turn) % 2 else used
        return original(scores, width, site, slot, used, first)

    with mock.patch.object(gwg, "_log_prob_of_draws", careless):
        yield


@pytest.mark.mutants
def test_a_planted_bug_bends_the_matrix() -> None:
    case, kernel = CASES["net-ragged"], samplers.create("gwg", n_flips=2, max_flips=2, exact_deltas=False)
    target = reference.boltzmann(case.table, 1.0)
    assert reference.stationarity_error(scripted.follow(kernel, case, 1.0, 2), target) <= 1e-10
    with proposal_from_the_start():
        bent = scripted.follow(kernel, case, 1.0, 2)
    assert reference.stationarity_error(bent, target) >= 1e-3


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "space", "n"), [
    (duplicates_counted_once, "Binary", 3), (values_of_duplicates_counted, "Ordinal", 3),
    (flips_that_follow_the_state, "Spin", 2), (unused_draws_scored, "Binary", 2)])
def test_a_planted_bug_is_found_by_the_conformance_suite(plant: Any, space: str, n: int) -> None:
    targets = default_targets(space, 0)[:1]
    with plant(), pytest.raises(ConformanceError) as caught:
        check_sampler("gwg", targets=targets, n_flips=n, max_flips=n + 1)
    assert "law" in str(caught.value)


def test_300_categories_keep_their_codes(seed: int) -> None:
    space = Categorical(3, 300)
    energy = from_callable(lambda e: -e[..., 290:].sum((1, 2)) * 20, space)
    kernel, generator = samplers.create("gwg", n_flips=3), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, space.random(8, generator), generator=generator)
    for _ in range(20):
        state, _ = kernel.step(energy, state, generator=generator)
    assert state.x.dtype == space.dtype
    assert (state.x >= 290).all()
