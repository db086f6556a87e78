"""from_smiles, MoleculeSet and Rejections: what is kept, what is counted, and the package's public names."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import graph_ebm as ge
from discrete_ebm.errors import MoleculeError, ShapeError
from graph_ebm.chem.parse import kept_indices, read_many


def test_kept_and_rejected_add_up_and_keep_their_order():
    smiles = ["CCO", "bad", "c1ccccc1", "", "C" * 39, "N"]
    graphs, rejected = ge.from_smiles(smiles)
    assert graphs.smiles == ["CCO", "c1ccccc1", "N"]
    assert [(r.index, r.reason) for r in rejected] == [(1, "parse_error"), (3, "empty"), (4, "too_many_atoms")]
    assert rejected[0].text == "bad"
    assert rejected.n_in == 6
    assert rejected.n_kept == 3
    assert kept_indices(read_many(smiles)[1]) == [0, 2, 4, 5]
    assert graphs.rejections is rejected
    assert "e.g. entry 1: 'bad'" in str(rejected)


def test_max_atoms_is_the_number_of_slots():
    graphs, rejected = ge.from_smiles(["C" * n for n in range(1, 60)], max_atoms=50)
    assert graphs.x.shape == (50, 50, 50)
    assert graphs.n_atoms.tolist() == list(range(1, 51))
    assert rejected.counts() == {"too_many_atoms": 9}


def test_a_given_vocabulary_is_kept_and_its_limits_are_enforced():
    vocabulary = ge.Vocabulary((("C", 0), ("S", 0)), (4, 2))
    graphs, rejected = ge.from_smiles(["CSC", "CS(C)(=O)=O", "CS(C)(C)(C)C", "CCO"], vocabulary)
    assert graphs.smiles == ["CSC"]
    assert rejected.counts() == {"valence": 2, "unknown_type": 1}
    assert graphs.space.vocabulary is vocabulary


def test_nothing_usable_is_a_sentence_with_the_reasons():
    with pytest.raises(MoleculeError, match=r"at least one usable molecule; got none among 2:[\s\S]*1 parse_error"):
        ge.from_smiles(["bad", ""])
    graphs, rejected = ge.from_smiles(["bad"], ge.Vocabulary((("C", 0),)))
    assert len(graphs) == 0
    assert len(rejected) == 1
    assert graphs.smiles == ge.to_smiles(graphs) == []


def test_rdkit_molecules_are_read_too():
    from rdkit import Chem

    ethanol, nothing, methane = (Chem.MolFromSmiles(text) for text in ("OCC", "", "C"))
    graphs, rejected = ge.from_smiles([ethanol, nothing, Chem.AddHs(methane)])
    assert graphs.smiles == ["CCO", "C"]
    assert rejected.counts() == {"empty": 1}


def test_atom_maps_and_stereo_are_dropped_and_nothing_else():
    graphs, _ = ge.from_smiles(["[CH3:1][C@@H:2](O)/C=C/F", "[H]C([H])([H])O"])
    assert graphs.smiles == ["CC(O)C=CF", "CO"]


def test_canonical_flag_changes_nothing_for_canonical_smiles():
    smiles = ge.datasets.load("zinc-sample", limit=200).smiles
    first, _ = ge.from_smiles(smiles)
    second, _ = ge.from_smiles(smiles, canonical=True)
    assert torch.equal(first.x, second.x)
    assert first.smiles == second.smiles


def test_molecule_set_indexing_keeps_columns_and_smiles_together():
    graphs, _ = ge.from_smiles(["C", "CC", "CCC", "CCCC"])
    graphs = ge.MoleculeSet(graphs.x, graphs.space, graphs.smiles, {"size": np.arange(1, 5)})
    for index, expected in [
        (slice(1, 3), [2, 3]),
        ([3, 0], [4, 1]),
        (torch.tensor([2, 2]), [3, 3]),
        (np.array([True, False, False, True]), [1, 4]),
        (-1, [4]),
    ]:
        part = graphs[index]
        assert part.n_atoms.tolist() == part.properties["size"].tolist() == expected
        assert part.smiles == ["C" * n for n in expected]
    with pytest.raises(IndexError, match="4 molecules"):
        graphs[4]
    table = graphs.table()
    assert list(table) == ["smiles", "heavy_atoms", "size"]
    assert "<svg" in graphs.grid(2)
    assert "size" in repr(graphs)


def test_molecule_set_checks_lengths():
    graphs, _ = ge.from_smiles(["C", "CC"])
    with pytest.raises(ShapeError, match="one entry per molecule"):
        ge.MoleculeSet(graphs.x, graphs.space, ["C"])
    with pytest.raises(ShapeError, match="`qed` must have one entry"):
        ge.MoleculeSet(graphs.x, graphs.space, properties={"qed": np.zeros(3)})
    with pytest.raises(ShapeError, match="38, 38"):
        ge.MoleculeSet(graphs.x[:, :5, :5], graphs.space)


def test_import_is_lazy_and_names_are_listed():
    code = (
        "import sys, graph_ebm as ge; assert not {'torch', 'rdkit'} & set(sys.modules); "
        "assert {'from_smiles', 'datasets', 'train', 'optimize'} <= set(dir(ge)); print(ge.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ge.nothing


def test_a_submodule_never_hides_the_function_of_the_same_name():
    code = (
        "import sys, types, graph_ebm as ge\n"
        "module = types.ModuleType('graph_ebm.generate'); module.generate = print\n"
        "sys.modules['graph_ebm.generate'] = module; ge.generate = module\n"  # what `import graph_ebm.generate` does
        "assert ge.generate is print"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
