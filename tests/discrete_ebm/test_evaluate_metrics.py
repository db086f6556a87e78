"""Figures of merit against their definitions: enumeration, plain loops, closed forms and other libraries."""

import itertools
import math
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import discrete_ebm as de
from discrete_ebm import energies as en
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import CapabilityError, NonFiniteEnergyError, SettingError, ShapeError, SpaceError
from discrete_ebm.evaluate import stein
from discrete_ebm.evaluate.two_sample import features
from tests import cases

F64 = torch.float64


def normal(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# -- pseudo-log-likelihood ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases.all_cases(), ids=lambda case: case.name)
def test_pseudo_log_likelihood_is_the_sum_of_enumerated_conditionals(case):
    x = case.x(np.arange(len(case.table)))
    found = de.evaluate.pseudo_log_likelihood(case.energy, x, chunk_size=3, max_states=5)
    rows = list(itertools.product(*map(range, case.radices)))
    number = {row: i for i, row in enumerate(rows)}
    expected = []
    for row in rows:
        total = 0.0
        for site, k in enumerate(case.radices):
            others = [case.table[number[(*row[:site], v, *row[site + 1:])]] for v in range(k)]
            total += -case.table[number[row]] - np.logaddexp.reduce(-np.array(others))
        expected.append(total)
    np.testing.assert_allclose(found.rows.numpy(), expected, atol=1e-9)
    assert found.bits_per_dim == pytest.approx(-np.mean(expected) / len(case.radices) / math.log(2), abs=1e-9)
    assert found.bound == "pseudo"


def test_pseudo_log_likelihood_is_the_log_likelihood_of_independent_sites():
    base = en.MeanField(de.Categorical(4, [2, 3, 4, 2]), normal(1, 4, 4))
    x = base.sample(20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(de.evaluate.pseudo_log_likelihood(base, x).rows, base.log_prob(x).double(), atol=1e-6)


# -- kernel Stein discrepancy ---------------------------------------------------------------------------------------


def loops(case, i, j):
    """κ between states i and j by loops over the definition, from the table of energies alone."""
    rows = list(itertools.product(*map(range, case.radices)))
    number = {row: at for at, row in enumerate(rows)}

    def moved(row, site, by):
        return (*row[:site], (row[site] + by) % case.radices[site], *row[site + 1:])

    def score(row):
        return np.array([1 - math.exp(case.table[number[row]] - case.table[number[moved(row, s, 1)]])
                         for s in range(len(row))])

    def kernel(x, y):
        return math.exp(-sum(p != q for p, q in zip(x, y, strict=True)) / len(x))

    x, y = rows[i], rows[j]
    sites = range(len(x))
    d_y = np.array([kernel(x, y) - kernel(x, moved(y, s, -1)) for s in sites])
    d_x = np.array([kernel(x, y) - kernel(moved(x, s, -1), y) for s in sites])
    trace = sum(kernel(x, y) - kernel(moved(x, s, -1), y) - kernel(x, moved(y, s, -1))
                + kernel(moved(x, s, -1), moved(y, s, -1)) for s in sites)
    return score(x) @ score(y) * kernel(x, y) - score(x) @ d_y - score(y) @ d_x + trace


@pytest.mark.parametrize("case", cases.all_cases(), ids=lambda case: case.name)
def test_the_stein_kernel_is_its_definition_and_has_mean_zero_under_the_law(case):
    x = case.x(np.arange(len(case.table)))
    kernel = stein.stein_kernel(case.energy, x, x).numpy()
    for i, j in [(0, 0), (1, 0), (0, len(x) - 1), (len(x) // 2, 1)]:
        assert kernel[i, j] == pytest.approx(loops(case, i, j), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-9)
    law = np.exp(-case.table - np.logaddexp.reduce(-case.table))
    assert np.abs(kernel @ law).max() < 1e-9 * np.abs(kernel).max()
    assert np.linalg.eigvalsh(kernel).min() > -1e-9 * np.abs(kernel).max()  # so that the discrepancy is never negative
    other = np.exp(-0.6 * case.table - 0.2 * np.arange(len(law)))
    other /= other.sum()
    assert other @ kernel @ other > 1e-4


@pytest.mark.mutants
@pytest.mark.parametrize("bug", ["sign of the score", "next for previous", "a constant in the score"])
def test_planted_bugs_give_the_stein_kernel_a_mean(bug):
    case = cases.potts()  # three values, so that next and previous differ
    x = case.x(np.arange(len(case.table)))
    law = torch.tensor(np.exp(-case.table - np.logaddexp.reduce(-case.table)))
    if bug == "sign of the score":
        patch = mock.patch.object(stein, "difference_scores", lambda *a, of=stein.difference_scores: -of(*a))
    elif bug == "next for previous":
        @torch.no_grad()
        def backwards(energy, states):
            space = energy.space
            before = (space.to_index(states) - 1) % space.n_values
            return 1 - torch.exp(-stein.all_site_changes(energy, states).gather(-1, before[..., None])[..., 0])
        patch = mock.patch.object(stein, "difference_scores", backwards)
    else:
        patch = mock.patch.object(stein, "difference_scores", lambda *a, of=stein.difference_scores: of(*a) + 0.01)
    with patch:
        assert float((stein.stein_kernel(case.energy, x, x) @ law).abs().max()) > 1e-3


def test_stein_discrepancy_of_draws_is_small_under_the_law_and_large_under_another():
    """U-statistics of 30 sets of 60 rows average to 0 within 5 standard errors; at half the coupling none is near."""
    energy = en.Ising.lattice((3, 3), torch.tensor(0.5, dtype=F64), 0.2)
    law, other = de.evaluate.exact(energy), de.evaluate.exact(energy, 0.5)
    found = [de.evaluate.kernel_stein_discrepancy(energy, law.sample(60, seed=i), n_bootstrap=200) for i in range(30)]
    values = torch.tensor([one.value for one in found])
    assert abs(values.mean()) < 5 * values.std() / math.sqrt(30)
    assert all(one.v_statistic >= 0 for one in found)
    # p-values are roughly uniform: fewer than 9 of 30 below 0.05 (a chance of 1e-5 if they were)
    assert sum(one.p_value < 0.05 for one in found) < 9
    wrong = [de.evaluate.kernel_stein_discrepancy(energy, other.sample(200, seed=i), n_bootstrap=200) for i in range(3)]
    for one in wrong:
        assert one.value > 5 * float(values.std())
        assert one.p_value < 0.01
        assert one.value > 3 * one.error


# -- maximum mean discrepancy ---------------------------------------------------------------------------------------


def test_mmd_is_unbiased_on_equal_laws_and_exact_in_the_mean_on_others():
    """Averages of 300 estimates within 5 standard errors of the enumerated squared distance."""
    one, two = (de.evaluate.exact(en.Ising.lattice(5, torch.tensor(j, dtype=F64), h))
                for j, h in ((0.4, 0.1), (1.0, 0.3)))
    kernel = de.evaluate.hamming_kernel(one.states, one.states)
    for other in (one, two):
        gap = one.probabilities - other.probabilities
        truth = float(gap @ kernel @ gap)
        found = torch.tensor([de.evaluate.squared_mmd(one.sample(25, seed=i), other.sample(30, seed=1000 + i))[0]
                              for i in range(300)])
        assert abs(float(found.mean()) - truth) < 5 * float(found.std()) / math.sqrt(300)


# -- classifier, moments, neighbours --------------------------------------------------------------------------------


def test_a_classifier_is_at_chance_on_equal_laws_and_above_it_on_others():
    one, two = (de.evaluate.exact(en.Ising.lattice((2, 4), torch.tensor(j, dtype=F64))) for j in (0.1, 1.0))
    nearest = KNeighborsClassifier(15)
    same = de.evaluate.classifier_two_sample_test(one.space, one.sample(400, 1), one.sample(400, 2), classifier=nearest)
    assert abs(same.accuracy - 0.5) < 5 * same.error
    apart = de.evaluate.classifier_two_sample_test(one.space, two.sample(400, 1), one.sample(500, 2))
    assert apart.n_test == 400
    assert apart.accuracy > 0.5 + 5 * apart.error
    assert apart.p_value < 1e-6
    assert apart.auroc > 0.6

    class Blind:
        def fit(self, inputs, labels):
            assert len(inputs) == len(labels) == 400

        def predict_proba(self, inputs):
            return np.full((len(inputs), 2), 0.5)

    blind = de.evaluate.classifier_two_sample_test(one.space, two.sample(400), one.sample(400), classifier=Blind())
    assert (blind.accuracy, blind.auroc, blind.p_value) == (0.5, 0.5, 0.5)


def test_the_classifier_says_what_to_install():
    x = torch.ones(30, 4, dtype=torch.int8)
    with mock.patch.dict(sys.modules, {"sklearn.ensemble": None}), pytest.raises(CapabilityError, match="pip install"):
        de.evaluate.classifier_two_sample_test(de.Binary(4), x, x)


def test_moments_are_numpys_and_their_errors_are_those_of_the_spread():
    law = de.evaluate.exact(en.Potts.lattice(3, normal(1, 3), 3, normal(2, 3, 3)))
    sets = [law.sample(200, seed=i) for i in range(120)]
    f = features(law.space, sets[0])
    index = law.space.to_index(sets[0])
    for site, value in itertools.product(range(3), (1, 2)):
        assert torch.equal(f[:, 2 * site + value - 1], (index[:, site] == value).double())
    gap = de.evaluate.compare_moments(law.space, sets[0], sets[1])
    g = features(law.space, sets[1]).numpy()
    np.testing.assert_allclose(gap["marginals"].difference, f.numpy().mean(0) - g.mean(0), atol=1e-12)
    np.testing.assert_allclose(gap["covariances"].difference, np.cov(f.numpy().T) - np.cov(g.T), atol=1e-12)
    pairs = [de.evaluate.compare_moments(law.space, a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    for kind in ("marginals", "covariances"):  # equal laws: differences are as large as their errors say
        spread = torch.stack([pair[kind].difference for pair in pairs]).std(0)
        said = torch.stack([pair[kind].error for pair in pairs]).mean(0)
        assert 0.75 < float((spread / said).mean()) < 1.25
        assert np.mean([pair[kind].rms / pair[kind].rms_by_chance for pair in pairs]) == pytest.approx(1.0, abs=0.2)
    other = de.evaluate.exact(en.Potts.lattice(3, normal(1, 3), 3, normal(5, 3, 3))).sample(200)
    assert de.evaluate.compare_moments(law.space, other, sets[0])["marginals"].largest_z > 5


def test_memorised_rows_are_found_and_fresh_ones_are_not_accused():
    law = de.evaluate.exact(en.Ising.lattice((4, 4), torch.tensor(0.2, dtype=F64)))
    train, held_out, fresh = (law.sample(300, seed=i) for i in range(3))
    honest = de.evaluate.nearest_neighbours(law.space, fresh, train, held_out)
    assert abs(honest.z) < 5
    copied = train[torch.arange(150)].clone()
    copied[:, 0, 0] *= -1
    thief = de.evaluate.nearest_neighbours(law.space, torch.cat((copied, train[:50])), train, held_out)
    assert thief.z < -6
    assert thief.copies >= 0.25
    strange = de.evaluate.exact(en.Ising.lattice((4, 4), torch.tensor(-0.7, dtype=F64))).sample(300)
    assert de.evaluate.nearest_neighbours(law.space, strange, train, held_out).z > 5
    few = [(int((a != b).sum()), j) for a in fresh[:3] for j, b in enumerate(train)]
    for i in range(3):
        distances = [d for d, _ in few[i * 300:(i + 1) * 300]]
        assert honest.distance[i] == min(distances)
        assert distances[int(honest.index[i])] == min(distances)
    alone = de.evaluate.nearest_neighbours(law.space, fresh, train)
    assert math.isnan(alone.z)
    assert alone.copies == honest.copies


# -- ranks ----------------------------------------------------------------------------------------------------------


def test_auroc_is_scikit_learns_with_scipys_test_and_a_true_error():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 60) + 1, rng.integers(0, 9, 40)  # many ties
    found = de.evaluate.auroc(a, b)
    assert found.value == pytest.approx(roc_auc_score(np.r_[np.ones(60), np.zeros(40)], np.r_[a, b]), abs=1e-12)
    tested = stats.mannwhitneyu(a, b, use_continuity=False, method="asymptotic")
    assert 2 * stats.norm.sf(abs(found.z)) == pytest.approx(tested.pvalue, rel=1e-9)
    many = [de.evaluate.auroc(rng.normal(0.5, 1, 60), rng.normal(0, 1, 40)) for _ in range(400)]
    assert np.mean([one.error for one in many]) == pytest.approx(np.std([one.value for one in many]), rel=0.15)
    assert de.evaluate.auroc([1.0, 1.0], [1.0, 1.0]).z == 0
    assert de.evaluate.auroc([3.0, 4.0], [1.0, 2.0]).value == 1


def test_outsiders_have_the_higher_energy():
    energy = en.Ising.lattice((4, 4), torch.tensor(0.6, dtype=F64))
    inside = de.evaluate.exact(energy).sample(200)
    noise = energy.space.random(300, torch.Generator().manual_seed(0))
    found = de.evaluate.out_of_distribution(energy, inside, noise)
    scores = torch.cat([evaluate_energy(energy, x).detach() for x in (noise, inside)]).numpy()
    assert found.value == pytest.approx(roc_auc_score(np.r_[np.ones(300), np.zeros(200)], scores), abs=1e-12)
    assert found.value > 0.9
    assert de.evaluate.out_of_distribution(-energy, inside, noise).value == pytest.approx(1 - found.value, abs=1e-12)


# -- imputation -----------------------------------------------------------------------------------------------------


def test_imputed_values_follow_the_exact_conditional_law():
    """Shares of 64 chains × 300 draws of two hidden sites within 0.03 of the enumerated conditionals."""
    energy = en.Potts.lattice(4, normal(1, 4), 3, normal(2, 4, 3))
    law = de.evaluate.exact(energy)
    x = law.sample(5, seed=3)
    hidden = torch.tensor([False, True, True, False])
    found = de.evaluate.imputation_accuracy(energy, x, hidden, n_chains=64, n_steps=400, burn_in=100, seed=1)
    right, loss, drawn = [], [], []
    for row in range(5):
        agree = (law.states[:, [0, 3]] == x[row, [0, 3]]).all(1)
        p = law.probabilities * agree
        for site in (1, 2):
            marginal = torch.stack([p[law.states[:, site] == v].sum() for v in range(3)]) / p.sum()
            assert torch.allclose(found.probabilities[row, site], marginal, atol=0.03)
            right.append(float(marginal.argmax() == x[row, site]))
            drawn.append(float(marginal[x[row, site].long()]))
            loss.append(-math.log(drawn[-1]))
        assert found.probabilities[row, 0, x[row, 0].long()] == 1  # what was seen stays
    assert found.n_hidden == 10
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.draw_accuracy == pytest.approx(np.mean(drawn), abs=0.03)
    assert found.log_loss == pytest.approx(np.mean(loss), abs=0.1)


def test_a_share_hides_as_many_sites_of_every_row():
    energy = en.Ising.lattice((3, 3), torch.tensor(0.3, dtype=F64))
    found = de.evaluate.imputation_accuracy(energy, torch.ones(6, 3, 3, dtype=torch.int8), 0.34, n_steps=4)
    assert found.hidden.sum(1).tolist() == [3] * 6
    assert not torch.equal(found.hidden[0], found.hidden[1]) or not torch.equal(found.hidden[0], found.hidden[2])


# -- likelihoods by any log Z ----------------------------------------------------------------------------------------


def test_log_likelihood_takes_exact_and_annealed_results_and_numbers():
    energy = en.Ising.lattice((2, 3), torch.tensor(0.4, dtype=F64))
    law = de.evaluate.exact(energy)
    x = law.sample(10)
    for log_z in (law, law.log_z):
        found = de.evaluate.log_likelihood(energy, x, log_z)
        assert torch.allclose(found.rows, law.log_prob(evaluate_energy(energy, x).detach()))
        assert (found.bound, found.log_z_error) == ("exact", 0.0)
        assert "bits/dim" in str(found)
    half = de.evaluate.exact(energy, 0.5)
    assert torch.allclose(de.evaluate.log_likelihood(energy, x, half).rows,
                          half.log_prob(evaluate_energy(energy, x).detach()))
    forward = de.evaluate.ais(energy, 20, 20)
    assert de.evaluate.log_likelihood(energy, x, forward).bound == "upper"
    with pytest.raises(SettingError, match="`log_z`"):
        de.evaluate.log_likelihood(energy, x, "exact")


ISING = en.Ising.lattice((3, 3), 0.4)
X = torch.ones(30, 3, 3, dtype=torch.int8)
REAL = en.MLPEnergy(de.Real(2))


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: de.evaluate.pseudo_log_likelihood(REAL, torch.zeros(2, 2)), CapabilityError, "discrete"),
    (lambda: de.evaluate.pseudo_log_likelihood(ISING, X[:0]), ShapeError, "at least one row"),
    (lambda: de.evaluate.pseudo_log_likelihood(ISING, X * 3), SpaceError, "−1 and"),
    (lambda: de.evaluate.kernel_stein_discrepancy(REAL, torch.zeros(5, 2)), CapabilityError, "discrete"),
    (lambda: de.evaluate.kernel_stein_discrepancy(ISING, X[:2]), ShapeError, "at least 3 rows"),
    (lambda: de.evaluate.kernel_stein_discrepancy(1e4 * ISING, torch.cat((X[:3], -X[:1] * torch.eye(3).sign()
                                                                           .where(torch.eye(3) > 0, -1).to(X)))),
     NonFiniteEnergyError, "finite ratios"),
    (lambda: de.evaluate.classifier_two_sample_test(de.Spin((3, 3)), X[:5], X), ShapeError, "at least 20"),
    (lambda: de.evaluate.classifier_two_sample_test(de.Spin((3, 3)), X, X, test_share=1.0), SettingError, "test_share"),
    (lambda: de.evaluate.compare_moments(de.Spin((3, 3)), X[:2], X), ShapeError, "at least 3"),
    (lambda: de.evaluate.nearest_neighbours(de.Spin((3, 3)), X, X[:0]), ShapeError, "a row each"),
    (lambda: de.evaluate.auroc([1.0], [2.0, 3.0]), ShapeError, "at least 2"),
    (lambda: de.evaluate.auroc([1.0, math.nan], [2.0, 3.0]), NonFiniteEnergyError, "NaN"),
    (lambda: de.evaluate.imputation_accuracy(ISING, X, 1.5), SettingError, "between 0 and 1"),
    (lambda: de.evaluate.imputation_accuracy(ISING, X, torch.zeros(3, 3) > 0), SettingError, "at least one"),
    (lambda: de.evaluate.imputation_accuracy(ISING, X, torch.ones(2, 2)), ShapeError, "bool mask"),
    (lambda: de.evaluate.imputation_accuracy(REAL, torch.zeros(3, 2)), CapabilityError, "discrete"),
])
def test_refusals_are_sentences(call, error, words):
    with pytest.raises(error, match=words):
        call()
