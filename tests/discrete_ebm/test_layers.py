"""The RBM's derivative without autograd is that of autograd; the optimizers of `fit`."""

from __future__ import annotations

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import NonFiniteEnergyError, SettingError
from discrete_ebm.objectives import contrastive
from discrete_ebm.objectives.layers import fits_layers
from discrete_ebm.samplers import create

CASES = {
    "cd": (de.objectives.CD, {}),
    "pcd": (de.objectives.PCD, {"bank_size": 70}),
    "pcd, centred": (de.objectives.PCD, {"bank_size": 70, "centre": "data", "centre_rate": 0.3}),
    "pcd, fewer chains, average": (de.objectives.PCD, {"bank_size": 20, "centre": "average", "max_steps": 4}),
    "short-run": (de.objectives.ShortRun, {"start": "marginal"}),
}


def _two_updates(name, fast, monkeypatch):
    """Losses, terms, gradients, negatives and offsets of two updates in float64."""
    monkeypatch.setattr(contrastive, "fits_layers", fits_layers if fast else lambda *_: False)
    build, settings = CASES[name]
    energy = de.energies.BernoulliRBM((5, 4), 6, scale=0.5, seed=1).double()
    source = torch.Generator().manual_seed(5)
    data = (torch.rand(80, 5, 4, generator=source) < 0.3).to(torch.int8)
    objective = build(sampler="block-gibbs", **({"n_steps": 2} | settings))
    state, found = objective.init(energy, data, generator=source), []
    for rows in (data[:50], data[30:]):
        energy.zero_grad()
        output = objective.loss(energy, rows, state, generator=source)
        (3.0 * output.loss).backward()
        offsets = [] if state.offsets is None else [state.offsets.visible, state.offsets.hidden]
        found.append((output, [p.grad.clone() for p in energy.parameters()] + offsets))
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_derivative_by_layers_is_that_of_autograd(name, monkeypatch):
    for (fast, own), (slow, reference) in zip(
        _two_updates(name, True, monkeypatch), _two_updates(name, False, monkeypatch), strict=True
    ):
        assert torch.equal(fast.negatives, slow.negatives)
        assert fast.terms.keys() == slow.terms.keys()
        for key, value in slow.terms.items():
            torch.testing.assert_close(fast.terms[key].double(), value.double(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(fast.loss, slow.loss, rtol=1e-10, atol=1e-10)
        for left, right in zip(own, reference, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


def test_what_is_more_than_the_rbm_goes_through_autograd():
    kernel = create("block-gibbs")
    rbm = de.energies.BernoulliRBM(4, 3)
    assert fits_layers(rbm, kernel)
    assert not fits_layers(rbm, create("gibbs"))
    assert not fits_layers(2.0 * rbm, kernel)
    assert not fits_layers(de.energies.BernoulliRBM(4, 0), kernel)
    rbm.hidden_bias.requires_grad_(False)
    assert not fits_layers(rbm, kernel)


def test_an_energy_that_is_not_finite_is_said_before_the_steps():
    rbm = de.energies.BernoulliRBM(4, 3)
    objective, source = de.objectives.PCD(sampler="block-gibbs", bank_size=5), torch.Generator().manual_seed(0)
    data = torch.ones(5, 4, dtype=torch.int8)
    state = objective.init(rbm, data, generator=source)
    with torch.no_grad():
        rbm.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteEnergyError, match="at the start"):
        objective.loss(rbm, data, state, generator=source)


def test_sgd_moves_against_the_gradient_by_the_step_size():
    data = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.int8)
    energy = de.energies.Ising(torch.zeros(6, 6), space=de.Binary(6))
    s = 2.0 * data - 1
    de.fit(energy, data, "pseudo-likelihood", 1, 60, 0.25, optimizer="sgd", warmup=0, clip=None, progress=False)
    torch.testing.assert_close(energy.field.detach(), 0.25 * s.mean(0))  # d/dh log σ(2hs) = s at h = 0
    with pytest.raises(SettingError, match="optimizer"):
        de.fit(energy, data, "pseudo-likelihood", 1, optimizer="lbfgs", progress=False)


def test_a_resumed_training_must_have_the_same_optimizer(tmp_path):
    data = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.int8)
    settings = {"objective": "pseudo-likelihood", "output": tmp_path, "progress": False}
    de.fit(de.energies.Ising(torch.zeros(6, 6), space=de.Binary(6)), data, n_iterations=2, optimizer="sgd", **settings)
    energy = de.energies.Ising(torch.zeros(6, 6), space=de.Binary(6))
    with pytest.raises(SettingError, match="optimizer"):
        de.fit(energy, data, n_iterations=4, resume=True, **settings)
    de.fit(energy, data, n_iterations=4, resume=True, optimizer="sgd", **settings)


def test_persistent_chains_start_from_the_marginals_where_sites_are_free():
    data = torch.zeros(50, 6, dtype=torch.int8)
    data[:, 0] = 1
    source = torch.Generator().manual_seed(0)
    rbm = de.energies.BernoulliRBM(6, 2)
    found = de.objectives.PCD(bank_size=300).init(rbm, data, generator=source).chains.float().mean(0)
    assert found[0] > 0.9  # every site has one value in the data
    assert found[1:].max() < 0.1
    found = de.objectives.PCD(bank_size=300, start="random").init(rbm, data, generator=source).chains.float().mean(0)
    assert 0.3 < float(found.min()) < float(found.max()) < 0.7  # sd .03 each: beyond 6 of them
    reals = torch.zeros(50, 6)
    energy = de.energies.MLPEnergy(de.Real(6), (4,))
    state = de.objectives.PCD("langevin", bank_size=300).init(energy, reals, generator=source)
    assert float(state.chains.std()) > 0.1
    with pytest.raises(SettingError, match="auto"):
        de.objectives.PCD(start="marginals")
