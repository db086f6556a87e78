"""Promise 10: diagnostics do not flatter, and agree with ArviZ to 1e-6 relative on ordinary input."""

import importlib
import math
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm.diagnostics import (
    DiagnosticWarning,
    autocorrelation,
    autocorrelation_time,
    convergence,
    ess,
    frozen,
    mcse,
    rhat,
    squared_jump,
    summarize,
)
from discrete_ebm.diagnostics import blocks as blocks_module
from tests.autoregressive import ar1

acf_module = importlib.import_module("discrete_ebm.diagnostics.autocorrelation")  # hidden by its function


def arviz_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    arviz.Numba.disable_numba()  # its mcse of the sd does not run with numba and a recent NumPy
    return arviz


def cases():
    g = torch.Generator().manual_seed(5)
    sticky = (ar1(300, 4, 0.9, 1) > 0.3).to(torch.int8)
    yield "iid", torch.randn(500, 4, generator=g, dtype=torch.float64)
    yield "ar1", ar1(501, 3, 0.95, 2)
    yield "anti-correlated", ar1(400, 4, -0.6, 3)
    yield "binary", sticky
    yield "spin", 2 * sticky - 1
    yield "five values", (ar1(350, 5, 0.7, 4).clamp(-2, 2).round()).to(torch.int64)
    yield "levels of a lattice energy", (ar1(400, 4, 0.8, 14) * 5).round().float() * 0.44
    yield "shifted chain", torch.randn(200, 4, generator=g, dtype=torch.float64) + torch.tensor([0.0, 0, 0, 2.0])
    yield "different scales", torch.randn(200, 4, generator=g, dtype=torch.float64) * torch.tensor([1.0, 1, 1, 9.0])
    yield "heavy tails", torch.empty(300, 4, dtype=torch.float64).cauchy_(generator=g)
    yield "large numbers", 1e6 + ar1(200, 4, 0.5, 6)
    for n_draws in range(4, 14):
        yield f"{n_draws} draws", torch.randn(n_draws, 2, generator=g, dtype=torch.float64)


CASES = [pytest.param(draws, id=name) for name, draws in cases()]


def for_arviz(draws):
    return np.ascontiguousarray(draws.numpy().T.astype(float))


def assert_agrees(own, other, rel=1e-6):
    assert float(own) == pytest.approx(float(np.squeeze(other)), rel=rel, abs=1e-300)


# -- agreement with ArviZ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", CASES)
def test_ess_mcse_and_rhat_agree_with_arviz_to_1e_6(draws):
    az, array = arviz_module(), for_arviz(draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_agrees(ess(draws), az.ess(array))
        assert_agrees(rhat(draws), az.rhat(array))
        assert_agrees(mcse(draws), az.mcse(array))
        for kind in ("tail", "mean", "sd", "median"):
            assert_agrees(ess(draws, kind), az.ess(array, method=kind))
        assert_agrees(mcse(draws, "sd"), az.mcse(array, method="sd"))
        assert_agrees(mcse(draws, "median"), az.mcse(array, method="median"))
        assert_agrees(ess(draws, "tail", 0.1), az.ess(array, method="tail", prob=(0.1, 0.9)))
        for prob in (0.05, 0.3):
            assert_agrees(ess(draws, "quantile", prob), az.ess(array, method="quantile", prob=prob))
            assert_agrees(mcse(draws, "quantile", prob), az.mcse(array, method="quantile", prob=prob))


@pytest.mark.parametrize("draws", CASES)
def test_the_autocorrelation_agrees_with_arviz(draws):
    array = for_arviz(draws)
    own = autocorrelation(draws)
    assert own.shape == draws.shape
    assert np.abs(own.numpy().T - arviz_module().autocorr(array)).max() < 1e-9
    assert torch.equal(autocorrelation(draws, 2), own[:3])


def test_the_summary_agrees_with_arvizs():
    az = arviz_module()
    chains = de.sample(de.energies.Ising.lattice((3, 3), 0.3, 0.1), "gibbs", n_chains=4, n_steps=260, burn_in=60)
    own = chains.summary()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = chains.to_arviz()
        stats = [az.summary(data, round_to="none"),
                 az.summary(data, group="sample_stats", var_names=["energy"], round_to="none")]
    theirs = {name: row for table in stats for name, row in table.iterrows()}
    assert len(own) == 10
    for name, row in own.to_dict().items():
        for column, value in row.items():
            assert_agrees(value, theirs[name][{"rhat": "r_hat"}.get(column, column)], rel=1e-6)


def test_the_inference_data_feed_arvizs_energy_and_rank_plots():
    az = arviz_module()
    matplotlib = pytest.importorskip("matplotlib")
    chains = de.sample(ISING, "gibbs", n_chains=4, n_steps=30, burn_in=10, beta=torch.tensor([1.0, 1, 0.5, 0.5]))
    data = chains.to_arviz()
    assert data.posterior["x"].shape == (4, 20, 3, 4)
    assert data.posterior.attrs["inference_library"] == "discrete_ebm"
    for name in ("energy", "lp", "acceptance_rate"):
        assert data.sample_stats[name].dims == ("chain", "draw")
    assert np.allclose(data.sample_stats["lp"][2], -0.5 * data.sample_stats["energy"][2])
    assert np.array_equal(data.sample_stats["acceptance_rate"][:, 7], chains.acceptance.numpy())
    with matplotlib.rc_context({"backend": "Agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az.plot_energy(data, backend="matplotlib")
        az.plot_rank(data, var_names=["x"], coords={"x_dim_0": 0})
        import matplotlib.pyplot as plt

        plt.close("all")


# -- closed forms -----------------------------------------------------------------------------------------------------

ISING = de.energies.Ising.lattice((3, 4), coupling=0.3)


def check_tau(estimate, phi, n_draws, n_chains, sds=6.0):
    """τ of AR(1) is (1 + φ)/(1 − φ). Sokal 1997, eq. 3.19: a window M of n draws gives a relative variance of
    2(2M + 1)/n, M = 5τ for Sokal's (Geyer's is no wider here), and a relative bias of about −(2M + 1)/S from each
    chain's mean. Six standard deviations: 2e-9 of false failures a figure."""
    tau = (1 + phi) / (1 - phi)
    window = 5 * tau
    sd = math.sqrt(2 * (2 * window + 1) / (n_draws * n_chains))
    bias = (2 * window + 1) / n_draws
    assert abs(float(estimate) / tau - 1) < sds * sd + bias, f"{float(estimate)} for {tau}: sd {sd}, bias {bias}"
    assert sds * sd + bias < 0.25, "the test must be able to see an error of 25 %"


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_ar1_autocorrelation_time_is_the_closed_form(phi, seed):
    n_draws, n_chains = 40_000, 20
    draws = ar1(n_draws, n_chains, phi, seed)
    for window in ("geyer", "sokal"):
        check_tau(autocorrelation_time(draws, window), phi, n_draws, n_chains)
    check_tau(n_draws * n_chains / ess(draws), phi, n_draws, n_chains)
    rho = autocorrelation(draws, 3).mean(1)
    # Bartlett: the variance of ρ(1) of AR(1) is (1 − φ²)/n; those of ρ(2), ρ(3) are at most (1 + 2φ²/(1 − φ²))/n
    for lag in (1, 2, 3):
        limit = math.sqrt((1 + 2 * phi**2 / (1 - phi**2)) / (n_draws * n_chains))
        assert abs(float(rho[lag]) - phi**lag) < 6 * limit + 4 / ((1 - phi) * n_draws)


def test_the_error_of_the_mean_covers_the_truth(seed):
    # 100 independent AR(1) quantities with mean 0: mean / mcse is near N(0, 1), so its mean square has a standard
    # deviation of sqrt(2/100) = 0.14; six of them either way, and some percent of bias from the estimate of the ESS.
    draws = torch.stack([ar1(400, 4, 0.6, seed * 1000 + i) for i in range(100)], -1)
    z = draws.mean((0, 1)) / mcse(draws)
    assert 0.15 < float(z.square().mean()) < 1.9
    sds = draws.flatten(0, 1).std(0)
    z = (sds - math.sqrt(1 / (1 - 0.36))) / mcse(draws, "sd")
    assert 0.15 < float(z.square().mean()) < 1.9


@pytest.mark.parametrize("kind", ["normal", "binary"])
def test_iid_draws_have_an_ess_within_ten_percent_of_their_number(kind):
    # n = 80,000: over 500 other quantities the relative deviation was -0.5 % on average with standard deviation 1.1 %
    # and at most 4.9 %, so ten quantities at a fixed seed stay inside 10 % (9 standard deviations).
    g = torch.Generator().manual_seed(0)
    shape = (20000, 4, 10)
    draws = torch.randn(shape, generator=g) if kind == "normal" else torch.randint(0, 2, shape, generator=g)
    assert bool(((ess(draws) / 80000 - 1).abs() < 0.10).all())


def test_tau_is_the_number_of_draws_over_the_ess_and_short_chains_are_told():
    draws = ar1(2000, 4, 0.5, 3)
    assert_agrees(autocorrelation_time(draws), 8000 / float(ess(draws, "mean")), rel=1e-12)
    with pytest.warns(DiagnosticWarning, match="should last 50 tau; got 200 draws"):
        autocorrelation_time(ar1(200, 4, 0.95, 3), "sokal")


def test_modes_that_chains_do_not_leave_show_in_the_autocorrelation_time():
    draws = ar1(1000, 4, 0.2, 5) * 0.1 + torch.tensor([-1.0, -1.0, 1.0, 1.0])
    for window in ("geyer", "sokal"):
        with pytest.warns(DiagnosticWarning, match="too small"):
            assert float(autocorrelation_time(draws, window)) > 300
    assert float(autocorrelation(draws, 1)[1].max()) < 0.4  # around each chain's own mean nothing is seen


# -- quantities alone, in parts, on their device ----------------------------------------------------------------------


def test_every_quantity_is_treated_alone_and_in_chunks_alike(monkeypatch):
    columns = ar1(400, 4, -0.6, 3)
    many = torch.stack([columns, ar1(400, 4, 0.5, 8), ar1(400, 4, 0.99, 9)], dim=-1).reshape(400, 4, 3, 1)
    spins = (many > 0).to(torch.int8)

    def figures():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticWarning)
            return [ess(many), ess(many, "tail"), rhat(many), mcse(many, "sd"), mcse(many, "median"),
                    autocorrelation(many, 9), autocorrelation_time(many), autocorrelation_time(many, "sokal"),
                    squared_jump(spins, de.Spin((3, 1))), squared_jump(many, de.Real((3, 1))), frozen(many),
                    *summarize({"x": many}).columns.values()]

    together = figures()
    assert together[0].shape == (3, 1)
    monkeypatch.setattr(blocks_module, "CHUNK", 1)
    for one, other in zip(together, figures(), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)
    assert torch.allclose(together[0][1, 0], ess(many[:, :, 1, 0]), rtol=1e-12)


def test_many_sites_stay_within_the_stated_memory():
    # 60,000 sites x 200 draws x 2 chains: 24 million numbers, which as float64 with all that is made of them would take
    # gigabytes. In a process of its own, because the peak of a process only grows.
    code = (
        "import resource, torch, discrete_ebm.diagnostics as d\n"
        "g = torch.Generator().manual_seed(0)\n"
        "x = torch.randint(0, 2, (200, 2, 60_000), dtype=torch.int8, generator=g)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6\n"
        "d.ess(x[:, :, :10]); before = peak(); d.ess(x); d.squared_jump(x, d.moves.Real(60_000)); d.frozen(x)\n"
        "print(peak() - before)\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.42


@pytest.mark.gpu
def test_everything_works_where_the_draws_are():
    draws = torch.stack([ar1(400, 4, 0.5, 8), ar1(400, 4, 0.9, 9)], dim=-1)
    there = draws.cuda()
    for function in (ess, rhat, mcse, autocorrelation, autocorrelation_time, frozen,
                     lambda x: ess(x, "tail"), lambda x: ess(x, "sd"), lambda x: mcse(x, "quantile", 0.9),
                     lambda x: mcse(x, "sd"), lambda x: autocorrelation_time(x, "sokal"),
                     lambda x: squared_jump(x, de.Real(2))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagnosticWarning)
            own, expected = function(there), function(draws)
        assert own.device.type == "cuda"
        assert torch.allclose(own.cpu().double(), expected.double(), rtol=1e-8)
    assert str(summarize({"x": there})) == str(summarize({"x": draws}))


# -- nothing flatters -------------------------------------------------------------------------------------------------


def test_a_constant_chain_has_an_ess_of_0_and_the_warning_names_the_chains_and_a_way_out():
    for draws in (torch.zeros(100, 4), torch.full((100, 4), 0.1), torch.zeros(100, 4, 5)):
        with pytest.warns(DiagnosticWarning, match="is 0: chains 0, 1, 2, 3 of 4 never .*lower beta, run longer"):
            assert not bool(ess(draws).any())
        for kind in ("tail", "mean", "sd", "median"):
            with pytest.warns(DiagnosticWarning, match="`ess` is 0: chains 0, 1, 2, 3 of 4 never changed"):
                assert not bool(ess(draws, kind).any())
        with pytest.warns(DiagnosticWarning, match="`mcse` is inf"):
            assert bool((mcse(draws) == math.inf).all())
        with pytest.warns(DiagnosticWarning, match="`rhat` is nan"):
            assert bool(rhat(draws).isnan().all())
        with pytest.warns(DiagnosticWarning, match="`autocorrelation_time` is inf"):
            assert bool((autocorrelation_time(draws) == math.inf).all())
        with pytest.warns(DiagnosticWarning, match="nan for .* never changed"):
            assert bool(autocorrelation(draws)[1:].isnan().all())


def test_frozen_sites_among_moving_ones_have_an_ess_of_0_and_are_named():
    draws = torch.stack([torch.ones(100, 4, dtype=torch.float64), ar1(100, 4, 0.1, 0)], -1)[:, :, :, None]
    with pytest.warns(DiagnosticWarning, match=r"`ess` is 0 for 1 of 2 quantities that never .*\(at \(0, 0\)\)"):
        value = ess(draws).flatten()
    assert float(value[0]) == 0
    assert float(value[1]) > 100
    with pytest.warns(DiagnosticWarning, match="nan for 1 of 2"):
        value = rhat(draws).flatten()
    assert math.isnan(float(value[0]))
    assert math.isfinite(float(value[1]))


def test_a_frozen_chain_among_moving_ones_is_named():
    draws = ar1(100, 4, 0.1, 0)
    draws[:, 2] = 0.01
    with pytest.warns(DiagnosticWarning, match="`ess`: chains 2 of 4 never changed in 100 draws, so they count for"):
        assert 0 < float(ess(draws)) <= 300
    many = torch.stack([draws, draws + 1], -1)
    with pytest.warns(DiagnosticWarning, match="chains 2 of 4") as told:
        ess(many)
    assert len(told) == 1
    many[:, 2, 1] = ar1(100, 1, 0.1, 1)[:, 0]  # the chain moves at one of two sites: no frozen chain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ess(many)
    assert frozen(many).tolist() == [[False, False], [False, False], [True, False], [False, False]]


def test_sites_that_hardly_any_chain_moves_are_told():
    x = torch.zeros(50, 4, 30, dtype=torch.int8)
    for site in range(30):
        x[25:, site % 4, site] = 1
    with pytest.warns(DiagnosticWarning, match=r"75% of the pairs of a chain and a quantity never changed"):
        ess(x)


def test_chains_frozen_at_different_values_have_no_ess_and_infinite_rhat():
    draws = torch.arange(4.0).expand(100, 4)
    with pytest.warns(DiagnosticWarning, match="`ess` is 0: chains 0, 1, 2, 3 of 4"):
        assert float(ess(draws)) == 0
    with pytest.warns(DiagnosticWarning, match="`rhat` is inf: chains 0, 1, 2, 3 of 4"):
        assert float(rhat(draws)) == math.inf


def test_half_stuck_chains_do_not_count_as_draws():
    g = torch.Generator().manual_seed(3)
    draws = torch.randn(400, 4, generator=g, dtype=torch.float64)
    draws[:, :2] = draws.median()  # two chains frozen where the others have their centre: means agree by luck
    with pytest.warns(DiagnosticWarning, match="chains 0, 1 of 4"):
        assert float(ess(draws)) <= 800
    late = torch.randn(400, 4, generator=g, dtype=torch.float64)
    late[200:] = late[199:200]  # all freeze half-way
    assert float(ess(late)) < 100
    assert float(rhat(late)) > 1.1
    binary = torch.randint(0, 2, (400, 4), generator=g)
    binary[:, :2] = 0
    with pytest.warns(DiagnosticWarning, match="chains 0, 1 of 4"):
        assert float(ess(binary)) < 20
    with pytest.warns(DiagnosticWarning, match="chains 0, 1 of 4"):
        assert float(rhat(binary)) > 1.2


def test_the_tail_of_a_discrete_quantity_is_that_of_its_rare_value_on_either_side():
    g = torch.Generator().manual_seed(4)
    rare = (ar1(2000, 4, 0.9, 8) > 4.8).long()
    assert 0.001 < float(rare.double().mean()) < 0.05
    mirrored = 1 - rare  # ArviZ calls all 8,000 draws effective here: no draw lies above the quantiles
    assert float(ess(mirrored, "tail")) == pytest.approx(float(ess(rare, "tail")), rel=1e-9)
    assert float(ess(rare, "tail")) < 4000
    three = torch.randint(0, 3, (300, 2), generator=g)
    assert float(ess(three, "tail")) <= 600


def test_only_the_middle_draw_of_an_odd_number_differing_counts_for_nothing():
    draws = torch.zeros(9, 2, dtype=torch.float64)
    draws[4] = 1
    for kind in ("bulk", "tail", "mean", "sd", "median"):
        assert float(ess(draws, kind)) == 0, kind


def test_a_period_two_chain_is_not_called_efficient():
    draws = (torch.arange(100)[:, None] + torch.arange(4)[None]) % 2
    with pytest.warns(DiagnosticWarning, match="period two"):
        assert float(ess(draws)) == 0
    with pytest.warns(DiagnosticWarning, match="period two"):
        assert math.isnan(float(rhat(draws)))


def test_non_finite_draws_and_short_chains_give_nan_with_a_warning():
    draws = ar1(50, 2, 0.1, 1)
    draws[3, 1] = math.inf
    with pytest.warns(DiagnosticWarning, match="not finite"):
        assert math.isnan(float(ess(draws)))
    with pytest.warns(DiagnosticWarning, match="at least 4 draws"):
        assert math.isnan(float(ess(draws[:3])))
    with pytest.warns(DiagnosticWarning, match="0 chains"):
        assert ess(torch.zeros(50, 0, 3)).isnan().all()
    assert ess(torch.zeros(50, 2, 0)).shape == (0,)


# -- planted bugs -----------------------------------------------------------------------------------------------------


def _patched(target, name, wrong):
    @contextmanager
    def plant():
        with mock.patch.object(target, name, wrong):
            yield

    return plant


def _constant_counts_as_iid(block):
    return torch.where(block.moving < 2, float(block.values[0].numel()), convergence.effective(block.scores))


_true_power, _true_correlations, _true_quantile = convergence._power, convergence.correlations, convergence.quantile

MUTANTS = {
    "circular instead of padded FFT": (
        _patched(convergence, "_padded", lambda n: n + n % 2),
        lambda: test_the_autocorrelation_agrees_with_arviz(ar1(501, 3, 0.95, 2))),
    "mean not removed": (
        _patched(convergence, "_power", lambda z: torch.fft.rfft(z, n=convergence._padded(z.shape[-1])).abs() ** 2),
        lambda: test_the_autocorrelation_agrees_with_arviz(1 + ar1(501, 3, 0.95, 2))),
    "disagreement between chains left out": (
        _patched(convergence, "correlations", lambda z: _true_correlations(z - z.mean(-1, keepdim=True))),
        lambda: test_ess_mcse_and_rhat_agree_with_arviz_to_1e_6(
            torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            + torch.tensor([0.0, 0, 0, 2.0]))),
    "tau counts each lag once": (
        _patched(acf_module, "_sokal", lambda block, c: (1 + convergence.correlations(block.values)[:, 1:60].sum(-1))),
        lambda: test_ar1_autocorrelation_time_is_the_closed_form(0.9, 1)),
    "no window": (
        _patched(acf_module, "_sokal", lambda block, c: 2 * convergence.correlations(block.values).sum(-1) - 1),
        lambda: test_ar1_autocorrelation_time_is_the_closed_form(0.5, 1)),
    "one tail only": (
        _patched(convergence, "tail_ess", lambda block, prob: convergence.quantile_ess(block, prob)),
        lambda: [test_ess_mcse_and_rhat_agree_with_arviz_to_1e_6(sign * ar1(400, 4, 0.5, 21)) for sign in (1, -1)]),
    "quantile of another type": (
        _patched(convergence, "quantile", lambda ordered, p: ordered[:, int(p * ordered.shape[1])]),
        lambda: test_ess_mcse_and_rhat_agree_with_arviz_to_1e_6(ar1(57, 4, 0.5, 21))),
    "frozen chains count as draws": (
        _patched(convergence, "_capped", lambda value, block: value),
        test_half_stuck_chains_do_not_count_as_draws),
    "a constant is called independent": (
        _patched(convergence, "ess_metric", lambda *a: blocks_module.Metric(_constant_counts_as_iid, 400.0, 1.0, 1.0)),
        test_a_constant_chain_has_an_ess_of_0_and_the_warning_names_the_chains_and_a_way_out),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", list(MUTANTS))
def test_planted_bugs_are_found(name):
    plant, check = MUTANTS[name]
    check()
    with plant(), pytest.raises((AssertionError, pytest.fail.Exception, DiagnosticWarning)):
        check()
