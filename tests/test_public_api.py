"""The public API as other people's scripts use it: every line of the contract, taken literally, with its shapes."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import discrete_ebm as de

# -- spaces and energies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "shape", "dtype"), [
    (lambda: de.Binary(100), (100,), torch.int8),
    (lambda: de.Spin((4, 5)), (4, 5), torch.int8),
    (lambda: de.Categorical((3, 2), 7), (3, 2), torch.int8),
    (lambda: de.Categorical(3, [2, 3, 4]), (3,), torch.int8),
    (lambda: de.Ordinal(6, [-1.0, 0.0, 0.5]), (6,), torch.int8),
    (lambda: de.Real(9), (9,), torch.float32),
    (lambda: de.Product({"a": de.Binary(2), "b": de.Categorical(1, 3)}), (3,), torch.int64),
])  # fmt: skip
def test_spaces_are_made_as_in_the_contract(space, shape, dtype):
    made = space()
    assert isinstance(made, de.Space)
    assert tuple(made.shape) == shape
    x = made.random(5, torch.Generator().manual_seed(0))
    assert (x.shape, x.dtype) == ((5, *shape), dtype)
    made.validate(x)


def test_a_lattice_a_callable_and_a_log_probability_are_energies():
    lattice = de.energies.Ising.lattice((32, 32), coupling=0.44, periodic=True)
    x = torch.ones(1, 32, 32, dtype=torch.int8)
    assert lattice(lattice.space.encode(x)).item() == pytest.approx(-0.44 * 2 * 32 * 32)  # each edge once
    space = de.Binary(100)
    one = de.from_callable(lambda encoding: encoding.sum(-1), space)
    two = de.from_log_prob(lambda encoding: encoding.sum(-1), space)
    x = space.random(4, torch.Generator().manual_seed(0))
    assert torch.equal(one(space.encode(x)), -two(space.encode(x)))
    assert one.space is space


# -- sampling -----------------------------------------------------------------------------------------------------


def test_sample_takes_the_arguments_of_the_contract():
    given = inspect.signature(de.sample).parameters
    assert list(given)[:12] == ["energy", "sampler", "n_chains", "n_steps", "burn_in", "thin", "beta", "seed", "x0",
                                "clamp", "device", "progress"]
    assert (given["sampler"].default, given["thin"].default, given["beta"].default) == ("gwg", 1, 1.0)
    assert not given["progress"].default


@pytest.mark.filterwarnings("ignore:.*never changed:discrete_ebm.diagnostics.DiagnosticWarning")  # so few draws
@pytest.mark.parametrize(("n_steps", "burn_in", "thin"), [(20, 5, 1), (20, 5, 4), (21, 0, 5), (10, 9, 1)])
def test_chains_hold_what_the_contract_lists(n_steps, burn_in, thin):
    energy = de.energies.Ising.lattice((3, 4), coupling=0.44, periodic=True)
    chains = de.sample(energy, sampler="gwg", n_chains=6, n_steps=n_steps, burn_in=burn_in, thin=thin, beta=1.0, seed=0,
                       x0=None, clamp=None, device=None, progress=False)
    s = (n_steps - burn_in) // thin
    assert chains.x.shape == (s, 6, 3, 4)
    assert chains.x.dtype == torch.int8
    assert chains.energy.shape == (s, 6)
    assert 0 <= chains.acceptance_rate <= 1
    assert chains.last.shape == (6, 3, 4)
    if s >= 4:
        assert chains.ess().shape == chains.rhat().shape == (3, 4)
    again = de.sample(energy, sampler="gwg", x0=chains.last, n_steps=2, burn_in=0, seed=1)
    assert again.x.shape == (2, 6, 3, 4)


def test_a_seed_may_be_a_generator_and_a_clamp_keeps_sites():
    energy = de.energies.Ising.lattice((3, 4), coupling=0.44)
    clamp = torch.zeros(3, 4, dtype=torch.bool)
    clamp[0] = True
    x0 = energy.space.random(5, torch.Generator().manual_seed(1))
    options = {"sampler": "gibbs", "n_steps": 8, "x0": x0, "clamp": clamp}
    one = de.sample(energy, seed=torch.Generator().manual_seed(7), **options)
    two = de.sample(energy, seed=7, **options)
    assert torch.equal(one.x, two.x)
    assert bool((one.x[:, :, 0] == x0[:, 0]).all())


def test_chains_become_an_arviz_object():
    arviz = pytest.importorskip("arviz")
    chains = de.sample(de.energies.Ising.lattice((2, 2), 0.3), n_chains=4, n_steps=30, seed=0)
    found = chains.to_arviz()
    assert isinstance(found, arviz.InferenceData)
    assert found.posterior["x"].shape == (4, 24, 2, 2)


def test_the_registry_of_samplers():
    assert {"gibbs", "block-gibbs", "gwg", "langevin"} <= set(de.samplers.names())
    assert de.samplers.spec("gwg").exact
    kernel = de.samplers.create("gwg", balancing="barker")
    assert de.sample(de.energies.Ising.lattice((2, 2), 0.3), sampler=kernel, n_chains=2, n_steps=4).x.shape[1] == 2
    with pytest.raises(de.errors.RegistryError, match="already registered"):
        de.samplers.register(de.samplers.spec("gwg"))


# -- learning, evaluation, proof ----------------------------------------------------------------------------------


def test_objectives_and_fit():
    assert {"cd", "pcd"} <= set(de.objectives.names())
    data = de.datasets.bars_and_stripes(2)
    energy = de.energies.BernoulliRBM((2, 2), 3, seed=0)
    fitted = de.fit(energy, data, objective=de.objectives.PCD(sampler="gwg", n_steps=10), n_iterations=5,
                    batch_size=4, lr=1e-3, seed=0, output=None, progress=False)  # fmt: skip
    assert isinstance(fitted.energy, de.Energy)
    assert isinstance(fitted.ema, de.Energy)
    assert fitted.history
    assert fitted.chains.shape[1:] == (2, 2)


def test_exact_enumeration():
    exact = de.evaluate.exact(de.from_callable(lambda e: 0.0 * e.sum(-1), de.Binary(3)))
    assert float(exact.log_z) == pytest.approx(3 * math.log(2))
    assert exact.probabilities.shape == (8,)
    assert exact.sample(5).shape == (5, 3)


def test_samplers_can_be_checked_by_anybody():
    targets = [target for target in de.testing.default_targets("Binary", 0) if target.depth == "light"]
    assert de.testing.check_sampler("gwg", targets=targets).passed


# -- molecules ----------------------------------------------------------------------------------------------------

TINY = {"hidden": 16, "layers": 1, "n_chains": 32, "batch": 32}


@pytest.fixture(scope="module")
def model():
    import graph_ebm as ge

    return ge.train(ge.datasets.load("qm9-sample", 200, max_atoms=9), n_iterations=6, n_steps=4, seed=0,
                    progress=False, **TINY)  # fmt: skip


def test_molecules_go_in_and_come_out():
    import graph_ebm as ge

    molecules = ge.datasets.load("moses-sample")
    assert len(molecules) == 10_000
    graphs, rejected = ge.from_smiles(["CCO", "not a molecule", "c1ccccc1"])
    assert ge.to_smiles(graphs) == ["CCO", "c1ccccc1"]
    item = next(iter(rejected))
    assert (item.index, item.text, len(rejected)) == (1, "not a molecule", 1)
    assert item.reason
    assert len(graphs) + len(rejected) == 3  # nothing is dropped in silence


def test_a_model_is_trained_and_generates(model):
    import graph_ebm as ge

    assert isinstance(model.energy, de.Energy)
    generated = ge.generate(model, n=12, seed=0, n_steps=40, progress=False)
    assert len(generated.smiles) == 12
    table = generated.table()
    assert {"smiles", "heavy_atoms", "energy"} <= set(table)
    assert all(len(column) == 12 for column in table.values())
    assert "<svg" in generated.grid()
    _, rejected = ge.from_smiles(generated.smiles)
    assert len(rejected) == 0  # valid molecules, all of them


def test_a_molecular_energy_is_an_energy_of_the_core(model):
    chains = de.sample(model.energy, sampler=model.kernel, n_chains=8, n_steps=60, burn_in=20, seed=0)
    assert chains.x.shape == (40, 8, 9, 9)
    assert chains.ess("energy").dim() == 0
    assert model.space.validate(chains.last).shape == (8, 9, 9)


def test_optimize_gives_better_molecules_with_a_report(model):
    import graph_ebm as ge

    data = ge.datasets.load("qm9-sample", 600, max_atoms=9)
    result = ge.optimize("qed", data=data, base=model, minutes=0.02, n=16, n_steps=30, seed=0, progress=False, **TINY)
    assert {"smiles", "qed"} <= set(result.molecules[0])
    assert len(result.generated) == 16
    assert result.after["qed"].shape == (16,)
    assert set(result.figures) >= {"hit_rate", "base_rate", "lift", "unique", "novel"}
    assert result.caveats
    values = [row["qed"] for row in result.molecules]
    assert values == sorted(values, reverse=True)  # best first
