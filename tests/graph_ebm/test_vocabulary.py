"""Vocabularies: built from data, in a canonical order, with valences that RDKit agrees with."""

import pytest
from rdkit import Chem

import graph_ebm as ge
from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm.chem.valence import MAX_VALENCE, implicit_hydrogens, max_valence
from graph_ebm.vocabulary import Vocabulary


def test_order_does_not_depend_on_the_data():
    smiles = ["CCO", "C[N+](=O)[O-]", "FC(Cl)Br", "CSC", "C[SiH](C)C"]
    first, second = Vocabulary.build(smiles), Vocabulary.build(smiles[::-1])
    assert first == second
    assert first.names == ("C", "O", "F", "S", "Cl", "Br", "N+", "O-", "Si")
    assert first.size == len(first) == 9
    assert first.charges[6:8] == (1, -1)
    assert first.elements[-1] == "Si"


def test_every_sum_up_to_max_valence_is_a_molecule_rdkit_accepts():
    for (element, charge), limit in MAX_VALENCE.items():
        for total in range(limit + 1):
            assert implicit_hydrogens(element, charge, total) is not None, (element, charge, total)


def test_table_is_the_largest_sum_in_the_packaged_data():
    largest: dict[str, int] = {}
    for name in ge.datasets.names():
        molecules = ge.datasets.load(name, limit=3000, split="test")
        vocabulary = molecules.vocabulary
        used = molecules.space.valence_used(molecules.x)
        types = molecules.space.types(molecules.x)
        for k, label in enumerate(vocabulary.names):
            if bool((types == k + 1).any()):
                largest[label] = max(largest.get(label, 0), int(used[types == k + 1].max()))
    table = {Vocabulary(((e, c),)).names[0]: v for (e, c), v in MAX_VALENCE.items()}
    assert all(largest[label] <= table[label] for label in largest)
    common = ("C", "N", "O", "F", "S", "Cl", "Br", "N+", "O-")
    assert {label: largest[label] for label in common} == {label: table[label] for label in common}


def test_types_outside_the_table_take_the_observed_sum_that_rdkit_accepts():
    vocabulary = Vocabulary.build(["C[Si](C)(C)C", "OB(O)C"])
    assert dict(zip(vocabulary.names, vocabulary.max_valence, strict=True)) == {"C": 4, "O": 2, "B": 3, "Si": 4}
    assert max_valence("Si", 0, 2) == 2
    assert max_valence("Na", 1, 0) == 0


def test_implicit_hydrogens_are_those_of_rdkit_smiles():
    assert [implicit_hydrogens("S", 0, k) for k in range(8)] == [2, 1, 0, 1, 0, 1, 0, None]
    assert implicit_hydrogens("N", 1, 0) == 4
    assert implicit_hydrogens("O", -1, 0) == 1
    assert Chem.MolFromSmiles("[NH4+]").GetAtomWithIdx(0).GetTotalNumHs() == 4


def test_dictionary_round_trip_and_tables():
    vocabulary = Vocabulary((("C", 0), ("N", 1), ("O", -1)))
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    assert vocabulary.valence_table().tolist() == [0, 4, 4, 1]
    assert vocabulary.charge_table().tolist() == [0, 0, 1, -1]
    assert vocabulary.index("N", 1) == 2
    with pytest.raises(MoleculeError, match="must hold"):
        vocabulary.index("N")


def test_min_count_leaves_out_rare_types():
    smiles = ["CCO"] * 5 + ["CI"]
    assert Vocabulary.build(smiles, min_count=2).names == ("C", "O")
    graphs, rejected = ge.from_smiles(smiles, Vocabulary.build(smiles, min_count=2))
    assert len(graphs) == 5
    assert rejected.counts() == {"unknown_type": 1}


@pytest.mark.parametrize(
    ("types", "valence", "words"),
    [
        ((), (), "at least one"),
        ((("C", 0), ("C", 0)), (), "distinct"),
        ((("H", 0),), (), "heavier than hydrogen"),
        ((("Qq", 0),), (), "heavier than hydrogen"),
        ((("C", 0),), (4, 3), "one per type"),
        ((("C", 0),), (-1,), "one per type"),
    ],
)
def test_bad_vocabularies_are_refused(types, valence, words):
    with pytest.raises(SettingError, match=words):
        Vocabulary(types, valence)


def test_unreadable_data_and_dictionaries_are_refused():
    with pytest.raises(MoleculeError, match="at least one readable molecule"):
        Vocabulary.build(["", "C("])
    with pytest.raises(SettingError, match="a vocabulary must be a dict"):
        Vocabulary.from_dict({"types": 3})
