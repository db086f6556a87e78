"""Our checks can fail: every planted bug is found, by the check that should find it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from discrete_ebm import samplers
from discrete_ebm.errors import ConformanceError
from discrete_ebm.samplers import fast
from discrete_ebm.samplers.single_site import SingleSite
from discrete_ebm.testing import Target, check_sampler, default_targets
from tests import cases, reference
from tests.mutants import MUTANTS, Mutant


def _targets(mutant: Mutant) -> list[Target]:
    """The targets of one space; only those where the bug can show, to stay quick."""
    return [target for target in default_targets(mutant.space, 0) if mutant.target in target.name]


def _proposal_gap() -> float:
    """Largest relative error of gwg's proposal probabilities, against the NumPy reference."""
    case = cases.net("binary")
    states = case.x(np.arange(len(case.table)))
    kernel = samplers.create("gwg", exact_deltas=False)
    deltas = kernel.init(case.energy, states, generator=torch.Generator()).cache["deltas"]
    beta = torch.ones(len(states), dtype=torch.float64)
    q = SingleSite(case.space).scores(states, deltas, beta, "sqrt").softmax(-1).numpy()
    wanted = reference.informed_proposal(case.taylor, case.radices, 1.0, "sqrt")
    index = reference.states(case.radices)
    gaps = []
    for s, row in enumerate(index):
        for i in range(len(row)):
            other = row.copy()
            other[i] = 1 - other[i]
            t = int("".join(map(str, other)), 2)
            gaps.append(abs(q[s, i] / wanted[s, t] - 1))
    return max(gaps)


def test_the_unmutated_proposal_law_is_exact() -> None:
    assert _proposal_gap() <= 1e-12


# Three stay in the quick tier, so that each run proves that the checks can fail; `pytest -m mutants` runs the others.
QUICK = ("Hastings term dropped", "gradient sign flipped", "beta ignored in the acceptance")


@pytest.mark.parametrize("mutant", [
    pytest.param(mutant, id=mutant.name.replace(" ", "-"), marks=() if mutant.name in QUICK else pytest.mark.mutants)
    for mutant in MUTANTS])
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    settings = dict(mutant.settings)
    with mutant.plant():
        if mutant.killer == "proposal law":
            assert _proposal_gap() > 1e-3
            return
        with pytest.raises(Exception) as caught, fast.set_fused(False):  # compiled forms: test_fast_*.py
            check_sampler(mutant.sampler, targets=_targets(mutant), **settings)
    if mutant.killer == "legal":
        assert "must hold only" in str(caught.value) or "out of" in str(caught.value)
        return
    assert isinstance(caught.value, ConformanceError), repr(caught.value)
    failed = [line for line in str(caught.value).splitlines() if line.strip().startswith("failed:")]
    assert any(mutant.killer in line for line in failed), failed


@pytest.mark.mutants
@pytest.mark.parametrize("row", sorted({(m.sampler, m.space) for m in MUTANTS}))
def test_the_same_checks_pass_without_the_bug(row: tuple[str, str]) -> None:
    """One of each pair; the whole registry is in test_conformance.py."""
    mutant = next(m for m in MUTANTS if (m.sampler, m.space) == row and m.killer != "no period")
    with fast.set_fused(False):
        assert check_sampler(row[0], targets=_targets(mutant)).passed


def test_there_are_at_least_twelve_and_three_of_them_in_each_run() -> None:
    assert len(MUTANTS) >= 12
    assert {mutant.name for mutant in MUTANTS} >= set(QUICK)
