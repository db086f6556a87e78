"""Sweeps, mixtures, repeats and alternations have the products, averages and powers of their members' matrices as law.

False failures: the statistical assertions of this file are one family with budget 1e-7, split evenly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import discrete_ebm as de
from discrete_ebm import samplers
from discrete_ebm.energies import Energy, evaluate_energy, from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, RegistryError, SettingError, ShapeError
from discrete_ebm.samplers import ChainState, Kernel, StepInfo, alternate, combine, gwg
from discrete_ebm.samplers.accept import metropolis_hastings, metropolis_log_alpha, select
from discrete_ebm.samplers.alternate import Alternate, MemberGiven
from discrete_ebm.samplers.base import beta_column
from discrete_ebm.samplers.combine import Mixture, Repeat, Sweep
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Real, Spin
from discrete_ebm.testing import PairwiseFeatures, Target, check_sampler
from tests import cases, reference, statistical

FAMILY, BETAS = 1e-7, (0.3, 2.0)


def light(space: de.spaces.Space, seed: int = 1) -> list[Target]:
    """One coupled target with a quarter of the usual draws."""
    return [Target("coupled", PairwiseFeatures(space, seed=seed), space.enumerate(), depth="light")]


def mixed() -> cases.Case:
    """Two bits and a category of three, with any energies at all: no gradient, no structure."""
    table = np.random.default_rng(5).normal(0, 1, 12)
    space = Product({"bits": Binary(2), "kind": Categorical(1, 3)})

    def energy(encoding: dict[str, Tensor]) -> Tensor:
        row = 6 * encoding["bits"][:, 0] + 3 * encoding["bits"][:, 1] + encoding["kind"].argmax(-1)[:, 0]
        return torch.tensor(table)[row.long()]

    return cases.Case("mixed", from_callable(energy, space), (2, 2, 3), table)


CASES = {"ising": cases.ising_dense(), "net": cases.net("ragged"), "mixed": mixed()}


def gibbs(case: cases.Case, beta: float, free: list[int]) -> np.ndarray:
    return reference.gibbs_raster(case.table, case.radices, beta, [[i] for i in free])


def single(case: cases.Case, beta: float, free: list[int]) -> np.ndarray:
    """Metropolis on one free site: any other value, all alike."""
    deltas = np.where(np.isnan(case.exact), np.nan, 0.0)
    q = reference.informed_proposal(deltas, case.radices, 1.0, "sqrt", free)  # g(1) for all moves
    sites = {len({case.radices[i] for i in free})}
    assert sites == {1}, "moves are uniform over sites and values only where all have as many values"
    return reference.metropolis(q, reference.boltzmann(case.table, beta), 0.01)


def informed(case: cases.Case, beta: float, free: list[int]) -> np.ndarray:
    return reference.gwg(case.table, case.taylor, case.radices, beta, "barker", 0.01, free)


BARKER = ("gwg", {"balancing": "barker", "exact_deltas": False})
Matrix = Callable[[cases.Case, float, "list[int]"], np.ndarray]
VARIANTS: dict[str, tuple[Kernel, Matrix, str]] = {
    "sweep": (Sweep([BARKER, "gibbs", BARKER]), lambda c, b, f: informed(c, b, f) @ gibbs(c, b, f) @ informed(c, b, f),
              "net"),
    "sweep-ising": (Sweep(["metropolis", BARKER]), lambda c, b, f: single(c, b, f) @ informed(c, b, f), "ising"),
    "mixture": (Mixture([BARKER, "gibbs"], [3, 1]), lambda c, b, f: 0.75 * informed(c, b, f) + 0.25 * gibbs(c, b, f),
                "net"),
    "repeat": (Repeat(BARKER, 3), lambda c, b, f: np.linalg.matrix_power(informed(c, b, f), 3), "net"),
    "nested": (Sweep([Repeat(BARKER, 2), Mixture(["gibbs", BARKER])]),
               lambda c, b, f: informed(c, b, f) @ informed(c, b, f) @ (gibbs(c, b, f) + informed(c, b, f)) / 2, "net"),
    "alternate": (Alternate({"kind": "metropolis"}),
                  lambda c, b, f: (single(c, b, [2]) if 2 in f else np.eye(12)) @ gibbs(c, b, [i for i in f if i < 2]),
                  "mixed"),
    "alternate-blocks": (Alternate({"bits": "enumerated-gibbs", "kind": "gibbs"}),
                         lambda c, b, f: reference.block_update(c.table, c.radices, b, [i for i in f if i < 2])
                         @ gibbs(c, b, [i for i in f if i > 1]), "mixed"),
}


@pytest.mark.parametrize("free", [None, [0, 2]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_law_is_the_algebra_of_the_members_matrices_row_by_row(variant: str, free: list[int] | None,
                                                                   seed: int) -> None:
    """10,000 chains a row and beta, both betas in one batch; a total variation of 0.07 in one row is seen."""
    kernel, matrix, name = VARIANTS[variant]
    case, n = CASES[name], 10_000
    n_states, sites = len(case.table), list(range(len(case.radices)))
    matrices = [matrix(case, beta, sites if free is None else free) for beta in BETAS]
    for beta, p in zip(BETAS, matrices, strict=True):
        assert reference.stationarity_error(p, reference.boltzmann(case.table, beta)) <= 1e-12
    rows = np.tile(np.repeat(np.arange(n_states), n), 2)
    beta = torch.tensor(BETAS).repeat_interleave(n_states * n)
    clamp = None if free is None else torch.tensor([i not in free for i in sites]).reshape(case.space.shape)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
    state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
    which = np.repeat(np.arange(2), n_states * n)
    counts = np.bincount((which * n_states + rows) * n_states + case.rows(state.x), minlength=2 * n_states**2)
    statistical.assert_rows_match(counts.reshape(-1, n_states), np.concatenate(matrices), false_fail=FAMILY / 40,
                                  must_see=0.07)


@pytest.mark.parametrize(("name", "settings", "space"), [
    ("sweep", {"kernels": ["metropolis", ("gwg", {"exact_deltas": False}), "hamming-ball"]}, Categorical(3, [2, 3, 2])),
    ("mixture", {"kernels": ["gwg", "metropolis"], "choice": "shared"}, Ordinal(2, [-1.0, 0.0, 0.5])),
    ("mixture", {"weights": [1, 5]}, Spin((2, 2))),
    ("repeat", {"kernel": ("metropolis", {"n_sites": 1.5}), "n": 2}, Binary(3)),
    ("alternate", {"kernels": {"b": "gwg"}, "default": "metropolis"}, Product({"a": Spin(2), "b": Categorical(1, 3)})),
])
def test_other_members_conform(name: str, settings: dict, space: de.spaces.Space, seed: int) -> None:
    assert check_sampler(name, seed=seed, targets=light(space), **settings).passed


# -- discrete and real together -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealWalk(Kernel):
    """Exact on reals: Gaussian random walk, Metropolis 1953. It caches nothing and keeps a number of its own."""

    history: ClassVar[frozenset[str]] = frozenset({"visits"})

    def init(self, energy: Any, x0: Tensor, *, generator: torch.Generator, clamp: Tensor | None = None) -> ChainState:
        x = x0.clone()
        return ChainState(x, evaluate_energy(energy, x), {"visits": torch.zeros(len(x))}, torch.zeros(()).long())

    def step(self, energy: Any, state: ChainState, *, generator: torch.Generator, beta: float | Tensor = 1.0,
             clamp: Tensor | None = None) -> tuple[ChainState, StepInfo]:
        beta = beta_column(beta, state.energy)
        y = state.x + torch.empty_like(state.x).normal_(generator=generator)
        y = y if clamp is None else torch.where(clamp.expand(y.shape), state.x, y)
        energy_y = evaluate_energy(energy, y)
        log_alpha = metropolis_log_alpha(energy_y - state.energy, beta, torch.zeros_like(energy_y))
        accepted, acceptance = metropolis_hastings(log_alpha, generator=generator)
        x = select(accepted, y, state.x)
        info = StepInfo(acceptance, accepted, (x != state.x).flatten(1).sum(1), 1.0, 0.0, torch.zeros(()).long())
        cache = {"visits": state.cache["visits"] + 1}
        return ChainState(x, select(accepted, energy_y, state.energy), cache, state.step + 1), info


PULL = torch.tensor([1.0, -0.6])
MIXED = Product({"spins": Spin(2), "height": Real(1)})


def mixed_energy(encoding: dict[str, Tensor]) -> Tensor:
    """½v² − v(a·s) − 0.5 s₁s₂: v given s is normal around a·s, s given v is two fields and a coupling."""
    v, s = encoding["height"][:, 0], encoding["spins"]
    return v**2 / 2 - v * (s @ PULL.to(s.dtype)) - 0.5 * s[:, 0] * s[:, 1]


def height_gap(kernel: Kernel, seed: int, beta: float, n: int = 60_000, steps: int = 8) -> np.ndarray:
    """Counts of (spins, sextile of the height given the spins) after some steps from exact draws."""
    rng, s = np.random.default_rng(seed), 2.0 * reference.states((2, 2)) - 1
    mean = s @ PULL.numpy()
    law = reference.boltzmann(-(mean**2 / 2 + 0.5 * s[:, 0] * s[:, 1]), beta)
    row = rng.choice(4, n, p=law)
    v = mean[row] + rng.normal(size=n) / np.sqrt(beta)
    x = torch.tensor(np.column_stack([s[row], v.astype(np.float32)]))
    energy, generator = from_callable(mixed_energy, MIXED), torch.Generator().manual_seed(seed)
    state = kernel.init(energy, x, generator=generator)
    for _ in range(steps):
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    found = state.x.numpy()
    row = ((found[:, 0] > 0) * 2 + (found[:, 1] > 0)).astype(int)
    edges = np.array([-0.967421566101701, -0.430727299295457, 0.0, 0.430727299295457, 0.967421566101701])
    cell = np.searchsorted(edges, (found[:, 2] - mean[row]) * np.sqrt(beta))
    return np.stack([np.bincount(row * 6 + cell, minlength=24), np.repeat(law, 6) / 6 * n])


@pytest.mark.parametrize("spins", ["gibbs", "gwg", "metropolis"])
def test_spins_and_a_real_height_keep_their_joint_law(spins: str, seed: int) -> None:
    """60,000 exact draws, 8 steps: a total variation of 0.04 over 24 cells is seen."""
    counts, wanted = height_gap(Alternate({"height": RealWalk(), "spins": spins}), seed, 1.4)
    statistical.assert_law(counts, wanted / wanted.sum(), false_fail=FAMILY / 40, must_see=0.04)


def test_the_joint_law_is_lost_where_the_second_member_sees_the_first_as_it_was(seed: int) -> None:
    with stale_rest():
        counts, wanted = height_gap(Alternate({"height": RealWalk(), "spins": "gibbs"}), seed, 1.4)
    assert statistical.chi_square(counts, wanted / wanted.sum())[0] < 1e-12


def test_langevin_makes_the_alternation_biased_and_less_so_with_smaller_steps(seed: int) -> None:
    """Without coupling the height's variance is 1/(1 − ε/2); 60,000 numbers have a standard error of 0.0058."""
    energy = from_callable(lambda e: (e["height"] ** 2).sum(1) / 2 + 0 * e["spins"].sum(1), MIXED)
    bias = {}
    for step_size in (0.4, 0.2):
        kernel = Alternate({"height": ("langevin", {"step_size": step_size})})
        assert not kernel.exact
        generator = torch.Generator().manual_seed(seed)
        state = kernel.init(energy, MIXED.random(60_000, generator), generator=generator)
        for _ in range(25):
            state, _ = kernel.step(energy, state, generator=generator)
        bias[step_size] = float(state.x[:, 2].var()) - 1
        assert bias[step_size] == pytest.approx(1 / (1 - step_size / 2) - 1, abs=6 * 0.0058)
    assert bias[0.4] / bias[0.2] >= 1.5


def test_clamped_parts_of_a_mixed_state_stay(seed: int) -> None:
    energy, generator = from_callable(mixed_energy, MIXED), torch.Generator().manual_seed(seed)
    kernel, x = Alternate({"height": RealWalk()}), MIXED.random(200, generator)
    for clamp in (torch.tensor([True, False, False]), torch.tensor([False, False, True]).expand(200, 3)):
        state = kernel.init(energy, x, generator=generator, clamp=clamp)
        for _ in range(5):
            state, _ = kernel.step(energy, state, generator=generator, clamp=clamp)
        changed = (state.x != x).any(0)
        assert changed.tolist() == [not kept for kept in (clamp if clamp.dim() == 1 else clamp[0]).tolist()]


def test_sample_drives_a_mixed_model() -> None:
    energy = from_callable(mixed_energy, MIXED)
    kernel = samplers.create("alternate", kernels={"height": "langevin"})
    chains = de.sample(energy, kernel, n_chains=8, n_steps=40, seed=1)
    again = de.sample(energy, kernel, n_chains=8, n_steps=40, seed=1, x0=chains.state)
    assert again.x.shape == (32, 8, 3)
    product = samplers.create("sweep", kernels=["langevin", ("langevin", {"step_size": 0.1})])
    reals = from_callable(lambda x: (x**2).sum(1), Real(2))
    assert de.sample(reals, product, n_chains=4, n_steps=10, seed=1).x.isfinite().all()
    assert not product.exact


# -- what is kept, what it costs ------------------------------------------------------------------------------------


class Offsets(Energy):
    """Each chain has its own constant, so that a candidate which is taken for another chain's shows at once."""

    def __init__(self, space: de.spaces.Space, n_chains: int) -> None:
        super().__init__(space)
        self.inner, self.n_chains = PairwiseFeatures(space, seed=2), n_chains

    def forward(self, encoding: Tensor) -> Tensor:
        times, left = divmod(len(encoding), self.n_chains)
        assert left == 0, "chains are not evaluated equally often"
        return self.inner(encoding) + 1000.0 * torch.arange(self.n_chains).repeat_interleave(times)


@pytest.mark.parametrize("name", [name for name in samplers.names()
                                  if samplers.spec(name).spaces & {"Binary", "Categorical"}])
def test_every_kernel_batches_the_candidates_of_a_chain_together(name: str, seed: int) -> None:
    """What a member's law given the rest relies on: row r belongs to chain r // t."""
    space = Categorical(4, 3) if "Categorical" in samplers.spec(name).spaces else Binary(6)
    energy, generator, kernel = Offsets(space, 7), torch.Generator().manual_seed(seed), samplers.create(name)
    try:
        state = kernel.init(energy, space.random(7, generator), generator=generator)
    except CapabilityError as refusal:
        pytest.skip(f"refuses an energy without structure: {refusal}")
    start = state.x
    for _ in range(30):
        state, _ = kernel.step(energy, state, generator=generator)
        torch.testing.assert_close(state.energy, evaluate_energy(energy, state.x), rtol=0, atol=0.01)
    assert not torch.equal(start, state.x)


def test_a_member_that_cannot_be_told_apart_by_rows_is_refused() -> None:
    given = MemberGiven(from_callable(mixed_energy, MIXED), "spins", MIXED.random(4, torch.Generator()))
    with pytest.raises(ShapeError, match="same number of candidates"):
        given(torch.ones(6, 2))


def test_what_the_past_decides_is_kept_for_each_member_and_chain(seed: int) -> None:
    energy, generator = from_callable(lambda x: (x**2).sum(1), Real(1)), torch.Generator().manual_seed(seed)
    kernel = Sweep([RealWalk(), Mixture([RealWalk(), Repeat(RealWalk(), 3)])])
    state = kernel.init(energy, torch.zeros(500, 1), generator=generator)
    for _ in range(10):
        state, _ = kernel.step(energy, state, generator=generator)
    assert set(state.cache) == {"0.visits", "1.0.visits", "1.1.visits"} == kernel.history
    assert bool((state.cache["0.visits"] == 10).all())
    assert bool((state.cache["1.0.visits"] + state.cache["1.1.visits"] / 3 == 10).all())
    assert float(state.cache["1.0.visits"].std()) > 0


def test_scales_are_read_by_members_and_tuned_through_repeat(seed: int) -> None:
    weight = torch.randn(100, generator=torch.Generator().manual_seed(1))
    energy = from_callable(lambda e: e @ weight, Binary(100))
    kernel = Repeat("metropolis", 4)
    chains = de.sample(energy, kernel, n_chains=32, n_steps=500, burn_in=400, seed=seed)
    assert bool((chains.state.cache["log_scale"] > 0).all())
    assert kernel.target_acceptance == 0.234
    sweep, generator = Sweep([("metropolis", {"n_sites": 1}), "gibbs"]), torch.Generator().manual_seed(seed)
    flat = from_callable(lambda e: 0 * e.sum(1), Binary(100))
    state = Sweep(["metropolis"]).init(flat, torch.zeros(4000, 100), generator=generator)
    assert set(state.cache) == {"0.log_scale", "0.acceptance"} == Sweep(["metropolis"]).history
    state = state._replace(cache={"0.log_scale": torch.full((4000,), 3.0)})
    _, info = Sweep(["metropolis"]).step(flat, state, generator=generator)
    assert float(info.hamming.double().mean()) == pytest.approx(np.exp(3.0), rel=0.05)
    assert "0.log_scale" in sweep.history


def test_reported_evaluations_are_made() -> None:
    rows = []

    def fn(e: Tensor) -> Tensor:
        rows.append(len(e))
        return (e * e).sum(1)

    energy, generator = from_callable(fn, Binary(4)), torch.Generator()
    for kernel, calls, gradients in [(Sweep(["gwg", "metropolis"]), 4, 2), (Repeat("gwg", 3), 3, 3),
                                     (Mixture(["metropolis", "metropolis"]), 2, 0), (Sweep(["gibbs"]), 4, 0)]:
        state = kernel.init(energy, torch.zeros(3, 4), generator=generator)
        rows.clear()
        _, info = kernel.step(energy, state, generator=generator)
        assert sum(rows) == 3 * info.energy_calls == 3 * calls
        assert info.gradient_calls == gradients


def test_a_shared_choice_is_one_draw_with_the_weights_and_leaves_the_global_state(seed: int) -> None:
    """4,000 draws with weights 1 : 3 : 6; chains share the draw."""
    generator, before = torch.Generator().manual_seed(seed), torch.get_rng_state()
    drawn = [combine._draw_on_host((1, 3, 6), generator, torch.device("cpu")) for _ in range(4000)]
    statistical.assert_law(np.bincount(drawn, minlength=3), np.array([0.1, 0.3, 0.6]), false_fail=FAMILY / 40,
                           must_see=0.09)
    generator.manual_seed(seed)
    assert [combine._draw_on_host((1, 3, 6), generator, torch.device("cpu")) for _ in range(50)] == drawn[:50]
    assert torch.equal(before, torch.get_rng_state())
    flat = from_callable(lambda e: 0 * e.sum(1), Binary(50))
    kernel = Mixture([("metropolis", {"laziness": 0.0}), "gibbs"], choice="shared")
    state = kernel.init(flat, torch.zeros(300, 50), generator=generator)
    kinds = set()
    for _ in range(20):
        state, info = kernel.step(flat, state, generator=generator)
        ones = bool((info.hamming == 1).all())
        assert ones or bool((info.hamming > 5).all())
        kinds.add(ones)
    assert kinds == {True, False}


def test_no_chains_is_no_work() -> None:
    space, generator = Product({"a": Spin(2), "b": Categorical(1, 3)}), torch.Generator()
    energy = from_callable(lambda e: e["a"].sum(1) * e["b"][:, 0, 1], space)
    for name in ("sweep", "mixture", "repeat", "alternate"):
        kernel = samplers.create(name)
        state = kernel.init(energy, torch.zeros(0, 3, dtype=torch.int64), generator=generator)
        state, info = kernel.step(energy, state, generator=generator)
        assert state.x.shape == (0, 3)
        assert info.acceptance.shape == (0,)


def test_kernels_are_values_made_from_names_settings_and_kernels() -> None:
    one = samplers.create("sweep", kernels=["gibbs", ("gwg", {"balancing": "barker"})])
    assert one == Sweep((samplers.Gibbs(), samplers.GibbsWithGradients(balancing="barker")))
    assert len({one, Sweep(one.kernels)}) == 1
    pair = Alternate({"a": "gwg"})
    assert pair == Alternate((("a", samplers.GibbsWithGradients()),))
    assert "GibbsWithGradients" in repr(pair)


@pytest.mark.parametrize(("name", "settings", "word"), [
    ("sweep", {"kernels": []}, "`kernels`"), ("sweep", {"kernels": "gibbs"}, "`kernels`"),
    ("sweep", {"kernels": [3]}, "a registered name or"), ("mixture", {"weights": [1.0]}, "`weights`"),
    ("mixture", {"weights": [1, 0]}, "`weights`"), ("mixture", {"weights": ["a", 1]}, "`weights`"),
    ("mixture", {"choice": "both"}, "`choice`"), ("repeat", {"n": 0}, "`n`"), ("repeat", {"kernel": 4}, "`kernel`"),
    ("alternate", {"kernels": "gibbs"}, "`kernels`"), ("alternate", {"kernels": {1: "gibbs"}}, "`kernels`"),
    ("sweep", {"kernels": [("gwg", {"balance": "barker"})]}, "balance")])
def test_wrong_settings_are_refused(name: str, settings: dict, word: str) -> None:
    with pytest.raises(SettingError, match=word):
        samplers.create(name, **settings)


def test_wrong_members_are_refused_before_any_step() -> None:
    energy, x = from_callable(mixed_energy, MIXED), MIXED.random(2, torch.Generator())
    with pytest.raises(CapabilityError, match="real member 'height'; got none"):
        Alternate().init(energy, x, generator=torch.Generator())
    with pytest.raises(SettingError, match="got heigth"):
        Alternate({"heigth": "langevin"}).init(energy, x, generator=torch.Generator())
    with pytest.raises(CapabilityError, match="Real"):
        Alternate({"height": "langevin", "spins": "langevin"}).init(energy, x, generator=torch.Generator())
    with pytest.raises(CapabilityError, match="Product"):
        Alternate().init(from_callable(lambda e: e.sum(1), Binary(2)), torch.zeros(1, 2), generator=torch.Generator())
    with pytest.raises(CapabilityError, match="discrete"):
        Sweep(["gibbs"]).init(from_callable(lambda e: e.sum(1), Real(2)), torch.zeros(1, 2),
                              generator=torch.Generator())
    with pytest.raises(RegistryError, match="Did you mean 'gibbs'"):
        Sweep(["gibs"])


# -- planted bugs ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stale_cache() -> Iterator[None]:
    """A cached gradient is kept although another member has moved x."""
    with (mock.patch.object(gwg.GibbsWithGradients, "caches_x", False),
          mock.patch.object(gwg.GibbsWithGradients, "history", frozenset({"deltas"}))):
        yield


@contextlib.contextmanager
def choice_by_the_state() -> Iterator[None]:
    original = Mixture.step

    def step(self: Mixture, energy: Any, state: ChainState, **options: Any) -> tuple[ChainState, StepInfo]:
        mine = (state.x.flatten(1).sum(1) > 0).long()
        with mock.patch.object(combine, "draw_move", return_value=(mine, mine > -1)):
            return original(self, energy, state, **options)

    with mock.patch.object(Mixture, "step", step):
        yield


@contextlib.contextmanager
def energy_of_the_start() -> Iterator[None]:
    """Chains take the states of their member and keep the energy they had."""
    def states_only(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
        return old if new.dim() == 1 else select(chosen, new, old)

    with mock.patch.object(combine, "select", states_only):
        yield


@contextlib.contextmanager
def stale_rest() -> Iterator[None]:
    """A member's law given the rest as it was one turn ago."""
    last: dict[str, Tensor] = {}

    class Stale(MemberGiven):
        def __init__(self, energy: Any, name: str, x: Tensor) -> None:
            old = last.get("x", x)
            super().__init__(energy, name, old if old.shape == x.shape else x)
            last["x"] = x

    with mock.patch.object(alternate, "MemberGiven", Stale):
        yield


@contextlib.contextmanager
def candidates_of_other_chains() -> Iterator[None]:
    def tiled(self: MemberGiven, n_rows: int) -> Tensor:
        return self._packed.repeat(n_rows // max(1, len(self._packed)), 1)

    with mock.patch.object(MemberGiven, "_rows", tiled):
        yield


@contextlib.contextmanager
def clamp_lost_on_the_way() -> Iterator[None]:
    original = alternate._part
    with mock.patch.object(alternate, "_part", lambda *args: (original(*args)[0], None)):
        yield


PAIR = Product({"a": Binary(2), "b": Categorical(1, 3)})


@pytest.mark.mutants
@pytest.mark.parametrize(("plant", "sampler", "settings", "space", "killer"), [
    (stale_cache, "sweep", {"kernels": ["metropolis", "gwg"]}, Spin(3), "law"),
    (choice_by_the_state, "mixture", {"kernels": ["gibbs", "metropolis"]}, Spin(3), "law"),
    (energy_of_the_start, "mixture", {}, Spin(3), "energy of x"),
    (stale_rest, "alternate", {}, PAIR, "law|energy of x"),
    (candidates_of_other_chains, "alternate", {}, PAIR, "law|energy of x"),
    (clamp_lost_on_the_way, "alternate", {}, PAIR, "clamped sites"),
])
def test_planted_bugs_are_found(plant: Callable[[], Any], sampler: str, settings: dict, space: Any,
                                killer: str) -> None:
    with plant(), pytest.raises(ConformanceError, match=rf"failed: [^\n]*({killer})"):
        check_sampler(sampler, targets=light(space), **settings)
