"""The suites of trainings run at a tiny size; what they measure by is right on answers known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import run, table
from benchmarks.suites import learn_ising

IMAGES = Path("/work/shared/data/images")


def test_contacts_are_found_by_scores_that_know_them():
    model, data = learn_ising.known_potts(
        {"sites": 10, "k": 3, "contacts": 10, "apart": 1, "coupling": 3.0, "field": 0.0, "rows": 400, "sweeps": 30}, 0
    )
    assert data.shape == (400, 10)
    scores = torch.zeros(10, 10)
    scores[model.edge_index[0], model.edge_index[1]] = 1.0
    assert learn_ising.contacts_found(scores, model)["recall"] == 1.0
    assert learn_ising.contacts_found(scores.t().contiguous(), model)["recall"] < 1.0
    assert learn_ising.contacts_found(learn_ising.mutual_information(data, 3), model)["recall"] >= 0.6


def test_known_couplings_are_those_of_the_draws():
    truth, data = learn_ising.known_ising({"kind": "random", "nodes": 12, "degree": 2}, 20_000, 0)
    assert torch.equal(truth, truth.t())
    s = data.double()
    covariance = s.t() @ s / len(s)
    isolated = (truth == 0).all(1)
    i, j = (truth != 0).nonzero()[0].tolist()
    assert covariance[i, j].sign() == truth[i, j].sign()
    assert isolated.any() or len(truth) == 12
    assert bool((covariance[isolated][:, isolated].fill_diagonal_(0).abs() < 6 / len(s) ** 0.5).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-digits", "learn-ising", "train-speed", "train-rbm-mnist"])
def test_the_training_suites_run_and_resume(name, tmp_path):
    if name == "train-rbm-mnist" and not IMAGES.is_dir():
        pytest.skip("static MNIST is not here")
    command = ["--suite", name, "--size", "small", "--json", str(tmp_path), "--work", str(tmp_path / "work"),
               "--data", str(IMAGES), "--seeds", "0", "--in-process"]  # fmt: skip
    assert run.main(command) == 0
    assert run.main(command) == 0  # finished already
    (record,) = table.records(tmp_path, name, "small")
    assert record["finished"]
    text = table.table(tmp_path, name, "small")
    assert text is not None
    assert "ms an update" in text
