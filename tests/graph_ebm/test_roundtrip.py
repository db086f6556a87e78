"""SMILES -> state -> SMILES loses nothing but stereo: hundreds in the quick tier, tens of thousands in the slow one."""

import csv
import gzip
import itertools
from pathlib import Path

import pytest
import torch
from rdkit import Chem

import graph_ebm as ge
from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm.chem.write import random_kekule

RAW = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "molecules"
SETS = ["zinc250k_train.csv.gz", "zinc250k_test.csv.gz", "moses_train.smi.gz", "qm9.csv.gz"]


def raw_smiles(name: str, n: int, step: int) -> list[str]:
    path = RAW / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with gzip.open(path, "rt") as handle:
        return [row["smiles"] for row in itertools.islice(csv.DictReader(handle), 0, n * step, step)]


def without_stereo(smiles: str) -> str:
    """The expected SMILES, straight from RDKit."""
    molecule = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(molecule)
    return Chem.MolToSmiles(molecule)


def check_lossless(smiles: list[str], least: float = 0.995) -> None:
    graphs, rejected = ge.from_smiles(smiles)
    assert len(graphs) + len(rejected) == len(smiles)
    refused = {item.index for item in rejected}
    kept = [text for index, text in enumerate(smiles) if index not in refused]
    same = sum(a == without_stereo(b) for a, b in zip(ge.to_smiles(graphs), kept, strict=True))
    assert same >= least * len(smiles), f"{same} of {len(smiles)}: {rejected}"
    graphs.space.validate(graphs.x)


@pytest.mark.parametrize("name", SETS)
def test_full_sets_are_lossless_quick(name):
    check_lossless(raw_smiles(name, 300, 50))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_full_sets_are_lossless(name):
    check_lossless(raw_smiles(name, 20_000, 1))


@pytest.mark.parametrize("name", ["zinc-sample", "moses-sample", "qm9-sample"])
def test_packaged_sets_are_lossless_and_already_canonical(name):
    molecules = ge.datasets.load(name, limit=300)
    assert ge.to_smiles(molecules) == molecules.smiles
    check_lossless(molecules.smiles, least=1.0)


def test_state_does_not_depend_on_how_the_smiles_was_written():
    molecules = ge.datasets.load("zinc-sample", limit=60)
    shuffled = []
    for index, smiles in enumerate(molecules.smiles):
        molecule = Chem.MolFromSmiles(smiles)
        shuffled += Chem.MolToRandomSmilesVect(molecule, 2, randomSeed=index + 1)
    again, _ = ge.from_smiles(shuffled, molecules.vocabulary)
    assert torch.equal(again.x[0::2], molecules.x)
    assert torch.equal(again.x[1::2], molecules.x)


def test_order_of_atoms_and_kekule_form_do_not_change_the_smiles():
    molecules = ge.datasets.load("zinc-sample", limit=100)
    generator = torch.Generator().manual_seed(0)
    other = random_kekule(molecules.x, molecules.vocabulary, generator)
    molecules.space.validate(other)
    assert not torch.equal(other, molecules.x)
    assert ge.to_smiles(molecules.space.permute(other, generator), molecules.vocabulary) == molecules.smiles


def test_random_kekule_reaches_every_form():
    graphs, _ = ge.from_smiles(["c1ccc2ccccc2c1", "Cc1ccccc1", "CCO"])
    generator = torch.Generator().manual_seed(1)
    seen = [set(), set(), set()]
    for _ in range(60):  # P(a form of naphthalene stays unseen) < 3 * (1 - 0.2)^60 = 5e-6 if each has at least 0.2
        for forms, state in zip(seen, random_kekule(graphs.x, graphs.vocabulary, generator), strict=True):
            forms.add(tuple(state.flatten().tolist()))
    assert [len(forms) for forms in seen] == [3, 2, 1]


def test_charges_and_hydrogens_survive():
    smiles = [
        "C[N+](C)(C)CC(=O)[O-]",
        "[NH4+]",
        "[OH-]",
        "c1cc[nH]c1",
        "C[S+](C)[O-]",
        "[C-]#[N+]C",
        "O=S(=O)(O)O",
        "C[PH](C)=O",
    ]
    graphs, rejected = ge.from_smiles(smiles)
    assert len(rejected) == 0
    assert ge.to_smiles(graphs) == [without_stereo(s) for s in smiles]


def test_written_smiles_read_back_to_the_same_state():
    molecules = ge.datasets.load("qm9-sample", limit=300)
    again, rejected = ge.from_smiles(ge.to_smiles(molecules), molecules.vocabulary)
    assert len(rejected) == 0
    assert torch.equal(again.x, molecules.x)


def test_validity_of_twenty_hand_made_states():
    vocabulary = ge.Vocabulary((("C", 0), ("N", 0), ("O", 0), ("F", 0), ("N", 1)))
    c, n, o, f, q = 1, 2, 3, 4, 5
    cases = [  # atoms, bonds (i, j, order), SMILES or None
        ([c], [], "C"),
        ([o], [], "O"),
        ([q], [], "[NH4+]"),
        ([c, c], [(0, 1, 3)], "C#C"),
        ([c, o], [(0, 1, 2)], "C=O"),
        ([c, o], [(0, 1, 3)], None),
        ([f, f], [(0, 1, 1)], "FF"),
        ([f, f], [(0, 1, 2)], None),
        ([n, n], [(0, 1, 3)], "N#N"),
        ([o, o], [(0, 1, 2)], "O=O"),
        ([q, c], [(0, 1, 3)], "C#[NH+]"),
        ([c, f, f, f, f], [(0, k, 1) for k in range(1, 5)], "FC(F)(F)F"),
        ([c, f, f, f, f, f], [(0, k, 1) for k in range(1, 6)], None),
        ([n, c, c, c], [(0, k, 1) for k in range(1, 4)], "CN(C)C"),
        ([n, c, c, c, c], [(0, k, 1) for k in range(1, 5)], None),
        ([q, c, c, c, c], [(0, k, 1) for k in range(1, 5)], "C[N+](C)(C)C"),
        ([c] * 6, [(k, (k + 1) % 6, 1 + k % 2) for k in range(6)], "c1ccccc1"),
        ([c, c, c], [(0, 1, 1), (1, 2, 1), (0, 2, 1)], "C1CC1"),
        ([c, c], [], "C.C"),
        ([], [], None),
    ]
    x = torch.zeros(20, 6, 6, dtype=torch.int8)
    for state, (atoms, bonds, _) in zip(x, cases, strict=True):
        for k, atom in enumerate(atoms):
            state[k, k] = atom
        for i, j, order in bonds:
            state[i, j] = state[j, i] = order
    expected = [smiles for *_, smiles in cases]
    assert ge.to_smiles(x, vocabulary, on_invalid="none") == expected
    with pytest.raises(MoleculeError, match=r"got 5 of 20 that are not, first at 5"):
        ge.to_smiles(x, vocabulary)
    with pytest.raises(SettingError, match="on_invalid"):
        ge.to_smiles(x, vocabulary, on_invalid="skip")
    space = ge.MolecularSpace(vocabulary, 6)
    assert space.connected(x).tolist() == [True] * 18 + [False, False]


def test_bare_states_need_their_vocabulary():
    with pytest.raises(MoleculeError, match="vocabulary"):
        ge.to_smiles(torch.zeros(1, 3, 3, dtype=torch.int8))
    with pytest.raises(MoleculeError, match="C, V, V"):
        ge.to_smiles(torch.zeros(3, 3, dtype=torch.int8), ge.Vocabulary((("C", 0),)))
