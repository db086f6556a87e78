"""Densities in the plane and quadrature: normalised, scores are derivatives, draws follow, exact answers are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

import discrete_ebm as de
from discrete_ebm.datasets import densities
from discrete_ebm.errors import NonFiniteEnergyError, SettingError, SpaceError
from tests.statistical import assert_law


@pytest.fixture(scope="module", params=densities.names())
def density(request):
    return densities.create(request.param)


def test_mass_is_one_and_draws_follow_it(density):
    """log Z by the midpoint rule; 4,000 draws against 20 × 20 cells by χ², a false failure in 1e7 each."""
    law = de.evaluate.quadrature(density, 120)
    assert law.log_z == pytest.approx(0.0, abs=1e-7)
    assert law.error < 1e-6
    x = density.sample(4000, seed=1)
    assert x.dtype == torch.float32
    cells = ((x.double() + 4) / 0.4).floor().clamp(0, 19).long()
    counts = np.bincount((cells[:, 0] * 20 + cells[:, 1]).numpy(), minlength=400)
    assert_law(counts, law.cells(20).numpy(), false_fail=1e-7, must_see=0.3)
    found, floor = law.sample_total_variation(x)
    assert found == pytest.approx(floor, rel=0.35)
    assert law.sample_total_variation(x + 0.3)[0] > 2 * floor


def test_the_score_is_the_derivative_of_log_p(density):
    if isinstance(density, densities.Checkerboard):
        return
    x = density.sample(5, seed=2).double()
    for axis in range(2):
        step = torch.zeros(2).double()
        step[axis] = 1e-6
        slope = (density.log_prob(x + step) - density.log_prob(x - step)) / 2e-6
        torch.testing.assert_close(density.score(x)[:, axis], slope, rtol=1e-5, atol=1e-5)


def test_mixtures_moons_and_rings_are_their_formulas():
    x = torch.tensor([[0.3, -1.1], [1.0, 0.2]]).double()
    mixture = densities.GaussianMixture([[0.0, 1.0], [2.0, 0.0]], [0.5, 1.5], [1.0, 3.0])
    p = sum(w * np.exp(-((x.numpy() - m) ** 2).sum(1) / (2 * s**2)) / (2 * np.pi * s**2)
            for w, m, s in ((0.25, [0.0, 1.0], 0.5), (0.75, [2.0, 0.0], 1.5)))  # fmt: skip
    np.testing.assert_allclose(mixture.log_prob(x).exp().numpy(), p, rtol=1e-12)
    np.testing.assert_allclose(mixture.blurred(2.0).std.numpy() ** 2, [4.25, 6.25])

    def along(t, at, sign):
        here = sign * 1.8 * np.array([math.cos(t) - 0.5, math.sin(t) - 0.25])
        return math.exp(-((at - here) ** 2).sum() / (2 * 0.18**2)) / (2 * math.pi * 0.18**2) / math.pi

    arcs = [0.5 * sum(integrate.quad(along, 0, math.pi, (at, s), limit=200)[0] for s in (1, -1)) for at in x.numpy()]
    np.testing.assert_allclose(densities.moons().log_prob(x).exp().numpy(), arcs, rtol=1e-6)

    def around(t, at, r):
        here = r * np.array([math.cos(t), math.sin(t)])
        return math.exp(-((at - here) ** 2).sum() / (2 * 0.3**2)) / (2 * math.pi * 0.3**2) / (2 * math.pi)

    wanted = [integrate.quad(around, 0, 2 * math.pi, (at, 1.0))[0] / 3 + integrate.quad(
        around, 0, 2 * math.pi, (at, 2.0))[0] * 2 / 3 for at in x.numpy()]  # fmt: skip
    np.testing.assert_allclose(densities.rings((1.0, 2.0), 0.3).log_prob(x).exp().numpy(), wanted, rtol=1e-6)


def test_quadrature_of_gaussians_is_their_closed_forms():
    p, q = (densities.GaussianMixture([[m, 0.0]], s, edge=6.0) for m, s in ((0.0, 0.5), (1.0, 0.8)))
    a, b = (de.evaluate.quadrature(one, 160) for one in (p, q))
    kl = 2 * math.log(0.8 / 0.5) + (2 * 0.25 + 1.0) / (2 * 0.64) - 1
    assert a.kl(b) == pytest.approx(kl, rel=1e-8)
    mean, covariance = b.moments()
    np.testing.assert_allclose(mean.numpy(), [1.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(covariance.numpy(), 0.64 * np.eye(2), atol=1e-6)
    assert a.total_variation(a) == 0.0
    line = de.from_callable(lambda x: x.square().sum(1) / 2, de.Real(1))
    assert de.evaluate.quadrature(line, 400, low=-9, high=9).log_z == pytest.approx(math.log(2 * math.pi) / 2, abs=1e-9)


def test_wrong_questions_get_a_sentence():
    free = de.from_callable(lambda x: x.square().sum(1), de.Real(2))
    with pytest.raises(SpaceError, match="`low` must be given"):
        de.evaluate.quadrature(free)
    with pytest.raises(SpaceError, match="must be Real"):
        de.evaluate.quadrature(de.energies.Ising.lattice((2, 2), 0.1))
    with pytest.raises(SpaceError, match="even whole number"):
        de.evaluate.quadrature(free, 5, low=-1, high=1)
    with pytest.raises(SettingError, match="below `high`"):
        de.evaluate.quadrature(free, 10, low=1, high=-1)
    with pytest.raises(NonFiniteEnergyError, match="NaN"):
        de.evaluate.quadrature(de.from_callable(lambda x: x.sum(1) * math.nan, de.Real(2)), 10, low=-1, high=1)
    one, two = (de.evaluate.quadrature(free, 10, low=-edge, high=edge) for edge in (1, 2))
    with pytest.raises(SettingError, match="same grid"):
        one.kl(two)
    with pytest.raises(SettingError, match="divide"):
        one.cells(3)
    with pytest.raises(SettingError, match="`name`"):
        densities.create("spiral")
    with pytest.raises(SettingError, match="`n`"):
        densities.checkerboard(3)
    with pytest.raises(SettingError, match="`radii`"):
        densities.rings((5.0,))
    with pytest.raises(SettingError, match="`std`"):
        densities.GaussianMixture([[0.0, 0.0]], -1.0)
