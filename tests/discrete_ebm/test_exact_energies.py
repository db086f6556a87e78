"""Energies and exact answers that the benchmark suites stand on, against enumeration."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.energies import FactorialHMM, IndependentSet, Ising, MaxCut
from discrete_ebm.energies.pairwise import lattice_edges
from discrete_ebm.errors import SettingError, ShapeError

COUPLINGS = (0.05, 0.3, de.evaluate.CRITICAL_COUPLING, 0.7, 1.5)


# -- the square lattice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_kaufman_is_the_enumerated_torus(shape, coupling):
    edges = lattice_edges(shape)
    energy = Ising.lattice(shape, torch.full((edges.shape[1],), coupling, dtype=torch.float64))
    law = de.evaluate.exact(energy)
    assert abs(de.evaluate.kaufman_log_z(shape, coupling) - law.log_z) < 1e-10
    assert abs(de.evaluate.kaufman_energy(shape, coupling) - law.mean_energy / math.prod(shape)) < 1e-10


@pytest.mark.parametrize("coupling", [0.1, 0.3, 0.6, 1.0])
def test_a_large_torus_has_the_energy_of_the_infinite_lattice_away_from_the_critical_point(coupling):
    assert abs(de.evaluate.kaufman_energy((120, 120), coupling) - de.evaluate.onsager_energy(coupling)) < 1e-9


def test_onsager_at_the_critical_point_is_minus_root_two_and_finite_tori_come_near_as_one_over_size():
    critical = de.evaluate.CRITICAL_COUPLING
    assert abs(de.evaluate.onsager_energy(critical) / critical + math.sqrt(2)) < 1e-12
    gaps = [de.evaluate.kaufman_energy((n, n), critical) - de.evaluate.onsager_energy(critical) for n in (16, 32, 64)]
    assert gaps[0] < 0
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 2, rtol=0.01)  # Ferdinand & Fisher: ~ 1/n


def test_the_torus_formula_refuses_what_it_is_not():
    with pytest.raises(SettingError, match=r"two sides of at least 3; got \(2, 4\)"):
        de.evaluate.kaufman_energy((2, 4), 0.4)
    with pytest.raises(SettingError, match=r"above 0; got -0\.1"):
        de.evaluate.onsager_energy(-0.1)


# -- the factorial hidden Markov model ------------------------------------------------------------------------------


def reference_log_joint(model, x):
    """log p(x, y), written down site by site."""
    w, b, y = model.weight.tolist(), model.bias.item(), model.observed.tolist()
    total = 0.0
    for t, row in enumerate(x):
        for k, bit in enumerate(row):
            one = model.first if t == 0 else (model.stay if x[t - 1][k] else 1 - model.stay)
            total += math.log(one if bit else 1 - one)
        mean = b + sum(w[k] for k, bit in enumerate(row) if bit)
        total += -0.5 * ((y[t] - mean) / model.sigma) ** 2 - math.log(model.sigma * math.sqrt(2 * math.pi))
    return total


@pytest.fixture(scope="module")
def hidden():
    return FactorialHMM.random(4, 3, sigma=0.7, first=0.3, stay=0.8, seed=1).double()


def test_the_energy_is_minus_the_log_joint(hidden):
    x = hidden.space.enumerate()
    expected = [-reference_log_joint(hidden, state) for state in x.tolist()]
    np.testing.assert_allclose(de.energies.evaluate_energy(hidden, x).detach(), expected, rtol=1e-12)


def test_flip_deltas_and_conditionals_are_differences_of_energies(hidden):
    x = hidden.space.random(20, torch.Generator().manual_seed(0))
    energies = de.energies.evaluate_energy(hidden, x)
    deltas = hidden.flip_deltas(x)
    logits = hidden.conditional_logits(x, torch.arange(12))
    for site, value in itertools.product(range(12), (0, 1)):
        y = x.clone()
        y.view(20, -1)[:, site] = value
        gap = de.energies.evaluate_energy(hidden, y) - energies
        torch.testing.assert_close(deltas[:, site, value], gap, atol=1e-10, rtol=0)
    odds = hidden.log_odds(x).flatten(1)
    torch.testing.assert_close(logits[..., 1] - logits[..., 0], odds, atol=1e-10, rtol=0)
    some = torch.tensor([7, 0, 11])
    torch.testing.assert_close(hidden.conditional_logits(x, some), logits[:, some])


def test_forward_sums_are_enumerations_at_any_beta(hidden):
    for beta in (1.0, 0.4):
        law = de.evaluate.exact(hidden, beta)
        assert abs(law.log_z - hidden.log_z(beta)) < 1e-10
        assert abs(law.mean_energy - hidden.mean_energy(beta)) < 1e-10


def test_exact_draws_have_the_exact_law(hidden):
    """Chi-square over all 4,096 states (rare ones pooled) of 60,000 draws; fails one time in a million."""
    law = de.evaluate.exact(hidden)
    x = hidden.exact_sample(60_000, generator=torch.Generator().manual_seed(2))
    powers = 2 ** torch.arange(12)
    rows = {int(code): i for i, code in enumerate((law.states.flatten(1).long() * powers).sum(1))}
    counts = torch.zeros(len(rows))
    for code, count in zip(*(x.flatten(1).long() * powers).sum(1).unique(return_counts=True), strict=True):
        counts[rows[int(code)]] = count
    from discrete_ebm.testing_statistics import goodness_of_fit

    assert goodness_of_fit(counts, law.probabilities) > 1e-6


def test_no_edge_is_missing_and_blocks_are_independent(hidden):
    pairs = {tuple(sorted(pair)) for pair in hidden.edges().t().tolist()}
    assert len(pairs) == 4 * 3 + 3 * 3
    blocks = hidden.blocks()
    assert sorted(torch.cat(blocks).tolist()) == list(range(12))
    for block in blocks:
        assert not any(pair in pairs for pair in itertools.combinations(sorted(block.tolist()), 2))


@pytest.mark.parametrize("name", ["gibbs", "chromatic", "gwg", "pas"])
def test_samplers_keep_its_law(hidden, name):
    """Marginals of 200 chains, each within 6 standard errors between chains."""
    chains = de.sample(hidden, name, n_chains=200, n_steps=400, burn_in=100, seed=0)
    means = chains.x.double().mean(0).flatten(1)
    exact = de.evaluate.exact(hidden).marginals[:, 1]
    assert bool(((means.mean(0) - exact).abs() < 6 * means.std(0) / math.sqrt(200)).all())


def test_bad_settings_of_the_hidden_model_are_one_sentence():
    with pytest.raises(SettingError, match="`stay` must be a probability between 0 and 1; got 1"):
        FactorialHMM(torch.zeros(3), torch.ones(2), stay=1)
    with pytest.raises(ShapeError, match="`weight` must have one dimension"):
        FactorialHMM(torch.zeros(3), torch.ones(2, 2))
    with pytest.raises(SettingError, match="at most 14"):
        FactorialHMM.random(3, 15).log_z()


@pytest.mark.parametrize("beta", [0.5, 20.0, 600.0])
def test_the_recursion_is_the_enumerated_law_at_any_beta(beta):
    """At 600 the least probable changes of a time step are below what a float64 can hold."""
    model = FactorialHMM.random(4, 3, seed=2).double()
    law = de.evaluate.exact(model, beta)
    assert model.log_z(beta) == pytest.approx(law.log_z, rel=1e-12)
    assert model.mean_energy(beta) == pytest.approx(law.mean_energy, rel=1e-12)


# -- independent sets and cuts --------------------------------------------------------------------------------------

GRAPHS = [nx.gnp_random_graph(11, 0.3, seed=1), nx.barabasi_albert_graph(10, 2, seed=2), nx.empty_graph(3)]


@pytest.mark.parametrize("graph", GRAPHS, ids=["er", "ba", "empty"])
@pytest.mark.parametrize("kind", [IndependentSet, MaxCut])
def test_energies_values_and_optimum_are_those_of_enumeration(graph, kind):
    problem = kind(graph)
    x = problem.energy.space.enumerate()
    one = (x > 0).numpy()
    edges = list(graph.edges)
    inner = np.array([sum(row[i] and row[j] for i, j in edges) for row in one])
    cut = np.array([sum(row[i] != row[j] for i, j in edges) for row in one])
    size = one.sum(1)
    worth = -size + 1.0001 * inner if kind is IndependentSet else -cut
    np.testing.assert_allclose(problem.energies(x), worth, atol=1e-9 if kind is IndependentSet else 1e-5)
    np.testing.assert_array_equal(problem.value(x), size if kind is IndependentSet else cut)
    best = size[inner == 0].max() if kind is IndependentSet else cut.max()
    solved = de.evaluate.optimum(problem)
    assert solved.proven
    assert solved.value == best
    assert bool(problem.is_feasible(solved.x[None])[0])
    lowest = problem.energies(x).argmin()
    assert int(problem.value(x)[lowest]) == best
    deltas = problem.energy.flip_deltas(x)
    y = x.clone()
    y[:, 0] = problem.energy.space.from_index(1 - problem.energy.space.to_index(x))[:, 0]
    gap = problem.energies(y) - problem.energies(x)
    new = problem.energy.space.to_index(y)[:, :1]
    torch.testing.assert_close(deltas[:, 0].gather(1, new)[:, 0].double(), gap, atol=1e-4, rtol=0)


def test_dense_and_sparse_forms_are_one_energy():
    graph = nx.gnp_random_graph(60, 0.3, seed=0)
    dense = IndependentSet(graph)
    assert dense.energy.edge_index is None
    sparse = Ising.sparse(dense.edges, -dense.penalty / 4, dense.energy.field.detach(), space=dense.energy.space)
    x = dense.energy.space.random(30, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sparse(x.double()), dense.energy(x.double()), atol=1e-9, rtol=0)
    again = IndependentSet(graph, dense=False, dtype=torch.float32)
    assert again.energy.edge_index is not None
    torch.testing.assert_close(again.energies(x), dense.energies(x), atol=1e-3, rtol=0)


def test_repair_makes_independent_maximal_sets_that_lose_at_most_their_inner_edges():
    problem = IndependentSet(nx.gnp_random_graph(40, 0.2, seed=3))
    x = (torch.rand(64, 40, generator=torch.Generator().manual_seed(0)) < 0.35).to(torch.int8)
    before = x.clone()
    y = problem.repair(x)
    assert torch.equal(x, before)
    assert bool(problem.is_feasible(y).all())
    assert bool((problem.value(y) >= problem.value(x) - problem.inner_edges(x)).all())
    neighbours = torch.zeros(64, 40, dtype=torch.int64)
    for i, j in problem.edges.t().tolist():
        neighbours[:, i] += y[:, j]
        neighbours[:, j] += y[:, i]
    assert bool(((neighbours > 0) | (y == 1)).all())  # no node could join


def test_weighted_cuts_count_their_weights():
    problem = MaxCut(torch.tensor([[0, 1, 0], [1, 2, 2]]), weights=[1.0, 2.0, 0.5])
    x = torch.tensor([[1, -1, 1], [1, 1, 1]], dtype=torch.int8)
    assert problem.value(x).tolist() == [3.0, 0.0]
    assert de.evaluate.optimum(problem).value == 3.0


def test_a_proven_cut_is_the_best_though_one_weight_dwarfs_the_others():
    """The best is found to the last edge, not to the ten-thousandth of the value at which solvers stop by default."""
    pairs = torch.combinations(torch.arange(8))
    weights = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = MaxCut(pairs.t(), weights=weights, dtype=torch.float64)
    heavy = torch.tensor([[8], [9]])
    both = MaxCut(torch.cat([pairs.t(), heavy], 1), weights=[*weights.tolist(), 1e5], dtype=torch.float64)
    solved = de.evaluate.optimum(both)
    assert solved.proven
    assert solved.value - 1e5 == pytest.approx(float(small.value(de.Spin(8).enumerate()).max()), abs=1e-6)


@pytest.mark.parametrize(("make", "said"), [
    (lambda: IndependentSet(GRAPHS[0], penalty=1.0), "`penalty` must be above 1"),
    (lambda: IndependentSet(torch.tensor([[0, 1], [1, 0]])), "each pair once"),
    (lambda: MaxCut(torch.tensor([[0, 1]]).t(), n_nodes=1), "must name nodes 0 to 0; got 0 to 1"),
    (lambda: MaxCut(nx.DiGraph([(0, 1)])), "undirected simple graph; got DiGraph"),
    (lambda: MaxCut(GRAPHS[0], weights=[1.0]), "one for each edge"),
    (lambda: IndependentSet(torch.zeros(2, 0, dtype=torch.int64)), "`n_nodes` must be a whole number"),
])  # fmt: skip
def test_bad_graphs_are_one_sentence(make, said):
    with pytest.raises(SettingError, match=said):
        make()
