"""Promises 18-21 for model files: whole or not at all, damage noticed, loading runs no code."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import discrete_ebm as de
from discrete_ebm import checkpoint
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import CheckpointError

PACKAGE = Path(checkpoint.__file__).parent
SPACES = [
    de.Binary((2, 3)),
    de.Spin(5),
    de.Categorical((2, 2), 3),
    de.Categorical(3, [2, 3, 4]),
    de.Ordinal(3, [-1.0, 0.5, 2.0]),
    de.Real((2, 2)),
    de.Real(3, low=0.0, high=torch.tensor([1.0, 2.0, 3.0])),
    de.Product({"a": de.Binary(2), "b": de.Categorical(2, 3)}),
]


def energies():
    g = torch.Generator().manual_seed(0)
    dense = torch.randn(5, 5, generator=g)
    dense = (dense + dense.T).fill_diagonal_(0)
    edges = torch.tensor([[0, 1, 2], [1, 2, 4]])
    ising = de.energies.Ising(dense, torch.randn(5, generator=g))
    yield "ising", ising
    yield "double", de.energies.Ising(dense.double(), torch.randn(5, generator=g).double())
    yield "binary ising", de.energies.Ising(dense, space=de.Binary(5))
    yield "lattice", de.energies.Ising.lattice((3, 4), torch.randn(24, generator=g), periodic=True)
    yield "open lattice", de.energies.Ising.lattice((3, 4), 0.3, periodic=False)
    yield "sparse", de.energies.Ising.sparse(edges, torch.randn(3, generator=g), n_sites=6)
    yield "potts", de.energies.Potts.lattice((2, 3), 0.7, 3, field=torch.randn(6, 3, generator=g))
    yield "dense potts", de.energies.Potts(dense, 4)
    yield "sparse potts", de.energies.Potts.sparse(edges, 1.5, 3)
    yield "rbm", de.energies.BernoulliRBM((2, 3), 4, scale=1.0)
    yield "rbm without hidden units", de.energies.BernoulliRBM(4, 0, visible_bias=torch.randn(4, generator=g))
    yield "mlp", de.energies.MLPEnergy(SPACES[-1], (7, 5), activation=nn.GELU)
    yield "linear", de.energies.MLPEnergy(de.Binary(3), ())
    yield "sum", 0.5 * ising - de.energies.Ising(dense)
    yield "mixture", de.energies.Mixture([ising, de.energies.Ising(dense)], [1.0, 3.0])


ENERGIES = dict(energies())


@pytest.mark.parametrize("name", ENERGIES)
def test_every_energy_comes_back_to_the_bit(name, tmp_path):
    energy = ENERGIES[name]
    checkpoint.save(energy, tmp_path / "energy.safetensors")
    loaded = checkpoint.load(tmp_path / "energy.safetensors")
    assert type(loaded) is type(energy)
    assert loaded.space == energy.space
    x = energy.space.random(20, torch.Generator().manual_seed(1))
    assert torch.equal(evaluate_energy(loaded, x), evaluate_energy(energy, x))
    assert [p.dtype for p in loaded.parameters()] == [p.dtype for p in energy.parameters()]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_space_survives_json(space):
    assert checkpoint.build_space(json.loads(json.dumps(checkpoint.describe_space(space)))) == space


def test_an_own_class_is_loaded_into_an_object_of_the_users(tmp_path):
    def make(seed, width=4):
        torch.manual_seed(seed)
        return de.from_callable(
            nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 1), nn.Flatten(0)), de.Binary(3)
        )

    state = torch.get_rng_state()
    first, second, wide = make(0), make(1), make(0, 5)
    torch.set_rng_state(state)
    path = tmp_path / "own.safetensors"
    checkpoint.save(first, path)
    with pytest.raises(CheckpointError, match="`energy` must be given for a model of your own class 'CallableEnergy'"):
        checkpoint.load(path)
    loaded = checkpoint.load(path, energy=second)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), first.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="must fit the energy"):
        checkpoint.load(path, energy=wide)


def test_damage_is_noticed_at_every_offset(tmp_path):
    path = tmp_path / "e.safetensors"
    checkpoint.save(ENERGIES["rbm"], path)
    whole = path.read_bytes()
    for k in range(100):
        offset = k * (len(whole) - 1) // 99
        flipped = bytearray(whole)
        flipped[offset] ^= 0x10
        for damaged in (bytes(flipped), whole[:offset]):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                checkpoint.load(path)
    path.write_bytes(whole)
    checkpoint.load(path)


def test_what_is_not_a_model_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match=r"neither ema\.safetensors nor energy"):
        checkpoint.load(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="without its configuration"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    checkpoint.save_tensors({"a": torch.ones(2)}, tmp_path / "new.safetensors", {"schema": 99})
    with pytest.raises(CheckpointError, match="Upgrade"):
        checkpoint.load(tmp_path / "new.safetensors")
    checkpoint.save_tensors({"a": torch.ones(2)}, tmp_path / "odd.safetensors", {"energy": {"type": "os.system"}})
    with pytest.raises(CheckpointError, match=r"known energy; got 'os\.system'"):
        checkpoint.load(tmp_path / "odd.safetensors")


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_loading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Payload()))
    torch.save(Payload(), tmp_path / "evil2.safetensors")
    for name in ("evil.safetensors", "evil2.safetensors"):
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_failed_save_keeps_the_old_file_and_leaves_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    checkpoint.save(ENERGIES["rbm"], path)
    whole = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device after \d+ bytes.*intact") as caught:
        checkpoint.save(ENERGIES["ising"], path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="writable"):
        checkpoint.save(ENERGIES["rbm"], tmp_path / "no" / "such" / "folder.safetensors")


def test_a_file_size_limit_keeps_the_old_file(tmp_path):
    code = textwrap.dedent(f"""
        import resource, signal, sys
        import discrete_ebm as de
        from discrete_ebm import checkpoint
        from discrete_ebm.errors import CheckpointError
        path = {str(tmp_path / "e.safetensors")!r}
        checkpoint.save(de.energies.BernoulliRBM(20, 20), path)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            checkpoint.save(de.energies.BernoulliRBM(200, 200), path)
        except CheckpointError as error:
            assert "bytes" in str(error), error
            assert checkpoint.load(path).n_hidden == 20
            sys.exit(7)
    """)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_during_a_save_leaves_a_whole_model(tmp_path, n_kills):
    path = tmp_path / "e.safetensors"
    checkpoint.save(de.energies.BernoulliRBM(300, 1), path)
    code = textwrap.dedent(f"""
        import discrete_ebm as de
        from discrete_ebm import checkpoint
        print("ready", flush=True)
        while True:
            for n in (100, 200, 300):
                checkpoint.save(de.energies.BernoulliRBM(300, n), {str(path)!r})
    """)
    for k in range(n_kills):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.02 + 0.013 * (k % 7))
            process.send_signal(signal.SIGKILL)
        assert checkpoint.load(path).n_hidden in (1, 100, 200, 300)


def test_the_source_holds_no_unsafe_loading():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        for word in ("weights_only=" + "False", "pickle." + "load", "yaml." + "load"):
            assert word not in text, f"{word} in {file}"
