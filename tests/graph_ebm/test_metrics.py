"""Metrics of molecules against hand-made cases, closed forms and independent implementations."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator
from scipy.stats import wasserstein_distance

from discrete_ebm.errors import MoleculeError, RegistryError, SettingError
from graph_ebm import metrics
from graph_ebm.metrics import check_sample, check_samples, evaluate

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DISCRETE_EBM_DATA", ROOT.parent / "shared" / "data")) / "molecules"

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C1CC1C", "C[NH2+]CC(=O)[O-]", "C#CC=C", "O=C1CCCN1", "Clc1ccncc1"]


# Twenty hand-made cases: what counts as a molecule and what does not.
CASES = [
    ("C", "C"),
    ("OCC", "CCO"),
    ("  CCO\n", "CCO"),
    ("C[C@H](N)O", "CC(N)O"),
    ("C/C=C/C", "CC=CC"),
    ("[CH3:7]C", "CC"),
    ("[2H]C([2H])C", "CC"),
    ("C1=CC=CC=C1", "c1ccccc1"),
    ("[O-][N+](=O)c1ccccc1", "O=[N+]([O-])c1ccccc1"),
    ("", "missing"),
    (None, "missing"),
    ("None", "missing"),
    ("nan", "missing"),
    ("C1CC", "parse_error"),
    ("not a molecule", "whitespace"),
    ("CC.O", "disconnected"),
    ("C(C)(C)(C)(C)C", "sanitize"),
    ("c1cccc1", "sanitize"),
    ("*CC", "unknown_type"),
    ("C" * 1001, "too_long"),
    ("CC\u200bO", "non_ascii"),
    ("C\x00C", "control_characters"),
    ("C(" * 70 + "C" + ")" * 70, "too_deep"),
]


@pytest.mark.parametrize(("sample", "expected"), CASES)
def test_validity_is_honest_on_hand_made_cases(sample, expected):
    smiles, reason = check_sample(sample)
    assert (smiles or reason) == expected
    assert (smiles is None) == bool(reason)


def test_empty_molecule_is_rejected_and_rdkit_molecules_are_accepted():
    assert check_sample(Chem.Mol()) == (None, "empty")
    assert check_sample(Chem.MolFromSmiles("OCC")) == ("CCO", "")
    assert check_sample(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) == (None, "sanitize")


def test_nothing_is_dropped_in_silence_and_logs_are_left_alone(capfd):
    before = rdBase.LogStatus()
    samples = [case[0] for case in CASES]
    checked = check_samples(samples)
    assert checked.n == len(samples) == checked.n_valid + sum(checked.reasons.values())
    assert rdBase.LogStatus() == before
    assert capfd.readouterr().err == ""


def test_other_types_are_refused_with_a_way_out():
    with pytest.raises(MoleculeError, match="to_smiles"):
        check_samples([3])
    with pytest.raises(MoleculeError, match="list"):
        check_samples("CCO")


def test_denominator_is_all_samples():
    found = evaluate(["CCO", "OCC", "C1CC", None, "CC"], ["CCO"], properties=())
    by_name = {f.name: f for f in found.figures}
    assert (by_name["validity"].count, by_name["validity"].of) == (3, 5)
    assert (by_name["uniqueness"].count, by_name["uniqueness"].of) == (2, 5)
    assert (by_name["uniqueness_of_valid"].count, by_name["uniqueness_of_valid"].of) == (2, 3)
    assert (by_name["novelty"].count, by_name["novelty"].of) == (1, 2)
    assert (by_name["valid_unique_novel"].count, by_name["valid_unique_novel"].of) == (1, 5)
    assert found.rejected == {"parse_error": 1, "missing": 1}
    table = found.table()
    assert "3 of 5" in table
    assert "parse_error 1" in table


@pytest.mark.parametrize("samples", [None, [], [None], ["C1CC"]])
@pytest.mark.parametrize("reference", [None, [], [None], ["CCO"]])
def test_empty_and_invalid_inputs_give_empty_figures(samples, reference):
    found = evaluate(samples, reference)
    assert found.table()
    assert found["validity"] in (None, 0.0)
    assert found["internal_diversity"] is None
    assert found.to_dict()["properties"]["qed"]["samples"]["n"] == 0


def test_a_set_against_itself_is_at_distance_zero():
    found = evaluate(SMILES, SMILES)
    assert found["novelty"] == 0.0
    assert found["nearest_neighbour_similarity"] == pytest.approx(1.0)
    assert all(found[f"tv_{name}"] == 0.0 for name in metrics.HISTOGRAMS)
    assert all(c.distance == 0.0 for c in found.properties.values())
    with pytest.raises(SettingError, match="validity"):
        found["fcdd"]


def test_unknown_property_is_named():
    with pytest.raises(RegistryError, match="qed"):
        evaluate(SMILES, properties=["qedd"])


def test_property_values_that_fail_are_counted_by_reason(tmp_path, monkeypatch):
    (tmp_path / "odd_property.py").write_text(
        "def f(smiles):\n    return 1 / (len(smiles) - 1) if 'O' not in smiles else float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    evaluation = evaluate(["CC", "CCO", "CO", "C"], properties=["odd_property:f", "mw"])
    found = evaluation.properties["odd_property:f"]
    assert found.n_failed == 3
    assert found.samples.tolist() == [1.0]
    assert found.failures == {"nan": 2, "raised": 1}
    assert evaluation.to_dict()["properties"]["odd_property:f"]["failures"] == {"nan": 2, "raised": 1}
    assert evaluation.properties["mw"].failures == {}
    assert "nan 2, raised 1" in evaluation.table()


def test_similarities_agree_with_rdkit_pair_by_pair():
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    fps = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in SMILES]
    pairs = np.array([DataStructs.BulkTanimotoSimilarity(f, fps) for f in fps])
    bits = metrics.fingerprints(SMILES)
    assert metrics.internal_diversity(bits) == pytest.approx(1 - pairs.mean(), abs=1e-6)
    index, best = metrics.nearest(bits[:3], bits[3:])
    assert index.tolist() == pairs[:3, 3:].argmax(1).tolist()
    assert best == pytest.approx(pairs[:3, 3:].max(1), abs=1e-6)


def test_chunks_change_nothing(monkeypatch):
    from graph_ebm.metrics import similarity

    bits = metrics.fingerprints(SMILES)
    whole = metrics.internal_diversity(bits), metrics.nearest(bits[:5], bits[2:])
    monkeypatch.setattr(similarity, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(similarity, "_CHUNK_COLUMNS", 2)
    parts = metrics.internal_diversity(bits), metrics.nearest(bits[:5], bits[2:])
    assert parts[0] == pytest.approx(whole[0], abs=1e-9)
    assert np.array_equal(parts[1][0], whole[1][0])
    assert parts[1][1] == pytest.approx(whole[1][1])


def test_diversity_of_one_molecule_and_of_copies_is_zero():
    assert metrics.internal_diversity(metrics.fingerprints(["CCO"])) == 0.0
    assert metrics.internal_diversity(metrics.fingerprints(["CCO"] * 4)) == pytest.approx(0.0, abs=1e-7)


def test_scaffolds_are_bemis_murcko():
    assert metrics.scaffolds(["Cc1ccccc1", "Oc1ccccc1CC", "CCO"]) == ["c1ccccc1", "c1ccccc1", ""]
    found = evaluate(["Cc1ccccc1", "Oc1ccccc1CC", "CCO", "C1CC1C"], properties=())
    assert found["scaffold_diversity"] == 0.5  # two scaffolds among four distinct molecules
    assert found["acyclic"] == 0.25


def test_histograms_count_by_hand():
    found = metrics.histograms(["C[NH2+]CC(=O)[O-]", "c1ccccc1", "C1CC1", "C1CCCCCCCCC1"])
    assert found["atoms"] == {"C": 3 + 6 + 3 + 10, "N+": 1, "O": 1, "O-": 1}
    assert found["bonds"] == {"single": 4 + 3 + 10, "double": 1, "aromatic": 6}
    assert found["rings"] == {"6": 1, "3": 1, "9+": 1}
    assert found["size"] == {"6": 2, "3": 1, "10": 1}


def test_total_variation_of_known_histograms():
    assert metrics.total_variation({"a": 1}, {"b": 3}) == 1.0
    assert metrics.total_variation({"a": 2, "b": 2}, {"a": 10, "b": 10}) == 0.0
    assert metrics.total_variation({"a": 3, "b": 1}, {"a": 1, "b": 1}) == 0.25
    assert metrics.total_variation({}, {"a": 1}) is None


def test_wasserstein_agrees_with_scipy_and_closed_forms():
    rng = np.random.default_rng(3)
    for n, m in ((1, 1), (5, 9), (200, 37)):
        a, b = rng.normal(size=n), rng.normal(1.0, 2.0, size=m).round(1)  # ties too
        assert metrics.wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b), rel=1e-12)
    assert metrics.wasserstein([0.0], [2.5]) == 2.5
    assert metrics.wasserstein([], [1.0]) is None
    with pytest.raises(SettingError, match="finite"):
        metrics.wasserstein([math.nan], [1.0])


def test_large_sets_are_compared_in_part_and_say_so():
    found = evaluate(SMILES, SMILES, properties=(), max_compared=3)
    assert any("3 of 8" in caveat for caveat in found.caveats)


def test_evaluation_is_json_and_repeats():
    import json

    one, two = (json.dumps(evaluate([*SMILES, None], SMILES[:3]).to_dict(), allow_nan=False) for _ in range(2))
    assert one == two


def test_null_table_puts_methods_side_by_side():
    rows = metrics.null_table({"ours": evaluate(SMILES, properties=()), "null": evaluate([None], properties=())},
                              ["validity", "fcd"])  # fmt: skip
    assert rows == [
        {"method": "ours", "validity": "100.00 %", "fcd": "-"},
        {"method": "null", "validity": "0.00 %", "fcd": "-"},
    ]


def test_unsafe_texts_go_through_the_isolated_reader(monkeypatch):
    from graph_ebm.chem import isolate
    from graph_ebm.chem.reader import Refusal

    seen = []
    monkeypatch.setattr(isolate, "read", lambda text: seen.append(text) or Refusal("timeout"))
    rings = "C1CC1" * 40
    assert check_sample(rings) == (None, "timeout")
    assert seen == [rings]


@pytest.mark.skipif(not DATA.is_dir(), reason="the data folder is not here (set DISCRETE_EBM_DATA)")
def test_published_samples_have_their_published_validity():
    """DiGress's QM9 release: 99.2 % parse, 96.9 % of those unique."""
    with gzip.open(DATA / "reference_samples" / "digress_qm9_noH_10k.smi.gz", "rt") as file:
        samples = file.read().splitlines()[1:]
    checked = check_samples(samples)
    assert checked.n == 10_000
    assert round(100 * checked.n_valid / checked.n, 1) == 99.2
    assert round(100 * len(checked.unique) / checked.n_valid, 1) == 96.9


def test_trusted_molecules_are_what_checking_would_give():
    from graph_ebm import datasets
    from graph_ebm.metrics import CheckedSamples

    smiles = [s for name in datasets.names() for s in datasets.load(name, 100).smiles]
    assert CheckedSamples.trusted(smiles).smiles == check_samples(smiles).smiles
