"""Promise 32: the command does its job, and fails with one line and an exit code, never with a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import discrete_ebm as de
from discrete_ebm import checkpoint
from discrete_ebm.cli import main
from discrete_ebm.errors import RecoveryWarning


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bars(tmp_path):
    np.savez(tmp_path / "bars.npz", x=de.datasets.bars_and_stripes(3).numpy(), other=np.zeros((2, 2)))
    return str(tmp_path / "bars.npz")


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_samplers_lists_the_registry(capsys):
    code, out, _ = run(capsys, "samplers")
    assert code == 0
    assert all(name in out for name in de.samplers.names())
    rows = json.loads(run(capsys, "samplers", "--json")[1])
    assert [row["name"] for row in rows] == de.samplers.names()
    assert {row["name"]: row["exact"] for row in rows}["langevin"] is False


@pytest.mark.parametrize(
    "model",
    [["ising", "--coupling", 0.3, "--open"], ["potts", "--states", 4, "--sampler", "gwg"]],
    ids=["ising", "potts"],
)
def test_sample_writes_chains_and_a_record(capsys, tmp_path, model):
    code, out, err = run(
        capsys,
        "sample",
        *model,
        "--shape",
        "3x4",
        "--n-chains",
        5,
        "--n-steps",
        20,
        "--burn-in",
        4,
        "--thin",
        2,
        "--output",
        tmp_path / "run",
        "--quiet",
        "--json",
        "--seed",
        3,
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["kept"] == 8
    stored = np.load(tmp_path / "run" / "chains.npz")
    assert stored["x"].shape == (8, 5, 3, 4)
    assert stored["energy"].shape == (8, 5)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 3
    assert checkpoint.load(tmp_path / "run").space.shape == (3, 4)


def test_sample_goes_to_a_dated_folder_by_default_and_never_the_same_twice(capsys, tmp_path):
    for _ in range(2):
        assert run(capsys, "sample", "ising", "--shape", "2x2", "--n-steps", 5, "--n-chains", 2, "--quiet")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_sample_takes_an_rbm_from_a_file(capsys, tmp_path):
    np.savez(tmp_path / "rbm.npz", weight=np.ones((4, 2)), visible_bias=np.zeros(4), hidden_bias=np.zeros(2))
    command = ["sample", "rbm.npz", "--sampler", "block-gibbs", "--n-steps", 10, "--quiet", "--output", "out"]
    assert run(capsys, *command)[0] == 0
    assert np.load(tmp_path / "out" / "chains.npz")["x"].shape[2:] == (4,)
    np.savez(tmp_path / "rbm.npz", weight=np.ones((4, 2)))
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "visible_bias is missing" in err


@pytest.mark.parametrize("model", ["rbm", "ising", "mlp"])
def test_train_then_evaluate_then_sample(capsys, tmp_path, bars, model):
    hidden = [] if model == "ising" else ["--hidden", 6]
    code, _, err = run(
        capsys, "train", model, "--data", bars, *hidden, "--iterations", 40, "--output", "run", "--quiet"
    )
    assert (code, err) == (0, "")
    code, out, _ = run(capsys, "evaluate", "run", "--n-steps", 30, "--quiet", "--json")
    assert code == 0
    record = json.loads(out)
    truth = de.evaluate.exact(checkpoint.load("run"))
    assert record["exact"] == truth.method
    data = de.datasets.bars_and_stripes(3)
    expected = -record["data_energy"] - truth.log_z
    assert record["log_z"] == pytest.approx(truth.log_z)
    assert record["log_likelihood"] == pytest.approx(expected, abs=1e-5)
    assert record["rows"] == len(data)
    assert {"energy_gap", "ess_energy", "rhat_energy"} <= set(record)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["log_z"] == record["log_z"]
    assert run(capsys, "sample", "run", "--n-steps", 10, "--quiet", "--output", "again")[0] == 0


def test_evaluate_sums_out_few_hidden_units_and_says_when_it_cannot(capsys, tmp_path):
    wide = de.energies.BernoulliRBM(25, 3, scale=1.0)
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 25), dtype=np.int8))
    checkpoint.save(wide, tmp_path / "wide.safetensors")
    command = ["evaluate", "wide.safetensors", "--n-steps", 10, "--quiet", "--json"]
    record = json.loads(run(capsys, *command, "--data", "wide.npz")[1])
    assert record["exact"] == "the sum over 2^3 settings of the hidden units"
    assert record["log_likelihood"] == pytest.approx(-record["data_energy"] - record["log_z"])
    checkpoint.save(de.energies.BernoulliRBM(30, 30), tmp_path / "wide.safetensors")
    record = json.loads(run(capsys, *command)[1])
    assert record["log_z"] is None
    assert record["exact"].startswith("no exact log-likelihood: ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sample", "ising", "--foo"], "--foo"),
        (["sampel"], "sampel"),
        (["sample", "ising", "--n-chains", "many"], "--n-chains"),
        (["sample", "ising", "--n-chains", 0], "--n-chains"),
        (["sample", "ising", "--shape", "3by4"], "write it like 32x32"),
        (["sample", "ising", "--sampler", "gwq"], "Did you mean 'gwg'"),
        (["sample", "ising", "--sampler", "langevin"], "must be used on Real"),
        (["sample", "ising", "--beta", "-1"], "`beta` must be finite and not negative"),
        (["sample", "ising", "--n-steps", 5, "--burn-in", 5], "`burn_in` must be below"),
        (["sample", "ising", "--device", "abacus"], "--device"),
        (["sample", "nothing-here"], "nothing-here"),
        (["sample", "torn.safetensors"], "torn.safetensors"),
        (["sample", "torn.npz"], "torn.npz"),
        (["train"], "a new training needs a model"),
        (["train", "vae", "--data", "bars.npz"], "vae"),
        (["train", "rbm", "--data", "missing.npz"], "missing.npz"),
        (["train", "rbm", "--data", "torn.npz"], "torn.npz"),
        (["train", "rbm", "--data", "bars.npz", "--key", "y"], "`key` must be one of x, other"),
        (["train", "rbm", "--set", "training.itertions=5"], "Did you mean 'iterations'?"),
        (["train", "rbm", "--set", "trainig.lr=5"], "Did you mean [training]?"),
        (["train", "rbm", "--set", "model.hiden=5"], "Did you mean 'hidden'?"),
        (["train", "rbm", "--set", "lr=5"], "SECTION.KEY=VALUE"),
        (["train", "rbm", "--config", "resnet64"], "Did you mean 'resnet64-static-mnist'?"),
        (["train", "rbm", "--hidden", "6by4"], "write them like 64 or 64,32"),
        (["train", "general-potts"], "Models of such data: "),
        (["train", "resnet", "--objective", "ratio-matching", "--sampler", "gwg"], "which draws no chains"),
        (["train", "rbm", "--decay", "cosin"], "`decay` must be one of"),
        (["train", "rbm", "--validation", "best"], "`method` must be one of"),
        (["train", "mlp", "--data", "reals.npy", "--set", "data.alphabet=real", "--validation", "ais"], "`base` must"),
        (["train", "mlp", "--data", "reals.npy"], "Binarise with threshold="),
        (["train", "rbm", "--data", "nan.npy"], "NaN or infinity in 1 of 4 rows"),
        (["train", "labelled-rbm", "--data", "bars.npz"], "must have labels"),
        (["train", "rbm", "--data", "grey.npy"], "0 and 1"),
        (["train", "rbm", "--data", "bars.npz", "--objective", "pdc"], "pcd"),
        (["train", "rbm", "--data", "bars.npz", "--output", "torn.npz"], "`output` must be a folder"),
        (["evaluate", "empty"], "neither ema.safetensors nor energy.safetensors"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(capsys, tmp_path, bars, command, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "bars.npz").read_bytes()[:100])
    np.save(tmp_path / "grey.npy", np.full((4, 9), 7))
    np.save(tmp_path / "reals.npy", np.linspace(0, 1, 36).reshape(4, 9))
    np.save(tmp_path / "nan.npy", np.where(np.eye(4, 9) * [[1], [0], [0], [0]], np.nan, 1.0))
    code, out, err = run(capsys, *command, *(["--quiet"] if command[0] != "sampel" else []))
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("discrete-ebm: ")
    assert words in err
    assert not (tmp_path / "runs").exists()


def test_pickles_in_data_files_are_refused(capsys, tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}, {}], dtype=object), allow_pickle=True)
    code, _, err = run(capsys, "train", "rbm", "--data", "p.npy")
    assert code == 2
    assert "p.npy" in err


def test_divergence_has_exit_code_3_and_keeps_the_model(capsys, tmp_path, bars):
    with pytest.warns(RecoveryWarning):
        code, _, err = run(
            capsys, "train", "mlp", "--data", bars, "--lr", "1e30", "--iterations", 50, "--output", "run", "--quiet"
        )
    assert code == 3
    assert len(err.strip().splitlines()) == 1
    assert checkpoint.load("run/energy.safetensors") is not None


def test_ctrl_c_keeps_what_is_done_and_exits_with_130(tmp_path, bars):
    command = [
        sys.executable,
        "-m",
        "discrete_ebm.cli",
        "train",
        "rbm",
        "--data",
        bars,
        "--iterations",
        "1000000",
        "--output",
        "run",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        # a suite that runs in the background ignores SIGINT, and its children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        seen, end = "", time.monotonic() + 60
        while "gap" not in seen and time.monotonic() < end:  # the bar shows the gap once updates are made
            seen += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in seen + err
    assert "interrupted after update" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False
    checkpoint.load(tmp_path / "run")


def test_ctrl_c_while_sampling_exits_with_130(capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("discrete_ebm.chains.advance", stop)
    monkeypatch.setattr(de, "sample", stop)
    code, _, err = run(capsys, "sample", "ising", "--output", "stopped")
    assert code == 130
    assert len(err.strip().splitlines()) == 1
    assert "there are none" in err  # nothing is claimed to be kept, and nothing lies about
    assert not Path("stopped").exists()


def test_sample_says_before_the_work_that_it_cannot_write(capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("sampled first")

    monkeypatch.setattr(de, "sample", never)
    Path("file").write_text("mine")
    code, _, err = run(capsys, "sample", "ising", "--output", "file")
    assert code == 2
    assert "must be a folder" in err
