"""Objectives without chains: values and gradients are those of the papers' formulas, the truth is their minimum."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import discrete_ebm as de
from discrete_ebm.energies.base import Energy, evaluate_energy
from discrete_ebm.objectives import changes, noise, noise_contrast, pseudo_likelihood, ratios
from discrete_ebm.objectives.noise import default_rate, make_noise, site_frequencies
from tests import cases, reference
from tests import reference_objectives as exact
from tests.statistical import assert_rows_match

FALSE_FAIL = 1e-7  # of each statistical test here; there are fewer than 40
RADICES = {"binary": (2, 2, 2, 2), "spin": (2, 2, 2), "ragged": (2, 4, 3), "ordinal": (4, 3)}
SPACES = {
    "binary": de.Binary((2, 2)),
    "spin": de.Spin(3),
    "ragged": de.Categorical(3, [2, 4, 3]),
    "ordinal": de.Product({"a": de.Ordinal(1, [-1.0, 0.0, 0.5, 2.0]), "b": de.Categorical(1, 3)}),
}


class Table(Energy):
    """One free number a state: its gradient shows each state's own share in an objective."""

    def __init__(self, space, values):
        super().__init__(space)
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, encoding):
        index = self.space.to_index(self.space.decode(encoding))
        code = torch.zeros(len(index), dtype=torch.int64)
        for site, k in enumerate(self.space.n_values.tolist()):
            code = code * k + index[:, site]
        return self.values[code]


def table(kind, seed=0):
    """An energy, its table, and data whose exact law is ``counts / counts.sum()``."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.8, len(reference.states(RADICES[kind])))
    counts = rng.integers(1, 5, len(values))
    energy = Table(SPACES[kind], values)
    data = energy.space.enumerate().repeat_interleave(torch.tensor(counts), dim=0)
    return energy, values, counts / counts.sum(), data


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def value_and_gradient(objective, energy, data, seed=0):
    g = generator(seed)
    loss = objective.loss(energy, data, objective.init(energy, data, generator=g), generator=g).loss
    (gradient,) = torch.autograd.grad(loss, [energy.values])
    return loss.item(), gradient.numpy()


EXACT = {
    "pseudo-likelihood": (lambda kind: de.objectives.PseudoLikelihood(), lambda kind: exact.pseudo_likelihood),
    "concrete all": (lambda kind: de.objectives.ConcreteScoreMatching(),
                     lambda kind: exact.concrete_score_matching),
    "concrete cyclic": (lambda kind: de.objectives.ConcreteScoreMatching(neighbours="cyclic"),
                        lambda kind: lambda *a: exact.concrete_score_matching(*a, "cyclic")),
    "concrete ordinal": (lambda kind: de.objectives.ConcreteScoreMatching(neighbours="ordinal"),
                         lambda kind: lambda *a: exact.concrete_score_matching(*a, "ordinal")),
    "flow": (lambda kind: de.objectives.ProbabilityFlow(), lambda kind: exact.probability_flow),
    "flow cyclic": (lambda kind: de.objectives.ProbabilityFlow(neighbours="cyclic"),
                    lambda kind: lambda *a: exact.probability_flow(*a, "cyclic")),
    "ratio matching": (lambda kind: de.objectives.RatioMatching(), lambda kind: exact.ratio_matching),
}  # fmt: skip


def differs(name, kind, **settings):
    """How far an objective is from the formula: value and gradient, both relative to their size."""
    energy, values, p, data = table(kind)
    objective = de.objectives.create(name, **settings) if isinstance(name, str) and name in de.objectives.names() else (
        EXACT[name][0](kind))
    formula = EXACT[name][1](kind)
    value, gradient = value_and_gradient(objective, energy, data)
    wanted = formula(values, p, RADICES[kind])
    slope = exact.table_gradient(lambda v: formula(v, p, RADICES[kind]), values)
    return max(abs(value - wanted) / abs(wanted), np.abs(gradient - slope).max() / np.abs(slope).max())


@pytest.mark.parametrize("kind", RADICES)
@pytest.mark.parametrize("name", EXACT)
def test_value_and_gradient_are_those_of_the_papers_formula(name, kind):
    if name == "ratio matching" and max(RADICES[kind]) > 2:
        pytest.skip("two values a site only")
    assert differs(name, kind) < 1e-8


@pytest.mark.parametrize("kind", ["binary", "ragged"])
def test_pieces_of_bounded_memory_change_nothing(kind):
    energy, _, _, data = table(kind)
    whole = value_and_gradient(de.objectives.PseudoLikelihood(), energy, data)
    pieces = value_and_gradient(de.objectives.PseudoLikelihood(max_states=7), energy, data)
    assert pieces[0] == pytest.approx(whole[0], rel=1e-12)
    assert np.allclose(pieces[1], whole[1], rtol=1e-12)


def test_pieces_are_never_larger_than_asked():
    energy, _, _, data = table("ragged")
    sizes = []
    handle = energy.register_forward_pre_hook(lambda module, args: sizes.append(len(energy.space.decode(args[0]))))
    value_and_gradient(de.objectives.PseudoLikelihood(max_states=7), energy, data)
    handle.remove()
    assert sorted(set(sizes))[-2] <= 7  # the largest is the batch itself


# -- closed forms ----------------------------------------------------------------------------------------------------


def gradients(energy, loss):
    found = torch.autograd.grad(loss, list(energy.parameters()), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                      for g, p in zip(found, energy.parameters(), strict=True)])  # fmt: skip


CLOSED = {
    "ising dense": lambda: cases.ising_dense().energy,
    "ising lattice": lambda: cases.ising_lattice((2, 3)).energy,
    "potts": lambda: cases.potts().energy,
    "rbm": lambda: cases.rbm().energy,
    "sum": lambda: cases.rbm().energy + 0.5 * cases.rbm().energy,
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("objective", ["pseudo-likelihood", "concrete-score-matching", "probability-flow"])
def test_closed_forms_and_evaluated_flips_agree(name, objective):
    energy = CLOSED[name]()
    data = energy.space.random(20, generator())
    found = []
    for closed in (True, False):
        one = de.objectives.create(objective, closed_form=closed)
        state = one.init(energy, data, generator=generator())
        assert (state.form is not None) == closed
        loss = one.loss(energy, data, state, generator=generator()).loss
        found.append((loss.detach(), gradients(energy, loss)))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-10)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-8, atol=1e-12)


def test_conditionals_serve_where_there_are_no_flip_deltas():
    energy = cases.potts().energy

    class Conditional(Energy):
        def __init__(self):
            super().__init__(energy.space)
            self.inner = energy

        def forward(self, encoding):
            return self.inner(encoding)

        def conditional_logits(self, x, sites):
            return self.inner.conditional_logits(x, sites)

    other, data = Conditional(), energy.space.random(20, generator())
    one = de.objectives.PseudoLikelihood()
    state = one.init(other, data, generator=generator())
    assert state.form == "conditional_logits"
    ours = one.loss(other, data, state, generator=generator()).loss
    theirs = one.loss(energy, data, one.init(energy, data, generator=generator()), generator=generator()).loss
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("fault", ["no graph", "one member only"])
def test_a_closed_form_that_misses_parameters_is_not_used(fault):
    inner, extra = cases.ising_dense().energy, cases.ising_dense().energy

    class Faulty(Energy):
        def __init__(self):
            super().__init__(inner.space)
            self.inner, self.extra = inner, extra

        def forward(self, encoding):
            return self.inner(encoding) + self.extra(encoding)

        def flip_deltas(self, x):
            with torch.no_grad():
                known = self.extra.flip_deltas(x)
            if fault == "no graph":
                with torch.no_grad():
                    return self.inner.flip_deltas(x) + known
            return self.inner.flip_deltas(x) + known

    energy = Faulty()
    assert changes.closed_form(energy, energy.space.random(1, generator())) is None


def test_a_constant_in_the_energy_does_not_hide_the_closed_form():
    inner = cases.ising_dense().energy

    class Shifted(Energy):
        def __init__(self):
            super().__init__(inner.space)
            self.inner, self.shift = inner, nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

        def forward(self, encoding):
            return self.inner(encoding) + self.shift

        def flip_deltas(self, x):
            return self.inner.flip_deltas(x)

    energy = Shifted()
    assert changes.closed_form(energy, energy.space.random(1, generator())) == "flip_deltas"


# -- the truth is the minimum ----------------------------------------------------------------------------------------


def truths():
    rng = np.random.default_rng(5)
    coupling = np.triu(rng.normal(0, 0.5, (6, 6)), 1)
    yield "ising", de.energies.Ising(torch.tensor(coupling + coupling.T), torch.tensor(rng.normal(0, 0.4, 6)))
    yield "potts", de.energies.Potts.lattice((2, 2), torch.tensor(rng.normal(0, 0.8, 4)), 3,
                                             torch.tensor(rng.normal(0, 0.5, (4, 3))), periodic=False)  # fmt: skip


TRUTHS = dict(truths())


def population_gradient(energy, objective, p):
    """Σ_x p(x) ∇ loss of x alone: the gradient when data are the law p itself."""
    states = energy.space.enumerate()
    state = objective.init(energy, states, generator=generator())
    losses = torch.stack([objective.loss(energy, x[None], state, generator=generator()).loss for x in states])
    return gradients(energy, (p * losses).sum())


@pytest.mark.parametrize("model", TRUTHS)
@pytest.mark.parametrize("name", ["pseudo-likelihood", "concrete-score-matching", "probability-flow", "ratio-matching"])
def test_the_population_gradient_vanishes_at_the_true_parameters_and_only_there(model, name):
    energy = TRUTHS[model]
    if name == "ratio-matching" and model == "potts":
        pytest.skip("two values a site only")
    objective = de.objectives.create(name)
    p = torch.softmax(-evaluate_energy(energy, energy.space.enumerate()).detach(), 0)
    at_truth = population_gradient(energy, objective, p)
    assert float(at_truth.abs().max()) < 1e-12
    moved = torch.nn.utils.parameters_to_vector(energy.parameters()).detach().clone()
    away = moved + 0.3 * torch.randn(moved.shape, generator=generator(1), dtype=moved.dtype)
    try:
        torch.nn.utils.vector_to_parameters(away, energy.parameters())
        slope = population_gradient(energy, objective, p)
        assert float((slope @ (away - moved)).detach()) > 1e-3  # it points back to the truth
    finally:
        torch.nn.utils.vector_to_parameters(moved, energy.parameters())


@pytest.mark.parametrize("kind", ["bernoulli", "grid", "cyclic", "ordinal", "absorbing"])
@pytest.mark.parametrize("m", [1, 2])
def test_stabilised_energy_discrepancy_has_the_truth_as_its_minimum_for_every_number_of_samples(kind, m):
    values = np.random.default_rng(2).normal(0, 0.8, 12)
    p = np.exp(-values) / np.exp(-values).sum()
    forward, back = exact.round_trip(kind, (3, 4), 0.4)
    slope = exact.table_gradient(lambda v: exact.discrepancy(v, p, forward, back, m, 1.0), values)
    assert np.abs(slope).max() < 1e-6
    unstable = exact.table_gradient(lambda v: exact.discrepancy(v, p, forward, back, m, 0.0), values)
    assert np.abs(unstable).max() > 1e-3  # without the stabiliser a finite number of samples is biased


@pytest.mark.parametrize("kind", ["bernoulli", "grid", "cyclic", "ordinal", "absorbing"])
def test_exact_energy_discrepancy_has_the_truth_as_its_minimum(kind):
    values = np.random.default_rng(2).normal(0, 0.8, 12)
    p = np.exp(-values) / np.exp(-values).sum()
    forward, back = exact.round_trip(kind, (3, 4), 0.4)
    assert np.abs(exact.table_gradient(lambda v: exact.discrepancy_exact(v, p, forward, back), values)).max() < 1e-6


def test_cnce_has_the_truth_as_its_minimum_also_for_noise_that_is_not_symmetric():
    values = np.random.default_rng(2).normal(0, 0.8, 12)
    p = np.exp(-values) / np.exp(-values).sum()
    matrix = exact.marginal_matrix([np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.2, 0.3, 0.4])], 0.4)
    assert np.abs(exact.table_gradient(lambda v: exact.cnce(v, p, matrix), values)).max() < 1e-6


def test_the_exponential_form_of_ratio_matching_finds_the_fourth_root_of_the_law():
    values = np.random.default_rng(2).normal(0, 0.8, 16)
    p = np.exp(-values) / np.exp(-values).sum()

    def slope(v):
        return np.abs(exact.table_gradient(lambda u: exact.ratio_matching_exponential(u, p, (2,) * 4), v)).max()

    assert slope(values / 4) < 1e-6
    assert slope(values) > 0.1


# -- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bernoulli", "grid", "cyclic", "ordinal"])
@pytest.mark.parametrize("space", ["binary", "ragged"])
def test_perturbations_follow_their_matrix(kind, space, seed):
    radices, where = RADICES[space], SPACES[space]
    rate = None if kind == "grid" else 0.3
    made = make_noise(kind, rate, where, where.enumerate(), torch.device("cpu"))
    index = torch.tensor(reference.states(radices))
    number = reference.row_number(radices)
    counts = np.zeros((len(index), len(index)))
    drawn = made.perturb(index.repeat_interleave(6000, dim=0), generator(seed)).view(len(index), 6000, -1)
    for row in range(len(index)):
        found, how_often = np.unique(drawn[row].numpy(), axis=0, return_counts=True)
        for state, n in zip(found, how_often, strict=True):
            counts[row, number[tuple(state)]] += n
    assert_rows_match(counts, exact.noise_matrix(kind, radices, rate or 0), false_fail=FALSE_FAIL, must_see=0.08)
    assert float(made.log_ratio(index, index.flip(0)).abs().max()) == 0


def test_marginal_noise_follows_the_data_and_knows_its_asymmetry(seed):
    space, radices = SPACES["ragged"], RADICES["ragged"]
    data = space.random(50, generator(3))
    frequencies = site_frequencies(space, data)
    columns = data.numpy()
    for site, k in enumerate(radices):
        wanted = (np.bincount(columns[:, site], minlength=k)[:k] + 1 / k) / (len(data) + 1)
        assert np.allclose(frequencies[site, :k].numpy(), wanted)
    matrix = exact.marginal_matrix([frequencies[i, :k].numpy() for i, k in enumerate(radices)], 0.4)
    made = make_noise("marginal", 0.4, space, data, torch.device("cpu"))
    index = torch.tensor(reference.states(radices))
    number = reference.row_number(radices)
    drawn = made.perturb(index.repeat_interleave(6000, dim=0), generator(seed)).view(len(index), 6000, -1)
    counts = np.zeros((len(index), len(index)))
    for row in range(len(index)):
        for state in drawn[row].tolist():
            counts[row, number[tuple(state)]] += 1
    assert_rows_match(counts, matrix, false_fail=FALSE_FAIL, must_see=0.08)
    first, second = index.repeat_interleave(len(index), dim=0), index.repeat(len(index), 1)
    ratio = made.log_ratio(first, second).view(len(index), len(index)).numpy()
    assert np.allclose(ratio, np.log(matrix) - np.log(matrix.T))


def test_the_default_rate_changes_four_sites_at_most_a_quarter():
    assert default_rate(784) == pytest.approx(4 / 784)
    assert default_rate(4) == 0.25


# -- stochastic objectives against their exact expectation -----------------------------------------------------------


def stochastic_z(objective, kind, formula, repeats=150, seed=17):
    """|t| of value and of each entry of the gradient against the exact expectation, and the limit of the budget."""
    energy, values, p, data = table(kind)
    g = generator(seed)
    state = objective.init(energy, data, generator=g)
    batch = data.repeat(4, *[1] * (data.dim() - 1))
    found = []
    for _ in range(repeats):
        loss = objective.loss(energy, batch, state, generator=g).loss
        (gradient,) = torch.autograd.grad(loss, [energy.values])
        found.append(np.concatenate([[loss.item()], gradient.numpy()]))
    wanted = np.concatenate([[formula(values, p)], exact.table_gradient(lambda v: formula(v, p), values)])
    sample = np.array(found)
    error = np.abs(sample.mean(0) - wanted) / (sample.std(0, ddof=1) / np.sqrt(repeats))
    return error.max(), stats.t.isf(FALSE_FAIL / (2 * len(error)), repeats - 1)


def discrepancy_case(kind, space="binary", m=2, rate=0.3):
    objective = de.objectives.EnergyDiscrepancy(noise=kind, rate=None if kind == "grid" else rate, n_samples=m)
    forward, back = exact.round_trip(kind, RADICES[space], rate)
    return objective, space, lambda v, p: exact.discrepancy(v, p, forward, back, m, 1.0)


def cnce_case(kind, space="ragged", rate=0.4):
    objective = de.objectives.ConditionalNCE(noise=kind, rate=None if kind == "grid" else rate, n_samples=3)
    _, _, _, data = table(space)
    if kind == "marginal":
        frequencies = site_frequencies(SPACES[space], data)
        matrix = exact.marginal_matrix([frequencies[i, :k].numpy() for i, k in enumerate(RADICES[space])], rate)
    else:
        matrix = exact.noise_matrix(kind, RADICES[space], rate)
    return objective, space, lambda v, p: exact.cnce(v, p, matrix)


class Curved(Table):
    """A table whose states are also seen by a smooth function, so that it has a gradient in its encoding."""

    def forward(self, encoding):
        smooth = torch.tanh(encoding.flatten(1).sum(1))
        return super().forward(encoding.detach()) + smooth - smooth.detach()  # value of the table, slope of the tanh


def guided_case(form="hyvarinen"):
    objective = de.objectives.GuidedRatioMatching(sites=3, form=form)
    formula = exact.ratio_matching if form == "hyvarinen" else exact.ratio_matching_exponential
    return objective, "binary", lambda v, p: formula(v, p, RADICES["binary"])


STOCHASTIC = {
    **{f"discrepancy {k}": (lambda k=k: discrepancy_case(k)) for k in ("bernoulli", "grid", "absorbing")},
    **{f"discrepancy {k}": (lambda k=k: discrepancy_case(k, "ordinal", 1)) for k in ("cyclic", "ordinal")},
    **{f"cnce {k}": (lambda k=k: cnce_case(k)) for k in ("bernoulli", "grid", "cyclic", "ordinal", "marginal")},
    "guided": guided_case,
    "guided exponential": lambda: guided_case("exponential"),
    "some sites": lambda: (de.objectives.PseudoLikelihood(sites=2), "ragged",
                           lambda v, p: exact.pseudo_likelihood(v, p, RADICES["ragged"])),
}  # fmt: skip


@pytest.fixture(autouse=True)
def guided_energies_have_slopes(request, monkeypatch):
    if "guided" in request.node.name:
        monkeypatch.setattr(f"{__name__}.Table", Curved)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_sampled_objectives_are_unbiased_for_their_exact_expectation(name, seed):
    worst, limit = stochastic_z(*STOCHASTIC[name](), seed=seed)
    assert worst <= limit


def test_guided_sites_are_drawn_where_the_terms_are_large():
    energy = cases.net("binary").energy
    x = energy.space.random(50, generator())
    q = de.objectives.GuidedRatioMatching(uniform=0.0).proposal(energy, x)
    deltas, _ = changes.site_changes(energy, x, form=None)
    terms = torch.sigmoid(-deltas.sum(-1).detach()) ** 2
    best = terms / terms.sum(1, keepdim=True)
    correlation = torch.corrcoef(torch.stack([q.flatten(), best.flatten()]))[0, 1]
    assert float(correlation) > 0.7
    mixed = de.objectives.GuidedRatioMatching(uniform=0.4).proposal(energy, x)
    assert float(mixed.min()) >= 0.1  # 0.4 of the uniform 1/4
    assert torch.allclose(mixed.sum(1), torch.ones(50, dtype=mixed.dtype))


# -- planted mutants -------------------------------------------------------------------------------------------------


def dropped_own_value(deltas, wanted):
    return torch.where(wanted, -deltas, -torch.inf).logsumexp(-1)


MUTANTS = {
    "sign of the changes": (pseudo_likelihood, "site_surprise",
                            lambda d, w, f=pseudo_likelihood.site_surprise: f(-d, w), "pseudo-likelihood"),
    "present value left out": (pseudo_likelihood, "site_surprise", dropped_own_value, "pseudo-likelihood"),
    "padding counted": (pseudo_likelihood, "site_surprise",
                        lambda d, w, f=pseudo_likelihood.site_surprise: f(d, torch.ones_like(w)), "pseudo-likelihood"),
    "way back dropped": (ratios, "concrete_terms", lambda d: torch.exp(-2 * d), "concrete all"),
    "way back the wrong way": (ratios, "concrete_terms", lambda d: torch.exp(-2 * d) - 2 * torch.exp(-d) + 1,
                               "concrete all"),
    "constant off by one": (ratios, "concrete_terms", lambda d: torch.exp(-2 * d) - 2 * torch.exp(d), "concrete all"),
    "ring without its end": (ratios, "neighbours", lambda s, x, k, f=ratios.neighbours: f(s, x, "ordinal"),
                             "concrete cyclic"),
    "all values for those in order": (ratios, "neighbours", lambda s, x, k, f=ratios.neighbours: f(s, x, "all"),
                                      "concrete ordinal"),
    "flow without the half": (ratios, "flow_terms", lambda d: torch.exp(-d), "flow"),
    "flow inwards": (ratios, "flow_terms", lambda d: torch.exp(d / 2), "flow"),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mutants_of_exact_objectives_die(name):
    module, attribute, wrong, objective = MUTANTS[name]
    with mock.patch.object(module, attribute, wrong):
        assert differs(objective, "ragged") > 1e-3


RATIO_MUTANTS = {"sign": lambda d, f: ratios.logsigmoid(d) * 2, "square dropped": lambda d, f: ratios.logsigmoid(-d)}


@pytest.mark.mutants
@pytest.mark.parametrize("name", RATIO_MUTANTS)
def test_planted_mutants_of_ratio_matching_die(name):
    with mock.patch.object(ratios, "log_ratio_terms", RATIO_MUTANTS[name]):
        assert differs("ratio matching", "binary") > 1e-3


def one_way(self, index, n, g):
    return self.perturb(index.repeat_interleave(n, dim=0), g).view(len(index), n, -1)


def fills_everything(self, index, n, g):
    return torch.randint(2, (len(index), n, index.shape[1]), generator=g)


SAMPLED_MUTANTS = {
    "negatives from x, not from y": (noise.Noise, "back_and_forth", one_way, "discrepancy grid"),
    "stabiliser dropped": (noise_contrast, "discrepancy",
                           lambda p, n, w, f=noise_contrast.discrepancy: f(p, n, 0.0), "discrepancy bernoulli"),
    "stabiliser not divided by M": (noise_contrast, "discrepancy",
                                    lambda p, n, w, f=noise_contrast.discrepancy: f(p, n, w * n.shape[1]),
                                    "discrepancy bernoulli"),
    "sign of the scores": (noise_contrast, "discrepancy",
                           lambda p, n, w, f=noise_contrast.discrepancy: f(-p, -n, w), "discrepancy bernoulli"),
    "unmasked sites filled too": (noise.Absorbing, "back_and_forth", fills_everything, "discrepancy absorbing"),
    "asymmetry dropped": (noise.Marginal, "log_ratio", noise.Noise.log_ratio, "cnce marginal"),
    "asymmetry the wrong way": (noise.Marginal, "log_ratio",
                                lambda self, a, b, f=noise.Marginal.log_ratio: -f(self, a, b), "cnce marginal"),
    "the two dropped": (noise_contrast, "conditional_nce",
                        lambda p, n, r, f=noise_contrast.conditional_nce: f(p, n, r) / 2, "cnce grid"),
    "noise on a ring where a path is asked": (noise, "transition",
                                              lambda kind, k, rate, f=noise.transition: f("cyclic", k, rate),
                                              "discrepancy ordinal"),
    "weights forgotten": (de.objectives.GuidedRatioMatching, "proposal",
                          lambda self, e, x, f=de.objectives.GuidedRatioMatching.proposal: f(self, e, x).sqrt(),
                          "guided"),
    "scale of some sites forgotten": (pseudo_likelihood, "site_surprise",
                                      lambda d, w, f=pseudo_likelihood.site_surprise: f(d, w) * 2 / 3, "some sites"),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", SAMPLED_MUTANTS)
def test_planted_mutants_of_sampled_objectives_die(name, seed, monkeypatch):
    module, attribute, wrong, objective = SAMPLED_MUTANTS[name]
    if objective == "guided":
        monkeypatch.setattr(f"{__name__}.Table", Curved)
    with mock.patch.object(module, attribute, wrong):
        worst, limit = stochastic_z(*STOCHASTIC[objective](), seed=seed)
    assert worst > limit
