"""Random-walk Metropolis is the matrix of its paper, keeps its target, and its planted bugs are found.

The reference is written from the definition, set by set and value by value. False failures: the statistical assertions
of this file are one family with budget 1e-7, split evenly, and Holm's rule inside each.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import discrete_ebm as de
from discrete_ebm import samplers
from discrete_ebm.energies import from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import metropolis as module
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Real, Spin
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference, statistical
from tests.cases import Case

FAMILY, BETAS = 1e-7, (0.3, 2.0)
CASES = {case.name: case for case in cases.all_cases()}


def proposal(radices: Sequence[int], s: float, neighbour: bool = False, free: list[int] | None = None) -> np.ndarray:
    """q(x, y): a uniform site of the F free ones, each other with chance ρ; then a value for each site of the set."""
    rows, number = reference.states(radices), reference.row_number(radices)
    free = list(range(len(radices))) if free is None else free
    rho = min(0.5, (s - 1) / (len(free) - 1)) if len(free) > 1 else 0.0
    q = np.zeros((len(rows), len(rows)))
    for size in range(1, len(free) + 1):
        for chosen in itertools.combinations(free, size):
            chance = size / len(free) * rho ** (size - 1) * (1 - rho) ** (len(free) - size)
            for x, row in enumerate(rows):
                options = []
                for i in chosen:
                    if neighbour:
                        options.append([v if 0 <= v < radices[i] else row[i] for v in (row[i] - 1, row[i] + 1)])
                    else:
                        options.append([v for v in range(radices[i]) if v != row[i]])
                for values in itertools.product(*options):
                    y = row.copy()
                    y[list(chosen)] = values
                    q[x, number[tuple(y)]] += chance / math.prod(len(o) for o in options)
    return q


def matrix(case: Case, beta: float, s: float, neighbour: bool = False, free: list[int] | None = None,
           laziness: float = 0.01) -> np.ndarray:
    q = proposal(case.radices, s, neighbour, free)
    return reference.metropolis(q, reference.boltzmann(case.table, beta), laziness)


def assert_rows(case: Case, kernel: samplers.Kernel, wanted: Callable[[float], np.ndarray], seed: int,
                free: list[int] | None = None, n: int = 10_000) -> None:
    """n chains a row and beta, both betas in one batch; a total variation of 0.07 in one row is seen."""
    n_states = len(case.table)
    rows = np.tile(np.repeat(np.arange(n_states), n), len(BETAS))
    beta = torch.tensor(BETAS).repeat_interleave(n_states * n)
    clamp = None
    if free is not None:
        clamp = torch.tensor([i not in free for i in range(len(case.radices))]).reshape(case.space.shape)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    which = np.repeat(np.arange(len(BETAS)), n_states * n)
    code = (which * n_states + rows) * n_states + case.rows(state.x)
    counts = np.bincount(code, minlength=len(BETAS) * n_states**2).reshape(-1, n_states)
    statistical.assert_rows_match(counts, np.concatenate([wanted(b) for b in BETAS]), false_fail=FAMILY / 40,
                                  must_see=0.07)


@pytest.mark.parametrize("s", [1.0, 1.7, 9.0])
@pytest.mark.parametrize("name", CASES)
def test_the_papers_matrix_keeps_the_target_and_balances(name: str, s: float) -> None:
    case = CASES[name]
    for beta in (0.3, 1.0, 2.0):
        for neighbour in (False, True):
            law, p = reference.boltzmann(case.table, beta), matrix(case, beta, s, neighbour)
            assert p.min() >= -1e-15
            assert reference.stationarity_error(p, law) <= 1e-12
            assert reference.balance_error(p, law) <= 1e-12
    assert reference.second_eigenvalue(matrix(case, 1.0, s)) <= 0.999
    q = proposal(case.radices, s)
    assert np.abs(q - q.T).max() <= 1e-15
    assert np.abs(q.sum(1) - 1).max() <= 1e-12


def test_a_fixed_even_number_of_sites_would_never_change_a_parity() -> None:
    """Why the number of sites is random: two bits at a time leave the state space in two halves."""
    radices, rows = (2,) * 4, reference.states((2,) * 4)
    q = (np.abs(rows[:, None] - rows[None]).sum(-1) == 2) / 6.0
    assert reference.second_eigenvalue(reference.metropolis(q, np.full(16, 1 / 16), 0.01)) == pytest.approx(1.0)
    assert reference.second_eigenvalue(reference.metropolis(proposal(radices, 2.0), np.full(16, 1 / 16), 0.01)) < 0.999


@pytest.mark.parametrize(("name", "s"), [(name, 1.0 if i % 2 else 1.7) for i, name in enumerate(CASES)])
def test_the_shipped_code_is_the_matrix_row_by_row(name: str, s: float, seed: int) -> None:
    case = CASES[name]
    assert_rows(case, samplers.create("metropolis", n_sites=s), lambda b: matrix(case, b, s), seed)


@pytest.mark.parametrize(("name", "s", "free"), [("net-ragged", 1.5, [0, 1]), ("ising-dense", 2.0, [0, 2, 3]),
                                                 ("potts", 1.0, [1]), ("net-ordinal", 9.0, [0])])
def test_clamped_sites_stay_and_the_rest_is_the_matrix(name: str, s: float, free: list[int], seed: int) -> None:
    case = CASES[name]
    kernel = samplers.create("metropolis", n_sites=s)
    assert_rows(case, kernel, lambda b: matrix(case, b, s, free=free), seed + 1, free)


@pytest.mark.parametrize(("s", "free"), [(1.0, None), (1.6, None), (1.0, [1])])
def test_neighbour_moves_are_the_matrix_on_ordinal_values(s: float, free: list[int] | None, seed: int) -> None:
    case = CASES["net-ordinal"]
    kernel = samplers.create("metropolis", n_sites=s, moves="neighbour")
    assert_rows(case, kernel, lambda b: matrix(case, b, s, True, free), seed + 2, free)


def test_neighbour_moves_conform_inside_a_product(seed: int) -> None:
    space = Product({"level": Ordinal(2, [0.0, 1.0, 3.0]), "kind": Categorical(1, 4)})
    energy = de.testing.PairwiseFeatures(space, seed=3)
    target = de.testing.Target("mixed", energy, space.enumerate())
    assert check_sampler("metropolis", seed=seed, targets=[target], n_sites=1.4, moves="neighbour").passed
    generator = torch.Generator().manual_seed(seed)
    kernel = samplers.create("metropolis", moves="neighbour")
    state = kernel.init(energy, space.random(2000, generator), generator=generator)
    after, _ = kernel.step(energy, state, generator=generator, beta=0.0)
    jump = (after.x - state.x).abs()
    assert int(jump[:, :2].max()) == 1
    assert int(jump[:, 2].max()) == 3


def test_exact_draws_stay_exact_after_30_steps_at_each_chains_own_scale(seed: int) -> None:
    """100,000 exact draws at beta = 2, scales from 1 to 8 in one batch; a total variation of 0.021 is seen."""
    case, n, beta = CASES["ising-dense"], 100_000, 2.0
    law = reference.boltzmann(case.table, beta)
    start = np.random.default_rng(seed).choice(len(law), n, p=law)
    kernel, generator = samplers.create("metropolis"), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(start), generator=generator)
    state = state._replace(cache={"log_scale": torch.linspace(0, math.log(8.0), n)})
    for _ in range(30):
        state, _ = kernel.step(case.energy, state, generator=generator, beta=beta)
    assert torch.equal(state.cache["log_scale"], torch.linspace(0, math.log(8.0), n))
    counts = np.bincount(case.rows(state.x), minlength=len(law))
    statistical.assert_law(counts, law, false_fail=FAMILY / 40, must_see=0.021)
    assert (case.rows(state.x) != start).mean() > 0.3 * (1 - (law**2).sum())


def test_the_number_of_sites_changed_has_the_stated_mean(seed: int) -> None:
    """E = 0: everything is accepted; 20,000 chains of 40 sites, standard error of the mean below 0.02."""
    energy = from_callable(lambda e: 0 * e.sum(1), Binary(40))
    for s in (1.0, 3.0, 12.0):
        kernel, generator = samplers.create("metropolis", n_sites=s, laziness=0.0), torch.Generator().manual_seed(seed)
        state = kernel.init(energy, Binary(40).random(20_000, generator), generator=generator)
        _, info = kernel.step(energy, state, generator=generator)
        assert float(info.hamming.double().mean()) == pytest.approx(s, abs=6 * 0.02)
        assert int(info.hamming.min()) >= 1  # never an empty set
        assert info.energy_calls == 1.0


def test_the_scale_adapts_to_0_234_and_is_then_held(seed: int) -> None:
    weight = torch.randn(200, generator=torch.Generator().manual_seed(1))
    energy = from_callable(lambda e: e @ weight, Binary(200))
    chains = de.sample(energy, "metropolis", n_chains=64, n_steps=1500, burn_in=1000, seed=seed)
    assert chains.acceptance_rate == pytest.approx(0.234, abs=0.06)
    assert chains.state.cache["log_scale"].shape == (64,)
    assert bool((chains.state.cache["log_scale"] > 0).all())


def test_300_categories_and_infinite_energies_are_respected(seed: int) -> None:
    space = Categorical(2, 300)
    energy = from_callable(lambda e: torch.where(e[..., :290].sum((1, 2)) > 1, torch.inf, e[..., 0].sum(1)), space)
    kernel, generator = samplers.create("metropolis", n_sites=2.0), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, torch.full((500, 2), 295), generator=generator)
    for _ in range(20):
        state, info = kernel.step(energy, state, generator=generator)
        space.validate(state.x)
        assert state.energy.isfinite().all()
        assert int(info.non_finite) == 0
    assert len(state.x.unique()) > 250


def test_no_chains_is_no_work() -> None:
    case, generator = CASES["potts"], torch.Generator()
    for moves, target in (("uniform", case), ("neighbour", CASES["net-ordinal"])):
        kernel = samplers.create("metropolis", moves=moves)
        state = kernel.init(target.energy, target.x(np.arange(0)), generator=generator)
        clamp = torch.zeros(target.space.shape, dtype=torch.bool)
        state, info = kernel.step(target.energy, state, generator=generator, clamp=clamp)
        assert state.x.shape == (0, *target.space.shape)
        assert info.acceptance.shape == (0,)


@pytest.mark.parametrize(("settings", "word"), [
    ({"n_sites": 0.5}, "n_sites"), ({"n_sites": float("nan")}, "n_sites"), ({"n_sites": True}, "n_sites"),
    ({"moves": "left"}, "moves"), ({"laziness": 1.0}, "laziness")])
def test_wrong_settings_are_refused(settings: dict, word: str) -> None:
    with pytest.raises(SettingError, match=word):
        samplers.create("metropolis", **settings)


def test_spaces_without_an_order_or_without_sites_are_refused() -> None:
    energy = from_callable(lambda e: e.sum(1), Spin(3))
    with pytest.raises(CapabilityError, match="Ordinal"):
        samplers.create("metropolis", moves="neighbour").init(energy, torch.ones(1, 3), generator=torch.Generator())
    real = from_callable(lambda e: e.sum(1), Real(3))
    with pytest.raises(CapabilityError, match="discrete"):
        samplers.create("metropolis").init(real, torch.ones(1, 3), generator=torch.Generator())


# -- planted bugs ---------------------------------------------------------------------------------------------------


def _ends_reflected() -> mock._patch:
    """The published slip: at the lowest and highest value the only neighbour is proposed with probability 1."""
    original = module.Metropolis._other_values

    def reflected(self: module.Metropolis, space: Ordinal, index: Tensor, generator: torch.Generator) -> Tensor:
        other = original(self, space, index, generator)
        inward = torch.where(index == 0, 1, space.k_max - 2)
        return torch.where(other == index, inward, other)

    return mock.patch.object(module.Metropolis, "_other_values", reflected)


def _more_sites_where_energy_is_high() -> mock._patch:
    """A scale that follows the state inside a step, without a reverse term."""
    original = module._draw_sites

    def follow(space: Binary, x: Tensor, log_scale: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        return original(space, x, log_scale + (space.to_index(x).sum(1) > 1), *rest)

    return mock.patch.object(module, "_draw_sites", follow)


def _clamp_forgotten() -> mock._patch:
    return mock.patch.object(module, "free_sites", return_value=None)


def _values_without_the_current_one_masked() -> mock._patch:
    """Uniform over values 0..k−2 instead of over the others: q(x, y) ≠ q(y, x)."""

    def short(self: module.Metropolis, space: Categorical, index: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand(index.shape, generator=generator)
        return (draw * (space.n_values - 1)).long()

    return mock.patch.object(module.Metropolis, "_other_values", short)


def _beta_ignored() -> mock._patch:
    return mock.patch.object(module, "metropolis_log_alpha", lambda delta, beta, ratio: -delta)


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "space", "settings", "killer"), [
    (_ends_reflected, "Ordinal", {"moves": "neighbour"}, "law"),
    (_more_sites_where_energy_is_high, "Binary", {"n_sites": 1.3}, "law"),
    (_clamp_forgotten, "Spin", {}, "clamped sites"),
    (_values_without_the_current_one_masked, "Categorical", {}, "law"),
    (_beta_ignored, "Spin", {}, "law at beta"),
    (contextlib.nullcontext, "Spin", {"laziness": 0.0}, "no period"),  # not a bug in the code but in the setting
])
def test_planted_bugs_are_found(plant: Callable[[], contextlib.AbstractContextManager], space: str, settings: dict,
                                killer: str) -> None:
    kind = "free" if killer == "no period" else "coupled"
    targets = [target for target in default_targets(space, 0) if kind in target.name]
    with plant(), pytest.raises(ConformanceError, match=killer):
        check_sampler("metropolis", targets=targets, **settings)
