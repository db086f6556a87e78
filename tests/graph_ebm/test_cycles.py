"""Ring features: exact counts against networkx, compiled against tensor-only, relaxation exact at integer states."""

import networkx as nx
import pytest
import torch
from torch import Tensor

import graph_ebm as ge
from graph_ebm.energies import _fast, cycles
from graph_ebm.energies.cycles import closed_walks, cycle_counts, enumerate_cycles, node_cycle_counts, relaxed_cycles

POLYCYCLES = [
    "C",
    "CCO",
    "C1CC1",
    "C1CCC1",
    "c1ccccc1",
    "c1ccc2ccccc2c1",
    "C1C2CC12",
    "C12C3C1C23",  # tetrahedrane core: 3- and 4-rings through every atom
    "C12C3C4C1C5C2C3C45",  # cubane: 6, 16 and 6 cycles of 4, 6 and 8 atoms
    "C1CC2CCC1CC2",
    "C1CC11CC1",
    "C1CC1CCC1CC1",
    "C1CCCCCCC1",
    "C1CCCCCCCC1",
    "O=C1CC2CC1CN2c1ccc2[nH]ccc2c1",
    "CC12CCC3C(CCC4CC(O)CCC43C)C1CCC2O",
]


@pytest.fixture(scope="module")
def states() -> Tensor:
    graphs, rejected = ge.from_smiles(POLYCYCLES, max_atoms=24)
    assert len(rejected) == 0
    return graphs.x


def reference(x: Tensor) -> list[list[int]]:
    """(V, 6) cycles through each atom, from networkx."""
    bonded = (x > 0).fill_diagonal_(False)
    counts = [[0] * 6 for _ in range(len(x))]
    for cycle in nx.simple_cycles(nx.from_numpy_array(bonded.numpy()), length_bound=8):
        for atom in cycle:
            counts[atom][len(cycle) - 3] += 1
    return counts


def test_node_counts_equal_networkx(states: Tensor) -> None:
    assert node_cycle_counts(states).tolist() == [reference(x) for x in states]


def test_molecule_counts_equal_networkx(states: Tensor) -> None:
    sizes = torch.arange(3, 9)
    assert torch.equal(cycle_counts(states), torch.tensor([reference(x) for x in states]).sum(1) // sizes)
    cubane = POLYCYCLES.index("C12C3C4C1C5C2C3C45")
    assert cycle_counts(states)[cubane].tolist() == [0, 6, 0, 16, 0, 6]


def test_tensor_only_counts_equal_the_compiled_ones(states: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = node_cycle_counts(states)
    monkeypatch.setattr(_fast, "AVAILABLE", False)
    assert torch.equal(node_cycle_counts(states), compiled)


def test_enumerated_cycles_are_closed_simple_and_distinct(states: Tensor) -> None:
    slots = states.shape[1]
    for rings in enumerate_cycles(states):
        following = rings.roll(-1, 1)
        assert (states[rings // slots, rings % slots, following % slots] > 0).all()
        ordered = rings.sort(1).values
        assert (ordered[:, 1:] > ordered[:, :-1]).all()
        edges = torch.stack([torch.minimum(rings, following), torch.maximum(rings, following)], -1)
        keys = {tuple(sorted(map(tuple, ring.tolist()))) for ring in edges}
        assert len(keys) == len(rings)


def test_a_molecule_with_more_rings_than_the_first_buffer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = torch.ones(1, 8, 8, dtype=torch.int8)  # K8: no molecule, but 8!/(2·8) Hamiltonian cycles among others
    monkeypatch.setattr(cycles, "_ring_cap", lambda n_max: 8)
    assert cycle_counts(complete).tolist() == [[56, 210, 672, 1680, 2880, 2520]]


def test_disconnected_states_keep_their_rings() -> None:
    x = torch.zeros(1, 7, 7, dtype=torch.int8)
    x[0].diagonal().copy_(torch.ones(6 + 1, dtype=torch.int8))
    for i, j in [(0, 1), (1, 2), (0, 2)]:
        x[0, i, j] = x[0, j, i] = 1
    assert cycle_counts(x).tolist() == [[1, 0, 0, 0, 0, 0]]


def test_closed_walks_count_small_cycles_of_integer_graphs(states: Tensor) -> None:
    adjacency = (states > 0).double() * ~torch.eye(states.shape[1], dtype=torch.bool)
    _, totals = closed_walks(adjacency)
    assert torch.equal(totals[:, :3].round().long(), cycle_counts(states)[:, :3])
    # single rings of 6 and 8 atoms, where the walks are exact too
    for smiles, column in (("c1ccccc1", 3), ("C1CCCCCCC1", 5)):
        assert totals[POLYCYCLES.index(smiles)].tolist() == [float(s == column) for s in range(6)]


def test_relaxed_counts_are_exact_at_states_and_smooth_around_them(states: Tensor) -> None:
    adjacency = ((states > 0).double() * ~torch.eye(states.shape[1], dtype=torch.bool)).requires_grad_()
    nodes, totals = relaxed_cycles(adjacency, states)
    torch.testing.assert_close(nodes, node_cycle_counts(states).double())
    torch.testing.assert_close(totals, cycle_counts(states).double())
    triangle = POLYCYCLES.index("CCO")
    (slope,) = torch.autograd.grad(totals[triangle, 0], adjacency)
    # closing C-C-O makes one three-ring: both entries of the absent bond carry half of that slope
    assert slope[triangle, 0, 2].item() + slope[triangle, 2, 0].item() == pytest.approx(1.0)
