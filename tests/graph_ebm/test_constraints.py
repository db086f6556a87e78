"""Hard constraints: +∞ outside, the energy itself inside."""

from __future__ import annotations

import math

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from discrete_ebm.errors import MoleculeError, SettingError
from graph_ebm import from_smiles, generate
from graph_ebm.constraints import ConstrainedEnergy, similar_to
from graph_ebm.energies import ComposedEnergy, LocalEnergy
from graph_ebm.model import MolecularModel
from graph_ebm.moves import mine_moves

SMILES = ["c1ccccc1O", "Cc1ccccc1O", "CCO", "CCCCCN", "OC1CCCC1", "C"]
LIKE = "c1ccccc1O"


@pytest.fixture(scope="module")
def molecules():
    return from_smiles(SMILES, max_atoms=9)[0]


@pytest.fixture
def energy(molecules):
    local = LocalEnergy(molecules.space)
    torch.nn.init.normal_(local.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return local


def tanimoto(a: str, b: str) -> float:
    """Shared bits over all bits, counted by hand."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    one, two = (set(generator.GetFingerprint(Chem.MolFromSmiles(s)).GetOnBits()) for s in (a, b))
    return len(one & two) / len(one | two)


def test_infinite_outside_and_the_energy_inside(molecules, energy):
    bound = ConstrainedEnergy(energy, lambda batch: ["O" in s for s in batch])
    with torch.no_grad():
        values, plain = bound.state_energy(molecules.x), energy.state_energy(molecules.x)
    inside = torch.tensor(["O" in s for s in molecules.smiles])
    assert torch.equal(values[inside], plain[inside])
    assert values[~inside].eq(torch.inf).all()
    assert torch.equal(bound(molecules.space.encode(molecules.x)).detach(), values)
    assert torch.equal(bound.surrogate(molecules.x).detach(), plain), "the screening knows nothing of the constraint"


def test_the_energy_is_not_evaluated_outside(molecules, energy):
    seen = []

    class Counting(LocalEnergy):
        def state_energy(self, x):
            seen.append(len(x))
            return super().state_energy(x)

    counting = Counting(molecules.space)
    values = ConstrainedEnergy(counting, lambda batch: [s == "CCO" for s in batch]).state_energy(molecules.x)
    assert seen == [1]
    assert values.isfinite().sum() == 1
    none = ConstrainedEnergy(counting, lambda batch: [False] * len(batch)).state_energy(molecules.x)
    assert none.eq(torch.inf).all()


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 1.0])
def test_similarity_is_tanimotos(least):
    allowed = similar_to(LIKE, least)
    smiles = [Chem.CanonSmiles(s) for s in SMILES]
    assert allowed(smiles) == [tanimoto(LIKE, s) >= least for s in smiles]
    assert allowed([Chem.CanonSmiles(LIKE)]) == [True]


def test_stereo_of_the_wanted_molecule_does_not_count():
    assert similar_to("C[C@H](N)C(=O)O", 1.0)(["CC(N)C(=O)O"]) == [True]


@pytest.mark.parametrize(
    ("smiles", "least", "error"),
    [
        (LIKE, 1.2, SettingError),
        (LIKE, -0.1, SettingError),
        (LIKE, math.nan, SettingError),
        ("C1CC", 0.4, MoleculeError),
        ("", 0.4, MoleculeError),
        ("C" * 100_000, 0.4, MoleculeError),
        ("C(" * 3000, 0.4, MoleculeError),
    ],
)
def test_a_wrong_constraint_is_a_sentence(smiles, least, error):
    with pytest.raises(error, match=r"`(like|similarity)` must be .*; got"):
        similar_to(smiles, least)


def test_no_chain_ever_leaves_the_constraint(molecules, energy):
    """Every sample, also half-way, starts and stays inside; and the chains do move."""
    model = MolecularModel(energy, molecules.space, mine_moves(molecules.x, molecules.vocabulary.valence_table()))
    bound = ConstrainedEnergy(energy, similar_to(LIKE, 0.4))
    for n_steps in (20, 150):
        drawn = generate(model, 48, n_steps=n_steps, start=[LIKE], energy=bound, progress=False)
        assert min(tanimoto(LIKE, s) for s in drawn.smiles) >= 0.4
        assert drawn.energy.isfinite().all()
    assert len(set(drawn.smiles)) > 5


def test_experts_inside_a_constraint_are_reported(molecules, energy):
    composed = ComposedEnergy({"a": energy, "b": energy})
    found = ConstrainedEnergy(composed, similar_to(LIKE, 0.4)).expert_energies(molecules.x)
    assert set(found) == {"a", "b"}
    assert ConstrainedEnergy(energy, similar_to(LIKE, 0.4)).expert_energies(molecules.x) == {}
