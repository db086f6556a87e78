"""Drawing molecules: valid without correction, as many as asked, from where asked, with what must be kept."""

from __future__ import annotations

import csv
import io
import math
import sys

import numpy as np
import pytest
import torch
from rdkit import Chem

from discrete_ebm.errors import MoleculeError, NonFiniteEnergyError, SettingError, SpaceError
from graph_ebm import from_smiles
from graph_ebm.datasets import load
from graph_ebm.energies import ComposedEnergy, LocalEnergy, MolecularEnergy
from graph_ebm.generate import clamp_substructure, generate, prepare_start, starting_states
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel, single_atoms
from graph_ebm.moves import mine_moves
from graph_ebm.run_folder import csv_text
from graph_ebm.training import train

module = sys.modules["graph_ebm.generate"]  # the package gives the function of that name
DRUGS = [
    "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "O=C(O)c1ccccc1O", "c1ccc2[nH]ccc2c1", "CCS", "CC#N",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "C[N+](C)(C)CC(=O)[O-]", "FC(F)(F)c1ccccc1", "C1CCNCC1",
]  # fmt: skip


@pytest.fixture(scope="module")
def drugs() -> MolecularModel:
    """Twenty atoms to fill, charges and rings; a little preference, so that chains do not only grow."""
    molecules, rejected = from_smiles(DRUGS, max_atoms=20)
    assert not len(rejected)
    local = LocalEnergy(molecules.space)
    with torch.no_grad():
        local.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    moves = mine_moves(molecules.x, molecules.vocabulary.valence_table())
    return MolecularModel(MolecularEnergy(molecules.space, local=local), molecules.space, moves)


@pytest.fixture(scope="module")
def open_chains(drugs) -> MolecularModel:
    """The same with 40 nats a ring: nothing closes on a kept ring."""
    local = LocalEnergy(drugs.space)
    with torch.no_grad():
        local.weight.copy_(drugs.energy.local.weight)
        local.table("cyclomatic").add_(40.0 * torch.arange(len(local.table("cyclomatic"))))
    return MolecularModel(MolecularEnergy(drugs.space, local=local), drugs.space, drugs.moves)


@pytest.fixture(scope="module")
def small() -> MolecularModel:
    data = load("qm9-sample", 200, max_atoms=9)
    return train(data, n_iterations=20, hidden=8, layers=1, n_chains=64, batch=32, n_steps=4, progress=False)


def draw(model: MolecularModel, n: int, **options):
    return generate(model, n, **({"n_steps": 60, "progress": False} | options))


# -- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["drugs", "small"])
def test_every_molecule_is_valid_and_connected(which, request):
    """Checked by the space and, apart from it, by RDKit with no correction allowed: 100 %."""
    model = request.getfixturevalue(which)
    drawn = draw(model, 150, n_steps=200)
    assert len(drawn) == len(drawn.smiles) == 150
    model.space.validate(drawn.x)
    for smiles in drawn.smiles:
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        assert Chem.SanitizeMol(molecule, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE
        assert "." not in smiles
        assert not any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    assert len(set(drawn.smiles)) > 75, "the chains moved"
    with torch.no_grad():
        torch.testing.assert_close(drawn.energy, model.energy.state_energy(drawn.x))


def test_one_seed_one_result(small):
    one, two, other = draw(small, 10, seed=1), draw(small, 10, seed=1), draw(small, 10, seed=2)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)


def test_chunks_are_all_run_and_kept_apart(small):
    """Seven chains in chunks of three: 3 + 3 + 1, and no chunk repeats another."""
    drawn = draw(small, 7, chunk=3)
    assert len(drawn) == len(drawn.energy) == 7
    small.space.validate(drawn.x)
    assert not torch.equal(drawn.x[:3], drawn.x[3:6])
    assert (drawn.molecules.n_atoms > 1).any()
    assert draw(small, 1).x.shape == (1, 9, 9)
    assert torch.equal(draw(small, 7, chunk=7).x, draw(small, 7, chunk=100).x)


def test_acceptance_is_a_share_and_only_of_moves_that_were_tried(small):
    drawn = draw(small, 8, n_steps=3, chunk=2)
    assert drawn.acceptance
    assert len(drawn.acceptance) <= 12
    assert all(0 <= share <= 1 for share in drawn.acceptance.values())


def test_acceptance_is_averaged_over_the_chunks_that_tried_a_move(small, monkeypatch):
    shares = iter([{"retype": 0.5}, {"retype": 1.0, "reattach": 0.25}])
    whole = module.run_chains
    monkeypatch.setattr(module, "run_chains", lambda *a, **k: (lambda r: (r[0], next(shares), *r[2:]))(whole(*a, **k)))
    assert draw(small, 4, n_steps=2, chunk=3).acceptance == {"retype": 0.625, "reattach": 0.25}


def test_table_and_grid(small):
    drawn = draw(small, 6)
    table = drawn.table()
    assert list(table) == ["smiles", "heavy_atoms", "energy"]
    assert table["heavy_atoms"].tolist() == [Chem.MolFromSmiles(s).GetNumAtoms() for s in drawn.smiles]
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [row["smiles"] for row in rows] == drawn.smiles
    assert "<svg" in drawn.grid(4, columns=2)


def test_energies_of_each_expert_are_reported(small):
    local = small.energy.local
    composed = ComposedEnergy({"a": small.energy, "b": local}, [1.0, 0.5], small.energy, 0.5)
    drawn = draw(small, 5, energy=composed)
    assert set(drawn.expert_energies) == {"a", "b", "base"}
    assert {"energy_a", "energy_b", "energy_base"} < set(drawn.table())
    parts = drawn.expert_energies
    torch.testing.assert_close(drawn.energy, parts["a"] + 0.5 * parts["b"] - 0.5 * parts["base"])


def test_the_trace_follows_the_chains(small):
    drawn = draw(small, 8, n_steps=100)
    assert drawn.trace["step"][-1] == drawn.settings["n_steps"] == 100
    assert len({len(column) for column in drawn.trace.values()}) == 1
    assert drawn.trace["mean heavy atoms"][-1] == pytest.approx(float(drawn.molecules.n_atoms.float().mean()))


def test_the_clock_ends_a_run_and_the_steps_are_told(small):
    drawn = draw(small, 8, n_steps=10**7, max_seconds=0.3)
    assert not drawn.interrupted
    assert len(drawn) == 8
    assert 0 < drawn.settings["n_steps"] < 10**6
    assert drawn.settings["n_steps"] == drawn.trace["step"][-1]


# -- where it starts ------------------------------------------------------------------------------------------------


def test_without_start_a_single_atom(small):
    assert torch.equal(prepare_start(small.space, 3, None, None, "cpu")[0], single_atoms(small.space, 3))


def test_starts_are_used_in_turn(small):
    x = starting_states(small.space, 5, ["CCO", "C1CC1"], "cpu")
    assert MoleculeSet(x, small.space).smiles == ["CCO", "C1CC1", "CCO", "C1CC1", "CCO"]
    one = starting_states(small.space, 2, "CCO", "cpu")  # a string is one molecule, not three letters
    assert MoleculeSet(one, small.space).smiles == ["CCO", "CCO"]
    hot = draw(small, 4, n_steps=1, start=["OCCCO"], beta=0.0)
    assert all(abs(n - 5) <= 4 for n in hot.molecules.n_atoms.tolist())


@pytest.mark.parametrize(
    ("start", "reason"),
    [(["CCO", "CCBr"], "unknown_type"), (["C1CC"], "parse_error"), (["C" * 30], "too_many_atoms"), ([""], "empty"),
     (["CC.O"], "disconnected"), ("CCBr", "unknown_type")],
)  # fmt: skip
def test_a_start_that_cannot_be_used_is_a_sentence(small, start, reason):
    with pytest.raises(MoleculeError, match=rf"every starting molecule must fit the model .*{reason}.*Leave it out"):
        draw(small, 3, start=start)


# -- what is kept ---------------------------------------------------------------------------------------------------

KEPT = ["c1ccccc1", "c1cc[nH]c1", "C(=O)N", "c1ccc2[nH]ccc2c1", "[OX2H]C"]


@pytest.mark.parametrize("keep", KEPT)
def test_every_sample_keeps_the_substructure(drugs, open_chains, keep):
    """To the bit in the clamped slots, whatever grows; and for RDKit on the written SMILES where no cages do."""
    start = ["OCCS"] if keep.startswith("[") else None
    pattern = Chem.MolFromSmarts(keep)
    m = pattern.GetNumAtoms()
    x0, clamp = prepare_start(drugs.space, 40, start, keep, "cpu")
    assert clamp[:, :m, :m].all()
    for model in (drugs, open_chains):
        drawn = draw(model, 40, n_steps=150, keep=keep, start=start)
        model.space.validate(drawn.x)
        assert torch.equal(drawn.x[clamp], x0[clamp])
        assert torch.equal(drawn.x[:, :m, :m], x0[:, :m, :m])
        assert (drawn.molecules.n_atoms > m).any(), "something grew"
        assert (drawn.x[:, :m, m:] > 0).any(), "new bonds to kept atoms are allowed"
    for molecule in drawn.molecules.mols():
        assert tuple(range(m)) in {tuple(sorted(match)) for match in molecule.GetSubstructMatches(pattern)}
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(pattern) for s in drawn.smiles)


def test_hydrogens_that_the_pattern_tells_stay(drugs):
    """The [nH] of a pyrrole takes no substituent in any sample; written without its hydrogen it does in some."""
    bonds_of_n = {}
    for keep in ("c1cc[nH]c1", "c1ccnc1"):
        drawn = draw(drugs, 60, n_steps=150, keep=keep, start=["c1cc[nH]c1"])
        atoms = [a for mol in drawn.molecules.mols() for a in list(mol.GetAtoms())[:5] if a.GetSymbol() == "N"]
        bonds_of_n[keep] = [a.GetTotalNumHs() for a in atoms]
        assert len(atoms) == 60
    assert set(bonds_of_n["c1cc[nH]c1"]) == {1}
    assert set(bonds_of_n["c1ccnc1"]) == {0, 1}


def test_neighbours_of_a_closed_atom_stay_its_neighbours(drugs):
    """The amide nitrogen of paracetamol, told as [NX3;H1], is bonded to two atoms outside; both bonds stay."""
    x0, clamp = prepare_start(drugs.space, 30, ["CC(=O)Nc1ccc(O)cc1"], "[NX3;H1]", "cpu")
    assert (x0[0, 0, 1:3] == 1).all(), "its neighbours are in the next slots"
    drawn = draw(drugs, 30, n_steps=150, keep="[NX3;H1]", start=["CC(=O)Nc1ccc(O)cc1"])
    assert torch.equal(drawn.x[:, 0], x0[:, 0])
    assert torch.equal(drawn.x[clamp], x0[clamp])
    assert not torch.equal(drawn.x, x0)


def test_the_aromatic_ring_of_the_kept_slots_stays_aromatic(open_chains):
    drawn = draw(open_chains, 40, n_steps=150, keep="c1ccccc1", start=["Cc1ccccc1O", "c1ccc2[nH]ccc2c1"])
    for molecule in drawn.molecules.mols():
        bonds = [molecule.GetBondBetweenAtoms(i, j) for i in range(6) for j in range(i)]
        inside = [bond for bond in bonds if bond is not None]
        assert len(inside) == 6
        assert all(bond.GetIsAromatic() for bond in inside)
        assert all(molecule.GetAtomWithIdx(i).GetSymbol() == "C" for i in range(6))


def test_the_kept_part_is_moved_to_the_first_slots(drugs):
    x = starting_states(drugs.space, 2, ["CC(=O)Nc1ccc(O)cc1"], "cpu")
    arranged, clamp = clamp_substructure(drugs.space, x, "[OX2H]")
    assert MoleculeSet(arranged, drugs.space).smiles == MoleculeSet(x, drugs.space).smiles
    assert drugs.space.vocabulary.types[int(arranged[0, 0, 0]) - 1] == ("O", 0)
    assert clamp[0, 0].all()
    assert clamp[0, :, 0].all()
    assert clamp[0].sum().item() == 39
    drugs.space.validate(arranged)


def test_keep_without_start_must_be_a_molecule_of_the_model(drugs):
    for keep in ("c1ccccc1[C,N]", "[Si]C", "[!#6]"):
        with pytest.raises(MoleculeError, match=r"`keep` must be a molecule .* its own start; got .*Give molecules"):
            draw(drugs, 2, keep=keep)
    pattern = Chem.MolFromSmarts("c1ccccc1[C,N]")
    drawn = draw(drugs, 8, keep="c1ccccc1[C,N]", start=["Cc1ccccc1"])
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(pattern) for s in drawn.smiles)


def test_a_start_without_the_kept_part_is_a_sentence(drugs):
    with pytest.raises(MoleculeError, match=r"must contain 'c1ccccc1'; got CCS\. Give starting molecules that do"):
        draw(drugs, 4, keep="c1ccccc1", start=["Cc1ccccc1", "CCS"])


@pytest.mark.parametrize("keep", ["((", "", "C" * 2000, 5])
def test_a_wrong_pattern_is_a_sentence(drugs, keep):
    with pytest.raises(MoleculeError, match=r"`keep` must be a SMARTS"):
        draw(drugs, 2, keep=keep)


# -- beta -----------------------------------------------------------------------------------------------------------


def test_each_chain_has_its_beta(drugs):
    """Half hot, half cold, over chunk borders: the cold half lies lower. 100 chains a side, > 10 standard errors."""
    beta = torch.cat([torch.zeros(100), torch.full((100,), 4.0)])
    drawn = draw(drugs, 200, n_steps=150, beta=beta, chunk=64)
    hot, cold = drawn.energy.split(100)
    assert cold.mean() < hot.mean() - 2
    assert drawn.settings["beta"][:2] == [0.0, 0.0]


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf, torch.ones(3), torch.ones(2, 1), torch.tensor([1.0, -1.0])])
def test_a_wrong_beta_is_a_sentence(small, beta):
    with pytest.raises(SettingError, match="`beta` must be"):
        draw(small, 2, beta=beta)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 2.0}, {"n": True}, {"n_steps": 0}, {"chunk": 0}])
def test_wrong_numbers_are_refused_by_name(small, wrong):
    (name,) = wrong
    with pytest.raises(SettingError, match=f"`{name}` must be a whole number"):
        generate(small, **({"n": 2, "n_steps": 2, "progress": False} | wrong))


def test_an_energy_of_another_space_is_refused(small, drugs):
    with pytest.raises(SpaceError, match=r"`energy` must have the model's space"):
        draw(small, 2, energy=drugs.energy)


def test_an_energy_that_is_not_a_number_is_said(small):
    class Broken(LocalEnergy):
        def state_energy(self, x):
            return torch.full((len(x),), math.nan)

    with pytest.raises(NonFiniteEnergyError, match="starting molecule"):
        draw(small, 2, energy=Broken(small.space))


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, 41, 42, 60])
def test_ctrl_c_keeps_the_chains_as_far_as_they_came(small, monkeypatch, at):
    """In the first chunk (40 blocks of steps) or in the second: what ran so far is there, valid, and is said."""
    calls = []
    whole = module.advance_chains

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, "advance_chains", stopped)
    drawn = draw(small, 9, n_steps=80, chunk=3)
    assert drawn.interrupted
    assert len(drawn) == (6 if at > 40 else 3)
    assert drawn.settings["n_steps"] == 2 * ((at - 1) % 40)
    small.space.validate(drawn.x)
    assert len(drawn.table()["smiles"]) == len(drawn)


def test_ctrl_c_between_chunks_keeps_the_first(small, monkeypatch):
    whole, calls = module.run_chains, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, "run_chains", stopped)
    drawn = draw(small, 9, chunk=4)
    assert (drawn.interrupted, len(drawn)) == (True, 4)
    assert np.isfinite(drawn.energy.numpy()).all()
