"""The report page and the run folder: whole, offline, escaped, and never half written."""

import csv
import errno
import json
import math
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from discrete_ebm.errors import CheckpointError, DataError, MoleculeError
from graph_ebm import plots
from graph_ebm.metrics import evaluate
from graph_ebm.report import Comparison, Report, nearest_training, render, show, write_report
from graph_ebm.report_builders import describe_target, duration, optimization_report
from graph_ebm.run_folder import RunFolder, csv_text, plain, rows_of, write_json, write_molecules, write_text

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C1CC1C", "C[NH2+]CC(=O)[O-]"]
RNG = np.random.default_rng(0)


def full_report(**changes) -> Report:
    """A report with every part filled."""
    values = {
        "title": "Molecules with higher qed",
        "summary": "A summary.",
        "command": "graph-ebm optimize qed",
        "asked": [("Target", "qed as high as possible")],
        "headline": [("100 %", "valid")],
        "molecules": [{"smiles": s, "qed": 0.9 - i / 10, "note": "x"} for i, s in enumerate(SMILES)],
        "training": [*SMILES[2:], None, "C1CC"],
        "start": "CCO",
        "keep": "CO",
        "comparisons": [Comparison("qed", RNG.random(50), RNG.random(40), (0.5, None))],
        "history": {
            "seconds": [1.0, 2.0, 3.0], "stage": ["a", "a", "b"], "gap": [3.0, 1.0, float("nan")],
            "distance": [None, 2.0, 1.0], "acceptance": [{"retype": 0.1}, {"retype": 0.2, "ring": 0.3}, {}],
        },
        "trace": {"step": [0, 10, 20], "energy": [3.0, 2.0, 1.0]},
        "acceptance": {"retype": 0.1, "ring_bond": None, "reattach": float("nan")},
        "evaluation": evaluate([*SMILES, None], SMILES[:2]),
        "baselines": [{"method": "ours", "hits": 0.4}, {"method": "random walk", "hits": 0.01}],
        "caveats": ["A caveat."],
        "provenance": {"versions": {"torch": "2.13.0"}, "seed": 0},
        "files": [("molecules.csv", "every molecule")],
    }  # fmt: skip
    return Report(**{**values, **changes})


class _Checker(HTMLParser):
    """Collects tags, ids and links; complains about tags that are not closed."""

    void = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.tags, self.links = [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[key] for key in ("href", "src", "xlink:href") if values.get(key)]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()


def check(html: str) -> _Checker:
    parser = _Checker()
    parser.feed(html)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def html() -> str:
    return render(full_report())


def test_page_is_well_formed_and_opens_offline(html):
    page = check(html)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    outside = [url for url in re.findall(r"https?://[^\s\"'<>)]+", html) if "www.w3.org" not in url]
    assert [url for url in outside if "rdkit.org" not in url and "matplotlib.org" not in url] == []
    assert "@import" not in html
    assert html.count("<svg") >= 5 * 2 + 1 + 4 + 4


def test_page_shows_every_part(html):
    for text in ("Best molecules", "What was asked", "Before and after", "Beside the baselines", "Evaluation", "5 of 6",
                 "Training and sampling", "Caveats", "Versions and files", "in the training data", "random walk",
                 "Energy gap", "Distance of fresh samples", "Acceptance by move type", "2.13.0"):  # fmt: skip
        assert text in html, text


def test_parts_without_content_are_left_out():
    html = render(Report(title="Empty"))
    check(html)
    for text in ("Best molecules", "Evaluation", "Caveats", "Training and sampling", "What was asked"):
        assert f"<h2>{text}" not in html


def test_user_text_is_escaped():
    evil = "<script>alert(1)</script>"
    html = render(full_report(
        title=evil, summary=evil, command=evil, asked=[(evil, evil)], headline=[(evil, evil)], caveats=[evil],
        molecules=[{"smiles": "CCO", evil: 1.0, "note": evil}], comparisons=[Comparison(evil + "$x$", [1.0], [2.0])],
        history={"seconds": [1, 2], "stage": [evil, evil], evil: [1, 2]}, trace={"step": [1, 2], evil: [1, 2]},
        acceptance={evil: 0.5}, baselines=[{evil: evil}], provenance={evil: evil}, files=[(evil, evil)],
    ))  # fmt: skip
    assert "script" not in check(html).tags
    assert "<script" not in html


def test_best_molecules_are_cut_but_counted():
    rows = [{"smiles": "C" * n, "qed": 0.1} for n in range(1, 31)]
    html = render(full_report(molecules=rows, training=()))
    assert html.count('<article class="card">') == 24
    assert "The first 24 of 30" in html
    with pytest.raises(MoleculeError, match="valid molecule"):
        render(full_report(molecules=[{"smiles": "C1CC"}]))


def test_nearest_training_molecule_is_the_right_one():
    found = nearest_training(["CC(=O)Nc1ccc(O)cc1C"], SMILES)
    assert found[0][0] == "CC(=O)Nc1ccc(O)cc1"
    assert 0 < found[0][1] < 1
    assert nearest_training(["CCO"], []) == [None]
    assert nearest_training([], SMILES) == []


def test_drawings_of_nothing_and_of_constants_do_not_fail():
    for before, after in (([], []), ([1.0], []), ([2.0, 2.0], [2.0]), ([float("nan")], [1.0, 3.0])):
        assert plots.distribution_svg("x", before, after, target=(None, 1.5)).startswith("<svg")
    assert plots.curves_svg([0, 1], {"y": [float("nan")] * 2}, x_label="x").startswith("<svg")
    assert plots.shares_svg("atoms", {}, {}, []).startswith("<svg")


def test_values_read_well():
    assert [show(v) for v in (None, float("nan"), 3, 12345, 0.94444, 12.345, 1234.5, 1e-6, True, "a", [1, 2.5])] == [
        "–", "–", "3", "12,345", "0.944", "12.3", "1,234", "1.00e-06", "yes", "a", "1, 2.500",
    ]  # fmt: skip
    assert [duration(s) for s in (None, 3.4, 61, 7500)] == ["–", "3 s", "1 min 01 s", "2 h 05 min"]


class _Target:
    def __init__(self, name, direction, low=None, high=None):
        self.name, self.direction, self.low, self.high = name, direction, low, high


def test_targets_are_said_in_words():
    assert describe_target(_Target("qed", "max", -math.inf, math.inf)) == "higher qed"
    assert describe_target(_Target("sa", "min")) == "lower sa"
    assert describe_target(_Target("sa", "min", -math.inf, 2.5)) == "sa at most 2.5"
    assert describe_target(_Target("logp", "range", 1, 3)) == "logp between 1 and 3"
    assert describe_target(_Target("logp", "range", 1)) == "logp at least 1"


def test_an_optimisation_becomes_a_report():
    result = SimpleNamespace(
        molecules={"smiles": SMILES, "qed": np.linspace(0.9, 0.5, 5), "energy": torch.arange(5.0)},
        history={"seconds": [0.0, 1.0], "gap": [1.0, 0.5]},
        before={"qed": np.full(10, 0.5)},
        after={"qed": np.linspace(0.5, 0.9, 5)},
        figures={"hit_rate": 0.3, "base_rate": 0.05},
        caveats=["Small data."],
    )
    report = optimization_report(result, [_Target("qed", "max")], training=SMILES[3:], seconds=61.0, start="CCO")
    assert report.columns == ["qed", "energy"]
    assert report.headline[0][0] == "× 6.0"
    html = render(report)
    assert "Molecules with higher qed" in html
    assert "Small data." in html


# -- the folder ---------------------------------------------------------------------------------------------------


def test_folder_holds_the_files_and_says_what_they_are(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.molecules({"smiles": ["CCO", "C"], "qed": np.array([0.5, np.nan])})
    folder.run({"seed": 3, "figure": torch.tensor(1.5), "bad": float("nan"), "path": tmp_path})
    folder.report(render(Report(title="Short")))
    assert set(folder.written) == {"molecules.csv", "run.json", "report.html"}
    rows = list(csv.DictReader((folder / "molecules.csv").read_text().splitlines()))
    assert rows == [{"smiles": "CCO", "qed": "0.5"}, {"smiles": "C", "qed": ""}]
    content = json.loads((folder / "run.json").read_text())
    assert (content["seed"], content["figure"], content["bad"]) == (3, 1.5, None)
    assert content["versions"]["torch"].startswith("2.")
    assert content["machine"]["cpus"]


def test_default_folders_are_dated_and_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder(name="train").path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent.name == "runs" and path.name.split("-train")[0].startswith("20") for path in paths)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="x"):
        RunFolder(tmp_path / "x")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = write_text(tmp_path / "report.html", "old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"report\.html.*No space left"):
        write_report(path, Report(title="Short"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_tables_of_every_form_become_rows():
    rows = [{"a": 1}, {"a": 2}]
    assert rows_of(rows) == rows == rows_of({"a": np.array([1, 2])}) == rows_of({"a": torch.tensor([1, 2])})
    assert rows_of(None) == [] == rows_of({})
    with pytest.raises(DataError, match="one length"):
        rows_of({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match="table"):
        rows_of("abc")
    assert csv_text([{"smiles": "C", "x": 1}, {"smiles": 'a"b,c', "y": None}]).splitlines() == [
        "smiles,x,y", "C,1,", '"a""b,c",,',
    ]  # fmt: skip


def test_json_is_strict(tmp_path):
    path = write_json(tmp_path / "x.json", {"a": [float("inf"), np.float32(1.5), {1, 2}], 3: None})
    assert json.loads(path.read_text()) == {"a": [None, 1.5, [1, 2]], "3": None}
    assert plain(np.int64(3)) == 3


@pytest.mark.parametrize("ending", [".smi", ".csv", ".sdf"])
def test_molecule_files_read_back(tmp_path, ending):
    from graph_ebm import datasets

    path = write_molecules(tmp_path / f"m{ending}", {"smiles": SMILES, "qed": [0.1, 0.2, 0.3, 0.4, 0.5]})
    back = datasets.read(path)
    assert len(back) == len(SMILES)
    assert sorted(back.smiles) == sorted(evaluate_canonical(SMILES))


def evaluate_canonical(smiles):
    from graph_ebm.metrics import check_samples

    return check_samples(smiles).valid


def test_other_endings_and_missing_smiles_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\.smi, \.csv or \.sdf"):
        write_molecules(tmp_path / "m.txt", {"smiles": ["C"]})
    with pytest.raises(DataError, match="smiles"):
        write_molecules(tmp_path / "m.csv", [{"x": 1}])
    with pytest.raises(DataError, match="row 1"):
        write_molecules(tmp_path / "m.sdf", [{"smiles": "C1CC"}])


def test_results_of_other_forms_become_reports_too():
    """One bare array a side, histories as rows, traces as tensors: what a user's own code may hold."""
    result = SimpleNamespace(
        molecules=[{"smiles": "CCO", "qed": None}],
        history=[{"seconds": 0.0, "gap": 1.0}, {"seconds": 1.0, "gap": 0.5, "extra": "x"}],
        before=np.full(10, 0.5),
        after=torch.linspace(0.5, 0.9, 5),
        figures=None,
        caveats=None,
        generated=SimpleNamespace(trace=torch.tensor([3.0, 2.0, 1.0]), acceptance={"retype": torch.tensor(0.25)}),
    )
    html = render(optimization_report(result, [_Target("qed", "range", 0.6, None)]))
    check(html)
    for text in ("qed at least 0.6", "Energy gap", "sampling step", "25.0 %", "mean qed 0.700 against 0.500"):
        assert text in html, text


@pytest.mark.parametrize(("hit", "missed"), [(0.05, True), (0.0, True), (0.3, False)])
def test_a_run_that_improved_nothing_says_so(hit, missed):
    result = SimpleNamespace(
        molecules=[], history={}, before={"qed": [0.5]}, after={"qed": [0.4]}, caveats=["Other."],
        figures={"hit_rate": hit, "base_rate": 0.1, "lift_low": 0.2, "lift_high": 0.9, "thresholds": ["qed >= 0.8"]},
    )  # fmt: skip
    report = optimization_report(result, [_Target("qed", "max")])
    assert report.summary.startswith("The target was not reached") is missed
    assert any("did not improve" in caveat for caveat in report.caveats) is missed
    assert "95 %: × 0.2 to 0.9" in report.headline[0][1]
    assert ("A hit is", "qed >= 0.8") in report.asked
