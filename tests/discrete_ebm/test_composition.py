"""AND, OR, NOT over energies of any space: the formulas, exact laws, chains, conditions, files, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import discrete_ebm as de
import graph_ebm as ge
from discrete_ebm import checkpoint
from discrete_ebm import energies as en
from discrete_ebm.datasets import densities
from discrete_ebm.errors import SettingError, SpaceError
from graph_ebm.energies import ComposedEnergy, LocalEnergy
from tests.random_energies import rbm_model
from tests.statistical import assert_law


def log_laws():
    """Two RBMs on 2 x 2 bits by enumeration: energies and log probabilities, float64 NumPy."""
    one, two = rbm_model(2, 2), rbm_model(2, 3)
    x = one.space.enumerate()
    values = [en.evaluate_energy(energy, x).detach().numpy() for energy in (one, two)]
    return one, two, x, *values


COMPOSED = {
    "and": (lambda a, b: en.conjunction([a, b]), lambda a, b: a + b),
    "and, weighted": (lambda a, b: en.conjunction([a, b], [2.0, 0.5], [1.0, 2.0]), lambda a, b: 2 * a + 0.25 * b),
    "and, less the base": (lambda a, b: en.conjunction([a, b], [2.0, 1.0], base=b), lambda a, b: 2 * a + b - 2 * b),
    "and, own base weight": (lambda a, b: en.conjunction([a], base=b, base_weight=0.3), lambda a, b: a - 0.3 * b),
    "or": (lambda a, b: en.disjunction([a, b]), lambda a, b: -np.log(np.exp(-a) + np.exp(-b))),
    "or, of laws": (
        lambda a, b: en.disjunction([a, b], [0.2, 0.8], [1.0, 2.0], log_z=[3.0, -1.0]),
        lambda a, b: -np.log(0.2 * np.exp(-a - 3.0) + 0.8 * np.exp(-b / 2 + 1.0)),
    ),
    "not": (lambda a, b: en.negation(a, b, 0.7), lambda a, b: a - 0.7 * b),
    "not, bounded": (lambda a, b: en.negation(a, b, 0.7, level=1.5), lambda a, b: a + 0.7 * np.log1p(np.exp(1.5 - b))),
    "and not or": (
        lambda a, b: en.negation(en.disjunction([a, b]), en.conjunction([a, b]), level=0.0),
        lambda a, b: -np.log(np.exp(-a) + np.exp(-b)) + np.log1p(np.exp(-a - b)),
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_every_composition_is_its_formula_in_energies_flips_and_file(name, tmp_path):
    one, two, x, a, b = log_laws()
    build, formula = COMPOSED[name]
    energy, wanted = build(one, two), torch.as_tensor(formula(a, b))
    torch.testing.assert_close(en.evaluate_energy(energy, x), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energy(energy.space.encode_as(x, torch.float64)), wanted, rtol=1e-9, atol=1e-9)
    index = energy.space.to_index(x)
    for site in range(energy.space.n_sites):
        flipped = index.clone()
        flipped[:, site] = 1 - flipped[:, site]
        change = en.evaluate_energy(energy, energy.space.from_index(flipped)) - wanted
        found = energy.flip_deltas(x)[torch.arange(len(x)), site, flipped[:, site]]
        torch.testing.assert_close(found, change, rtol=1e-8, atol=1e-8)
    checkpoint.save(energy, tmp_path / "energy.safetensors")
    again = checkpoint.load(tmp_path / "energy.safetensors")
    torch.testing.assert_close(en.evaluate_energy(again, x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["and not or", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "and, less the base", "or, of laws"))])  # fmt: skip
def test_chains_of_a_composition_draw_its_exact_law(name):
    """One χ² test of independent chains' last states each; a false failure in 1e7."""
    one, two, x, a, b = log_laws()
    build, formula = COMPOSED[name]
    law = np.exp(-formula(a, b))
    chains = de.sample(build(one, two), "gwg", n_chains=4000, n_steps=60, seed=3)
    place = (chains.last.flatten(1).long() @ (2 ** torch.arange(x[0].numel() - 1, -1, -1))).numpy()
    order = (x.flatten(1).long() @ (2 ** torch.arange(x[0].numel() - 1, -1, -1))).numpy()
    counts = np.bincount(place, minlength=len(x))[order]
    assert_law(counts, law / law.sum(), false_fail=1e-7, must_see=0.2)


def test_a_disjunction_of_laws_has_its_proportions_and_responsibilities():
    """Real: two Gaussians whose energies were shifted by 5 nats; with log_z the shift does not matter."""
    left, right = (densities.GaussianMixture([[at, 0.0]], 0.25) for at in (-2.0, 2.0))
    shifted = de.from_callable(lambda x: right(x) - 5.0, right.space)
    law = de.evaluate.quadrature(shifted, 100)
    both = en.disjunction([left, shifted], [0.3, 0.7], log_z=[0.0, law.log_z])
    found = de.evaluate.quadrature(both, 100)
    assert found.log_z == pytest.approx(0.0, abs=1e-9)
    assert float(found.mass[found.points[:, 0] < 0].sum()) == pytest.approx(0.3, abs=1e-4)
    naive = de.evaluate.quadrature(en.disjunction([left, shifted]), 100)
    assert float(naive.mass[naive.points[:, 0] < 0].sum()) == pytest.approx(1 / (1 + math.exp(5)), abs=1e-4)
    shares = both.responsibilities(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 0.0]]))
    assert torch.allclose(shares.sum(1), torch.ones(3).to(shares))
    assert float(shares[2, 0]) == pytest.approx(0.3, abs=1e-4)


def test_a_conjunction_of_gaussians_is_the_gaussian_of_added_precisions_and_hmc_draws_it():
    one = densities.GaussianMixture([[-1.0, 0.0]], 0.8)
    two = densities.GaussianMixture([[1.0, 1.0]], 0.4)
    both = en.conjunction([one, two])
    mean, covariance = de.evaluate.quadrature(both, 200).moments()
    precision = 1 / 0.64 + 1 / 0.16
    wanted = (np.array([-1.0, 0.0]) / 0.64 + np.array([1.0, 1.0]) / 0.16) / precision
    np.testing.assert_allclose(mean.numpy(), wanted, atol=1e-8)
    np.testing.assert_allclose(covariance.numpy(), np.eye(2) / precision, atol=1e-8)
    chains = de.sample(both, "hmc", n_chains=400, n_steps=60, seed=0)
    error = math.sqrt(1 / precision / 400)
    assert (chains.last.mean(0) - torch.tensor(wanted)).abs().max() < 5.5 * error  # a false failure in 1e7


def test_the_bounded_negation_is_a_law_where_the_plain_one_is_not():
    """Unbounded line, N(0, 1) and not N(0, 2²): the plain form with strength 5 grows without end."""
    space = de.Real(1)
    narrow = de.from_callable(lambda x: x.square().sum(1) / 2, space)
    wide = de.from_callable(lambda x: x.square().sum(1) / 8, space)
    far = torch.tensor([[0.0], [30.0]])
    plain = en.negation(narrow, wide, 5.0)(far)
    bounded = en.negation(narrow, wide, 5.0, level=2.0)(far)
    assert plain[1] < plain[0]
    assert bounded[1] > bounded[0] + 400
    assert (bounded >= narrow(far)).all()


def test_conditional_experts_compose_each_chain_under_its_own_conditions():
    space = de.Real(2)
    place = en.ConditionalEnergy(lambda x, c: 2 * (x - c).square().sum(1), space)
    other = en.ConditionalEnergy(lambda x, c: (x - c).square().sum(1), space)
    where = torch.tensor([[0.0, 0.0], [3.0, 3.0], [-3.0, 0.0]])
    both = en.conjunction([place.given(where), other.given(torch.zeros(1, 2))])
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    wanted = 2 * (x - where).square().sum(1) + x.square().sum(1)
    torch.testing.assert_close(both(x), wanted)
    chains = de.sample(both, "hmc", n_chains=3, n_steps=120, burn_in=60, seed=0)
    error = math.sqrt(1 / 6 / 15)  # of 15 independent draws, fewer than there are
    assert (chains.x.mean(0) - 2 * where / 3).abs().max() < 5.5 * error


def test_molecular_energies_compose_like_any_others_and_experts_are_sums():
    molecules, _ = ge.from_smiles(["CCO", "CCN", "CCC", "OCCO", "CC(C)O"])
    space = molecules.space
    experts = []
    for seed in range(3):
        expert = LocalEnergy(space)
        with torch.no_grad():
            for part in expert.parameters():
                part.normal_(generator=torch.Generator().manual_seed(seed))
        experts.append(expert)
    x = molecules.x
    a, b, c = (expert.state_energy(x) for expert in experts)
    composed = ComposedEnergy(experts[:2], [1.0, 0.5], experts[2], temperatures=[2.0, 1.0])
    plain = en.conjunction(experts[:2], [1.0, 0.5], [2.0, 1.0], base=experts[2])
    torch.testing.assert_close(composed.state_energy(x), 0.5 * a + 0.5 * b)
    torch.testing.assert_close(en.evaluate_energy(plain, x), 0.5 * a + 0.5 * b + 0 * c)
    either = en.disjunction(experts[:2])
    torch.testing.assert_close(en.evaluate_energy(either, x), -torch.logaddexp(-a, -b))
    unlike = en.negation(experts[0], experts[1], level=0.0)
    torch.testing.assert_close(unlike(space.encode(x)), a + torch.nn.functional.softplus(-b), rtol=1e-4, atol=1e-4)


def test_adding_scores_of_blurred_laws_is_not_the_blurred_product():
    """In one dimension, two Gaussians of different widths: products blur to another width than the added scores say."""
    s1, s2, sigma = 0.5, 2.0, 1.0
    product = 1 / (1 / s1**2 + 1 / s2**2)
    true = 1 / (product + sigma**2)
    added = 1 / (s1**2 + sigma**2) + 1 / (s2**2 + sigma**2)
    one, two = (densities.GaussianMixture([[0.0]], s, edge=None) for s in (s1, s2))
    x = torch.tensor([[1.0]])
    assert float(one.blurred(sigma).score(x) + two.blurred(sigma).score(x)) == pytest.approx(-added, rel=1e-6)
    both = densities.GaussianMixture([[0.0]], math.sqrt(product), edge=None)
    assert float(both.blurred(sigma).score(x)) == pytest.approx(-true, rel=1e-6)
    assert added > 1.2 * true


@pytest.mark.parametrize(("build", "error", "words"), [
    (lambda a, b: en.conjunction([]), SettingError, "at least one"),
    (lambda a, b: en.conjunction([a, b], [1.0]), SettingError, "`weights`"),
    (lambda a, b: en.conjunction([a, b], temperatures=[1.0, 0.0]), SettingError, "`temperatures`"),
    (lambda a, b: en.conjunction([a], base=b, base_weight=math.nan), SettingError, "`base_weight`"),
    (lambda a, b: en.disjunction([a, b], [1.0, -1.0]), SettingError, "`proportions`"),
    (lambda a, b: en.disjunction([a, b], log_z=[0.0, math.inf]), SettingError, "`log_z`"),
    (lambda a, b: en.Mixture([a, b], [1.0, 1.0], log_weights=[0.0, 0.0]), SettingError, "`log_weights`"),
    (lambda a, b: en.negation(a, b, -1.0), SettingError, "`strength`"),
    (lambda a, b: en.Exclusion(a, b, level=math.inf), SettingError, "`level`"),
    (lambda a, b: en.disjunction([a, en.MLPEnergy(de.Real(2))]), SpaceError, "one space"),
])  # fmt: skip
def test_wrong_compositions_get_a_sentence(build, error, words):
    with pytest.raises(error, match=words):
        build(rbm_model(2, 2), rbm_model(2, 3))
