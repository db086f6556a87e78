"""A broken energy is loud while molecules are sampled: a rejected NaN must not look like a frozen chain."""

import pytest
import torch

import graph_ebm as ge
from discrete_ebm.errors import NonFiniteEnergyError
from graph_ebm.advance import advance_chains
from graph_ebm.energies import LocalEnergy
from graph_ebm.moves import build_kernel, mine_moves


class Broken(LocalEnergy):
    """Finite on the starting states, ``value`` on every other molecule of nine atoms."""

    value = float("nan")

    def state_energy(self, x):
        energy = super().state_energy(x)
        changed = (x != self.start).flatten(1).any(1) if len(x) == len(self.start) else torch.ones(len(x), dtype=bool)
        return torch.where(changed, torch.full_like(energy, self.value), energy)

    def surrogate(self, x):
        return super().state_energy(x)


@pytest.mark.parametrize(("value", "loud"), [(float("nan"), True), (float("-inf"), True), (float("inf"), False)])
def test_a_proposal_of_broken_energy_raises_and_a_forbidden_one_does_not(value, loud, seed):
    molecules = ge.datasets.load("qm9-sample", limit=80, max_atoms=9)
    energy = Broken(molecules.space)
    energy.value, energy.start = value, molecules.x
    kernel = build_kernel(mine_moves(molecules.x, molecules.space.vocabulary.valence_table()))
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(energy, molecules.x, generator=generator)
    if loud:
        with pytest.raises(NonFiniteEnergyError, match="NaN or -inf"):
            advance_chains(kernel, energy, state, 30, generator=generator)
    else:
        after = advance_chains(kernel, energy, state, 30, generator=generator).state
        assert torch.equal(after.x, molecules.x)
