"""The kernels on Real: exact ones keep known laws and their formulas match NumPy; biased ones are biased as they say.

False failures: statistical assertions spend at most 1e-7 each (stated there); everything else is deterministic.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import discrete_ebm as de
from discrete_ebm import samplers
from discrete_ebm.errors import CapabilityError, ConformanceError, NonFiniteEnergyError, SettingError
from discrete_ebm.samplers import hamiltonian, hmc, mala
from discrete_ebm.samplers.base import ChainState, Kernel
from discrete_ebm.samplers.continuous import Bounds, bounds_of, evaluate
from discrete_ebm.samplers.hamiltonian import leapfrog
from discrete_ebm.samplers.schedules import factor
from discrete_ebm.spaces import Binary, Product, Real
from discrete_ebm.testing import Target, check_sampler
from discrete_ebm.testing_real import CorrelatedNormal, TwoStage, real_energies
from discrete_ebm.testing_real_checks import uniformity
from tests import statistical

FAMILY = 1e-7
EXACT, BIASED = ("mala", "hmc", "ghmc"), ("langevin", "sgld", "underdamped")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _quartic(space: Real) -> Any:
    """A coupled, non-Gaussian energy in whatever dtype it is given."""
    return de.from_callable(lambda x: ((x.square() - 1).square() + x.cos()).sum(1) + 0.5 * x[:, 0] * x[:, 1], space)


def _wells() -> Target:
    return Target("Real double well", TwoStage(Real(2), "wells", 0.8, 0.6), None, depth="law")


def _box() -> Target:
    return Target("Real box", _known("Real box"), None, depth="law")


def _known(name: str) -> Any:
    return next(energy for kind, energy, _ in real_energies(0) if kind == name)


# -- the laws that the suite rests on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("name", ["Real mixture", "Real double well", "Real box", "Real half-bounded"])
def test_two_stage_laws_have_the_moments_of_two_dimensional_quadrature(name: str, beta: float) -> None:
    """E[x₁], E[x₂], E[x₁x₂] from a midpoint grid of uniforms pushed through the map, against SciPy's dblquad."""
    energy = _known(name)
    low = [-9.0, -9.0] if energy.space.low is None else energy.space.low.tolist()
    high = [9.0, 9.0] if energy.space.high is None else energy.space.high.tolist()
    a, b = (np.linspace(lo, hi, 1601) for lo, hi in zip(low, high, strict=True))
    x = torch.tensor(np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2))
    with torch.no_grad():
        density = np.exp(-beta * energy(x).double().numpy()).reshape(len(a), len(b))
    grids = {"x": a[:, None], "y": b[None, :], "xy": a[:, None] * b[None, :]}

    def integral(values: np.ndarray) -> float:
        return float(integrate.simpson(integrate.simpson(values, x=b, axis=1), x=a))

    wanted = np.array([integral(density * g) for g in grids.values()]) / integral(density)
    side = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    drawn = energy.states(torch.cartesian_prod(side, side), beta).double()
    found = [drawn[:, 0].mean(), drawn[:, 1].mean(), drawn.prod(1).mean()]
    np.testing.assert_allclose([float(f) for f in found], wanted, atol=3e-3)
    back = energy.uniforms(drawn.float(), beta)
    torch.testing.assert_close(back, torch.cartesian_prod(side, side), atol=1e-4, rtol=0)


def test_uniformity_sees_a_shift_of_two_hundredths_and_accepts_uniforms(seed: int) -> None:
    """20,000 draws; a shift of the mean by 0.06 standard deviations is 8.5 standard errors."""
    u = torch.rand(20_000, 2, generator=_generator(seed), dtype=torch.float64)
    assert min(p for _, p in uniformity(u)) > FAMILY / 20
    shifted = torch.special.ndtr(torch.special.ndtri(u) + 0.06)
    assert min(p for _, p in uniformity(shifted)) < 1e-9


# -- conformance and mutants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BIASED)
def test_biased_kernels_fail_the_laws_by_far(name: str, seed: int) -> None:
    settings = {"underdamped": {"step_size": 0.7}}.get(name, {"step_size": 0.1})
    row = dataclasses.replace(samplers.spec(name), exact=True)
    with pytest.raises(ConformanceError, match="law at beta") as caught:
        check_sampler(row, seed=seed, targets=[_wells()], **settings)
    worst = min(float(line.split("p = ")[1].split(",")[0]) for line in str(caught.value).splitlines() if "p = " in line)
    assert worst < 1e-20


@pytest.mark.parametrize(("name", "settings"), [
    ("mala", {"step_size": 0.3, "bounds": "reject"}), ("mala", {"step_size": 0.6}), ("hmc", {"step_size": 0.5,
    "n_steps": 3, "bounds": "reject"}), ("mala", {"precondition": (0.3, 2.0), "step_size": 0.4})])
def test_settings_of_exact_kernels_conform_too(name: str, settings: dict, seed: int) -> None:
    assert check_sampler(name, seed=seed, targets=[_box()], **settings).passed


def _mutant(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = hamiltonian.leapfrog

    def changed(energy: Any, x: Any, energy_x: Any, gradient: Any, momentum: Any, sizes: Any, beta: Any, n_steps: int,
                within: Any, reflect: bool = True) -> Any:
        if name == "step used twice":
            twice = evaluate(energy, x)[1]  # the first kick with a step twice as long
            momentum = momentum - 0.5 * beta[:, None] * sizes * twice
        if name == "no reflection of the momentum":
            within = _Folded(*within)
        end = original(energy, x, energy_x, gradient, momentum, sizes, beta, n_steps, within, reflect)
        if name == "kinetic energy dropped":
            end = end._replace(kinetic=torch.zeros_like(end.kinetic))
        return end

    monkeypatch.setattr(hamiltonian, "leapfrog", changed)


class _Folded(Bounds):
    def fold(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        y, sign = super().fold(z)
        return y, None if sign is None else torch.ones_like(sign)


@pytest.mark.mutants
@pytest.mark.parametrize("name", ["mala", "hmc", "ghmc"])
@pytest.mark.parametrize("mutant", ["kinetic energy dropped", "step used twice", "no reflection of the momentum"])
def test_mutants_of_the_trajectory_die(name: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `mala` a dropped kinetic energy is the missing Hastings term."""
    settings: dict[str, Any] = {"mala": {"step_size": 0.3}, "hmc": {"step_size": 0.6, "n_steps": 3},
                                "ghmc": {"step_size": 0.7, "persistence": 0.5}}[name]
    _mutant(monkeypatch, mutant)
    with pytest.raises(ConformanceError, match="law"):
        check_sampler(name, targets=[_box() if "reflection" in mutant else _wells()], **settings)


def test_a_momentum_that_is_not_turned_round_on_rejection_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: Any, accepted: Any, before: Any, after: Any) -> dict:
        return {"momentum": torch.where(accepted[:, None], after, before)}

    monkeypatch.setattr(hmc.GeneralisedHMC, "_keep", keep)
    with pytest.raises(ConformanceError, match="law"):
        check_sampler("ghmc", targets=[_wells()], step_size=0.8, persistence=0.9)


def test_a_gradient_without_beta_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accept step would repair it, so the formula of the proposal is what sees it; in biased kernels, the law."""
    monkeypatch.setattr(hamiltonian, "per_chain", lambda values, x: torch.ones_like(x[:, :1]))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_the_proposal_ratio_of_mala_is_that_of_its_gaussians(2.0, 0)
    monkeypatch.undo()
    monkeypatch.setattr(samplers.continuous, "beta_column", lambda beta, energy: torch.ones_like(energy))
    row = dataclasses.replace(samplers.spec("langevin"), exact=True)
    with pytest.raises(ConformanceError, match=r"law at beta 2.0 after 1 steps"):
        check_sampler(row, targets=[_wells()], step_size=0.1)


@pytest.mark.parametrize("name", [*EXACT, *BIASED])
def test_clamped_sites_that_move_die(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hamiltonian, samplers.continuous, samplers.underdamped):
        monkeypatch.setattr(module, "free_sites", lambda *_: None)
    target = Target("Real", CorrelatedNormal(Real(3), 0), None, depth="light")
    with pytest.raises(ConformanceError, match="clamped sites stay"):
        check_sampler(name, targets=[target])


# -- formulas ---------------------------------------------------------------------------------------------------------


def _run_proposal(space: Real, step_size: float, beta: float, seed: int, low: Any = None, high: Any = None) -> Any:
    """A one-step trajectory of MALA in float64, everything as NumPy."""
    energy, generator = _quartic(space), _generator(seed)
    n = 300
    x = space.random(n, generator).double()
    energies, gradient = evaluate(energy, x)
    momentum = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sizes = torch.full_like(x, math.sqrt(2 * step_size)) * torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64)
    end = leapfrog(energy, x, energies, gradient, momentum, sizes, torch.full((n,), beta, dtype=torch.float64), 1,
                   bounds_of(space, x))
    arrays = (x, gradient, momentum, end.x, end.gradient, end.momentum, end.kinetic, sizes)
    return [part.numpy() for part in arrays]


@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_the_proposal_ratio_of_mala_is_that_of_its_gaussians(beta: float, seed: int) -> None:
    """log q(x | y) − log q(y | x) at 300 random pairs, by SciPy's normal densities, to 1e-10 in float64."""
    x, g, _, y, g_y, _, kinetic, sizes = _run_proposal(Real(3), 0.15, beta, seed)
    h = sizes**2 / 2  # ε c
    there = stats.norm.logpdf(y, x - h * beta * g, np.sqrt(2 * h)).sum(1)
    back = stats.norm.logpdf(x, y - h * beta * g_y, np.sqrt(2 * h)).sum(1)
    np.testing.assert_allclose(-kinetic, back - there, rtol=1e-10, atol=1e-10)


def test_the_proposal_ratio_with_reflection_is_that_of_the_paths(seed: int) -> None:
    """In a box, for the path there and its mirror image back: each a normal density at an unfolded point."""
    space = Real(3, low=-0.5, high=0.7)
    x, g, p, y, g_y, _, kinetic, sizes = _run_proposal(space, 0.4, 1.3, seed)
    h = sizes**2 / 2
    z = x - h * 1.3 * g + np.sqrt(2 * h) * p  # where the path would have ended without walls
    cell = np.floor((z + 0.5) / 1.2)
    odd = cell % 2 == 1
    folded = np.where(odd, -0.5 + (cell + 1) * 1.2 - (z + 0.5), z - cell * 1.2)
    np.testing.assert_allclose(folded, y, atol=1e-12)
    assert 0.2 < odd.mean() < 0.8
    mirrored = np.where(odd, -0.5 + (cell + 1) * 1.2 - (x + 0.5), x - cell * 1.2)  # x under the same folding
    there = stats.norm.logpdf(z, x - h * 1.3 * g, np.sqrt(2 * h)).sum(1)
    back = stats.norm.logpdf(mirrored, y - h * 1.3 * g_y, np.sqrt(2 * h)).sum(1)
    np.testing.assert_allclose(-kinetic, back - there, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("space", [Real(3), Real(3, low=-0.5, high=0.7), Real(3, low=-0.4)], ids=str)
def test_leapfrog_is_reversible_and_keeps_volume(space: Real, seed: int) -> None:
    """Back along the negated momentum to 1e-10; the determinant of the numerical Jacobian is ±1 to 1e-7."""
    energy, generator, n = _quartic(space), _generator(seed), 50
    x = space.random(n, generator).double()
    momentum = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sizes = 0.11 * torch.tensor([1.0, 0.6, 1.4], dtype=torch.float64).expand(x.shape)
    beta = torch.linspace(0.3, 2.0, n, dtype=torch.float64)

    def flow(x: torch.Tensor, momentum: torch.Tensor) -> Any:
        return leapfrog(energy, x, *evaluate(energy, x), momentum, sizes, beta, 7, bounds_of(space, x))

    end = flow(x, momentum)
    assert bool(end.usable.all())
    assert float((end.x - x).abs().mean()) > 0.1
    back = flow(end.x, -end.momentum)
    torch.testing.assert_close(back.x, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(-back.momentum, momentum, rtol=0, atol=1e-10)
    columns = []
    for site in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[site] = 1e-6
        ends = [flow(x + sign * nudge[:3], momentum + sign * nudge[3:]) for sign in (1, -1)]
        plus, minus = (torch.cat([at.x, at.momentum], 1) for at in ends)
        columns.append((plus - minus) / 2e-6)
    volume = torch.linalg.det(torch.stack(columns, dim=2)).abs()
    smooth = (volume - 1).abs() < 1e-7  # a nudge across the edge of a wall is not differentiable
    assert float(smooth.double().mean()) >= (1.0 if space.low is None else 0.9)


def test_one_leapfrog_step_of_hmc_is_a_step_of_mala(seed: int) -> None:
    """e = √(2ε): the same random numbers make the same chain."""
    energy = _quartic(Real(2))
    x = torch.randn(20, 2, generator=_generator(seed))
    states = []
    for kernel in (samplers.MALA(step_size=0.02), samplers.HMC(step_size=0.2, n_steps=1, jitter=0.0)):
        generator = _generator(seed + 1)
        state = kernel.init(energy, x, generator=generator)
        for _ in range(5):
            state, _ = kernel.step(energy, state, generator=generator, beta=1.7)
        states.append(state)
    torch.testing.assert_close(states[0].x, states[1].x, rtol=1e-5, atol=1e-6)


def test_the_number_of_leapfrog_steps_goes_evenly_through_its_range() -> None:
    kernel = samplers.create("hmc", n_steps=10, jitter=0.5)
    lengths = [kernel._length(step) for step in range(1000)]
    assert (min(lengths), max(lengths)) == (5, 15)
    assert abs(np.mean(lengths) - 10) < 0.05
    assert {samplers.create("hmc", n_steps=4, jitter=0.0)._length(step) for step in range(50)} == {4}


def test_sgld_is_its_formula(seed: int) -> None:
    """One step by NumPy: clipped by value, then by norm, preconditioned, scheduled, clamped to the bounds."""
    space = Real(3, low=-0.8, high=0.8)
    energy, generator = _quartic(space), _generator(seed)
    kernel = samplers.create("sgld", step_size=0.5, noise=0.3, clip_value=1.0, clip_norm=1.6,
                             precondition=[1.0, 0.5, 2], step_schedule=("polynomial", 4, 0.5),
                             noise_schedule=("geometric", 0.1, 10))
    state = kernel.init(energy, space.random(64, generator).double(), generator=generator)
    state = state._replace(step=torch.tensor(5))
    x, g, beta = state.x.numpy(), state.cache["gradient"].numpy(), 0.7
    c = np.array([1.0, 0.5, 2.0])
    xi = torch.empty(64, 3, dtype=torch.float64).normal_(generator=_copy(generator)).numpy()
    g = np.clip(g, -1, 1)
    norm = np.linalg.norm(g, axis=1, keepdims=True)
    assert 0.1 < (norm > 1.6).mean() < 0.9
    g = g * np.minimum(1, 1.6 / norm)
    wanted = x - 0.5 * (1 + 5 / 4) ** -0.5 * beta * c * g + 0.3 * 0.1**0.5 * np.sqrt(c) * xi
    after, _ = kernel.step(energy, state, generator=generator, beta=beta)
    np.testing.assert_allclose(after.x.numpy(), np.clip(wanted, -0.8, 0.8), rtol=1e-6, atol=1e-7)
    assert kernel.implied_temperature() == pytest.approx(0.09)
    assert kernel.implied_temperature(5) == pytest.approx(0.09 * 0.1 * 1.5)


def _copy(generator: torch.Generator) -> torch.Generator:
    other = torch.Generator()
    other.set_state(generator.get_state())
    return other


def test_noise_off_is_gradient_descent_and_uses_no_random_numbers() -> None:
    energy = de.from_callable(lambda x: 0.5 * x.square().sum(1), Real(2))
    kernel, generator = samplers.create("sgld", step_size=0.1, noise=0), _generator(0)
    before = generator.get_state()
    state = kernel.init(energy, torch.ones(3, 2), generator=generator)
    for _ in range(10):
        state, _ = kernel.step(energy, state, generator=generator)
    torch.testing.assert_close(state.x, torch.full((3, 2), 0.9**10))
    assert torch.equal(before, generator.get_state())
    assert kernel.implied_temperature() == 0


def test_schedules_are_their_formulas_and_go_on_after_a_resume() -> None:
    assert factor(("polynomial", 10, 0.55), 30) == pytest.approx(4**-0.55)
    assert [factor(("geometric", 0.01, 10), t) for t in (0, 5, 10, 99)] == pytest.approx([1, 0.1, 0.01, 0.01])
    assert [factor(("linear", 0.2, 10), t) for t in (0, 5, 10, 99)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert [factor(("cosine", 0.2, 10), t) for t in (0, 5, 10, 99)] == pytest.approx([1, 0.6, 0.2, 0.2])
    energy = _quartic(Real(2))
    kernel = samplers.create("sgld", step_schedule=("cosine", 0.01, 20))
    whole, first = _generator(1), _generator(1)
    through = kernel.init(energy, torch.zeros(4, 2), generator=whole)
    for _ in range(12):
        through, _ = kernel.step(energy, through, generator=whole)
    part = de.sample(energy, kernel, n_steps=5, burn_in=0, x0=torch.zeros(4, 2), seed=first)
    rest = de.sample(energy, kernel, n_steps=7, burn_in=0, x0=part.state, seed=first)
    assert torch.equal(rest.last, through.x)


def test_the_implied_temperature_is_the_temperature_of_small_steps(seed: int) -> None:
    """On E = x²/2 the variance is T/(1 − ε/2) exactly; 200,000 numbers have a relative standard error of 0.0032."""
    energy = de.from_callable(lambda x: 0.5 * x.square().sum(1), Real(4))
    kernel, generator = samplers.create("sgld", step_size=0.1, noise=0.2), _generator(seed)
    wanted = kernel.implied_temperature() / (1 - 0.05)
    state = kernel.init(energy, math.sqrt(wanted) * torch.randn(50_000, 4, generator=generator), generator=generator)
    for _ in range(20):
        state, _ = kernel.step(energy, state, generator=generator)
    assert kernel.implied_temperature() == pytest.approx(0.2)
    assert float(state.x.var()) == pytest.approx(wanted, rel=6 * 0.0032)


def test_every_kernel_says_its_temperature() -> None:
    read = samplers.implied_temperature
    assert read(samplers.create("langevin", noise_scale=0.5)) == 0.25
    assert read(samplers.create("sgld", step_size=1.0, noise=0.01)) == pytest.approx(5e-5)
    for name in ("gibbs", "mala", "hmc", "underdamped", "sgld", "langevin", "parallel-tempering", "alternate"):
        assert read(samplers.create(name)) == 1.0
    descent = ("sgld", {"noise": 0.0})
    assert read(samplers.create("alternate", kernels={"b": descent}, default=descent)) == 0
    with pytest.raises(SettingError, match="one temperature"):
        read(samplers.create("alternate", kernels={"b": descent}))


def test_underdamped_is_exact_on_a_gaussian_and_its_bias_falls_as_the_square_elsewhere(seed: int) -> None:
    """BAOAB keeps the variance of x on a normal for any stable step: 200,000 numbers, relative error 0.0032.

    On the double well the bias of E[x²] at steps 0.6 and 0.3 (standard error 0.001): at least 2.5 times smaller.
    """
    normal = de.from_callable(lambda x: 0.5 * x.square().sum(1), Real(4))
    kernel, generator = samplers.create("underdamped", step_size=1.0), _generator(seed)
    state = kernel.init(normal, torch.randn(50_000, 4, generator=generator), generator=generator)
    for _ in range(30):
        state, _ = kernel.step(normal, state, generator=generator)
    assert float(state.x.var()) == pytest.approx(1, rel=6 * 0.0032)
    wells = TwoStage(Real(2), "wells", 0.0, 1.0)
    start = wells.states(torch.rand(100_000, 2, generator=generator, dtype=torch.float64), 1.0)
    grid = np.linspace(-5, 5, 100_001)
    density = np.exp(-((grid**2 - 1) ** 2))
    truth = (grid**2 * density).sum() / density.sum()
    bias = {}
    for step_size in (0.6, 0.3):
        kernel = samplers.create("underdamped", step_size=step_size)
        state = kernel.init(wells, start, generator=generator)
        for _ in range(round(9 / step_size)):
            state, _ = kernel.step(wells, state, generator=generator)
        bias[step_size] = abs(float(state.x[:, 0].square().mean()) - truth)
    assert bias[0.6] > 2.5 * bias[0.3] - 6 * 0.003
    assert bias[0.6] > 6 * 0.0025


# -- moments, adaptation, tempering, products -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "low", "high"), [("mala", 0.524, 0.624), ("hmc", 0.74, 0.86), ("ghmc", 0.85, 0.95)])
def test_the_burn_in_finds_the_step_and_moments_are_within_their_errors(
        name: str, low: float, high: float, seed: int) -> None:
    """A correlated normal in 3 dimensions, from a step a few times too short: acceptance near its target, moments
    within 7 standard errors from the scatter of 64 independent chains (t with 63 degrees of freedom: 2e-9 each)."""
    energy = CorrelatedNormal(Real(3), 5)
    chains = de.sample(energy, samplers.create(name, step_size=0.1), n_chains=64, n_steps=500, burn_in=250, seed=seed)
    assert low < chains.acceptance_rate < high
    covariance = energy.factor @ energy.factor.t()
    per_chain = chains.x.double().mean(0)
    error = per_chain.std(0) / math.sqrt(64)
    assert bool(((per_chain.mean(0) - energy.mean).abs() < 7 * error).all())
    squares = (chains.x.double() - energy.mean).square().mean(0)
    assert bool(((squares.mean(0) - covariance.diagonal()).abs() < 7 * squares.std(0) / math.sqrt(64)).all())


def test_an_estimated_diagonal_is_the_variances_and_helps(seed: int) -> None:
    """Deviations 0.1, 1 and 10: the factors are their squares over the geometric mean, within 30 %; jumps grow."""
    deviation = torch.tensor([0.1, 1.0, 10.0])
    energy = de.from_callable(lambda x: 0.5 * (x / deviation).square().sum(1), Real(3))
    found = {}
    for precondition in (None, "estimate"):
        kernel = samplers.create("hmc", step_size=0.05, n_steps=5, precondition=precondition)
        chains = de.sample(energy, kernel, n_chains=64, n_steps=300, burn_in=240, seed=seed,
                           x0=deviation * torch.randn(64, 3, generator=_generator(seed)))
        found[precondition] = chains
        assert 0.7 < chains.acceptance_rate < 0.9
    factors = found["estimate"].state.cache["log_precondition"][0].exp()
    torch.testing.assert_close(factors, deviation.square(), rtol=0.35, atol=0)
    jumps = [float(found[key].x[..., 2].diff(dim=0).square().mean()) for key in (None, "estimate")]
    assert jumps[1] > 20 * jumps[0]
    again = de.sample(energy, kernel, n_steps=3, burn_in=0, x0=found["estimate"].state, seed=0)
    assert torch.equal(again.state.cache["log_precondition"], found["estimate"].state.cache["log_precondition"])


@pytest.mark.parametrize("name", ["mala", pytest.param("hmc", marks=pytest.mark.slow)])
def test_parallel_tempering_around_a_kernel_for_reals_keeps_the_law(name: str, seed: int) -> None:
    """Replicas at exact draws of their own temperatures; false-fail 1e-7 in the suite."""
    inner = samplers.MALA(step_size=0.2) if name == "mala" else samplers.HMC(step_size=0.4, n_steps=2)
    report = check_sampler("parallel-tempering", seed=seed, inner=inner, n_replicas=3, lowest=0.3,
                           targets=[Target("Real mixture", TwoStage(Real(2), "mixture", 0.0, 0.8), None, depth="law")])
    assert report.passed


@pytest.mark.slow
def test_parallel_tempering_finds_the_weights_of_far_modes_where_hmc_alone_does_not(seed: int) -> None:
    """Normals at ±4 of deviation 0.5, weights 0.25 and 0.75; all chains start at the light one."""
    parts = torch.tensor([0.25, 0.75]).log()

    def energy_of(x: torch.Tensor) -> torch.Tensor:
        at = torch.stack([(x + 4).square().sum(1), (x - 4).square().sum(1)], 1) / (2 * 0.25)
        return -(parts - at).logsumexp(1)

    energy = de.from_callable(energy_of, Real(2))
    hmc_kernel = samplers.create("hmc", step_size=0.3, n_steps=4)
    start = torch.full((64, 2), -4.0)
    alone = de.sample(energy, hmc_kernel, x0=start, n_steps=100, seed=seed)
    assert float((alone.x[..., 0] > 0).double().mean()) < 0.01
    tempered = samplers.create("parallel-tempering", inner=hmc_kernel, n_replicas=6, lowest=0.02)
    chains = de.sample(energy, tempered, x0=start, n_steps=500, burn_in=200, seed=seed)
    heavy = (chains.x[..., 0] > 0).double().mean(0)
    assert abs(float(heavy.mean()) - 0.75) < 7 * float(heavy.std()) / math.sqrt(64)
    assert float(heavy.std()) / math.sqrt(64) < 0.03


@pytest.mark.parametrize("name", [*EXACT, "underdamped"])
def test_products_alternate_with_kernels_for_reals(name: str, seed: int) -> None:
    """p(a, b) ∝ exp(−(1 + a) b²/2 + 0.4 a), a a bit: P(a = 1) = s/(1 + s), s = e^0.4/√2; b | a ~ N(0, 1/(1 + a))."""
    energy = de.from_callable(lambda e: 0.5 * (1 + e["a"][:, 0]) * e["b"].square().sum(1) - 0.4 * e["a"][:, 0],
                              Product({"a": Binary(1), "b": Real(1)}))
    kernel = samplers.create("alternate", kernels={"b": (name, {"step_size": 0.3})})
    generator = _generator(seed)
    share = math.exp(0.4) / math.sqrt(2)
    share /= 1 + share
    n = 40_000
    a = (torch.rand(n, 1, generator=generator) < share).double()
    b = torch.randn(n, 1, generator=generator, dtype=torch.float64) / (1 + a).sqrt()
    state = kernel.init(energy, torch.cat([a, b], 1), generator=generator)
    for _ in range(10):
        state, _ = kernel.step(energy, state, generator=generator)
    a, b = state.x.numpy().T
    cells = (a * 10 + np.clip(np.floor(stats.norm.cdf(b * np.sqrt(1 + a)) * 10), 0, 9)).astype(int)
    law = np.repeat([1 - share, share], 10) / 10
    statistical.assert_law(np.bincount(cells, minlength=20), law, false_fail=FAMILY, must_see=0.05)


# -- bad input and bad energies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EXACT, *BIASED])
def test_an_energy_that_turns_nan_stops_the_run_and_names_chains(name: str) -> None:
    energy = de.from_callable(lambda x: torch.where(x.sum(1) > 1, torch.nan, 0.5 * x.square().sum(1)), Real(2))
    with pytest.raises(NonFiniteEnergyError, match="chains"):
        de.sample(energy, name, n_chains=32, n_steps=400, x0=torch.zeros(32, 2), seed=0)


@pytest.mark.parametrize("name", EXACT)
def test_infinite_energies_are_walls_for_exact_kernels(name: str) -> None:
    energy = de.from_callable(lambda x: torch.where(x[:, 0] > 0, torch.inf, 0.5 * x.square().sum(1)), Real(2))
    chains = de.sample(energy, name, n_steps=200, x0=torch.full((16, 2), -0.5), seed=0)
    assert float(chains.x[..., 0].max()) <= 0
    assert 0.1 < chains.acceptance_rate < 1


@pytest.mark.parametrize("name", EXACT)
def test_steps_far_too_long_are_rejected_not_fatal(name: str) -> None:
    """x⁴ − x² with a step of 10⁴: the energy overflows to inf − inf along the way; chains stay, and adapt."""
    energy = de.from_callable(lambda x: (x.pow(4) - x.square()).sum(1), Real(2))
    kernel = samplers.create(name, step_size=100.0)
    chains = de.sample(energy, kernel, n_chains=16, n_steps=300, burn_in=200, seed=0)
    assert chains.acceptance_rate > 0.3
    assert float(chains.x.abs().max()) < 10


@pytest.mark.parametrize("name", [*EXACT, *BIASED])
def test_a_discrete_space_is_refused(name: str) -> None:
    with pytest.raises((SettingError, CapabilityError), match="Real"):
        de.sample(de.energies.Ising.lattice((3, 3), 0.4), name, n_chains=2, n_steps=3)
    energy = de.from_callable(lambda e: e["b"].square().sum(1), Product({"a": Binary(1), "b": Real(1)}))
    with pytest.raises(CapabilityError, match="alternate"):
        samplers.create(name).init(energy, energy.space.random(2, _generator(0)), generator=_generator(0))


@pytest.mark.parametrize(("name", "settings", "said"), [
    ("mala", {"step_size": 0.0}, "`step_size` must be a finite number above 0"),
    ("mala", {"bounds": "clip"}, "`bounds` must be 'reflect' or 'reject'"),
    ("hmc", {"n_steps": 0}, "`n_steps` must be a whole number"),
    ("hmc", {"jitter": 1.5}, "`jitter` must be from 0 to 1"),
    ("hmc", {"precondition": "best"}, "`precondition` must be None"),
    ("hmc", {"precondition": (1.0, -1.0)}, "`precondition` must be a finite number above 0"),
    ("ghmc", {"persistence": 1.0}, "`persistence` must be at least 0 and below 1"),
    ("sgld", {"noise": -1.0}, "`noise` must be None or a finite number"),
    ("sgld", {"clip_norm": 0.0}, "`clip_norm` must be"),
    ("sgld", {"step_schedule": ("steps", 3)}, "`step_schedule` must be a schedule"),
    ("sgld", {"noise_schedule": ("geometric", 0.0, 10)}, "`noise_schedule` must be a schedule"),
    ("sgld", {"precondition": "estimate"}, "`precondition` must be None or one factor"),
    ("underdamped", {"friction": math.inf}, "`friction` must be finite"),
])
def test_wrong_settings_get_a_sentence(name: str, settings: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        samplers.create(name, **settings)


def test_a_diagonal_of_another_length_gets_a_sentence() -> None:
    energy = _quartic(Real(3))
    with pytest.raises(SettingError, match="must hold 3 factors"):
        samplers.create("mala", precondition=(1.0, 2.0)).init(energy, torch.zeros(2, 3), generator=_generator(0))


@pytest.mark.parametrize("name", [*EXACT, *BIASED])
def test_one_gradient_a_step_and_float64_throughout(name: str) -> None:
    calls = []

    def energy_of(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return 0.5 * x.square().flatten(1).sum(1)

    energy = de.from_callable(energy_of, Real((2, 2), low=-3.0, high=3.0))
    kernel, generator = samplers.create(name), _generator(0)
    state = kernel.init(energy, torch.zeros(5, 2, 2, dtype=torch.float64), generator=generator)
    calls.clear()
    state, info = kernel.step(energy, state, generator=generator)
    assert len(calls) == info.gradient_calls == info.energy_calls
    assert state.x.dtype == torch.float64
    assert state.x.shape == (5, 2, 2)
    assert len(calls) == (kernel._length(0) if name == "hmc" else 1)


def test_kernels_are_what_the_registry_says() -> None:
    assert isinstance(samplers.create("mala"), mala.MALA)
    assert isinstance(samplers.MALA(), Kernel)
    for name in (*EXACT, *BIASED):
        assert samplers.spec(name).exact == (name in EXACT) == samplers.create(name).exact
    assert isinstance(samplers.create("ghmc").init(_quartic(Real(2)), torch.zeros(1, 2), generator=_generator(0)),
                      ChainState)
