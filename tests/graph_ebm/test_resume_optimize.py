"""An optimisation that was stopped, anywhere, ends with the molecules of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from discrete_ebm.errors import CheckpointError, RecoveryWarning, SettingError
from graph_ebm import experts, pretrained, training
from graph_ebm.datasets import load
from graph_ebm.experts import train_expert
from graph_ebm.objectives import MolecularPCD
from tests.resume_cases import digest

ROOT = Path(__file__).resolve().parents[2]
PROPERTY = "tests.graph_ebm.score_functions:record"
TINY = {"hidden": 8, "layers": 1, "n_chains": 64, "batch": 32, "n_steps": 2, "progress": False}
EXPERT = {**TINY, "n_iterations": 10, "seed": 4}


@pytest.fixture(scope="module", autouse=True)
def few_fresh_chains():
    """An expert's fresh chains are most of its time here; which there are makes no difference to what is tested."""
    fresh = experts._fresh

    def few(kernel, energy, n_chains, n_steps, **options):
        return fresh(kernel, energy, min(n_chains, 16), min(n_steps, 40), **{**options, "every": 10})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "_fresh", few)
        yield


@pytest.fixture(scope="module")
def data():
    return load("qm9-sample", 120, max_atoms=9)


@pytest.fixture(scope="module")
def base(data):
    return training.train(data, n_iterations=4, seed=1, **TINY)


def bits(model) -> str:
    history = {name: column for name, column in model.history.items() if name != "seconds"}
    return digest({"energy": model.energy.state_dict(), "history": history})


@pytest.fixture(scope="module")
def whole(data, base) -> str:
    return bits(train_expert(data[:60], base, data, **EXPERT))


def cut_at(monkeypatch, update: int) -> None:
    """Ctrl-C within this update of an expert: 1 to 10 contrast, 11 and 12 its correction."""
    calls = []
    for objective in (experts.ExpertContrast, experts.OwnContrast):
        loss = objective.loss

        def stopped(self, *args, loss=loss, **kwargs):
            output = loss(self, *args, **kwargs)
            calls.append(1)
            if len(calls) == update:
                raise KeyboardInterrupt
            return output

        monkeypatch.setattr(objective, "loss", stopped)


@pytest.mark.parametrize("update", [*(pytest.param(update, marks=pytest.mark.slow) for update in (1, 6, 11)), 12])
def test_an_expert_cut_in_any_part_goes_on_to_the_bit(tmp_path, monkeypatch, data, base, whole, update):
    with monkeypatch.context() as patch:
        cut_at(patch, update)
        cut = train_expert(data[:60], base, data, output=tmp_path, checkpoint_every=3, **EXPERT)
    assert cut.interrupted
    assert bits(cut) != whole
    again = train_expert(data[:60], base, data, output=tmp_path, checkpoint_every=3, resume=True, **EXPERT)
    assert not again.interrupted
    assert bits(again) == whole
    assert again.settings["updates"] == 12
    if update != 12:
        return
    finished = train_expert(data[:60], base, data, output=tmp_path, checkpoint_every=3, resume=True, **EXPERT)
    assert bits(finished) == whole


@pytest.mark.slow
def test_an_expert_cut_while_its_samples_are_drawn_goes_on_to_the_bit(tmp_path, monkeypatch, data, base, whole):
    fresh = experts._fresh

    def stopped(*args, **options):
        if options.get("settled"):
            raise KeyboardInterrupt
        return fresh(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(experts, "_fresh", stopped)
        train_expert(data[:60], base, data, output=tmp_path, **EXPERT)
    assert bits(train_expert(data[:60], base, data, output=tmp_path, resume=True, **EXPERT)) == whole


def test_an_expert_of_another_base_or_setting_is_refused(tmp_path, data, base):
    short = {**EXPERT, "n_iterations": 2, "correct": False}
    before = torch.get_rng_state()
    train_expert(data[:60], base, data, output=tmp_path, **short)
    assert torch.equal(before, torch.get_rng_state()), "the generator of torch is left alone"
    with pytest.raises(SettingError, match="other molecules"):
        train_expert(data[:50], base, data, output=tmp_path, resume=True, **short)
    other = training.train(data, n_iterations=2, seed=2, **TINY)
    with pytest.raises(SettingError, match="other base"):
        train_expert(data[:60], other, data, output=tmp_path, resume=True, **short)


# -- the whole optimisation -----------------------------------------------------------------------------------------

RUN = {"data": None, "base": "train", "n_iterations": 6, "n": 24, "n_steps": 30, "seed": 2, "fraction": 0.5,
       "checkpoint_every": 2, **{k: v for k, v in TINY.items() if k != "n_steps"}}  # fmt: skip


def optimized(folder, data, **changes):
    from graph_ebm import optimize

    targets = changes.pop("targets", ["logp", PROPERTY])
    return optimize(targets, **({**RUN, "data": data, "output": folder, "strategy": "compose"} | changes))


def outcome(result) -> dict:
    return {
        "smiles": result.generated.smiles,
        "molecules": [[(k, v) for k, v in row.items() if v == v] for row in result.molecules],  # order of columns too
        "energy": digest({"energy": result.model.energy.state_dict(), "e": result.generated.energy}),
        "figures": {k: str(v) for k, v in result.figures.items() if k != "seconds"},
    }


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path / "packaged")
    return tmp_path / "log"


def test_an_optimisation_cut_in_any_stage_gives_the_molecules_of_an_unbroken_one(tmp_path, monkeypatch, data, log):
    """Ctrl-C in the base's training, in the second expert's, and while samples are drawn, one after the other."""
    unbroken = optimized(tmp_path / "whole", data)
    calls = len(log.read_text().splitlines())
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        loss = MolecularPCD.loss

        def stopped(self, *args, **kwargs):
            stopped.calls += 1
            if stopped.calls == 3:
                raise KeyboardInterrupt
            return loss(self, *args, **kwargs)

        stopped.calls = 0
        patch.setattr(MolecularPCD, "loss", stopped)
        first = optimized(folder, data)
        assert first.interrupted
        assert not (folder / "stages" / "samples.safetensors").exists()
    with monkeypatch.context() as patch:
        cut_at(patch, 6 + 1 + 2)  # 6 and 1 updates of the first expert
        second = optimized(folder, data, resume=True)
        assert second.interrupted
        assert len(second.model.energy.names) == 2
    final = optimized(folder, data, resume=True)
    assert not final.interrupted
    assert outcome(final) == outcome(unbroken)
    done = len(log.read_text().splitlines())
    assert (tmp_path / "cut" / "scores.sqlite").exists()
    again = optimized(folder, data, resume=True)
    assert outcome(again) == outcome(unbroken)
    assert len(log.read_text().splitlines()) == done, "scores that are known are not computed again"
    assert calls < done
    with pytest.raises(SettingError, match="must not hold another optimisation"):
        optimized(folder, data)
    with pytest.raises(SettingError, match=r"other seed \(2 then, 3 now\); strength \(1.5 then, 2.0 now\)"):
        optimized(folder, data, resume=True, seed=3, strength=2.0)
    with pytest.raises(CheckpointError, match="must hold an optimisation to resume"):
        optimized(tmp_path / "none", data, resume=True)
    samples = folder / "stages" / "samples.safetensors"
    samples.write_bytes(samples.read_bytes()[:-10])
    with pytest.warns(RecoveryWarning, match="drawn again"):
        assert outcome(optimized(folder, data, resume=True)) == outcome(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["scores", "base", "expert", "samples", "last scores"])
def test_an_optimisation_killed_in_any_stage_goes_on_in_a_new_process(tmp_path, data, log, stage):
    """SIGKILL from within; the report's files are those of the command, so the command is what runs."""
    code = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
from discrete_ebm.step_folders import Checkpoints
from graph_ebm import optimize_stages, pretrained, scoring_cache, cli, training
from pathlib import Path
stage, arguments = sys.argv[1], sys.argv[2:]
pretrained._FOLDER = Path("nowhere")
small = training.TrainSettings
training.TrainSettings = lambda: small(hidden=8, layers=1, n_chains=64, batch=32, n_steps=2)
import graph_ebm.experts
graph_ebm.experts.TrainSettings = training.TrainSettings
def kill(): os.kill(os.getpid(), signal.SIGKILL)
write, keep, put = Checkpoints.write, optimize_stages.Stages.keep, scoring_cache.ScoreCache.write
puts = []
def written(self, step, *files):
    out = write(self, step, *files)
    if stage in str(self.folder) and step >= 4: kill()
    return out
def kept(self, *a):
    keep(self, *a)
    if stage == "samples": kill()
def cached(self, outcomes):
    put(self, dict(list(outcomes.items())[: 20 if stage == "scores" else None]))
    puts.append(1)
    if stage == "scores" or (stage == "last scores" and (Path(arguments[-1]) / "stages/samples.safetensors").exists()):
        kill()
Checkpoints.write, optimize_stages.Stages.keep, scoring_cache.ScoreCache.write = written, kept, cached
cli.main(arguments)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = ["optimize", PROPERTY, "--data", "qm9-sample", "--limit", "120", "--max-atoms", "9", "--iterations", "6",
             "-n", "24", "--steps", "30", "--fraction", "0.5", "--base", "train", "--quiet", "--seed", "2",
             "--checkpoint-every", "2", "--threads", "1", "--workers", "2"]  # fmt: skip

    def call(stage: str, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, stage, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=600)

    done = call("none", *start, "--output", "whole")
    assert done.returncode == 0, done.stderr
    assert call(stage, *start, "--output", "cut").returncode == -9
    again = call("none", "optimize", "--resume", "cut", "--quiet", "--workers", "1")
    assert again.returncode == 0, again.stderr
    whole, cut = (tmp_path / name / "molecules.csv" for name in ("whole", "cut"))
    assert whole.read_text() == cut.read_text()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["interrupted"] is False
    assert call("none", "optimize", "--resume", "cut", "--seed", "3").returncode == 2
