"""The command graph-ebm: what it writes, and how it fails."""

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from discrete_ebm.cli_support import run
from discrete_ebm.errors import MoleculeError
from graph_ebm.cli import cli

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C1CC1C", "C[NH2+]CC(=O)[O-]", "CCCCCO"]
ROOT = Path(__file__).resolve().parents[2]


class Model:
    """Stands in for a trained model."""

    def __init__(self) -> None:
        self.energy = torch.nn.Linear(2, 1)
        self.history = {"stage": ["warm", "pcd"], "seconds": [0.0, 1.0], "gap": [2.0, 0.5], "distance": [None, 3.0],
                        "acceptance": {"retype": [0.1, 0.2]}}  # fmt: skip

    def save(self, folder) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"weights")
        (Path(folder) / "config.json").write_text("{}")


class Generated:
    def __init__(self, n: int) -> None:
        self.smiles = (SMILES * n)[:n]
        self.acceptance, self.trace = {"retype": 0.3}, {"step": [0, 1], "energy": [3.0, 1.0]}

    def table(self):
        return {"smiles": self.smiles, "energy": np.linspace(-3, -1, len(self.smiles))}


class Target:
    def __init__(self, name, direction="max", low=None, high=None):
        self.name, self.direction, self.low, self.high = name, direction, low, high

    @classmethod
    def parse(cls, text):
        from graph_ebm import properties

        properties.spec(text)
        return cls(text)


class Result:
    def __init__(self, n: int = 4) -> None:
        self.molecules = {"smiles": SMILES[:n], "qed": np.linspace(0.9, 0.6, n)}
        self.before, self.after = {"qed": np.full(9, 0.4)}, {"qed": np.linspace(0.9, 0.6, n)}
        self.history, self.figures, self.caveats = Model().history, {"hit_rate": 0.5, "base_rate": 0.1}, ["Fake."]
        self.generated, self.model = Generated(n), Model()


@pytest.fixture
def calls(monkeypatch):
    """Replaces training, sampling and optimisation by fakes that record how they were called."""
    seen: dict = {}

    def recorder(name, answer):
        def function(*args, **kwargs):
            seen[name] = (args, kwargs)
            return answer(*args, **kwargs) if callable(answer) else answer

        return function

    training = types.ModuleType("graph_ebm.training")
    training.train = recorder("train", Model())
    model = types.ModuleType("graph_ebm.model")
    model.load_model = recorder("load_model", Model())
    generate = types.ModuleType("graph_ebm.generate")
    generate.generate = recorder("generate", lambda model, n, **_: Generated(n))
    optimize = types.ModuleType("graph_ebm.optimize")
    optimize.optimize, optimize.Target = recorder("optimize", Result()), Target
    for module in (training, model, generate, optimize):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    seen["modules"] = {"training": training, "generate": generate, "optimize": optimize}
    return seen


@pytest.fixture
def molecules(tmp_path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("SMILES,qed\n" + "".join(f"{s},0.5\n" for s in SMILES) + "C1CC,0.1\n")
    return path


def call(*args: object) -> int:
    return run(cli, [str(a) for a in args], prog_name="graph-ebm")


def fails(capsys, *args: object, code: int = 2) -> str:
    """Runs a command that must fail; returns its one sentence."""
    assert call(*args) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert error, "nothing on stderr"
    assert error[-1].startswith("graph-ebm: ")
    assert "Traceback" not in "\n".join(error)
    return error[-1]


# -- what is written ------------------------------------------------------------------------------------------------


def test_evaluate_counts_every_row_and_writes_json(tmp_path, capsys):
    path = tmp_path / "samples.smi"
    path.write_text("CCO\nOCC\nC1CC\nNone\nc1ccccc1\n")
    assert call("evaluate", path, "--reference", path, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "3 of 5" in out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["figures"]["validity"] == {
        "value": 0.6, "count": 3, "of": 5, "note": "all samples, before any filter",
    }  # fmt: skip
    assert content["rejected"] == {"parse_error": 1, "missing": 1}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["command"].startswith("graph-ebm evaluate")


def test_evaluate_json_is_all_that_stdout_holds(tmp_path, capsys):
    path = tmp_path / "samples.smi"
    path.write_text("CCO\n")
    assert call("evaluate", path, "--json", "--properties", "qed", "--output", tmp_path / "out") == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["properties"]) == ["qed"]
    assert content["folder"] == str(tmp_path / "out")


def test_train_writes_its_folder_and_reports_what_was_rejected(calls, molecules, tmp_path, capsys):
    assert call("train", "--data", molecules, "--minutes", 0.5, "--seed", 7, "--output", tmp_path / "out") == 0
    assert "7 in = 6 kept + 1 rejected (parse_error 1)" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "config.json", "run.json", "report.html",
    }  # fmt: skip
    args, kwargs = calls["train"]
    assert len(args[0]) == 6
    assert (kwargs["minutes"], kwargs["seed"], kwargs["output"]) == (0.5, 7, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "run.json").read_text())
    assert content["data"] == {"n_in": 7, "n_kept": 6, "rejected": {"parse_error": 1}}
    assert content["interrupted"] is False


@pytest.mark.parametrize("name", ["m.smi", "m.csv", "m.sdf"])
def test_generate_writes_one_file_when_asked(calls, tmp_path, name, capsys):
    assert call("generate", tmp_path, "-n", 5, "--output", tmp_path / name) == 0
    assert (tmp_path / name).stat().st_size > 0
    assert "5 molecules" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_said_before_anything_is_sampled(calls, molecules, tmp_path, capsys):
    assert "Choose another" in fails(capsys, "generate", tmp_path, "--output", molecules / "new.smi")
    (tmp_path / "folder.smi").mkdir()
    assert "must be a file" in fails(capsys, "generate", tmp_path, "--output", tmp_path / "folder.smi")
    assert "generate" not in calls
    assert call("generate", tmp_path, "-n", 3, "--output", tmp_path / "made" / "below" / "new.smi") == 0
    assert [p.name for p in (tmp_path / "made" / "below").iterdir()] == ["new.smi"]


def test_generate_passes_on_what_was_asked(calls, molecules, tmp_path):
    assert call("generate", tmp_path, "-n", 4, "--start", "OCC", "--keep", "CO", "--steps", 9, "--beta", 0.5,
                "--reference", molecules, "--quiet", "--output", tmp_path / "out") == 0  # fmt: skip
    args, kwargs = calls["generate"]
    assert args[1] == 4
    assert kwargs == {"seed": 0, "progress": False, "n_steps": 9, "beta": 0.5, "start": ["CCO"], "keep": "CO"}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"molecules.csv", "molecules.smi", "run.json", "report.html"}


def test_optimize_writes_everything_and_prints_the_best(calls, molecules, tmp_path, capsys):
    assert call("optimize", "qed", "--data", molecules, "--like", "OCC", "--similarity", 0.4, "-n", 4,
                "--output", tmp_path / "out") == 0  # fmt: skip
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"molecules.csv", "model.safetensors", "config.json", "run.json", "report.html"}
    args, kwargs = calls["optimize"]
    assert [t.name for t in args[0]] == ["qed"]
    assert (kwargs["like"], kwargs["similarity"], kwargs["n"]) == ("CCO", 0.4, 4)
    assert "fraction" not in kwargs  # what was not asked keeps the library's default
    assert "4 molecules in all" in capsys.readouterr().out
    html = (tmp_path / "out" / "report.html").read_text()
    assert "hit rate over the training data: 50.0 % against 10.0 %" in html
    assert "graph-ebm optimize qed" in html


def test_default_output_is_a_dated_folder(calls, molecules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("train", "--data", molecules, "--quiet") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-train")


def test_lists_print_tables_and_json(capsys):
    for command, word in (("moves", "retype"), ("properties", "qed"), ("datasets", "zinc-sample")):
        assert call(command) == 0
        assert word in capsys.readouterr().out
        assert call(command, "--json") == 0
        assert word in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert call("properties", "OCC", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["smiles"] == "CCO"


# -- how it fails ---------------------------------------------------------------------------------------------------


def test_unreadable_files_and_unknown_names(calls, tmp_path, capsys):
    (tmp_path / "x.csv").write_bytes(b"")
    (tmp_path / "x.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "x.doc").write_text("C")
    (tmp_path / "empty").mkdir()
    assert "zinc-sample" in fails(capsys, "train", "--data", "zinc-sampel")
    for command in ("evaluate", "train"):
        for name in ("x.csv", "x.csv.gz", "x.doc", "missing.smi", "empty"):
            extra = [tmp_path / name] if command == "evaluate" else ["--data", tmp_path / name]
            assert name in fails(capsys, command, *extra)


def test_missing_column_names_the_columns(calls, molecules, capsys):
    sentence = fails(capsys, "train", "--data", molecules, "--column", "structure")
    assert "structure" in sentence
    assert "SMILES" in sentence


def test_nothing_usable_says_why(calls, tmp_path, capsys):
    (tmp_path / "bad.smi").write_text("C1CC\nCC.O\n")
    sentence = fails(capsys, "train", "--data", tmp_path / "bad.smi")
    assert "at least one usable molecule" in sentence
    assert "disconnected" in sentence


def test_wrong_smiles_and_smarts(calls, molecules, tmp_path, capsys):
    assert "--like must be a valid SMILES" in fails(capsys, "optimize", "qed", "--like", "C1CC", "--data", molecules)
    assert "--keep must be a SMARTS" in fails(capsys, "optimize", "qed", "--keep", "((", "--data", molecules)
    assert "--start must be a valid SMILES" in fails(capsys, "generate", tmp_path, "--start", "xyz")
    (tmp_path / "s.smi").write_text("CCO\nC1CC\n")
    assert "row 2" in fails(capsys, "generate", tmp_path, "--start", tmp_path / "s.smi")
    assert "SMILES must be a valid SMILES" in fails(capsys, "properties", "C1CC")


def test_unknown_property_suggests_the_nearest(calls, tmp_path, capsys):
    assert "'qed'" in fails(capsys, "optimize", "qedd")
    (tmp_path / "a.smi").write_text("C\n")
    assert "'qed'" in fails(capsys, "evaluate", tmp_path / "a.smi", "--properties", "qedd")
    assert "importable" in fails(capsys, "evaluate", tmp_path / "a.smi", "--properties", "no_such_module:f")


def test_usage_errors_name_the_option(calls, tmp_path, capsys):
    assert "--similarity needs --like" in fails(capsys, "optimize", "qed", "--similarity", 0.4)
    assert "--seed" in fails(capsys, "train", "--seed", "x")
    assert "--nonsense" in fails(capsys, "train", "--nonsense")
    assert "PROPERTY" in fails(capsys, "optimize")
    assert "--device" in fails(capsys, "train", "--device", "quantum")
    assert "Check the path" in fails(capsys, "generate", tmp_path / "no-model")
    (tmp_path / "a.smi").write_text("C\n")
    assert "--fcd needs" in fails(capsys, "evaluate", tmp_path / "a.smi", "--fcd")


def test_library_errors_become_one_sentence_and_leave_no_empty_folder(calls, molecules, tmp_path, capsys):
    def impossible(*args, **kwargs):
        raise MoleculeError("`keep` must be met by a training molecule;\ngot none. Loosen it.")

    calls["modules"]["optimize"].optimize = impossible
    out = tmp_path / "out"
    sentence = fails(capsys, "optimize", "qed", "--data", molecules, "--output", out)
    assert sentence == "graph-ebm: `keep` must be met by a training molecule; got none. Loosen it."
    assert not out.exists()


def test_ctrl_c_keeps_what_is_done(calls, molecules, tmp_path, capsys):
    def stopped(*args, output, **kwargs):
        (Path(output) / "model.safetensors").write_bytes(b"so far")
        raise KeyboardInterrupt

    calls["modules"]["training"].train = stopped
    sentence = fails(capsys, "train", "--data", molecules, "--output", tmp_path / "out", code=130)
    assert "kept in" in sentence
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == b"so far"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["interrupted"] is True


def test_a_result_that_was_cut_short_is_written_and_ends_with_130(calls, molecules, tmp_path, capsys):
    result = Result()
    result.interrupted = True
    calls["modules"]["optimize"].optimize = lambda *args, **kwargs: result
    fails(capsys, "optimize", "qed", "--data", molecules, "--output", tmp_path / "out", code=130)
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "molecules.csv").exists()


def test_no_space_on_disk_is_said(calls, molecules, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert "No space left" in fails(capsys, "train", "--data", molecules, "--output", tmp_path / "out")


def test_an_output_that_is_a_file_is_refused(calls, molecules, capsys):
    assert "mine.csv" in fails(capsys, "train", "--data", molecules, "--output", molecules)


def test_a_closed_pipe_brings_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "graph_ebm.cli", "moves"],
            stdout=write,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
    finally:
        os.close(write)
    assert done.returncode == 2
    assert done.stderr.decode().strip() == "graph-ebm: the output was closed before everything was written."


def test_help_and_version_work(capsys):
    for command in ("train", "generate", "optimize", "evaluate", "moves", "properties", "datasets"):
        assert call(command, "--help") == 0
        assert "Usage: graph-ebm" in capsys.readouterr().out
    assert call("--version") == 0
    assert call() == 0  # nothing asked: the help, as with --help
    assert "optimize" in capsys.readouterr().out
