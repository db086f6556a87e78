"""torch-geometric: round trip, and users' data sets in their usual forms."""

import pytest
import torch

import graph_ebm as ge
from discrete_ebm.errors import MoleculeError

Data = pytest.importorskip("torch_geometric.data").Data


def test_round_trip_is_exact():
    molecules = ge.datasets.load("zinc-sample", limit=100)
    graphs = molecules.to_pyg()
    assert len(graphs) == 100
    assert float(graphs[0].qed) == pytest.approx(molecules.properties["qed"][0])
    back, rejected = ge.from_pyg(graphs, molecules.vocabulary)
    assert len(rejected) == 0
    assert torch.equal(back.x, molecules.x)


def test_fields_are_what_torch_geometric_layers_expect():
    molecules, _ = ge.from_smiles(["C[NH+](C)C", "C=O"])
    batch = ge.to_pyg(molecules, batch=True)
    assert batch.num_graphs == 2
    assert batch.x.shape == (6, molecules.vocabulary.size)
    assert batch.edge_index.shape == (2, 2 * 4)
    assert batch.edge_attr.sum(0).tolist() == [6, 2, 0]
    assert sorted(batch.z.tolist()) == [6, 6, 6, 6, 7, 8]
    assert batch.charge.sum() == 1
    assert batch.is_undirected()
    again, _ = ge.from_pyg(batch, molecules.vocabulary)
    assert again.smiles == molecules.smiles


def test_one_hot_nodes_with_named_columns():
    molecules = ge.datasets.load("qm9-sample", limit=50)
    bare = [Data(x=g.x, edge_index=g.edge_index, edge_attr=g.edge_attr) for g in molecules.to_pyg()]
    back, rejected = ge.from_pyg(bare, node_types=molecules.vocabulary)
    assert back.smiles == molecules.smiles
    assert len(rejected) == 0
    with pytest.raises(MoleculeError, match="node_types="):
        ge.from_pyg(bare)


def test_aromatic_orders_explicit_hydrogens_and_one_way_edges():
    ring = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    benzene = Data(z=torch.full((6,), 6), edge_index=ring, edge_attr=torch.full((6, 1), 1.5))
    four = Data(z=torch.full((6,), 6), edge_index=ring, edge_attr=torch.eye(4)[[3] * 6])
    methane = Data(z=torch.tensor([6, 1, 1, 1, 1]), edge_index=torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]]))
    single = Data(z=torch.tensor([8]), edge_index=torch.zeros(2, 0, dtype=torch.long))
    graphs, rejected = ge.from_pyg([benzene, four, methane, single])
    assert graphs.smiles == ["c1ccccc1", "c1ccccc1", "C", "O"]
    assert len(rejected) == 0


def test_graphs_that_are_no_molecules_are_counted():
    none = torch.zeros(2, 0, dtype=torch.long)
    graphs = [
        Data(z=torch.tensor([6, 8]), edge_index=torch.tensor([[0], [1]])),
        Data(z=torch.tensor([], dtype=torch.long), edge_index=none),
        Data(z=torch.tensor([6, 6]), edge_index=none),
        Data(z=torch.tensor([9, 9, 9]), edge_index=torch.tensor([[0, 1], [1, 2]])),
        Data(z=torch.tensor([6, 6]), edge_index=torch.tensor([[0], [7]])),
        Data(z=torch.tensor([6, 6]), edge_index=torch.tensor([[0], [1]]), edge_attr=torch.tensor([[4.0]])),
        Data(z=torch.tensor([0]), edge_index=none),
        Data(z=torch.full((600,), 6), edge_index=none),
        Data(z=torch.full((30,), 92), edge_index=torch.ones(30, 30).nonzero().t()),
    ]
    kept, rejected = ge.from_pyg(graphs)
    assert kept.smiles == ["CO"]
    assert [(item.index, item.reason) for item in rejected] == [
        (1, "empty"),
        (2, "disconnected"),
        (3, "valence"),
        (4, "parse_error"),
        (5, "bond_type"),
        (6, "unknown_type"),
        (7, "too_many_atoms"),
        (8, "too_many_rings"),
    ]
    assert rejected.n_in == 9


def test_edge_attributes_of_another_width_are_refused():
    graph = Data(z=torch.tensor([6, 6]), edge_index=torch.tensor([[0], [1]]), edge_attr=torch.zeros(1, 7))
    with pytest.raises(MoleculeError, match="edge_attr"):
        ge.from_pyg([graph])
