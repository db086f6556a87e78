"""Fused CPU kernels have the law of the reference: conformance, matrices from the definition, exact lattices, mutants.

Planted bugs are in the compiled source itself: a changed copy of the file is imported and put in the place of the real
one, so what dies is compiled code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.energies import MLPEnergy, Potts
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.energies.ising import Ising
from discrete_ebm.errors import CapabilityError, SettingError
from discrete_ebm.spaces import Binary, Spin
from discrete_ebm.testing import Target, check_sampler
from discrete_ebm.testing_statistics import goodness_of_fit

pytest.importorskip("numba")

import numba

from discrete_ebm.samplers import fast
from discrete_ebm.samplers.fast import _lattice, _pairwise, lattice, pairwise, threads
from discrete_ebm.samplers.fast import plan as plans

LIMIT = 1e-8  # a test that looks at a handful of p-values fails by chance less than once in ten million runs


def random_ising(seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Ising:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.tensor([[0, 1, 2, 0, 1], [1, 2, 3, 3, 3]])
    return Ising.sparse(edges, torch.randn(5, generator=generator, dtype=dtype),
                        0.5 * torch.randn(4, generator=generator, dtype=dtype), **options)


def dense_ising(n: int = 4, seed: int = 1) -> Ising:
    upper = torch.triu(0.7 * torch.randn(n, n, generator=torch.Generator().manual_seed(seed)), diagonal=1)
    return Ising(upper + upper.t(), 0.3)


def potts(field: Any, dense: bool = False) -> Potts:
    if dense:
        return Potts(torch.tensor([[0, 0.8, -0.5], [0.8, 0, 0.6], [-0.5, 0.6, 0]]), 3, field)
    return Potts.sparse([[0, 1], [1, 2]], torch.tensor([0.9, -0.6]), 3, field)


ENERGIES: dict[str, Callable[[], Any]] = {
    "open 3x2, field": lambda: Ising.lattice((3, 2), 0.5, 0.3, periodic=False),
    "ring 4x2, antiferromagnet": lambda: Ising.lattice((4, 2), -0.4, -0.2),
    "ring 2x4, field": lambda: Ising.lattice((2, 4), 0.4, 0.15),
    "ring of 4, no field": lambda: Ising.lattice(4, 0.6),
    "open 2x3, binary": lambda: Ising.lattice((2, 3), 0.4, 0.1, periodic=False, space=Binary((2, 3))),
    "sparse": random_ising,
    "sparse, float64, binary": lambda: random_ising(2, torch.float64, space=Binary(4)),
    "dense": dense_ising,
    "Potts, field of each site": lambda: potts(torch.randn(3, 3, generator=torch.Generator().manual_seed(3))),
    "Potts, one field": lambda: potts(torch.tensor([0.1, 0.4, -0.3])),
    "Potts, dense": lambda: potts(0.0, dense=True),
}


@pytest.mark.parametrize("name", ENERGIES)
def test_fused_sweeps_conform(name: str, seed: int) -> None:
    """False-fail budget 1e-7 each: laws at two betas in one batch, clamps, resumption, bookkeeping."""
    energy = ENERGIES[name]()
    depth = "full" if name in ("ring 2x4, field", "sparse") else "light"
    target = Target(name, energy, energy.space.enumerate(), depth=depth)
    report = check_sampler("chromatic" if "Potts" not in name else "gibbs", seed=seed, targets=[target],
                           implementation="fused")
    assert report.passed
    assert not report.skipped


def test_laws_far_below_a_float32_uniform_conform(seed: int) -> None:
    """Tens of nats: one leak in a thousand steps would show."""
    cases = [Ising.lattice((3, 2), 9.0, 2.0, periodic=False), Ising.sparse([[0, 1], [1, 2]], 20.0, 4.0),
             Ising(torch.tensor([[0.0, 15.0], [15.0, 0.0]]), -6.0), Potts.sparse([[0], [1]], 40.0, 3, [5.0, 0.0, -9.0]),
             Potts.sparse([[0], [1]], 900.0, 3, [500.0, 0.0, -900.0])]
    for sampler in ("gibbs", "chromatic"):
        check_sampler(sampler, seed=seed, implementation="fused", targets=[
            Target(f"peaked {number}", energy, energy.space.enumerate(), depth="law")
            for number, energy in enumerate(cases)])


# -- matrices of a sweep, written from the definition ------------------------------------------------------------


def sweep_matrix(energy: Any, beta: float, order: list[int]) -> np.ndarray:
    """Transition matrix (S, S) of one heat-bath sweep over ``order``, from the table of energies alone."""
    states = energy.space.enumerate()
    table = evaluate_energy(energy, states).detach().double().numpy()
    index = energy.space.to_index(states).numpy()
    row_of = {tuple(row): number for number, row in enumerate(index.tolist())}
    total = np.eye(len(index))
    for site in order:
        one = np.zeros_like(total)
        for s, row in enumerate(index):
            others = []
            for value in range(energy.space.k_max):
                changed = row.copy()
                changed[site] = value
                others.append(row_of[tuple(changed.tolist())])
            weight = np.exp(-beta * (table[others] - table[others].min()))
            one[s, others] = weight / weight.sum()
        total = total @ one
    return total


def smallest_p(energy: Any, sampler: str, order: list[int], seed: int, n: int = 20_000, beta: float = 0.7) -> float:
    """Least p-value of one step's law from eight states against the matrix."""
    matrix = sweep_matrix(energy, beta, order)
    law = np.exp(-beta * evaluate_energy(energy, energy.space.enumerate()).detach().double().numpy())
    law /= law.sum()
    assert np.abs(law @ matrix - law).max() <= 1e-10  # the reference itself is stationary
    states = energy.space.enumerate()
    kernel = samplers.create(sampler, implementation="fused")
    found, place = [], torch.tensor([energy.space.k_max**p for p in reversed(range(energy.space.n_sites))])
    for number, start in enumerate(torch.linspace(0, len(states) - 1, 8).long().tolist()):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        state = kernel.init(energy, states[start].expand(n, *energy.space.shape), generator=generator)
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
        rows = (energy.space.to_index(state.x) * place).sum(1)
        found.append(goodness_of_fit(torch.bincount(rows, minlength=len(states)), torch.from_numpy(matrix[start])))
    return min(found)


def checkerboard(height: int, width: int) -> list[int]:
    sites = [(i, j) for i in range(height) for j in range(width)]
    return [i * width + j for parity in (0, 1) for i, j in sites if (i + j) % 2 == parity]


MATRIX_CASES = [
    ("open 3x2, field", "block-gibbs", checkerboard(3, 2)),
    ("ring 4x2, antiferromagnet", "chromatic", checkerboard(4, 2)),
    ("ring 2x4, field", "chromatic", checkerboard(2, 4)),
    ("sparse", "gibbs", [0, 1, 2, 3]),
    ("dense", "gibbs", [0, 1, 2, 3]),
    ("Potts, field of each site", "gibbs", [0, 1, 2]),
    ("Potts, one field", "gibbs", [0, 1, 2]),
]


@pytest.mark.parametrize(("name", "sampler", "order"), MATRIX_CASES)
def test_one_step_has_the_rows_of_the_sweeps_matrix(name: str, sampler: str, order: list[int], seed: int) -> None:
    assert smallest_p(ENERGIES[name](), sampler, order, seed) >= LIMIT


# -- compiled pieces against their plain bodies ------------------------------------------------------------


@numba.njit
def _compiled_against(sizes: Any, out: Any) -> None:
    for place in range(len(sizes)):
        out[place] = _pairwise._against(sizes[place])


@numba.njit
def _compiled_gather(total: Any, field: Any, spins: Any, indices: Any, weights: Any, first: Any, last: Any) -> None:
    _pairwise._gather_fields(total, field, spins, indices, weights, first, last)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_chance_to_disobey_is_that_of_the_plain_body(dtype: Any) -> None:
    """From no field to one at which the chance leaves the dtype; the plain body itself against long doubles."""
    sizes = np.concatenate([np.linspace(0, 120, 20_001), np.geomspace(1e-9, 1, 500)]).astype(dtype)
    plain, compiled = _pairwise._against(sizes), np.empty_like(sizes)
    _compiled_against(sizes, compiled)
    assert plain.dtype == dtype
    exact = 1 / (1 + np.exp(np.minimum(sizes, 87 if dtype is np.float32 else np.inf).astype(np.longdouble)))
    limit = 4 * np.finfo(dtype).eps
    assert np.abs(plain / exact - 1).max() <= limit
    assert np.abs(compiled / plain.astype(np.longdouble) - 1).max() <= limit


@pytest.mark.parametrize("lanes", [1, 5, 16, 48, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fields_are_gathered_as_by_the_plain_body_to_the_bit(dtype: Any, lanes: int) -> None:
    """Also by vectors of 16, also where a site has no neighbours; and other lanes are not written to."""
    rng = np.random.default_rng(0)
    spins = rng.choice(np.array([-1, 1], np.int8), (30, lanes))
    indices, weights = rng.integers(30, size=40).astype(np.int32), rng.normal(size=40).astype(dtype)
    for first, last in ((0, 40), (7, 12), (9, 9)):
        room = np.full((2, lanes + 32), 7.0, dtype)
        for total, gather in zip(room, (_pairwise._gather_fields, _compiled_gather), strict=True):
            gather(total[16 : 16 + lanes], dtype(0.3), spins, indices, weights, first, last)
        assert room[0].tobytes() == room[1].tobytes()
        assert (room[:, :16] == 7).all()
        assert (room[:, 16 + lanes :] == 7).all()
        long = dtype(0.3) + (weights[first:last, None].astype(np.float64) * spins[indices[first:last]]).sum(0)
        np.testing.assert_allclose(room[0, 16 : 16 + lanes], long, atol=40 * np.finfo(dtype).eps)


# -- exactness of the comparison ------------------------------------------------------------


def test_the_digits_are_those_of_the_float64_probability_to_the_last() -> None:
    for coupling, field, beta in ((1.0, 0.0, 0.44), (-0.7, 0.35, 1.3), (3.0, 2.0, 4.0)):
        board = plans.Lattice(4, 4, (True, True), coupling, field, 32)
        bits, favoured = lattice.digits(board, np.array([beta]))
        for degree in range(5):
            for up in range(degree + 1):
                odds = 2.0 * beta * (coupling * (2 * up - degree) + field)
                small = math.exp(-abs(odds))
                wanted = Fraction(small / (1.0 + small))
                digits = sum(Fraction(1, 2 ** (k + 1)) for k in range(bits.shape[1]) if bits[degree, k, up])
                assert digits == wanted
                assert bool(favoured[degree, up]) == (odds > 0)


def test_lanes_of_their_own_beta_have_digits_of_their_own() -> None:
    board, betas = plans.Lattice(4, 4, (True, True), 0.8, 0.1, 32), np.linspace(0.1, 2.0, 64)
    together, favoured = lattice.digits(board, betas)
    for lane in (0, 17, 63):
        alone, sure = lattice.digits(board, betas[lane : lane + 1])
        mine = (together >> np.uint64(lane)) & np.uint64(1)
        assert (mine[:, : alone.shape[1]] == (alone & np.uint64(1))).all()
        assert not mine[:, alone.shape[1] :].any()
        assert ((favoured >> np.uint64(lane)) & np.uint64(1) == sure & np.uint64(1)).all()


def test_a_comparison_goes_on_until_the_digits_decide() -> None:
    """Chances of 2^-12 to 2^-20, which the ten vector rounds never decide alone, and of 0.3, from 10^7 spins each."""
    for q in (0.3, 2.0**-12, 3 * 2.0**-20):
        energy = Ising.lattice((64, 64), 0.0, -math.log(q / (1 - q)) / 2, periodic=True)
        kernel, generator = samplers.create("chromatic", implementation="fused"), torch.Generator().manual_seed(5)
        state = kernel.init(energy, torch.ones(640, 64, 64, dtype=torch.int8), generator=generator)
        down = 0
        for _ in range(4):
            state, _ = kernel.step(energy, state, generator=generator)
            down += int((state.x < 0).sum())
        n = 4 * state.x.numel()
        odds = float(energy.field[0].detach()) * 2  # float32 holds it
        chance = 1 / (1 + math.exp(odds))
        assert abs(down - n * chance) <= 6 * math.sqrt(n * chance * (1 - chance))


def test_random_bits_are_shared_by_no_two_spins() -> None:
    """At zero coupling all spins are independent: neighbours, lanes, colours, steps, groups of chains and rows."""
    energy = Ising.lattice((32, 32), 0.0, 0.4)
    kernel, generator = samplers.create("chromatic", implementation="fused"), torch.Generator().manual_seed(7)
    state = kernel.init(energy, energy.space.random(192, generator), generator=generator)
    first, _ = kernel.step(energy, state, generator=generator)
    second, _ = kernel.step(energy, first, generator=generator)
    a, b = (s.x.double() - math.tanh(0.4) for s in (first, second))
    variance = 1 / math.cosh(0.4) ** 2
    for one, two in ((a, b), (a[:, :, :-1], a[:, :, 1:]), (a[:, :-1], a[:, 1:]), (a[:, :, :-2], a[:, :, 2:]),
                     (a[:, :-2], a[:, 2:]), (a[:-1], a[1:]), (a[:64], a[64:128]), (a[:, :, ::2], a[:, :, 1::2]),
                     (a[:-8], a[8:]), (a[:, :, :16], a[:, :, 16:])):
        products = (one * two).flatten()
        assert abs(float(products.mean())) <= 6 * variance / math.sqrt(len(products))


# -- exact lattices at the critical point ------------------------------------------------------------


def kaufman_energy(size: int, beta: float) -> float:
    """Mean energy per spin of the periodic size × size Ising model, J = 1, by differences of Kaufman's log Z.

    Source: Kaufman 1949, Phys. Rev. 76, 1232, eq. 39 and following.
    """

    def log_z(k: float) -> float:
        def gamma(q: int) -> float:
            if q == 0:
                return 2 * k + math.log(math.tanh(k))
            return math.acosh(math.cosh(2 * k) / math.tanh(2 * k) - math.cos(math.pi * q / size))

        odd = [gamma(2 * r + 1) for r in range(size)]
        even = [gamma(2 * r) for r in range(size)]
        logs = [sum(math.log(2 * math.cosh(size * g / 2)) for g in odd),
                sum(math.log(2 * abs(math.sinh(size * g / 2))) for g in odd),
                sum(math.log(2 * math.cosh(size * g / 2)) for g in even),
                sum(math.log(2 * abs(math.sinh(size * g / 2))) for g in even)]
        signs = [1, 1, 1, math.copysign(1, even[0])]
        high = max(logs)
        total = sum(s * math.exp(part - high) for s, part in zip(signs, logs, strict=True))
        return -math.log(2) + size**2 / 2 * math.log(2 * math.sinh(2 * k)) + high + math.log(total)

    step = 1e-4
    return -(log_z(beta + step) - log_z(beta - step)) / (2 * step) / size**2


@pytest.mark.parametrize("coupled", ["one coupling", "arbitrary couplings"])
def test_the_energy_at_the_critical_point_is_kaufmans(coupled: str) -> None:
    """16 × 16 at βc, 512 independent chains: also its short correlations, which are the energy's."""
    beta, size = math.log(1 + math.sqrt(2)) / 2, 16
    energy = Ising.lattice((size, size), 1.0)
    if coupled != "one coupling":
        energy = Ising.sparse(energy.edge_index, 1.0, n_sites=size**2)
    kernel = samplers.create("chromatic", implementation="fused", sweeps=4000 if coupled == "one coupling" else 400)
    generator = torch.Generator().manual_seed(11)
    x = torch.ones(512, *energy.space.shape, dtype=torch.int8)
    x[::2] = energy.space.random(256, generator)  # from both sides
    state = kernel.init(energy, x, generator=generator)
    state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    if coupled != "one coupling":
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    per_spin = state.energy.double() / size**2
    assert float(per_spin.std()) > 0.01
    assert abs(float(per_spin.mean()) - kaufman_energy(size, beta)) <= 5 * float(per_spin.std()) / math.sqrt(512)


# -- what a batch, a thread or a switch must not change ------------------------------------------------------------


@pytest.mark.parametrize("energy", [Ising.lattice((6, 5), 0.4, 0.1, periodic=False), random_ising(4)],
                         ids=["multi-spin", "sparse"])
def test_a_chain_does_not_depend_on_who_shares_its_batch(energy: Any) -> None:
    """Chain c of a batch of 150 does what chain c of a batch of 70 does, of whatever states the others are."""
    x = energy.space.random(150, torch.Generator().manual_seed(0))
    ends = []
    for states in (x, x[:70], torch.cat([x[:20], -x[20:150]])):
        kernel, generator = samplers.create("chromatic", implementation="fused"), torch.Generator().manual_seed(1)
        state = kernel.init(energy, states, generator=generator)
        for _ in range(5):
            state, _ = kernel.step(energy, state, generator=generator)
        ends.append(state.x)
    assert torch.equal(ends[0][:70], ends[1])
    assert torch.equal(ends[0][:20], ends[2][:20])


@pytest.mark.parametrize("energy", [Ising.lattice((6, 4), 0.4), random_ising(4), dense_ising(), potts(0.2)],
                         ids=["multi-spin", "sparse", "dense", "potts"])
def test_the_number_of_threads_changes_no_bit(energy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WORTH", 0.0)
    x, ends = energy.space.random(200, torch.Generator().manual_seed(0)), []
    for n_threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        kernel, generator = samplers.create("chromatic", implementation="fused"), torch.Generator().manual_seed(1)
        state = kernel.init(energy, x, generator=generator)
        ends.append(kernel.step(energy, state, generator=generator)[0])
    assert torch.equal(ends[0].x, ends[1].x)
    assert torch.equal(ends[0].energy, ends[1].energy)


def _after(energy: Any, **settings: Any) -> torch.Tensor:
    kernel, generator = samplers.create("block-gibbs", **settings), torch.Generator().manual_seed(3)
    state = kernel.init(energy, energy.space.random(8, generator), generator=generator)
    return kernel.step(energy, state, generator=generator)[0].x


def test_the_switch_turns_fused_kernels_off_and_on() -> None:
    energy = Ising.lattice((8, 8), 0.3)
    reference, fused = _after(energy, implementation="reference"), _after(energy, implementation="fused")
    assert not torch.equal(reference, fused)
    assert fast.fused_enabled()
    assert torch.equal(_after(energy), fused)
    with fast.set_fused(False):
        assert torch.equal(_after(energy), reference)
        assert torch.equal(_after(energy, implementation="fused"), fused)
    assert torch.equal(_after(energy), fused)


def test_what_has_no_fused_form_is_refused_before_any_step() -> None:
    energy = MLPEnergy(Spin(4))
    for name in ("gibbs", "chromatic", "block-gibbs"):
        kernel = samplers.create(name, implementation="fused")
        with pytest.raises(CapabilityError, match=r"`implementation`|`energy` must have"):
            kernel.init(energy, energy.space.random(2, torch.Generator()), generator=torch.Generator())
    with pytest.raises(SettingError, match="`implementation` must be one of"):
        samplers.create("gibbs", implementation="fast")
    with pytest.raises(SettingError, match="raster scan"):
        samplers.create("gibbs", scan="random", implementation="fused")
    with pytest.raises(SettingError, match="`sweeps` must be"):
        samplers.create("chromatic", sweeps=0)


def test_broken_parameters_are_left_to_the_reference() -> None:
    energy = Ising.lattice((4, 4), 0.3)
    with torch.no_grad():
        energy.coupling[3] = math.nan
    assert "not finite" in str(fast.refusal(energy, energy.space.random(2, torch.Generator())))


@pytest.mark.parametrize("how", ["data", "no_grad", "one coupling", "graph"])
def test_parameters_that_change_between_steps_are_noticed(how: str) -> None:
    """Strong field up; then it is turned over. Also where the chessboard stops being of one coupling."""
    energy = Ising.lattice((4, 6), 0.1, 20.0)
    assert bool((_after(energy) == 1).all())
    if how == "data":
        energy.field.data.mul_(-1)
    elif how == "graph":
        other = Ising.sparse(energy.edge_index, 0.1, -20.0, n_sites=24)
        energy.edge_index.copy_(energy.edge_index.flip(1))
        energy.field.data = other.field.data
    else:
        with torch.no_grad():
            energy.field.neg_()
            if how == "one coupling":
                energy.coupling[0] = 0.2
    assert bool((_after(energy) == -1).all())


@pytest.mark.parametrize("make", [random_ising, dense_ising, lambda: potts(0.2)], ids=["sparse", "dense", "potts"])
def test_a_model_made_double_between_steps_is_swept_in_double(make: Callable[[], Any]) -> None:
    """The numbers are the same; sums of them in float32 are not."""
    energy = make()
    _after(energy)
    energy.double()
    generator, kernel = torch.Generator().manual_seed(0), samplers.create("gibbs", implementation="fused")
    state = kernel.init(energy, energy.space.random(50, generator), generator=generator)
    state, _ = kernel.step(energy, state, generator=generator)
    assert state.energy.dtype == torch.float64
    assert torch.allclose(state.energy, evaluate_energy(energy, state.x).detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("chains", [1, 2, 7, 8, 9, 40, 64, 65])
def test_energies_and_changes_are_those_of_the_states(chains: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for energy in (Ising.lattice((7, 9), 0.4, 0.2, periodic=False), Ising.lattice((6, 10), 0.4), random_ising(5),
                   Ising.lattice((17,), -0.3, periodic=False, space=Binary(17)), dense_ising(9)):
        for sweeps in (1, 3):
            kernel = samplers.create("chromatic", implementation="fused", sweeps=sweeps)
            before = kernel.init(energy, energy.space.random(chains, generator), generator=generator)
            clamp = torch.rand(chains, *energy.space.shape, generator=generator) < 0.3
            after, info = kernel.step(energy, before, generator=generator, beta=0.5, clamp=clamp)
            energy.space.validate(after.x)
            assert torch.allclose(after.energy, evaluate_energy(energy, after.x).detach(), atol=1e-4)
            assert torch.equal(info.hamming, (after.x != before.x).flatten(1).sum(1))
            assert torch.equal(after.x[clamp], before.x[clamp])
            assert int(after.step) == 1


def test_sweeps_in_one_step_are_as_many_steps_of_the_reference() -> None:
    energy, ends = random_ising(6), []
    for sweeps, steps in ((3, 1), (1, 3)):
        kernel = samplers.create("chromatic", implementation="reference", sweeps=sweeps)
        generator = torch.Generator().manual_seed(2)
        state = kernel.init(energy, energy.space.random(16, generator), generator=generator)
        for _ in range(steps):
            state, _ = kernel.step(energy, state, generator=generator)
        ends.append(state.x)
    assert torch.equal(*ends)


# -- planted bugs ------------------------------------------------------------


@contextlib.contextmanager
def planted(module: ModuleType, user: ModuleType, names: list[str], changes: list[tuple[str, str]],
            folder: Path) -> Iterator[None]:
    """``user`` calls the functions ``names`` of a copy of ``module`` with ``changes`` to its source."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8").replace("cache=True, ", "")
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    file = folder / "mutant.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutant", file)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(user.compiled, name, getattr(mutant, name)))
        yield


LATTICE_BUGS = {
    "the row above taken twice": [("other[i + 1 if i < height - 1 else 0] if down", "other[i - 1] if down")],
    "a comparison that favours": [("still = still & ~(digit ^ random)", "still = still & ~(digit | random)")],
    "open lanes called decided": [("still = lanes & (ALL if missing else undecided[j])",
                                   "still = lanes & (ALL if missing else ZERO)"), ("FAST = 10", "FAST = 2")],
    "random words used again in the next row": [("        store(stream, base, s0)\n", ""),
                                                ("        store(stream, base + LANES, s1)\n", ""),
                                                ("        store(stream, base + 2 * LANES, s2)\n", ""),
                                                ("        store(stream, base + 3 * LANES, s3)\n", "")],
}
SPARSE_BUGS = {
    "a neighbour of the site before": [("indptr[site], indptr[site + 1])\n            _thresholds",
                                        "indptr[site - 1 if site else 0], indptr[site + 1])\n            _thresholds")],
    "an uniform used for two sites": [("            _advance(words, lanes)\n",
                                       "            if visit & ONE == ONE:\n                _advance(words, lanes)\n")],
    "beta forgotten": [("odds = local[lane] * scale[lane]", "odds = np.float32(2.0) * local[lane]")],
}


def board_p(seed: int) -> float:
    """Least p-value on a board of ring columns, drawn by vectors, and on one of columns with ends, drawn by words."""
    return min(smallest_p(ENERGIES["ring 2x4, field"](), "chromatic", checkerboard(2, 4), seed),
               smallest_p(ENERGIES["ring 4x2, antiferromagnet"](), "chromatic", checkerboard(4, 2), seed))


@pytest.mark.mutants
@pytest.mark.parametrize("bug", LATTICE_BUGS)
def test_a_bug_planted_in_multi_spin_coding_is_found(bug: str, seed: int, tmp_path: Path) -> None:
    with planted(_lattice, lattice, ["sweep"], LATTICE_BUGS[bug], tmp_path):
        assert board_p(seed) < LIMIT


@pytest.mark.mutants
@pytest.mark.parametrize("bug", SPARSE_BUGS)
def test_a_bug_planted_in_the_sparse_sweep_is_found(bug: str, seed: int, tmp_path: Path) -> None:
    with planted(_pairwise, pairwise, ["sparse_sweep"], SPARSE_BUGS[bug], tmp_path):
        assert smallest_p(ENERGIES["sparse"](), "gibbs", [0, 1, 2, 3], seed) < LIMIT


@pytest.mark.mutants
def test_planting_nothing_changes_nothing(seed: int, tmp_path: Path) -> None:
    with planted(_lattice, lattice, ["sweep"], [], tmp_path):
        assert board_p(seed) >= LIMIT


def test_one_seed_for_all_steps_is_found(seed: int) -> None:
    """A step must not begin at the random numbers of the step before."""
    energy = ENERGIES["sparse"]()
    target = Target("sparse", energy, energy.space.enumerate(), depth="light")
    fixed = torch.tensor([1, 2])
    with (mock.patch.object(fast.dispatch, "step_seeds", return_value=fixed.numpy().view("uint64")),
          pytest.raises(Exception, match=r"another seed|law at beta")):
        check_sampler("gibbs", seed=seed, targets=[target], implementation="fused")


