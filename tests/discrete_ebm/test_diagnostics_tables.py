"""Jumps, swap rates, summaries as tables, and refusals of the diagnostics."""

import csv
import io
import math
import sys
from unittest import mock

import pytest
import torch

import discrete_ebm as de
from discrete_ebm.diagnostics import (
    DiagnosticWarning,
    autocorrelation,
    autocorrelation_time,
    ess,
    frozen,
    mcse,
    moves,
    rhat,
    squared_jump,
    summarize,
    swap_rates,
)
from discrete_ebm.errors import CapabilityError, SettingError, ShapeError, SpaceError
from discrete_ebm.samplers.base import ChainState
from tests.autoregressive import ar1

ISING = de.energies.Ising.lattice((3, 4), coupling=0.3)


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

MUTANTS = {
    "codes of categories squared": (
        lambda x, space: (x[1:] - x[:-1]).double().square().sum((0, 2)),
        test_squared_jump_counts_sites_or_squares_values),
    "jumps over the edge of a part forgotten": (
        lambda x, space: (x[1:-1] != x[:-2]).sum((0, 2)).double(),
        test_squared_jump_of_chains_is_their_mean_hamming_distance),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", list(MUTANTS))
def test_planted_bugs_are_found(name):
    wrong, check = MUTANTS[name]
    check()
    with mock.patch.object(moves, "_jump", wrong), pytest.raises((AssertionError, pytest.fail.Exception)):
        check()
