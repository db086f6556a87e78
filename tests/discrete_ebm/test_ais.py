"""Annealed importance sampling against exact log Z, forward and reverse, for every kernel; and what planted bugs do."""

import importlib
import itertools
import math
from unittest import mock

import pytest
import torch

import discrete_ebm as de
from discrete_ebm import energies as en
from discrete_ebm.energies.base import evaluate_energy
from discrete_ebm.errors import CapabilityError, NonFiniteEnergyError, SettingError, ShapeError
from discrete_ebm.evaluate import paths
from discrete_ebm.samplers import registry

module = importlib.import_module("discrete_ebm.evaluate.ais")  # the package's name of it is the function's
F64 = torch.float64
LIMIT = 5.0  # standard errors: a false failure has a chance of 6e-7 a comparison


def normal(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def model(name):
    """Small, rugged enough that four rungs leave weights of spread about 1, and lopsided so that a base matters."""
    if name == "ising":
        return en.Ising.lattice((2, 3), normal(1, 7, scale=0.4), normal(2, 6, scale=0.3), periodic=False)
    if name == "potts":
        return en.Potts.lattice((2, 2), normal(3, 4, scale=0.6), 3, normal(4, 4, 3, scale=0.5), periodic=False)
    if name == "rbm":
        return en.BernoulliRBM(5, 3, weight=normal(5, 5, 3, scale=0.7), visible_bias=normal(6, 5, scale=0.5),
                               hidden_bias=normal(7, 3, scale=0.5))
    if name == "fhmm":
        return en.FactorialHMM(normal(8, 3), normal(9, 2), sigma=1.0)
    if name == "ordinal":
        return de.from_callable(lambda f: 0.4 * f.square().sum(-1) - 0.3 * f.prod(-1), de.Ordinal(3, [-1.0, 0.5, 2.0]))
    return 6.0 * en.MLPEnergy(de.Binary(5), (8,), seed=3).double()


FAMILIES = ("ising", "potts", "rbm", "fhmm", "ordinal", "mlp")


def base_of(energy, kind):
    """Keywords of `ais` for a base: uniform, or marginals of draws that are far from even."""
    return {} if kind == "uniform" else {"data": de.evaluate.exact(energy).sample(30, seed=4)}


def deviation(energy, reverse=False, sampler="auto", base="uniform", n_chains=3000, n_steps=4, seed=5):
    """(mean of w·Z_0/Z − 1, or of its inverse in reverse, in standard errors; that standard error)."""
    law = de.evaluate.exact(energy)
    starts = {"starts": law.sample(n_chains, seed=seed)} if reverse else {}
    found = de.evaluate.ais(energy, n_chains, n_steps, seed, reverse=reverse, sampler=sampler, **starts,
                            **base_of(energy, base))
    gap = found.log_z0 - law.log_z
    ratio = (found.log_weights + (-gap if reverse else gap)).exp()
    error = float(ratio.std()) / math.sqrt(n_chains)
    return (float(ratio.mean()) - 1) / error, error


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("base", ["uniform", "fitted"])
def test_weights_are_unbiased_whatever_the_number_of_rungs(name, reverse, base):
    z, error = deviation(model(name), reverse, base=base)
    assert error < 0.05  # so that a wrong constant of a third of a nat is far outside
    assert abs(z) < LIMIT


KERNELS = [name for name in registry.names()
           if registry.spec(name).exact and "Binary" in registry.spec(name).spaces]


@pytest.mark.parametrize("name", KERNELS)
def test_any_exact_kernel_walks_any_path(name):
    """On an Ising model in bits from both bases; a sampler that cannot take that energy says so instead."""
    energy = en.Ising.lattice((1, 4), normal(1, 3, scale=0.6), normal(2, 4, scale=0.4), periodic=False,
                              space=de.Binary((1, 4)))
    for base in ("uniform", "fitted"):
        if base == "fitted" and name in ("swendsen-wang", "wolff"):  # they know Ising and Potts models, not mixtures
            with pytest.raises(CapabilityError):
                deviation(energy, base=base, sampler=name)
            continue
        z, error = deviation(energy, base=base, sampler=name, n_chains=1000, n_steps=3)
        assert error < 0.06
        assert abs(z) < LIMIT


def weigh_after_moving(path, x, betas, generator, progress):
    at, log_w = path.mark(x), torch.zeros(len(x), dtype=F64)
    for b_from, b_to in itertools.pairwise(betas):
        at = path.step(at, b_to, generator)
        log_w = log_w + path.log_ratio(at, b_from, b_to)
    return log_w


def planted(bug):
    """A patch of the shipped code."""
    if bug == "weight after the move":
        return mock.patch.object(module, "_anneal", weigh_after_moving)
    if bug == "base normaliser dropped":
        def made(*args, make=module.make_path):
            path = make(*args)
            path.log_z0 = 0.0
            return path
        return mock.patch.object(module, "make_path", made)
    if bug == "reverse walks up":
        return mock.patch.object(module, "_anneal", lambda path, x, betas, generator, progress, run=module._anneal:
                                 run(path, x, sorted(betas), generator, progress))
    if bug == "base left out of the path":
        return mock.patch.object(paths._GeometricPath, "log_ratio", lambda self, at, b_from, b_to:
                                 -(b_to - b_from) * at.terms[1])
    if bug == "stale kernel caches":
        def stale(self, energy, x, here, state, generator):
            state = self.kernel.init(energy, x, generator=generator) if state is None else state
            after, info = self.kernel.step(energy, state, generator=generator, beta=1.0)
            return after, info.energy_calls
        return mock.patch.object(paths._Anew, "__call__", stale)
    assert bug == "hidden biases not tempered"
    return mock.patch.object(paths.BaseRatePath, "log_ratio", lambda self, at, b_from, b_to: (
        (b_to - b_from) * at.terms[0] + (at.terms[1] * (b_to - b_from)).sum(-1)))


@pytest.mark.mutants
@pytest.mark.parametrize(("bug", "name", "options"), [
    ("weight after the move", "ising", {}),
    ("weight after the move", "rbm", {"reverse": True}),
    ("base normaliser dropped", "potts", {}),
    ("base normaliser dropped", "rbm", {"base": "fitted", "reverse": True}),
    ("reverse walks up", "ising", {"reverse": True}),
    ("base left out of the path", "mlp", {"base": "fitted"}),
    ("stale kernel caches", "ising", {"base": "fitted", "sampler": "gwg"}),
    ("hidden biases not tempered", "rbm", {}),
])
def test_planted_bugs_bias_the_weights(bug, name, options):
    energy = model(name)
    assert abs(deviation(energy, n_chains=6000, **options)[0]) < LIMIT
    with planted(bug):
        assert abs(deviation(energy, n_chains=6000, **options)[0]) > LIMIT


def test_the_reported_estimate_error_and_ess_are_those_of_the_weights():
    energy = model("ising")
    forward, back = (de.evaluate.ais(energy, 400, 3, 1, reverse=reverse) for reverse in (False, True))
    w = forward.log_weights.exp()
    assert forward.log_z == pytest.approx(forward.log_z0 + math.log(float(w.mean())), abs=1e-12)
    assert forward.std_error == pytest.approx(float(w.std() / w.mean()) / 20, rel=1e-9)
    assert forward.ess == pytest.approx(float(w.sum() ** 2 / w.square().sum()), rel=1e-9)
    assert back.log_z == pytest.approx(back.log_z0 - math.log(float(back.log_weights.exp().mean())), abs=1e-12)
    for one in (forward, back):
        low, high = one.interval
        assert low < one.log_z < high
        assert high - low == pytest.approx(2 * 1.96 * one.std_error, rel=0.25)
    assert "exact draws" in back.starts
    assert "upper bound" in str(back)


def test_a_short_ladder_errs_down_forward_and_up_in_reverse():
    """Averages over 40 runs of 5 chains and 2 rungs: both sides are off by many standard errors, in their direction."""
    energy = en.Ising.lattice((2, 3), normal(1, 7, scale=1.5), normal(2, 6), periodic=False)
    truth = de.evaluate.exact(energy).log_z
    pairs = [de.evaluate.bracket(energy, 5, 2, seed, sampler="metropolis") for seed in range(40)]
    for values, sign in (([p.lower for p in pairs], -1), ([p.upper for p in pairs], 1)):
        gaps = sign * (torch.tensor(values) - truth)
        assert gaps.mean() > LIMIT * gaps.std() / math.sqrt(40)
    assert sum(p.width for p in pairs) > 0


def test_an_adaptive_ladder_rises_from_0_to_1_and_beats_a_linear_one_where_the_change_is_sudden():
    energy = en.Ising.lattice((4, 4), torch.tensor(6.0, dtype=F64), 0.3)
    linear, adaptive = (de.evaluate.ais(energy, 100, 40, 2, ladder=kind, sampler="gibbs")
                        for kind in ("linear", "adaptive"))
    rungs = adaptive.ladder
    assert len(rungs) == 41
    assert rungs[0] == 0
    assert rungs[-1] == 1
    assert bool((rungs[1:] > rungs[:-1]).all())
    assert rungs[20] < 0.2  # a magnet of coupling 6 orders at 0.07 of it
    assert adaptive.ess > 3 * linear.ess
    own = de.evaluate.ais(energy, 100, 1, 2, ladder=rungs, sampler="gibbs")
    assert torch.equal(own.ladder, rungs)


def test_raise_is_below_the_truth_and_comes_near_with_more_rungs():
    energy = model("fhmm")
    law = de.evaluate.exact(energy)
    x = law.sample(60, seed=1)
    truth = float(law.log_prob(evaluate_energy(energy, x).detach()).mean())
    short, long = (de.evaluate.raise_log_likelihood(energy, x, 5, n, seed=3) for n in (2, 60))
    assert short.nats < truth - 0.5
    assert abs(long.nats - truth) < (truth - short.nats) / 10
    assert long.rows.shape == (60,)
    with mock.patch.object(module, "_anneal", lambda *a, run=module._anneal: -run(*a)):
        assert abs(de.evaluate.raise_log_likelihood(energy, x, 5, 60, seed=3).nats - truth) > 0.5


def test_raise_is_the_mean_of_the_annealing_models_density():
    """With one rung p_ann is the base itself: log p̂ = log p_0(x), to the last digit, whatever the model."""
    energy = model("potts")
    x = energy.space.random(7, torch.Generator().manual_seed(0))
    found = de.evaluate.raise_log_likelihood(energy, x, 3, 1)
    assert torch.allclose(found.rows, torch.full((7,), -4 * math.log(3), dtype=F64), atol=1e-12)


def test_likelihoods_are_minus_energy_minus_log_z_in_nats_and_bits():
    energy = model("ising")
    found = de.evaluate.bracket(energy, 50, 20)
    x = de.evaluate.exact(energy).sample(40)
    lower, upper = found.log_likelihood(x)
    expected = -evaluate_energy(energy, x).detach() - found.forward.log_z
    assert torch.allclose(upper.rows, expected)
    assert upper.nats == pytest.approx(float(expected.mean()))
    assert upper.bits_per_dim == pytest.approx(-float(expected.mean()) / 6 / math.log(2))
    assert upper.std_error > float(expected.std()) / math.sqrt(40)
    assert lower.nats - upper.nats == pytest.approx(found.lower - found.upper)
    assert (lower.bound, upper.bound) == ("lower", "upper")
    assert lower.interval[0] < lower.nats < lower.interval[1]


def test_seeds_repeat_and_the_global_state_is_left_alone():
    energy = model("mlp")
    before = torch.random.get_rng_state()
    one, two, other = (de.evaluate.ais(energy, 10, 5, seed) for seed in (3, 3, 4))
    assert torch.equal(one.log_weights, two.log_weights)
    assert not torch.equal(one.log_weights, other.log_weights)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_rbm_walks_through_the_rbms_in_between():
    """The kernel's own energy at b is −log f_b: at 1 the model's, at 0 the base's, with float64 agreement between."""
    energy = model("rbm")
    path = paths.make_path(energy, None, energy.space.random(9, torch.Generator().manual_seed(1)), "gibbs",
                           torch.device("cpu"))
    x = energy.space.enumerate()
    at = path.mark(x)
    for b in (0.0, 0.3, 1.0):
        between = -evaluate_energy(path._rbm_at(b), x)
        start = -evaluate_energy(path._rbm_at(0.0), x)
        assert torch.allclose(path.log_ratio(at, 0.0, b), between - start, atol=1e-12)
    assert torch.allclose(evaluate_energy(path._rbm_at(1.0), x), evaluate_energy(energy, x))
    assert path.log_z0 == pytest.approx(float((-evaluate_energy(path._rbm_at(0.0), x)).logsumexp(0)), abs=1e-12)


def test_reverse_starts_say_where_they_come_from():
    energy = en.Ising.lattice((5, 5), 0.3)
    chains = de.evaluate.ais(energy, 20, 5, reverse=True, start_steps=40)
    assert "20 chains of 40 steps" in chains.starts
    assert "only as far as they have mixed" in chains.starts
    given = de.evaluate.ais(energy, 20, 5, reverse=True, starts=torch.ones(20, 5, 5, dtype=torch.int8))
    assert given.starts == "given"
    wide = de.evaluate.ais(en.BernoulliRBM(200, 4, scale=0.5), 20, 5, reverse=True)
    assert "2^4 settings of the hidden units" in wide.starts


ISING = en.Ising.lattice((3, 3), 0.4)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: de.evaluate.ais(en.MLPEnergy(de.Real(2))), CapabilityError, "`base` must be given"),
    (lambda: de.evaluate.ais(ISING, base=en.MLPEnergy(de.Spin((3, 3)))), CapabilityError, "without log_z and sample"),
    (lambda: de.evaluate.ais(ISING, base=en.MeanField(de.Binary(9), torch.zeros(9, 2))), CapabilityError,
     "another space"),
    (lambda: de.evaluate.ais(ISING, base="mean-field"), SettingError, "`base`"),
    (lambda: de.evaluate.ais(ISING, base="uniform", data=torch.ones(3, 3, 3)), SettingError, "Leave one out"),
    (lambda: de.evaluate.ais(ISING, data=torch.ones(0, 3, 3)), ShapeError, "at least one row"),
    (lambda: de.evaluate.ais(ISING, n_chains=1), SettingError, "`n_chains`"),
    (lambda: de.evaluate.ais(ISING, n_steps=0), SettingError, "`n_steps`"),
    (lambda: de.evaluate.ais(ISING, sampler="dula"), SettingError, "which is biased"),
    (lambda: de.evaluate.ais(ISING, sampler="langevin"), SettingError, "Real"),
    (lambda: de.evaluate.ais(ISING, ladder="cosine"), SettingError, "`ladder`"),
    (lambda: de.evaluate.ais(ISING, ladder=[0.0, 0.5, 0.4, 1.0]), SettingError, "rise from 0 to 1"),
    (lambda: de.evaluate.ais(ISING, starts=torch.ones(100, 3, 3)), SettingError, "reverse=True"),
    (lambda: de.evaluate.ais(ISING, reverse=True, starts=torch.ones(7, 3, 3)), ShapeError, "one a chain; got 7"),
    (lambda: de.evaluate.bracket(ISING, reverse=True), SettingError, "runs both ways"),
    (lambda: de.evaluate.ais(lambda e: e), CapabilityError, "from_callable"),
    (lambda: de.evaluate.ais(de.from_callable(lambda v: v.sum(-1) * math.nan, de.Binary(3))), NonFiniteEnergyError,
     "along the path"),
    (lambda: de.evaluate.ais(de.from_callable(lambda v: torch.where(v.sum(-1) > 1, math.inf, 0.0), de.Binary(5))),
     NonFiniteEnergyError, "base that never draws them"),
    (lambda: de.evaluate.raise_log_likelihood(ISING, torch.ones(0, 3, 3)), ShapeError, "at least one row"),
])
def test_refusals_are_sentences(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.slow
def test_errors_are_within_three_reported_standard_errors_in_95_percent_of_20_models_of_every_family():
    from benchmarks.suites import ais as suite

    rows = [suite.measure(suite.random_model(family, number), 100, 200, number)
            for family in suite.FAMILIES for number in range(20)]
    for side in ("forward", "reverse"):
        assert sum(suite.right(row[side]) for row in rows) >= 0.95 * len(rows)
    assert sum(map(suite.brackets, rows)) >= 0.95 * len(rows)
