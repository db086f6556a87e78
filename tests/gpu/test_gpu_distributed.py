"""Two processes on two GPUs (NCCL): one training, to the end and to the bit after a resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def test_two_gpus_train_together_and_resume_to_the_bit(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", (np.random.default_rng(0).random((256, 20)) < 0.4).astype("int8"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "discrete_ebm.cli", "train", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    new = ["rbm", "--data", "x.npy", "--hidden", "16", "--device", "cuda", "--devices", "2", "--checkpoint-every", "50",
           "--decay", "constant", "--validation", "none", "--set", "training.warmup=0"]  # fmt: skip
    assert run(*new, "--iterations", "200", "--output", "whole")["processes"] == 2
    run(*new, "--iterations", "100", "--output", "cut")
    run("--resume", "cut", "--iterations", "200")
    whole, cut = (load_file(tmp_path / name / "energy.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
