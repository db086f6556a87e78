"""The shipped molecular step against the matrices of its moves, and what every kernel promises of its state."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch
from rdkit import Chem

from discrete_ebm.errors import SettingError
from discrete_ebm.samplers import factored
from graph_ebm.chem.write import to_mols
from graph_ebm.datasets import load
from graph_ebm.moves import MolecularKernel, build_kernel, mine_moves
from graph_ebm.moves import _fast as moves_fast
from graph_ebm.moves.shortlist import ShortlistKernel
from graph_ebm.space import MolecularSpace
from tests.graph_ebm.exact_moves import (
    TableEnergy,
    kernel,
    matrix,
    noisy,
    proposals,
    random_energy,
    target,
    walk,
)
from tests.graph_ebm.small_space import Clamped, index_of, molecules
from tests.statistical import assert_law, assert_rows_match

NAMES = kernel().names
FALSE_FAIL = 1e-6  # of each test below, over all of its rows (Holm)
M = len(molecules()[1])


@lru_cache(maxsize=32)
def _matrix(index: int, delayed: bool = False) -> np.ndarray:
    energy = random_energy()
    return matrix(proposals(kernel().moves[index]), energy, surrogate=noisy(energy) if delayed else None)


def _energy(delayed: bool) -> TableEnergy:
    table = random_energy()
    return TableEnergy(table, noisy(table) if delayed else None)


def _counts(rows: np.ndarray, groups: int = 1) -> np.ndarray:
    return np.stack([np.bincount(part, minlength=M) for part in np.split(rows, groups)])


def _lively(p: np.ndarray, count: int) -> np.ndarray:
    """Rows to start from: the one that moves most, and others spread over those that move."""
    moving = np.flatnonzero(np.diag(p) < 0.8)
    order = moving[np.argsort(np.diag(p)[moving])]
    return order[np.linspace(0, len(order) - 1, count).astype(int)]


@pytest.mark.parametrize("delayed", [False, True], ids=["one stage", "delayed"])
def test_one_step_of_each_move_draws_its_row_of_the_matrix(delayed: bool, seed: int) -> None:
    """n = 8,000 draws from each of 3 molecules a move, one Holm family; sees a total variation of 0.09 in any row."""
    n, counts, rows = 8_000, [], []
    for index, move in enumerate(kernel().moves):
        p = _matrix(index, delayed)
        starts = _lively(p, 3)
        ends, _ = walk(MolecularKernel((move,), delayed=delayed), _energy(delayed), starts.repeat(n), 1, seed + index)
        counts.append(_counts(ends, 3))
        rows.append(p[starts])
    assert_rows_match(np.concatenate(counts), np.concatenate(rows), false_fail=FALSE_FAIL, must_see=0.09)


def test_the_form_that_devices_run_draws_the_same_rows(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Without compiled searches, and with dead ends masked where the CPU drops them; limits as above."""

    def mask(self: factored._Live, able: torch.Tensor) -> factored._Live:
        return self._replace(legal=able if self.legal is None else self.legal & able)

    monkeypatch.setattr(factored._Live, "keep", mask)
    monkeypatch.setattr(moves_fast, "AVAILABLE", False)
    n, counts, rows = 8_000, [], []
    for index, move in enumerate(kernel().moves):
        p = _matrix(index)
        starts = _lively(p, 3)
        ends, _ = walk(MolecularKernel((move,), delayed=False), _energy(False), starts.repeat(n), 1, seed + index)
        counts.append(_counts(ends, 3))
        rows.append(p[starts])
    assert_rows_match(np.concatenate(counts), np.concatenate(rows), false_fail=FALSE_FAIL, must_see=0.09)


@pytest.mark.parametrize("delayed", [False, True], ids=["one stage", "delayed"])
def test_the_law_is_kept_over_one_and_twenty_steps(delayed: bool, seed: int) -> None:
    """40,000 independent exact starts; sees a total variation of 0.06. Tests of mutants show what that is worth."""
    k, energy, law = kernel(delayed=delayed), _energy(delayed), target(random_energy())
    rng = np.random.default_rng(seed)
    for n_steps in (1, 20):
        ends, kinds = walk(k, energy, rng.choice(M, size=40_000, p=law), n_steps, seed + n_steps)
        assert_law(_counts(ends)[0], law, false_fail=FALSE_FAIL / 2, must_see=0.06)
    assert len(set(kinds)) > 7, "the twenty steps should use most moves"


def test_several_steps_from_one_molecule_follow_the_product_of_the_matrices(seed: int) -> None:
    """Schedule and kernels together: the law after 4 steps of 3 schedules, n = 20,000 each."""
    k, energy, start, n = kernel(delayed=False), _energy(False), int(np.argmax(target(random_energy()))), 20_000
    counts, rows = [], []
    for repeat in range(3):
        ends, kinds = walk(k, energy, np.full(n, start), 4, seed + 100 * repeat)
        row = np.eye(M)[start]
        for kind in kinds:
            row = row @ _matrix(kind)
        counts.append(_counts(ends)[0])
        rows.append(row.clip(0))
    assert_rows_match(np.stack(counts), np.stack(rows), false_fail=FALSE_FAIL, must_see=0.09)


def test_each_chain_has_its_own_beta(seed: int) -> None:
    """Exact starts at β = 0.3 and 2, side by side in one batch of 2 × 20,000."""
    table, n, rng = random_energy(), 20_000, np.random.default_rng(seed)
    betas = (0.3, 2.0)
    start = np.concatenate([rng.choice(M, size=n, p=target(table, beta)) for beta in betas])
    beta = torch.tensor(betas, dtype=torch.float64).repeat_interleave(n)
    for delayed in (False, True):
        ends, _ = walk(kernel(delayed=delayed), _energy(delayed), start, 15, seed, beta)
        laws = np.stack([target(table, value) for value in betas])
        assert_rows_match(_counts(ends, 2), laws, false_fail=FALSE_FAIL / 2, must_see=0.08)


def test_the_law_under_a_clamp_tells_clamped_atoms_apart(seed: int) -> None:
    """A kept C–C with everything else free: 20,000 exact starts, 30 steps, 442 states."""
    reference = torch.zeros(4, 4, dtype=torch.int8)
    reference[0, 0] = reference[1, 1] = reference[0, 1] = reference[1, 0] = 1
    clamp = torch.zeros(4, 4, dtype=torch.bool)
    clamp[:2, :2] = True
    world, table = Clamped(reference, clamp, 2), random_energy()
    law = np.exp(-table[world.free]) / world.automorphisms
    law /= law.sum()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(torch.tensor(law), 20_000, replacement=True, generator=generator)
    k, energy, one = kernel(), _energy(True), clamp.expand(20_000, 4, 4)
    state = k.init(energy, world.x[rows], generator=generator)
    for step in range(30):  # a mask for all chains, or one each
        state, _ = k.step(energy, state, generator=generator, clamp=clamp if step % 2 else one)
    counts = np.bincount(world.index_of(state.x), minlength=len(law))
    assert_law(counts, law, false_fail=FALSE_FAIL, must_see=0.09)


def test_delayed_acceptance_evaluates_only_what_the_surrogate_lets_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = molecules()[0][torch.tensor(rng.choice(M, size=500, p=target(random_energy())))]
    for delayed in (False, True):
        k, energy = kernel(delayed=delayed), _energy(delayed)
        generator = torch.Generator().manual_seed(seed)
        state = k.init(energy, start, generator=generator)
        energy.calls, total, said = 0, 0, 0.0
        for _ in range(40):
            state, info = k.step(energy, state, generator=generator)
            said += info.energy_calls
            total += int(info.accepted.sum())
            assert bool(((info.acceptance >= 0) & (info.acceptance <= 1)).all())
            assert torch.equal(info.hamming > 0, info.accepted & (info.hamming > 0))
            assert int(info.non_finite) == 0
        assert said * 500 == pytest.approx(energy.calls)
        assert total <= energy.calls <= 40 * 500
        if delayed:
            assert energy.calls < 0.35 * 40 * 500


def test_same_seed_same_bits_and_a_stopped_chain_resumes_to_the_bit(seed: int) -> None:
    k, energy, start = kernel(), _energy(True), molecules()[0][::4]
    ends = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(seed)
        state = k.init(energy, start, generator=generator)
        for _ in range(12):
            state, _ = k.step(energy, state, generator=generator)
        ends.append(state)
    assert torch.equal(ends[0].x, ends[1].x)
    assert torch.equal(ends[0].energy, ends[1].energy)

    generator = torch.Generator().manual_seed(seed)
    state = k.init(energy, start, generator=generator)
    for _ in range(5):
        state, _ = k.step(energy, state, generator=generator)
    saved = [part.clone() for part in (state.x, state.energy, state.cache["surrogate"], state.step)]
    numbers = generator.get_state()
    fresh = torch.Generator()
    fresh.set_state(numbers)
    state = state._replace(x=saved[0], energy=saved[1], cache={"surrogate": saved[2]}, step=saved[3])
    for _ in range(7):
        state, _ = k.step(energy, state, generator=fresh)
    assert torch.equal(state.x, ends[0].x)
    assert torch.equal(state.energy, ends[0].energy)
    assert torch.equal(state.cache["surrogate"], ends[0].cache["surrogate"])


def test_one_chain_moves_and_the_start_is_never_modified(seed: int) -> None:
    k, energy = kernel(), _energy(True)
    start = molecules()[0][100:101].clone()
    before, generator = start.clone(), torch.Generator().manual_seed(seed)
    state = k.init(energy, start, generator=generator)
    assert state.x.data_ptr() != start.data_ptr()
    seen = set()
    for _ in range(60):
        old = state.x
        kept = old.clone()
        state, _ = k.step(energy, state, generator=generator)
        assert torch.equal(old, kept), "a step must not write into the state that it was given"
        seen.add(int(index_of(state.x)[0]))
    assert len(seen) > 3
    assert torch.equal(start, before)


def test_global_random_numbers_are_neither_used_nor_disturbed(seed: int) -> None:
    k, energy = kernel(), _energy(True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(seed)
    state = k.init(energy, molecules()[0][:50], generator=generator)
    for _ in range(10):
        state, _ = k.step(energy, state, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_run_in_inference_mode(seed: int) -> None:
    k, energy = kernel(), _energy(True)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(seed)
        state = k.init(energy, molecules()[0], generator=generator)
        for _ in range(12):
            state, _ = k.step(energy, state, generator=generator)
    plain = torch.Generator().manual_seed(seed)
    other = k.init(energy, molecules()[0], generator=plain)
    for _ in range(12):
        other, _ = k.step(energy, other, generator=plain)
    assert torch.equal(state.x, other.x)


def test_a_nan_energy_is_never_entered_and_is_counted(seed: int) -> None:
    table = random_energy()
    table[::3] = np.nan
    energy, k = TableEnergy(table), kernel(delayed=False)
    generator = torch.Generator().manual_seed(seed)
    state = k.init(energy, molecules()[0][1::3], generator=generator)
    seen = 0
    for _ in range(20):
        state, info = k.step(energy, state, generator=generator)
        seen += int(info.non_finite)
    assert bool(state.energy.isfinite().all())
    assert seen > 50


@pytest.mark.parametrize("delayed", [False, True])
def test_half_precision_energies_are_compared_in_float32(delayed: bool, seed: int) -> None:
    """Energies near 1,000 have a spacing of 4 nats in bfloat16: their differences must be those of float32."""

    class Half(TableEnergy):
        def state_energy(self, x: torch.Tensor) -> torch.Tensor:
            return (super().state_energy(x) + 1000).bfloat16()

        def surrogate(self, x: torch.Tensor) -> torch.Tensor:
            return self.state_energy(x)

    energy, k = Half(random_energy()), kernel(delayed=delayed)
    generator = torch.Generator().manual_seed(seed)
    state = k.init(energy, molecules()[0], generator=generator)
    beta = torch.full((len(state.x),), 0.1234567)
    for _ in range(10):
        state, info = k.step(energy, state, generator=generator, beta=beta)
        assert state.energy.dtype == info.acceptance.dtype == torch.float32
    assert torch.equal(state.energy, energy.state_energy(state.x).float())
    small = ShortlistKernel(k, n_tries=2, scored_by="surrogate")
    state, _ = small.step(energy, small.init(energy, state.x, generator=generator), generator=generator, beta=beta)
    assert torch.equal(state.energy, energy.state_energy(state.x).float())


@pytest.mark.parametrize("weights", [(1.0,), (-1.0, *[1.0] * 14), (0.0,) * 15])
def test_weights_that_are_no_mixture_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="`weights` must be 15 non-negative"):
        MolecularKernel(kernel().moves, weights)


def test_the_schedule_uses_each_move_as_often_as_its_weight_says(seed: int) -> None:
    """n = 40,000 places in the schedule; χ² over 15 moves, false-failure budget 5e-10."""
    k = kernel()
    kinds = np.bincount([k.kind(seed, step) for step in range(40_000)], minlength=15)
    assert_law(kinds, np.array(k.weights) / sum(k.weights), false_fail=FALSE_FAIL, must_see=0.03)


# -- every sample is a molecule (no energy to hold anything back) ----------------------------------------------------


class _Flat:
    """E = 0: all moves are used freely, rejected by nothing but their own Hastings ratios."""

    def state_energy(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x))


@dataclass(frozen=True)
class _Walk:
    """Where chains of a free walk came: ``moved`` is the share that is not where it began, ``broken`` the SMILES of
    what RDKit does not accept or finds in several pieces, ``speed`` chain steps a second."""

    space: MolecularSpace
    x: torch.Tensor
    moved: float
    broken: list[str]
    speed: float


def _wander(name: str, max_atoms: int, n_chains: int, n_steps: int, seed: int) -> _Walk:
    data = load(name, min(n_chains, 2000), max_atoms=max_atoms)
    space = data.space
    k = build_kernel(mine_moves(data.x, space.vocabulary.valence_table(torch.device("cpu")).long()))
    generator = torch.Generator().manual_seed(seed)
    start = data.x[torch.arange(n_chains) % len(data)]
    state, began = k.init(_Flat(), start, generator=generator), time.monotonic()
    for _ in range(n_steps):
        state, _ = k.step(_Flat(), state, generator=generator)
    speed = n_chains * n_steps / (time.monotonic() - began)
    moved = float((state.x != start).flatten(1).any(1).float().mean())
    broken = [
        Chem.MolToSmiles(mol)
        for mol in to_mols(state.x, space.vocabulary)
        if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE
        or len(Chem.GetMolFrags(mol)) != 1
    ]
    return _Walk(space, state.x, moved, broken, speed)


@pytest.mark.parametrize(("name", "max_atoms"), [("qm9-sample", 9), ("zinc-sample", 38)])
def test_a_free_walk_over_all_moves_meets_molecules_only(name: str, max_atoms: int, seed: int) -> None:
    walk = _wander(name, max_atoms, 1_000, 120, seed)
    walk.space.validate(walk.x)
    assert bool(walk.space.connected(walk.x).all())
    assert walk.broken == []
    assert walk.moved > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "max_atoms"), [("qm9-sample", 9), ("zinc-sample", 38), ("moses-sample", 27)])
def test_ten_thousand_samples_of_a_free_walk_are_molecules(name: str, max_atoms: int, seed: int) -> None:
    walk = _wander(name, max_atoms, 10_000, 200, seed)
    print(f"{name}: {walk.speed:,.0f} chain steps/s")
    walk.space.validate(walk.x)
    assert bool(walk.space.connected(walk.x).all())
    assert walk.broken == []
    assert walk.moved > 0.9
