"""Kernels under constraints: transition matrices in plain NumPy, shipped steps against their rows, mutants."""

from __future__ import annotations

import itertools
from collections import defaultdict

import networkx as nx
import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import ConformanceError, SettingError, SpaceError
from discrete_ebm.samplers import ChainState, registry
from discrete_ebm.testing import Target, check_sampler
from graph_ebm import networks as gn
from graph_ebm.networks import swaps
from tests.reference import boltzmann, metropolis, second_eigenvalue, stationarity_error
from tests.statistical import assert_rows_match

FALSE_FAIL = 1e-7
Graph = frozenset[tuple[int, int]]
PAIRS = {n: list(itertools.combinations(range(n), 2)) for n in (4, 5, 6)}


# -- the reference: graphs as sets of pairs, one Python loop for each rule ------------------


def all_graphs(n: int, keep) -> list[Graph]:
    graphs = (frozenset(p for p, bit in zip(PAIRS[n], bits, strict=True) if bit)
              for bits in itertools.product((0, 1), repeat=len(PAIRS[n])))
    return [graph for graph in graphs if keep(graph)]


def degrees(graph: Graph, n: int) -> tuple[int, ...]:
    return tuple(sum(node in pair for pair in graph) for node in range(n))


def swap_proposal(graphs: list[Graph], clamped: Graph = frozenset()) -> np.ndarray:
    """q of the double-edge swap: ordered pairs of free edges, both rewirings, all equally likely; illegal ones stay."""
    number = {graph: k for k, graph in enumerate(graphs)}
    q = np.zeros((len(graphs), len(graphs)))
    for k, graph in enumerate(graphs):
        free = [pair for pair in graph if pair not in clamped]
        draws = [(e, f, turn) for e in free for f in free if e != f for turn in (0, 1)]
        for (a, b), (c, d), turn in draws:
            c, d = (d, c) if turn else (c, d)
            new = {tuple(sorted((a, d))), tuple(sorted((c, b)))}
            legal = len({a, b, c, d}) == 4 and not new & graph and not new & clamped
            after = (graph - {(a, b), tuple(sorted((c, d)))}) | new if legal else graph
            q[k, number[frozenset(after)]] += 1 / len(draws)
        q[k, k] += 0 if draws else 1
    return q


def move_proposal(graphs: list[Graph], n: int, clamped: Graph = frozenset()) -> np.ndarray:
    """q of moving one free edge to one free non-edge."""
    number = {graph: k for k, graph in enumerate(graphs)}
    q = np.zeros((len(graphs), len(graphs)))
    for k, graph in enumerate(graphs):
        draws = [(e, f) for e in graph - clamped for f in set(PAIRS[n]) - graph - clamped]
        for old, new in draws:
            q[k, number[(graph - {old}) | {new}]] += 1 / len(draws)
        q[k, k] += 0 if draws else 1
    return q


def states_of(graphs: list[Graph], n: int) -> torch.Tensor:
    return torch.tensor([[int(pair in graph) for pair in PAIRS[n]] for graph in graphs], dtype=torch.int8)


def an_energy(n: int) -> gn.ERGM:
    """Not a function of the degrees: triangles, shared partners, and a weight of its own for each pair."""
    weights = torch.linspace(-1.0, 1.0, gn.n_pairs(n)).sin() * 1.5
    return gn.ERGM(n, [gn.Triangles(), gn.GWESP(0.5), gn.DyadCovariate("w", weights)], torch.tensor([0.8, 0.3, 1.0]))


def case(kind: str, n: int, what: tuple[int, ...] | int, clamped: Graph = frozenset(), value: Graph = frozenset()):
    """(states, reference matrix at (beta, laziness), energy): graphs of given degrees or number of edges, and clamp."""
    if kind == "degree-swap":
        graphs = all_graphs(n, lambda g: degrees(g, n) == what and g & clamped == value)
        proposal = swap_proposal(graphs, clamped)
    else:
        graphs = all_graphs(n, lambda g: len(g) == what and g & clamped == value)
        proposal = move_proposal(graphs, n, clamped)
    energy = an_energy(n)
    x = states_of(graphs, n)
    energies = energy.double()(x.double()).detach().numpy()

    def matrix(beta: float, laziness: float = 0.01) -> np.ndarray:
        return metropolis(proposal, boltzmann(energies, beta), laziness)

    return x, matrix, energy.float(), lambda beta: boltzmann(energies, beta)


def counts_of(kernel, energy, x: torch.Tensor, n_draws: int, beta: float, seed: int, clamp=None) -> np.ndarray:
    """(S, S) where the shipped step goes from every state, ``n_draws`` chains each."""
    row = {tuple(state): k for k, state in enumerate(x.tolist())}
    start = x.repeat_interleave(n_draws, 0)
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, start, generator=generator, clamp=clamp)
    after, _ = kernel.step(energy, state, generator=generator, beta=beta, clamp=clamp)
    code = 2 ** torch.arange(x.shape[1])
    number = torch.full((2 ** x.shape[1],), -1)
    number[(x.long() * code).sum(1)] = torch.arange(len(x))
    to = number[(after.x.long() * code).sum(1)]
    assert bool((to >= 0).all()), "a step left the graphs of the constraint"
    assert len(row) == len(x)
    return torch.bincount(torch.arange(len(x)).repeat_interleave(n_draws) * len(x) + to,
                          minlength=len(x) ** 2).reshape(len(x), -1).numpy()


TWO_EDGES = frozenset({(0, 1), (2, 3)})
CASES = [
    ("degree-swap", 4, (1, 1, 1, 1), frozenset(), frozenset()),
    ("degree-swap", 5, (2, 2, 2, 1, 1), frozenset(), frozenset()),
    ("degree-swap", 5, (2, 2, 2, 2, 2), frozenset(), frozenset()),
    ("degree-swap", 6, (3, 2, 2, 1, 1, 1), frozenset({(0, 1), (4, 5)}), frozenset({(0, 1)})),
    ("edge-move", 4, 3, frozenset(), frozenset()),
    ("edge-move", 5, 2, frozenset({(0, 1), (1, 2)}), frozenset({(0, 1)})),
]


@pytest.mark.parametrize("beta", [0.0, 0.7, 1.6])
@pytest.mark.parametrize(("kind", "n", "what", "clamped", "value"), CASES)
def test_steps_are_rows_of_the_reference_matrix(kind, n, what, clamped, value, beta: float, seed: int) -> None:
    x, matrix, energy, law = case(kind, n, what, clamped, value)
    reference = matrix(beta)
    assert stationarity_error(reference, law(beta)) < 1e-12
    clamp = torch.tensor([pair in clamped for pair in PAIRS[n]]) if clamped else None
    counts = counts_of(registry.create(kind), energy, x, 5000, beta, seed, clamp)
    assert_rows_match(counts, reference, false_fail=FALSE_FAIL, must_see=0.09)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_plain_swaps_connect_all_simple_graphs_of_any_degrees(n: int) -> None:
    """Every degree sequence on 4 and 5 nodes, and on 6 those with 1 and 2 and with 3 everywhere, by enumeration."""
    by_degrees = defaultdict(list)
    for graph in all_graphs(n, lambda _: True):
        by_degrees[degrees(graph, n)].append(graph)
    sequences = list(by_degrees) if n < 6 else [(1, 1, 1, 1, 1, 1), (2, 2, 2, 2, 2, 2), (3, 3, 3, 3, 3, 3),
                                                (3, 2, 2, 2, 2, 1), (4, 3, 3, 2, 2, 2)]  # fmt: skip
    for sequence in sequences:
        graphs = by_degrees[sequence]
        q = swap_proposal(graphs)
        assert np.allclose(q, q.T)
        assert nx.is_connected(nx.from_numpy_array(q)), sequence
        lazy = metropolis(q, np.full(len(graphs), 1 / len(graphs)), 0.01)
        assert second_eigenvalue(lazy) < 1 - 1e-6 or len(graphs) == 1


def test_a_clamp_can_cut_the_graphs_of_given_degrees_into_parts() -> None:
    """What the documents warn of: the two perfect matchings inside a hexagon, every pair outside of it clamped."""
    graphs = all_graphs(4, lambda g: degrees(g, 4) == (1, 1, 1, 1))
    free = nx.from_numpy_array(swap_proposal(graphs))
    assert nx.is_connected(free)
    parts = nx.number_connected_components
    hexagons = [g for g in all_graphs(6, lambda g: degrees(g, 6) == (1,) * 6)
                if not g & {(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (0, 3), (1, 4), (2, 5)}]
    cut = frozenset({(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (0, 3), (1, 4), (2, 5)})
    assert len(hexagons) == 2
    assert parts(nx.from_numpy_array(swap_proposal(hexagons, cut))) == 2


def target(kind: str, n: int, what: tuple[int, ...] | int) -> Target:
    x, _, energy, _ = case(kind, n, what)
    number = {tuple(state): k for k, state in enumerate(x.tolist())}
    return Target(f"{what}", energy, x, row_of=lambda y: torch.tensor([number[tuple(state)] for state in y.tolist()]))


@pytest.mark.parametrize(("kind", "n", "what"), [("degree-swap", 5, (2, 2, 2, 1, 1)), ("edge-move", 4, 3)])
def test_the_kernels_conform(kind: str, n: int, what, seed: int) -> None:
    """False-fail budget 1e-7 each."""
    report = check_sampler(kind, seed=seed, targets=[target(kind, n, what)])
    assert report.passed
    assert not report.skipped


class LeakyMove(swaps.EdgeMove):
    """Planted: sometimes adds the new edge without taking the old one."""

    def propose(self, x, free, space, generator):
        y, legal = super().propose(x, free, space, generator)
        return torch.where(x[:, :1] > 0, torch.maximum(x, y), y), legal


class SameTurn(swaps.DegreeSwap):
    """Planted: one of the two rewirings only. Its way back may be the other one."""

    def propose(self, x, free, space, generator):
        bits = x[:, space.offset:]
        edges, enough = swaps._draw(free & (bits > 0), 2, generator)
        edges = edges.sort(1).values
        ends = gn.node_pairs(space.n_nodes)[:, edges]
        a, b, c, d = ends[0, :, 0], ends[1, :, 0], ends[0, :, 1], ends[1, :, 1]
        apart = (a != c) & (a != d) & (b != c) & (b != d)
        new = torch.stack([torch.where(apart, gn.pair_index(u, v, space.n_nodes), edges[:, 0])
                           for u, v in ((a, d), (c, b))], 1)
        return bits.scatter(1, edges, 0).scatter(1, new, 1), enough & apart & (bits.gather(1, new) == 0).all(1)


class Weighted(swaps.EdgeMove):
    """Planted: the new pair is drawn with weight on later sites, without a Hastings term."""

    def propose(self, x, free, space, generator):
        old, some = swaps._draw(free & (x > 0), 1, generator)
        weight = torch.arange(1.0, x.shape[1] + 1) * (free & (x == 0))
        room = weight.sum(1) > 0
        new = torch.multinomial(weight + (~room)[:, None], 1, generator=generator)
        return x.scatter(1, old, 0).scatter(1, new, 1), some & room


class ColdEnergy(swaps.DegreeSwap):
    """Planted: beta is forgotten."""

    def step(self, energy, state, *, generator, beta=1.0, clamp=None):
        return super().step(energy, state, generator=generator, beta=1.0, clamp=clamp)


class ForgetsClamp(swaps.DegreeSwap):
    """Planted: the clamp guards the edges that leave, not the pairs that they go to."""

    def propose(self, x, free, space, generator):
        return super().propose(x, free | (x == 0), space, generator)


@pytest.mark.mutants
@pytest.mark.parametrize(("mutant", "kind", "number", "beta"), [
    (SameTurn(), "degree-swap", 1, 0.7), (ColdEnergy(), "degree-swap", 1, 0.3), (Weighted(), "edge-move", 4, 0.7),
    (ForgetsClamp(), "degree-swap", 3, 0.7), (LeakyMove(), "edge-move", 4, 0.7),
    (swaps.DegreeSwap(laziness=0.3), "degree-swap", 1, 0.0)])  # fmt: skip
def test_planted_mutants_are_caught(mutant, kind: str, number: int, beta: float, seed: int) -> None:
    kind, n, what, clamped, value = CASES[number]
    x, matrix, energy, _ = case(kind, n, what, clamped, value)
    clamp = torch.tensor([pair in clamped for pair in PAIRS[n]]) if clamped else None

    def checked() -> None:
        counts = counts_of(mutant, energy, x, 5000, beta, seed, clamp)
        assert_rows_match(counts, matrix(beta), false_fail=FALSE_FAIL, must_see=0.09)

    with pytest.raises(AssertionError):
        checked()


@pytest.mark.mutants
def test_a_mutant_fails_the_conformance_suite_too(seed: int) -> None:
    row = registry.spec("edge-move")
    with pytest.raises(ConformanceError):
        check_sampler(type(row)(**{**row.__dict__, "build": Weighted}), seed=seed, targets=[target("edge-move", 4, 3)])


def test_degrees_are_kept_on_a_real_network_in_all_chains_at_once() -> None:
    kept = gn.from_networkx(nx.les_miserables_graph())
    energy = gn.ERGM(77, [gn.Triangles()], torch.tensor([0.0]))
    chains = de.sample(energy, "degree-swap", n_chains=8, n_steps=400, x0=kept.x[0], seed=2)
    degree = kept.space.adjacency(kept.x)[0].sum(0)
    assert torch.equal(kept.space.adjacency(chains.last).sum(1), degree.expand(8, -1))
    assert len(chains.last.unique(dim=0)) == 8
    assert 0.3 < chains.acceptance_rate < 0.95


def test_fixed_edges_and_fixed_non_edges_stay_by_clamping() -> None:
    kept = gn.from_networkx(nx.florentine_families_graph())
    clamp = torch.zeros(105, dtype=torch.bool)
    clamp[gn.pair_index(torch.tensor([1, 1]), torch.tensor([2, 14]), 15)] = True
    clamp[:20] = True  # edges and non-edges
    energy = gn.ERGM(15, [gn.Edges(), gn.GWESP(0.5)], torch.tensor([-2.0, 0.4]))
    for name in ("gibbs", "gwg", "degree-swap", "edge-move"):
        chains = de.sample(energy, name, n_chains=6, n_steps=10, x0=kept.x[0], clamp=clamp)
        assert torch.equal(chains.last[:, clamp], kept.x[:, clamp].expand(6, -1))
        assert not torch.equal(chains.last, kept.x.expand(6, -1))


@pytest.mark.parametrize("name", ["degree-swap", "edge-move"])
def test_graphs_without_a_move_stay_and_are_not_called_accepted(name: str) -> None:
    energy = gn.ERGM(4, [gn.Edges()], torch.tensor([1.0]))
    x0 = torch.stack([torch.zeros(6), torch.ones(6)]).to(torch.int8)
    chains = de.sample(energy, name, n_steps=5, x0=x0)
    assert torch.equal(chains.last, x0)
    assert chains.acceptance_rate == 0
    tiny = gn.ERGM(2, [gn.Edges()], torch.tensor([1.0]))
    assert de.sample(tiny, name, n_chains=3, n_steps=5).acceptance_rate == 0


def test_forbidden_and_broken_energies_are_never_entered() -> None:
    space = gn.GraphSpace(4)
    forbidden = de.from_callable(lambda e: torch.where(e[:, 0] > 0, torch.inf, 0.0), space)
    x0 = torch.tensor([[0, 1, 0, 0, 1, 0]], dtype=torch.int8).expand(50, -1)
    assert not bool(de.sample(forbidden, "degree-swap", n_steps=30, x0=x0).x[..., 0].any())
    broken = de.from_callable(lambda e: torch.where(e[:, 0] > 0, torch.nan, 0.0), space)
    with pytest.raises(de.errors.NonFiniteEnergyError):
        de.sample(broken, "degree-swap", n_steps=30, x0=x0)


def test_wrong_uses_end_with_a_sentence() -> None:
    with pytest.raises(SettingError, match="laziness"):
        gn.DegreeSwap(laziness=1.0)
    ising = de.energies.Ising.lattice((2, 2), 0.4)
    with pytest.raises(SettingError, match="GraphSpace"):
        de.sample(ising, "degree-swap", n_steps=2)
    with pytest.raises(SpaceError, match="simple graphs"):
        gn.EdgeMove().init(ising, torch.ones(1, 2, 2), generator=torch.Generator())


def test_a_resumed_state_goes_on_to_the_bit() -> None:
    energy = an_energy(6)
    x0 = states_of(all_graphs(6, lambda g: degrees(g, 6) == (3, 2, 2, 1, 1, 1))[:5], 6)
    generator = torch.Generator().manual_seed(3)
    first = de.sample(energy, "degree-swap", n_steps=10, x0=x0, seed=generator)
    assert isinstance(first.state, ChainState)
    then = de.sample(energy, "degree-swap", n_steps=10, x0=first.state, seed=generator)
    whole = de.sample(energy, "degree-swap", n_steps=20, x0=x0, seed=3)
    assert torch.equal(then.last, whole.last)
