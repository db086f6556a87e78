"""Every registered objective: says what it needs, trains through fit, refuses what does not fit before any update."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import CapabilityError, DataError, EBMError, SettingError, SpaceError
from discrete_ebm.objectives import centring
from discrete_ebm.objectives.needs import check_training_data

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = [name for name in de.objectives.names() if de.objectives.spec(name).task != "labelled"]  # jem: test_jem.py
DENSITY = [name for name in NAMES if de.objectives.spec(name).task == "density"]
REAL = [name for name in NAMES if de.objectives.spec(name).spaces == "Real"]
DISCRETE = [name for name in NAMES if name not in REAL]
CHAIN_FREE = [name for name in DENSITY if not de.objectives.spec(name).needs_sampler]
QUIET = {"progress": False, "n_iterations": 3, "batch_size": 20, "ema": None}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def create(name, **settings):
    if name == "structured":
        settings.setdefault("answer", (0,))
    if name == "explicit-score-matching":
        settings.setdefault("score", torch.neg)
    if de.objectives.spec(name).needs_sampler:
        settings = {"sampler": "langevin" if name in REAL else "gibbs", "n_steps": 2, **settings}
    return de.objectives.create(name, **settings)


def real_energy():
    return de.energies.MLPEnergy(de.Real(3, low=-3.0, high=3.0), (8,), seed=0)


def fits(name, space):
    return space.k_max == 2 or "two values" not in de.objectives.spec(name).spaces


def test_the_promised_objectives_are_there():
    assert set(NAMES) >= {"cd", "pcd", "short-run", "tempered-pcd", "pseudo-likelihood", "ratio-matching",
                          "guided-ratio-matching", "concrete-score-matching", "probability-flow", "energy-discrepancy",
                          "cnce", "structured"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_row_says_what_it_needs_costs_and_is_for(name):
    row = de.objectives.spec(name)
    assert all([row.summary, row.source, row.spaces, row.cost, row.use_when])
    assert "Source:" in (row.build.__doc__ or "")
    assert row.source.split(" ")[0].rstrip(",") in row.build.__doc__


def test_the_page_lists_every_objective_and_what_it_needs():
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    for name in NAMES:
        row = de.objectives.spec(name)
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.cost in line
        assert row.spaces in line
        assert row.source in line


SPACES = {"binary": de.Binary((2, 3)), "spin": de.Spin(5), "ragged": de.Categorical(3, [2, 4, 3]),
          "ordinal": de.Ordinal(4, [0.0, 0.5, 2.0]),
          "product": de.Product({"a": de.Binary(3), "b": de.Categorical(2, 3)})}  # fmt: skip


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", DISCRETE)
def test_every_objective_trains_a_net_through_fit_on_every_discrete_space(name, space):
    where = SPACES[space]
    energy = de.energies.MLPEnergy(where, (8,), seed=0)
    data = where.random(40, generator())
    if not fits(name, where):
        with pytest.raises(SpaceError, match="two values"):
            de.fit(energy, data, create(name), **QUIET)
        return
    before = torch.nn.utils.parameters_to_vector(energy.parameters()).detach().clone()
    history = de.fit(energy, data, create(name), **QUIET).history
    assert all(math.isfinite(value) for value in history["loss"])
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(energy.parameters()).detach())


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_touches_no_gradient_no_data_and_no_global_random_number(name):
    energy = real_energy() if name in REAL else de.energies.BernoulliRBM(5, 3, scale=0.3)
    data = energy.space.random(12, generator())
    kept, before = data.clone(), torch.get_rng_state()
    one = create(name)
    losses = []
    for _ in range(2):
        g = generator(3)
        losses.append(one.loss(energy, data, one.init(energy, data, generator=g), generator=g).loss)
    assert torch.equal(losses[0], losses[1])  # the generator is all the randomness there is
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(data, kept)
    assert all(p.grad is None for p in energy.parameters())


@pytest.mark.parametrize("name", REAL)
def test_objectives_for_reals_train_through_fit_and_refuse_other_spaces(name):
    energy = real_energy()
    data = energy.space.random(40, generator())
    before = torch.nn.utils.parameters_to_vector(energy.parameters()).detach().clone()
    history = de.fit(energy, data, create(name), **QUIET).history
    assert all(math.isfinite(value) for value in history["loss"])
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(energy.parameters()).detach())
    for space in SPACES.values():
        with pytest.raises(SpaceError, match="must be Real"):
            de.fit(de.energies.MLPEnergy(space, (4,)), space.random(40, generator()), create(name), **QUIET)


@pytest.mark.parametrize("name", [name for name in DENSITY if name not in REAL])
def test_the_real_line_is_refused_where_sites_are_needed(name):
    energy = de.energies.MLPEnergy(de.Real(3), (4,))
    data = energy.space.random(10, generator())
    with pytest.raises(EBMError, match="Real") as caught:
        de.fit(energy, data, create(name), **QUIET)
    assert isinstance(caught.value, (SpaceError, SettingError, CapabilityError))


class Unsmooth(Energy):
    def __init__(self):
        super().__init__(de.Binary(3))
        self.shift = torch.nn.Parameter(torch.zeros(3))

    def forward(self, encoding):
        return (self.shift * encoding.detach()).sum(1)


@pytest.mark.parametrize("name", DISCRETE)
def test_an_energy_without_a_gradient_is_refused_just_where_one_is_needed(name):
    data = de.Binary(3).random(20, generator())
    if de.objectives.spec(name).needs_gradient:
        with pytest.raises(CapabilityError, match="differentiable"):
            de.fit(Unsmooth(), data, create(name), **QUIET)
    else:
        de.fit(Unsmooth(), data, create(name), **QUIET)


BAD = [
    ("pseudo-likelihood", {"sites": 0}, "`sites`"),
    ("pseudo-likelihood", {"max_states": 0}, "`max_states`"),
    ("concrete-score-matching", {"neighbours": "near"}, "`neighbours`"),
    ("probability-flow", {"neighbours": "near"}, "`neighbours`"),
    ("guided-ratio-matching", {"sites": 0}, "`sites`"),
    ("guided-ratio-matching", {"uniform": 1.5}, "`uniform`"),
    ("guided-ratio-matching", {"form": "lyu"}, "`form`"),
    ("energy-discrepancy", {"noise": "gauss"}, "`noise`"),
    ("energy-discrepancy", {"noise": "marginal"}, "`noise`"),
    ("energy-discrepancy", {"rate": 0.1}, "grid"),
    ("energy-discrepancy", {"noise": "bernoulli", "rate": 1.0}, "`rate`"),
    ("energy-discrepancy", {"noise": "cyclic", "rate": math.inf}, "`rate`"),
    ("energy-discrepancy", {"stabiliser": -1.0}, "`stabiliser`"),
    ("energy-discrepancy", {"n_samples": 0}, "`n_samples`"),
    ("cnce", {"noise": "absorbing"}, "`noise`"),
    ("cnce", {"penalty": math.nan}, "`penalty`"),
    ("cnce", {"kappa": 3}, "kappa"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "words"), BAD)
def test_bad_settings_are_refused_with_a_sentence(name, settings, words):
    with pytest.raises(SettingError, match=words):
        de.objectives.create(name, **settings)


@pytest.mark.parametrize("name", CHAIN_FREE)
def test_data_that_is_no_tensor_is_refused(name):
    class Collection:
        space = None

        def __len__(self):
            return 3

        def __getitem__(self, rows):
            return [0]

    energy = real_energy() if name in REAL else de.energies.BernoulliRBM(3, 2)
    with pytest.raises(DataError, match="tensor of states"):
        de.fit(energy, Collection(), create(name), **QUIET)


# -- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (torch.tensor([[0, 1, 2], [1, 0, 0]]), SpaceError, "only 0 and 1"),
        (torch.tensor([[0, 1, math.nan], [1, 0, 0]]), SpaceError, "nan"),
        (torch.zeros(0, 3), DataError, "at least one row"),
        (torch.zeros(5, 4), EBMError, "shape"),
        (torch.ones(5, 3), DataError, "all the same"),
    ],
)
def test_bad_data_is_refused_with_a_sentence(data, error, words):
    with pytest.raises(error, match=words):
        de.fit(de.energies.BernoulliRBM(3, 2), data, "pseudo-likelihood", **QUIET)


def test_unusual_data_is_said_in_the_log(caplog):
    data = de.Binary(4).random(10, generator())
    data[:, 1] = 0
    with caplog.at_level(logging.WARNING, "discrete_ebm"):
        de.fit(de.energies.BernoulliRBM(4, 2), data, "pseudo-likelihood", **QUIET)
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "1 of 4 sites that never change (the first is site 1)" in said
    assert "`batch_size` is 20 and `data` has 10 rows" in said


def test_usual_data_says_nothing(caplog):
    with caplog.at_level(logging.WARNING, "discrete_ebm"):
        check_training_data(de.Binary(4), de.Binary(4).enumerate(), 16)
        check_training_data(de.Binary(4), de.Binary(4).enumerate()[:1], 1)  # one row is a choice, not an accident
    assert not caplog.records


# -- learning back a known model ------------------------------------------------------------------------------------


def known_ising():
    coupling = torch.randn(7, 7, generator=generator(1)).mul(0.5).triu(1)
    return de.energies.Ising(coupling + coupling.T, 0.3 * torch.randn(7, generator=generator(2)))


SETTINGS = {
    "cd": {"n_steps": 5},
    "pcd": {"n_steps": 5, "bank_size": 1000},
    "short-run": {"n_steps": 20},
    "tempered-pcd": {"n_steps": 3, "bank_size": 500, "n_replicas": 4},
    "energy-discrepancy": {"noise": "bernoulli", "rate": 0.25},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DENSITY if name not in (*REAL, "concrete-score-matching")])
def test_a_known_ising_model_is_learned_back_from_its_draws(name):
    """20,000 exact draws: couplings' standard errors are near 0.01; bounds are 5 of them, 10 for what is sampled."""
    truth = known_ising()
    data = de.evaluate.exact(truth).sample(20_000, seed=0)
    energy = de.energies.Ising(torch.zeros(7, 7))
    de.fit(energy, data, create(name, **SETTINGS.get(name, {})), n_iterations=1500, batch_size=500, lr=0.02,
           decay="linear", ema=None, progress=False)  # fmt: skip
    with torch.no_grad():
        error = (energy.coupling_matrix() - truth.coupling_matrix()).triu(1)
    rmse = float(error.square().sum().div(21).sqrt())
    assert rmse < (0.1 if de.objectives.spec(name).needs_sampler else 0.05)


def test_centring_also_takes_one_hot_units():
    energy = de.energies.CategoricalRBM(3, 4, 2)
    centring.need_rbm(energy)
    data = energy.space.random(20, generator())
    objective = de.objectives.CD(sampler="gibbs", centre="data")
    loss = objective.loss(energy, data, objective.init(energy, data, generator=generator()), generator=generator()).loss
    assert all(p.shape == g.shape for p, g in zip(energy.parameters(), torch.autograd.grad(loss, energy.parameters()),
                                                  strict=True))  # fmt: skip
