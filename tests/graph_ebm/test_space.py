"""The molecular space: encodings, checks, random starts, connectivity, valence."""

import networkx as nx
import pytest
import torch

import graph_ebm as ge
from discrete_ebm.errors import SettingError, ShapeError, SpaceError
from graph_ebm.space import MolecularSpace, off_diagonal
from graph_ebm.vocabulary import Vocabulary

VOCABULARY = Vocabulary((("C", 0), ("N", 0), ("O", 0), ("F", 0), ("N", 1)))


@pytest.fixture(scope="module")
def space():
    return MolecularSpace(VOCABULARY, max_atoms=9)


@pytest.fixture(scope="module")
def x(space):
    return space.random(500, torch.Generator().manual_seed(0))


def test_random_states_are_valid_small_and_varied(space, x):
    assert x.dtype == torch.int8
    assert x.shape == (500, 9, 9)
    assert space.validate(x) is not None
    sizes = space.n_atoms(x)
    assert int(sizes.min()) == 1
    assert int(sizes.max()) == 6
    assert len(set(ge.to_smiles(x, VOCABULARY))) > 150
    assert torch.equal(x, space.random(500, torch.Generator().manual_seed(0)))


def test_random_respects_a_cap_below_its_tree_size():
    tiny = MolecularSpace(VOCABULARY, max_atoms=1)
    assert tiny.validate(tiny.random(20, torch.Generator().manual_seed(1))).shape == (20, 1, 1)
    monovalent = MolecularSpace(Vocabulary((("F", 0),)), max_atoms=4)
    assert int(monovalent.n_atoms(monovalent.random(200, torch.Generator().manual_seed(1))).max()) == 2


def test_encode_is_one_hot_with_absent_atoms_and_diagonal_zero(space, x):
    nodes, bonds = space.encode(x)
    assert nodes.shape == (500, 9, 6)
    assert bonds.shape == (500, 9, 9, 4)
    assert torch.equal(nodes.sum(-1), torch.ones(500, 9))
    present = nodes[..., 0] == 0
    pairs = (present[:, :, None] & present[:, None, :]) & ~torch.eye(9, dtype=torch.bool)
    assert torch.equal(bonds.sum(-1), pairs.float())
    assert torch.equal(bonds, bonds.transpose(1, 2))
    assert torch.equal(space.decode(space.encode(x)), x)


def test_encoding_follows_a_permutation_of_atoms(space, x):
    y = space.permute(x, torch.Generator().manual_seed(3))
    space.validate(y)
    assert not torch.equal(x, y)
    assert ge.to_smiles(y, VOCABULARY) == ge.to_smiles(x, VOCABULARY)


def test_connected_agrees_with_networkx(space):
    generator = torch.Generator().manual_seed(5)
    n = 400
    bonds = (torch.rand(n, 9, 9, generator=generator) < 0.3).triu(1).to(torch.int8)
    size = torch.randint(0, 10, (n,), generator=generator)
    here = torch.arange(9) < size[:, None]
    bonds = bonds * here[:, :, None] * here[:, None, :]
    states = bonds + bonds.transpose(1, 2) + torch.diag_embed(here.to(torch.int8))
    expected = []
    for k, state in zip(size.tolist(), off_diagonal(states), strict=True):
        expected.append(k > 0 and nx.is_connected(nx.from_numpy_array(state[:k, :k].numpy())))
    assert space.connected(states).tolist() == expected
    assert 50 < sum(expected) < 350


def test_connected_follows_the_longest_path():
    for v in (1, 2, 3, 17, 33, 38, 64):
        chain, _ = ge.from_smiles(["C" * v], max_atoms=v)
        assert chain.space.connected(chain.x).tolist() == [True]


def test_valence_used_and_free(space):
    graphs, _ = ge.from_smiles(["C=O", "C[NH3+]"], VOCABULARY, 9)
    names = [[VOCABULARY.names[k - 1] for k in row if k] for row in space.types(graphs.x).tolist()]
    used = [dict(zip(n, u, strict=False)) for n, u in zip(names, space.valence_used(graphs.x).tolist(), strict=True)]
    free = [dict(zip(n, u, strict=False)) for n, u in zip(names, space.valence_free(graphs.x).tolist(), strict=True)]
    assert used == [{"C": 2, "O": 2}, {"C": 1, "N+": 1}]
    assert free == [{"C": 2, "O": 0}, {"C": 3, "N+": 3}]


def bad(x, **changes):
    y = x.clone()
    for (i, j), value in changes.get("at", {}).items():
        y[0, i, j] = value
    return y


def test_validate_names_what_is_wrong(space):
    good, _ = ge.from_smiles(["CCO", "CC(C)=O"], VOCABULARY, 9)
    x = good.x
    assert torch.equal(space.validate(x.long()), x)
    cases = [
        (bad(x, at={(0, 0): 6}), "atom types 0..5"),
        (bad(x, at={(0, 0): -1}), "atom types 0..5"),
        (bad(x, at={(0, 1): 4, (1, 0): 4}), "bond orders 0..3"),
        (bad(x, at={(0, 1): 3}), "be symmetric"),
        (bad(x, at={(5, 5): 1}), "without gaps"),
        (bad(x, at={(0, 8): 1, (8, 0): 1}), "bond only atoms that are there"),
        (bad(x, at={(0, 1): 3, (1, 0): 3, (1, 2): 2, (2, 1): 2}), "largest bond-order sums"),
        (bad(x, at={(3, 3): 1}), "one connected molecule"),
        (torch.zeros_like(x), "at least one atom"),
    ]
    for state, words in cases:
        with pytest.raises(SpaceError, match=words):
            space.validate(state)
    with pytest.raises(SpaceError, match="integers"):
        space.validate(x.float())
    with pytest.raises(ShapeError, match="9, 9"):
        space.validate(x[0])
    with pytest.raises(SpaceError, match="got 1 of 2 states that do not, the first is state 0 at"):
        space.validate(bad(x, at={(0, 1): 3}))


def test_compact_moves_atoms_to_the_front(space):
    good, _ = ge.from_smiles(["CCO"], VOCABULARY, 9)
    order = torch.tensor([5, 0, 6, 1, 2, 3, 4, 7, 8])
    scattered = good.x[:, order][:, :, order]
    with pytest.raises(SpaceError, match="slot 0"):
        space.validate(scattered)
    assert ge.to_smiles(space.validate(space.compact(scattered)), VOCABULARY) == ["CCO"]


def test_space_is_a_value_and_round_trips_through_json(space):
    again = MolecularSpace.from_dict(space.to_dict())
    assert again == space
    assert hash(again) == hash(space)
    assert again != MolecularSpace(VOCABULARY, 10)
    assert space.name == "Molecular"
    assert "N+" in repr(space)
    with pytest.raises(SpaceError, match="too many"):
        space.enumerate()


@pytest.mark.parametrize("max_atoms", [0, -1, 129, 2.5, True, "9"])
def test_bad_caps_are_refused(max_atoms):
    with pytest.raises(SettingError, match="max_atoms"):
        MolecularSpace(VOCABULARY, max_atoms)
