"""The locally balanced sampler is the matrix of Zanella 2020, and that matrix keeps the target.

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
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import locally_balanced
from discrete_ebm.samplers.locally_balanced import neighbour_energies
from discrete_ebm.spaces import Binary, Categorical, Real
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference, scripted, statistical
from tests.cases import Case

CASES = {case.name: case for case in cases.all_cases()}
BETAS = (0.3, 1.0, 2.0)
BALANCING = ("sqrt", "barker", "min", "max")
FAMILY = 1e-7


def zanella(case: Case, beta: float, balancing: str, laziness: float = 0.01,
            free: list[int] | None = None) -> np.ndarray:
    """P(x, y) = g(π(y)/π(x))/Z(x) · min(1, Z(x)/Z(y)) on pairs that differ at one site, times 1 − laziness."""
    rows = reference.states(case.radices)
    weight = np.exp(-beta * (case.table - case.table.min()))
    near = (rows[:, None] != rows[None]).sum(-1) == 1
    if free is not None:
        held = [i for i in range(rows.shape[1]) if i not in free]
        near &= (rows[:, None, held] == rows[None, :, held]).all(-1)
    g = np.where(near, reference.BALANCING[balancing](weight[None] / weight[:, None]), 0.0)
    z = g.sum(1)
    matrix = (1 - laziness) * g / z[:, None] * np.minimum(1, z[:, None] / z[None])
    matrix[np.diag_indices(len(z))] = 1 - matrix.sum(1)
    return matrix


@pytest.mark.parametrize("name", CASES)
def test_the_papers_matrix_keeps_the_target_and_is_reversible(name: str) -> None:
    for beta, balancing in itertools.product(BETAS, BALANCING):
        matrix = zanella(CASES[name], beta, balancing)
        target = reference.boltzmann(CASES[name].table, beta)
        assert reference.stationarity_error(matrix, target) <= 1e-12
        assert reference.balance_error(matrix, target) <= 1e-12
        assert matrix.min() >= -1e-15


@pytest.mark.parametrize("closed_form", ["auto", False])
@pytest.mark.parametrize("name", CASES)
def test_the_shipped_arithmetic_is_the_papers_matrix(name: str, closed_form: bool | str) -> None:
    case = CASES[name]
    for beta, balancing in itertools.product(BETAS, BALANCING):
        kernel = samplers.create("locally-balanced", balancing=balancing, closed_form=closed_form)
        for free in (None, list(range(1, len(case.radices)))):
            ours = scripted.follow(kernel, case, beta, 1, free)
            assert np.abs(ours - zanella(case, beta, balancing, free=free)).max() <= 1e-10


@pytest.mark.parametrize(("name", "balancing"), [
    ("ising-dense", "sqrt"), ("net-binary", "barker"), ("net-spin", "min"), ("net-ragged", "max"),
    ("net-ordinal", "sqrt"), ("potts", "barker")])
def test_the_shipped_code_is_the_papers_matrix_row_by_row(name: str, balancing: str, seed: int) -> None:
    """20,000 chains a row and beta, both betas in one batch; clamped for the ragged one."""
    case, n, betas = CASES[name], 20_000, (0.3, 2.0)
    free = [0, 1] if name == "net-ragged" else None
    n_states = len(case.table)
    rows = np.tile(np.repeat(np.arange(n_states), n), 2)
    generator, clamp = torch.Generator().manual_seed(seed), scripted.clamp_of(case, free)
    kernel = samplers.create("locally-balanced", balancing=balancing)
    state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
    beta = torch.tensor(betas).repeat_interleave(n_states * n)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    which = np.repeat(np.arange(2), n_states * n)
    counts = np.bincount((which * n_states + rows) * n_states + case.rows(state.x), minlength=2 * n_states**2)
    statistical.assert_rows_match(counts.reshape(-1, n_states),
                                  np.concatenate([zanella(case, beta, balancing, free=free) for beta in betas]),
                                  false_fail=FAMILY / 20, must_see=0.046)


@pytest.mark.parametrize("space", ["Spin", "Categorical", "Ordinal"])
def test_settings_conform_too(space: str, seed: int) -> None:
    """False-fail budget 1e-7 each; the default settings are in test_conformance.py."""
    settings = {"balancing": "barker", "closed_form": False, "max_batch": 1}
    assert check_sampler("locally-balanced", seed=seed, targets=default_targets(space, seed)[:1], **settings).passed


# -- what it is for ---------------------------------------------------------------------------------------------------


def test_an_energy_without_gradients_is_sampled(seed: int) -> None:
    """A table of numbers: nothing to differentiate. 50,000 exact draws stay exact."""
    table = torch.randn(12, generator=torch.Generator().manual_seed(4))
    energy = from_callable(
        lambda e: table[(e.argmax(-1) * torch.tensor([6, 3, 1])).sum(1).clamp(max=11)], Categorical(3, [2, 2, 3]))
    x = energy.space.enumerate()
    law = reference.boltzmann(energy(energy.space.encode(x)).double().numpy(), 1.0)
    start = np.random.default_rng(seed).choice(12, 50_000, p=law)
    kernel, generator = samplers.create("locally-balanced"), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, x[start], generator=generator)
    for _ in range(6):
        state, info = kernel.step(energy, state, generator=generator)
    rows = (state.x.long() @ torch.tensor([6, 3, 1])).numpy()
    statistical.assert_law(np.bincount(rows, minlength=12), law, false_fail=FAMILY / 20, must_see=0.03)
    assert (info.energy_calls, info.gradient_calls) == (1 + 3 * 2, 0.0)


@pytest.mark.parametrize("max_batch", [1, 7, 100_000])
@pytest.mark.parametrize("name", ["net-binary", "net-spin", "net-ragged", "net-ordinal"])
def test_neighbours_are_evaluated_in_pieces_that_fit(name: str, max_batch: int) -> None:
    case, sizes = CASES[name], []
    x = case.x(np.arange(len(case.table)))

    class Counted:
        space = case.space

        def state_energy(self, states: Tensor) -> Tensor:
            sizes.append(len(states))
            return torch.tensor(case.table)[case.rows(states)]

        __call__ = state_energy

    table = neighbour_energies(Counted(), x, torch.tensor(case.table), max_batch)
    wanted = case.exact + case.table[:, None, None]
    legal = ~np.isnan(wanted)
    assert np.abs(table.numpy() - wanted)[legal].max() <= 1e-12
    assert max(sizes) <= max(max_batch, len(x))
    assert sum(sizes) == len(x) * case.space.n_sites * (case.space.k_max - 1)


def test_forbidden_states_are_never_entered_but_left(seed: int) -> None:
    energy = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, e.sum(1)), Binary(4))
    generator = torch.Generator().manual_seed(seed)
    for balancing in BALANCING:
        kernel = samplers.create("locally-balanced", balancing=balancing)
        start = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.int8).repeat(100, 1)
        state = kernel.init(energy, start, generator=generator)
        for _ in range(30):
            before = state
            state, info = kernel.step(energy, state, generator=generator)
            assert (state.energy.isfinite() | ~before.energy.isfinite()).all()
            assert int(info.non_finite) == 0
        assert state.energy.isfinite().all()


def test_huge_differences_do_not_freeze_or_break_a_chain(seed: int) -> None:
    energy = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    generator = torch.Generator().manual_seed(seed)
    for balancing in BALANCING:
        kernel = samplers.create("locally-balanced", balancing=balancing)
        state = kernel.init(energy, torch.zeros(20, 5, dtype=torch.int8), generator=generator)
        for _ in range(12):
            state, info = kernel.step(energy, state, generator=generator)
            assert info.acceptance.isfinite().all()
        assert (state.x == 1).all()


@pytest.mark.parametrize("n_chains", [0, 1])
@pytest.mark.parametrize("closed_form", ["auto", False])
def test_no_chain_and_one_chain(n_chains: int, closed_form: bool | str) -> None:
    kernel, generator = samplers.create("locally-balanced", closed_form=closed_form), torch.Generator()
    for case in (CASES["ising-lattice-2x2"], CASES["net-ragged"]):
        state = kernel.init(case.energy, case.x(np.zeros(n_chains, dtype=int)), generator=generator)
        state, info = kernel.step(case.energy, state, generator=generator)
        assert state.x.shape == (n_chains, *case.space.shape)
        assert info.hamming.shape == (n_chains,)


@pytest.mark.parametrize("settings", [{"balancing": "cube"}, {"closed_form": "maybe"}, {"max_batch": 0},
                                      {"max_batch": 2.5}, {"laziness": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must be"):
        samplers.create("locally-balanced", **settings)


def test_what_cannot_be_done_is_refused_in_a_sentence() -> None:
    with pytest.raises(CapabilityError, match="discrete"):
        samplers.create("locally-balanced").init(from_callable(lambda e: e.sum(1), Real(2)), torch.zeros(2, 2),
                                                 generator=torch.Generator())
    with pytest.raises(CapabilityError, match="closed_form='auto'"):
        samplers.create("locally-balanced", closed_form=True).init(
            CASES["net-binary"].energy, torch.zeros(2, 4), generator=torch.Generator())


# -- the checks can fail ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def always_accepted() -> Iterator[None]:
    """The published informed sampler without its accept step."""
    def yes(log_alpha: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return log_alpha > -torch.inf, torch.ones_like(log_alpha)

    with mock.patch.object(locally_balanced, "metropolis_hastings", yes):
        yield


@contextlib.contextmanager
def ratio_upside_down() -> Iterator[None]:
    def flipped(log_alpha: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return samplers.metropolis_hastings(-log_alpha, generator=generator)

    original = torch.Tensor.clamp
    with (mock.patch.object(locally_balanced, "metropolis_hastings", flipped),
          mock.patch.object(torch.Tensor, "clamp", lambda self, *a, **k: self if k == {"max": 0}
                            else original(self, *a, **k))):
        yield


@contextlib.contextmanager
def neighbours_misplaced() -> Iterator[None]:
    """The other values counted from 0 whatever the current one is."""
    original = neighbour_energies

    def shifted(energy: Any, x: Tensor, energy_x: Tensor, max_batch: int) -> Tensor:
        return original(energy, x, energy_x, max_batch).roll(1, dims=2)

    with mock.patch.object(locally_balanced, "neighbour_energies", shifted):
        yield


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "space", "settings"), [
    (always_accepted, "Spin", {}), (ratio_upside_down, "Binary", {}),
    (neighbours_misplaced, "Categorical", {"closed_form": False})])
def test_a_planted_bug_is_found(plant: Any, space: str, settings: dict) -> None:
    targets = default_targets(space, 0)[:1]
    with plant(), pytest.raises(ConformanceError) as caught:
        check_sampler("locally-balanced", targets=targets, **settings)
    assert "law" in str(caught.value)
