"""Promises 9, 30 and 31: two processes are one training, each with its own chains; a dead one ends it; it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

import discrete_ebm as de
from discrete_ebm import distributed, launch
from discrete_ebm.chains import StepTotals
from discrete_ebm.errors import CheckpointError, DataError, SettingError
from discrete_ebm.fitting import generators
from discrete_ebm.objectives.centring import Offsets, centred_loss, means
from discrete_ebm.objectives.contrastive import contrast
from discrete_ebm.trainer import Batches
from tests import ranks, statistical

pytest.importorskip("lightning_fabric")
PATIENCE = 900  # seconds that a test waits at most: the machine may be busy


def ended(processes, seconds=PATIENCE):
    """Exit codes and what was said on stderr, of processes that end by themselves."""
    said = [process.communicate(timeout=seconds) for process in processes]
    return [process.returncode for process in processes], [err for _, err in said]


def run_ranks(folder, *parts):
    codes, said = ended(ranks.start(["-m", "tests.ranks", str(folder), *parts]))
    assert codes == [0, 0], said
    return {part: [load_file(folder / f"{part}-{rank}.safetensors") for rank in range(2)] for part in parts}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found, all in one start."""
    folder = tmp_path_factory.mktemp("ranks")
    return {"folder": folder, **run_ranks(folder, *ranks.PARTS)}


def union_gradients(name, found):
    """Gradients of one process whose batch and chains are those of both."""
    energy, data = ranks.make()
    objective = ranks.OBJECTIVES[name]
    batch = torch.cat([rank[f"{name}.batch"] for rank in found])
    if name == "pseudo-likelihood":
        state = objective.init(energy, data, generator=torch.Generator())
        loss = objective.loss(energy, batch, state, generator=torch.Generator()).loss
    else:
        negatives = torch.cat([rank[f"{name}.negatives"] for rank in found])
        loss = contrast(energy, batch, negatives, objective.penalty, StepTotals.zero(torch.zeros(1))).loss
        if objective.centre:
            offsets = Offsets(*means(energy, data))
            offsets.move(energy, batch, objective.centre_rate)
            loss = centred_loss(energy, loss, offsets)
    loss.backward()
    return {p: value.grad for p, value in energy.named_parameters()}


@pytest.mark.parametrize("name", ranks.OBJECTIVES)
def test_gradients_of_two_processes_are_those_of_one_with_both_their_batches_and_chains(two, name):
    found = two["gradients"]
    for parameter, wanted in union_gradients(name, found).items():
        for rank in found:
            got = rank[f"{name}.gradient.{parameter}"]
            assert torch.equal(got, found[0][f"{name}.gradient.{parameter}"])
            assert (got - wanted).norm() <= 1e-12 * wanted.norm()  # float64; in float32 it was 2e-7 for PCD
        halves = [rank[f"{name}.batch"] for rank in found]
        assert not torch.equal(*halves)  # the test can fail: each saw other rows


def test_parameters_are_the_same_after_updates_and_chains_and_streams_differ(two):
    one, other = two["gradients"]
    for name in one:
        if ".after." in name:
            assert torch.equal(one[name], other[name])
        elif ".chains" in name or ".generator" in name:
            assert not torch.equal(one[name], other[name])


def test_a_number_that_is_not_finite_in_one_process_sends_all_back(two):
    one, other = two["faults"]  # what is raised, and where, is checked in the processes
    for name in one:
        assert torch.equal(one[name], other[name]) == name.startswith("after.")


def test_two_processes_resume_to_the_bit_and_no_other_number_does(two):
    for rank in two["resumes"]:
        for name in [name for name in rank if name.startswith("whole.")]:
            assert torch.equal(rank[name], rank[name.replace("whole.", "halves.")]), name
    files = {path.name for path in (two["folder"] / "cut" / "checkpoints" / "step-00000006").iterdir()}
    assert {"model.safetensors", "chains-rank0.safetensors", "chains-rank1.safetensors", "state-rank0.json",
            "state-rank1.json"} < files  # fmt: skip
    energy, data = ranks.make()
    with pytest.raises(CheckpointError, match=r"as many processes as it was saved by; got 1.*is of 2\. Start 2"):
        de.fit(energy, data, ranks.OBJECTIVES["pcd"], 9, 4, 0.02, 5, two["folder"] / "cut", progress=False, resume=True)


# -- in one process -------------------------------------------------------------------------------------------------


def test_no_two_processes_share_a_stream(seed):
    seeds = [distributed.stream_seed(seed, stream) for stream in range(100_000)]
    assert len(set(seeds)) == len(seeds)  # of 32 bits each: all that the generator of the CPU looks at
    assert min(seeds) >= 0
    assert max(seeds) < 2**32
    made = [generators(seed, torch.device("cpu"), fake(rank, 64)) for rank in range(64)]
    draws = torch.stack([torch.randint(2**62, (100,), generator=own) for own, _ in made])
    statistical.spend(draws.numel() ** 2 / 2**63)
    assert len(draws.unique()) == draws.numel()
    orders = [torch.randperm(100, generator=order) for _, order in made]
    assert all(torch.equal(order, orders[0]) for order in orders)
    normal = torch.stack([torch.randn(10_000, generator=own) for own, _ in made]).double()
    z = (normal @ normal.t() / 100).triu(1).abs().max()  # 2,016 pairs of streams; a shared one gives 100
    assert z <= stats.norm.isf(statistical.level(4e-10) / 2 / 2016)


def fake(rank, n):
    processes = distributed.Processes()
    processes.rank, processes.n = rank, n
    return processes


def test_the_batches_of_all_processes_are_those_of_one():
    data = torch.arange(23)
    whole = Batches(data, 6, torch.Generator().manual_seed(3))
    parts = [Batches(data, 2, torch.Generator().manual_seed(3), rank=rank, n_ranks=3) for rank in range(3)]
    for i in range(20):
        if i == 7:
            kept = [part.state_dict() for part in parts]
        wanted = next(whole)
        rows = [next(part) for part in parts]
        assert sorted(torch.cat(rows).tolist()) == sorted(wanted.tolist())
        assert all(len(row) == 2 for row in rows)
        if i == 7:
            after = rows
    for part, state, wanted in zip(parts, kept, after, strict=True):
        part.load_state_dict(state)
        assert torch.equal(next(part), wanted)
    assert Batches(data, 100, torch.Generator(), n_ranks=3).batch_size == 7
    with pytest.raises(DataError, match="a row for each of 24 processes; got 23"):
        Batches(data, 1, torch.Generator(), n_ranks=24)


def test_wrong_settings_are_refused_with_a_sentence(monkeypatch):
    with pytest.raises(SettingError, match="`seed` must be an int for several processes"):
        generators(torch.Generator(), torch.device("cpu"), fake(0, 2))
    assert distributed.current() is distributed.ALONE
    assert not launch.must_launch(None)
    assert not launch.must_launch(1)
    assert launch.must_launch(2)
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="--devices must be at most 0, what this machine has of 'cuda'; got 2"):
            launch.must_launch(2, "cuda")
    with pytest.raises(SettingError, match=r"--device must be a kind of device.*Use --device cuda"):
        launch.must_launch(2, "cuda:1")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
                        "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="--devices must be 4, the processes that torchrun started here; got 2"):
        launch.must_launch(2)
    assert not launch.must_launch(4)
    with pytest.raises(SettingError, match="`device` must be a kind of device for several processes"):
        distributed.current("cuda:3")
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(SettingError, match="the variable WORLD_SIZE must be a whole number"):
        distributed.n_processes()


# -- commands, and processes that die -------------------------------------------------------------------------------

RBM = ["train", "rbm", "--data", "x.npy", "--hidden", "8", "--batch-size", "8", "--lr", "0.01", "--sampler-steps", "1",
       "--checkpoint-every", "20", "--seed", "4", "--validation", "none"]  # fmt: skip


def torchrun(*options):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]


def begin(command, folder):
    env = {**os.environ, "PYTHONPATH": str(ranks.ROOT), "OMP_NUM_THREADS": "1", "DISCRETE_EBM_TIMEOUT": "600"}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker(pid, rank):
    """The process of this rank among the children of torchrun."""
    for child in children(pid):
        values = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in values and b"WORLD_SIZE=2" in values:
            return child
    raise AssertionError("no such process")


def await_step(run, least=20):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        steps = [int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")]
        if steps and max(steps) >= least:
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} has no step {least}")


def await_file(path):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"no {path}")


@pytest.fixture
def data(tmp_path):
    import numpy as np

    x = torch.bernoulli(torch.full((60, 12), 0.4), generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "x.npy", x.numpy().astype("int8"))
    return tmp_path


def parameters(run):
    return load_file(run / "energy.safetensors")


def same(one, other):
    return all(torch.equal(value, parameters(other)[name]) for name, value in parameters(one).items())


@pytest.mark.slow
def test_a_killed_process_is_started_anew_and_the_run_ends_as_if_nothing_had_been(data):
    command = ["-m", "discrete_ebm.cli", *RBM, "--iterations", "400", "--json"]
    whole = begin([*torchrun(), *command, "--output", "whole"], data)
    (code,), said = ended([whole])
    assert code == 0, said
    cut = begin([*torchrun("--max-restarts", "1"), *command, "--output", "cut"], data)
    await_step(data / "cut")
    os.kill(worker(cut.pid, 1), signal.SIGKILL)
    (code,), said = ended([cut])
    assert code == 0, said
    record = json.loads((data / "cut" / "run.json").read_text())
    assert record["processes"] == 2
    assert record["iterations"] == 400
    assert same(data / "whole", data / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_or_hangs_ends_the_others_within_60_seconds(data, how, victim):
    # without checkpoints, as one that hangs while saving is waited for longer
    command = ["-m", "discrete_ebm.cli", *RBM, "--iterations", "100000", "--quiet", "--output", "run",
               "--checkpoint-every", "0", "--set", "log.every=10"]  # fmt: skip
    processes = ranks.start(command, cwd=data, env={"DISCRETE_EBM_TIMEOUT": "20"})
    try:
        await_file(data / "run" / "log.csv")
        processes[victim].send_signal(how)
        began = time.monotonic()
        (code,), (said,) = ended([processes[1 - victim]], 300)
        seconds = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    print(f"the other ended after {seconds:.1f} s")
    assert seconds <= 60
    assert code == 2
    lines = [line for line in said.splitlines() if line.startswith("discrete-ebm:")]
    assert len(lines) == 1, said
    assert "must answer within 20 s of an update; got one that is gone or stuck" in lines[0]
    assert "Traceback" not in said


@pytest.mark.slow
def test_devices_2_is_all_that_a_user_needs_and_ctrl_c_ends_all_and_it_goes_on(data):
    command = [sys.executable, "-m", "discrete_ebm.cli", *RBM, "--devices", "2", "--iterations", "300"]
    (code,), (said,) = ended([begin([*command, "--quiet", "--output", "whole"], data)])
    assert (code, said) == (0, "")
    cut = begin([*command, "--quiet", "--output", "cut"], data)
    await_step(data / "cut")
    workers = children(cut.pid)
    cut.send_signal(signal.SIGINT)
    (code,), (said,) = ended([cut])
    assert code == 130, said
    assert said.count("discrete-ebm: interrupted after update") == len(said.strip().splitlines()) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert 20 <= json.loads((data / "cut" / "run.json").read_text())["iterations"] < 300
    again = begin([sys.executable, "-m", "discrete_ebm.cli", "train", "--resume", "cut", "--json"], data)
    out, said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert json.loads(out)["processes"] == 2  # one document on stdout: the first process alone prints
    assert same(data / "whole", data / "cut")
    wrong = begin([sys.executable, "-m", "discrete_ebm.cli", "train", "--resume", "cut", "--devices", "3"], data)
    (code,), (said,) = ended([wrong])
    assert code == 2
    assert said.count("must go on with as many processes as it was saved by; got 3") == 1
    assert len(said.strip().splitlines()) == 1, said


@pytest.mark.slow
def test_a_killed_process_of_devices_2_ends_the_command_with_a_sentence(data):
    command = [sys.executable, "-m", "discrete_ebm.cli", *RBM, "--devices", "2", "--iterations", "100000", "--quiet"]
    running = begin([*command, "--output", "run"], data)
    await_step(data / "run")
    os.kill(worker(running.pid, 1), signal.SIGKILL)
    began = time.monotonic()
    (code,), (said,) = ended([running], 120)
    assert time.monotonic() - began <= 60
    assert code == 2
    assert "was ended by SIGKILL" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_diverged_training_of_two_processes_ends_with_code_3_and_one_sentence(data):
    command = [sys.executable, "-m", "discrete_ebm.cli", *RBM, "--devices", "2", "--iterations", "2000", "--quiet"]
    command[command.index("--lr") + 1] = "3e38"  # the second update overflows, also with an eighth of it
    command += ["--set", "training.warmup=0"]
    (code,), (said,) = ended([begin([*command, "--output", "run"], data)])
    assert code == 3, said
    told = [line for line in said.splitlines() if "Training stopped at update" in line]
    assert len(told) == 1
    assert (data / "run" / "energy.safetensors").exists()


@pytest.mark.slow
def test_molecules_train_on_two_devices_and_go_on_to_the_bit(tmp_path):
    command = [sys.executable, "-m", "graph_ebm.cli", "train", "--data", "moses-sample", "--limit", "300", "--devices",
               "2", "--iterations", "24", "--checkpoint-every", "6", "--quiet"]  # fmt: skip
    (code,), (said,) = ended([begin([*command, "--output", "whole"], tmp_path)])
    assert code == 0, said
    cut = begin([*command, "--output", "cut"], tmp_path)
    await_step(tmp_path / "cut", 6)
    cut.send_signal(signal.SIGINT)
    (code,), said = ended([cut])
    assert code == 130, said
    again = begin([sys.executable, "-m", "graph_ebm.cli", "train", "--resume", "cut", "--quiet"], tmp_path)
    (code,), said = ended([again])
    assert code == 0, said
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
