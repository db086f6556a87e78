"""First-order estimates: exact where they must be, honest ranks, and slots that stay put."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from discrete_ebm.energies.base import Energy, evaluate_energy
from discrete_ebm.errors import SettingError, ShapeError
from graph_ebm.energies import MolecularEnergy, RelationalEnergy
from graph_ebm.moves.taylor import _draw, rank_correlation_by_move, slots_kept, spearman, taylor_deltas
from graph_ebm.space import GraphEncoding, MolecularSpace
from graph_ebm.vocabulary import Vocabulary
from tests.graph_ebm import exact_moves
from tests.graph_ebm.small_space import V, canonical, molecules, relabelled

SPACE = MolecularSpace(Vocabulary((("C", 0), ("N", 0), ("O", 0)), (4, 3, 2)), max_atoms=V)
MOVES = exact_moves.kernel().moves


class LinearEnergy(Energy):
    """A weight for every type and every bond order: permutation invariant and linear in the encoding.

    Weights are multiples of 1/8, so that equal changes are equal to the bit.
    """

    def __init__(self) -> None:
        super().__init__(SPACE)
        generator = torch.Generator().manual_seed(0)
        self.types, self.orders = ((torch.randn(4, generator=generator) * 16).round() / 8 for _ in range(2))

    def forward(self, encoding: GraphEncoding) -> Tensor:
        return (encoding.nodes @ self.types).sum(-1) + (encoding.bonds @ self.orders).sum((-1, -2)) / 2


def _some(seed: int = 0, n: int = 571) -> Tensor:
    return relabelled(molecules()[0][-n:], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_estimate_is_exact_for_a_linear_energy_and_every_move(move: object) -> None:
    energy, x, generator = LinearEnergy(), _some(), torch.Generator().manual_seed(1)
    for _ in range(10):
        rows, y, kept = _draw(move, x, generator)  # type: ignore[arg-type]
        estimate = taylor_deltas(energy, x, kept, proposals=rows)
        exact = evaluate_energy(energy, y) - evaluate_energy(energy, x[rows])
        torch.testing.assert_close(estimate, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.name)
def test_slots_kept_is_the_same_molecule_with_atoms_in_place(move: object) -> None:
    x, generator = _some(2), torch.Generator().manual_seed(3)
    seen = 0
    for _ in range(10):
        rows, y, kept = _draw(move, x, generator)  # type: ignore[arg-type]
        if len(rows) == 0:
            continue
        seen += len(rows)
        old = x[rows]
        assert (canonical(SPACE.compact(kept).numpy()) == canonical(y.numpy())).all()
        before, after = (t.diagonal(dim1=1, dim2=2) for t in (old, kept))
        name = move.name  # type: ignore[attr-defined]
        if name in ("terminal-atom", "insert-atom"):  # one slot is filled or emptied, all others keep their types
            assert ((before != after).sum(1) == 1).all()
            assert ((kept != old).sum((1, 2)) == (3 if name == "terminal-atom" else 7)).all()
        if name == "attach-fragment":  # whatever is not added or removed keeps its types and bonds
            same = (before > 0) & (after > 0)
            assert (before == after)[same].all()
            assert (kept == old)[same[:, :, None] & same[:, None, :]].all()
    assert seen > 0


def test_relabelled_removal_would_spoil_the_estimate() -> None:
    """The compacted form of the same removals is not what slots_kept returns, and its estimate is another number."""
    network = RelationalEnergy(SPACE, hidden=8, layers=1, zero_output=False)
    move = next(move for move in MOVES if move.name == "terminal-atom")
    x = _some(4)
    rows, y, kept = _draw(move, x, torch.Generator().manual_seed(5))
    moved = (y != kept).flatten(1).any(1)
    assert moved.any()
    plain = taylor_deltas(network, x, y, proposals=rows)
    slots = taylor_deltas(network, x, kept, proposals=rows)
    assert not torch.allclose(plain[moved], slots[moved], atol=1e-6)
    torch.testing.assert_close(plain[~moved], slots[~moved])


def test_estimate_is_the_limit_of_finite_differences() -> None:
    energy = RelationalEnergy(SPACE, hidden=8, layers=2, zero_output=False).double()
    move = next(move for move in MOVES if move.name == "retype")
    x = _some(6, 60)
    rows, y, kept = _draw(move, x, torch.Generator().manual_seed(7))
    here, there = (energy.space.encode_as(t, torch.float64) for t in (x[rows], kept))
    step = 1e-6
    ends = [GraphEncoding(*(a + s * (b - a) for a, b in zip(here, there, strict=True))) for s in (-step, step)]
    with torch.no_grad():
        slope = (energy(ends[1]) - energy(ends[0])) / (2 * step)
    torch.testing.assert_close(taylor_deltas(energy, x, y, proposals=rows), slope, rtol=1e-5, atol=1e-7)


def test_rows_pair_up_without_proposals() -> None:
    energy, x = LinearEnergy(), _some(8, 50)
    rows, y, _ = _draw(MOVES[0], x, torch.Generator().manual_seed(9))
    torch.testing.assert_close(taylor_deltas(energy, x[rows], y), taylor_deltas(energy, x, y, proposals=rows))
    with pytest.raises(ShapeError, match="proposals"):
        taylor_deltas(energy, x, y[:3])


def test_spearman_agrees_with_scipy_and_knows_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(6, size=40), rng.normal(size=40)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert np.isnan(spearman(np.ones(1), np.ones(1)))


def test_ranking_of_a_linear_energy_is_perfect_for_every_move() -> None:
    generator = torch.Generator().manual_seed(10)
    x, kernel = _some(11, 120), exact_moves.kernel()
    found = rank_correlation_by_move(LinearEnergy(), x, kernel, generator=generator, tries=12)
    assert set(found) == {*kernel.names, "all"}
    constant = {name for name, ranking in found.items() if ranking.sd_exact == 0}
    assert constant == {"swap-types", "reattach"}  # they change no count, so there is nothing to rank
    for name, ranking in found.items():
        assert np.isnan(ranking.pooled) if name in constant else ranking.pooled > 0.999, name
        assert ranking.sd_estimate == pytest.approx(ranking.sd_exact, rel=1e-3, abs=1e-6)
        assert np.isnan(ranking.surrogate_pooled)
    assert found["all"].n == sum(ranking.n for name, ranking in found.items() if name != "all")
    assert found["retype"].per_state > 0.999
    assert found["retype"].n_states > 50


def test_ranking_reports_a_poor_estimate_as_poor() -> None:
    """A network with random weights: the estimate must not be reported as perfect where it is not."""
    network = RelationalEnergy(SPACE, hidden=16, layers=3, zero_output=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(12)))
    model = MolecularEnergy(SPACE, network=network)
    generator = torch.Generator().manual_seed(13)
    found = rank_correlation_by_move(model, _some(14, 120), exact_moves.kernel(), generator=generator, tries=8)
    assert found["all"].pooled < 0.8
    assert abs(found["all"].sd_estimate / found["all"].sd_exact - 1) > 0.05


def test_equal_edits_count_once() -> None:
    """A single carbon has two retypes, however often they are drawn."""
    x = molecules()[0][:1]
    generator = torch.Generator().manual_seed(15)
    found = rank_correlation_by_move(LinearEnergy(), x, exact_moves.kernel(), generator=generator, tries=40)
    assert found["retype"].n == 2
    assert found["retype"].n_states == 0
    assert np.isnan(found["retype"].per_state)


def test_slots_of_moves_of_equal_size_are_left_alone() -> None:
    move = next(move for move in MOVES if move.name == "reattach")
    x = _some(16, 20)
    y = relabelled(x, torch.Generator().manual_seed(17))
    assert slots_kept(move, x, y, torch.zeros(20, dtype=torch.long)) is y


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"fewest": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="at least"):
        rank_correlation_by_move(
            LinearEnergy(), _some(0, 5), exact_moves.kernel(), generator=torch.Generator(), **wrong
        )
