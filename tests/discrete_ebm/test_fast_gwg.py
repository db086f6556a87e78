"""The compiled step of Gibbs-with-Gradients: the same law as the reference, kept weights and all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_ebm import samplers
from discrete_ebm.energies import Ising, MLPEnergy, from_callable
from discrete_ebm.errors import CapabilityError, ConformanceError, SettingError
from discrete_ebm.samplers import fast
from discrete_ebm.samplers.deltas import flip_estimates
from discrete_ebm.samplers.fast import gwg as glue
from discrete_ebm.samplers.single_site import SingleSite
from discrete_ebm.spaces import Binary, Categorical, Ordinal, Product, Spin
from discrete_ebm.testing import check_sampler, default_targets
from tests import cases, reference, statistical

pytest.importorskip("numba")
from discrete_ebm.samplers.fast import _gwg as compiled
from discrete_ebm.samplers.fast._math import exp_minus

BALANCING = sorted(compiled.KINDS)
CASES = {"binary": lambda: cases.net("binary"), "spin": lambda: cases.net("spin"),
         "ragged": lambda: cases.net("ragged"), "ordinal": lambda: cases.net("ordinal")}


def arguments(space: Any) -> tuple[int, int, np.ndarray]:
    """k, mirror, legal as the compiled functions take them."""
    k = space.k_max
    legal = space.value_mask.reshape(-1).numpy() if k > 2 else np.zeros(0, bool)
    return k, 0 if space.name == "Spin" else 1, legal


def proposal_law(case: Any, beta: float, balancing: str, dtype: Any, n: int, seed: int,
                 free: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From every state ``n`` times: which state was drawn (S, n), its log q, and log q of all moves (S, M)."""
    n_states = len(case.table)
    rows = np.repeat(np.arange(n_states), n)
    kernel = samplers.create("gwg", exact_deltas=False)
    x = case.x(rows)
    deltas = kernel.init(case.energy, case.x(np.arange(n_states)), generator=torch.Generator()).cache["deltas"]
    deltas = deltas.numpy().astype(dtype)[rows]
    codes = x.reshape(len(x), -1).numpy()
    k, mirror, legal = arguments(case.space)
    mask = np.zeros((0, 0), bool) if free is None else free
    sums = np.empty((len(x), -(-deltas.shape[1] // compiled.BLOCK)))
    tops, y = np.empty(len(x), dtype), np.empty_like(codes)
    move, log_q = np.empty(len(x), np.int64), np.empty(len(x))
    kind, betas = compiled.KINDS[balancing], np.full(1, beta)
    compiled.weigh(codes, deltas, betas, mask, legal, k, kind, 0, len(x), sums, tops)
    compiled.propose(codes, deltas, betas, mask, legal, k, mirror, kind, np.array([seed, 5], np.uint64), 0, len(x),
                     sums, tops, y, move, log_q)
    reached = case.rows(torch.from_numpy(y).view(x.shape))
    return reached.reshape(n_states, n), log_q.reshape(n_states, n), rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("balancing", BALANCING)
def test_the_probability_said_is_the_references_and_that_drawn_too(balancing: str, dtype: Any, seed: int) -> None:
    """4,000 draws a state; said: 2e-6 relative in float32, 1e-12 in float64. Drawn: false-fail 1e-9, sees 0.12."""
    for name, make in CASES.items():
        case = make()
        for beta in (0.5, 1.7):
            wanted = reference.informed_proposal(case.taylor, case.radices, beta, balancing)
            reached, log_q, _ = proposal_law(case, beta, balancing, dtype, 4000, seed)
            said = np.exp(log_q)
            theirs = np.take_along_axis(wanted, reached, 1)
            assert np.abs(said / theirs - 1).max() <= (2e-6 if dtype == np.float32 else 1e-12), name
            counts = np.stack([np.bincount(row, minlength=len(wanted)) for row in reached])
            statistical.assert_rows_match(counts, wanted, false_fail=1e-9, must_see=0.12)


def test_the_polynomials_are_the_exponential() -> None:
    from numba import njit

    @njit
    def each(sizes: Any, out: Any) -> None:
        for i in range(len(sizes)):
            out[i] = exp_minus(sizes[i])

    for dtype, limit, error in ((np.float32, 87.0, 3e-7), (np.float64, 700.0, 2e-15)):
        sizes = np.concatenate([np.linspace(0, limit, 20_001), [limit + 5, 1e30]]).astype(dtype)
        out = np.empty_like(sizes)
        each(sizes, out)
        exact = np.exp(-np.minimum(sizes.astype(np.float64), limit))
        assert np.abs(out / exact - 1).max() <= error
        assert np.allclose(exp_minus(sizes), exact, rtol=error, atol=0)


@pytest.mark.parametrize("balancing", BALANCING)
@pytest.mark.parametrize("name", sorted(CASES))
def test_both_forms_have_the_references_matrix(name: str, balancing: str, seed: int) -> None:
    """2,000 steps from every state, two betas and a clamp; false-fail 1e-9 each, sees 0.15."""
    case = CASES[name]()
    n_states = len(case.table)
    for exact in (False, True) if hasattr(case.energy, "flip_deltas") else (False,):
        kernel = samplers.create("gwg", balancing=balancing, exact_deltas=exact, implementation="fused")
        table = case.exact if exact else case.taylor
        for beta, free in ((1.0, None), (0.6, None), (1.0, [0, 2])):
            rows = np.repeat(np.arange(n_states), 2000)
            clamp = None if free is None else torch.tensor(
                [i not in free for i in range(len(case.radices))]).reshape(case.space.shape)
            generator = torch.Generator().manual_seed(seed)
            state = kernel.init(case.energy, case.x(rows), generator=generator, clamp=clamp)
            state, _ = kernel.step(case.energy, state, generator=generator, beta=beta, clamp=clamp)
            counts = np.zeros((n_states, n_states), int)
            np.add.at(counts, (rows, case.rows(state.x)), 1)
            wanted = reference.gwg(case.table, table, case.radices, beta, balancing, kernel.laziness, free)
            statistical.assert_rows_match(counts, wanted, false_fail=1e-9, must_see=0.16)


@pytest.mark.parametrize("space", ["Binary", "Spin", "Categorical", "Ordinal"])
def test_the_compiled_step_passes_the_conformance_suite(space: str, seed: int) -> None:
    for exact in (False, "auto"):
        check_sampler("gwg", seed=seed, targets=default_targets(space, 0), implementation="fused", exact_deltas=exact)


def run(kernel: Any, energy: Any, n_steps: int, *, chains: int = 5, seed: int = 3, beta: Any = 1.0,
        forget: bool = False) -> Any:
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, energy.space.random(chains, generator), generator=generator)
    for _ in range(n_steps):
        if forget:
            glue._KNOWN.clear()
        state, _ = kernel.step(energy, state, generator=generator, beta=beta)
    return state


@pytest.mark.parametrize("space", [Binary(150), Spin((7, 11)), Categorical(40, 5), Categorical(30, [2, 4] * 15),
                                   Ordinal(33, [0.0, 0.5, 2.0]), Categorical(80, 2)], ids=str)
@pytest.mark.parametrize("balancing", ["sqrt", "barker"])
def test_kept_weights_change_nothing_to_the_bit(space: Any, balancing: str) -> None:
    energy = MLPEnergy(space, (16,), seed=1)
    kernel = samplers.create("gwg", balancing=balancing, implementation="fused")
    one, two = run(kernel, energy, 30), run(kernel, energy, 30, forget=True)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.cache["deltas"], two.cache["deltas"])
    assert torch.equal(one.energy, two.energy)
    fresh = kernel.init(energy, one.x, generator=torch.Generator())
    torch.testing.assert_close(fresh.cache["deltas"], one.cache["deltas"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fresh.energy, one.energy, rtol=1e-4, atol=1e-5)


def test_kept_weights_are_not_taken_for_another_beta_mask_or_changed_deltas() -> None:
    energy, kernel = MLPEnergy(Binary(90), (16,), seed=1), samplers.create("gwg", implementation="fused")
    state, mask = run(kernel, energy, 3), torch.arange(90) < 80
    for change in ({"beta": 2.0}, {"beta": torch.linspace(0.5, 2, 5)}, {"clamp": mask}):
        after = []
        for forget in (False, True):
            again = run(kernel, energy, 3)
            if forget:
                glue._KNOWN.clear()
            after.append(kernel.step(energy, again, generator=torch.Generator().manual_seed(9), **change)[0])
        assert torch.equal(after[0].x, after[1].x)
        if "clamp" in change:
            assert torch.equal(after[0].x[:, mask], state.x[:, mask])
    state = run(kernel, energy, 3)
    state.cache["deltas"].zero_()
    known = glue._KNOWN[id(state.cache["deltas"])]
    assert known.version != state.cache["deltas"]._version


def test_nothing_is_kept_for_states_that_are_gone() -> None:
    glue._KNOWN.clear()
    run(samplers.create("gwg", implementation="fused"), MLPEnergy(Binary(20), (4,)), 20)
    assert not glue._KNOWN


def test_the_old_state_is_left_alone_and_a_step_repeats() -> None:
    energy, kernel = MLPEnergy(Spin(70), (16,), seed=1), samplers.create("gwg", implementation="fused")
    state = run(kernel, energy, 4)
    copies = state.x.clone(), state.energy.clone(), state.cache["deltas"].clone()
    one, info = kernel.step(energy, state, generator=torch.Generator().manual_seed(1))
    two, _ = kernel.step(energy, state, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one.x, two.x)
    assert torch.equal((one.x != state.x).sum(1), info.hamming)
    for before, now in zip(copies, (state.x, state.energy, state.cache["deltas"]), strict=True):
        assert torch.equal(before, now)


def test_a_chain_does_the_same_on_any_number_of_threads() -> None:
    energy, kernel = MLPEnergy(Binary(3000), (4,), seed=1), samplers.create("gwg", implementation="fused")
    found, threads = [], torch.get_num_threads()
    try:
        for n in (1, 3):
            with mock.patch.object(torch, "get_num_threads", lambda n=n: n):
                found.append(run(kernel, energy, 3, chains=70).x)
    finally:
        assert torch.get_num_threads() == threads
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision_are_taken(dtype: torch.dtype) -> None:
    energy = MLPEnergy(Binary(12), (8,), seed=1).to(dtype)
    state = run(samplers.create("gwg", implementation="fused"), energy, 5)
    assert state.cache["deltas"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert state.energy.isfinite().all()


def test_forbidden_states_are_never_entered_and_nan_is_counted() -> None:
    kernel, generator = samplers.create("gwg", implementation="fused"), torch.Generator().manual_seed(0)

    def walls(e: Tensor) -> Tensor:
        inside = (e.sum(1) <= 2).to(e.dtype)
        return e.sum(1) + torch.where(inside.bool(), 0.0, torch.inf)

    def broken(e: Tensor) -> Tensor:
        return e.sum(1) + torch.where(e.sum(1) > 2, torch.nan, 0.0)

    for fn, faults in ((walls, False), (broken, True)):
        energy = from_callable(fn, Binary(6))
        state = kernel.init(energy, torch.zeros(40, 6, dtype=torch.int8), generator=generator)
        counted = 0
        for _ in range(60):
            state, info = kernel.step(energy, state, generator=generator)
            counted += int(info.non_finite)
            assert int(state.x.sum(1).max()) <= 2
            assert info.acceptance.isfinite().all()
        assert bool(counted) == faults


def test_all_clamped_and_nobody_at_all() -> None:
    energy, kernel = MLPEnergy(Binary(5), (4,)), samplers.create("gwg", implementation="fused")
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(energy, energy.space.random(3, generator), generator=generator)
    after, info = kernel.step(energy, state, generator=generator, clamp=torch.ones(5, dtype=torch.bool))
    assert torch.equal(after.x, state.x)
    assert not info.accepted.any()
    assert (info.acceptance == 0).all()
    empty = kernel.init(energy, torch.zeros(0, 5, dtype=torch.int8), generator=generator)
    after, info = kernel.step(energy, empty, generator=generator)
    assert info.hamming.shape == (0,)


def test_where_there_is_no_compiled_form_a_sentence_says_so() -> None:
    with pytest.raises(SettingError, match="`implementation` must not be 'fused' with n_flips"):
        samplers.create("gwg", n_flips=2, implementation="fused")
    with pytest.raises(SettingError, match="`implementation` must be one of"):
        samplers.create("gwg", implementation="fast")
    space = Product({"a": Spin(2), "b": Categorical(1, 3)})
    kernel = samplers.create("gwg", implementation="fused")
    with pytest.raises(CapabilityError, match="Use 'auto'"):
        kernel.init(MLPEnergy(space, (4,)), space.enumerate()[:2], generator=torch.Generator())


def test_auto_takes_it_and_the_switch_turns_it_off() -> None:
    energy, kernel = MLPEnergy(Binary(30), (8,), seed=1), samplers.create("gwg")
    fused, reference_form = (run(samplers.create("gwg", implementation=form), energy, 20).x
                             for form in ("fused", "reference"))
    assert torch.equal(run(kernel, energy, 20).x, fused)
    with fast.set_fused(False):
        assert torch.equal(run(kernel, energy, 20).x, reference_form)


@pytest.mark.parametrize("space", [Binary((3, 5)), Spin(9)], ids=str)
def test_flips_estimated_without_a_table_are_those_of_the_table_to_the_bit(space: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = space.random(20, generator)
    slope = torch.randn(x.shape, generator=generator)
    table = SingleSite(space).to_moves(space.taylor_deltas(x, slope), x)
    assert torch.equal(flip_estimates(space, x, slope), table)


# -- planted bugs -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(name: str, place: int, function: Any) -> Iterator[None]:
    """An argument of a compiled function replaced."""
    original = getattr(compiled, name)

    def call(*args: Any) -> None:
        given = list(args)
        given[place] = function(given[place])
        original(*given)

    with mock.patch.object(compiled, name, call):
        yield


PLANTS = {
    "gradient sign flipped": lambda: changed("decide", 0, lambda source: -source),
    "Hastings term dropped on the way out": lambda: changed("decide", 18, lambda log_q: 0 * log_q),
    "beta ignored in the acceptance": lambda: changed("decide", 5, lambda betas: np.ones(1)),
    "clamp ignored": lambda: changed("propose", 3, lambda free: np.zeros((0, 0), bool)),
    "one stream for all chains": lambda: changed("decide", 12, lambda seeds: np.zeros(2, np.uint64)),
}


@pytest.mark.mutants
@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_bug_is_found(name: str) -> None:
    """A gradient of the wrong sign still gives the right law: it shows in the deltas that are kept."""
    energy, targets = MLPEnergy(Binary(9), (8,), seed=2), default_targets("Binary", 0)[:2]
    if name == "gradient sign flipped":
        with PLANTS[name]():
            state = run(samplers.create("gwg", implementation="fused"), energy, 40)
        fresh = samplers.create("gwg").init(energy, state.x, generator=torch.Generator())
        assert not torch.allclose(fresh.cache["deltas"], state.cache["deltas"], atol=1e-3)
        return
    with PLANTS[name](), pytest.raises(ConformanceError):
        check_sampler("gwg", targets=targets, implementation="fused", exact_deltas=False)


def test_an_ising_model_by_exact_deltas_has_the_reference_chain_of_energies(seed: int) -> None:
    """Kept energies are those of the states, after 200 steps on a lattice."""
    energy = Ising.lattice((6, 6), 0.4)
    state = run(samplers.create("gwg", implementation="fused"), energy, 200, chains=20, seed=seed)
    torch.testing.assert_close(state.energy, energy(energy.space.encode(state.x)).detach(), rtol=1e-4, atol=1e-3)


def test_weights_kept_of_another_chain_would_show() -> None:
    energy, kernel = MLPEnergy(Binary(150), (16,), seed=1), samplers.create("gwg", implementation="fused")
    original = glue._remember

    def mixed_up(deltas: Tensor, betas: Any, mask: Any, kind: int, sums: Any, tops: Any) -> None:
        original(deltas, betas, mask, kind, sums[::-1].copy(), tops)

    with mock.patch.object(glue, "_remember", mixed_up):
        wrong = run(kernel, energy, 30)
    assert not torch.equal(wrong.x, run(kernel, energy, 30).x)
