"""Promises 18 to 22 for runs: killed, out of disk, damaged, hostile or foreign checkpoints lose nothing in silence."""

import ast
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_bytes

import discrete_ebm as de
from discrete_ebm import checkpoint, step_folders
from discrete_ebm.errors import CheckpointError, CorruptCheckpointError, EBMError, RecoveryWarning, SettingError
from discrete_ebm.objectives import PCD
from discrete_ebm.step_folders import Checkpoints, read_step

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).parent / "stored"


def fit(folder, n=6, **options):
    energy = de.energies.BernoulliRBM(6, 4, scale=0.1, seed=0)
    data = energy.space.random(40, torch.Generator().manual_seed(1))
    return de.fit(energy, data, PCD(sampler="gibbs", n_steps=1, bank_size=10, start="random"), n, 7, output=folder,
                  **{"seed": 3, "progress": False, "checkpoint_every": 2, **options})  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    fit(folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


# -- kill -9 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_of_saving_never_loses_a_run(tmp_path, seed, kills):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.kill_saves", str(tmp_path / "c"),
               str(kills), str(seed)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["kills"], counts["unreadable"], counts["wrong"]) == (kills, 0, 0), (counts, done.stderr)
    assert counts["leftovers"] > 0, "no kill fell into a save: the test shows nothing"
    assert counts["steps"] > kills, "saves go on between the kills"
    assert 1 <= counts["kept"] <= 4  # a kill between a rename and the deletion leaves one more


# -- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(12))
def test_a_disk_that_fills_at_any_file_leaves_the_older_steps(run, monkeypatch, at):
    real, calls = os.fsync, []

    def fills(handle):
        calls.append(1)
        if len(calls) == at + 1:
            raise OSError(28, "No space left on device")
        return real(handle)

    before = {path.name: read_step(path).files for path in (run / "checkpoints").glob("step-*")}
    monkeypatch.setattr(os, "fsync", fills)
    with pytest.raises(CheckpointError, match=r"No space left on device after \d+ bytes") as caught:
        fit(run, n=7, resume=True)
    monkeypatch.undo()
    assert str(run / "checkpoints") in str(caught.value)
    assert not list((run / "checkpoints").glob(".tmp-*"))
    assert {path.name: read_step(path).files for path in (run / "checkpoints").glob("step-*")}.items() >= before.items()
    assert len(fit(run, n=8, resume=True).history["loss"]) == 8


def test_a_file_size_limit_ends_with_path_and_bytes_and_the_run_resumes(run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"File too large after \d+ bytes"):
            fit(run, n=7, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert len(fit(run, n=8, resume=True).history["loss"]) == 8


# -- damage ---------------------------------------------------------------------------------------------------------


def test_a_flip_or_a_cut_at_any_of_100_offsets_of_any_file_is_noticed_and_named(run):
    newest = run / "checkpoints" / "step-00000006"
    files = sorted(newest.iterdir())
    total, tried = sum(path.stat().st_size for path in files), 0
    slowest = 0.0
    for k in range(100):
        offset = k * (total - 1) // 99
        for path in files:
            if offset < path.stat().st_size:
                break
            offset -= path.stat().st_size
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << (k % 8)
        for damaged in (bytes(flipped), whole[:offset]):
            path.write_bytes(damaged)
            began = time.perf_counter()
            with pytest.raises(CorruptCheckpointError) as caught:
                read_step(newest)
            slowest = max(slowest, time.perf_counter() - began)
            tried += 1
            assert str(newest) in str(caught.value)
            assert path.name in str(caught.value)
        path.write_bytes(whole)
    read_step(newest)
    print(f"{tried} damages noticed, the slowest in {1000 * slowest:.1f} ms")
    assert tried == 200
    assert slowest <= 2


@pytest.mark.parametrize("path", ["state.json", "MANIFEST.json", "model.safetensors", "chains-rank0.safetensors"])
def test_a_damaged_or_missing_file_makes_the_run_go_on_from_the_step_before_and_say_so(run, path):
    file = run / "checkpoints" / "step-00000006" / path
    if path == "model.safetensors":
        file.unlink()
        words = "model.safetensors: No such file"
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
        words = f"{path} (does not match its SHA-256|cannot be read)"
    with pytest.warns(RecoveryWarning, match=rf"going on from .*step-00000004.*step-00000006.*{words}"):
        found = fit(run, n=8, resume=True)
    whole = fit(None, n=8, checkpoint_every=None)
    assert all(torch.equal(a, b) for a, b in zip(found.energy.parameters(), whole.energy.parameters(), strict=True))
    assert (run / "checkpoints" / "damaged-step-00000006").is_dir()
    assert Checkpoints(run / "checkpoints").steps() == [4, 6, 8]


def test_a_run_whose_checkpoints_are_all_damaged_says_so(run):
    for path in (run / "checkpoints").glob("step-*"):
        (path / "state.json").write_bytes(b"")
    with pytest.raises(CorruptCheckpointError, match=r"whole checkpoint.*step-00000006.*0 bytes instead of.*00000002"):
        fit(run, n=8, resume=True)


def test_a_save_that_does_not_read_back_deletes_nothing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, 1)
    for step in (1, 2, 3):
        checkpoints.write(step, {"a": b"x"})
    real = step_folders._write_synced
    monkeypatch.setattr(step_folders, "_write_synced", lambda path, content: real(path, content[:-1] or b"y"))
    with pytest.raises(CorruptCheckpointError):
        checkpoints.write(4, {"a": b"x"})
    monkeypatch.undo()
    assert [step for step in checkpoints.steps() if step < 4] == [1, 2, 3]
    with pytest.warns(RecoveryWarning, match="step-00000004"):
        assert checkpoints.newest().step == 3


def test_what_a_stopped_save_left_is_taken_away(tmp_path):
    for name in (".tmp-00000007", ".old-step-00000003"):
        (tmp_path / name).mkdir()
    (tmp_path / ".latest.abc.tmp").write_text("x")
    assert Checkpoints(tmp_path).newest() is None
    Checkpoints(tmp_path).write(8, {"a": b"x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000008"]


# -- hostile and foreign files --------------------------------------------------------------------------------------


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "state-rank0.json",
                                  "MANIFEST.json", "chains-rank0.safetensors"])  # fmt: skip
@pytest.mark.parametrize("how", ["pickle", "torch", "python"])
def test_no_file_of_a_checkpoint_can_run_code(run, tmp_path, monkeypatch, name, how):
    monkeypatch.chdir(tmp_path)
    newest = run / "checkpoints" / "step-00000006"
    files = dict(read_step(newest).files)
    torch.save(Payload(), tmp_path / "payload")
    content = {"pickle": pickle.dumps(Payload()), "torch": (tmp_path / "payload").read_bytes(),
               "python": b"__import__('os').mkdir('pwned')"}[how]  # fmt: skip
    if name == "MANIFEST.json":
        (newest / name).write_bytes(content)
    else:  # an attacker writes a manifest that agrees
        shutil.rmtree(run / "checkpoints")
        Checkpoints(run / "checkpoints").write(6, {**files, name: content})
    for path in (run / "checkpoints").glob("step-0000000[24]"):
        shutil.rmtree(path)
    with pytest.raises(CheckpointError):
        fit(run, n=8, resume=True)
    if name == "model.safetensors":
        with pytest.raises(CheckpointError):
            checkpoint.load(newest / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "change",
    [{"sections": {"model": {"$": "eval", "value": "1"}}}, {"sections": {}}, {"sections": 3}, {"loop": []},
     {"loop": {}}, {"config": None}, {"n_ranks": "1"}, {"versions": None}],
)  # fmt: skip
def test_a_state_that_makes_no_sense_is_refused_with_a_sentence(run, change):
    files = dict(read_step(run / "checkpoints" / "step-00000006").files)
    files["state.json"] = json.dumps({**json.loads(files["state.json"]), **change}).encode()
    shutil.rmtree(run / "checkpoints")
    Checkpoints(run / "checkpoints").write(6, files)
    with pytest.raises(EBMError):
        fit(run, n=8, resume=True)


def test_names_that_lead_out_of_the_folder_are_refused(run):
    newest = run / "checkpoints" / "step-00000006"
    outside = {"../secret": step_folders._entry(b"x")}
    (newest / "MANIFEST.json").write_bytes(step_folders._manifest(6, outside))
    with pytest.raises(CorruptCheckpointError, match=r"MANIFEST\.json"):
        read_step(newest)


@pytest.mark.parametrize("change", [{"schema": 2}, {"schema": 0}, {"kind": "another"}])
def test_another_schema_says_how_to_migrate_and_is_no_reason_to_go_back(run, change):
    files = dict(read_step(run / "checkpoints" / "step-00000006").files)
    files["state.json"] = json.dumps({**json.loads(files["state.json"]), **change}).encode()
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    Checkpoints(run / "checkpoints").write(6, files)
    with pytest.raises(CheckpointError, match=r"schema 1; got .*Resume it with that version, or .*checkpoint\.load"):
        fit(run, n=8, resume=True)


def test_a_run_of_the_first_schema_still_loads(tmp_path):
    """A run that version 0.1.0 wrote: its bits are read, its model is used, and it goes on."""
    shutil.copytree(STORED / "schema-1", tmp_path / "run")
    expected = json.loads((STORED / "schema-1" / "expected.json").read_text())
    energy = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000003")
    assert [round(float(p.detach().double().sum()), 5) for p in energy.parameters()] == expected["ema_sums"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecoveryWarning)  # another torch than then: not to the bit, and said so
        found = fit(tmp_path / "run", n=5, resume=True)
    assert found.history["loss"][:3] == expected["loss"]
    assert len(found.history["loss"]) == 5


def test_the_source_never_unpickles_and_never_evaluates():
    for file in [*(ROOT / "discrete_ebm").rglob("*.py"), *(ROOT / "graph_ebm").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {name.split(".")[0] for name in names} & {"pickle", "cPickle", "dill", "cloudpickle",
                                                                     "joblib", "shelve", "marshal"}, file  # fmt: skip
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert name not in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "compile",
                                    "__import__"}, f"{name} in {file}:{node.lineno}"  # fmt: skip
                assert name != "torch.load" or options.get("weights_only") == "True", f"{file}:{node.lineno}"
                assert options.get("allow_pickle", "False") == "False", f"{file}:{node.lineno}"
    assert tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 10)


# -- several processes ----------------------------------------------------------------------------------------------


def test_ranks_write_one_checkpoint_together_each_with_its_own_files(tmp_path):
    barrier = threading.Barrier(3)

    def save(rank):
        ranks = Checkpoints(tmp_path, 5, rank=rank, n_ranks=3, barrier=barrier.wait)
        for step in (5, 10, 15, 20):
            ranks.write(step, {"model": b"m"}, {f"chains-rank{rank}": bytes([rank, step])})

    threads = [threading.Thread(target=save, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Checkpoints(tmp_path, 5, rank=2, n_ranks=3).newest()
    assert found.files == {"model": b"m", **{f"chains-rank{rank}": bytes([rank, 20]) for rank in range(3)}}
    assert Checkpoints(tmp_path).steps() == [10, 15, 20]


def test_another_number_of_processes_is_refused(run):
    files = dict(read_step(run / "checkpoints" / "step-00000006").files)
    files["state.json"] = json.dumps({**json.loads(files["state.json"]), "n_ranks": 4}).encode()
    shutil.rmtree(run / "checkpoints")
    Checkpoints(run / "checkpoints").write(6, files)
    with pytest.raises(CheckpointError, match=r"as many processes as it was saved by; got 1.*is of 4"):
        fit(run, n=8, resume=True)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"keep": 0}, {"every": 2.5}, {"rank": 1}, {"n_ranks": 0}])
def test_bad_settings_are_refused(tmp_path, wrong):
    with pytest.raises(SettingError, match=r"`every`|`keep`|`rank`|`n_ranks`"):
        Checkpoints(tmp_path, **wrong)


def test_saving_waits_until_it_is_worth_its_time(tmp_path):
    checkpoints = Checkpoints(tmp_path, least_seconds=0.2)
    assert not checkpoints.due(10)
    time.sleep(0.21)
    assert checkpoints.due(10)
    checkpoints.write(10, {"a": b"x"})
    checkpoints._cost = 0.1  # then ten seconds must pass
    time.sleep(0.21)
    assert not checkpoints.due(11)


def test_safetensors_of_another_program_are_no_state(run):
    files = dict(read_step(run / "checkpoints" / "step-00000006").files)
    files["optimizer.safetensors"] = to_bytes({"other": torch.ones(2)})
    shutil.rmtree(run / "checkpoints")
    Checkpoints(run / "checkpoints").write(6, files)
    with pytest.raises(CorruptCheckpointError, match="must hold a training's state"):
        fit(run, n=8, resume=True)
