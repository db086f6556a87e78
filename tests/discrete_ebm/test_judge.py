"""The likelihood at the end of a training, and the figures of an evaluation, against sums over all states."""

import math

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.errors import EBMError
from discrete_ebm.judge import judge_likelihood, sentence
from discrete_ebm.measures import measure, visible_part


@pytest.fixture(scope="module")
def rbm():
    g = torch.Generator().manual_seed(1)
    return de.energies.BernoulliRBM(9, 5, weight=torch.randn(9, 5, generator=g), visible_bias=0.1)


def plain_likelihood(rbm, x):
    """log p by all 2^9 states and all 2^5 hidden ones, in float64."""
    w, b, c = (t.detach().double() for t in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))

    def free(v):
        h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
        return torch.logsumexp(v @ b[:, None] + (v @ w + c) @ h.T, 1)

    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 9)
    return float((free(x.double()) - torch.logsumexp(free(states), 0)).mean())


def test_the_exact_figure_is_the_sum_over_all_states(rbm):
    x = de.datasets.bars_and_stripes(3).flatten(1)
    found = judge_likelihood(rbm, x)
    truth = plain_likelihood(rbm, x)
    assert found["bound"] == "exact"
    assert found["nats"] == pytest.approx(truth, abs=1e-5)
    assert found["bits_per_dim"] == pytest.approx(-truth / 9 / math.log(2), abs=1e-5)
    assert found["interval"][0] < truth < found["interval"][1]
    assert "exact log Z" in sentence(found)


def test_the_annealed_figure_brackets_the_exact_one(rbm):
    x = de.datasets.bars_and_stripes(3).flatten(1)
    found = judge_likelihood(rbm, x, x, method="ais", n_chains=200, n_steps=400)
    truth = plain_likelihood(rbm, x)
    assert found["bound"] == "bracket"
    # log Z of 200 chains with an ESS near 200: 6 standard errors, 2e-9 for either side
    slack = 6 * 0.5 * (found["log_z_interval"][1] - found["log_z_interval"][0]) / 1.96
    assert found["lower"] - slack <= truth <= found["upper"] + slack
    assert found["width"] < 0.5
    assert min(found["ess_forward"], found["ess_reverse"]) > 20
    assert "AIS bracket" in sentence(found)


def test_what_cannot_be_judged_says_why():
    reals = de.energies.MLPEnergy(de.Real(2), (4,), seed=0)
    x = torch.zeros(5, 2)
    found = judge_likelihood(reals, x)
    assert found["method"] == "none"
    assert "base" in found["how"]
    with pytest.raises(EBMError, match="base"):
        judge_likelihood(reals, x, method="ais")
    with pytest.raises(EBMError, match="states"):
        judge_likelihood(de.energies.MLPEnergy(de.Binary(64), (4,), seed=0), x, method="exact")
    with pytest.raises(EBMError, match="`method`"):
        judge_likelihood(reals, x, method="best")


def test_a_deep_boltzmann_machine_gets_a_lower_bound_on_its_exact_likelihood():
    machine = de.energies.DeepBoltzmannMachine(6, (4, 3), scale=0.5, seed=1)
    x = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.int8)
    found = judge_likelihood(machine, x)
    states = machine.space.enumerate()
    with torch.no_grad():
        logs = -machine(machine.space.encode(states)).double()
    truth = []
    for row in x:
        same = (states[:, :6] == row).all(1)
        truth.append(float(torch.logsumexp(logs[same], 0) - torch.logsumexp(logs, 0)))
    mean = sum(truth) / len(truth)
    assert found["bound"] == "mean-field"
    assert mean - 0.5 < found["nats"] <= mean + 1e-5
    space, visible = visible_part(machine)
    assert space == de.Binary(6)
    assert torch.equal(visible(states[:4]), states[:4, :6])


def test_a_right_model_passes_every_figure_and_a_wrong_one_fails(rbm):
    law = de.evaluate.exact(rbm)
    draws = law.sample(600)
    rows, samples, train = draws[:200], draws[200:400], draws[400:]
    right = measure(rbm, rbm.space, samples, rows, train).record
    assert not any("why_not" in figures for figures in right.values()), right
    wrong = measure(rbm, rbm.space, 1 - samples, rows, train).record
    # 5 standard errors: 6e-7 for each of the three
    assert abs(right["mmd"]["value"]) < 5 * right["mmd"]["error"] + 1e-3
    assert right["ksd"]["p_value"] > 1e-6
    assert abs(right["neighbours"]["z"]) < 5
    assert wrong["mmd"]["value"] > 5 * wrong["mmd"]["error"]
    assert wrong["classifier"]["accuracy"] > 0.75
    assert wrong["moments"]["marginals_rms"] > 3 * wrong["moments"]["marginals_rms_by_chance"]
    assert right["imputation"]["rows"] == 32
