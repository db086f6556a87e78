"""Every move is reversible with respect to exp(−β E)/|Aut| on the 571 molecules of up to four atoms of C, N and O.

The matrices come from the shipped site, option and reverse tables. Weights are float32: a log probability carries up to
3e-7, so flows agree to RELATIVE = 2e-6; no flow is larger than 1e-2, so no two differ by more than ABSOLUTE = 1e-9.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import chi2, ncx2

from discrete_ebm.samplers import factored
from discrete_ebm.samplers.factored import draw_index, two_sided
from graph_ebm.datasets import load
from graph_ebm.moves import MoveSettings, build_kernel, mine_moves
from graph_ebm.moves.kernel import _fixed_slots
from graph_ebm.moves.rings import RingPath, walk_ring
from graph_ebm.moves.tables import GraphTables
from tests.graph_ebm.exact_moves import (
    VALENCE,
    Proposals,
    drawn_mass,
    imbalance,
    kernel,
    matrix,
    paths,
    proposals,
    random_energy,
    settings,
    target,
)
from tests.graph_ebm.real_moves import check_pairs
from tests.graph_ebm.small_space import Clamped, molecules, relabelled

RELATIVE, ABSOLUTE = 2e-6, 1e-9
NAMES = kernel().names
BETAS = (0.3, 1.0, 2.0)


@lru_cache(maxsize=32)
def listed(index: int) -> Proposals:
    return proposals(kernel().moves[index])


def assert_balanced(p: np.ndarray, law: np.ndarray) -> None:
    flow = law[:, None] * p
    gap = np.abs(flow - flow.T)
    assert gap.max() <= ABSOLUTE, f"flows differ by {gap.max():.2e}"
    share = (gap / np.maximum(flow, flow.T).clip(1e-300)).max()
    assert share <= RELATIVE, f"flows differ by {share:.2e} of themselves"


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_each_move_is_reversible_and_keeps_its_law_at_every_beta(index: int) -> None:
    drawn = listed(index)  # raises where an outcome is invalid, or the way back is illegal or leads elsewhere
    mass = drawn_mass(drawn)
    assert mass.max() <= 1 + 1e-12
    assert mass.max() > 0.99, "no molecule has a full set of proposals"
    energy = random_energy()
    for beta in BETAS:
        p, law = matrix(drawn, energy, beta), target(energy, beta)
        assert p.min() >= -1e-12
        assert np.abs(p.sum(1) - 1).max() <= 1e-12
        assert_balanced(p, law)
        assert np.abs(law @ p - law).max() <= ABSOLUTE
        assert beta > 0.3 or 1 - law @ np.diag(p) > 5e-3, "the move hardly ever moves"


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_a_move_does_not_depend_on_the_order_of_the_atoms(index: int, seed: int) -> None:
    other = proposals(kernel().moves[index], relabelled(molecules()[0], torch.Generator().manual_seed(seed)))
    energy = random_energy()
    assert np.abs(matrix(other, energy) - matrix(listed(index), energy)).max() <= 1e-6


def test_the_union_of_the_moves_is_irreducible_and_the_mixture_has_a_gap() -> None:
    energy, k = random_energy(), kernel()
    law, weights = target(energy), np.array(k.weights) / sum(k.weights)
    matrices = [matrix(listed(index), energy) for index in range(len(NAMES))]
    classes = [connected_components(csr_matrix(p > 0), connection="strong")[0] for p in matrices]
    assert min(classes) > 1, "each move alone should be reducible, or this test shows nothing"
    mixture = sum(w * p for w, p in zip(weights, matrices, strict=True))
    assert connected_components(csr_matrix(mixture > 0), connection="strong")[0] == 1
    assert_balanced(mixture, law)
    root = np.sqrt(law)
    values = np.linalg.eigvalsh((root[:, None] * mixture / root + (root[:, None] * mixture / root).T) / 2)
    second = max(values[-2], -values[0])
    print(f"|lambda_2| = {second:.6f}, classes alone {dict(zip(NAMES, classes, strict=True))}")
    assert values[-1] == pytest.approx(1, abs=1e-7)
    assert second < 0.9995  # 0.9976: the slowest molecules of this rough random energy
    without = {"terminal-atom": 0.0, "insert-atom": 0.0, "attach-fragment": 0.0, "swap-fragment": 0.0}
    fixed_size = sum(p for p, name in zip(matrices, NAMES, strict=True) if name not in without)
    assert connected_components(csr_matrix(fixed_size > 0), connection="strong")[0] > 1, "the test must be able to fail"


def test_the_base_moves_alone_reach_everything() -> None:
    """Without anything mined from data (no fragments, no ring patterns) no molecule is cut off."""
    bare = build_kernel(MoveSettings(VALENCE, torch.tensor([0.0, 0.5, 0.3, 0.2])))
    links = sum(matrix(proposals(move), random_energy()) for move in bare.moves)
    assert connected_components(csr_matrix(links > 0), connection="strong")[0] == 1


def test_a_molecule_of_infinite_energy_is_never_entered_and_the_rest_stays_reversible() -> None:
    energy = random_energy()
    barred = np.random.default_rng(1).random(len(energy)) < 0.1
    energy[barred] = np.inf
    law = np.where(barred, 0.0, np.exp(-energy) / molecules()[2])
    law /= law.sum()
    for index in range(len(NAMES)):
        drawn = listed(index)
        keep = ~barred[drawn.start]  # from within an infinite energy there is no ratio
        p = matrix(Proposals(*(part[keep] for part in drawn)), energy)
        assert (p[np.ix_(~barred, barred)] == 0).all()
        assert_balanced(p, law)


def _world(kind: str) -> Clamped:
    reference = torch.zeros(4, 4, dtype=torch.int8)
    reference[0, 0] = reference[1, 1] = reference[0, 1] = reference[1, 0] = 1
    clamp = torch.zeros(4, 4, dtype=torch.bool)
    if kind == "block":  # keep C–C, as a scaffold
        clamp[:2, :2] = True
    elif kind == "row":  # atom 0 keeps all its bonds and takes no new ones
        clamp[0] = clamp[:, 0] = True
    else:  # a type that may change, of a bond that may not
        clamp[0, 1] = clamp[1, 0] = True
    return Clamped(reference, clamp, 2)


@pytest.mark.parametrize("kind", ["block", "row", "bond"])
def test_every_move_is_reversible_under_a_clamp(kind: str) -> None:
    world = _world(kind)
    fixed = _fixed_slots(world.clamp, world.x)
    assert torch.equal(fixed, (torch.arange(4) < world.kept).expand(len(world.x), 4))
    energy = random_energy()[world.free]
    law = np.exp(-energy) / world.automorphisms
    law /= law.sum()
    links = 0
    for move in kernel().moves:
        if kind == "bond" and move.name.startswith("repaint-types"):
            continue  # the same rule as repaint, ten times the patterns; "block" covers it
        p = matrix(proposals(move, world=world), energy)
        assert_balanced(p, law)
        links = links + p
    assert len(world.x) > 100
    assert connected_components(csr_matrix(links > 0), connection="strong")[0] == 1


@pytest.mark.parametrize("size", [3, 4])
def test_the_ring_walk_draws_every_closed_path_with_its_probability(size: int, seed: int) -> None:
    """χ² of 400 × 200 walks over rows with rings. False-failure budget 1e-6."""
    row, atoms, chance = paths(molecules()[0], size)
    rows = row.unique()[:200]
    x = molecules()[0][rows].repeat(400, 1, 1)
    walk = walk_ring(GraphTables(x, VALENCE), size, torch.Generator().manual_seed(seed))
    base = 4 ** torch.arange(size)
    name = (torch.arange(len(rows)).repeat(400) * 4**size + (walk.atoms * base).sum(1))[walk.closed]
    counts = torch.bincount(name, minlength=len(rows) * 4**size).double().numpy()
    expected = np.zeros_like(counts)
    for place, r in enumerate(rows.tolist()):
        mine = row == r
        expected[(place * 4**size + (atoms[mine] * base).sum(1)).numpy()] = 400 * chance[mine].numpy()
    assert counts[expected == 0].sum() == 0
    cells = expected > 0
    statistic = ((counts - expected)[cells] ** 2 / expected[cells]).sum()
    # cells of one row are negatively correlated, so χ² with as many degrees of freedom as cells is conservative
    assert statistic < chi2.isf(1e-6, cells.sum())
    # power: it would see a walk that prefers its paths by one part in four
    gap = (0.25 * expected[cells]) ** 2 / expected[cells]
    assert ncx2.cdf(chi2.isf(1e-6, cells.sum()), cells.sum(), gap.sum()) < 1e-3


def test_an_index_of_weight_zero_is_never_drawn_and_the_others_by_weight(seed: int) -> None:
    """n = 200,000 draws; binomial bound at 6 standard errors (2e-9 a cell)."""
    n = 200_000
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 1e-7, 0.0])
    index, some = draw_index(weights.expand(n, 7), generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(index, minlength=7).double()
    assert bool(some.all())
    assert counts[[0, 2, 4, 6]].sum() == 0
    assert abs(counts[1] / n - 0.75) < 6 * (0.75 * 0.25 / n) ** 0.5
    _, none = draw_index(torch.zeros(3, 5), generator=torch.Generator())
    assert not bool(none.any())


def test_an_index_of_weight_0_that_rounding_drew_is_not_a_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device the running sums may round up over a weight of 0; scoring 0/0 would accept an illegal state."""
    right = factored.draw_index

    def rounded(weights: torch.Tensor, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index, some = right(weights, generator=generator)
        return torch.where((weights == 0).any(-1), (weights == 0).int().argmax(-1), index), some

    monkeypatch.setattr(factored, "draw_index", rounded)
    x, generator = molecules()[0], torch.Generator().manual_seed(0)
    for move in kernel().moves:
        proposal = factored.propose_factored(move, x, generator=generator)
        assert not proposal.possible.any(), move.name
        assert bool((proposal.log_q_ratio == -torch.inf).all()), move.name


def test_two_sides_get_half_each_and_an_empty_side_nothing() -> None:
    first = torch.tensor([[1.0, 3.0], [0.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[2.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    assert two_sided(first, second).tolist() == [[0.25, 0.75, 1, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]]


# -- larger molecules: rings of five and six, fragments of up to ten atoms, symmetric groups --------------------------


def test_moves_balance_between_real_molecules_and_their_neighbours(seed: int) -> None:
    assert check_pairs("qm9-sample", 4, seed) == 44


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qm9-sample", "zinc-sample", "moses-sample"])
def test_moves_balance_between_many_real_molecules(name: str, seed: int) -> None:
    assert check_pairs(name, 25, seed) == 275


def test_repainting_balances_on_real_rings(seed: int) -> None:
    """Every (path, pattern) has its reverse on the same path: rings of five and six of ZINC, ratios from both ends."""
    data = load("zinc-sample", 1200)
    valence = data.vocabulary.valence_table(torch.device("cpu")).long()
    generator = torch.Generator().manual_seed(seed)
    for move in build_kernel(mine_moves(data.x, valence, fragments=0)).moves:
        if not move.name.startswith("repaint"):
            continue
        path = walk_ring(GraphTables(data.x, valence), move.size, generator)
        row = (move.site_weights(data.x, path)[:, 0] > 0).nonzero()[:, 0]
        x, context = data.x[row], RingPath(path.atoms[row], path.closed[row])
        site = torch.zeros(len(row), dtype=torch.long)
        option, some = draw_index(move.option_weights(x, site, context), generator=generator)
        x, site, option = x[some], site[some], option[some]
        context = RingPath(context.atoms[some], context.closed[some])
        assert len(x) > 20
        y = move.apply(x, site, option, context)
        assert torch.equal(data.space.validate(y), y)
        assert torch.equal(y > 0, x > 0), "the law of the walk must be the same at both ends"
        back_site, back = move.reverse(x, site, option, y, context)
        assert torch.equal(move.apply(y, back_site, back, context), x)
        assert bool(move.log_prob(y, back_site, back, context).isfinite().all())
        again = move.reverse(y, back_site, back, x, context)
        assert torch.equal(again[1], option)


def test_balance_is_measured_on_a_library_with_symmetric_fragments() -> None:
    library = settings().library
    assert library is not None
    assert bool((library.log_automorphisms > 0).any())
    assert imbalance(np.eye(3), np.ones(3) / 3) == 0
