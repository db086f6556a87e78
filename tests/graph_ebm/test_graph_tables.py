"""Tables of molecular graphs and the fragment library, against NetworkX on random graphs and real molecules."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_ebm.errors import SettingError
from graph_ebm.datasets import load
from graph_ebm.graphs import MoleculeSet
from graph_ebm.moves import FragmentLibrary, _fast, fragments, mine_fragments, mine_moves, mine_ring_patterns
from graph_ebm.moves.fragments import MAX_FRAGMENT, AttachFragment, _rooted
from graph_ebm.moves.tables import GraphTables, add_atom, permute, remove_atom, set_bond, set_type
from tests.graph_ebm.real_moves import graph, same
from tests.graph_ebm.small_space import relabelled

VALENCE = torch.tensor((0, 4, 3, 2))
FAST = settings(max_examples=60, deadline=None)


@st.composite
def connected_states(draw: st.DrawFn, largest: int = 38) -> torch.Tensor:
    """A state (1, V, V): a random tree with extra bonds (not a molecule: the tables know nothing of valences)."""
    n = draw(st.integers(1, largest))
    v = draw(st.integers(n, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    chain = draw(st.booleans())  # long chains are the hard case of the float32 potentials
    x = torch.zeros(v, v, dtype=torch.int8)
    x[torch.arange(n), torch.arange(n)] = torch.tensor(rng.integers(1, 4, n), dtype=torch.int8)
    order = rng.permutation(n)
    for place in range(1, n):
        a, b = order[place], order[place - 1 if chain else rng.integers(place)]
        x[a, b] = x[b, a] = int(rng.integers(1, 4))
    for _ in range(draw(st.integers(0, 6))):
        a, b = rng.integers(n, size=2)
        if a != b:
            x[a, b] = x[b, a] = int(rng.integers(1, 4))
    return x[None]


def _check_tables(x: torch.Tensor) -> None:
    """The compiled searches (where numba is installed) and the tensor versions, both against NetworkX."""
    for compiled in {_fast.AVAILABLE, False}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_fast, "AVAILABLE", compiled)
            _check_one(x)


def _check_one(x: torch.Tensor) -> None:
    t, g = GraphTables(x[None], VALENCE), graph(x)
    n = len(g)
    assert int(t.n_atoms) == n
    assert torch.equal(t.present[0], torch.arange(len(x)) < n)
    assert t.degree[0, :n].tolist() == [g.degree(i) for i in range(n)]
    assert t.order_sum[0, :n].tolist() == [g.degree(i, weight="order") for i in range(n)]
    bridges = {pair for i, j in nx.bridges(g) for pair in ((i, j), (j, i))}
    assert {tuple(pair) for pair in t.bridges[0].nonzero().tolist()} == bridges
    distance = dict(nx.all_pairs_shortest_path_length(g))
    for i in range(n):
        assert t.distance[0, i, :n].tolist() == [min(8, distance[i][j]) for j in range(n)]
        others = sorted(g[i])
        if others:
            first, last = t.neighbours(torch.tensor([i]))
            assert (int(first), int(last)) == (others[0], others[-1])
    for keep, moved in g.edges:
        cut = g.copy()
        cut.remove_edge(keep, moved)
        for a, b in ((keep, moved), (moved, keep)):
            side = nx.node_connected_component(cut, b)
            assert set(t.side(torch.tensor([a]), torch.tensor([b]))[0].nonzero()[:, 0].tolist()) == side
            if (a, b) in bridges:
                assert int(t.side_size[0, a, b]) == len(side)


@FAST
@given(connected_states())
def test_tables_agree_with_networkx_on_random_graphs(x: torch.Tensor) -> None:
    _check_tables(x[0])


@pytest.mark.parametrize("v", [38, 128])
def test_bridges_and_sides_are_exact_on_the_longest_chains(v: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 potentials at their worst condition: a chain, a ring, a long tail at a small ring."""
    monkeypatch.setattr(_fast, "AVAILABLE", False)
    for g in (nx.path_graph(v), nx.cycle_graph(v), nx.lollipop_graph(3, v - 3)):
        x = torch.tensor(nx.to_numpy_array(g), dtype=torch.int8) + torch.eye(v, dtype=torch.int8)
        t = GraphTables(x[None], VALENCE)
        bridges = {pair for i, j in nx.bridges(g) for pair in ((i, j), (j, i))}
        assert {tuple(pair) for pair in t.bridges[0].nonzero().tolist()} == bridges
        for i, j in bridges:
            cut = g.copy()
            cut.remove_edge(i, j)
            assert int(t.side_size[0, i, j]) == len(nx.node_connected_component(cut, j))


@lru_cache(maxsize=4)
def _data(name: str, limit: int = 600) -> MoleculeSet:
    return load(name, limit)


def _valence(data: MoleculeSet) -> torch.Tensor:
    return data.vocabulary.valence_table(torch.device("cpu")).long()


@pytest.mark.parametrize("name", ["qm9-sample", "zinc-sample"])
def test_tables_agree_with_networkx_on_real_molecules(name: str) -> None:
    for x in _data(name).x[:25]:
        _check_tables(x)


@FAST
@given(connected_states(12), st.integers(0, 2**32))
def test_relabelling_and_removing_keep_the_rest(x: torch.Tensor, seed: int) -> None:
    rng, n, v = np.random.default_rng(seed), int((x[0].diagonal() > 0).sum()), x.shape[-1]
    order = torch.tensor(np.concatenate([rng.permutation(n), np.arange(n, v)]))[None]
    y = permute(x, order)
    assert torch.equal(y, x[:, order[0]][:, :, order[0]])
    assert torch.equal(permute(y, order.argsort(1)), x)
    atom, n_atoms = int(rng.integers(n)), torch.tensor([n])
    less = remove_atom(x, n_atoms, torch.tensor([atom]))
    wanted = graph(x[0])
    wanted.remove_node(atom)
    assert nx.is_isomorphic(graph(less[0]), wanted, lambda a, b: a == b, lambda a, b: a == b)
    assert int((less[0].diagonal() > 0).sum()) == n - 1
    assert bool((less[0, : n - 1].diagonal() > 0).all()), "atoms stay compact"
    if n < v:
        more, slot = add_atom(x, n_atoms, torch.tensor([2]))
        assert int(slot) == n
        assert torch.equal(remove_atom(more, n_atoms + 1, slot), x)
    before = x.clone()
    if n > 1:
        i, j = rng.choice(n, 2, replace=False)
        z = set_bond(set_type(x, torch.tensor([i]), torch.tensor([3])), *map(torch.tensor, ([i], [j], [2])))
        assert (int(z[0, i, j]), int(z[0, j, i]), int(z[0, i, i])) == (2, 2, 3)
        changed = {(i, i), (i, j), (j, i)}
        assert {tuple(place) for place in (z[0] != x[0]).nonzero().tolist()} <= changed
    assert torch.equal(x, before)


def test_tables_are_shared_for_one_tensor_and_computed_anew_after_a_change() -> None:
    x = _data("qm9-sample").x[:8].clone()
    valence = _valence(_data("qm9-sample"))
    tables = GraphTables.of(x, valence)
    assert GraphTables.of(x, valence) is tables
    assert GraphTables.of(x.clone(), valence) is not tables
    assert GraphTables.of(x, valence.clone()) is not tables
    x[0, 0, 0] = 2
    assert GraphTables.of(x, valence) is not tables


# -- the fragment library --------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _library(name: str) -> FragmentLibrary:
    data = _data(name)
    library = mine_fragments(data.x, _valence(data), most=120)
    assert library is not None
    return library


def _rooted_graph(block: torch.Tensor, order: int) -> nx.Graph:
    """A fragment with its anchor as one more atom, of a type that no other has."""
    g = graph(block)
    g.add_node("anchor", type=-1)
    g.add_edge("anchor", 0, order=order)
    return g


def _equal(a: dict, b: dict) -> bool:
    return a == b


def _library_graphs(library: FragmentLibrary) -> list[nx.Graph]:
    return [_rooted_graph(b, int(o)) for b, o in zip(library.blocks, library.orders, strict=True)]


@pytest.mark.parametrize("name", ["qm9-sample", "zinc-sample"])
def test_automorphisms_of_mined_fragments_are_those_that_networkx_counts(name: str) -> None:
    library = _library(name)
    assert len(library) > 50
    counts = []
    for g, value in zip(_library_graphs(library), library.log_automorphisms.exp().tolist(), strict=True):
        matcher = nx.algorithms.isomorphism.GraphMatcher(g, g, _equal, _equal)
        counts.append(sum(1 for _ in matcher.isomorphisms_iter()))
        assert value == pytest.approx(counts[-1], rel=1e-5)
    assert max(counts) >= 2


@pytest.mark.parametrize("name", ["qm9-sample", "zinc-sample"])
def test_fragments_of_a_library_differ(name: str) -> None:
    graphs = _library_graphs(_library(name))
    for i, a in enumerate(graphs):
        for b in graphs[:i]:
            assert not (nx.faster_could_be_isomorphic(a, b) and nx.is_isomorphic(a, b, _equal, _equal))


def _check_find(name: str, molecules: int, seed: int, library: FragmentLibrary) -> tuple[int, int, set[int]]:
    """(positives, negatives, fragments met) after every side of a bridge was looked up and compared with NetworkX."""
    data = _data(name)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data), generator=generator)[:molecules]
    x = relabelled(data.x[rows], generator)
    tables = GraphTables(x, _valence(data))
    chain, anchor, root = (tables.bridges & (tables.side_size <= MAX_FRAGMENT)).nonzero(as_tuple=True)
    many = GraphTables(x[chain], _valence(data))
    owner, known = library.find(_rooted(many, anchor, root))
    sides = many.side(anchor, root)
    graphs = _library_graphs(library)
    met = set()
    for c, a, r, number, found, side in zip(chain, anchor, root, owner, known, sides, strict=True):
        atoms = [int(r), *(i for i in side.nonzero()[:, 0].tolist() if i != int(r))]
        g = _rooted_graph(x[c][atoms][:, atoms], int(x[c, a, r]))
        if found:
            assert nx.is_isomorphic(g, graphs[int(number)], _equal, _equal), "found as another fragment"
            met.add(int(number))
        else:
            twins = [h for h in graphs if nx.faster_could_be_isomorphic(g, h)]
            assert not any(nx.is_isomorphic(g, h, _equal, _equal) for h in twins), "a known fragment is not found"
    return int(known.sum()), int((~known).sum()), met


@pytest.mark.parametrize("name", ["qm9-sample", "zinc-sample"])
def test_a_side_is_found_exactly_when_networkx_finds_it(name: str, seed: int) -> None:
    library = _library(name)
    positives, negatives, met = _check_find(name, 120, seed, library)
    assert min(positives, negatives) > 30
    codes = torch.bincount(library.owner, minlength=len(library))
    if name == "zinc-sample":
        assert any(codes[number] > 1 for number in met), "no fragment with several codes was met"


def test_a_library_with_one_code_a_fragment_is_found_out(seed: int) -> None:
    """Planted: ties in the canonical order (ortho against meta pairs of phenyl) have several codes, one is kept."""
    library = _library("zinc-sample")
    first = torch.tensor([int((library.owner == t).nonzero()[0]) for t in range(len(library))]).sort().values
    fields = {name: getattr(library, name) for name in library.__dataclass_fields__}
    shorter = FragmentLibrary(**fields | {name: fields[name][first] for name in ("keys", "words", "owner")})
    with pytest.raises(AssertionError, match="is not found"):
        _check_find("zinc-sample", 120, seed, shorter)


def test_codes_that_ignore_the_bond_to_the_anchor_are_found_out(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    library = _library("qm9-sample")
    right = fragments._encode
    monkeypatch.setattr(fragments, "_encode", lambda block, order: right(block, torch.ones_like(order)))
    with pytest.raises(AssertionError, match=r"another fragment|not found"):
        _check_find("qm9-sample", 120, seed, library)


def test_attaching_and_removing_is_the_identity_up_to_the_order_of_the_atoms(seed: int) -> None:
    data, library = _data("zinc-sample"), _library("zinc-sample")
    move = AttachFragment(_valence(data), library)
    generator, v = torch.Generator().manual_seed(seed), data.x.shape[-1]
    free = move.site_weights(data.x)[:, :v] > 0
    x = relabelled(data.x[free.any(1)][:150], generator)
    site = torch.multinomial(move.site_weights(x)[:, :v] + 1e-30, 1, generator=generator)[:, 0]
    options = move.option_weights(x, site)
    option = torch.multinomial(options + 1e-30, 1, generator=generator)[:, 0]
    legal = options.gather(1, option[:, None])[:, 0] > 0
    x, site, option = x[legal], site[legal], option[legal]
    assert len(x) > 100
    y = move.apply(x, site, option)
    data.space.validate(y)
    assert bool(data.space.connected(y).all())
    back_site, back_option = move.reverse(x, site, option, y)
    again = move.apply(y, back_site, back_option)
    for before, after in zip(x, again, strict=True):
        assert same(before, after)
    there, back = move.reverse(y, back_site, back_option, again)
    assert torch.equal(back, option), "the fragment that was attached is the fragment that is recognised"
    assert bool(move.log_prob(again, there, back).isfinite().all())


def test_more_atom_types_than_a_code_can_hold_are_refused() -> None:
    """Five bits a type: with 32 types, two fragments could share one code and be taken for each other."""
    valence = torch.cat([torch.zeros(1, dtype=torch.long), torch.full((32,), 4)])
    data = _data("qm9-sample").x[:200]
    with pytest.raises(SettingError, match=r"`valence` must have at most 31 atom types"):
        mine_fragments(data, valence)
    assert mine_moves(data, valence).library is None
    with pytest.raises(SettingError, match="`size` must be smaller"):
        mine_ring_patterns(data, valence, 9, with_types=True)


def test_threads_do_not_share_their_tables() -> None:
    x, valence = _data("qm9-sample").x[:8], _valence(_data("qm9-sample"))
    mine = GraphTables.of(x, valence)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(GraphTables.of, x, valence).result() is not mine
    assert GraphTables.of(x, valence) is mine
