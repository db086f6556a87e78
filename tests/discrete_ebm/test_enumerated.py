"""Enumerated blocks, Hamming balls and colour classes are the matrices of their papers; their planted bugs are found.

The references enumerate sets and values by hand (tests/reference.py and below). False failures: the statistical
assertions of this file are one family with budget 1e-7, split evenly, and Holm's rule inside each.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm import samplers
from discrete_ebm.energies import BernoulliRBM, Ising, from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import block_gibbs, enumerated_gibbs, heat_bath, patterns
from discrete_ebm.samplers.block_gibbs import colour_classes
from discrete_ebm.spaces import Binary, Categorical, Real
from discrete_ebm.testing import PairwiseFeatures, Target, check_sampler, default_targets
from tests import cases, reference, statistical
from tests.cases import Case

FAMILY, BETAS = 1e-7, (0.3, 2.0)
CASES = {case.name: case for case in cases.all_cases()}
Matrix = Callable[[Case, float, "list[int] | None"], np.ndarray]


# -- the papers' matrices -------------------------------------------------------------------------------------------


def ball_update(case: Case, beta: float, block: list[int], radius: int) -> np.ndarray:
    """u uniform in the ball of x over the block, x′ from its law within the ball of u (Titsias & Yau 2017)."""
    rows, law = reference.states(case.radices), reference.boltzmann(case.table, beta)
    rest = [i for i in range(len(case.radices)) if i not in block]
    same = (rows[:, None, rest] == rows[None, :, rest]).all(-1)
    near = same & ((rows[:, None] != rows[None]).sum(-1) <= radius)
    auxiliary = near / near.sum(1, keepdims=True)
    weight = near * law[None]
    return auxiliary @ (weight / weight.sum(1, keepdims=True))


def updates(case: Case, beta: float, block: list[int], radius: int | None) -> np.ndarray:
    if not block:
        return np.eye(len(case.table))
    if radius is None:
        return reference.block_update(case.table, case.radices, beta, block)
    return ball_update(case, beta, block, radius)


def raster(size: int, radius: int | None = None) -> Matrix:
    def matrix(case: Case, beta: float, free: list[int] | None) -> np.ndarray:
        sites = list(range(len(case.radices))) if free is None else free
        out = np.eye(len(case.table))
        for first in range(0, len(sites), size):
            out = out @ updates(case, beta, sites[first:first + size], radius)
        return out

    return matrix


def random_blocks(size: int, radius: int | None = None) -> Matrix:
    def matrix(case: Case, beta: float, free: list[int] | None) -> np.ndarray:
        n = len(case.radices)
        sites = list(range(n)) if free is None else free
        blocks = list(itertools.combinations(sites, min(size, len(sites))))
        one = sum(updates(case, beta, list(block), radius) for block in blocks) / len(blocks)
        return np.linalg.matrix_power(one, -(-n // size))

    return matrix


def colours(case: Case, beta: float, free: list[int] | None) -> np.ndarray:
    blocks = [[i for i in block.tolist() if free is None or i in free] for block in colour_classes(case.energy)]
    return reference.gibbs_raster(case.table, case.radices, beta, [block for block in blocks if block])


VARIANTS: dict[str, tuple[str, dict[str, Any], Matrix, bool]] = {
    "pairs": ("enumerated-gibbs", {}, raster(2), False),
    "triples": ("enumerated-gibbs", {"block_size": 3}, raster(3), False),
    "pairs-evaluated": ("enumerated-gibbs", {"conditionals": False}, raster(2), False),
    "random-pairs": ("enumerated-gibbs", {"scan": "random"}, random_blocks(2), True),
    "random-pairs-closed": ("enumerated-gibbs", {"scan": "random", "conditionals": True}, random_blocks(2), True),
    "ball": ("hamming-ball", {"block_size": 3}, raster(3, 1), False),
    "ball-evaluated": ("hamming-ball", {"block_size": 3, "conditionals": False}, raster(3, 1), False),
    "ball-2": ("hamming-ball", {"block_size": 4, "radius": 2}, raster(4, 2), False),
    "random-ball": ("hamming-ball", {"block_size": 3, "scan": "random"}, random_blocks(3, 1), True),
    "whole-ball": ("hamming-ball", {"block_size": 3, "radius": 9}, raster(3), False),
}
NAMES = [name for name in CASES if name != "free"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_the_papers_matrix_keeps_the_target(name: str, variant: str) -> None:
    case, (_, _, matrix, reversible) = CASES[name], VARIANTS[variant]
    for beta in (0.3, 1.0, 2.0):
        p, law = matrix(case, beta, None), reference.boltzmann(case.table, beta)
        assert reference.stationarity_error(p, law) <= 1e-12
        if reversible:
            assert reference.balance_error(p, law) <= 1e-12
    assert reference.second_eigenvalue(matrix(case, 1.0, None)) <= 0.999


def assert_rows(case: Case, variant: str, seed: int, free: list[int] | None = None, n: int = 10_000) -> None:
    """n chains a row and beta, both betas in one batch; a total variation of 0.07 in one row is seen."""
    name, settings, matrix, _ = VARIANTS[variant]
    kernel, n_states = samplers.create(name, **settings), len(case.table)
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
    statistical.assert_rows_match(counts, np.concatenate([matrix(case, b, free) for b in BETAS]),
                                  false_fail=FAMILY / 100, must_see=0.07)


# Every kind of block meets two or three targets here, and all of them in the slow tier.
ROW_PAIRS = [(v, n) for i, v in enumerate(VARIANTS) for j, n in enumerate(NAMES) if (i + j) % 3 == 0]


@pytest.mark.parametrize(("variant", "name"), ROW_PAIRS)
def test_the_shipped_code_is_the_matrix_row_by_row(variant: str, name: str, seed: int) -> None:
    assert_rows(CASES[name], variant, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), [(v, n) for v in VARIANTS for n in CASES])
def test_every_variant_is_its_matrix_on_every_target(variant: str, name: str, seed: int) -> None:
    assert_rows(CASES[name], variant, seed + 7, n=40_000)


@pytest.mark.parametrize(("variant", "name", "free"), [
    ("triples", "net-ragged", [0, 1]), ("random-pairs", "ising-dense", [0, 2, 3]), ("random-pairs", "net-ragged", [1]),
    ("pairs", "ising-lattice-2x2", [0, 3]), ("ball", "net-ragged", [1, 2]), ("ball-2", "ising-dense", [0, 1, 3]),
    ("random-ball", "net-binary", [0, 2]), ("random-ball", "potts", [1]), ("random-pairs-closed", "potts", [0])])
def test_clamped_blocks_have_the_conditional_law_row_by_row(variant: str, name: str, free: list[int],
                                                            seed: int) -> None:
    assert_rows(CASES[name], variant, seed + 1, free)


@pytest.mark.parametrize(("sampler", "settings", "name"), [
    ("enumerated-gibbs", {"block_size": 3, "scan": "random"}, "ising-dense"), ("enumerated-gibbs", {}, "net-ragged"),
    ("hamming-ball", {"block_size": 3}, "net-ragged"), ("hamming-ball", {"radius": 2, "scan": "random"}, "rbm")])
def test_exact_draws_stay_exact_after_20_steps(sampler: str, settings: dict, name: str, seed: int) -> None:
    """60,000 exact draws at beta = 2; a total variation of 0.03 is seen."""
    case, n = CASES[name], 60_000
    law = reference.boltzmann(case.table, 2.0)
    start = np.random.default_rng(seed).choice(len(law), n, p=law)
    kernel, generator = samplers.create(sampler, **settings), torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(start), generator=generator)
    for _ in range(20):
        state, _ = kernel.step(case.energy, state, generator=generator, beta=2.0)
    statistical.assert_law(np.bincount(case.rows(state.x), minlength=len(law)), law, false_fail=FAMILY / 100,
                           must_see=0.03)


@pytest.mark.parametrize("sampler", ["enumerated-gibbs", "hamming-ball"])
def test_random_scans_conform_as_reversible_kernels(sampler: str, seed: int) -> None:
    row = samplers.spec(sampler)
    row = samplers.SamplerSpec(row.name, row.build, "", "", row.spaces, False, True, reversible=True)
    targets = [t for space in ("Categorical", "Product") for t in default_targets(space, 1) if "coupled" in t.name]
    assert check_sampler(row, seed=seed, targets=targets, scan="random", block_size=2).passed


# -- weights, costs, sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ising-dense", "potts", "rbm"])
@pytest.mark.parametrize("per_chain", [False, True])
def test_sums_of_closed_forms_are_the_evaluated_energies(name: str, per_chain: bool) -> None:
    """Every pattern of a block of two sites, from every state, to 1e-12 of the NumPy energies."""
    case = CASES[name]
    rows, number = reference.states(case.radices), reference.row_number(case.radices)
    x = case.x(np.arange(len(rows)))
    state = samplers.create("gibbs").init(case.energy, x, generator=torch.Generator())
    bath = heat_bath.HeatBath(case.energy, state, 1.0, None)
    sites = torch.tensor([1, 0])
    radices = (max(case.radices),) * 2
    block = patterns.BlockDraw.make(bath, sites.expand(len(rows), 2) if per_chain else sites, radices, 2)
    values = (bath.at(bath.index, sites)[:, None] + block.patterns.offsets) % block.n_values[..., None, :]
    weights = block._closed_form(values, True)
    assert weights is not None
    wanted = np.zeros(weights.shape)
    for s, row in enumerate(rows):
        for t, pair in enumerate(values[s].tolist()):
            other = row.copy()
            other[[1, 0]] = pair
            wanted[s, t] = -(case.table[number[tuple(other)]] - case.table[s])
    assert np.abs(weights.detach().numpy() - wanted).max() <= 1e-12


def test_patterns_are_a_ball_and_its_size_is_counted_without_listing_it() -> None:
    for n_values, radius in [((2, 3, 2), 1), ((2, 3, 4), 2), ((3, 3), 2), ((2,) * 6, 3), ((5,), 1)]:
        listed = patterns._patterns(n_values, radius, torch.device("cpu"))
        rows = [tuple(row) for row in listed.offsets.tolist()]
        wanted = [row for row in itertools.product(*map(range, n_values)) if sum(map(bool, row)) <= radius]
        assert sorted(rows) == wanted
        assert rows[0] == (0,) * len(n_values)
        assert patterns.count_patterns(n_values, radius) == len(wanted)
        for t in range(1, len(rows)):
            parent, site = rows[int(listed.parent[t])], int(listed.last[t])
            assert parent == (*rows[t][:site], 0, *rows[t][site + 1:])
            assert int(listed.parents[listed.slot[t]]) == int(listed.parent[t])


def test_the_energy_evaluations_that_are_reported_are_made() -> None:
    seen = []

    def fn(e: Tensor) -> Tensor:
        seen.append(e.shape[0])
        return e[..., 1].sum(1)

    energy, generator = from_callable(fn, Categorical(5, [2, 3, 2, 4, 2])), torch.Generator()
    for name, settings, wanted in [("enumerated-gibbs", {}, 5 + 7 + 1), ("hamming-ball", {"block_size": 3}, 5 + 5),
                                   ("enumerated-gibbs", {"scan": "random"}, 3 * 15)]:
        kernel = samplers.create(name, **settings)
        state = kernel.init(energy, torch.zeros(4, 5), generator=generator)
        seen.clear()
        state, info = kernel.step(energy, state, generator=generator)
        assert sum(seen) == 4 * info.energy_calls == 4 * wanted
        torch.testing.assert_close(state.energy, (state.x == 1).sum(1).float())


def test_closed_forms_cost_one_evaluation_a_sweep() -> None:
    energy, generator = Ising.lattice((4, 4), 0.4), torch.Generator()
    for name, settings in [("enumerated-gibbs", {"block_size": 4}), ("hamming-ball", {}),
                           ("hamming-ball", {"scan": "random"})]:
        kernel = samplers.create(name, **settings)
        state = kernel.init(energy, energy.space.random(3, generator), generator=generator)
        _, info = kernel.step(energy, state, generator=generator)
        assert info.energy_calls == 1.0


def test_large_evaluations_in_parts_give_the_same_draws(seed: int) -> None:
    case, found = CASES["net-ragged"], []
    for room in (patterns._ROOM, 7):
        generator = torch.Generator().manual_seed(seed)
        kernel = samplers.create("enumerated-gibbs", block_size=3)
        with mock.patch.object(patterns, "_ROOM", room):
            state = kernel.init(case.energy, case.x(np.arange(12)), generator=generator)
            for _ in range(5):
                state, _ = kernel.step(case.energy, state, generator=generator)
        found.append(state.x)
    assert torch.equal(*found)


def test_a_barrier_between_two_sites_is_crossed_by_pairs_and_not_by_single_sites(seed: int) -> None:
    """What blocks are for: two spins that agree at any price, 40 nats."""
    coupling = torch.zeros(4, 4)
    coupling[0, 1] = coupling[1, 0] = 20.0
    energy, generator = Ising(coupling), torch.Generator().manual_seed(seed)
    moved = {}
    for name in ("gibbs", "enumerated-gibbs", "hamming-ball"):
        kernel = samplers.create(name)
        state = kernel.init(energy, torch.ones(2000, 4), generator=generator)
        for _ in range(10):
            state, _ = kernel.step(energy, state, generator=generator)
        moved[name] = float((state.x[:, 0] == -1).double().mean())
        assert torch.equal(state.x[:, 0], state.x[:, 1])
    assert moved["gibbs"] == 0.0
    assert moved["enumerated-gibbs"] == pytest.approx(0.5, abs=0.08)
    assert moved["hamming-ball"] > 0.3


@pytest.mark.parametrize("name", ["enumerated-gibbs", "hamming-ball"])
def test_forbidden_states_are_never_entered(name: str, seed: int) -> None:
    energy = from_callable(lambda e: torch.where(e.sum(1) > 2, torch.inf, e.sum(1)), Binary(4))
    kernel, generator = samplers.create(name), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, torch.zeros(500, 4), generator=generator)
    for _ in range(20):
        state, info = kernel.step(energy, state, generator=generator)
        assert state.energy.isfinite().all()
        assert int(info.non_finite) == 0
    assert bool((state.x.sum(1) == 2).any())


def test_no_chains_is_no_work() -> None:
    for name in ("enumerated-gibbs", "hamming-ball", "chromatic"):
        for settings in ({}, {"scan": "random"}) if name != "chromatic" else ({},):
            case, generator = CASES["potts"], torch.Generator()
            kernel = samplers.create(name, **settings)
            state = kernel.init(case.energy, case.x(np.arange(0)), generator=generator)
            state, info = kernel.step(case.energy, state, generator=generator)
            assert state.x.shape == (0, 2)
            assert info.acceptance.shape == (0,)


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings", "word"), [
    ("enumerated-gibbs", {"block_size": 0}, "block_size"), ("enumerated-gibbs", {"block_size": 2.0}, "block_size"),
    ("enumerated-gibbs", {"scan": "spiral"}, "scan"), ("enumerated-gibbs", {"conditionals": "no"}, "conditionals"),
    ("enumerated-gibbs", {"max_states": True}, "max_states"), ("hamming-ball", {"radius": 0}, "radius"),
    ("hamming-ball", {"block_size": -1}, "block_size"), ("hamming-ball", {"radius": 1.5}, "radius")])
def test_wrong_settings_are_refused(name: str, settings: dict, word: str) -> None:
    with pytest.raises(SettingError, match=f"`{word}` must be"):
        samplers.create(name, **settings)


def test_blocks_with_too_many_joint_values_are_refused_before_any_step() -> None:
    space = Categorical(4, 300)
    energy, x = from_callable(lambda e: e[..., 0].sum(1), space), torch.zeros(2, 4)
    with pytest.raises(SettingError, match="at most max_states = 4096 joint values to look at; got 90000 for 2 sites"):
        samplers.create("enumerated-gibbs").init(energy, x, generator=torch.Generator())
    with pytest.raises(SettingError, match="Lower block_size"):
        samplers.create("hamming-ball", radius=3).init(energy, x, generator=torch.Generator())
    huge = from_callable(lambda e: e.sum(1), Binary(3000))
    with pytest.raises(SettingError, match="digits"):
        samplers.create("enumerated-gibbs", block_size=3000).init(huge, torch.zeros(1, 3000),
                                                                  generator=torch.Generator())


@pytest.mark.parametrize("name", ["enumerated-gibbs", "hamming-ball", "chromatic"])
def test_reals_are_refused(name: str) -> None:
    energy = from_callable(lambda e: e.sum(1), Real(3))
    with pytest.raises(CapabilityError, match="discrete"):
        samplers.create(name).init(energy, torch.ones(1, 3), generator=torch.Generator())


# -- chromatic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ising-dense", "ising-lattice-2x2", "potts"])
def test_chromatic_is_the_matrix_of_its_colours_row_by_row(name: str, seed: int) -> None:
    VARIANTS["colours"] = ("chromatic", {}, colours, False)
    try:
        assert_rows(CASES[name], "colours", seed + 2)
    finally:
        del VARIANTS["colours"]


def test_chromatic_finds_the_colours_of_a_graph_it_is_given(seed: int) -> None:
    """A ring of six and a chord, of which the energy says only the edges."""
    energy = PairwiseFeatures(Binary(6), seed=4)
    kernel = samplers.create("chromatic")
    kernel.init(energy, torch.zeros(1, 6), generator=torch.Generator())
    assert sorted(len(block) for block in colour_classes(energy)) == [3, 3]
    assert check_sampler("chromatic", seed=seed, targets=[Target("ring", energy, Binary(6).enumerate())]).passed


def test_chromatic_refuses_an_energy_without_a_graph_and_never_uses_hidden_units() -> None:
    model = BernoulliRBM(3, 2)
    with pytest.raises(CapabilityError, match=r"edges\(\).*Use sampler='gibbs'"):
        samplers.create("chromatic").init(model, torch.zeros(1, 3), generator=torch.Generator())
    model.edges = lambda: torch.tensor([[0, 0, 1], [1, 2, 2]])
    kernel, generator = samplers.create("chromatic"), torch.Generator()
    with mock.patch.object(block_gibbs, "_through_hidden", side_effect=AssertionError("hidden units used")):
        state = kernel.init(model, torch.zeros(5, 3), generator=generator)
        kernel.step(model, state, generator=generator)


def test_chromatic_refuses_blocks_that_hold_an_edge() -> None:
    energy = PairwiseFeatures(Binary(4), seed=4)
    energy.blocks = lambda: [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3])]
    with pytest.raises(CapabilityError, match="sites 0 and 1"):
        samplers.create("chromatic").init(energy, torch.zeros(1, 4), generator=torch.Generator())


# -- planted bugs ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def centre_is_the_state() -> Iterator[None]:
    """The ball is drawn around x itself, without the auxiliary point: the published short cut."""
    with mock.patch.object(patterns.BlockDraw, "uniform", lambda self, generator: self.bath.at(self.bath.index,
                                                                                              self.sites)):
        yield


@contextlib.contextmanager
def auxiliary_by_energy() -> Iterator[None]:
    """u drawn in proportion to exp(−βE) instead of uniformly."""
    def informed(self: patterns.BlockDraw, generator: torch.Generator) -> Tensor:
        kept = (self.bath.index.clone(), self.bath.x.clone(), self.bath.energies)
        self.redraw(None, generator, False)
        drawn = self.bath.at(self.bath.index, self.sites).clone()
        self.bath.index.copy_(kept[0])
        self.bath.x.copy_(kept[1])
        self.bath.energies = kept[2]
        return drawn

    with mock.patch.object(patterns.BlockDraw, "uniform", informed):
        yield


@contextlib.contextmanager
def clamp_missing_from_the_patterns() -> Iterator[None]:
    with mock.patch.object(heat_bath, "free_sites", return_value=None):
        yield


@contextlib.contextmanager
def ragged_patterns_not_masked() -> Iterator[None]:
    """Offsets beyond a site's values wrap around and count twice. (A ball forgives it: u and x count alike.)"""
    original = patterns.BlockDraw.make.__func__

    def lenient(cls: type, *args: Any) -> patterns.BlockDraw:
        block = original(cls, *args)
        return block._replace(legal=torch.ones_like(block.legal))

    with mock.patch.object(patterns.BlockDraw, "make", classmethod(lenient)):
        yield


@contextlib.contextmanager
def product_of_conditionals() -> Iterator[None]:
    """All sites of a block from their own conditionals at once, as if they were independent (thrml's block)."""
    original = patterns.BlockDraw._closed_form

    def independent(self: patterns.BlockDraw, values: Tensor, closed_form: Any) -> Tensor | None:
        only = self.patterns._replace(parent=torch.zeros_like(self.patterns.parent))
        weights = original(self, values, closed_form)
        if weights is None:
            return None
        single = torch.zeros_like(weights)
        for site in range(self.patterns.offsets.shape[1]):
            for t, row in enumerate(only.offsets):
                alone = torch.zeros_like(row)
                alone[site] = row[site]
                match = (only.offsets == alone).all(1).nonzero()[0, 0]
                single[:, t] += weights[:, match]
        return single

    with mock.patch.object(patterns.BlockDraw, "_closed_form", independent):
        yield


@contextlib.contextmanager
def block_chosen_by_the_state() -> Iterator[None]:
    """Sites that are up are redrawn first: the choice of the block depends on what is redrawn."""
    def by_state(bath: heat_bath.HeatBath, clamp: Tensor | None, size: int, scan: str,
                 generator: torch.Generator) -> list[tuple[Tensor, tuple[int, ...]]]:
        noise = torch.empty(bath.index.shape).exponential_(generator=generator)
        sites = (noise - 2.0 * bath.index).topk(min(size, bath.n_sites), dim=1, largest=False).indices
        return [(sites, (bath.space.k_max,) * sites.shape[1])]

    with mock.patch.object(enumerated_gibbs, "site_blocks", by_state):
        yield


@contextlib.contextmanager
def energy_of_another_pattern() -> Iterator[None]:
    """States of a batch in another order than their energies are read."""
    original = patterns.BlockDraw._evaluate

    def rolled(self: patterns.BlockDraw, values: Tensor, known: bool) -> Tensor:
        energies = original(self, values, known)
        return torch.cat([energies[:, :1], energies[:, 1:].roll(1, dims=1)], dim=1)

    with mock.patch.object(patterns.BlockDraw, "_evaluate", rolled):
        yield


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "sampler", "settings", "space", "killer"), [
    (centre_is_the_state, "hamming-ball", {}, "Binary", "law"),
    (auxiliary_by_energy, "hamming-ball", {}, "Spin", "law"),
    (clamp_missing_from_the_patterns, "hamming-ball", {"scan": "random"}, "Ordinal", "clamped sites"),
    (clamp_missing_from_the_patterns, "enumerated-gibbs", {"scan": "random"}, "Spin", "clamped sites"),
    (ragged_patterns_not_masked, "enumerated-gibbs", {"scan": "random"}, "Categorical", "law"),
    (product_of_conditionals, "enumerated-gibbs", {}, "Spin", "law"),
    (block_chosen_by_the_state, "enumerated-gibbs", {"scan": "random"}, "Binary", "law"),
    (energy_of_another_pattern, "enumerated-gibbs", {}, "Categorical", "law"),
])
def test_planted_bugs_are_found(plant: Callable[[], Any], sampler: str, settings: dict, space: str,
                                killer: str) -> None:
    wanted = "Ising" if plant is product_of_conditionals else "coupled"
    targets = [target for target in default_targets(space, 0) if wanted in target.name]
    with plant(), pytest.raises(ConformanceError, match=killer):
        check_sampler(sampler, targets=targets, **settings)
