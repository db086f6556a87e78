"""Score matching on reals: closed forms of Gaussians and mixtures, quadrature, each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

import discrete_ebm as de
from discrete_ebm.datasets import densities
from discrete_ebm.energies import NoisyEnergy, ScoreNetwork, noise_conditional_mlp, noise_levels
from discrete_ebm.energies.base import Energy
from discrete_ebm.errors import CapabilityError, EBMError, SettingError, ShapeError, SpaceError
from discrete_ebm.objectives import improved_contrast, nce, score_matching
from discrete_ebm.objectives.score_matching import exact_trace, mean_square, model_score, sliced_trace

FALSE_FAIL = 5.5  # standard errors of a mean: a false failure in 2.6e7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Quadratic(Energy):
    """½ (x − m)ᵀ A (x − m), float64: everything about it is known."""

    def __init__(self, a, m):
        super().__init__(de.Real(len(m)))
        self.a = torch.nn.Parameter(torch.as_tensor(a, dtype=torch.float64))
        self.m = torch.nn.Parameter(torch.as_tensor(m, dtype=torch.float64))

    def forward(self, encoding):
        z = encoding - self.m
        return 0.5 * ((z @ (self.a + self.a.t()) / 2) * z).sum(1)


class Scaled(Energy):
    """w · E(x), one parameter: the gradient in w at 1 says whether an objective finds the truth."""

    def __init__(self, base, w=1.0):
        super().__init__(base.space)
        self.base, self.w = base, torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, encoding):
        return self.w * self.base(encoding)


def gaussian_data(n=400):
    z = torch.randn((n, 3), generator=generator(1), dtype=torch.float64)
    root = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [-0.3, 0.2, 0.5]], dtype=torch.float64)
    return z @ root.t() + torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def number(value):
    return value.detach().item() if isinstance(value, torch.Tensor) else float(value)


def loss_of(objective, energy, x, seed=0):
    g = generator(seed)
    return objective.loss(energy, x, objective.init(energy, x, generator=g), generator=g).loss


def float64_mlp(space, seed=0, widths=(16, 16)):
    return de.energies.MLPEnergy(space, widths, seed=seed).double()


# -- values and minima ------------------------------------------------------------------------------------------------


def test_implicit_score_matching_of_a_quadratic_is_its_closed_form_and_least_at_the_moments_of_the_data():
    """(1/n) Σ ½|A(x − m)|² − tr A; zero gradient at m = mean, A = inverse covariance, of the sample itself."""
    x = gaussian_data()
    a = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 4.0]])
    m = np.array([0.1, 0.2, 0.3])
    loss = loss_of(de.objectives.ImplicitScoreMatching(), Quadratic(a, m), x)
    wanted = 0.5 * (((x.numpy() - m) @ a) ** 2).sum(1).mean() - np.trace(a)
    assert number(loss) == pytest.approx(wanted, rel=1e-12)
    best = Quadratic(np.linalg.inv(np.cov(x.numpy().T, bias=True)), x.numpy().mean(0))
    loss = loss_of(de.objectives.ImplicitScoreMatching(), best, x)
    loss.backward()
    assert best.a.grad.abs().max() < 1e-10
    assert best.m.grad.abs().max() < 1e-10
    assert number(loss) == pytest.approx(-0.5 * number(best.a.detach().trace()), rel=1e-10)


def test_implicit_is_explicit_less_a_constant_by_quadrature():
    """∫p [tr ∇s + ½|s|²] = ∫p ½|s − s*|² − ∫p ½|s*|² for any s: Hyvärinen's theorem 1, on two mixtures."""
    for density in (densities.moons(), densities.eight_gaussians()):
        law = de.evaluate.quadrature(density, 100)
        network = float64_mlp(density.space, widths=(8,))
        found, leaf = model_score(network, law.points)
        truth = density.score(law.points)
        implicit = law.expectation(exact_trace(found, leaf).detach() + found.detach().square().sum(1) / 2)
        explicit = law.expectation((found.detach() - truth).square().sum(1) / 2)
        constant = law.expectation(truth.square().sum(1) / 2)
        assert number(implicit) == pytest.approx(number(explicit - constant), rel=1e-8)


@pytest.mark.parametrize("largest", [score_matching.MAX_NUMBERS, 30])
def test_the_trace_is_that_of_the_hessian_for_states_of_any_shape_and_in_blocks(largest, monkeypatch):
    monkeypatch.setattr(score_matching, "MAX_NUMBERS", largest)
    energy = float64_mlp(de.Real((2, 3)))
    x = energy.space.random(4, generator()).double()
    found, leaf = model_score(energy, x)
    for row, trace in zip(x, exact_trace(found, leaf), strict=True):
        hessian = torch.autograd.functional.hessian(lambda y: energy(y[None])[0], row)
        assert number(trace) == pytest.approx(-number(hessian.reshape(6, 6).trace()), rel=1e-10)


def test_explicit_is_the_mean_squared_difference_and_vanishes_at_the_truth():
    density, x = densities.moons(), densities.moons().sample(50).double()
    energy = float64_mlp(density.space)
    found = model_score(energy, x)[0].detach().numpy()
    wanted = 0.5 * ((found - density.score(x).numpy()) ** 2).sum(1).mean()
    assert number(loss_of(de.objectives.ExplicitScoreMatching(density.score), energy, x)) == pytest.approx(wanted)
    assert number(loss_of(de.objectives.ExplicitScoreMatching(density.score), Scaled(density), x)) < 1e-20


@pytest.mark.parametrize("reduced", [True, False])
def test_sliced_over_all_signs_is_the_exact_form(reduced):
    """In two dimensions the four sign vectors are all there are: their mean is the expectation over v."""
    energy = float64_mlp(de.Real(2))
    x = energy.space.random(20, generator()).double()
    found, leaf = model_score(energy, x)
    v = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()[:, None].expand(4, 20, 2)
    trace = sliced_trace(found, leaf, v).mean(1)
    torch.testing.assert_close(trace, exact_trace(found, leaf), rtol=1e-10, atol=1e-12)
    square = mean_square(found) if reduced else (v * found).sum(2).square().mean() / 2
    assert number(square) == pytest.approx(number(found.square().sum(1).mean() / 2), rel=1e-10)


@pytest.mark.parametrize("kind", score_matching.DIRECTIONS)
def test_sliced_is_unbiased_and_the_reduced_form_is_less_noisy(kind):
    energy = float64_mlp(de.Real(3), widths=(8,))
    x = 2 * energy.space.random(30, generator()).double()
    exact = number(loss_of(de.objectives.ImplicitScoreMatching(), energy, x))
    spread = {}
    for reduced in (True, False):
        one = de.objectives.SlicedScoreMatching(1, reduced, kind)
        g, found = generator(5), []
        for _ in range(300):
            found.append(number(one.loss(energy, x, None, generator=g).loss))
        spread[reduced] = np.std(found)
        assert abs(np.mean(found) - exact) < FALSE_FAIL * spread[reduced] / math.sqrt(300)
    assert spread[True] < spread[False]


def test_more_projections_are_a_mean_over_directions():
    energy = float64_mlp(de.Real(2), widths=(8,))
    x = energy.space.random(10, generator()).double()
    objective = de.objectives.SlicedScoreMatching(4, False, "gaussian")
    loss = number(objective.loss(energy, x, None, generator=generator(3)).loss)
    v = score_matching.directions("gaussian", 4, x, generator(3)).numpy()
    total = 0.0
    for b in range(10):
        h = torch.autograd.functional.hessian(lambda y: energy(y[None])[0], x[b]).numpy()
        s = model_score(energy, x[b : b + 1])[0].detach().numpy()[0]
        total += sum(-w @ h @ w + 0.5 * (w @ s) ** 2 for w in v[:, b])
    assert loss == pytest.approx(total / 40, rel=1e-8)


def test_denoising_is_its_formula_and_pairs_are_both_signs():
    energy, x = Quadratic(np.diag([2.0, 3.0, 1.0]), np.zeros(3)), gaussian_data(50)
    noise = torch.randn(x.shape, generator=generator(7), dtype=x.dtype).numpy()
    a, sigma = np.diag([2.0, 3.0, 1.0]), 0.4

    def by_hand(sign):
        blurred = x.numpy() + sign * sigma * noise
        return 0.5 * ((-sigma * blurred @ a + sign * noise) ** 2).sum(1).mean()

    one = de.objectives.DenoisingScoreMatching(sigma)
    assert number(one.loss(energy, x, None, generator=generator(7)).loss) == pytest.approx(by_hand(1), rel=1e-12)
    two = de.objectives.DenoisingScoreMatching(sigma, antithetic=True)
    both = (by_hand(1) + by_hand(-1)) / 2
    assert number(two.loss(energy, x, None, generator=generator(7)).loss) == pytest.approx(both, rel=1e-12)


def mean_slope(objective, energy, draws, seed=0, rows=4000):
    """Mean and standard error of ∂loss/∂w over batches of independent draws and noise."""
    g, slopes = generator(seed), []
    state = objective.init(energy, draws[:rows], generator=g)
    for batch in draws.split(rows):
        loss = objective.loss(energy, batch, state, generator=g).loss
        slopes.append(number(torch.autograd.grad(loss, energy.w)[0]))
    return np.mean(slopes), np.std(slopes, ddof=1) / math.sqrt(len(slopes))


def test_each_objective_has_zero_gradient_at_its_own_truth_and_not_elsewhere():
    """A mixture of two Gaussians: the clean law for implicit and sliced, the blurred one for denoising. The mean slope
    is within 5.5 standard errors of 0 at the truth and beyond them at the law of another noise level."""
    clean = densities.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.5, 0.7], edge=None)
    draws = clean.sample(80_000, 3).double()
    blurred = clean.blurred(0.5)
    cases = [
        (de.objectives.ImplicitScoreMatching(), clean, blurred),
        (de.objectives.SlicedScoreMatching(), clean, blurred),
        (de.objectives.SlicedScoreMatching(2, False, "sphere"), clean, blurred),
        (de.objectives.DenoisingScoreMatching(0.5), blurred, clean),
        (de.objectives.DenoisingScoreMatching(0.5, True), blurred, clean),
        (de.objectives.Reconstruction(1, None, 0.5), blurred, clean),
    ]
    for objective, truth, other in cases:
        slope, error = mean_slope(objective, Scaled(truth), draws)
        assert abs(slope) < FALSE_FAIL * error, objective
        slope, error = mean_slope(objective, Scaled(other), draws)
        assert abs(slope) > FALSE_FAIL * error, objective


def test_the_single_energy_of_many_levels_has_the_curvature_of_its_closed_form():
    """E = ½k|x|² on N(0, s²): least at k = 1/(σ₀² mean(1 + s²/σ²)); and one level at σ₀ is denoising."""
    s, levels, reference = 0.7, (1.0, 0.5, 0.25), 0.3
    best = 1 / (reference**2 * np.mean([1 + s**2 / level**2 for level in levels]))
    draws = s * torch.randn((200_000, 1), generator=generator(2), dtype=torch.float64)
    base = de.from_callable(lambda x: x.square().sum(1) / 2, de.Real(1))
    objective = de.objectives.MultiScaleScoreMatching(levels, reference)
    slope, error = mean_slope(objective, Scaled(base, best), draws, rows=10_000)
    assert abs(slope) < FALSE_FAIL * error
    slope, error = mean_slope(objective, Scaled(base, 0.9 * best), draws, rows=10_000)
    assert abs(slope) > FALSE_FAIL * error


def test_a_model_with_levels_learns_each_blurred_law():
    clean = densities.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.5, 0.7], edge=None)
    levels = (0.8, 0.3)
    parts = {level: clean.blurred(level) for level in levels}

    def at_levels(wrong):
        def energy(x, sigma):
            pairs = [(torch.isclose(sigma, torch.full_like(sigma, level)), parts[level + wrong]) for level in levels]
            return sum(torch.where(mask, part(x), 0.0) for mask, part in pairs)

        return energy

    for level in (0.3, 0.8):
        parts[level + 0.1] = clean.blurred(level + 0.1)
    draws = clean.sample(80_000, 4).double()

    class WithLevels(NoisyEnergy):
        def __init__(self, wrong):
            super().__init__(at_levels(wrong), de.Real(2), levels)
            self.w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

        def at(self, encoding, sigma):
            return torch.where(sigma > 0.5, self.w[0], self.w[1]) * self.fn(encoding, sigma)

    g, objective = generator(6), de.objectives.MultiScaleScoreMatching()
    for wrong, zero in ((0.0, True), (0.1, False)):
        energy, slopes = WithLevels(wrong), []
        for batch in draws.split(4000):
            loss = objective.loss(energy, batch, None, generator=g).loss
            slopes.append(torch.autograd.grad(loss, energy.w)[0].numpy())
        pull = np.abs(np.mean(slopes, 0)) / (np.std(slopes, 0, ddof=1) / math.sqrt(len(slopes)))
        assert (pull < FALSE_FAIL).all() if zero else (pull > FALSE_FAIL).any()


def test_one_step_of_reconstruction_is_denoising():
    energy = float64_mlp(de.Real(2))
    x = energy.space.random(30, generator()).double()
    one = de.objectives.Reconstruction(1, None, 0.3).loss(energy, x, None, generator=generator(1)).loss
    other = de.objectives.DenoisingScoreMatching(0.3).loss(energy, x, None, generator=generator(1)).loss
    assert number(one) == pytest.approx(number(other), rel=1e-12)
    slopes = [torch.autograd.grad(loss, list(energy.parameters()), allow_unused=True) for loss in (one, other)]
    for a, b in zip(*slopes, strict=True):
        assert a is b is None or torch.allclose(a, b, rtol=1e-10, atol=1e-14)


def test_reconstruction_differentiates_through_every_step():
    """Finite differences of the whole descent in one weight: a graph cut at any step would differ."""
    base = de.from_callable(lambda x: (x.square() - 1).square().sum(1), de.Real(2))
    x = base.space.random(5, generator()).double()
    objective = de.objectives.Reconstruction(4, 0.03, 0.2)

    def at(w):
        return objective.loss(Scaled(base, w), x, None, generator=generator(1)).loss

    energy = Scaled(base, 0.8)
    loss = objective.loss(energy, x, None, generator=generator(1)).loss
    slope = number(torch.autograd.grad(loss, energy.w)[0])
    assert slope == pytest.approx(number(at(0.8 + 1e-5) - at(0.8 - 1e-5)) / 2e-5, rel=1e-6)


# -- noise contrast ---------------------------------------------------------------------------------------------------


def test_noise_contrast_is_its_formula():
    energy, x = Quadratic(np.diag([2.0, 3.0, 1.0]), np.zeros(3)), gaussian_data(40)
    objective = de.objectives.NCE("gaussian", 3, log_z_rate=0.0)
    state = objective.init(energy, x, generator=generator(2))
    state.log_z = torch.tensor(1.3, dtype=torch.float64)
    output = objective.loss(energy, x, state, generator=generator(4))
    mean, cov = x.numpy().mean(0), np.cov(x.numpy().T, bias=True)
    y = output.negatives.numpy()

    def log_ratio(rows):
        z = rows - mean
        q = -0.5 * np.einsum("bi,ij,bj->b", z, np.linalg.inv(cov), z) - 0.5 * np.log(np.linalg.det(2 * np.pi * cov))
        return -0.5 * (rows**2 @ np.array([2.0, 3.0, 1.0])) - 1.3 - q

    h = [1 / (1 + 3 * np.exp(-log_ratio(rows))) for rows in (x.numpy(), y)]  # P(data | row), ν = 3
    assert len(y) == 120
    assert number(output.loss) == pytest.approx(-np.log(h[0]).mean() - 3 * np.log(1 - h[1]).mean(), rel=1e-5)


@pytest.mark.parametrize("noise", ["gaussian", "uniform", "own"])
def test_noise_contrast_finds_the_constant_and_has_zero_gradient_at_the_truth(noise):
    truth = densities.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.5, 0.7])
    law = densities.GaussianMixture([[0.0, 0.0]], 1.5) if noise == "own" else noise
    shifted = de.from_callable(lambda x: truth(x) + 2.0, truth.space)  # log Z = −2
    energy, draws = Scaled(shifted), truth.sample(100_000, 1).double()
    objective = de.objectives.NCE(law, 2)
    g, state, slopes = generator(3), None, []
    state = objective.init(energy, draws, generator=g)
    for batch in draws.split(1000):
        output = objective.loss(energy, batch, state, generator=g)
        slopes.append(number(torch.autograd.grad(output.loss, energy.w)[0]))
    slopes = slopes[20:]
    assert number(state.log_z) == pytest.approx(-2.0, abs=0.15)
    # log Z follows the batches, so slopes are those of a nearly right constant: an error of 5 % of their size
    assert abs(np.mean(slopes)) < FALSE_FAIL * np.std(slopes) / math.sqrt(len(slopes)) + 0.02


# -- the sampler's own gradient ---------------------------------------------------------------------------------------


def test_without_its_term_improved_contrast_is_persistent_contrast():
    energy = float64_mlp(de.Real(2))
    x = energy.space.random(20, generator()).double()
    kernel = de.samplers.create("langevin", step_size=0.05)
    losses = []
    for objective in (de.objectives.ImprovedCD(kernel, 3, 30, weight=0.0, restart=0.2),
                      de.objectives.PCD(kernel, 3, 30, restart=0.2)):  # fmt: skip
        g = generator(1)
        state = objective.init(energy, x, generator=g)
        losses.append([number(objective.loss(energy, x, state, generator=g).loss) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("sampler", ["langevin", "sgld"])
def test_the_term_is_the_gradient_through_the_last_step_with_the_judge_held(sampler):
    """d/dw of E_held(x_K(w)) − H(x_K(w)) by finite differences: w moves the step, not the energy that judges it."""
    base = float64_mlp(de.Real(2), widths=(8,))
    energy, held = Scaled(base, 0.9), Scaled(base, 0.9)
    kernel = de.samplers.create(sampler, step_size=0.1)
    x = base.space.random(12, generator()).double()
    others = base.space.random(40, generator(8)).double()

    def draws(w):
        return improved_contrast.last_step(Scaled(base, w), kernel, x, generator=generator(2))

    def value(y):
        return number(held(y).mean() - improved_contrast.nearest_entropy(y, others))

    y = improved_contrast.last_step(energy, kernel, x, generator=generator(2))
    term = improved_contrast.held_energy(energy, y).mean() - improved_contrast.nearest_entropy(y, others)
    slope = number(torch.autograd.grad(term, energy.w)[0])
    assert slope == pytest.approx((value(draws(0.9 + 1e-5)) - value(draws(0.9 - 1e-5))) / 2e-5, rel=1e-5)
    moved, _ = kernel.step(energy, kernel.init(energy, x, generator=generator(2)), generator=generator(2))
    torch.testing.assert_close(moved.x, y.detach())  # the differentiated step is the kernel's own


@pytest.mark.parametrize(("d", "entropy"), [(1, 0.5 * math.log(2 * math.pi * math.e)),
                                            (2, math.log(2 * math.pi * math.e))])
def test_the_entropy_of_neighbours_is_that_of_a_gaussian(d, entropy):
    """4,000 draws against 4,000 others: within .1 nat (spread .02 over seeds)."""
    x, others = (torch.randn((4000, d), generator=generator(s), dtype=torch.float64) for s in (1, 2))
    assert number(improved_contrast.nearest_entropy(x, others)) == pytest.approx(entropy, abs=0.1)
    scaled = number(improved_contrast.nearest_entropy(3 * x, 3 * others))
    assert scaled == pytest.approx(number(improved_contrast.nearest_entropy(x, others)) + d * math.log(3), rel=1e-9)


# -- scores without an energy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["langevin", "sgld", "underdamped"])
def test_chains_along_a_score_are_those_of_its_energy(sampler):
    density = densities.moons()
    field = ScoreNetwork(density.score, density.space)
    x0 = density.sample(6)
    kernel = de.samplers.create(sampler, step_size=0.01)
    chains = [de.sample(one, kernel, n_chains=6, n_steps=12, x0=x0, seed=1).x for one in (density, field)]
    torch.testing.assert_close(chains[0], chains[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["hmc", "mala", "ghmc", "auto"])
def test_kernels_that_accept_refuse_a_score(sampler):
    field = ScoreNetwork(lambda x: -x, de.Real(2))
    with pytest.raises(CapabilityError, match="score"):
        de.sample(field, sampler, n_chains=2, n_steps=2)


def test_what_needs_an_energy_refuses_a_score():
    field = noise_conditional_mlp(de.Real(2, low=-4.0, high=4.0), None, (8,), energy=False)
    x = field.space.random(20, generator())
    for name in ("nce", "pcd", "improved-cd"):
        settings = {} if name == "nce" else {"sampler": "langevin"}
        with pytest.raises(EBMError, match="score"):
            de.fit(field, x, de.objectives.create(name, **settings), n_iterations=2, progress=False)
    with pytest.raises(CapabilityError, match="score"):
        de.evaluate.quadrature(field, 10)


@pytest.mark.slow
def test_annealing_through_exact_levels_draws_the_mixture():
    """Unequal far modes, exact blurred scores: the share of the heavy mode within 5.5 standard errors and a bias of
    .03 that the finite schedule leaves; without levels, Langevin from noise gives the modes equal shares."""
    clean = densities.GaussianMixture([[-2.5, 0.0], [2.5, 0.0]], 0.3, [0.8, 0.2], edge=None)
    levels = noise_levels(4.0, 0.05, 12)
    blurred = {level: clean.blurred(level) for level in levels}
    model = ScoreNetwork(lambda x, sigma: blurred[number(sigma[0])].score(x), de.Real(2), levels)

    class Exact(ScoreNetwork):
        def at(self, encoding, sigma):
            level = min(levels, key=lambda one: abs(one - number(sigma[0])))
            return blurred[level].score(encoding)

        def given(self, sigma):
            return Exact(self.fn, self.space, (sigma,))

    model = Exact(model.fn, model.space, levels)
    x = de.objectives.annealed_langevin(model, 1000, 40, 0.2, seed=0)
    share, error = number((x[:, 0] < 0).float().mean()), math.sqrt(0.8 * 0.2 / 1000)
    assert abs(share - 0.8) < FALSE_FAIL * error + 0.03
    near = (x[:, None] - torch.tensor([[-2.5, 0.0], [2.5, 0.0]])).norm(dim=2).min(1).values
    assert number((near < 1.5).float().mean()) > 0.98
    last = model.given(levels[-1])
    plain = de.sample(last, de.samplers.create("langevin", step_size=0.02), n_chains=1000, n_steps=480, seed=0).last
    assert abs(number((plain[:, 0] < 0).float().mean()) - 0.8) > FALSE_FAIL * error + 0.03


@pytest.mark.slow
def test_networks_recover_the_score_of_a_mixture_to_five_per_cent():
    """E_p|s − s*|²/E_p|s*|² by quadrature, for four objectives, energies and a score network, one setting each."""
    density = densities.eight_gaussians(1.5, 0.5)
    law = de.evaluate.quadrature(density, 80)
    truth = density.score(law.points)
    size = number(law.expectation(truth.square().sum(1)))
    data = density.sample(20_000)
    for name, settings in (("explicit-score-matching", {"score": density.score}), ("implicit-score-matching", {}),
                           ("sliced-score-matching", {}), ("denoising-score-matching", {"sigma": 0.1})):  # fmt: skip
        for energy in (True, False):
            model = (de.energies.MLPEnergy(density.space, (64, 64), seed=0) if energy
                     else noise_conditional_mlp(density.space, None, (64, 64), energy=False))  # fmt: skip
            fitted = de.fit(model, data, de.objectives.create(name, **settings), n_iterations=3000, batch_size=500,
                            lr=3e-3, decay="linear", progress=False)  # fmt: skip
            found = model_score(fitted.energy, law.points.float())[0].detach().double()
            assert number(law.expectation((found - truth).square().sum(1))) / size < 0.05, (name, energy)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_network_without_second_derivatives_is_refused_where_they_are_needed():
    energy = de.energies.MLPEnergy(de.Real(2), (8,), activation=torch.nn.ReLU)  # confined: its trace is a constant
    x = energy.space.random(20, generator())
    for name in ("implicit-score-matching", "sliced-score-matching"):
        with pytest.raises(CapabilityError, match="second derivatives"):
            de.fit(energy, x, name, n_iterations=2, progress=False)
    de.fit(energy, x, "denoising-score-matching", n_iterations=2, progress=False)


@pytest.mark.parametrize(("name", "settings", "words"), [
    ("explicit-score-matching", {}, "`score`"),
    ("sliced-score-matching", {"n_projections": 0}, "`n_projections`"),
    ("sliced-score-matching", {"directions": "cube"}, "`directions`"),
    ("denoising-score-matching", {"sigma": 0.0}, "`sigma`"),
    ("denoising-score-matching", {"antithetic": 2}, "`antithetic`"),
    ("multi-scale-score-matching", {"sigmas": (0.1, -1.0)}, "`sigmas`"),
    ("multi-scale-score-matching", {"reference": math.nan}, "`reference`"),
    ("nce", {"noise": "laplace"}, "`noise`"),
    ("nce", {"n_samples": 0}, "`n_samples`"),
    ("nce", {"log_z_rate": 1.5}, "`log_z_rate`"),
    ("reconstruction", {"n_steps": 0}, "`n_steps`"),
    ("reconstruction", {"start": "data"}, "`start`"),
    ("improved-cd", {"entropy": -1.0}, "`entropy`"),
])  # fmt: skip
def test_wrong_settings_get_a_sentence(name, settings, words):
    with pytest.raises(SettingError, match=words):
        de.objectives.create(name, **settings)


def test_what_does_not_fit_is_refused_before_the_first_update():
    unbounded = de.energies.MLPEnergy(de.Real(2), (4,))
    x = unbounded.space.random(10, generator())
    quiet = {"n_iterations": 2, "progress": False}
    with pytest.raises(SettingError, match="both bounds"):
        de.fit(unbounded, x, de.objectives.NCE("uniform"), **quiet)
    with pytest.raises(SettingError, match="'langevin' or 'sgld'"):
        de.fit(unbounded, x, de.objectives.ImprovedCD("hmc"), **quiet)
    with pytest.raises(ShapeError, match="score"):
        de.fit(unbounded, x, de.objectives.ExplicitScoreMatching(lambda x: x[:, 0]), **quiet)
    with pytest.raises(CapabilityError, match="noise levels"):
        de.objectives.annealed_langevin(unbounded)
    levels = noise_conditional_mlp(de.Real(2), (1.0, 0.1), (4,))
    with pytest.raises(SettingError, match="levels of its own"):
        de.fit(levels, x, de.objectives.MultiScaleScoreMatching((1.0,)), **quiet)
    with pytest.raises(SpaceError, match="Real"):
        noise_conditional_mlp(de.Binary(3), (1.0,))
    wrong = ScoreNetwork(torch.nn.Linear(2, 3), de.Real(2))
    with pytest.raises(ShapeError, match="one number a site"):
        de.fit(wrong, x, "denoising-score-matching", **quiet)
    with pytest.raises(ShapeError, match="one number a site"):
        de.sample(wrong, "langevin", n_chains=2, n_steps=2)


# -- planted bugs -----------------------------------------------------------------------------------------------------

MUTANTS = {
    "trace with the wrong sign": (
        score_matching, "exact_trace", lambda found, leaf: -exact_trace(found, leaf),
        test_implicit_score_matching_of_a_quadratic_is_its_closed_form_and_least_at_the_moments_of_the_data,
    ),
    "square without its half": (
        score_matching, "mean_square", lambda values: 2 * mean_square(values),
        test_implicit_score_matching_of_a_quadratic_is_its_closed_form_and_least_at_the_moments_of_the_data,
    ),
    "score with the sign of the energy": (
        score_matching, "model_score", lambda model, x: (lambda pair: (-pair[0], pair[1]))(model_score(model, x)),
        test_denoising_is_its_formula_and_pairs_are_both_signs,
    ),
    "ratio of noise draws left out": (
        nce, "nce_loss", lambda positive, negative, n: softplus(-positive).mean() + softplus(negative).mean(),
        test_noise_contrast_is_its_formula,
    ),
    "judge that moves with the parameters": (
        improved_contrast, "held_energy", lambda energy, x: energy(x),
        lambda: test_the_term_is_the_gradient_through_the_last_step_with_the_judge_held("langevin"),
    ),
    "last step of twice the slope": (
        improved_contrast, "model_score", lambda model, x: (lambda pair: (2 * pair[0], pair[1]))(model_score(model, x)),
        lambda: test_the_term_is_the_gradient_through_the_last_step_with_the_judge_held("langevin"),
    ),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bugs_die(name, monkeypatch):
    module, attribute, bug, check = MUTANTS[name]
    monkeypatch.setattr(module, attribute, bug)
    with pytest.raises(AssertionError):
        check()
