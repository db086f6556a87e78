"""The molecular side on a CUDA device: run with ``pytest -m gpu``."""

from __future__ import annotations

import pytest
import torch
from rdkit import Chem

import graph_ebm as ge
from graph_ebm.experts import train_expert
from graph_ebm.model import single_atoms
from graph_ebm.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SMALL = {"hidden": 16, "layers": 2, "batch": 64, "n_chains": 64, "n_steps": 4}


@pytest.fixture(scope="module")
def data():
    return ge.datasets.load("zinc-sample", limit=300)


@pytest.fixture(scope="module", params=["relational", "transformer"])
def model(request, data):
    return train(data, n_iterations=6, device="cuda", network=request.param, progress=False, **SMALL)


def test_energies_agree_with_the_cpu(model, data):
    cpu = model.to("cpu")
    with torch.no_grad():
        here = model.energy.state_energy(data.x.cuda()).cpu()
        there = cpu.energy.state_energy(data.x)
        encoded = model.energy(data.space.encode(data.x[:32].cuda())).cpu()
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(encoded, there[:32], rtol=1e-4, atol=1e-3)


def test_chains_stay_valid_connected_and_carry_their_energies(model, data):
    kernel, generator = model.kernel, torch.Generator("cuda").manual_seed(0)
    state = kernel.init(model.energy, single_atoms(data.space, 512, "cuda"), generator=generator)
    for _ in range(200):
        state, _ = kernel.step(model.energy, state, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(state.energy, model.energy.state_energy(state.x), rtol=1e-4, atol=1e-3)
    smiles = ge.to_smiles(state.x.cpu(), data.space.vocabulary)
    assert all(Chem.MolFromSmiles(text) is not None and "." not in text for text in smiles)
    assert len(set(smiles)) > 100


def test_generating_from_a_model_on_the_device_gives_what_was_asked(model):
    drawn = ge.generate(model, n=64, n_steps=30, seed=0, progress=False)
    assert len(drawn.smiles) == 64
    assert all(drawn.smiles)


def test_an_expert_trains_on_the_device(model, data):
    expert = train_expert(data[:100], model, data, n_iterations=4, device="cuda", progress=False, **SMALL)
    with torch.no_grad():
        assert expert.energy.state_energy(data.x.cuda()).isfinite().all()
