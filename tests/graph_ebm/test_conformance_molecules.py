"""The registered molecular sampler passes the suite of every other sampler, on a chemical space written out in full."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import discrete_ebm as de
import graph_ebm.moves  # registers the sampler, also where the package is not installed
from discrete_ebm import samplers
from discrete_ebm.errors import ConformanceError, NonFiniteEnergyError, SettingError
from discrete_ebm.testing import Target, check_sampler
from graph_ebm.constraints import ConstrainedEnergy
from graph_ebm.energies import LocalEnergy, MolecularEnergy, RelationalEnergy
from graph_ebm.moves import MolecularKernel
from graph_ebm.space import MolecularSpace
from graph_ebm.vocabulary import Vocabulary
from tests.graph_ebm.exact_moves import settings
from tests.graph_ebm.small_space import VALENCE, V, index_of, molecules

SPACE = MolecularSpace(Vocabulary((("C", 0), ("N", 0), ("O", 0)), tuple(VALENCE[1:])), V)


def energy(seed: int = 0) -> MolecularEnergy:
    """A shipped energy with arbitrary parameters, its local part a rough surrogate of the whole."""
    local = LocalEnergy(SPACE)
    network = RelationalEnergy(SPACE, hidden=16, layers=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in local.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
        for parameter in network.parameters():
            parameter.copy_(parameter + 0.2 * torch.randn(parameter.shape, generator=generator))
    whole = MolecularEnergy(SPACE, local=local, network=network)
    with torch.no_grad():
        assert 0.3 < float(whole.state_energy(molecules()[0]).std()) < 6, "the law should be neither flat nor a point"
    return whole


def target(law_of: MolecularEnergy | None = None, **changes: object) -> Target:
    """The 571 molecules of up to four atoms with exp(-E)/|Aut|; a clamp would tell atoms apart (another law)."""
    x, _, automorphisms = molecules()
    given = {
        "energy": energy() if law_of is None else law_of,
        "states": x,
        "log_measure": -torch.tensor(automorphisms).double().log(),
        "row_of": lambda states: torch.tensor(index_of(states)),
        "depth": "light",
        "clamp_law": False,
    }
    return Target("molecules of up to four atoms", **{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("delayed", [True, False], ids=["delayed", "one stage"])
def test_the_molecular_sampler_conforms(delayed: bool, seed: int) -> None:
    """False-fail budget 1e-7."""
    report = check_sampler("molecular", seed=seed, targets=[target()], settings=settings(), delayed=delayed)
    assert report.passed
    assert not report.skipped
    assert {"law at beta 0.5 after 8 steps", "reachability", "clamped sites stay", "resume to the bit"} <= {
        result.check for result in report.results
    }


def test_symmetry_numbers_are_part_of_the_law(seed: int) -> None:
    """Without 1/|Aut| the same sampler is caught: the suite can tell the two measures apart."""
    with pytest.raises(ConformanceError, match="law at beta"):
        check_sampler("molecular", seed=seed, targets=[target(log_measure=None, depth="law")], settings=settings())


def test_the_sampler_is_registered_once_and_says_what_it_needs() -> None:
    row = samplers.spec("molecular")
    assert row is graph_ebm.moves.build.molecular_sampler
    assert isinstance(samplers.create("molecular", settings=settings()), MolecularKernel)
    assert dataclasses.replace(row, name="x").spaces == {"Molecular"}
    with pytest.raises(SettingError, match="`settings` of the sampler 'molecular' must be a MoveSettings; got nothing"):
        samplers.create("molecular")


def test_sample_runs_molecular_chains_with_its_diagnostics_and_resumes() -> None:
    """Diagnostics agree with the enumerated law: the mean energy of all chains within 6 standard errors of it."""
    law, kernel = energy(), samplers.create("molecular", settings=settings())
    chains = de.sample(law, sampler=kernel, n_chains=64, n_steps=600, burn_in=100, thin=5, seed=3)
    assert chains.x.shape == (100, 64, V, V)
    assert 0 < chains.acceptance_rate < 1
    assert float(chains.rhat("energy")) < 1.1
    ess = float(chains.ess("energy"))
    assert 100 < ess <= 6400 * 1.5
    with torch.no_grad():
        values = law.state_energy(molecules()[0]).double()
        weights = target(law).law(1.0)
    mean = float((weights * values).sum())
    spread = float((weights * (values - mean) ** 2).sum()) ** 0.5
    assert abs(float(chains.energy.mean()) - mean) < 6 * spread / ess**0.5
    on = de.sample(law, sampler=kernel, x0=chains.state, n_steps=10, seed=4)
    assert on.x.shape[1:] == chains.last.shape


def test_a_hard_constraint_holds_in_sample_and_a_start_outside_is_refused() -> None:
    law = ConstrainedEnergy(energy(), lambda smiles: ["o" not in text.lower() for text in smiles])
    kernel = samplers.create("molecular", settings=settings())
    x, _, _ = molecules()
    has_oxygen = (x.diagonal(dim1=1, dim2=2) == 3).any(1)
    chains = de.sample(law, sampler=kernel, x0=x[~has_oxygen][:32], n_steps=120, seed=0)
    assert bool(chains.energy.isfinite().all())
    assert not bool((chains.x.diagonal(dim1=2, dim2=3) == 3).any())
    assert len(chains.x.flatten(0, 1).unique(dim=0)) > 20
    with pytest.raises(NonFiniteEnergyError, match="inf at the start in chains 0 of 1"):
        de.sample(law, sampler=kernel, x0=x[has_oxygen][:1], n_steps=5)


def test_another_sampler_on_molecules_is_told_which_one_fits() -> None:
    with pytest.raises(SettingError, match="For this space: molecular"):
        de.sample(energy(), sampler="gibbs", n_steps=5)
