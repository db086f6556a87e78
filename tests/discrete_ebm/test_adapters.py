"""Foreign models have here the energies they have at home, term by term and state by state."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

import discrete_ebm as de
from discrete_ebm import adapters
from discrete_ebm.errors import CapabilityError, EBMError, SettingError, ShapeError, SpaceError

LINEAR = {"a": 0.7, "b": -1.3, ("c", 1): 0.0, 4: 2.1}
QUADRATIC = {("a", "b"): -0.9, ("b", ("c", 1)): 1.7, (4, "a"): 0.4}


def bqm(vartype: str, offset: float = 0.25) -> Any:
    """A model with dimod's attributes and nothing of dimod."""
    return SimpleNamespace(linear=LINEAR, quadratic=QUADRATIC, offset=offset, vartype=vartype)


def by_hand(state: dict[Any, int], offset: float = 0.25) -> float:
    """E = Σ h x + Σ J x x + offset, as dimod defines it."""
    return (offset + sum(h * state[v] for v, h in LINEAR.items())
            + sum(j * state[u] * state[v] for (u, v), j in QUADRATIC.items()))


@pytest.mark.parametrize(("vartype", "values"), [("SPIN", (-1, 1)), ("BINARY", (0, 1))])
def test_every_state_has_dimods_energy_with_its_sign_and_offset(vartype: str, values: tuple[int, int]) -> None:
    model = adapters.from_dimod(bqm(vartype), dtype=torch.float64)
    states = [dict(zip(LINEAR, row, strict=True)) for row in itertools.product(values, repeat=4)]
    found = model.energies(model.states(states))
    assert np.abs(found.numpy() - [by_hand(state) for state in states]).max() < 1e-12
    assert model.labels == tuple(LINEAR)
    assert model.energy.space == (de.Spin(4) if vartype == "SPIN" else de.Binary(4))
    assert model.dicts(model.states(states)) == states


def test_the_default_dtype_is_the_librarys() -> None:
    model = adapters.from_dimod(bqm("SPIN"))
    assert model.energy.field.dtype == torch.get_default_dtype()
    assert model.energy.coupling.requires_grad


def test_the_law_is_the_boltzmann_law_of_the_foreign_energy() -> None:
    model = adapters.from_dimod(bqm("BINARY"), dtype=torch.float64)
    states = [dict(zip(LINEAR, row, strict=True)) for row in itertools.product((0, 1), repeat=4)]
    weights = np.exp([-by_hand(state) for state in states])
    law = de.evaluate.exact(model.energy).probabilities.flatten().numpy()
    assert np.abs(law - weights / weights.sum()).max() < 1e-12


def test_the_lowest_state_is_found_and_named() -> None:
    model = adapters.from_dimod(bqm("SPIN"))
    chains = de.sample(model.energy, "auto", n_chains=8, n_steps=60, beta=5.0, seed=0)
    best = model.dicts(chains.x.flatten(0, 1)[[int(chains.energy.argmin())]])[0]
    states = [dict(zip(LINEAR, row, strict=True)) for row in itertools.product((-1, 1), repeat=4)]
    assert best == min(states, key=by_hand)


def test_without_edges_too() -> None:
    model = adapters.from_dimod(SimpleNamespace(linear={"x": 1.0}, quadratic={}, offset=0, vartype="BINARY"))
    assert model.energies(torch.tensor([[0], [1]])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("given", "error", "sentence"), [
    (SimpleNamespace(linear={}, quadratic={}, offset=0, vartype="SPIN"), SettingError, "at least one variable"),
    (SimpleNamespace(linear={"a": 1.0}, offset=0, vartype="SPIN"), CapabilityError, "`bqm` must have linear"),
    (SimpleNamespace(linear={"a": 1.0}, quadratic={}, offset=0, vartype="INTEGER"), CapabilityError, "SPIN or BINARY"),
    (3, CapabilityError, "got int"),
    (SimpleNamespace(linear={"a": float("nan")}, quadratic={}, offset=0, vartype="SPIN"), EBMError, "must be finite"),
])  # fmt: skip
def test_what_is_not_a_model_gets_a_sentence(given: Any, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        adapters.from_dimod(given)


def test_states_by_name_must_be_whole_and_legal() -> None:
    model = adapters.from_dimod(bqm("SPIN"))
    with pytest.raises(SpaceError, match="must give a value to each of the 4 variables"):
        model.states({"a": 1})
    with pytest.raises(SpaceError):
        model.states(dict.fromkeys(LINEAR, 0))


# -- with dimod itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_a_real_dimod_model_goes_there_and_back(vartype: str) -> None:
    dimod = pytest.importorskip("dimod")
    there = dimod.BinaryQuadraticModel(LINEAR, QUADRATIC, 0.25, vartype)
    model = adapters.from_dimod(there, dtype=torch.float64)
    x = model.energy.space.enumerate()
    assert np.abs(model.energies(x).numpy() - there.energies((x.numpy(), list(model.labels)))).max() < 1e-12
    back = adapters.to_dimod(model)
    assert back.vartype.name == vartype
    assert back.is_almost_equal(there, places=9)
    dense = de.energies.Ising(torch.tensor([[0.0, 0.5], [0.5, 0.0]]), torch.tensor([0.1, 0.2]))
    made = adapters.to_dimod(dense)
    assert made.energy({0: 1, 1: -1}) == pytest.approx(float(dense(torch.tensor([[1.0, -1.0]])).detach()))


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_draws_become_a_sample_set_with_dimods_energies(vartype: str) -> None:
    dimod = pytest.importorskip("dimod")
    there = dimod.BinaryQuadraticModel(LINEAR, QUADRATIC, 0.25, vartype)
    model = adapters.from_dimod(there)
    chains = de.sample(model.energy, "gibbs", n_chains=5, n_steps=10, burn_in=4, seed=0)
    draws = model.sampleset(chains, seed=0)
    assert len(draws) == 30
    assert draws.vartype.name == vartype
    assert draws.info == {"seed": 0}
    assert np.allclose(draws.record.energy, there.energies(draws), atol=1e-5)
    assert len(model.sampleset(chains.last)) == 5


def test_without_dimod_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dimod", None)
    model = adapters.from_dimod(bqm("SPIN"))
    with pytest.raises(CapabilityError, match=r"`sampleset` needs dimod. Install it with: pip install"):
        model.sampleset(model.energy.space.enumerate())


# -- networkx -------------------------------------------------------------------------------------------------------


def graph() -> nx.Graph:
    made = nx.Graph()
    made.add_node("p", field=0.3)
    made.add_node("q", field=-0.8)
    made.add_node("r")
    made.add_edge("q", "p", weight=1.1)
    made.add_edge("q", "r")
    return made


@pytest.mark.parametrize("binary", [False, True])
def test_an_ising_graph_has_the_energy_of_its_attributes(binary: bool) -> None:
    model = adapters.from_networkx(graph(), default_coupling=-0.5, binary=binary)
    for row in itertools.product((-1, 1), repeat=3):
        s = dict(zip("pqr", row, strict=True))
        expected = -(1.1 * s["q"] * s["p"] - 0.5 * s["q"] * s["r"]) - 0.3 * s["p"] + 0.8 * s["q"]
        state = {name: (value + 1) // 2 for name, value in s.items()} if binary else s
        assert float(model.energies(model.states(state))) == pytest.approx(expected, abs=1e-6)


def test_a_potts_graph_has_the_energy_of_its_attributes() -> None:
    made = graph()
    made.nodes["p"]["h"] = [0.1, 0.2, 0.3]
    model = adapters.from_networkx(made, "potts", k=3, coupling="strength", field="h", default_coupling=-2.0)
    for row in itertools.product(range(3), repeat=3):
        x = dict(zip("pqr", row, strict=True))
        expected = 2.0 * ((x["q"] == x["p"]) + (x["q"] == x["r"])) - (0.1, 0.2, 0.3)[x["p"]]
        assert float(model.energies(model.states(x))) == pytest.approx(expected, abs=1e-6)
    pytest.importorskip("dimod")
    with pytest.raises(CapabilityError, match="must be on Spin or Binary"):
        model.sampleset(model.energy.space.enumerate())


def test_a_three_colouring_of_the_petersen_graph_is_found() -> None:
    petersen = nx.petersen_graph()
    model = adapters.from_networkx(petersen, "potts", k=3, default_coupling=-3.0)
    chains = de.sample(model.energy, "auto", n_chains=16, n_steps=100, seed=0)
    colours = model.dicts(chains.x.flatten(0, 1)[[int(chains.energy.argmin())]])[0]
    assert all(colours[u] != colours[v] for u, v in petersen.edges)


@pytest.mark.parametrize(("make", "options", "error", "sentence"), [
    (nx.DiGraph, {}, CapabilityError, "undirected networkx.Graph; got DiGraph"),
    (nx.MultiGraph, {}, CapabilityError, "got MultiGraph"),
    (nx.Graph, {}, SettingError, "at least one node"),
    (lambda: nx.Graph([(0, 0)]), {}, SettingError, "must not have loops; got one at node 0"),
    (lambda: nx.path_graph(3), {"kind": "clock"}, SettingError, "'ising' or 'potts'; got 'clock'"),
    (lambda: nx.path_graph(3), {"kind": "potts"}, SettingError, "`k` must be given"),
    (lambda: nx.path_graph(3), {"k": 3}, SettingError, "`k` must be given"),
    (lambda: nx.Graph([(0, 1, {"weight": float("inf")})]), {}, EBMError, "must be finite"),
])  # fmt: skip
def test_graphs_that_do_not_fit_get_a_sentence(make: Any, options: Any, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        adapters.from_networkx(make(), **options)


def test_a_field_of_the_wrong_length_names_its_node() -> None:
    made = nx.path_graph(2)
    made.nodes[1]["field"] = [1.0, 2.0]
    with pytest.raises(ShapeError, match=r"field of node 1 must be a number or 3 numbers; got shape \(2,\)"):
        adapters.from_networkx(made, "potts", k=3)
