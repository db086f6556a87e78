"""Promise 10: diagnostics do not flatter, and agree with ArviZ to 1e-6 relative on ordinary input."""

import csv
import importlib
import io
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
    moves,
    rhat,
    squared_jump,
    summarize,
    swap_rates,
)
from discrete_ebm.diagnostics import blocks as blocks_module
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError, SpaceError
from discrete_ebm.samplers.base import ChainState

acf_module = importlib.import_module("discrete_ebm.diagnostics.autocorrelation")  # hidden by its function


def arviz_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    arviz.Numba.disable_numba()  # its mcse of the sd does not run with numba and a recent NumPy
    return arviz


def ar1(n_draws, n_chains, phi, seed):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_draws, n_chains, generator=g, dtype=torch.float64)
    out = torch.empty_like(noise)
    out[0] = noise[0] / math.sqrt(1 - phi**2)
    for t in range(1, n_draws):
        out[t] = phi * out[t - 1] + noise[t]
    return out


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


def agree(own, other, rel=1e-6):
    assert float(own) == pytest.approx(float(np.squeeze(other)), rel=rel, abs=1e-300)


# -- agreement with ArviZ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", CASES)
def test_ess_mcse_and_rhat_agree_with_arviz_to_1e_6(draws):
    az, array = arviz_module(), for_arviz(draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(ess(draws), az.ess(array))
        agree(rhat(draws), az.rhat(array))
        agree(mcse(draws), az.mcse(array))
        for kind in ("tail", "mean", "sd", "median"):
            agree(ess(draws, kind), az.ess(array, method=kind))
        agree(mcse(draws, "sd"), az.mcse(array, method="sd"))
        agree(mcse(draws, "median"), az.mcse(array, method="median"))
        agree(ess(draws, "tail", 0.1), az.ess(array, method="tail", prob=(0.1, 0.9)))
        for prob in (0.05, 0.3):
            agree(ess(draws, "quantile", prob), az.ess(array, method="quantile", prob=prob))
            agree(mcse(draws, "quantile", prob), az.mcse(array, method="quantile", prob=prob))


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
            agree(value, theirs[name][{"rhat": "r_hat"}.get(column, column)], rel=1e-6)


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
    agree(autocorrelation_time(draws), 8000 / float(ess(draws, "mean")), rel=1e-12)
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


# -- jumps, swaps, tables ---------------------------------------------------------------------------------------------


def test_squared_jump_counts_sites_or_squares_values():
    x = torch.tensor([[[0, 0, 0]], [[2, 1, 0]], [[2, 1, 0]], [[0, 1, 2]]])  # (4, 1, 3): Hamming 2, 0, 2
    assert squared_jump(x, de.Categorical(3, 3)).tolist() == [pytest.approx(4 / 3)]
    assert squared_jump(x.double() / 2, de.Real(3)).tolist() == [pytest.approx((5 + 0 + 8) / 4 / 3)]
    values = [0.0, 1.0, 10.0]
    assert squared_jump(x, de.Ordinal(3, values)).tolist() == [pytest.approx((101 + 0 + 200) / 3)]
    spins = 2 * (x > 0).to(torch.int8) - 1
    assert squared_jump(spins, de.Spin(3)).tolist() == [pytest.approx((2 + 0 + 2) / 3)]
    space = de.Product({"kind": de.Categorical(1, 3), "inner": de.Product({"level": de.Ordinal(2, values)})})
    assert squared_jump(x, space).tolist() == [pytest.approx((1 + 1 + 0 + 1 + 100) / 3)]
    assert squared_jump(x[:1], de.Categorical(3, 3)).isnan().all()


def test_squared_jump_of_chains_is_their_mean_hamming_distance():
    chains = de.sample(ISING, "gibbs", n_chains=3, n_steps=41, burn_in=0)
    expected = (chains.x[1:] != chains.x[:-1]).flatten(2).sum(2).double().mean(0)
    assert torch.allclose(chains.squared_jump(), expected)
    assert chains.frozen().shape == (3, 3, 4)
    assert chains.frozen("energy").tolist() == [False] * 3


def test_swap_rates_and_round_trips_are_read_from_the_state():
    chains = de.sample(ISING, "gibbs", n_chains=2, n_steps=10, burn_in=0)
    with pytest.raises(CapabilityError, match="tempering sampler to have swap rates"):
        chains.swap_rates()
    with pytest.raises(CapabilityError, match="tempering sampler to have round trips"):
        chains.round_trips()
    cache = {"swap_accepted": torch.tensor([[3, 0], [1, 2]]), "swap_tried": torch.tensor([[4, 0], [4, 4]]),
             "round_trips": torch.tensor([5, 0])}
    rates = swap_rates(cache)
    assert rates[1].tolist() == [0.25, 0.5]
    assert float(rates[0, 0]) == 0.75
    assert math.isnan(float(rates[0, 1]))
    object.__setattr__(chains, "state", ChainState(chains.state.x, chains.state.energy, cache, chains.state.step))
    assert chains.round_trips().tolist() == [5, 0]
    assert torch.equal(chains.swap_rates(), rates) or bool(chains.swap_rates()[0, 1].isnan())


def test_the_summary_is_a_table_a_dict_and_a_csv(tmp_path):
    chains = de.sample(ISING, "gibbs", n_chains=4, n_steps=120, burn_in=20)
    table = chains.summary()
    lines = str(table).splitlines()
    assert lines[0] == "4 chains x 100 draws"
    assert lines[1].split() == ["mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat"]
    assert lines[2].startswith("energy")
    assert len(lines) == 2 + 13
    rows = table.to_dict()
    assert rows["x[2, 3]"]["ess_bulk"] == float(chains.ess()[2, 3])
    assert rows["energy"]["rhat"] == float(chains.rhat("energy"))
    text = table.to_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert float(read[3]["mcse_mean"]) == rows[read[3]["quantity"]]["mcse_mean"]


def test_a_summary_of_chosen_quantities_and_of_very_many():
    chains = de.sample(de.energies.Ising.lattice((6, 6), 0.2), "gibbs", n_chains=4, n_steps=60, burn_in=10)
    named = chains.summary({"magnetisation": lambda x: x.flatten(1).float().mean(1), "E": "energy"})
    assert list(named.to_dict()) == ["magnetisation", "E"]
    assert list(chains.summary(lambda x: x.flatten(1)[:, :2].float()).to_dict()) == ["value[0]", "value[1]"]
    assert len(chains.summary("x")) == 36
    table = chains.summary()
    lines = str(table).splitlines()
    assert len(lines) == 2 + 24
    assert "24 of 37 quantities" in lines[0]
    assert lines[2].startswith("energy")
    shown = [float(line.split()[-3]) for line in lines[3:]]
    assert shown == sorted(shown)


def test_a_summary_of_frozen_rows_says_so():
    x = torch.stack([torch.ones(40, 2, dtype=torch.float64), ar1(40, 2, 0.1, 0)], -1)
    with pytest.warns(DiagnosticWarning, match="`ess` is 0 for 1 of 2") as told:
        rows = summarize({"x": x}).to_dict()
    assert len(told) == 1
    assert rows["x[0]"]["mean"] == 1
    assert (rows["x[0]"]["sd"], rows["x[0]"]["ess_bulk"], rows["x[0]"]["ess_tail"]) == (0, 0, 0)
    assert rows["x[0]"]["mcse_mean"] == math.inf


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda d: ess(torch.zeros(10)), ShapeError, "draws, chains"),
    (lambda d: ess([[1.0, 2.0]]), ShapeError, "got list"),
    (lambda d: ess(torch.zeros(9, 2, dtype=torch.complex64)), SpaceError, "real numbers"),
    (lambda d: rhat(torch.zeros(10)), ShapeError, "draws, chains"),
    (lambda d: frozen(torch.zeros(10)), ShapeError, "draws, chains"),
    (lambda d: ess(d, "bulky"), SettingError, "one of bulk, tail"),
    (lambda d: mcse(d, "bulk"), SettingError, "one of mean, sd"),
    (lambda d: ess(d, "quantile"), SettingError, "`prob` must be given"),
    (lambda d: ess(d, "quantile", 1.0), SettingError, "between 0 and 1; got 1.0"),
    (lambda d: ess(d, "tail", math.nan), SettingError, "between 0 and 1; got nan"),
    (lambda d: ess(d, "bulk", 0.3), SettingError, "left out for kind='bulk'"),
    (lambda d: mcse(d, "quantile"), SettingError, "`prob` must be given"),
    (lambda d: autocorrelation(d, 20), SettingError, "from 0 to S - 1 = 19; got 20"),
    (lambda d: autocorrelation(d, -1), SettingError, "got -1"),
    (lambda d: autocorrelation(d, 2.0), SettingError, "whole number"),
    (lambda d: autocorrelation(torch.zeros(1, 1, 1).expand(2000, 64, 10_000), 999), SettingError, "Lower max_lag"),
    (lambda d: autocorrelation_time(d, "parzen"), SettingError, "one of geyer, sokal"),
    (lambda d: autocorrelation_time(d, "sokal", 0), SettingError, "above 0"),
    (lambda d: squared_jump(d, de.Real(3)), ShapeError, "chains.x"),
    (lambda d: summarize({}), SettingError, "at least one name"),
    (lambda d: summarize({"a": d, "b": d[1:]}), ShapeError, "share S and C"),
])  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call(ar1(20, 2, 0.1, 0))


def test_quantiles_without_scipy_name_it():
    with mock.patch.dict(sys.modules, {"scipy": None, "scipy.stats": None}), \
            pytest.raises(CapabilityError, match="pip install scipy"):
        mcse(ar1(20, 2, 0.1, 0), "median")


def test_a_function_that_sees_the_states_in_parts_gives_the_same(monkeypatch):
    chains = de.sample(ISING, "gibbs", n_chains=3, n_steps=50, burn_in=10)
    whole = chains.ess(lambda x: x.flatten(1).float().mean(1))
    monkeypatch.setattr("discrete_ebm.diagnostics.chain_methods._PART", 100)
    assert torch.equal(whole, chains.ess(lambda x: x.flatten(1).float().mean(1)))
    assert chains.ess(chains.space.encode).shape == (3, 4)
    with pytest.raises(ShapeError, match="one row per state"):
        chains.ess(lambda x: x.float().mean())


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
    "codes of categories squared": (
        _patched(moves, "_jump", lambda x, space: (x[1:] - x[:-1]).double().square().sum((0, 2))),
        test_squared_jump_counts_sites_or_squares_values),
    "jumps over the edge of a part forgotten": (
        _patched(moves, "_jump", lambda x, space: (x[1:-1] != x[:-2]).sum((0, 2)).double()),
        test_squared_jump_of_chains_is_their_mean_hamming_distance),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MUTANTS))
def test_planted_bugs_are_found(name):
    plant, check = MUTANTS[name]
    check()
    with plant(), pytest.raises((AssertionError, pytest.fail.Exception, DiagnosticWarning)):
        check()
