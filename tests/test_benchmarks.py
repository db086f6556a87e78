"""The benchmark suites run at a tiny size, resume where they were, and their tables say what was measured."""

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import markdown, run, table
from benchmarks.common import RESULTS, Context, fingerprint
from benchmarks.measure import Judge, checked, property_values
from benchmarks.peers import BudgetSpent, GraphGA, Oracle, RandomScreen
from benchmarks.pools import meets
from benchmarks.sampling import ZeroEnergy, curve, perturb
from benchmarks.suites import SUITES, suite
from discrete_ebm.errors import DataError, SettingError
from graph_ebm import datasets
from graph_ebm.metrics import check_samples
from graph_ebm.model import single_atoms
from graph_ebm.moves import build_kernel, mine_moves
from tests.short_chains import shorten

ROOT = Path(__file__).resolve().parent.parent


def options(name: str, folder: Path, **more: object) -> Namespace:
    base = {"suite": name, "seeds": [0], "size": "small", "data": None, "json": folder / f"{name}-small-seed0.json",
            "work": folder / "work", "again": False, "retrain": False, "device": "cpu"}  # fmt: skip
    return Namespace(**(base | more))


@pytest.fixture(scope="module")
def small():
    """200 QM9 molecules and a kernel over the moves mined from them."""
    molecules = datasets.load("qm9-sample", limit=200, max_atoms=9)
    return molecules, build_kernel(mine_moves(molecules.x, molecules.space.vocabulary.valence_table()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Records of the suites that share nothing heavier than seconds, made once."""
    folder = tmp_path_factory.mktemp("bench")
    few = {"qm9": {"counts_steps": [4], "poor_steps": [4], "steps": [4, 8], "n": 12, "chunk": 6},
           "nulls": {"n": 8, "strengths": [2.0], "most_calls": 60}}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return folder, {name: run.run_one(options(name, folder), 0, changes) for name, changes in few.items()}


def test_the_qm9_suite_measures_a_curve_with_its_baselines(results):
    _, records = results
    record = records["qm9"]
    assert record["finished"]
    names = set(record["parts"])
    assert {"model/4", "model/8", "counts only/4", "counts without angles and rings/4", "training molecules",
            "training molecules + 1 random moves", "random walk (E = 0)/10"} <= names  # fmt: skip
    for name in ("model/8", "counts only/4", "training molecules + 1 random moves", "random walk (E = 0)/10"):
        part = record["parts"][name]
        assert part["n"] == 12
        assert part["valid_connected"] == 1.0
        assert 0 < part["unique"] <= 1
        assert part["fcd"] > 0
        assert 0 <= part["tv_atoms"] <= 1
    assert record["parts"]["training molecules"]["novel"] == 0.0
    assert record["parts"]["model/8"]["cost"]["energy_calls_per_molecule"] <= 8
    assert record["machine"]["cpu"]
    assert record["versions"]["torch"]
    assert {"model", "counts", "counts-poor"} == set(record["training"])


def test_a_finished_run_is_left_alone_and_an_unfinished_one_goes_on(results, monkeypatch):
    folder, records = results
    changes = {key: records["qm9"]["settings"][key] for key in records["qm9"]["settings"]}
    path = folder / "qm9-small-seed0.json"
    before = path.read_bytes()
    assert run.run_one(options("qm9", folder), 0, changes)["finished"]
    assert path.read_bytes() == before

    cut = json.loads(before)
    lost = cut["parts"].pop("model/8")
    cut["finished"] = False
    other = folder / "cut.json"
    other.write_text(json.dumps(cut))
    monkeypatch.setattr("graph_ebm.train", lambda *a, **k: pytest.fail("trained again"))
    resumed = run.run_one(options("qm9", folder, json=other), 0, changes)
    again = resumed["parts"]["model/8"]  # from the kept model and the kept states
    # ChemNet runs in float32 on other batches when some activations are known already: the last digits may differ
    assert again.pop("fcd") == pytest.approx(lost.pop("fcd"), rel=1e-5)
    assert again == lost

    longer = run.run_one(options("qm9", folder, json=other), 0, changes | {"perturb": [1, 2]})
    assert {k: v for k, v in longer["parts"]["model/8"].items() if k != "fcd"} == lost
    assert longer["parts"]["training molecules + 2 random moves"]["n"] == 12
    with pytest.raises(DataError, match="minutes"):  # another experiment, not an extension
        run.run_one(options("qm9", folder, json=other), 0, changes | {"minutes": 1.0})


def test_nulls_say_who_wins_and_count_every_call(results):
    _, records = results
    parts = records["nulls"]["parts"]
    for task in ("qed", "plogp"):
        for figure in ("hit_rate", "new_hits", "top10"):
            who = parts[f"{task}: who wins"][figure]["of all"]
            assert parts[f"{task}: {who['method']}"][figure] == who["value"]
            known = [p[figure] for n, p in parts.items() if n.startswith(task) and "who" not in n]
            assert who["value"] == max(v for v in known if v is not None)
        if GraphGA().available():  # an optional peer; without it the record says that it was left out
            assert parts[f"{task}: graph GA"]["calls"] <= 60
        assert parts[f"{task}: data"]["novel"] == 0.0
        assert parts[f"{task}: expert"]["calls"] == 400 + 8


def test_tables_show_every_method_and_update_marked_regions_only(results):
    folder, records = results
    for name, record in records.items():
        text = table.table(folder, name, "small")
        assert text is not None
        for part in record["parts"]:
            assert part in text or part == "data" or "who wins" in part
    end = "<!-- end benchmark -->\n"
    page = f"a\n<!-- benchmark: qm9 -->\nold\n{end}z\n<!-- benchmark: cost -->\nkept\n{end}"
    new = table.update(page, {"qm9": "new\n"})
    assert "old" not in new
    assert "new" in new
    assert "kept" in new
    assert new.startswith("a\n")
    with pytest.raises(SettingError, match="end benchmark"):
        table.update("<!-- benchmark: qm9 -->", {})


@pytest.mark.parametrize("page", ["README.md", "docs/molecule_results.md", "docs/molecules.md"])
def test_the_tables_in_the_documents_are_those_of_the_records(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = set(re.findall(r"<!-- benchmark: (\S+) -->", text))
    found = {name: made for name in names if (made := table.table(RESULTS, name, "full"))}
    assert found
    assert table.update(text, found) == text, "run: python -m benchmarks.table --update " + page


def test_the_short_table_says_the_figures_of_its_records(results):
    folder, records = results
    short = table.table(folder, "headlines", "small")
    assert short is not None
    assert f"{records['qm9']['parts']['model/8']['fcd']:.2f} at 4 / 8 steps" in short
    expert = records["nulls"]["parts"]["qed: expert"]
    best = f"{expert['new_hits']:.1%}, best ten {expert['top10']:.3f}"
    assert f"expert: {best} ({expert['calls']:,} calls)" in short  # a comparison without its price would mislead
    assert table.table(folder / "nowhere", "headlines", "small") is None


def test_every_suite_has_both_sizes_with_the_same_settings():
    for name in SUITES:
        found = suite(name)
        assert found.settings["small"].keys() == found.settings["full"].keys()
        assert "threads" in found.settings["full"]


def test_a_model_trained_otherwise_is_not_taken_for_this_one(small, tmp_path):
    molecules, _ = small
    from graph_ebm.energies import MolecularEnergy
    from graph_ebm.model import MolecularModel

    def context() -> Context:
        ctx = Context("qm9", 0, "small", {}, tmp_path / "r.json", work=tmp_path / "work")
        ctx.begin()
        return ctx

    settings = mine_moves(molecules.x, molecules.space.vocabulary.valence_table())
    model = MolecularModel(MolecularEnergy(molecules.space), molecules.space, settings)
    kept = context().model("m", {"minutes": 1}, lambda: model)
    assert fingerprint(kept.energy) == fingerprint(model.energy)
    with pytest.raises(DataError, match="minutes"):
        context().model("m", {"minutes": 2}, lambda: model)


def test_perturbed_molecules_are_valid_and_have_moved(small):
    molecules, kernel = small
    for k in (1, 3):
        x, short = perturb(kernel, molecules.space, molecules.x[:40], k, seed=1)
        assert short == 0
        molecules.space.validate(x)
        assert bool((x != molecules.x[:40]).flatten(1).any(1).float().mean() > 0.8)  # a walk may return for k = 3


def test_a_curve_resumes_to_the_bit(small, tmp_path):
    molecules, kernel = small
    energy, start = ZeroEnergy(molecules.space), single_atoms(molecules.space, 10)
    settings = {"seed": 3, "chunk": 4, "name": "walk"}
    whole = [x for _, x, _ in curve(energy, kernel, start, [5, 10], folder=tmp_path / "a", **settings)]
    next(curve(energy, kernel, start, [5, 10], folder=tmp_path / "b", **settings))  # killed after the first
    resumed = [(at, x, t) for at, x, t in curve(energy, kernel, start, [5, 10], folder=tmp_path / "b", **settings)]
    assert all(torch.equal(a, b) for a, (_, b, _) in zip(whole, resumed, strict=True))
    assert resumed[-1][2].chain_steps == 100
    (tmp_path / "b" / "walk-10.safetensors").write_bytes(b"broken")
    again = [x for _, x, _ in curve(energy, kernel, start, [5, 10], folder=tmp_path / "b", **settings)]
    assert torch.equal(again[-1], whole[-1])


def test_judge_counts_over_all_samples():
    judge = Judge(["CCO"], ["CCO", "CCN"], known={"CCO", "CCC"})
    found = judge(checked(["CCO", "CCO", "CCC", "C.C", "not a molecule", None]))
    assert found["n"] == 6
    assert found["valid_connected"] == 3 / 6
    assert found["unique"] == 2 / 6
    assert found["novel"] == 1 / 6
    assert found["novel_of_distinct"] == 1 / 2
    assert found["known"] == 3 / 6
    assert checked(["OCC", "C1CC"]) == list(check_samples(["OCC", "C1CC"]).smiles)


def test_property_values_are_nan_where_there_is_no_molecule():
    values = property_values(["CCO", None, "CCO"], ["heavy_atoms"])["heavy_atoms"]
    np.testing.assert_array_equal(values, [3.0, np.nan, 3.0])
    np.testing.assert_array_equal(meets({"a": values}, {"a": (2.0, np.inf)}), [True, False, True])


def test_an_oracle_counts_distinct_molecules_and_stops_at_its_budget():
    oracle = Oracle("heavy_atoms", 2, max_atoms=4)
    assert oracle(["CCO", "OCC", "CCCCCC", "C1CC"]) == [3.0, 3.0, -1e6, -1e6]
    assert oracle.calls == 1
    with pytest.raises(BudgetSpent):
        oracle(["CC", "CCC"])
    assert oracle.calls == 2
    assert oracle.best(1) == [("CCO", 3.0)]


@pytest.mark.parametrize("peer", [RandomScreen(), GraphGA(offspring=8)], ids=lambda peer: peer.name)
def test_peers_spend_the_budget_on_molecules_under_the_cap(peer):
    if not peer.available():
        pytest.skip(f"needs {peer.package}")
    start = datasets.load("qm9-sample", limit=30, max_atoms=9).smiles
    oracle = Oracle("logp", 40 if isinstance(peer, GraphGA) else 20, max_atoms=9)
    peer.run(oracle, start, seed=0)
    assert oracle.calls == oracle.budget
    assert all(s is not None for s, _ in oracle.history)
    if isinstance(peer, GraphGA):
        assert len({s for s, _ in oracle.history} - set(start)) >= 8


def test_spread_is_mean_and_sample_deviation():
    assert markdown.spread([1.0, 3.0], ".2f") == "2.00 ± 1.41"
    assert markdown.spread([0.5], ".1%") == "50.0%"
    assert markdown.spread([0.5, 0.7], ".1%") == "60.0 ± 14.1 %"
    assert markdown.spread([None], ".1f") == "-"


def test_a_wrong_setting_ends_with_a_sentence(tmp_path, capsys):
    code = run.main(
        ["--suite", "qm9", "--size", "small", "--set", "stepz=1", "--in-process", "--json", str(tmp_path / "r.json")]
    )
    assert code == 2
    assert "stepz" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default-job", "druglike", "composed", "cost", "moves"])
def test_other_suites_run_from_the_command_line(name, tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--suite", name, "--size", "small", "--json", str(tmp_path),
               "--work", str(tmp_path / "work"), "--seeds", "0", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(table.records(tmp_path, name, "small")) == 2
    text = table.table(tmp_path, name, "small")
    assert text is not None
    assert "±" in text
