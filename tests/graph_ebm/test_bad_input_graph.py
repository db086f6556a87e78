"""graph-ebm with the real library: what users get wrong ends in one sentence and exit code 2, and nothing is lost.

Short runs of every command are here too: the same folder goes through train, generate, optimize and evaluate.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from discrete_ebm.cli_support import run
from discrete_ebm.errors import DivergenceError, RecoveryWarning
from graph_ebm import pretrained, training
from graph_ebm.cli import cli
from graph_ebm.datasets import load
from graph_ebm.model import load_model
from graph_ebm.objectives import MolecularPCD
from graph_ebm.training import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests.graph_ebm.test_bad_input_graph"
SMALL = TrainSettings(network=None, n_chains=64, batch=32, n_steps=4)
BAD_ROWS = ["C1CC", "", "CC.O", "[Xx]", "C" * 40]  # wrong, empty, in two pieces, no element, too large
SECONDS = 20  # a real short command, on a busy machine


def never(smiles: str) -> float:
    raise RuntimeError("the licence server is down")


def always_nan(smiles: str) -> float:
    return math.nan


def sometimes(smiles: str) -> float:
    if "N" in smiles:
        raise RuntimeError("no nitrogen here")
    return float(len(smiles))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A user's file: 150 good rows and five bad ones."""
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    rows = load("qm9-sample", 150, max_atoms=9).smiles
    mixed = [*rows[:70], *BAD_ROWS, *rows[70:]]
    path.write_text("name,smiles\n" + "".join(f"m{i},{s}\n" for i, s in enumerate(mixed)))
    return path


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory) -> Path:
    """What `graph-ebm train` left of it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TrainSettings", lambda: SMALL)
        began = time.perf_counter()
        assert call("train", "--data", table, "--max-atoms", 9, "--iterations", 4, "--quiet", "--output", out) == 0
        assert time.perf_counter() - began < SECONDS
    return out


@pytest.fixture(autouse=True)
def small_and_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "TrainSettings", lambda: SMALL)
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path / "no-packaged-models")
    monkeypatch.chdir(tmp_path)


def call(*args: object) -> int:
    return run(cli, [str(a) for a in args], prog_name="graph-ebm")


def fails(capsys, *args: object, code: int = 2) -> str:
    """The one sentence of a command that must fail."""
    capsys.readouterr()
    assert call(*args) == code
    out, error = capsys.readouterr()
    assert "Traceback" not in out + error
    last = error.strip().splitlines()[-1]
    assert last.startswith("graph-ebm: ")
    return last


def content(path: Path) -> dict:
    return json.loads((path / "run.json").read_text())


def optimize(table, folder, *more: object) -> tuple[object, ...]:
    return ("optimize", "qed", "--data", table, "--max-atoms", 9, "--base", folder, "--minutes", 0.01, "-n", 12,
            "--steps", 20, "--fraction", 0.4, *more)  # fmt: skip


# -- short runs of every command ------------------------------------------------------------------------------------


def test_a_training_counts_what_it_read(folder):
    """N in = N kept + N rejected, with the reasons."""
    counts = content(folder)["data"]
    assert counts["n_in"] == 155
    assert counts["n_kept"] == 150
    assert counts["n_kept"] + sum(counts["rejected"].values()) == counts["n_in"]
    assert counts["rejected"]["too_many_atoms"] == 1
    assert {"model.safetensors", "config.json", "run.json", "report.html"} <= {p.name for p in folder.iterdir()}
    assert load_model(folder).space.max_atoms == 9


def test_generate_and_evaluate_in_a_row(folder, table, tmp_path, capsys):
    began = time.perf_counter()
    out = tmp_path / "drawn"
    assert call("generate", folder, "-n", 20, "--steps", 30, "--quiet", "--output", out, "--reference", table) == 0
    rows = list(csv.DictReader(io.StringIO((out / "molecules.csv").read_text())))
    assert len(rows) == 20
    assert content(out)["evaluation"]["figures"]["validity"]["value"] == 1.0
    for name in ("m.smi", "m.csv", "m.sdf"):
        assert call("generate", folder, "-n", 3, "--steps", 5, "--quiet", "--output", tmp_path / name) == 0
        assert (tmp_path / name).stat().st_size > 0
    assert time.perf_counter() - began < SECONDS
    capsys.readouterr()
    assert call("evaluate", out, "--reference", table, "--json", "--quiet", "--properties", "qed") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["validity"]["of"] == 20


def test_evaluate_counts_every_row(table, tmp_path, capsys):
    assert call("evaluate", table, "--quiet", "--properties", "mw", "--output", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    validity = found["figures"]["validity"]
    assert validity["of"] == 155
    assert validity["count"] + sum(found["rejected"].values()) == 155


def test_optimize_writes_its_folder(folder, table, tmp_path):
    began = time.perf_counter()
    out = tmp_path / "better"
    assert call(*optimize(table, folder, "--quiet", "--like", "CCOCCC", "--similarity", 0.3, "--output", out)) == 0
    assert time.perf_counter() - began < SECONDS
    assert {p.name for p in out.iterdir()} == {
        "molecules.csv", "model.safetensors", "config.json", "run.json", "report.html", "stages",
    }  # fmt: skip
    found = content(out)
    counts = found["data"]
    assert counts["n_kept"] + sum(counts["rejected"].values()) == counts["n_in"] == 155
    assert found["figures"]["n"] == 12
    assert not found["interrupted"]
    assert load_model(out).energy.names == ("qed",)


def test_a_property_that_fails_sometimes_is_counted_in_the_run(folder, table, tmp_path):
    out = tmp_path / "own"
    asked = list(optimize(table, folder, "--quiet", "--output", out))
    asked[1] = f"{HERE}:sometimes"
    assert call(*asked) == 0
    failures = content(out)["figures"]["property_failures"]["data"]
    rows = load("qm9-sample", 150, max_atoms=9).smiles
    assert failures == {f"{HERE}:sometimes: raised": sum("N" in s for s in rows)}


@pytest.mark.slow
def test_the_commands_run_as_programs(tmp_path):
    """With the default settings, from the shell: one update a stage."""
    command = [sys.executable, "-m", "graph_ebm.cli"]
    steps = [
        ["train", "--data", "qm9-sample", "--limit", "300", "--max-atoms", "9", "--iterations", "3", "--output", "m"],
        ["generate", "m", "-n", "10", "--steps", "20", "--output", "g"],
        ["optimize", "qed", "--data", "qm9-sample", "--limit", "300", "--max-atoms", "9", "--base", "m", "-n", "10",
         "--minutes", "0.02", "--steps", "20", "--fraction", "0.3", "--output", "o"],
        ["evaluate", "o", "--output", "e"],
    ]  # fmt: skip
    for step in steps:
        done = subprocess.run([*command, *step], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, timeout=180, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]


# -- bad files and names --------------------------------------------------------------------------------------------


def test_unreadable_files(folder, table, tmp_path, capsys):
    (tmp_path / "noise.csv.xz").write_bytes(os.urandom(200))
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "m.docx").write_bytes(b"PK")
    for name in ("noise.csv.xz", "empty.csv", "m.docx", "missing.smi"):
        path = tmp_path / name
        assert name in fails(capsys, "train", "--data", path)
        assert name in fails(capsys, "optimize", "qed", "--data", path)
        assert name in fails(capsys, "evaluate", path)
    assert "no-model" in fails(capsys, "generate", tmp_path / "no-model")
    assert "must be a saved model" in fails(capsys, "generate", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])
    assert "model.safetensors" in fails(capsys, "generate", tmp_path)
    assert "must be a saved model" in fails(capsys, *optimize(table, table))
    assert not (tmp_path / "runs").exists(), "no folder is left of a run that never began"


def test_a_missing_column_lists_those_there_are(table, tmp_path, capsys):
    for command in (("train", "--data", table), ("evaluate", table), ("optimize", "qed", "--data", table)):
        sentence = fails(capsys, *command, "--column", "structure")
        assert "'structure'" in sentence
        assert "'smiles'" in sentence


def test_no_usable_row_says_why(tmp_path, capsys):
    (tmp_path / "bad.smi").write_text("C1CC\nCC.O\n")
    sentence = fails(capsys, "train", "--data", tmp_path / "bad.smi")
    assert "parse_error" in sentence
    assert "disconnected" in sentence
    (tmp_path / "one.smi").write_text("CCO\n")
    assert "at least 2 molecules; got 1" in fails(capsys, "train", "--data", tmp_path / "one.smi")


def test_wrong_molecules(folder, table, tmp_path, capsys):
    assert "--like must be a valid SMILES" in fails(capsys, *optimize(table, folder, "--like", "C1CC"))
    assert "--start must be a valid SMILES" in fails(capsys, *optimize(table, folder, "--start", "C1CC"))
    assert "--start must be a valid SMILES" in fails(capsys, "generate", folder, "--start", "C1CC")
    assert "Br" in fails(capsys, "generate", folder, "--start", "CCBr")
    (tmp_path / "starts.smi").write_text("CCO\nC1CC\n")
    assert "row 2" in fails(capsys, "generate", folder, "--start", tmp_path / "starts.smi")
    assert "--keep must be a SMARTS" in fails(capsys, "generate", folder, "--keep", "((")
    assert "start" in fails(capsys, "generate", folder, "--keep", "[C,N]1CC1")
    assert not list((tmp_path / "runs").glob("*")), "an empty folder is left behind"


# -- what cannot be reached -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("qed:>0.99", (), "got 0 of 150"),
        ("mw:<1", (), "must hold at least 50 molecules"),
        ("logp:3..1", (), "from low to high"),
        ("qed:best", (), "the ending of a target"),
        ("qedd", (), "'qed'"),
        (f"{HERE}:never", (), "raised (150)"),
        (f"{HERE}:always_nan", (), "nan (150)"),
        (f"{HERE}:no_such_function", (), "importable function"),
        ("qed", ("--like", "CCBr"), "must fit the model"),
        ("qed", ("--like", "CCO", "--similarity", 1.5), "--similarity"),
        ("qed", ("--similarity", 0.5), "--similarity needs --like"),
        ("qed", ("--like", "CCO", "--keep", "C1CC1"), "must contain 'C1CC1'"),
        ("qed", ("--like", "CCOCCC", "--similarity", 0.5, "--start", "NCCN"), "similarity of at least 0.5"),
        ("qed", ("--fraction", 0), "--fraction"),
        ("qed", ("--base", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_met_is_said_before_training(folder, table, tmp_path, capsys, monkeypatch, target, more, words):
    monkeypatch.setattr(training, "_run_stages", lambda *a, **k: pytest.fail("it trained before it spoke"))
    asked = list(optimize(table, folder, *more))
    asked[1] = target
    assert words in fails(capsys, *asked)
    assert not list((tmp_path / "runs").glob("*")), "an empty folder is left behind"


def test_two_ranges_of_one_property_are_refused(folder, table, capsys):
    asked = list(optimize(table, folder))
    asked.insert(2, "qed:>0.4")
    assert "each property once" in fails(capsys, *asked)


# -- the disk -------------------------------------------------------------------------------------------------------


def full(after: int, monkeypatch, name: str = ""):
    """No space left from the n-th synchronised file on whose name has ``name`` in it."""
    real, calls = os.fsync, []

    def fsync(handle):
        if name in os.path.basename(os.readlink(f"/proc/self/fd/{handle}")):
            calls.append(handle)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def contents(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_the_older_model(table, folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "again"
    train = ("train", "--data", table, "--max-atoms", 9, "--iterations", 2, "--quiet", "--output", out)
    assert call(*train) == 0
    shutil.rmtree(out / "checkpoints")  # a folder with checkpoints is resumed, never trained into again
    before = contents(out)
    full(0, monkeypatch)
    sentence = fails(capsys, *train, "--seed", 1)
    assert "No space left" in sentence
    assert "Free some space" in sentence
    assert contents(out) == before, "old files intact, no scraps"


def test_a_disk_that_fills_up_keeps_what_was_written(table, folder, tmp_path, capsys, monkeypatch):
    """The model fits, then the molecules do not."""
    out = tmp_path / "out"
    full(0, monkeypatch, "molecules")
    assert "No space left" in fails(capsys, *optimize(table, folder, "--quiet", "--output", out))
    assert load_model(out).energy.names == ("qed",)
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_an_output_that_is_a_file_is_said_at_once(table, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(training, "_run_stages", lambda *a, **k: pytest.fail("it trained before it spoke"))
    for command in (("train", "--data", table), optimize(table, folder), ("generate", folder)):
        assert "file" in fails(capsys, *command, "--output", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# -- cut short ------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_training_writes_what_was_learned(table, tmp_path, capsys, monkeypatch):
    whole, calls = MolecularPCD.loss, []

    def stopped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(MolecularPCD, "loss", stopped)
    out = tmp_path / "out"
    sentence = fails(capsys, "train", "--data", table, "--max-atoms", 9, "--iterations", 9, "--output", out, code=130)
    assert "kept in" in sentence
    assert content(out)["interrupted"] is True
    assert bool(load_model(out).energy.local.weight.detach().any())
    assert (out / "report.html").exists()
    assert call("generate", out, "-n", 3, "--steps", 5, "--quiet", "--output", tmp_path / "m.smi") == 0


def test_a_training_that_diverges_ends_with_3_and_its_last_good_state(table, tmp_path, capsys, monkeypatch):
    whole, calls = MolecularPCD.loss, []

    def diverges(self, *args, **kwargs):
        calls.append(1)
        if len(calls) >= 3:
            raise DivergenceError("`gap` ran away.")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(MolecularPCD, "loss", diverges)
    out = tmp_path / "out"
    train = ("train", "--data", table, "--max-atoms", 9, "--iterations", 9, "--output", out)
    with pytest.warns(RecoveryWarning, match="went back"):
        sentence = fails(capsys, *train, code=3)
    assert "saved in" in sentence
    assert load_model(out).space.max_atoms == 9


@pytest.mark.slow
def test_a_real_ctrl_c_ends_in_order(tmp_path):
    """SIGINT to the program while it trains: 130, a model that loads, no traceback."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "graph_ebm.cli", "train", "--data", "qm9-sample", "--limit", "500", "--max-atoms",
               "9", "--minutes", "5", "--output", str(out)]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(30)
        program.send_signal(signal.SIGINT)
        _, error = program.communicate(timeout=120)
    assert program.returncode == 130, error[-2000:]
    assert "Traceback" not in error
    assert load_model(out).space.max_atoms == 9
    assert content(out)["interrupted"] is True
