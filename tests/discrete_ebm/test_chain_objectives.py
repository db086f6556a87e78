"""Variants of training with chains: centred gradients, tempered chains, short runs, and the stabilisers."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import discrete_ebm as de
from discrete_ebm.energies.base import Energy, evaluate_energy
from discrete_ebm.errors import CapabilityError, CheckpointError, EBMError, SettingError, SpaceError
from discrete_ebm.objectives import CD, PCD, ShortRun, TemperedPCD, centring, contrast
from discrete_ebm.objectives import contrastive as module
from discrete_ebm.objectives.contrastive import MarkovState, slope_penalty
from tests import cases, reference
from tests.statistical import assert_law, level

FALSE_FAIL = 1e-7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rbm(seed=0):
    g = generator(seed)
    return de.energies.BernoulliRBM(
        5, 3, weight=torch.randn(5, 3, generator=g, dtype=torch.float64),
        visible_bias=torch.randn(5, generator=g, dtype=torch.float64),
        hidden_bias=torch.randn(3, generator=g, dtype=torch.float64),
    )  # fmt: skip


def parameter_gradients(energy, loss):
    names = ("weight", "visible_bias", "hidden_bias")
    return [g.numpy() for g in torch.autograd.grad(loss, [getattr(energy, name) for name in names])]


# -- hidden means and centring ---------------------------------------------------------------------------------------


def hidden_means(v, energy):
    w, c = energy.weight.detach().numpy(), energy.hidden_bias.detach().numpy()
    return 1 / (1 + np.exp(-(v @ w + c)))


def test_gradients_hold_hidden_means_on_both_sides():
    energy = rbm()
    data, negatives = energy.space.random(30, generator(1)), energy.space.random(20, generator(2))
    found = parameter_gradients(energy, contrast(energy, data, negatives).loss)
    (v, w), (h, g) = (data.numpy(), negatives.numpy()), (hidden_means(x.numpy(), energy) for x in (data, negatives))
    assert np.allclose(found[0], -(v.T @ h / 30 - w.T @ g / 20))  # minus: a loss goes down
    assert np.allclose(found[1], -(v.mean(0) - w.mean(0)))
    assert np.allclose(found[2], -(h.mean(0) - g.mean(0)))


def centred_by_the_paper(data, negatives, energy, mu, lam):
    """dW = <(v − μ)(h − λ)ᵀ>_d − <…>_m, db = <v>_d − <v>_m − dW λ, dc = <h>_d − <h>_m − dWᵀμ (ascent)."""
    parts = []
    for x in (data.numpy(), negatives.numpy()):
        h = hidden_means(x, energy)
        parts.append(((x - mu).T @ (h - lam) / len(x), x.mean(0), h.mean(0)))
    w = parts[0][0] - parts[1][0]
    return w, parts[0][1] - parts[1][1] - w @ lam, parts[0][2] - parts[1][2] - w.T @ mu


def centred_difference(seed=3):
    energy = rbm()
    data, negatives = energy.space.random(30, generator(1)), energy.space.random(20, generator(2))
    rng = np.random.default_rng(seed)
    mu, lam = rng.uniform(0, 1, 5), rng.uniform(0, 1, 3)
    plain = contrast(energy, data, negatives)
    loss = centring.centred_loss(energy, plain.loss, centring.Offsets(torch.tensor(mu), torch.tensor(lam)))
    assert loss.item() == pytest.approx(plain.loss.item())
    found = parameter_gradients(energy, loss)
    wanted = centred_by_the_paper(data, negatives, energy, mu, lam)
    return max(np.abs(a + b).max() for a, b in zip(found, wanted, strict=True))


def test_centred_gradients_are_those_of_the_paper():
    assert centred_difference() < 1e-12


CENTRING_MUTANTS = {
    "sign of the offsets": lambda w, b, c, o: (w + torch.outer(o.visible, c) + torch.outer(b, o.hidden), b, c),
    "biases left alone": lambda w, b, c, o: (w - torch.outer(o.visible, c) - torch.outer(b, o.hidden), b, c),
    "one side only": lambda w, b, c, o: (w - torch.outer(o.visible, c), b - w @ o.hidden, c - w.t() @ o.visible),
    "not centred": lambda w, b, c, o: (w, b, c),
}


@pytest.mark.mutants
@pytest.mark.parametrize("name", CENTRING_MUTANTS)
def test_planted_mutants_of_centring_die(name):
    with mock.patch.object(centring, "centred_gradient", CENTRING_MUTANTS[name]):
        assert centred_difference() > 1e-3


def test_centred_gradients_do_not_mind_which_value_is_called_one():
    """Flipping all bits of data and model is the same problem; the centred step is equivariant, the plain one not."""
    energy, twin = rbm(), rbm()
    data, negatives = energy.space.random(30, generator(1)), energy.space.random(20, generator(2))
    with torch.no_grad():  # the same law of 1 − v
        twin.weight.copy_(-energy.weight)
        twin.visible_bias.copy_(-energy.visible_bias)
        twin.hidden_bias.copy_(energy.hidden_bias + energy.weight.sum(0))
    steps = []
    for model, d, n in ((energy, data, negatives), (twin, 1 - data, 1 - negatives)):
        offsets = centring.Offsets(*centring.means(model, d))
        steps.append(parameter_gradients(model, centring.centred_loss(model, contrast(model, d, n).loss, offsets)))
    assert np.allclose(steps[0][0], -steps[1][0])
    assert np.allclose(steps[0][2] + steps[0][0].sum(0), steps[1][2])


@pytest.mark.parametrize("side", ["data", "average"])
def test_offsets_are_running_means_and_are_saved(side):
    energy = rbm()
    data = energy.space.random(40, generator(1))
    objective = PCD(sampler="block-gibbs", n_steps=1, bank_size=20, centre=side, centre_rate=0.25)
    state = objective.init(energy, data, generator=generator())
    first = data.double().mean(0)
    assert torch.allclose(state.offsets.visible, first)
    batch = data[:20]
    output = objective.loss(energy, batch, state, generator=generator(5))
    seen = batch if side == "data" else torch.cat([batch, output.negatives])
    assert torch.allclose(state.offsets.visible, 0.75 * first + 0.25 * seen.double().mean(0))
    other = objective.init(energy, data, generator=generator())
    other.load_state_dict(state.state_dict())
    assert torch.equal(other.offsets.hidden, state.offsets.hidden)
    assert torch.equal(other.bank.x, state.bank.x)
    broken = {k: v for k, v in state.state_dict().items() if k != "hidden_offset"}
    with pytest.raises(CheckpointError, match="hidden_offset"):
        other.load_state_dict(broken)


@pytest.mark.slow
def test_centred_training_learns_bars_and_stripes_better_at_the_same_rate():
    """Exact likelihood by enumeration of 2^9 states, gradient descent for both: no Adam to hide the difference."""
    data = de.datasets.bars_and_stripes(3)
    found = {}
    for side in (None, "data"):
        energy = de.energies.BernoulliRBM((3, 3), 8, scale=0.1, seed=0)
        objective = CD(sampler="block-gibbs", n_steps=5, centre=side)
        g = generator()
        state = objective.init(energy, data, generator=g)
        optimiser = torch.optim.SGD(energy.parameters(), lr=0.2)
        for _ in range(400):
            optimiser.zero_grad()
            objective.loss(energy, data, state, generator=g).loss.backward()
            optimiser.step()
        found[side] = -float(evaluate_energy(energy, data).mean().detach()) - de.evaluate.exact(energy).log_z
    assert found["data"] > found[None] + 0.1


# -- tempered chains -------------------------------------------------------------------------------------------------


def test_only_replicas_at_beta_one_are_negatives_and_follow_the_model(seed):
    """After many updates of frozen parameters the negatives have the model's law, and the hottest replicas the flat."""
    energy = cases.ising_dense(4).energy
    objective = TemperedPCD(sampler="gibbs", n_steps=2, bank_size=500, n_replicas=4)
    g = generator(seed)
    data = energy.space.random(500, g)
    state = objective.init(energy, data, generator=g)
    for _ in range(10):
        output = objective.loss(energy, data, state, generator=g)
    cold, hot = np.zeros(16), np.zeros(16)
    for _ in range(24):
        for _ in range(3):
            output = objective.loss(energy, data, state, generator=g)
        for counts, x in ((cold, output.negatives), (hot, state.replicas[:, -1])):
            code = ((x.long() + 1) // 2) @ torch.tensor([8, 4, 2, 1])
            counts += torch.bincount(code, minlength=16).numpy()
    table = cases.ising_dense(4).table
    assert_law(cold, reference.boltzmann(table, 1.0), false_fail=FALSE_FAIL, must_see=0.06)
    assert_law(hot, np.full(16, 1 / 16), false_fail=FALSE_FAIL, must_see=0.06)
    assert torch.equal(state.chains, state.replicas[:, 0])
    assert 0 < float(output.terms["swap_rate"]) <= 1


def test_every_pair_of_replicas_gets_its_turn_also_with_one_step_an_update():
    energy = de.energies.Ising(torch.zeros(4, 4))  # flat: every swap is accepted
    objective = TemperedPCD(sampler="gibbs", n_steps=1, bank_size=3, n_replicas=4)
    g = generator()
    data = energy.space.random(3, g)
    state = objective.init(energy, data, generator=g)
    steps = []
    for _ in range(3):
        objective.loss(energy, data, state, generator=g)
        steps.append(int(state.step))
    assert steps == [1, 2, 3]  # odd and even pairs take turns by this number
    saved = state.state_dict()
    other = objective.init(energy, data, generator=g)
    other.load_state_dict(saved)
    assert int(other.step) == 3
    assert torch.equal(other.replicas, state.replicas)


def test_tempered_chains_cross_where_plain_ones_stay():
    """Two far modes; chains that all start in one of them."""
    energy = de.energies.Ising(1.5 * (torch.ones(8, 8) - torch.eye(8)))
    data = torch.ones(60, 8, dtype=torch.int8)
    crossed = {}
    for name, objective in {"plain": PCD(sampler="gibbs", n_steps=5, bank_size=60),
                            "tempered": TemperedPCD(sampler="gibbs", n_steps=5, bank_size=60)}.items():  # fmt: skip
        g = generator()
        state = objective.init(energy, data, generator=g)
        state.bank.x.fill_(1)
        for _ in range(10):
            output = objective.loss(energy, data, state, generator=g)
        crossed[name] = int((output.negatives.sum(1) < 0).sum())
    assert crossed["plain"] == 0
    assert 10 <= crossed["tempered"] <= 50  # 30 expected; ±5 standard deviations


# -- short runs and starts -------------------------------------------------------------------------------------------


def test_short_runs_start_from_fresh_noise_every_time(seed):
    energy = de.energies.Ising.lattice((4, 4), coupling=0.0)
    data = torch.ones(4000, 4, 4, dtype=torch.int8)
    objective = ShortRun(sampler="gwg", n_steps=1)
    state = objective.init(energy, data, generator=generator(seed))
    output = objective.loss(energy, data, state, generator=generator(seed))
    up = int((output.negatives == 1).sum())
    assert stats.binomtest(up, output.negatives.numel(), 0.5).pvalue > level(FALSE_FAIL)
    assert state.chains is None
    assert objective.n_steps == 1
    assert ShortRun().n_steps == 100


@pytest.mark.parametrize("kind", ["short-run", "pcd", "restarted pcd"])
def test_marginal_starts_follow_the_datas_frequencies(kind, seed):
    space = de.Categorical(2, [2, 3])
    data = torch.tensor([[0, 0], [0, 2], [0, 2], [1, 1]], dtype=torch.int8)
    flat = de.from_callable(lambda e: 0 * e.flatten(1).sum(1), space)
    g = generator(seed)
    wanted = [np.array([3.5, 1.5]) / 5, np.array([1, 1, 2]) / 5 + np.array([1, 1, 1]) / 15]
    drawn = []
    with mock.patch.object(module, "draw_negatives", lambda kernel, energy, x, n, generator: (drawn.append(x) or
                           (x, module.StepTotals.zero(torch.zeros(len(x)))))):  # fmt: skip
        if kind == "short-run":
            objective = ShortRun(sampler="gibbs", start="marginal")
            state = objective.init(flat, data, generator=g)
            objective.loss(flat, data.repeat(5000, 1), state, generator=g)
        elif kind == "pcd":
            objective = PCD(sampler="gibbs", start="marginal", bank_size=20_000)
            drawn.append(objective.init(flat, data, generator=g).bank.x)
        else:
            objective = PCD(sampler="gibbs", start="marginal", bank_size=20_000, restart=0.999)
            state = objective.init(flat, data, generator=g)
            state.bank.x[:, :] = torch.tensor([1, 1])
            objective.loss(flat, data.repeat(5000, 1), state, generator=g)
    for site, law in enumerate(wanted):
        law = law if kind != "restarted pcd" else 0.999 * law + 0.001 * np.eye(len(law))[1]
        counts = np.bincount(drawn[0][:, site].numpy(), minlength=len(law))
        assert_law(counts, law, false_fail=FALSE_FAIL, must_see=0.04)


# -- stabilisers -----------------------------------------------------------------------------------------------------


def test_steps_grow_with_the_gap_between_data_and_negatives():
    state = MarkovState()
    assert state.steps(5, 50) == 5
    state.see(torch.tensor(1.0), torch.tensor(2.0))
    assert state.steps(5, 50) == 5  # the gap is within the spread of the data's energies
    state.see(torch.tensor(61.0), torch.tensor(2.0))  # running mean 0.9 + 6.1 = 7
    assert state.steps(5, 50) == 18  # ceil(5 · 7 / 2)
    assert state.steps(5, None) == 5
    state.see(torch.tensor(1e6), torch.tensor(2.0))
    assert state.steps(5, 50) == 50
    state.gap = -state.gap  # negatives below the data count as well
    assert state.steps(5, 50) == 50
    again = MarkovState()
    again.load_state_dict(state.state_dict())
    assert again.steps(5, 10**9) == state.steps(5, 10**9)


def test_the_objective_takes_the_steps_and_logs_them():
    energy = de.energies.Ising.lattice((3, 3), coupling=0.2)
    data = torch.ones(10, 3, 3, dtype=torch.int8)
    data[0, 0, 0] = -1
    objective = PCD(sampler="gibbs", n_steps=2, bank_size=10, max_steps=20)
    state = objective.init(energy, data, generator=generator())
    taken = [int(objective.loss(energy, data, state, generator=generator(i)).terms["steps"]) for i in range(4)]
    assert taken[0] == 2
    assert taken[1] > 2
    assert max(taken) <= 20


def test_the_gradient_penalty_is_half_the_mean_square_slope():
    case = cases.net("binary")
    energy = case.energy
    x = energy.space.random(12, generator())
    slopes = []
    for row in energy.space.encode_as(x, torch.float64):
        slope = []
        for i in range(4):
            h = torch.zeros(4, dtype=torch.float64)
            h[i] = 1e-6
            slope.append(float((energy((row + h)[None]) - energy((row - h)[None])).detach() / 2e-6))
        slopes.append(slope)
    assert slope_penalty(energy, x).item() == pytest.approx(0.5 * (np.array(slopes) ** 2).sum(1).mean(), rel=1e-7)
    plain, fined = CD(sampler="gibbs"), CD(sampler="gibbs", gradient_penalty=0.3)
    values = [one.loss(energy, x, one.init(energy, x, generator=generator()), generator=generator(1)).loss
              for one in (plain, fined)]  # fmt: skip
    assert (values[1] - values[0]).item() == pytest.approx(0.3 * slope_penalty(energy, x).item())
    (slope,) = torch.autograd.grad(values[1] - values[0], [energy.fn.w1])
    assert float(slope.abs().max()) > 0


def test_data_noise_changes_that_share_of_sites_and_only_in_the_loss(seed):
    energy = de.energies.Ising.lattice((10, 10), coupling=0.0, field=1.0)
    data = torch.ones(400, 10, 10, dtype=torch.int8)
    objective = CD(sampler="gibbs", n_steps=1, data_noise=0.1)
    state = objective.init(energy, data, generator=generator(seed))
    output = objective.loss(energy, data, state, generator=generator(seed))
    flipped = round((100 * 400 + float(output.terms["positive_energy"]) * 400) / 2)  # E = −Σ s, so −100 + 2 a flip
    assert stats.binomtest(flipped, 40_000, 0.1).pvalue > level(FALSE_FAIL)
    assert bool((data == 1).all())


class Unsmooth(Energy):
    def __init__(self):
        super().__init__(de.Binary(3))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, encoding):
        return self.shift * encoding.detach().sum(1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: CD(centre="both"), SettingError, "`centre`"),
        (lambda: CD(centre_rate=0.0), SettingError, "`centre_rate`"),
        (lambda: CD(n_steps=5, max_steps=4), SettingError, "`max_steps`"),
        (lambda: CD(data_noise=1.0), SettingError, "`data_noise`"),
        (lambda: CD(gradient_penalty=-1), SettingError, "`gradient_penalty`"),
        (lambda: ShortRun(start="data"), SettingError, "That is CD"),
        (lambda: PCD(start="marginals"), SettingError, "`start`"),
        (lambda: TemperedPCD(n_replicas=1), SettingError, "`n_replicas`"),
        (lambda: TemperedPCD(ladder=(0.5, 0.1)), SettingError, "`ladder`"),
        (lambda: begin(TemperedPCD(sampler="dula"), Unsmooth()), SettingError, "biased"),
        (lambda: begin(CD(centre="data"), cases.ising_dense().energy), CapabilityError, "RBM"),
        (lambda: begin(CD(centre="data"), frozen_rbm()), SettingError, "visible_bias"),
        (lambda: begin(CD(sampler="gibbs", gradient_penalty=1.0), Unsmooth()), CapabilityError, "gradient_penalty"),
        (lambda: begin(CD(sampler="langevin", data_noise=0.1), real()), SpaceError, "data_noise"),
        (lambda: begin(PCD(sampler="langevin", start="marginal"), real()), SpaceError, "marginal"),
        (lambda: ShortRun().loss(rbm(), None, None, generator=generator()), SettingError, "ShortRun.init"),
        (lambda: TemperedPCD().loss(rbm(), None, None, generator=generator()), SettingError, "TemperedPCD.init"),
    ],
)
def test_bad_settings_and_unmet_needs_are_refused_with_a_sentence(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, EBMError)


def begin(objective, energy):
    return objective.init(energy, energy.space.random(4, generator()), generator=generator())


def frozen_rbm():
    energy = rbm()
    energy.visible_bias.requires_grad_(False)
    return energy


def real():
    return de.energies.MLPEnergy(de.Real(3), (4,))
