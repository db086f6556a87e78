"""Swendsen–Wang and Wolff are the matrices of their papers; components are those of SciPy; energies are Kaufman's.

False failures: 1e-7 a family of statistical assertions, and that of ``check_sampler``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm import samplers
from discrete_ebm.energies import Ising, Potts, from_callable
from discrete_ebm.energies.compose import SumEnergy
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import clusters, swendsen_wang, wolff
from discrete_ebm.samplers.clusters import COMPILED_AVAILABLE, pair_terms
from discrete_ebm.spaces import Binary, Categorical, Spin
from discrete_ebm.testing import Target, check_sampler
from tests import cases, reference, statistical
from tests.cases import Case

FAMILY = 1e-7
KERNELS = ("swendsen-wang", "wolff")


# -- targets --------------------------------------------------------------------------------------------------------


def _potts(name: str, n: int, k: int, pairs: dict[tuple[int, int], float], seed: int) -> Case:
    field = np.random.default_rng(seed).normal(0, 0.6, (n, k))
    coupling = np.zeros((n, n))
    for (i, j), weight in pairs.items():
        coupling[i, j] = coupling[j, i] = weight
    energy = Potts(torch.tensor(coupling), k, torch.tensor(field))
    table = reference.potts(reference.states([k] * n), coupling, field)
    return Case(name, energy, (k,) * n, table)


def _binary_sum() -> Case:
    """½ a sparse and 1 a dense model on Binary, with pairs in both: signs differ."""
    rng = np.random.default_rng(8)
    one = np.array([[0, 0.9, -0.4], [0.9, 0, 0], [-0.4, 0, 0]])
    two = np.array([[0, -0.2, 0], [-0.2, 0, 0.7], [0, 0.7, 0]])
    h1, h2 = rng.normal(0, 0.4, 3), rng.normal(0, 0.4, 3)
    space = Binary(3)
    edges = torch.tensor([[0, 0], [1, 2]])
    sparse = Ising.sparse(edges, torch.tensor([0.9, -0.4], dtype=torch.float64), torch.tensor(h1), space=space)
    energy = SumEnergy([sparse, Ising(torch.tensor(two), torch.tensor(h2), space=space)], [0.5, 1.0])
    return Case("binary-sum", energy, (2,) * 3, reference.ising(reference.states([2] * 3), one / 2 + two, h1 / 2 + h2))


CASES = {case.name: case for case in [
    cases.ising_dense(),
    cases.ising_lattice(),
    cases.free(),
    cases.potts(),
    _potts("potts-chain", 3, 3, {(0, 1): 0.9, (1, 2): 0.5}, 5),
    _potts("potts-mixed", 3, 3, {(0, 1): 0.9, (1, 2): -0.8, (0, 2): 0.4}, 6),
    _potts("potts-four-values", 2, 4, {(0, 1): -1.1}, 7),
    _binary_sum(),
]}


# A pair that two members of a sum have keeps two bonds, as two edges would (w = 2J, times the member's weight).
SUMMED = {"binary-sum": ([(0, 1), (0, 2), (0, 1), (1, 2)], np.array([0.9, -0.4, -0.4, 1.4]))}


def _graph(case: Case) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """(pairs, w (E,), field (N, K)) read back from the NumPy table by differences of energies."""
    n, k, number = len(case.radices), case.radices[0], reference.row_number(case.radices)

    def energy(**values: int) -> float:
        row = [0] * n
        for site, value in values.items():
            row[int(site[1:])] = value
        return float(case.table[number[tuple(row)]])

    pairs, weights = [], []
    field = np.zeros((n, k))
    for i, j in itertools.combinations(range(n), 2):
        both = energy() - energy(**{f"s{i}": 1}) - energy(**{f"s{j}": 1}) + energy(**{f"s{i}": 1, f"s{j}": 1})
        if abs(both) > 1e-12:  # −w(1 − 0 − 0 + 1)
            pairs.append((i, j))
            weights.append(-both / 2)
    for i in range(n):
        for v in range(k):
            loss = sum(w for (a, b), w in zip(pairs, weights, strict=True) if i in (a, b)) if v else 0.0
            field[i, v] = -(energy(**{f"s{i}": v}) - energy()) + loss
    return *SUMMED.get(case.name, (pairs, np.array(weights))), field


# -- the papers' matrices, in NumPy ---------------------------------------------------------------------------------


def _clusters(n: int, bonded: list[tuple[int, int]]) -> list[list[int]]:
    groups = [{i} for i in range(n)]
    for i, j in bonded:
        a, b = next(g for g in groups if i in g), next(g for g in groups if j in g)
        if a is not b:
            groups.remove(b)
            a |= b
    return [sorted(group) for group in groups]


def _bond_sets(pairs: list[tuple[int, int]], chances: list[float]) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    """(probability, bonds) of every subset of edges."""
    for pattern in itertools.product((False, True), repeat=len(pairs)):
        chance = math.prod(p if on else 1 - p for p, on in zip(chances, pattern, strict=True))
        if chance > 0:
            yield chance, [pair for pair, on in zip(pairs, pattern, strict=True) if on]


def _chances(x: np.ndarray, to: dict[int, int], pairs: list, w: np.ndarray, beta: float) -> list[float]:
    """Bond probabilities: 1 − e^{−β|w|} on satisfied edges (Swendsen & Wang 1987, eq. 1; both signs)."""
    out = []
    for (i, j), weight in zip(pairs, w, strict=True):
        good = x[i] == x[j] if weight > 0 else (x[i] != x[j] and to[x[i]] == x[j])
        out.append(1 - math.exp(-beta * abs(weight)) if good else 0.0)
    return out


def _matchings(k: int) -> list[dict[int, int]]:
    """All random matchings of k values (as permutations cut into pairs), each with the same weight."""
    out = []
    for order in itertools.permutations(range(k)):
        to = {v: v for v in range(k)}
        for at in range(0, k - 1, 2):
            to[order[at]], to[order[at + 1]] = order[at + 1], order[at]
        out.append(to)
    return out


def swendsen_wang_matrix(case: Case, beta: float, free: list[int] | None) -> np.ndarray:
    pairs, w, field = _graph(case)
    n, k = field.shape
    rows, number = reference.states(case.radices), reference.row_number(case.radices)
    any_value = k > 2 and bool((w >= 0).all())
    matchings = [{v: v for v in range(k)}] if any_value else _matchings(k)
    matrix = np.zeros((len(rows), len(rows)))
    for s, x in enumerate(rows):
        for to in matchings:
            for chance, bonded in _bond_sets(pairs, _chances(x, to, pairs, w, beta)):
                groups = _clusters(n, bonded)
                choices = []
                for group in groups:
                    ways = [dict.fromkeys(group, v) for v in range(k)] if any_value else [
                        {i: x[i] for i in group}, {i: to[x[i]] for i in group}]
                    if free is not None and any(i not in free for i in group):
                        ways = [{i: x[i] for i in group}]
                    weight = np.exp([beta * sum(field[i, v] for i, v in way.items()) for way in ways])
                    choices.append(list(zip(ways, weight / weight.sum(), strict=True)))
                for picked in itertools.product(*choices):
                    y = x.copy()
                    p = chance / len(matchings)
                    for way, part in picked:
                        p *= part
                        for i, v in way.items():
                            y[i] = v
                    matrix[s, number[tuple(y)]] += p
    return matrix


def wolff_matrix(case: Case, beta: float, free: list[int] | None, laziness: float = 0.01) -> np.ndarray:
    pairs, w, field = _graph(case)
    n, k = field.shape
    rows, number = reference.states(case.radices), reference.row_number(case.radices)
    sites = range(n) if free is None else free
    matrix = np.zeros((len(rows), len(rows)))
    for s, x in enumerate(rows):
        for seed, b in itertools.product(sites, range(k)):
            a = x[seed]
            if a == b:
                continue
            to = {v: v for v in range(k)} | {a: b, b: a}
            for chance, bonded in _bond_sets(pairs, _chances(x, to, pairs, w, beta)):
                group = next(g for g in _clusters(n, bonded) if seed in g)
                y = x.copy()
                for i in group:
                    y[i] = to[x[i]]
                if any(i not in sites for i in group):
                    continue
                gain = sum(field[i, y[i]] - field[i, x[i]] for i in group)
                accept = (1 - laziness) * min(1.0, math.exp(beta * gain))
                matrix[s, number[tuple(y)]] += chance * accept / (len(sites) * (k - 1))
    matrix[np.diag_indices(len(rows))] += 1 - matrix.sum(1)
    return matrix


MATRIX: dict[str, Callable[..., np.ndarray]] = {"swendsen-wang": swendsen_wang_matrix, "wolff": wolff_matrix}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_papers_matrix_keeps_the_target_and_balances(kernel: str, name: str) -> None:
    case = CASES[name]
    for beta in (0.3, 1.0, 2.0):
        matrix, target = MATRIX[kernel](case, beta, None), reference.boltzmann(case.table, beta)
        assert np.abs(matrix.sum(1) - 1).max() <= 1e-12
        assert matrix.min() >= -1e-15
        assert reference.stationarity_error(matrix, target) <= 1e-12
        assert reference.balance_error(matrix, target) <= 1e-12
        assert reference.second_eigenvalue(matrix) <= 0.999


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_papers_matrix_keeps_conditional_laws_under_a_clamp(kernel: str, name: str) -> None:
    case = CASES[name]
    free = list(range(1, len(case.radices)))
    matrix, target = MATRIX[kernel](case, 1.3, free), reference.boltzmann(case.table, 1.3)
    assert reference.balance_error(matrix, target) <= 1e-12
    first = reference.states(case.radices)[:, 0]
    assert matrix[first[:, None] != first[None, :]].max() == 0


# -- the shipped kernels, row by row --------------------------------------------------------------------------------


def _counts(case: Case, kernel: str, beta: float, n: int, seed: int, free: list[int] | None = None,
            **settings: object) -> np.ndarray:
    n_states = len(case.table)
    rows = np.repeat(np.arange(n_states), n)
    clamp = None
    if free is not None:
        clamp = torch.ones(case.space.shape, dtype=torch.bool)
        clamp.view(-1)[free] = False
    made, generator = samplers.create(kernel, **settings), torch.Generator().manual_seed(seed)
    # another beta for every other chain, so that one that is shared would be seen
    state = made.init(case.energy, case.x(np.concatenate([rows, rows])), generator=generator, clamp=clamp)
    betas = torch.cat([torch.full((len(rows),), beta), torch.full((len(rows),), 0.05)])
    state, info = made.step(case.energy, state, generator=generator, beta=betas, clamp=clamp)
    assert int(info.non_finite) == 0
    np.testing.assert_allclose(state.energy.numpy(), case.table[case.rows(state.x)], atol=1e-9)
    after = case.rows(state.x)[: len(rows)]
    return np.bincount(rows * n_states + after, minlength=n_states**2).reshape(n_states, -1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_row_of_the_shipped_kernel_is_the_papers(kernel: str, name: str, seed: int) -> None:
    case = CASES[name]
    for number, (beta, free) in enumerate([(1.0, None), (0.7, [0, 1])]):
        counts = _counts(case, kernel, beta, 6000, seed + number, free)
        matrix = MATRIX[kernel](case, beta, free)
        statistical.assert_rows_match(counts, matrix, false_fail=FAMILY / 64, must_see=0.08)


@pytest.mark.skipif(not COMPILED_AVAILABLE, reason="needs numba")
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_tensor_version_gives_the_same_bits(kernel: str, seed: int) -> None:
    for energy in (Ising.lattice((6, 7), 0.5, 0.05), CASES["potts-mixed"].energy):
        x = energy.space.random(20, torch.Generator().manual_seed(seed))
        ends = []
        for compiled in (True, False):
            made, generator = samplers.create(kernel, compiled=compiled), torch.Generator().manual_seed(seed)
            state = made.init(energy, x, generator=generator)
            for _ in range(5):
                state, _ = made.step(energy, state, generator=generator)
            ends.append(state.x)
        assert torch.equal(*ends)
        assert not torch.equal(ends[0], x)


# -- the conformance suite, on the energies that clusters know -------------------------------------------------------


def _targets() -> list[Target]:
    names = ("ising-dense", "free", "potts-chain", "potts-mixed", "binary-sum")
    targets = [Target(name, CASES[name].energy, CASES[name].space.enumerate(),
                      depth="light" if name in ("free", "potts-mixed") else "full") for name in names]
    single = Ising(torch.zeros(1, 1), 0.4)
    peaked = Ising(40.0 * CASES["ising-dense"].energy.coupling_matrix().detach().float(), 5.0)
    return [*targets, Target("single", single, single.space.enumerate(), depth="light"),
            Target("peaked", peaked, peaked.space.enumerate(), depth="law")]


@pytest.mark.parametrize("kernel", KERNELS)
def test_cluster_samplers_conform(kernel: str, seed: int) -> None:
    report = check_sampler(kernel, seed=seed, targets=_targets())
    assert report.passed
    assert not report.skipped


def test_no_chains_and_a_strided_start_work() -> None:
    energy = Ising.lattice((3, 3), 0.4)
    for kernel in KERNELS:
        made, generator = samplers.create(kernel), torch.Generator().manual_seed(0)
        state = made.init(energy, energy.space.random(0, generator), generator=generator)
        state, info = made.step(energy, state, generator=generator)
        assert state.x.shape == (0, 3, 3)
        assert info.acceptance.shape == (0,)


# -- refusals -------------------------------------------------------------------------------------------------------


class _Tilted(Ising):
    """An Ising model with a term that clusters would not see."""

    def forward(self, encoding: torch.Tensor) -> torch.Tensor:
        return super().forward(encoding) + encoding.flatten(1)[:, 0] ** 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_energies_are_refused_with_a_sentence(kernel: str) -> None:
    others = [cases.rbm().energy, _Tilted(torch.zeros(2, 2)),
              from_callable(lambda f: f.sum((1, 2)), Categorical(2, [2, 3]))]
    for energy in others:
        with pytest.raises(CapabilityError, match=rf"must be energies.Ising.*{kernel}.*got {type(energy).__name__}"):
            de.sample(energy, sampler=kernel, n_chains=2, n_steps=2)


def test_wrong_settings_are_refused() -> None:
    for kernel in KERNELS:
        with pytest.raises(SettingError, match="compiled"):
            samplers.create(kernel, compiled="yes")
    with pytest.raises(SettingError, match="laziness"):
        samplers.create("wolff", laziness=1.0)
    with mock.patch.object(clusters, "COMPILED_AVAILABLE", False), pytest.raises(SettingError, match="Install numba"):
        samplers.create("wolff", compiled=True)


def test_a_model_in_training_is_read_as_it_is_now() -> None:
    energy = Ising.lattice((3, 3), 0.0)
    with torch.no_grad():
        energy.coupling.fill_(0.25)
    assert torch.equal(pair_terms(energy, "wolff").weight, torch.full((18,), 0.5))
    assert not pair_terms(energy, "wolff").weight.requires_grad


# -- planted bugs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    name: str
    kernel: str
    target: str
    killer: str
    plant: Callable[[], object]


def _patched(module: object, name: str, make: Callable[[Callable], Callable]) -> Callable[[], object]:
    @contextmanager
    def plant() -> Iterator[None]:
        with mock.patch.object(module, name, make(getattr(module, name))):
            yield

    return plant


def _swapped_fields(original: Callable) -> Callable:
    return lambda *args: original(*args)._replace(field=-original(*args).field)


def _both_signs_equal(original: Callable) -> Callable:
    return lambda index, other, terms: index[:, terms.edges[0]] == index[:, terms.edges[1]]


def _next_value(original: Callable) -> Callable:
    return lambda index, terms, g: (index + 1) % terms.field.shape[1]


def _half_rate(original: Callable) -> Callable:
    return lambda may, beta, terms, g: original(may, beta, terms._replace(weight=terms.weight / 2), g)


def _shared_beta(original: Callable) -> Callable:
    return lambda may, beta, terms, g: original(may, beta.mean().expand_as(beta), terms, g)


def _nothing_clamped(original: Callable) -> Callable:
    return lambda space, clamp, n: None


def _own_field_only(original: Callable) -> Callable:
    """Each cluster looks at the field of its first site alone."""

    def first(label: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.where(label == torch.arange(label.shape[1]), values, torch.zeros_like(values))

    return first


PLANTED = [
    Planted("1 − exp(−β|J|) for Ising", "swendsen-wang", "ising-dense", "law", _patched(
        swendsen_wang, "draw_bonds", _half_rate)),
    Planted("negative couplings bonded like positive ones", "swendsen-wang", "ising-dense", "law", _patched(
        swendsen_wang, "satisfied", _both_signs_equal)),
    Planted("values in a ring, not in pairs", "swendsen-wang", "potts-mixed", "law", _patched(
        swendsen_wang, "_partners", _next_value)),
    Planted("field of one site for its cluster", "swendsen-wang", "ising-dense", "law", _patched(
        swendsen_wang, "cluster_sum", _own_field_only)),
    Planted("clamp dropped", "swendsen-wang", "ising-dense", "clamp", _patched(
        swendsen_wang, "free_sites", _nothing_clamped)),
    Planted("fields with the wrong sign", "wolff", "potts-chain", "law", _patched(
        wolff, "pair_terms", _swapped_fields)),
    Planted("one beta for all chains", "wolff", "ising-dense", "law", _patched(wolff, "draw_bonds", _shared_beta)),
    Planted("clamp dropped", "wolff", "binary-sum", "clamp", _patched(wolff, "free_sites", _nothing_clamped)),
    Planted("negative couplings bonded like positive ones", "wolff", "potts-mixed", "law", _patched(
        wolff, "satisfied", _both_signs_equal)),
]


@pytest.mark.mutants
@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: f"{p.kernel}-{p.name}".replace(" ", "-"))
def test_a_planted_bug_is_found(planted: Planted) -> None:
    target = next(t for t in _targets() if t.name == planted.target)
    with planted.plant(), pytest.raises(ConformanceError) as caught:  # type: ignore[attr-defined]
        check_sampler(planted.kernel, targets=[target])
    failed = [line for line in str(caught.value).splitlines() if line.strip().startswith("failed:")]
    assert any(planted.killer in line for line in failed), failed


def test_the_papers_wolff_alternates_for_ever_on_free_spins_and_ours_does_not() -> None:
    case = CASES["free"]
    assert reference.second_eigenvalue(wolff_matrix(case, 1.0, None, 0.0)) == pytest.approx(1.0, abs=1e-12)
    assert reference.second_eigenvalue(wolff_matrix(case, 1.0, None)) <= 0.999




def test_a_spin_model_works_from_the_public_door() -> None:
    energy = Ising(torch.zeros(3, 3), 0.0, space=Spin(3))
    chains = de.sample(energy, sampler="swendsen-wang", n_chains=4, n_steps=20, seed=0)
    assert chains.acceptance_rate == 1.0
