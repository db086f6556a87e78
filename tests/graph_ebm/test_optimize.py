"""Optimisation end to end: the law that is sampled, what is asked and kept, and what is refused before any training."""

from __future__ import annotations

import math
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from discrete_ebm.errors import CheckpointError, DataError, MoleculeError, RegistryError, SettingError, SpaceError
from graph_ebm import from_smiles, pretrained, properties
from graph_ebm.datasets import load
from graph_ebm.energies import ComposedEnergy
from graph_ebm.graphs import MoleculeSet
from graph_ebm.model import MolecularModel, load_model
from graph_ebm.scoring import Scoring
from graph_ebm.targets import Target, best_part
from graph_ebm.training import train

import_module("graph_ebm.optimize")
module = sys.modules["graph_ebm.optimize"]  # the package gives the function of that name
optimize = module.optimize

TRAIN = {"n_iterations": 3, "network": None, "n_chains": 64, "batch": 32}
HERE = "tests.graph_ebm.test_optimize"
SCORES = "tests.graph_ebm.score_functions"
pytestmark = pytest.mark.usefixtures("short_chains")


@pytest.fixture(scope="module")
def data() -> MoleculeSet:
    return load("qm9-sample", 200, max_atoms=9)


@pytest.fixture(scope="module")
def base(data) -> MolecularModel:
    return train(data, progress=False, **TRAIN)


@pytest.fixture(autouse=True)
def no_packaged_models(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path / "packaged")


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(module, "train", lambda *a, **k: pytest.fail("it trained before it spoke"))


def run(data, targets="qed", **options):
    return optimize(targets, **({"data": data, "n": 24, "n_steps": 30, "progress": False, **TRAIN} | options))


class Training:
    """A property that works on the training data and fails on whatever comes later."""

    known: frozenset[str] = frozenset()


def only_known(smiles: str) -> float:
    if smiles not in Training.known:
        raise KeyError(smiles)
    return float(len(smiles))


# -- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.0, 1.7])
def test_the_law_is_the_base_tilted_by_what_the_expert_knows_beyond_it(data, base, strength):
    """E = E0 + s (E1 − E0), computed here from the two energies alone."""
    result = run(data, base=base, strength=strength, n_steps=5)
    (expert,) = result.model.energy.experts
    with torch.no_grad():
        e0, e1 = base.energy.state_energy(data.x), expert.state_energy(data.x)
        torch.testing.assert_close(result.model.energy.state_energy(data.x), e0 + strength * (e1 - e0))
    assert not torch.equal(e0, e1)
    drawn = result.generated
    parts = drawn.expert_energies
    torch.testing.assert_close(drawn.energy, parts["base"] + strength * (parts["qed"] - parts["base"]))


def test_each_target_has_its_expert_and_weight_in_a_composition(data, base):
    wanted = [Target("qed"), Target("logp", "range", 0.0, 1.0, weight=0.5), Target.parse("sa")]
    result = run(data, wanted, base=base, strategy="compose", strength=2.0, fraction=0.4, n_steps=5)
    energy = result.model.energy
    assert energy.names == ("qed", "logp", "sa")
    with torch.no_grad():
        e0 = base.energy.state_energy(data.x)
        law = e0.clone()
        for weight, expert in zip((1.0, 0.5, 1.0), energy.experts, strict=True):
            law += 2.0 * weight * (expert.state_energy(data.x) - e0)
        torch.testing.assert_close(energy.state_energy(data.x), law, rtol=1e-4, atol=1e-4)
    values = {name: data.properties.get(name) for name in ("qed", "logp", "sa")}
    for target in wanted:
        assert result.figures["expert_molecules"][target.name] == len(best_part(values, [target], 0.4)[0])
    assert len(result.figures["thresholds"]) == 3


def test_a_composition_needs_no_molecule_that_is_best_in_all(data, base):
    """Fewer than 50 molecules are both lipophilic and polar: one expert cannot be trained, two can."""
    both = [Target("logp", "max", low=0.3), Target("tpsa", "max", low=30.0)]
    values = {t.name: np.asarray(data.properties[t.name]) for t in both}
    rows = [(values[t.name] >= t.low).sum() for t in both]
    assert min(rows) >= 50
    assert ((values["logp"] >= 0.3) & (values["tpsa"] >= 30)).sum() < 50
    with pytest.raises(DataError, match="at least 50 molecules that meet"):
        run(data, both, base=base, strategy="joint")
    assert run(data, both, base=base, strategy="compose", n_steps=5).model.energy.names == ("logp", "tpsa")


# -- what it gives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "names"), [("joint", ("qed+logp+rings",)), ("compose", ("qed", "logp", "rings"))])
def test_a_small_run_end_to_end(data, tmp_path, strategy, names):
    """From no base: base, expert(s), samples, ranking, figures, a model that loads."""
    result = run(data, ["qed", "logp:-1..2", "rings:<3"], strategy=strategy, fraction=0.4, output=tmp_path, seed=2)
    assert result.model.energy.names == names
    assert len(result.generated) == 24
    data.space.validate(result.generated.x)
    smiles = [row["smiles"] for row in result.molecules]
    assert sorted(smiles) == sorted(set(result.generated.smiles)), "every unique sample, once"
    assert result.figures["unique"] == len(smiles) / 24
    assert result.figures["novel"] == sum(s not in data.smiles for s in result.generated.smiles) / 24
    values, _ = properties.compute(["qed", "logp", "rings"], smiles)
    for at, row in enumerate(result.molecules):
        assert [row[name] for name in values] == pytest.approx([column[at] for column in values.values()])
        assert row["known"] == (row["smiles"] in data.smiles)
    assert set(result.before) == set(result.after) == {"qed", "logp", "rings"}
    assert {len(column) for column in result.after.values()} == {24}
    hits = sum(row["hit"] * result.generated.smiles.count(row["smiles"]) for row in result.molecules)
    assert result.figures["hit_rate"] == hits / 24
    assert len({len(column) for column in result.history.values()}) == 1
    assert result.history["seconds"] == sorted(result.history["seconds"])
    assert any("samples" in line for line in result.caveats)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.energy.state_energy(data.x), result.model.energy.state_energy(data.x))


def test_the_ranking_puts_the_best_first(data, base):
    ranked = [row["qed"] for row in run(data, base=base, n=60).molecules]
    assert ranked == sorted(ranked, reverse=True)
    ranked = [row["logp"] for row in run(data, "logp:min", base=base, n=60).molecules]
    assert ranked == sorted(ranked)


def test_the_same_seed_repeats(data):
    one, two = run(data, seed=5), run(data, seed=5)
    assert one.generated.smiles == two.generated.smiles
    assert [row["smiles"] for row in one.molecules] == [row["smiles"] for row in two.molecules]
    assert run(data, seed=6).generated.smiles != one.generated.smiles


def test_minutes_without_steps_or_updates(data):
    """The clock alone: 0.05 minutes are 3 seconds; setting up and a block of steps may run over."""
    result = optimize("qed", data=data, minutes=0.05, n=16, network=None, n_chains=64, batch=32, progress=False)
    assert result.figures["n_steps"] >= 1
    assert result.figures["seconds"] < 20
    assert not result.interrupted


@pytest.mark.slow
def test_the_expert_moves_the_property(seed):
    """logp of all samples rises against the base by several standard errors; a composition that ignores its expert,
    or takes it with the wrong sign, fails."""
    data = load("qm9-sample", 2000, max_atoms=9)
    model = train(data, minutes=0.5, network=None, n_chains=256, batch=128, seed=seed, progress=False)
    options = {"data": data, "base": model, "n": 400, "n_steps": 800, "progress": False, "n_iterations": 150,
               "n_chains": 256, "batch": 128, "seed": seed}  # fmt: skip
    plain = optimize("logp", strength=0.0, **options)
    tilted = optimize("logp", strength=1.0, **options)
    low, high = (np.nanmean(r.after["logp"]) for r in (plain, tilted))
    error = np.nanstd(plain.after["logp"]) * math.sqrt(2 / 400)
    assert high - low > 5 * error
    assert tilted.figures["lift"] > plain.figures["lift"]


# -- properties that fail -------------------------------------------------------------------------------------------


def test_a_property_that_fails_sometimes_is_counted_and_ranks_last(data, base):
    name = f"{SCORES}:sometimes"
    result = run(data, name, base=base, fraction=0.3)
    failures = result.figures["property_failures"]
    assert sum(failures["data"].values()) == int(np.isnan(result.before[name]).sum()) > 0
    assert {key.split(": ")[1] for key in failures["data"]} == {"raised", "nan"}
    assert any("count as worst" in line for line in result.caveats)
    failed = [math.isnan(row[name]) for row in result.molecules]
    assert failed == sorted(failed), "failures come last"
    assert not any(row["hit"] for row in result.molecules if math.isnan(row[name]))
    assert result.figures[f"mean {name} of the data"] == pytest.approx(np.nanmean(result.before[name]))


def test_a_property_that_always_fails_is_said_before_training(data, no_training):
    with pytest.raises(DataError, match=r"must have a value on some molecule; got none.*raised \(200\)"):
        run(data, f"{SCORES}:never")


def test_a_property_that_fails_on_every_sample_does_not_lose_the_run(data, base, tmp_path):
    Training.known = frozenset(data.smiles)
    here = Scoring(workers=0)  # what is known is known in this process alone
    result = run(data, f"{HERE}:only_known", base=base, n=8, output=tmp_path, start=["FC(F)(F)F"], n_steps=60,
                 scoring=here)  # fmt: skip
    values = result.after[f"{HERE}:only_known"]
    assert np.isnan(values).sum() >= 7
    assert len(result.molecules) >= 1
    assert (tmp_path / "model.safetensors").exists()
    Training.known = frozenset()


def test_no_value_at_all_gives_no_mean_and_no_warning(data, base, monkeypatch):
    whole = module.property_table

    def blind(molecules, wanted, *, required=True, **options):
        values, failures = whole(molecules, wanted, required=required, **options)
        return (
            ({k: np.full_like(v, np.nan) for k, v in values.items()}, {"qed: raised": len(molecules)})
            if (not required)
            else (values, failures)
        )

    monkeypatch.setattr(module, "property_table", blind)
    figures = run(data, base=base, n=6).figures
    assert math.isnan(figures["mean qed of all samples"])
    assert figures["hit_rate"] == 0


# -- constraints ----------------------------------------------------------------------------------------------------


def tanimoto(a: str, b: str) -> float:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return DataStructs.TanimotoSimilarity(*(generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in (a, b)))


def test_every_sample_keeps_the_similarity(data, base):
    like = "CCOCCC"
    result = run(data, base=base, like=like, similarity=0.35, n=40, n_steps=120)
    assert min(tanimoto(like, s) for s in result.generated.smiles) >= 0.35
    assert len(set(result.generated.smiles)) > 3, "the chains moved"
    assert set(result.generated.expert_energies) == {"qed", "base"}
    assert result.generated.energy.isfinite().all()


def test_similarity_one_leaves_the_molecule_itself(data, base):
    result = run(data, base=base, like="CCOCCC", similarity=1.0, n=8, n_steps=60)
    assert all(tanimoto("CCOCCC", s) == 1.0 for s in result.generated.smiles)
    assert "CCCOCC" in result.generated.smiles


def test_like_and_a_kept_part_hold_together(data, base):
    result = run(data, base=base, like="OCC1CC1C", similarity=0.2, keep="C1CC1", n=16, n_steps=80)
    pattern = Chem.MolFromSmarts("C1CC1")
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(pattern) for s in result.generated.smiles)
    assert min(tanimoto("OCC1CC1C", s) for s in result.generated.smiles) >= 0.2


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"similarity": 0.4}, SettingError, "`similarity` must come with `like`"),
        ({"like": "CCO", "similarity": 1.5}, SettingError, "`similarity` must be between 0 and 1"),
        ({"like": "C1CC", "similarity": 0.4}, MoleculeError, "`like` must be a SMILES"),
        ({"like": "C1CC"}, MoleculeError, "every starting molecule must fit"),
        ({"like": "CCBr", "similarity": 0.4}, MoleculeError, r"must fit the model .*'CCBr'|must fit the model .*CCBr"),
        ({"like": "C" * 20, "similarity": 0.4}, MoleculeError, "too_many_atoms"),
        ({"like": "CCO", "keep": "C1CC1"}, MoleculeError, "must contain 'C1CC1'"),
        ({"keep": "(("}, MoleculeError, "`keep` must be a SMARTS"),
        ({"keep": "[Br]C"}, MoleculeError, "`keep` must be a molecule of the model's types"),
        ({"start": ["CCO", "CCBr"]}, MoleculeError, "must fit the model"),
        ({"start": ["NCCN"], "like": "CCOCCC", "similarity": 0.4}, MoleculeError, "similarity of at least 0.4"),
        ({"n": 0}, SettingError, "`n` must be"),
        ({"n_steps": 0}, SettingError, "`n_steps` must be"),
        ({"strength": -1.0}, SettingError, "`strength` must be"),
        ({"strength": math.nan}, SettingError, "`strength` must be"),
        ({"minutes": 0.0}, SettingError, "`minutes` must be"),
        ({"minutes": math.inf}, SettingError, "`minutes` must be"),
        ({"fraction": 0.0}, SettingError, "`fraction` must be"),
        ({"strategy": "both"}, SettingError, "`strategy` must be"),
        ({"targets": []}, SettingError, "at least one property"),
        ({"targets": ["qed", "qed:>0.5"]}, SettingError, "once; got 'qed' twice"),
        ({"targets": "qedd"}, RegistryError, "'qed'"),
        ({"targets": "qed:>0.99"}, DataError, r"got 0 of 200\. Widen a bound"),
        ({"data": ["CCO"]}, DataError, "must be a MoleculeSet"),
        ({"base": "no-such-model"}, RegistryError, "Unknown packaged model 'no-such-model'. Available: none"),
    ],
)
def test_what_cannot_be_is_said_before_training(data, no_training, asked, error, words):
    with pytest.raises(error, match=words):
        run(asked.pop("data", data), asked.pop("targets", "qed"), **asked)


def test_an_output_that_cannot_be_made_is_said_before_training(data, no_training, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="folder that can be created"):
        run(data, output=tmp_path / "file")


# -- the base -------------------------------------------------------------------------------------------------------


def test_a_packaged_base_is_used_where_its_space_fits(data, base, monkeypatch):
    base.save(pretrained._FOLDER / "tiny-base")
    labels = []
    for name in ("train", "train_expert"):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, whole=whole, **k: labels.append(k["label"]) or whole(*a, **k))
    assert pretrained.names() == ["tiny-base"]
    result = run(data, n_steps=2)
    assert (result.figures["base"], labels) == ("packaged tiny-base", ["expert qed"])
    with torch.no_grad():
        assert torch.equal(result.model.energy.base.state_energy(data.x), base.energy.state_energy(data.x))
    labels.clear()
    assert run(data, base="tiny-base", n_steps=2).figures["base"] == "packaged tiny-base"
    assert run(data, base="train", n_steps=2).figures["base"] == "trained in this run"
    assert labels == ["expert qed", "base", "expert qed"]
    labels.clear()
    other = load("qm9-sample", 200, max_atoms=10)  # another space: nothing fits, so one is trained
    assert run(other, n_steps=2).figures["base"] == "trained in this run"
    assert labels == ["base", "expert qed"]
    with pytest.raises(SpaceError, match=r"`base` must have the data's space .*base='train'"):
        run(other, base="tiny-base")


def test_a_given_base_is_not_changed(data, base):
    before = {name: value.clone() for name, value in base.energy.state_dict().items()}
    assert run(data, base=base, n_steps=2).figures["base"] == "given"
    assert all(torch.equal(before[name], value) for name, value in base.energy.state_dict().items())


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["base", "expert qed", "expert logp"])
def test_ctrl_c_in_a_training_gives_what_there_is(data, tmp_path, monkeypatch, at):
    def stopped_in(whole):
        def stopped(*args, label, **kwargs):
            model = whole(*args, label=label, **kwargs)
            model.interrupted = label == at
            return model

        return stopped

    for name in ("train", "train_expert"):
        monkeypatch.setattr(module, name, stopped_in(getattr(module, name)))
    result = run(data, ["qed", "logp"], strategy="compose", fraction=0.4, n=6, n_steps=5, output=tmp_path)
    assert result.interrupted
    assert len(result.generated) == 6
    assert any("interrupted" in line for line in result.caveats)
    trained = {"base": None, "expert qed": ("qed",), "expert logp": ("qed", "logp")}[at]
    energy = load_model(tmp_path).energy
    assert (energy.names if isinstance(energy, ComposedEnergy) else None) == trained


def test_ctrl_c_while_sampling_gives_what_there_is(data, base, monkeypatch):
    generating = sys.modules["graph_ebm.generate"]
    whole, calls = generating.advance_chains, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(generating, "advance_chains", stopped)
    result = run(data, base=base, n_steps=80)
    assert result.interrupted
    assert result.figures["n_steps"] == 6
    assert len(result.molecules) >= 1


def test_from_smiles_is_enough(base):
    """A user's own list, with no columns: properties are computed; names of its own vocabulary."""
    smiles = [f"{'C' * i}O{'C' * j}" for i in range(1, 9) for j in range(1, 9)]
    molecules, _ = from_smiles(smiles, max_atoms=17)
    result = run(molecules, "logp", fraction=0.9, n=8, n_steps=10)
    assert result.figures["base"] == "trained in this run"
    assert len(result.before["logp"]) == 64
