"""Path-auxiliary samplers are the matrices of their papers, found by walking every path, and those keep the target.

False failures: every statistical assertion here belongs to one family with budget 1e-7, split evenly (Bonferroni).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm import sample, samplers
from discrete_ebm.energies import Ising, from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError, ShapeError
from discrete_ebm.samplers import path_auxiliary
from discrete_ebm.samplers.path_auxiliary import _draw_in_order, _log_prob_in_order
from discrete_ebm.spaces import Binary, Categorical, Real, Spin
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference, scripted, statistical
from tests.cases import Case

CASES = {case.name: case for case in cases.all_cases()}
FAMILY = 1e-7
TAYLOR = ["ising-dense", "rbm", "net-binary", "net-spin", "net-ragged", "net-ordinal"]
VARIANTS = [(fast, replacement) for fast in (True, False) for replacement in (True, False)]


class Papers:
    """P(x, y) of a path of exactly L changes, by walking all of them.

    Scores along the path: PAS takes ``deltas`` at each state of the path; PAFS replaces ΔE of a move at any state of
    the path by the linear estimate from the two ends' ``deltas``: forward ones of x⁰, backward ones of xᴸ.
    """

    def __init__(self, case: Case, deltas: np.ndarray, beta: float, *, fast: bool, replacement: bool,
                 balancing: str = "sqrt", free: list[int] | None = None) -> None:
        self.case, self.deltas, self.beta, self.fast, self.replacement = case, deltas, beta, fast, replacement
        self.g = reference.BALANCING[balancing]
        self.rows, self.number = reference.states(case.radices), reference.row_number(case.radices)
        self.free = list(range(len(case.radices))) if free is None else free

    def step(self, at: tuple[int, ...], guide: int, taken: set[int]) -> dict[tuple[int, int], float]:
        """Probabilities of the moves (site, value) from ``at`` with the deltas of state number ``guide``."""
        weight = {}
        for i in self.free:
            for v in range(self.case.radices[i]):
                if v != at[i] and (self.replacement or i not in taken):
                    change = self.deltas[guide, i, v] - self.deltas[guide, i, at[i]]
                    weight[i, v] = float(self.g(np.exp(-self.beta * change)))
        total = sum(weight.values())
        return {move: w / total for move, w in weight.items()}

    def paths(self, start: tuple[int, ...], length: int) -> Iterator[tuple[list[tuple[int, ...]], list[int], float]]:
        """(states, sites, probability) of every path."""
        def go(states: list, sites: list, p: float) -> Iterator:
            if len(sites) == length:
                yield states, sites, p
                return
            at = states[-1]
            guide = self.number[start] if self.fast else self.number[at]
            for (i, v), q in self.step(at, guide, set(sites)).items():
                yield from go([*states, (*at[:i], v, *at[i + 1:])], [*sites, i], p * q)

        yield from go([start], [], 1.0)

    def back(self, states: list[tuple[int, ...]], sites: list[int]) -> float:
        """Probability of the same path walked from its end: the last site changed is the first to change back."""
        p = 1.0
        for turn in reversed(range(len(sites))):
            guide = self.number[states[-1]] if self.fast else self.number[states[turn + 1]]
            i = sites[turn]
            p *= self.step(states[turn + 1], guide, set(sites[turn + 1:]))[i, states[turn][i]]
        return p

    def matrix(self, length: int, laziness: float = 0.01) -> np.ndarray:
        if not self.replacement:
            length = min(length, len(self.free))
        law = reference.boltzmann(self.case.table, self.beta)
        matrix = np.zeros((len(law), len(law)))
        for s, row in enumerate(self.rows.tolist()):
            for states, sites, there in self.paths(tuple(row), length):
                t = self.number[states[-1]]
                matrix[s, t] += (1 - laziness) * min(there, law[t] / law[s] * self.back(states, sites))
        matrix[np.diag_indices(len(law))] += 1 - matrix.sum(1)
        return matrix

    def telescoped(self, length: int, laziness: float = 0.01) -> np.ndarray:
        """PAS with exact differences and replacement: accept with min(1, Z(x⁰)/Z(xᴸ))."""
        weight = np.exp(-self.beta * (self.case.table - self.case.table.min()))
        near = (self.rows[:, None] != self.rows[None]).sum(-1) == 1
        held = [i for i in range(self.rows.shape[1]) if i not in self.free]
        near &= (self.rows[:, None, held] == self.rows[None, :, held]).all(-1)
        g = np.where(near, self.g(weight[None] / weight[:, None]), 0.0)
        z = g.sum(1)
        walk = np.linalg.matrix_power(g / z[:, None], length)  # the acceptance only sees the two ends
        matrix = (1 - laziness) * walk * np.minimum(1, z[:, None] / z[None])
        matrix[np.diag_indices(len(z))] += 1 - matrix.sum(1)
        return matrix


# -- the algorithm, and the shipped arithmetic ------------------------------------------------------------------------


@pytest.mark.parametrize(("fast", "replacement"), VARIANTS)
@pytest.mark.parametrize("name", TAYLOR)
def test_the_shipped_arithmetic_is_the_papers_matrix_which_keeps_the_target(name: str, fast: bool,
                                                                           replacement: bool) -> None:
    case = CASES[name]
    for length, beta, balancing, free in ((1, 1.0, "barker", None), (2, 1.0, "sqrt", None), (2, 2.0, "max", [0, 1]),
                                          (3, 2.0, "barker", None), (3, 0.3, "min", None)):
        n_sites = len(case.radices)
        if not replacement and length > (n_sites if free is None else len(free)):
            continue
        if fast is False and length == 3 and case.space.k_max > 2 and balancing == "min":
            continue  # 729 paths of 12 states, each with three looks around: once is enough
        papers = Papers(case, case.taylor, beta, fast=fast, replacement=replacement, balancing=balancing, free=free)
        wanted = papers.matrix(length)
        target = reference.boltzmann(case.table, beta)
        assert reference.stationarity_error(wanted, target) <= 1e-12
        assert reference.balance_error(wanted, target) <= 1e-12
        kernel = samplers.create("pas", path_length=length, max_length=length, fast=fast, replacement=replacement,
                                 balancing=balancing, exact_deltas=False)
        ours = scripted.follow(kernel, case, beta, length, free)
        assert np.abs(ours - wanted).max() <= 1e-10
        assert reference.stationarity_error(ours, target) <= 1e-10
        assert reference.balance_error(ours, target) <= 1e-10


@pytest.mark.parametrize("name", ["ising-dense", "ising-lattice-2x2", "potts", "rbm"])
def test_with_exact_deltas_the_energies_cancel_along_the_path(name: str) -> None:
    case = CASES[name]
    for length, beta, balancing, free in ((2, 1.0, "sqrt", None), (3, 2.0, "barker", None), (2, 0.7, "max", [0, 1])):
        papers = Papers(case, case.exact, beta, fast=False, replacement=True, balancing=balancing, free=free)
        kernel = samplers.create("pas", path_length=length, max_length=length, fast=False, replacement=True,
                                 balancing=balancing, exact_deltas=True)
        ours = scripted.follow(kernel, case, beta, length, free)
        assert np.abs(ours - papers.telescoped(length)).max() <= 1e-10
        assert np.abs(papers.telescoped(length) - papers.matrix(length)).max() <= 1e-12


@pytest.mark.parametrize("name", ["ising-lattice-2x2", "potts"])
def test_the_fast_path_with_exact_deltas_at_its_ends(name: str) -> None:
    case = CASES[name]
    for replacement in (True, False):
        kernel = samplers.create("pas", path_length=2, max_length=2, replacement=replacement, exact_deltas=True)
        wanted = Papers(case, case.exact, 0.7, fast=True, replacement=replacement).matrix(2)
        assert np.abs(scripted.follow(kernel, case, 0.7, 2) - wanted).max() <= 1e-10


def test_a_path_of_one_change_is_gibbs_with_gradients() -> None:
    for name, (fast, replacement) in itertools.product(("net-binary", "net-ragged"), VARIANTS):
        case = CASES[name]
        plain = reference.gwg(case.table, case.taylor, case.radices, 1.3, "sqrt", 0.01)
        papers = Papers(case, case.taylor, 1.3, fast=fast, replacement=replacement)
        assert np.abs(papers.matrix(1) - plain).max() <= 1e-12


# -- the shipped code, draws and all ----------------------------------------------------------------------------------


def length_law(settings: dict, longest: int) -> dict[int, float]:
    """P(L = l), from the definition of each law of lengths."""
    mean, law = settings.get("path_length", 4), dict.fromkeys(range(1, longest + 1), 0.0)
    if settings.get("length", "uniform") == "uniform":
        low = math.floor(2 * mean - 1)
        for widest, p in ((low, 1 - (2 * mean - 1 - low)), (low + 1, 2 * mean - 1 - low)):
            for drawn in range(1, widest + 1):
                law[min(drawn, longest)] += p / widest
    elif settings["length"] == "poisson":
        for extra in range(60):
            p = math.exp(-(mean - 1)) * (mean - 1) ** extra / math.factorial(extra)
            law[min(1 + extra, longest)] += p
    else:
        low = math.floor(mean)
        law[1] += 0.01
        law[min(low, longest)] += 0.99 * (1 - mean + low)
        law[min(low + 1, longest)] += 0.99 * (mean - low)
    return {drawn: p for drawn, p in law.items() if p > 0}


ROWS: list[Any] = [
    ("net-ragged", {"path_length": 2, "balancing": "barker"}, None),
    ("net-ragged", {"path_length": 1.75, "replacement": True}, [0, 1]),
    ("net-ordinal", {"path_length": 1.5, "fast": False, "length": "poisson", "max_length": 2}, None),
    pytest.param("net-binary", {"path_length": 2}, None, marks=pytest.mark.slow),
    pytest.param("net-spin", {"path_length": 1.5, "fast": False, "length": "poisson", "max_length": 3}, [0, 1, 3],
                 marks=pytest.mark.slow),
    pytest.param("net-ordinal", {"path_length": 2, "fast": False, "replacement": True}, None, marks=pytest.mark.slow),
    pytest.param("net-ragged", {"path_length": 2, "length": "fixed"}, [0, 1], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "settings", "free"), ROWS)
def test_the_shipped_code_is_the_papers_matrix_row_by_row(name: str, settings: dict, free: list[int] | None,
                                                          seed: int) -> None:
    """20,000 chains a row and beta, both betas in one batch: a total variation of 0.046 in one row is seen."""
    case, n, betas = CASES[name], 20_000, (0.3, 2.0)
    n_states = len(case.table)
    rows = np.tile(np.repeat(np.arange(n_states), n), 2)
    generator, clamp = torch.Generator().manual_seed(seed), scripted.clamp_of(case, free)
    kernel = samplers.create("pas", exact_deltas=False, **settings)
    state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
    beta = torch.tensor(betas).repeat_interleave(n_states * n)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    which = np.repeat(np.arange(2), n_states * n)
    counts = np.bincount((which * n_states + rows) * n_states + case.rows(state.x), minlength=2 * n_states**2)
    lengths = length_law(settings, kernel._longest(len(case.radices)))
    wanted = []
    for b in betas:
        papers = Papers(case, case.taylor, b, fast=kernel.fast, replacement=kernel.replacement,
                        balancing=kernel.balancing, free=free)
        wanted.append(sum(p * papers.matrix(drawn) for drawn, p in lengths.items()))
    statistical.assert_rows_match(counts.reshape(-1, n_states), np.concatenate(wanted), false_fail=FAMILY / 40,
                                  must_see=0.046)


@pytest.mark.parametrize(("settings", "space"), [
    ({"length": "fixed", "path_length": 2}, "Binary"), ({"fast": False, "path_length": 1.5}, "Ordinal")])
def test_settings_conform_too(settings: dict, space: str, seed: int) -> None:
    """False-fail budget 1e-7 each; the default settings are in test_conformance.py."""
    assert check_sampler("pas", seed=seed, targets=default_targets(space, seed)[:1], **settings).passed


@pytest.mark.slow
@pytest.mark.parametrize(("fast", "replacement"), VARIANTS)
@pytest.mark.parametrize("space", ["Binary", "Spin", "Categorical", "Ordinal", "Product"])
def test_every_variant_conforms_on_every_space(space: str, fast: bool, replacement: bool, seed: int) -> None:
    for balancing in ("sqrt", "barker", "min", "max"):
        assert check_sampler("pas", seed=seed, targets=default_targets(space, seed), path_length=2, fast=fast,
                             replacement=replacement, balancing=balancing).passed


def test_the_law_does_not_depend_on_what_the_scale_is_as_long_as_it_stands_still(seed: int) -> None:
    case, n = CASES["net-ragged"], 60_000
    law = reference.boltzmann(case.table, 1.0)
    start = np.random.default_rng(seed).choice(len(law), n, p=law)
    for settings in ({}, {"replacement": True, "max_length": 4, "length": "fixed"}):
        kernel, generator = samplers.create("pas", **settings), torch.Generator().manual_seed(seed)
        state = kernel.init(case.energy, case.x(start), generator=generator)
        state.cache["log_scale"].copy_(torch.linspace(0, math.log(6.0), n))
        for _ in range(4):
            state, _ = kernel.step(case.energy, state, generator=generator)
        statistical.assert_law(np.bincount(case.rows(state.x), minlength=len(law)), law, false_fail=FAMILY / 40,
                               must_see=0.03)


# -- the pieces -------------------------------------------------------------------------------------------------------


def test_the_ordered_draw_has_the_law_of_drawing_one_after_the_other(seed: int) -> None:
    """Four sites of two moves each, one site shut, three drawn: 24 − 18 orders of sites, 8 values each."""
    scores = torch.tensor([0.2, -1.0, -torch.inf, -torch.inf, 1.1, -torch.inf, -0.4, 0.9], dtype=torch.float64)
    n, generator = 200_000, torch.Generator().manual_seed(seed)
    site, slot, legal = _draw_in_order(scores.expand(n, 8), 2, 3, generator=generator)
    assert legal.all()
    seen = np.bincount(((site * 2 + slot) * torch.tensor([64, 8, 1])).sum(1).numpy(), minlength=512)
    weight, law = scores.exp().numpy().reshape(4, 2), np.zeros(512)
    for a, b, c in itertools.permutations((0, 2, 3)):
        for values in itertools.product((0, 1), repeat=3):
            p, left = 1.0, weight.sum()
            for i, v in zip((a, b, c), values, strict=True):
                p *= weight[i, v] / left
                left -= weight[i].sum()
            law[np.dot([a * 2 + values[0], b * 2 + values[1], c * 2 + values[2]], [64, 8, 1])] = p
    assert law.sum() == pytest.approx(1.0)
    assert seen[law == 0].sum() == 0
    statistical.assert_law(seen[law > 0], law[law > 0], false_fail=FAMILY / 40, must_see=0.02)
    everything = torch.tensor(np.flatnonzero(law))
    moves = torch.stack([everything // 64, everything // 8 % 8, everything % 8], 1)
    ours = _log_prob_in_order(scores.expand(len(moves), 8), 2, moves // 2, moves % 2, torch.ones_like(moves).bool())
    assert np.abs(ours.exp().numpy() - law[law > 0]).max() <= 1e-12
    _, _, legal = _draw_in_order(scores.expand(5, 8), 2, 4, generator=generator)
    assert legal.tolist() == [[True, True, True, False]] * 5


def test_the_ordered_probability_keeps_its_digits_far_below_the_largest_score() -> None:
    """After a site 900 nats above the rest has been drawn, the rest is shared as if it had not been there."""
    scores = torch.tensor([[900.0, 0.0, 0.0, math.log(2.0)]], dtype=torch.float64)
    used = torch.ones((1, 3), dtype=torch.bool)
    zero = torch.zeros((1, 3), dtype=torch.int64)
    found = _log_prob_in_order(scores, 1, torch.tensor([[0, 3, 1]]), zero, used)
    assert float(found.exp()) == pytest.approx(0.5 * 0.5, rel=1e-12)
    part = _log_prob_in_order(scores, 1, torch.tensor([[0, 3, 1]]), zero, torch.tensor([[True, True, False]]))
    assert float(part.exp()) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("settings", [
    {"path_length": 3}, {"path_length": 2.25}, {"length": "poisson", "path_length": 3.5},
    {"length": "fixed", "path_length": 2.5}])
def test_lengths_have_their_law(settings: dict, seed: int) -> None:
    kernel, generator = samplers.create("pas", **settings), torch.Generator().manual_seed(seed)
    log_scale = torch.full((100_000,), math.log(settings["path_length"]))
    drawn = kernel._draw_length(log_scale, generator)
    law = length_law(settings, 40)
    statistical.assert_law(np.bincount(drawn.numpy(), minlength=41), np.array([law.get(k, 0.0) for k in range(41)]),
                           false_fail=FAMILY / 40, must_see=0.03)
    if settings.get("length") != "fixed":
        assert sum(k * p for k, p in law.items()) == pytest.approx(settings["path_length"], rel=1e-6)


def test_the_scale_is_in_the_cache_and_a_step_only_reads_it() -> None:
    kernel, case = samplers.create("pas", path_length=5), CASES["net-ragged"]
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(case.energy, case.x(np.arange(4)), generator=generator)
    assert state.cache["log_scale"].dtype == torch.float32
    assert state.cache["log_scale"].exp().tolist() == pytest.approx([5.0] * 4)
    after, _ = kernel.step(case.energy, state, generator=generator)
    assert torch.equal(after.cache["log_scale"], state.cache["log_scale"])
    assert (kernel.target_acceptance, kernel.scale_bounds) == (0.574, (1.0, 128.0))


@pytest.mark.parametrize("settings", [{}, *(pytest.param(settings, marks=pytest.mark.slow) for settings in (
    {"length": "poisson"}, {"replacement": True, "max_length": 16}))])
def test_the_burn_in_finds_the_length_of_path_and_then_leaves_it(settings: dict, seed: int) -> None:
    """From 1 to the acceptance of 0.574, on a lattice where a path of one is accepted nearly always."""
    kernel = samplers.create("pas", path_length=1, **settings)
    chains = sample(Ising.lattice((8, 8), 0.4), kernel, n_chains=16, n_steps=700, burn_in=400, seed=seed)
    assert chains.acceptance_rate == pytest.approx(0.574, abs=0.08)
    assert chains.scale is not None
    assert (chains.scale > 2).all()


@pytest.mark.parametrize(("settings", "looks"), [
    ({}, 1), ({"replacement": True}, 1), ({"fast": False, "path_length": 2}, 3),
    ({"fast": False, "replacement": True, "path_length": 2}, 3)])
def test_gradients_a_step(settings: dict, looks: int) -> None:
    calls = []

    def fn(e: Tensor) -> Tensor:
        calls.append(len(e))
        return (e * e).sum(1)

    energy, kernel, generator = from_callable(fn, Binary(6)), samplers.create("pas", **settings), torch.Generator()
    state = kernel.init(energy, torch.zeros(3, 6, dtype=torch.int8), generator=generator)
    calls.clear()
    for _ in range(4):
        state, info = kernel.step(energy, state, generator=generator)
    assert calls == [3] * 4 * looks
    assert (info.energy_calls, info.gradient_calls) == (looks, looks)


@pytest.mark.parametrize(("fast", "replacement"), VARIANTS)
def test_walls_steep_slopes_and_few_chains(fast: bool, replacement: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steep = from_callable(lambda e: -400 * e.sum(1), Binary(5))
    walls = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, 0.0) + e.sum(1), Binary(5))
    for balancing in ("sqrt", "barker", "min", "max"):
        kernel = samplers.create("pas", path_length=2, fast=fast, replacement=replacement, balancing=balancing)
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
        assert state.x.any()
    for n in (0, 1):
        state = kernel.init(steep, torch.zeros(n, 5, dtype=torch.int8), generator=generator)
        state, info = kernel.step(steep, state, generator=generator)
        assert info.hamming.shape == (n,)
        assert state.x.shape == (n, 5)


@pytest.mark.parametrize(("fast", "replacement"), VARIANTS)
def test_states_behind_a_wall_are_reached_with_their_weight(fast: bool, replacement: bool, seed: int) -> None:
    """Two sites must agree: every single change is forbidden, only paths of two lead from one half to the other."""
    energy = from_callable(lambda e: torch.where(e[:, 0] != e[:, 1], torch.inf, 0.0) - 0.7 * e[:, 0] + 0.3 * e[:, 2],
                           Binary(3))
    x = energy.space.enumerate()
    law = reference.boltzmann(energy(energy.space.encode(x)).double().numpy(), 1.0)
    start = np.random.default_rng(seed).choice(8, 40_000, p=law)
    kernel = samplers.create("pas", path_length=2, fast=fast, replacement=replacement)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, x[start], generator=generator)
    for _ in range(6):
        state, _ = kernel.step(energy, state, generator=generator)
    rows = (state.x.long() @ torch.tensor([4, 2, 1])).numpy()
    assert (rows // 4 != start // 4).mean() > 0.05
    statistical.assert_law(np.bincount(rows, minlength=8), law, false_fail=FAMILY / 40, must_see=0.04)


@pytest.mark.parametrize("settings", [
    {"path_length": 0}, {"path_length": "long"}, {"path_length": float("nan")}, {"path_length": True},
    {"path_length": 5, "max_length": 4}, {"max_length": 0}, {"max_length": 3.5}, {"length": "geometric"},
    {"replacement": 1}, {"fast": "very"}, {"balancing": "cube"}, {"exact_deltas": 3}, {"laziness": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(SettingError, match="must be"):
        samplers.create("pas", **settings)


def test_what_cannot_be_done_is_refused_in_a_sentence() -> None:
    kernel, generator = samplers.create("pas"), torch.Generator()
    with pytest.raises(CapabilityError, match="discrete"):
        kernel.init(from_callable(lambda e: e.sum(1), Real(2)), torch.zeros(2, 2), generator=generator)
    with pytest.raises(CapabilityError, match="flip_deltas"):
        samplers.create("pas", exact_deltas=True).init(CASES["net-binary"].energy, torch.zeros(2, 4),
                                                       generator=generator)
    with pytest.raises(CapabilityError, match="differentiable"):
        kernel.init(from_callable(lambda e: e.detach().sum(1), Binary(2)), torch.zeros(2, 2), generator=generator)
    state = kernel.init(CASES["net-binary"].energy, torch.zeros(2, 4), generator=generator)
    with pytest.raises(ShapeError, match="clamp"):
        kernel.step(CASES["net-binary"].energy, state, generator=generator, clamp=torch.zeros(3, dtype=torch.bool))


# -- the checks can fail: published bugs and others -------------------------------------------------------------------


@contextlib.contextmanager
def reverse_of_the_forward_class() -> Iterator[None]:
    """The public categorical sampler: the way back scored at (site, new value), not at (site, old value)."""
    original = path_auxiliary.SingleSite.reverse

    def forward_class(self: Any, x: Tensor, move: Tensor, y: Tensor, context: Any = None) -> Tensor:
        original(self, x, move, y, context)
        return move

    # there the current value was a move like any other, so that staying had a probability
    def with_self_moves(self: Any, x: Tensor, context: Any = None, clamp: Any = None) -> Tensor:
        return torch.zeros(x.shape[0], self.space.n_sites * self.space.k_max).masked_fill(
            ~self.space.value_mask.flatten(), -torch.inf)

    with (mock.patch.object(path_auxiliary.SingleSite, "reverse", forward_class),
          mock.patch.object(path_auxiliary.SingleSite, "log_prior", with_self_moves)):
        yield


@contextlib.contextmanager
def back_by_the_deltas_of_the_start() -> Iterator[None]:
    """The public "path" sampler: both directions scored with the gradient at the start."""
    first: list[tuple[Tensor, Tensor]] = []
    original, step = path_auxiliary._transported, samplers.PathAuxiliary._one_by_one

    def stale(deltas: Tensor, neighbourhood: Any, base: Tensor, x: Tensor) -> Tensor:
        first.append((deltas, base))
        return original(first[0][0], neighbourhood, first[0][1], x)

    def fresh(self: Any, *arguments: Any) -> Any:
        first.clear()
        return step(self, *arguments)

    with (mock.patch.object(path_auxiliary, "_transported", stale),
          mock.patch.object(samplers.PathAuxiliary, "_one_by_one", fresh)):
        yield


@contextlib.contextmanager
def without_replacement_scored_as_with() -> Iterator[None]:
    """The public "fast" sampler: drawn without replacement, scored as if each draw had all sites."""
    def independent(scores: Tensor, width: int, site: Tensor, slot: Tensor, used: Tensor) -> Tensor:
        log_q = scores.log_softmax(-1).gather(1, site * width + slot)
        return torch.where(used, log_q, 0.0).sum(1)

    with mock.patch.object(path_auxiliary, "_log_prob_in_order", independent):
        yield


@contextlib.contextmanager
def order_forgotten() -> Iterator[None]:
    """Chosen sites not taken out of the sums that follow, on the way back only."""
    original, turn = _log_prob_in_order, itertools.count()

    def loose(scores: Tensor, width: int, site: Tensor, slot: Tensor, used: Tensor) -> Tensor:
        if next(turn) % 2:
            return torch.where(used, scores.log_softmax(-1).gather(1, site * width + slot), 0.0).sum(1)
        return original(scores, width, site, slot, used)

    with mock.patch.object(path_auxiliary, "_log_prob_in_order", loose):
        yield


@contextlib.contextmanager
def radius_mask_missing_on_the_way_back() -> Iterator[None]:
    """The other bug of the public categorical sampler: steps beyond the path's end scored on the way back."""
    original, calls = path_auxiliary._log_prob_of, itertools.count()

    def careless(scores: Tensor, move: Tensor, used: Tensor) -> Tensor:
        back = next(calls) // 3 % 2 == 1  # three turns forward, three back
        if not back:
            return original(scores, move, used)
        log_q = scores.log_softmax(-1).gather(1, move[:, None])[:, 0]
        return torch.where(log_q > -torch.inf, log_q, torch.zeros_like(log_q))

    with mock.patch.object(path_auxiliary, "_log_prob_of", careless):
        yield


@contextlib.contextmanager
def visited_sites_free_on_the_way_back() -> Iterator[None]:
    """Stepwise and without replacement: the mask of sites already changed back is dropped."""
    original, calls = samplers.PathAuxiliary._scores, itertools.count()

    def unmasked(self: Any, neighbourhood: Any, x: Tensor, deltas: Tensor, beta: Tensor, clamp: Any, taken: Tensor,
                 width: int) -> Tensor:
        back = next(calls) // 2 % 2 == 1  # two turns forward, two back
        return original(self, neighbourhood, x, deltas, beta, clamp, torch.zeros_like(taken) if back else taken, width)

    with mock.patch.object(samplers.PathAuxiliary, "_scores", unmasked):
        yield


@contextlib.contextmanager
def length_that_follows_the_state() -> Iterator[None]:
    """An adaptive length read off the current state, as schemes that never freeze do."""
    energies: list[Tensor] = []
    step = samplers.PathAuxiliary.step

    def watch(self: Any, energy: Any, state: Any, **options: Any) -> Any:
        energies[:] = [state.energy]
        return step(self, energy, state, **options)

    def eager(self: Any, log_scale: Tensor, generator: torch.Generator) -> Tensor:
        return 1 + (energies[0] > 0).long()

    with (mock.patch.object(samplers.PathAuxiliary, "step", watch),
          mock.patch.object(samplers.PathAuxiliary, "_draw_length", eager)):
        yield


@contextlib.contextmanager
def clamp_forgotten_backwards() -> Iterator[None]:
    """Clamped sites masked forward only."""
    original, calls = path_auxiliary.wide_scores, itertools.count()

    def forward_only(*arguments: Any) -> Tensor:
        *rest, clamp = arguments
        return original(*rest, None if next(calls) % 2 else clamp)

    with mock.patch.object(path_auxiliary, "wide_scores", forward_only):
        yield


Plant = Callable[[], contextlib.AbstractContextManager[None]]
STEPWISE = {"path_length": 2, "replacement": True}
IN_THE_MATRIX: list[tuple[Plant, str, dict[str, Any]]] = [
    (reverse_of_the_forward_class, "net-ordinal", {"replacement": True}),
    (back_by_the_deltas_of_the_start, "net-ragged", {"replacement": True}),
    (order_forgotten, "net-ragged", {}),
    (visited_sites_free_on_the_way_back, "net-binary", {"fast": False}),
]
AS_RUN: list[tuple[Plant, str, dict[str, Any], str]] = [
    (without_replacement_scored_as_with, "Binary", {}, "law"),
    (radius_mask_missing_on_the_way_back, "Binary", STEPWISE, "law"),
    (length_that_follows_the_state, "Spin", {}, "law"),
    (clamp_forgotten_backwards, "Binary", {}, "conditional law"),
]


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "name", "settings"), IN_THE_MATRIX)
def test_a_planted_bug_bends_the_matrix(plant: Plant, name: str, settings: dict) -> None:
    """Bugs on the way back; those that misjudge the draw itself only show where draws are made, below."""
    case, kernel = CASES[name], samplers.create("pas", path_length=2, max_length=2, exact_deltas=False, **settings)
    target = reference.boltzmann(case.table, 1.0)
    assert reference.stationarity_error(scripted.follow(kernel, case, 1.0, 2), target) <= 1e-10
    with plant():
        bent = scripted.follow(kernel, case, 1.0, 2)
    assert reference.stationarity_error(bent, target) >= 1e-3


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "space", "settings", "killer"), AS_RUN)
def test_a_planted_bug_is_found_by_the_conformance_suite(plant: Plant, space: str, settings: dict,
                                                         killer: str) -> None:
    targets = default_targets(space, 0)[:1]
    with plant(), pytest.raises(ConformanceError) as caught:
        check_sampler("pas", targets=targets, **settings)
    failed = [line for line in str(caught.value).splitlines() if line.strip().startswith("failed:")]
    assert any(killer in line for line in failed), failed


def test_300_categories_and_lattices_keep_their_codes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    space = Categorical(3, 300)
    energy = from_callable(lambda e: -e[..., 290:].sum((1, 2)) * 20, space)
    for settings in ({}, {"replacement": True}):
        kernel = samplers.create("pas", **settings)
        state = kernel.init(energy, space.random(8, generator), generator=generator)
        for _ in range(20):
            state, _ = kernel.step(energy, state, generator=generator)
        assert state.x.dtype == space.dtype
        assert (state.x >= 290).all()
    lattice = cases.ising_lattice((2, 3))
    state = kernel.init(lattice.energy, Spin((2, 3)).random(4, generator), generator=generator)
    state, _ = kernel.step(lattice.energy, state, generator=generator)
    assert state.x.shape == (4, 2, 3)
